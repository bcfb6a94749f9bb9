//! I/O virtual addresses: who has which, and mappings that end by themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BusError, Device};
use crate::mem::DmaMemory;

/// All addresses handed out lie below this: 39 bits is what the smallest Intel IOMMU walks with three levels.
pub const IOVA_LIMIT: u64 = 1 << 39;

/// Every mapping starts on such a boundary (or its page size, if larger), so that the IOMMU can use large pages.
const ALIGN: u64 = 2 << 20;

/// The I/O address space of one device: hands out addresses outside the reserved ranges and maps memory there.
pub struct Iommu {
    dev: Arc<dyn Device>,
    ranges: Vec<RangeInclusive<u64>>,
    /// Start and length of what is mapped.
    used: Mutex<BTreeMap<u64, u64>>,
}

impl Iommu {
    /// The address space of `dev`.
    pub fn new(dev: Arc<dyn Device>) -> Arc<Self> {
        let ranges = dev.iova_ranges();
        Arc::new(Iommu {
            dev,
            ranges,
            used: Mutex::new(BTreeMap::new()),
        })
    }

    /// Maps the whole of `mem` for the device, which can reach it until the mapping is dropped.
    pub fn map(self: &Arc<Self>, mem: &Arc<DmaMemory>) -> Result<DmaMapping, BusError> {
        let len = mem.len() as u64;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let align = ALIGN.max(mem.page_size() as u64);
        let iova = first_fit(&self.ranges, &used, len, align).ok_or_else(|| BusError::IovaExhausted {
            device: self.dev.name().to_owned(),
            len,
        })?;
        self.dev.dma_map(iova, mem)?;
        used.insert(iova, len);
        Ok(DmaMapping {
            iommu: self.clone(),
            mem: mem.clone(),
            iova,
        })
    }

    /// Bytes mapped now.
    pub fn mapped(&self) -> u64 {
        self.used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .sum()
    }
}

impl fmt::Debug for Iommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("device", &self.dev.name())
            .field("mapped", &self.mapped())
            .finish()
    }
}

/// The lowest free, aligned address with room for `len` bytes. Address 0 is never given out: a descriptor full of zeros
/// must not point at memory.
fn first_fit(ranges: &[RangeInclusive<u64>], used: &BTreeMap<u64, u64>, len: u64, align: u64) -> Option<u64> {
    for range in ranges {
        let last = (*range.end()).min(IOVA_LIMIT - 1);
        let mut at = (*range.start()).max(align).checked_next_multiple_of(align)?;
        loop {
            let end = at.checked_add(len.checked_sub(1)?)?;
            if end > last {
                break;
            }
            // The highest mapping that starts at or below our last byte is the only one that can reach into us from
            // below or lie inside; go on behind it.
            match used.range(..=end).next_back() {
                Some((start, taken)) if start + taken > at => {
                    at = (start + taken).checked_next_multiple_of(align)?
                }
                _ => return Some(at),
            }
        }
    }
    None
}

/// Memory that a device can reach. Dropping it takes the memory away from the device first and then lets go of it.
pub struct DmaMapping {
    iommu: Arc<Iommu>,
    mem: Arc<DmaMemory>,
    iova: u64,
}

impl DmaMapping {
    /// Address at which the device sees byte 0 of the memory.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.mem
    }
}

impl Drop for DmaMapping {
    fn drop(&mut self) {
        let mut used = self.iommu.used.lock().unwrap_or_else(PoisonError::into_inner);
        match self.iommu.dev.dma_unmap(self.iova, self.mem.len() as u64) {
            Ok(()) => drop(used.remove(&self.iova)),
            // The other process is gone or going; the address is not used again, and the memory itself is shared, so
            // nothing of ours is at risk.
            Err(e) if e.is_gone() => drop(used.remove(&self.iova)),
            Err(e) => tracing::error!("IOVA {:#x} stays reserved: {e}", self.iova),
        }
    }
}

impl fmt::Debug for DmaMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMapping({:#x}+{:#x})", self.iova, self.mem.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn addresses_avoid_zero_the_reserved_range_and_what_is_mapped() {
        let ranges = [0..=0xfedf_ffff, 0xfef0_0000..=u64::MAX];
        let mut used = BTreeMap::new();
        let mut give = |len| {
            let at = first_fit(&ranges, &used, len, 2 * MIB).unwrap();
            used.insert(at, len);
            at
        };
        assert_eq!(give(4096), 2 * MIB);
        assert_eq!(give(2 * MIB), 4 * MIB);
        // Too large for the hole below the reserved range.
        assert_eq!(give(1 << 32), 0xff00_0000);
        assert_eq!(give(2 * MIB), 6 * MIB);
    }

    #[test]
    fn addresses_end_below_39_bits() {
        let used = BTreeMap::new();
        assert_eq!(first_fit(&[0..=u64::MAX], &used, IOVA_LIMIT, 2 * MIB), None);
        assert!(first_fit(&[0..=u64::MAX], &used, IOVA_LIMIT - 2 * MIB, 2 * MIB).is_some());
        assert_eq!(first_fit(&[IOVA_LIMIT..=u64::MAX], &used, 4096, 2 * MIB), None);
        assert_eq!(first_fit(&[], &used, 4096, 2 * MIB), None);
    }

    #[test]
    fn a_freed_hole_is_used_again() {
        let mut used = BTreeMap::from([(2 * MIB, 2 * MIB), (4 * MIB, 2 * MIB), (6 * MIB, 2 * MIB)]);
        used.remove(&(4 * MIB));
        assert_eq!(first_fit(&[0..=u64::MAX], &used, 2 * MIB, 2 * MIB), Some(4 * MIB));
        assert_eq!(first_fit(&[0..=u64::MAX], &used, 4 * MIB, 2 * MIB), Some(8 * MIB));
    }
}
