//! Device access. A device is configuration space, BARs, DMA mappings, interrupts and a reset, whoever implements it:
//!
//! - [`vfio`]: the kernel's VFIO, for a real NIC (`vfio:0000:17:00.0`);
//! - [`vfio_user`]: a socket to a model or any other vfio-user server (`vfio-user:/run/nic.sock`);
//! - `local` (feature `models`): a model in this process, stepped by hand from tests;
//! - `model` (feature `models`): a model in this process on a thread of its own (`model:ixgbe?wire=tap:mr0`).
//!
//! [`open`] turns a device string into an `Arc<dyn Device>`. Above it, [`Registers`] gives a BAR, [`Doorbell`] one hot
//! register, and [`Iommu`] hands out I/O virtual addresses and takes them back when a [`DmaMapping`] is dropped.
//! [`FaultInjector`] wraps a device and makes chosen registers lie, so that each wait's error can be tested.

#![allow(unsafe_code)]

mod error;
mod fault;
mod iommu;
#[cfg(feature = "models")]
pub mod local;
mod mapped;
#[cfg(feature = "models")]
pub mod model;
mod registers;
mod spec;
pub mod vfio;
pub mod vfio_user;

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

pub use error::BusError;
pub use fault::{FaultInjector, ReadFault};
pub use iommu::{DmaMapping, IOVA_LIMIT, Iommu};
pub use mapped::MappedArea;
pub use registers::{Doorbell, RegisterName, Registers};
pub use spec::{DeviceSpec, open};

use crate::mem::DmaMemory;

/// Region index of BAR `n` is `n`, as VFIO numbers a PCI device's regions (linux/vfio.h, `VFIO_PCI_*_REGION_INDEX`).
pub const BAR0: u32 = 0;
/// Region index of the expansion ROM.
pub const ROM_REGION: u32 = 6;
/// Region index of PCI configuration space.
pub const CONFIG_REGION: u32 = 7;

/// What a region is: its size, what may be done with it, and which parts can be mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Size in bytes; 0 when the device does not implement the region.
    pub size: u64,
    /// Reads are allowed.
    pub readable: bool,
    /// Writes are allowed.
    pub writable: bool,
    /// The parts that can be mapped, as offset and length in bytes from the start of the region.
    pub mmap: Vec<MmapArea>,
}

/// A mappable part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapArea {
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A PCI device that this process drives.
///
/// All methods take `&self`: control and workers share a device. Implementations serialise what needs it.
pub trait Device: Send + Sync + Debug {
    /// The device string it was opened with.
    fn name(&self) -> &str;

    /// Size, access and mappable parts of region `index` (VFIO numbering).
    fn region(&self, index: u32) -> Result<RegionInfo, BusError>;

    /// Maps the mappable parts of region `index`. Empty when nothing of it can be mapped.
    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError>;

    /// Reads `buf.len()` bytes of region `index` at `offset`.
    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError>;

    /// Writes `data` to region `index` at `offset`.
    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError>;

    /// Lets the device read and write the whole of `mem` at I/O virtual address `iova`.
    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError>;

    /// Takes back a mapping made by [`Device::dma_map`]. After it returns the device can no longer reach the memory.
    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError>;

    /// The I/O virtual addresses the device may be given, reserved ranges already left out.
    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>>;

    /// Number of MSI-X vectors.
    fn irq_count(&self) -> u32;

    /// Connects MSI-X vectors `first..` to eventfds; `None` disconnects a vector.
    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError>;

    /// Function-level reset.
    fn reset(&self) -> Result<(), BusError>;

    /// False once the other side has gone; from then on every call gives [`BusError::Gone`].
    fn is_alive(&self) -> bool;

    /// NUMA node the device hangs on, when known.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// Called between two reads of a register that is being waited for; `round` counts from 0. The default spins, then
    /// yields, then sleeps for some tens of microseconds. A device that only moves when stepped takes its step here.
    fn relax(&self, round: u32) {
        match round {
            0..16 => std::hint::spin_loop(),
            16..32 => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
}
