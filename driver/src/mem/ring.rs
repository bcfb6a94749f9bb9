//! Descriptor rings in DMA memory.
//!
//! A ring is shared with a device that may lie, so it is never a Rust reference to plain data: every access is an atomic
//! quadword, read once into a local value. Slot numbers wrap at the ring's size (a power of two), so no access needs a
//! bounds check and none can leave the ring.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_nic_models::ring_order;

use super::{DmaMemory, MemError};

/// A ring of descriptors of `Q` quadwords.
///
/// Order (who writes a descriptor stores its last quadword, the one with DD, with Release): [`Ring::last_acquire`] reads
/// that quadword first, and what [`Ring::get`] reads after it is at least as new.
pub struct Ring<const Q: usize> {
    base: NonNull<[AtomicU64; Q]>,
    mask: u32,
    offset: usize,
    mem: Arc<DmaMemory>,
}

/// A ring of 16-byte descriptors (ixgbe; i40e and ice transmit).
pub type DescriptorRing16 = Ring<2>;
/// A ring of 32-byte descriptors (i40e and ice receive).
pub type DescriptorRing32 = Ring<4>;

// SAFETY: `base` points into `mem`, which the ring keeps mapped; all accesses are atomic.
unsafe impl<const Q: usize> Send for Ring<Q> {}

impl<const Q: usize> Ring<Q> {
    /// Bytes a ring of `size` descriptors takes.
    pub const fn bytes(size: u32) -> usize {
        size as usize * Q * 8
    }

    /// A ring of `size` descriptors at `offset` of `mem`.
    ///
    /// # Errors
    /// [`MemError::Ring`] if `size` is not a power of two, `offset` not a multiple of 128 (what all three families ask of
    /// a ring's base), or the ring does not fit.
    pub fn new(mem: Arc<DmaMemory>, offset: usize, size: u32) -> Result<Self, MemError> {
        let fits = offset
            .checked_add(Self::bytes(size))
            .is_some_and(|end| end <= mem.len());
        if !size.is_power_of_two() || !offset.is_multiple_of(128) || !fits {
            return Err(MemError::Ring {
                offset,
                size,
                memory: mem.len(),
            });
        }
        // SAFETY: `offset` is at most the length of the mapping.
        let base = unsafe { mem.base().add(offset) }.cast();
        Ok(Ring {
            base,
            mask: size - 1,
            offset,
            mem,
        })
    }

    /// Number of descriptors, a power of two.
    #[inline]
    pub fn size(&self) -> u32 {
        self.mask + 1
    }

    /// Bytes from the start of the memory to the ring: with the memory's IOVA, the ring's base address.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The memory that the ring lies in.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.mem
    }

    #[inline]
    fn slot(&self, slot: u32) -> &[AtomicU64; Q] {
        // SAFETY: `slot & mask` is below the size that `new` checked against the mapping, which `mem` keeps alive; the
        // base is aligned to 128 bytes. The device's side writes the same bytes, hence atomics.
        unsafe { self.base.add((slot & self.mask) as usize).as_ref() }
    }

    /// The last quadword of a slot, with Acquire: where DD lies in what a device writes back.
    #[inline]
    pub fn last_acquire(&self, slot: u32) -> u64 {
        u64::from_le(self.slot(slot)[Q - 1].load(Ordering::Acquire))
    }

    /// Quadword `i` (modulo `Q`) of a slot.
    #[inline]
    pub fn quad(&self, slot: u32, i: usize) -> u64 {
        u64::from_le(self.slot(slot)[i % Q].load(Ordering::Relaxed))
    }

    /// Quadword `i` (modulo `Q`) of a slot, with Acquire.
    #[inline]
    pub fn quad_acquire(&self, slot: u32, i: usize) -> u64 {
        u64::from_le(self.slot(slot)[i % Q].load(Ordering::Acquire))
    }

    /// A whole descriptor, last quadword first.
    #[inline]
    pub fn get(&self, slot: u32) -> [u64; Q] {
        ring_order::collect(self.slot(slot))
    }

    /// Stores a whole descriptor. The doorbell's fence publishes it.
    #[inline]
    pub fn put(&self, slot: u32, descriptor: [u64; Q]) {
        ring_order::prepare(self.slot(slot), descriptor);
    }

    /// Stores one quadword, `i` modulo `Q`.
    #[inline]
    pub fn put_quad(&self, slot: u32, i: usize, value: u64) {
        self.slot(slot)[i % Q].store(value.to_le(), Ordering::Relaxed);
    }

    /// Base and slot mask, for [`RxLane`](super::RxLane) and [`TxLane`](super::TxLane).
    #[inline(always)]
    pub(super) fn parts(&self) -> (NonNull<[AtomicU64; Q]>, u32) {
        (self.base, self.mask)
    }

    /// Where the ring lies in this process, for tests of the layout.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn addresses(&self) -> std::ops::Range<usize> {
        let at = self.base.as_ptr() as usize;
        at..at + Self::bytes(self.size())
    }

    /// Zeroes the ring.
    pub fn clear(&self) {
        (0..self.size()).for_each(|slot| self.put(slot, [0; Q]));
    }
}

impl<const Q: usize> fmt::Debug for Ring<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} x {} bytes at {:#x})", self.size(), Q * 8, self.offset)
    }
}
