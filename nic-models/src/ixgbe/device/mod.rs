//! A behaving 82599: what the datasheet says a port does, down to descriptors and interrupts.
//!
//! [`Ixgbe82599`] is the PCI function: configuration space, BARs, MSI-X table. Register accesses go through `access`
//! to the register `file` and to the parts that behave (`eeprom`, `sfp`, `irq`, `fdir`); `core` runs the rounds of
//! work, `rx` and `tx` move frames, `rx_batch` those that need little and come together, `plain` and `filter` say what
//! they are and where they go, `stats` counts them. `mapped` serves register pages that the client has mapped.
//!
//! The model is single-threaded and nothing outlives a call that was not latched: see [`crate::device::Model`].

mod access;
mod clock;
mod core;
mod eeprom;
mod fdir;
mod fdir_hash;
mod file;
mod filter;
mod irq;
mod mapped;
mod plain;
mod queue;
mod rx;
mod rx_batch;
mod sfp;
mod stats;
mod tx;

pub use clock::{Clock, ManualClock};

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use self::core::Core;
use self::mapped::Mapped;
use super::regs::{BAR0_SIZE, MSIX_VECTORS, RX_QUEUES, lookup};
use crate::device::{
    AccessError, BarKind, ConfigEvent, Identity, Irq, Model, MsixTable, PciConfig, PciIds, REGION_CONFIG,
    RegionFlags, RegionInfo, WaitFds, Work, pci_config as pci,
};
use crate::dma::DmaSpace;
use crate::wire::Wire;

/// Frames of one queue in one round, and frames from the wire in one round.
const BUDGET: usize = 64;

/// I/O BAR: an address and a data register (9.3.6.1).
const BAR2_SIZE: u64 = 32;
const BAR4_SIZE: u64 = 16 * 1024;
/// Pending bits in BAR4.
const PBA_OFFSET: u32 = 0x2000;

/// What a model needs to come to life.
pub struct IxgbeConfig {
    /// MAC address the EEPROM holds.
    pub mac: [u8; 6],
    /// Queues of each direction that can be enabled, 1 to 128.
    pub queues: u16,
    /// Give out the pages of the queue registers for mapping.
    pub map_doorbells: bool,
    /// The network.
    pub wire: Box<dyn Wire>,
    /// Log every register access.
    pub trace: bool,
    /// Where interrupt moderation takes the time from.
    pub clock: Clock,
}

impl IxgbeConfig {
    /// A port on `wire` with the usual settings: 64 queues, trapped doorbells, the machine's clock.
    pub fn new(mac: [u8; 6], wire: Box<dyn Wire>) -> Self {
        IxgbeConfig {
            mac,
            queues: 64,
            map_doorbells: false,
            wire,
            trace: false,
            clock: Clock::Monotonic,
        }
    }
}

/// Why a model cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IxgbeError {
    /// Queue count out of range.
    #[error("{0} queues: an 82599 has 1 to 128")]
    Queues(u16),
    /// A multicast or zero address.
    #[error("MAC address {0:02x?} is not a unicast address; clear the lowest bit of the first byte")]
    Mac([u8; 6]),
    /// No memory to share.
    #[error("cannot make the shared register pages for --map-doorbells: {0}")]
    Shared(#[from] std::io::Error),
}

/// An 82599ES port as a PCI function.
pub struct Ixgbe82599 {
    config: PciConfig,
    msix: MsixTable,
    core: Core,
    wire: Box<dyn Wire>,
    trace: bool,
    /// IOADDR of the I/O BAR.
    io_address: u32,
}

impl std::fmt::Debug for Ixgbe82599 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ixgbe82599")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl Ixgbe82599 {
    /// Powers a port on.
    pub fn new(config: IxgbeConfig) -> Result<Self, IxgbeError> {
        if config.queues == 0 || u32::from(config.queues) > RX_QUEUES {
            return Err(IxgbeError::Queues(config.queues));
        }
        if config.mac[0] & 1 == 1 || config.mac == [0; 6] {
            return Err(IxgbeError::Mac(config.mac));
        }
        let queues = u32::from(config.queues);
        let mapped = if config.map_doorbells {
            Some(Mapped::new(queues)?)
        } else {
            None
        };
        Ok(Ixgbe82599 {
            config: pci_config(config.mac),
            msix: MsixTable::new(MSIX_VECTORS),
            core: Core::new(config.mac, queues, config.clock, mapped),
            wire: config.wire,
            trace: config.trace,
            io_address: 0,
        })
    }

    fn act_on(&mut self, event: ConfigEvent) {
        match event {
            ConfigEvent::BusMaster(on) => self.core.dma.set_enabled(on),
            ConfigEvent::MsixEnable(on) => self.core.irq.set_msix_enabled(on),
            ConfigEvent::MsixFunctionMask(on) => self.core.irq.set_msix_masked(on),
            ConfigEvent::Flr => self.function_reset(),
            // Coming back from D3hot resets the registers: PMCSR's No_Soft_Reset is 0 (9.3.7.1.4).
            ConfigEvent::PowerState(0) => self.core.reset(),
            ConfigEvent::PowerState(_) => {}
        }
    }

    fn function_reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.io_address = 0;
        self.core.dma.set_enabled(self.config.bus_master());
        self.core.irq.set_msix_enabled(false);
        self.core.irq.set_msix_masked(false);
        self.core.reset();
    }

    fn read_dword(&mut self, index: u32, offset: u32) -> u32 {
        match index {
            0 => {
                let value = self.core.read_bar0(offset);
                if self.trace {
                    trace("read", offset, value);
                }
                value
            }
            2 => match offset {
                0 => self.io_address,
                4 => self.core.read_bar0(self.io_address),
                _ => 0,
            },
            _ if offset >= PBA_OFFSET => {
                let at = offset - PBA_OFFSET;
                match at {
                    0 => self.core.irq.pending as u32,
                    4 => (self.core.irq.pending >> 32) as u32,
                    _ => 0,
                }
            }
            _ => self.msix.read(offset),
        }
    }

    fn write_dword(&mut self, index: u32, offset: u32, value: u32) {
        match index {
            0 => {
                if self.trace {
                    trace("write", offset, value);
                }
                self.core.write_bar0(offset, value);
            }
            2 => match offset {
                0 => self.io_address = value & 0x7_fffc,
                4 => self.core.write_bar0(self.io_address, value),
                _ => {}
            },
            _ if offset < PBA_OFFSET => self.msix.write(offset, value),
            _ => {}
        }
    }

    /// The size of a BAR, and the check that an access lies inside.
    fn check(&self, index: u32, offset: u64, len: usize) -> Result<(), AccessError> {
        let size = self.region(index).ok_or(AccessError::NoRegion(index))?.size;
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(AccessError::OutOfRange {
                index,
                offset,
                len,
                size,
            });
        }
        Ok(())
    }
}

/// One line a register access, by name.
fn trace(what: &'static str, offset: u32, value: u32) {
    match lookup(offset) {
        Some((reg, i)) if reg.count > 1 => {
            tracing::info!(target: "ixgbe::registers", "{what} {}[{i}] {offset:#07x} = {value:#010x}", reg.name);
        }
        Some((reg, _)) => {
            tracing::info!(target: "ixgbe::registers", "{what} {} {offset:#07x} = {value:#010x}", reg.name);
        }
        None => tracing::info!(target: "ixgbe::registers", "{what} ? {offset:#07x} = {value:#010x}"),
    }
}

/// Configuration space of an X520 port (9.3): capabilities where silicon has them.
fn pci_config(mac: [u8; 6]) -> PciConfig {
    let ids = PciIds {
        vendor: 0x8086,
        device: 0x10fb,
        subsystem_vendor: 0x8086,
        subsystem: 0x0003,
        revision: 1,
        class: 0x02_0000,
    };
    let [a, b, c, d, e, f] = mac;
    PciConfig::builder(ids)
        .bar(0, BarKind::Mem64Prefetch, BAR0_SIZE)
        .bar(2, BarKind::Io, BAR2_SIZE)
        .bar(4, BarKind::Mem64Prefetch, BAR4_SIZE)
        .interrupt_pin(1)
        .power_management(0x40)
        .read_only(0x44, &[0]) // No_Soft_Reset: off
        .msix(
            0x70,
            pci::MsixLayout {
                vectors: MSIX_VECTORS,
                table_bar: 4,
                table_offset: 0,
                pba_bar: 4,
                pba_offset: PBA_OFFSET,
            },
        )
        .pcie(
            0xa0,
            pci::PcieInfo {
                speed: 2,
                width: 8,
                max_payload: 2,
            },
        )
        .serial_number(0x140, u64::from_be_bytes([a, b, c, 0xff, 0xff, d, e, f]))
        .build()
}

impl Model for Ixgbe82599 {
    fn identity(&self) -> Identity {
        Identity {
            family: "ixgbe",
            name: "82599ES",
            vendor: 0x8086,
            device: 0x10fb,
        }
    }

    fn region(&self, index: u32) -> Option<RegionInfo> {
        let (size, flags) = match index {
            0 => {
                let mmap = self.core.mapped.as_ref().map(Mapped::areas).unwrap_or_default();
                let flags = if mmap.is_empty() {
                    RegionFlags::READ_WRITE
                } else {
                    RegionFlags::READ_WRITE_MMAP
                };
                return Some(RegionInfo {
                    size: BAR0_SIZE,
                    flags,
                    mmap,
                });
            }
            2 => (BAR2_SIZE, RegionFlags::READ_WRITE),
            4 => (BAR4_SIZE, RegionFlags::READ_WRITE),
            REGION_CONFIG => (pci::CONFIG_SIZE as u64, RegionFlags::READ_WRITE),
            _ => return None,
        };
        Some(RegionInfo {
            size,
            flags,
            mmap: Vec::new(),
        })
    }

    fn region_fd(&self, index: u32) -> Option<(BorrowedFd<'_>, u64)> {
        let mapped = self.core.mapped.as_ref().filter(|_| index == 0)?;
        Some((mapped.fd(), 0))
    }

    fn read(&mut self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), AccessError> {
        self.check(index, offset, buf.len())?;
        if index == REGION_CONFIG {
            self.config.read(offset, buf);
            return Ok(());
        }
        // Dword by dword; a shorter access takes its bytes from the dword around it.
        let mut at = offset as u32;
        let mut rest = buf;
        while !rest.is_empty() {
            let skip = (at & 3) as usize;
            let n = rest.len().min(4 - skip);
            let bytes = self.read_dword(index, at & !3).to_le_bytes();
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&bytes[skip..skip + n]);
            rest = later;
            at += n as u32;
        }
        Ok(())
    }

    fn write(&mut self, index: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.check(index, offset, data.len())?;
        if index == REGION_CONFIG {
            for event in self.config.write(offset, data) {
                self.act_on(event);
            }
            return Ok(());
        }
        if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
            return Err(AccessError::BadAccess {
                index,
                offset,
                len: data.len(),
            });
        }
        for (n, bytes) in data.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            self.write_dword(index, offset as u32 + 4 * n as u32, value);
        }
        Ok(())
    }

    fn msix_vectors(&self) -> u16 {
        MSIX_VECTORS
    }

    fn set_irq(&mut self, irq: Irq, fd: Option<OwnedFd>) {
        self.core.irq.set_line(irq, fd);
    }

    fn reset(&mut self) {
        self.function_reset();
    }

    fn dma(&mut self) -> &mut DmaSpace {
        &mut self.core.dma
    }

    fn step(&mut self) -> Work {
        let work = self.core.step(&mut *self.wire);
        // A source's next frame is there for the asking, or at a known time; nobody asks while nothing is received.
        if work == Work::Idle && self.wire.is_source() && self.core.receives() && self.wire.due().is_none() {
            Work::Busy
        } else {
            work
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let frame = if self.wire.is_source() && self.core.receives() {
            self.wire.due()
        } else {
            None
        };
        [self.core.next_timer(), frame].into_iter().flatten().min()
    }

    fn wait_fds(&self) -> WaitFds<'_> {
        self.wire.fds()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.core.counters();
        counters.extend(self.wire.counters());
        counters
    }
}
