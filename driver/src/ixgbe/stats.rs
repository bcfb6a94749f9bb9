//! Statistics: the registers clear when they are read, so what they held is added up here (8.2.3.23).

use millrace_nic_models::ixgbe::regs;
use millrace_nic_models::regs::Reg;

use crate::bus::{BAR0, BusError};
use crate::port::{PortError, PortStats};

use super::Ixgbe;

/// How a counter is read.
enum Width {
    /// One register; an array is added up.
    Single,
    /// 36 bits: this register and the high one. The low half is read first; reading the high half clears both.
    Wide(&'static Reg),
}

/// Every counter we collect: name for `xstats`, register, width.
const TABLE: &[(&str, &Reg, Width)] = &[
    ("crcerrs", &regs::CRCERRS, Width::Single),
    ("illerrc", &regs::ILLERRC, Width::Single),
    ("errbc", &regs::ERRBC, Width::Single),
    ("mspdc", &regs::MSPDC, Width::Single),
    ("mlfc", &regs::MLFC, Width::Single),
    ("mrfc", &regs::MRFC, Width::Single),
    ("rlec", &regs::RLEC, Width::Single),
    ("lxontxc", &regs::LXONTXC, Width::Single),
    ("lxofftxc", &regs::LXOFFTXC, Width::Single),
    ("lxonrxcnt", &regs::LXONRXCNT, Width::Single),
    ("lxoffrxcnt", &regs::LXOFFRXCNT, Width::Single),
    ("rxmpc", &regs::RXMPC, Width::Single),
    ("prc64", &regs::PRC64, Width::Single),
    ("prc127", &regs::PRC127, Width::Single),
    ("prc255", &regs::PRC255, Width::Single),
    ("prc511", &regs::PRC511, Width::Single),
    ("prc1023", &regs::PRC1023, Width::Single),
    ("prc1522", &regs::PRC1522, Width::Single),
    ("gprc", &regs::GPRC, Width::Single),
    ("bprc", &regs::BPRC, Width::Single),
    ("mprc", &regs::MPRC, Width::Single),
    ("gptc", &regs::GPTC, Width::Single),
    ("gorc", &regs::GORCL, Width::Wide(&regs::GORCH)),
    ("gotc", &regs::GOTCL, Width::Wide(&regs::GOTCH)),
    ("rxnfgpc", &regs::RXNFGPC, Width::Single),
    ("rxdgpc", &regs::RXDGPC, Width::Single),
    ("txdgpc", &regs::TXDGPC, Width::Single),
    ("ruc", &regs::RUC, Width::Single),
    ("rfc", &regs::RFC, Width::Single),
    ("roc", &regs::ROC, Width::Single),
    ("rjc", &regs::RJC, Width::Single),
    ("mngprc", &regs::MNGPRC, Width::Single),
    ("mngpdc", &regs::MNGPDC, Width::Single),
    ("tor", &regs::TORL, Width::Wide(&regs::TORH)),
    ("tpr", &regs::TPR, Width::Single),
    ("tpt", &regs::TPT, Width::Single),
    ("ptc64", &regs::PTC64, Width::Single),
    ("ptc127", &regs::PTC127, Width::Single),
    ("ptc255", &regs::PTC255, Width::Single),
    ("ptc511", &regs::PTC511, Width::Single),
    ("ptc1023", &regs::PTC1023, Width::Single),
    ("ptc1522", &regs::PTC1522, Width::Single),
    ("mptc", &regs::MPTC, Width::Single),
    ("bptc", &regs::BPTC, Width::Single),
    ("xec", &regs::XEC, Width::Single),
    ("qprc", &regs::QPRC, Width::Single),
    ("qprdc", &regs::QPRDC, Width::Single),
    ("qbrc", &regs::QBRCL, Width::Wide(&regs::QBRCH)),
    ("qptc", &regs::QPTC, Width::Single),
    ("qbtc", &regs::QBTCL, Width::Wide(&regs::QBTCH)),
];

/// Sums since the port was opened.
#[derive(Debug, Clone)]
pub(super) struct Counters([u64; TABLE.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; TABLE.len()])
    }
}

impl Counters {
    fn get(&self, name: &str) -> u64 {
        TABLE
            .iter()
            .zip(&self.0)
            .find(|((n, _, _), _)| *n == name)
            .map_or(0, |(_, value)| *value)
    }

    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        TABLE
            .iter()
            .zip(&self.0)
            .map(|((name, _, _), value)| (*name, *value))
            .collect()
    }

    /// The port's counters. Received bytes leave out the FCS while it is stripped (DPDK found this; the datasheet counts
    /// it in); sent bytes count the FCS that the device appends (8.2.3.23.36), which is taken off again.
    pub(super) fn port(&self) -> PortStats {
        let sum = |names: &[&str]| names.iter().map(|n| self.get(n)).sum();
        PortStats {
            rx_packets: self.get("qprc"),
            rx_bytes: self.get("qbrc"),
            tx_packets: self.get("gptc"),
            tx_bytes: self.get("gotc").saturating_sub(4 * self.get("gptc")),
            rx_missed: self.get("rxmpc"),
            rx_no_descriptors: self.get("qprdc"),
            rx_crc_errors: self.get("crcerrs"),
            rx_length_errors: sum(&["rlec", "ruc", "rfc", "roc", "rjc", "mspdc"]),
            rx_checksum_errors: self.get("xec"),
            rx_broadcast: self.get("bprc"),
            rx_multicast: self.get("mprc"),
        }
    }
}

impl Ixgbe {
    /// Adds what the registers hold to the sums. A 32-bit counter sticks at its end, so once in a few minutes is enough.
    pub(super) fn collect(&mut self) -> Result<(), PortError> {
        for (at, (_, reg, width)) in TABLE.iter().enumerate() {
            for i in 0..reg.count {
                let value = self.step("read statistics", self.counter(reg, width, i))?;
                self.counters.0[at] += value;
            }
        }
        Ok(())
    }

    fn counter(&self, reg: &Reg, width: &Width, i: u32) -> Result<u64, BusError> {
        let low = u64::from(self.read_unmapped(reg, i)?);
        Ok(match width {
            Width::Single => low,
            Width::Wide(high) => low | u64::from(self.read_unmapped(high, i)? & 0xf) << 32,
        })
    }

    /// Reads through the device even where the page is mapped: on memory that a model shares with us nobody would see
    /// the read, and so the counter would not clear.
    fn read_unmapped(&self, reg: &Reg, i: u32) -> Result<u32, BusError> {
        let mut bytes = [0; 4];
        self.device.read(BAR0, u64::from(reg.at(i)), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// What a former owner counted is none of our business.
    pub(super) fn clear_statistics(&self) -> Result<(), BusError> {
        for (_, reg, width) in TABLE {
            for i in 0..reg.count {
                self.counter(reg, width, i)?;
            }
        }
        Ok(())
    }

    /// Queue `i` counts in the per-queue counters `i` (8.2.3.23.56, 8.2.3.23.58); no reset sets this up for us.
    pub(super) fn map_statistics(&self) -> Result<(), BusError> {
        for four in 0..u32::from(super::MAX_QUEUES) / 4 {
            let q = 4 * four;
            let map = q | (q + 1) << 8 | (q + 2) << 16 | (q + 3) << 24;
            self.write(&regs::RQSMR, four, map)?;
            self.write(&regs::TQSM, four, map)?;
        }
        Ok(())
    }
}
