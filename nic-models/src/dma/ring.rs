//! Where a descriptor ring lies in this process, looked up once instead of at each descriptor.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number for each state of each address space, so that a place found in one is not believed in another.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// A number that no state had before.
pub(super) fn next_epoch() -> u64 {
    EPOCHS.fetch_add(1, Ordering::Relaxed)
}

/// What [`super::DmaSpace::ring`] found the last time. It means nothing by itself: each use says which ring is asked for, and
/// whatever changed the mappings or the bus master gate since makes it be looked up anew.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// State of the address space in which it was found; 0 before the first time.
    pub(super) epoch: u64,
    pub(super) iova: u64,
    pub(super) count: u32,
    pub(super) host: *const [AtomicU64; 2],
}

// SAFETY: the pointer is only followed by the address space that gave it, which checks that its mappings are still those of
// that time; it is tied to no thread.
unsafe impl Send for RingPlace {}

impl Default for RingPlace {
    fn default() -> Self {
        RingPlace {
            epoch: 0,
            iova: 0,
            count: 0,
            host: std::ptr::null(),
        }
    }
}
