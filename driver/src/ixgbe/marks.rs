//! Which transmit descriptors were asked to report.

use super::tx::REPORT;

/// Descriptors of the largest ring that a port opens.
const MAX_RING: u32 = 4096;

/// Descriptors that were asked to report, oldest first: at most one in [`REPORT`] of the largest ring, plus one of a submit
/// with none outstanding. In the queue itself, so that nobody else's memory shares its cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Marks {
    head: u32,
    tail: u32,
    slots: [u32; MARKS],
}

const MARKS: usize = 256;
const _: () = assert!(MARKS.is_power_of_two() && MARKS > MAX_RING as usize / REPORT as usize + 1);

impl Marks {
    pub(super) fn new() -> Marks {
        Marks {
            head: 0,
            tail: 0,
            slots: [0; MARKS],
        }
    }

    #[inline]
    pub(super) fn push(&mut self, at: u32) {
        self.slots[self.tail as usize % MARKS] = at;
        self.tail = self.tail.wrapping_add(1);
    }

    #[inline]
    pub(super) fn first(&self) -> Option<u32> {
        if self.is_empty() {
            None
        } else {
            Some(self.slots[self.head as usize % MARKS])
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    #[inline]
    pub(super) fn pop(&mut self) {
        self.head = self.head.wrapping_add(1);
    }

    /// All of it, read: see [`harness::recall`](crate::harness::recall).
    #[cfg(feature = "models")]
    pub(super) fn sum(&self) -> u64 {
        self.slots.iter().map(|mark| u64::from(*mark)).sum()
    }
}
