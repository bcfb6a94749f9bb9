//! Reset, initialisation and rest (4.6.3 and what it refers to), in the order in which they happen.

use std::time::Duration;

use millrace_nic_models::ixgbe::regs::{self, ctrl, ctrl_ext, dmatxctl, eec, fctrl, hlreg0, maxfrs, rdrxctl};
use millrace_nic_models::ixgbe::regs::{rfctl, rttdcs, rxcsum, rxctrl, secrxctrl, status};

use crate::bus::BusError;
use crate::port::{PortConfig, PortError};

use super::{Ixgbe, PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY};

/// SECRXSTAT: the receive path is empty (8.2.3.12.6).
const SECRX_READY: u32 = 1;
/// The whole receive packet buffer, 512 KiB, for the one traffic class in use (8.2.3.8.9).
const RX_BUFFER: u32 = 512 << 10;
/// The whole transmit packet buffer, 160 KiB, and its threshold in KiB (8.2.3.9.13, 8.2.3.9.16).
const TX_BUFFER: u32 = 160 << 10;
const TX_THRESHOLD: u32 = 160;
/// Outstanding transmit reads without DCB: the most (8.2.3.9.1).
const TX_OUTSTANDING: u32 = 0xfff;
/// RDRXCTL.RSCFRSTSIZE must be 0 with receive side coalescing off (8.2.3.8.8).
const RSC_FIRST_SIZE: u32 = 0x1f << 17;

impl Ixgbe {
    /// From whatever state the device is in to one where queues can be started.
    ///
    /// 4.6.3 also names a wait for EEMNGCTL.CFG_DONE, set by the management firmware. Linux and DPDK do not wait for it
    /// on this device and neither do we: without management firmware it may never come.
    pub(super) fn initialise(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.step("enable register access", self.open_registers())?;
        self.step("mask interrupts", self.mask_interrupts())?;
        self.reset_device()?;
        self.running = 0;
        self.step("mask interrupts after reset", self.mask_interrupts())?;
        self.step(
            "EEPROM auto read",
            self.wait(&regs::EEC, 0, eec::AUTO_RD, eec::AUTO_RD),
        )?;
        let dma_done = self.wait(&regs::RDRXCTL, 0, rdrxctl::DMAIDONE, rdrxctl::DMAIDONE);
        self.step("DMA initialisation", dma_done)?;
        self.read_identity()?;
        let cleared = self.clear_tables();
        self.step("clear filter tables", cleared)?;
        self.step("clear statistics", self.clear_statistics())?;
        self.step("map queue statistics", self.map_statistics())?;
        self.step("receive settings", self.receive_settings())?;
        self.step("transmit settings", self.transmit_settings())?;
        self.write_mtu(config.mtu)?;
        self.write_promiscuous(config.promiscuous)?;
        self.write_all_multicast(config.all_multicast)?;
        self.write_vlan(0, true)?;
        self.write_vlan_offload(config.offloads.vlan_strip, config.offloads.vlan_filter)?;
        self.write_rss(&config.rss, config.queues)?;
        let loaded = self.modify(&regs::CTRL_EXT, 0, 0, ctrl_ext::DRV_LOAD | ctrl_ext::NS_DIS);
        self.step("driver loaded", loaded)?;
        self.step("bus mastering on", self.pci_command(0, PCI_COMMAND_MASTER))
    }

    /// Memory space on, legacy interrupts off; no DMA yet.
    fn open_registers(&self) -> Result<(), BusError> {
        self.pci_command(PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE)?;
        if self.flush()? == u32::MAX {
            let reason = "its registers read as all ones".to_owned();
            return Err(BusError::Gone {
                device: self.name(),
                reason,
            });
        }
        Ok(())
    }

    /// All causes and vectors off, pending causes gone (4.6.3.1).
    pub(super) fn mask_interrupts(&self) -> Result<(), BusError> {
        self.write(&regs::EIMC, 0, 0x7fff_ffff)?;
        self.write(&regs::EIMC_EX, 0, u32::MAX)?;
        self.write(&regs::EIMC_EX, 1, u32::MAX)?;
        self.read(&regs::EICR, 0)?;
        self.flush().map(drop)
    }

    /// Stops the device's requests, then resets link and device together (4.2.1.6.1, 5.2.4.3).
    ///
    /// A device whose requests do not end gets two resets in a row, as the datasheet asks; if it still does not stop
    /// after that, that is an error here, while Linux goes on with a warning.
    fn reset_device(&mut self) -> Result<(), PortError> {
        let stopped = self.master_disable();
        self.step("reset", self.reset_once())?;
        if stopped.is_err() {
            self.step("second reset", self.reset_once())?;
            self.step("stop bus mastering before reset", self.master_disable())?;
            self.step("reset after bus mastering stopped", self.reset_once())?;
        }
        Ok(())
    }

    fn reset_once(&self) -> Result<(), BusError> {
        self.modify(&regs::CTRL, 0, 0, ctrl::RST | ctrl::LRST)?;
        // The registers may not be touched for 1 ms (4.6.3.2), and loading the EEPROM takes up to 10 ms; Linux waits 50.
        std::thread::sleep(Duration::from_millis(10));
        self.wait(&regs::CTRL, 0, ctrl::RST | ctrl::LRST, 0).map(drop)
    }

    /// Asks the device to start no more requests and waits until those under way have ended (5.2.4.3).
    pub(super) fn master_disable(&self) -> Result<(), BusError> {
        self.modify(&regs::CTRL, 0, 0, ctrl::MASTER_DISABLE)?;
        self.wait(&regs::STATUS, 0, status::MASTER_ENABLE, 0).map(drop)
    }

    /// Tables that no reset clears (4.6.7): multicast, VLAN, addresses but the first, pools.
    fn clear_tables(&mut self) -> Result<(), BusError> {
        for table in [&regs::MTA, &regs::VFTA, &regs::UTA] {
            for i in 0..table.count {
                self.write(table, i, 0)?;
            }
        }
        for i in 1..regs::RAH.count {
            self.write(&regs::RAL, i, 0)?;
            self.write(&regs::RAH, i, 0)?;
        }
        for i in 1..regs::MPSAR.count {
            self.write(&regs::MPSAR, i, 0)?;
        }
        // Without pools the first address still selects pool 0.
        self.write(&regs::MPSAR, 0, 1)?;
        self.addresses = vec![None; regs::RAH.count as usize - 1];
        Ok(())
    }

    /// Receive initialisation (4.6.7), all but the queues and the switch that lets frames in.
    fn receive_settings(&self) -> Result<(), BusError> {
        self.modify(&regs::RXCTRL, 0, rxctrl::RXEN, 0)?;
        self.modify(&regs::FCTRL, 0, fctrl::SBP | fctrl::UPE | fctrl::MPE, fctrl::BAM)?;
        // FCS off in the MAC and in the DMA engine alike, or lengths are wrong (8.2.3.8.8, 8.2.3.22.8). RSCACKC and
        // FCOE_WRFIX must be set although their features are off.
        let dma = rdrxctl::CRCSTRIP | rdrxctl::RSCACKC | rdrxctl::FCOE_WRFIX;
        self.modify(&regs::RDRXCTL, 0, RSC_FIRST_SIZE, dma)?;
        let mac = hlreg0::RXCRCSTRP | hlreg0::TXCRCEN | hlreg0::TXPADEN | hlreg0::JUMBOEN;
        self.modify(&regs::HLREG0, 0, hlreg0::LPBK, mac)?;
        self.modify(
            &regs::RFCTL,
            0,
            0,
            rfctl::RSC_DIS | rfctl::NFSW_DIS | rfctl::NFSR_DIS,
        )?;
        // PCSD: the hash, not the fragment checksum, in the write-back. The device always verifies checksums (7.1.11);
        // the hint layout says whether anyone is told.
        self.modify(&regs::RXCSUM, 0, rxcsum::IPPCSE, rxcsum::PCSD)?;
        self.write(&regs::RXPBSIZE, 0, RX_BUFFER)?;
        for i in 1..regs::RXPBSIZE.count {
            self.write(&regs::RXPBSIZE, i, 0)?;
        }
        Ok(())
    }

    /// Transmit initialisation (4.6.8), all but the queues.
    fn transmit_settings(&self) -> Result<(), BusError> {
        // The arbiter must be off while the queue layout changes (8.2.3.9.15).
        self.modify(&regs::RTTDCS, 0, 0, rttdcs::ARBDIS)?;
        self.write(&regs::MTQC, 0, 0)?;
        self.write(&regs::TXPBSIZE, 0, TX_BUFFER)?;
        self.write(&regs::TXPBTHRESH, 0, TX_THRESHOLD)?;
        for i in 1..regs::TXPBSIZE.count {
            self.write(&regs::TXPBSIZE, i, 0)?;
            self.write(&regs::TXPBTHRESH, i, 0)?;
        }
        self.write(&regs::DTXMXSZRQ, 0, TX_OUTSTANDING)?;
        self.modify(&regs::RTTDCS, 0, rttdcs::ARBDIS, 0)?;
        // Before any transmit queue is enabled (4.6.8).
        self.modify(&regs::DMATXCTL, 0, 0, dmatxctl::TE)
    }

    /// Lets frames in, with the path held empty meanwhile (4.6.7, last steps).
    pub(super) fn enable_receive(&self) -> Result<(), PortError> {
        let held = self.modify(&regs::SECRXCTRL, 0, 0, secrxctrl::RX_DIS);
        self.step("hold the receive path", held)?;
        let empty = self.wait(&regs::SECRXSTAT, 0, SECRX_READY, SECRX_READY);
        let enabled = empty.and_then(|_| self.modify(&regs::RXCTRL, 0, 0, rxctrl::RXEN));
        let released = self.modify(&regs::SECRXCTRL, 0, secrxctrl::RX_DIS, 0);
        self.step("enable receive", enabled)?;
        self.step("release the receive path", released)
    }

    /// Longest frame (8.2.3.22.13): MTU, Ethernet header, FCS and two tags. The device allows a tagged frame 4 bytes
    /// more by itself; Linux too counts a tag in all the same.
    pub(super) fn write_mtu(&mut self, mtu: u16) -> Result<(), PortError> {
        if !(68..=9706).contains(&mtu) {
            let allowed = "68 to 9706";
            return Err(PortError::Config {
                what: "mtu",
                value: mtu.into(),
                family: "ixgbe",
                allowed,
            });
        }
        let frame = u32::from(mtu) + 14 + 4 + 8;
        self.step(
            "frame size",
            self.write(&regs::MAXFRS, 0, frame << maxfrs::MFS_SHIFT),
        )
    }

    /// Brings the device to rest: nothing is received, nothing sent, no DMA after it returns. Goes on after an error,
    /// because each further step makes the device quieter, and gives the first error.
    pub(super) fn rest(&mut self) -> Result<(), PortError> {
        let mut outcomes = vec![
            self.step("mask interrupts", self.mask_interrupts()),
            self.step("stop receiving", self.modify(&regs::RXCTRL, 0, rxctrl::RXEN, 0)),
        ];
        for id in 0..super::MAX_QUEUES {
            if self.running & 1 << id != 0 {
                outcomes.push(self.disable_rx(id));
                outcomes.push(self.disable_tx(id, false));
            }
        }
        self.running = 0;
        outcomes.push(self.step(
            "stop transmit DMA",
            self.modify(&regs::DMATXCTL, 0, dmatxctl::TE, 0),
        ));
        outcomes.push(self.step("stop bus mastering", self.master_disable()));
        outcomes.push(self.step(
            "driver unloaded",
            self.modify(&regs::CTRL_EXT, 0, ctrl_ext::DRV_LOAD, 0),
        ));
        outcomes.push(self.step("bus mastering off", self.pci_command(PCI_COMMAND_MASTER, 0)));
        outcomes.push(self.step("acknowledge the rest", self.flush().map(drop)));
        outcomes.into_iter().collect()
    }
}
