//! A device whose registers lie on demand.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, RwLock};

use super::{BusError, Device, MappedArea, RegionInfo};
use crate::mem::DmaMemory;

/// What a faulty register does when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// Reads as this value, whatever was written. `Constant(u32::MAX)` is what a device gives that fell off the bus.
    Constant(u32),
    /// The bits under `mask` read as those of `value`; the others are the device's.
    Stuck {
        /// Bits that are stuck.
        mask: u32,
        /// What they are stuck at.
        value: u32,
    },
    /// The access fails as if the other side had gone.
    Gone,
}

/// Wraps a device and makes chosen registers lie, so that a test can see each wait of a driver time out. Nothing of the
/// wrapped device is mapped: every access goes through here.
#[derive(Debug)]
pub struct FaultInjector {
    inner: Arc<dyn Device>,
    faults: RwLock<BTreeMap<(u32, u64), ReadFault>>,
}

impl FaultInjector {
    /// Wraps `inner`, with no fault yet.
    pub fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(FaultInjector {
            inner,
            faults: RwLock::default(),
        })
    }

    /// Makes the 32-bit register at `offset` of region `index` lie from now on.
    pub fn set(&self, index: u32, offset: u64, fault: ReadFault) {
        self.faults
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((index, offset), fault);
    }

    /// Makes the register tell the truth again.
    pub fn clear(&self, index: u32, offset: u64) {
        self.faults
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(index, offset));
    }
}

impl Device for FaultInjector {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        Ok(RegionInfo {
            mmap: Vec::new(),
            ..self.inner.region(index)?
        })
    }

    fn map(&self, _index: u32) -> Result<Vec<MappedArea>, BusError> {
        Ok(Vec::new())
    }

    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.inner.read(index, offset, buf)?;
        let fault = self
            .faults
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(index, offset))
            .copied();
        let (Some(fault), Ok(word)) = (fault, <&mut [u8; 4]>::try_from(buf)) else {
            return Ok(());
        };
        let read = u32::from_le_bytes(*word);
        *word = match fault {
            ReadFault::Constant(value) => value,
            ReadFault::Stuck { mask, value } => (read & !mask) | (value & mask),
            ReadFault::Gone => {
                return Err(BusError::Gone {
                    device: self.name().to_owned(),
                    reason: "injected fault".into(),
                });
            }
        }
        .to_le_bytes();
        Ok(())
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError> {
        self.inner.write(index, offset, data)
    }

    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError> {
        self.inner.dma_map(iova, mem)
    }

    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError> {
        self.inner.dma_unmap(iova, len)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.inner.iova_ranges()
    }

    fn irq_count(&self) -> u32 {
        self.inner.irq_count()
    }

    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        self.inner.set_irqs(first, fds)
    }

    fn reset(&self) -> Result<(), BusError> {
        self.inner.reset()
    }

    fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    fn numa_node(&self) -> Option<u32> {
        self.inner.numa_node()
    }

    fn relax(&self, round: u32) {
        self.inner.relax(round);
    }
}
