//! What every device model is, seen from outside: PCI regions, interrupts, reset, DMA, and a `step`
//! that does one bounded round of work.
//!
//! A [`Model`] runs on a single thread. Whoever drives it (the vfio-user server, an in-process bus)
//! handles requests and steps the model alternately, so that by the time a request such as an unmap
//! is answered nothing of the old state is in use.

pub mod backoff;
pub mod cli;
pub mod exerciser;
pub mod irq;
pub mod pci_config;
pub mod privileges;
pub mod registry;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

pub use irq::IrqLines;
pub use pci_config::{BarKind, ConfigEvent, MsixTable, PciConfig, PciConfigBuilder, PciIds};
pub use registry::{ModelError, ModelSpec, open};

use crate::dma::DmaSpace;

/// Number of the region that is PCI configuration space (VFIO numbering).
pub const REGION_CONFIG: u32 = 7;
/// Number of the expansion ROM region (VFIO numbering).
pub const REGION_ROM: u32 = 6;
/// Regions a PCI device has in VFIO numbering: six BARs, ROM, configuration space, VGA.
pub const REGION_COUNT: u32 = 9;

/// What a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Family name as in device strings: `ixgbe`, `i40e`, `ice`.
    pub family: &'static str,
    /// Name of the part, for people: `82599ES`.
    pub name: &'static str,
    pub vendor: u16,
    pub device: u16,
}

/// How a region may be accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionFlags {
    pub read: bool,
    pub write: bool,
    /// Some of it can be mapped; which parts, [`RegionInfo::mmap`] says.
    pub mmap: bool,
}

impl RegionFlags {
    pub const READ_WRITE: RegionFlags = RegionFlags {
        read: true,
        write: true,
        mmap: false,
    };
    pub const READ_WRITE_MMAP: RegionFlags = RegionFlags {
        read: true,
        write: true,
        mmap: true,
    };
}

/// A part of a region that can be mapped, in bytes from the start of the region; page multiples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArea {
    pub offset: u64,
    pub size: u64,
}

/// Size and access of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    pub size: u64,
    pub flags: RegionFlags,
    pub mmap: Vec<MmapArea>,
}

/// An interrupt of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    Intx,
    Msix(u16),
    /// The error interrupt of VFIO (`VFIO_PCI_ERR_IRQ_INDEX`).
    Err,
    /// The device request interrupt of VFIO (`VFIO_PCI_REQ_IRQ_INDEX`).
    Req,
}

/// What a `step` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing to do until a register write, a readable wire or [`Model::next_timer`].
    Idle,
    /// Something was done; there may be more.
    Busy,
}

/// File descriptors that wake an idle model when readable.
pub type WaitFds<'a> = Vec<BorrowedFd<'a>>;

/// Why a region access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("region {0} does not exist on this device")]
    NoRegion(u32),
    #[error("region {index}: {len} bytes at {offset:#x} reach past its end at {size:#x}")]
    OutOfRange {
        index: u32,
        offset: u64,
        len: usize,
        size: u64,
    },
    #[error("region {index}: no {len}-byte access at {offset:#x}; use naturally aligned 4-byte accesses")]
    BadAccess { index: u32, offset: u64, len: usize },
}

/// A behaving device. Single-threaded: whoever owns it calls one method at a time.
///
/// A model keeps no translated host address from one call to the next; latched ring bases and lengths
/// (as IOVAs) are fine.
pub trait Model: Send {
    fn identity(&self) -> Identity;
    /// Size and access of a region (VFIO numbering: 0 to 5 BARs, 6 ROM, 7 configuration space); `None` if absent.
    fn region(&self, index: u32) -> Option<RegionInfo>;
    /// The memfd behind the mappable areas of a region, and the offset in it of the region's offset 0.
    fn region_fd(&self, index: u32) -> Option<(BorrowedFd<'_>, u64)>;
    /// Reads registers; side effects (read to clear) happen.
    fn read(&mut self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), AccessError>;
    /// Writes registers.
    fn write(&mut self, index: u32, offset: u64, data: &[u8]) -> Result<(), AccessError>;
    /// MSI-X vectors the device has.
    fn msix_vectors(&self) -> u16;
    /// Connects an interrupt to an eventfd, or disconnects it.
    fn set_irq(&mut self, irq: Irq, fd: Option<OwnedFd>);
    /// Function-level reset. Interrupt eventfds and DMA mappings stay; they belong to the client.
    fn reset(&mut self);
    /// The memory the device can reach; mapped and unmapped between steps.
    fn dma(&mut self) -> &mut DmaSpace;
    /// One bounded round of work on all queues, the wire and the timers.
    fn step(&mut self) -> Work;
    /// When `step` must be called again even if nothing else happens.
    fn next_timer(&self) -> Option<Instant>;
    /// What to poll while idle.
    fn wait_fds(&self) -> WaitFds<'_>;
    /// True when the client can ring doorbells without a message (mapped register pages), so that an
    /// idle model must look by itself every now and then.
    fn polls_doorbells(&self) -> bool {
        (0..REGION_ROM).any(|i| self.region(i).is_some_and(|r| !r.mmap.is_empty()))
    }
    /// Diagnostics of the model itself: faults, malformed descriptors, drops for want of descriptors.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
