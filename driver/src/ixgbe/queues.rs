//! Starting and stopping one queue pair (4.6.7.1, 4.6.8.1).

use std::time::{Duration, Instant};

use millrace_nic_models::ixgbe::regs::{self, rxdctl, srrctl, txdctl};

use crate::bus::BusError;
use crate::port::{PortConfig, PortError, QueueRings, rx_buffer_len};
use crate::queue::{RxFamily, RxQueue, TxFamily, TxQueue};
use crate::simd::CpuPath;

use super::{Ixgbe, RxIrq, RxParts, RxRing, TxParts, TxRing};

/// DCA_RXCTRL bit 12 must be cleared although direct cache access is off (4.6.7.1).
const DCA_RX_RESERVED: u32 = 1 << 12;
/// Descriptor prefetch: fetch when fewer than 36 are left and at least 8 are there, write back at once. A write-back
/// threshold must be 0 when not every descriptor asks for a report (7.2.3.4.1).
const TX_THRESHOLDS: u32 = 36 | 8 << txdctl::HTHRESH_SHIFT;
/// After a queue says that it is off, descriptors fetched before may still be written for so long (4.6.7.1.2).
const SETTLE: Duration = Duration::from_micros(100);
/// How long a stopping transmit queue may go on sending what it has.
const DRAIN: Duration = Duration::from_millis(10);

impl Ixgbe {
    /// Starts both halves. A failed step switches both off again.
    pub(super) fn start_pair(
        &mut self,
        id: u16,
        rings: QueueRings,
        config: &PortConfig,
    ) -> Result<(RxQueue, TxQueue), PortError> {
        let q = u32::from(id);
        let (rx_len, tx_len) = (rings.rx.size() * 16, rings.tx.size() * 16);
        let buffer_len = rx_buffer_len(rings.region.layout());
        let mut rx = RxRing::new(RxParts {
            id,
            ring: rings.rx,
            doorbell: self.regs.doorbell(regs::RDT.at(q))?,
            region: rings.region.clone(),
            iova: rings.region_iova,
            buffer_len,
            shared: rings.shared.clone(),
            irq: config.interrupts.then(|| RxIrq {
                registers: self.regs.clone(),
                vector: q,
            }),
            hints: self.hints.clone(),
            path: CpuPath::best(),
        });
        let tx = TxRing::new(TxParts {
            id,
            ring: rings.tx,
            doorbell: self.regs.doorbell(regs::TDT.at(q))?,
            region: rings.region,
            iova: rings.region_iova,
            shared: rings.shared.clone(),
            path: CpuPath::best(),
        });
        let outcome = self
            .step(
                "set up the receive queue",
                self.setup_rx(q, rings.rx_iova, rx_len, buffer_len, config),
            )
            .and_then(|()| {
                self.step(
                    "set up the transmit queue",
                    self.setup_tx(q, rings.tx_iova, tx_len),
                )
            })
            .and_then(|()| self.enable_rx(q))
            .and_then(|()| self.enable_tx(q))
            .and_then(|()| self.step("post receive buffers", rx.fill().map(drop)))
            .and_then(|()| {
                self.running |= 1 << id;
                self.write_reta()
            });
        if let Err(e) = outcome {
            // What fails here fails for the same reason; the first error says more.
            let _ = self.disable_rx(id);
            let _ = self.disable_tx(id, false);
            self.running &= !(1 << id);
            drop((rx, tx));
            rings.shared.release(id);
            return Err(e);
        }
        Ok((
            RxQueue {
                inner: RxFamily::Ixgbe(rx),
            },
            TxQueue {
                inner: TxFamily::Ixgbe(tx),
            },
        ))
    }

    fn setup_rx(
        &self,
        q: u32,
        iova: u64,
        len: u32,
        buffer_len: u16,
        config: &PortConfig,
    ) -> Result<(), BusError> {
        self.write(&regs::RDBAL, q, iova as u32)?;
        self.write(&regs::RDBAH, q, (iova >> 32) as u32)?;
        self.write(&regs::RDLEN, q, len)?;
        self.write(&regs::RDH, q, 0)?;
        self.write(&regs::RDT, q, 0)?;
        // DROP_EN: a queue without descriptors drops (and counts) its own frames instead of holding up the others.
        let keep = self.read(&regs::SRRCTL, q)? & !(srrctl::BSIZEPACKET | srrctl::DESCTYPE | srrctl::DROP_EN);
        let size = u32::from(buffer_len) / 1024;
        self.write(
            &regs::SRRCTL,
            q,
            keep | size | srrctl::DESCTYPE_ADV_ONE | srrctl::DROP_EN,
        )?;
        self.write(&regs::RSCCTL, q, 0)?;
        self.modify(&regs::DCA_RXCTRL, q, DCA_RX_RESERVED, 0)?;
        let strip = if config.offloads.vlan_strip {
            rxdctl::VME
        } else {
            0
        };
        self.modify(&regs::RXDCTL, q, rxdctl::VME | rxdctl::SWFLSH, strip)
    }

    fn setup_tx(&self, q: u32, iova: u64, len: u32) -> Result<(), BusError> {
        self.write(&regs::TDBAL, q, iova as u32)?;
        self.write(&regs::TDBAH, q, (iova >> 32) as u32)?;
        self.write(&regs::TDLEN, q, len)?;
        self.write(&regs::TDH, q, 0)?;
        self.write(&regs::TDT, q, 0)?;
        self.write(&regs::TDWBAL, q, 0)?;
        self.write(&regs::TDWBAH, q, 0)?;
        self.write(&regs::TXDCTL, q, TX_THRESHOLDS)
    }

    fn enable_rx(&self, q: u32) -> Result<(), PortError> {
        self.step(
            "enable the receive queue",
            self.modify(&regs::RXDCTL, q, 0, rxdctl::ENABLE),
        )?;
        let on = self.wait(&regs::RXDCTL, q, rxdctl::ENABLE, rxdctl::ENABLE);
        self.step("enable the receive queue", on.map(drop))
    }

    fn enable_tx(&self, q: u32) -> Result<(), PortError> {
        self.step(
            "enable the transmit queue",
            self.modify(&regs::TXDCTL, q, 0, txdctl::ENABLE),
        )?;
        let on = self.wait(&regs::TXDCTL, q, txdctl::ENABLE, txdctl::ENABLE);
        self.step("enable the transmit queue", on.map(drop))
    }

    /// Stops both halves while the other queues run. What RSS would steer to this queue goes to the others meanwhile.
    pub(super) fn stop_pair(&mut self, id: u16) -> Result<(), PortError> {
        self.running &= !(1 << id);
        let steered = self.write_reta();
        let rx = self.disable_rx(id);
        let tx = self.disable_tx(id, true);
        // Every queue stop ends with this read: on it a model that polls mapped pages acknowledges the stop.
        let seen = self.step("acknowledge the queue stop", self.flush().map(drop));
        steered.and(rx).and(tx).and(seen)
    }

    /// 4.6.7.1.2: clear ENABLE, wait until it reads as clear, wait a little longer.
    pub(super) fn disable_rx(&self, id: u16) -> Result<(), PortError> {
        let q = u32::from(id);
        self.step(
            "stop the receive queue",
            self.modify(&regs::RXDCTL, q, rxdctl::ENABLE, 0),
        )?;
        let off = self.wait(&regs::RXDCTL, q, rxdctl::ENABLE, 0);
        self.step("stop the receive queue", off)?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// 4.6.8.1: let it send what it has, then flush and disable. With the link down nothing is ever sent, so the wait
    /// for that is short and not an error.
    pub(super) fn disable_tx(&self, id: u16, drain: bool) -> Result<(), PortError> {
        let q = u32::from(id);
        let start = Instant::now();
        let mut round = 0;
        while drain && start.elapsed() < DRAIN {
            let head = self.step("drain the transmit queue", self.read(&regs::TDH, q))?;
            let tail = self.step("drain the transmit queue", self.read(&regs::TDT, q))?;
            if head == tail {
                break;
            }
            self.device.relax(round);
            round += 1;
        }
        let ask = self.modify(&regs::TXDCTL, q, txdctl::ENABLE, txdctl::SWFLSH);
        self.step("stop the transmit queue", ask)?;
        let off = self.wait(&regs::TXDCTL, q, txdctl::ENABLE, 0);
        self.step("stop the transmit queue", off.map(drop))
    }
}
