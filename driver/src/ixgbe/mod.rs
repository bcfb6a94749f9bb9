//! The 82599 (and later its relatives X540 and X550), written from the 82599 datasheet: section numbers are its own.
//!
//! - [`bringup`] resets and initialises, step by step, and brings the device to rest again.
//! - [`queues`] starts and stops one queue; [`rx`] and [`tx`] are what runs for every packet.
//! - [`eeprom`], [`semaphore`], [`link`], [`filters`], [`rss`], [`irq`], [`stats`], [`hints`] are the rest of the control
//!   plane, one idea each.

mod bringup;
mod eeprom;
mod filters;
pub(crate) mod hints;
mod irq;
#[cfg(all(test, feature = "models"))]
mod layout;
mod link;
mod marks;
mod queues;
mod rss;
mod rx;
mod semaphore;
mod stats;
mod tx;

use std::sync::Arc;
use std::time::Duration;

use millrace_nic_models::family::DeviceId;
use millrace_nic_models::ixgbe::regs;
use millrace_nic_models::regs::{Access, Reg};

use crate::bus::{BAR0, BusError, CONFIG_REGION, Device, Registers};
use crate::hint::HintLayout;
use crate::port::{
    DriverInfo, Family, LinkStatus, PortConfig, PortError, PortStats, QueueRings, RegisterValue, RssConfig,
};
use crate::queue::{RxQueue, TxQueue};

pub(crate) use rx::{RxIrq, RxParts, RxRing};
pub(crate) use tx::{TxParts, TxRing};

/// RSS spreads over 16 queues: a RETA entry has four bits (8.2.3.7.15).
pub(crate) const MAX_QUEUES: u16 = 16;
/// Entries of the indirection table.
pub(crate) const RETA_SIZE: usize = 128;

/// PCI command register (PCI 3.0, 6.2.2) and its bits.
const PCI_COMMAND: u64 = 4;
const PCI_COMMAND_MEMORY: u16 = 1 << 1;
const PCI_COMMAND_MASTER: u16 = 1 << 2;
const PCI_COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// The control plane of one 82599 function.
#[derive(Debug)]
pub(crate) struct Ixgbe {
    device: Arc<dyn Device>,
    regs: Registers,
    id: &'static DeviceId,
    /// 0 or 1: which of the two ports of the chip this is.
    lan: u32,
    mac: [u8; 6],
    firmware: String,
    hints: HintLayout,
    deadline: Duration,
    /// Queues that the device serves now, one bit each.
    running: u16,
    reta: [u8; RETA_SIZE],
    /// Unicast addresses in RAR 1 and up.
    addresses: Vec<Option<[u8; 6]>>,
    interrupts: bool,
    counters: stats::Counters,
}

impl Ixgbe {
    /// Looks at the device without touching it.
    pub(crate) fn new(device: Arc<dyn Device>, id: &'static DeviceId) -> Result<Ixgbe, PortError> {
        let regs = Registers::open(device.clone(), BAR0)?
            .with_names(|at| regs::lookup(at).map(|(reg, i)| (reg.name, i)));
        Ok(Ixgbe {
            device,
            regs,
            id,
            lan: 0,
            mac: [0; 6],
            firmware: String::new(),
            hints: hints::layout(&PortConfig::default()),
            deadline: Duration::from_secs(1),
            running: 0,
            reta: [0; RETA_SIZE],
            addresses: Vec::new(),
            interrupts: false,
            counters: stats::Counters::default(),
        })
    }

    fn name(&self) -> String {
        self.device.name().to_owned()
    }

    /// Says in which step a register access or wait failed.
    fn step<T>(&self, step: &'static str, outcome: Result<T, BusError>) -> Result<T, PortError> {
        outcome.map_err(|source| PortError::Step {
            device: self.name(),
            step,
            source,
        })
    }

    fn read(&self, reg: &Reg, i: u32) -> Result<u32, BusError> {
        self.regs.read32(reg.at(i))
    }

    fn write(&self, reg: &Reg, i: u32, value: u32) -> Result<(), BusError> {
        self.regs.write32(reg.at(i), value)
    }

    /// Clears, then sets, bits.
    fn modify(&self, reg: &Reg, i: u32, clear: u32, set: u32) -> Result<(), BusError> {
        self.regs.modify32(reg.at(i), clear | set, set)
    }

    /// Waits for bits, as long as the port's deadline says.
    fn wait(&self, reg: &Reg, i: u32, mask: u32, want: u32) -> Result<u32, BusError> {
        self.regs.poll(reg.at(i), mask, want, self.deadline)
    }

    /// A read that flushes posted writes, and on which a polling model acknowledges that it holds nothing old.
    fn flush(&self) -> Result<u32, BusError> {
        self.read(&regs::STATUS, 0)
    }

    fn pci_command(&self, clear: u16, set: u16) -> Result<(), BusError> {
        let mut bytes = [0; 2];
        self.device.read(CONFIG_REGION, PCI_COMMAND, &mut bytes)?;
        let value = u16::from_le_bytes(bytes) & !clear | set;
        self.device
            .write(CONFIG_REGION, PCI_COMMAND, &value.to_le_bytes())
    }
}

impl Family for Ixgbe {
    fn bring_up(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.deadline = config.deadline;
        self.hints = hints::layout(config);
        let outcome = self.initialise(config);
        if outcome.is_err() {
            // A device that is half set up must not do DMA; the first error says more than a second one would.
            let _ = self.rest();
        }
        outcome
    }

    fn quiesce(&mut self) -> Result<(), PortError> {
        self.rest()
    }

    fn start_queue(
        &mut self,
        id: u16,
        rings: QueueRings,
        config: &PortConfig,
    ) -> Result<(RxQueue, TxQueue), PortError> {
        self.start_pair(id, rings, config)
    }

    fn stop_queue(&mut self, id: u16) -> Result<(), PortError> {
        self.stop_pair(id)
    }

    fn start_traffic(&mut self) -> Result<(), PortError> {
        self.enable_receive()?;
        self.setup_link()?;
        if self.interrupts {
            self.ack_link()?;
        }
        Ok(())
    }

    fn info(&self) -> DriverInfo {
        DriverInfo {
            driver: "ixgbe",
            device_name: self.id.name,
            bus: self.name(),
            vendor: self.id.vendor,
            device: self.id.device,
            firmware: self.firmware.clone(),
            vectors: self.device.irq_count(),
            max_queues: MAX_QUEUES,
        }
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn hint_layout(&self) -> &HintLayout {
        &self.hints
    }

    fn link(&mut self) -> Result<LinkStatus, PortError> {
        self.read_link()
    }

    fn stats(&mut self) -> Result<PortStats, PortError> {
        self.collect()?;
        Ok(self.counters.port())
    }

    fn xstats(&mut self) -> Result<Vec<(&'static str, u64)>, PortError> {
        self.collect()?;
        Ok(self.counters.all())
    }

    fn registers(&mut self) -> Result<Vec<RegisterValue>, PortError> {
        let mut dump = Vec::new();
        for reg in regs::TABLE {
            // Reading SWSM takes the semaphore; the others show nothing, or reading them loses something.
            if matches!(reg.access, Access::Wo | Access::Rc | Access::Rw1c) || reg.offset == regs::SWSM.offset
            {
                continue;
            }
            for i in 0..reg.count {
                let name = if reg.count == 1 {
                    reg.name.to_owned()
                } else {
                    format!("{}[{i}]", reg.name)
                };
                dump.push(RegisterValue {
                    name,
                    offset: reg.at(i),
                    value: self.read(reg, i)?,
                });
            }
        }
        Ok(dump)
    }

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        self.write_promiscuous(on)
    }

    fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        self.write_all_multicast(on)
    }

    fn add_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        self.add_address(mac)
    }

    fn remove_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        self.remove_address(mac)
    }

    fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        self.write_vlan(vlan, on)
    }

    fn set_vlan_offload(&mut self, strip: bool, filter: bool) -> Result<(), PortError> {
        self.write_vlan_offload(strip, filter)
    }

    fn set_rss(&mut self, rss: &RssConfig, queues: u16) -> Result<(), PortError> {
        self.write_rss(rss, queues)
    }

    fn set_mtu(&mut self, mtu: u16) -> Result<(), PortError> {
        self.write_mtu(mtu)
    }

    fn setup_interrupts(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.write_interrupts(config)
    }

    fn ack_link_interrupt(&mut self) -> Result<(), PortError> {
        self.ack_link()
    }
}
