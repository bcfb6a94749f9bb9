//! What the device remembers of each queue: where its ring is, how far it has got, what it is configured to do.

use crate::dma::{DmaSpace, Fault, RingPlace};
use crate::ixgbe::desc::{SIZE, tx};
use crate::ring_order;

/// Where a ring is and how far the device is in it. Base and length are latched when the queue is enabled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// IOVA of descriptor 0.
    pub base: u64,
    /// Descriptors in the ring.
    pub count: u32,
    /// The next descriptor the device uses.
    pub head: u32,
    /// The first descriptor that belongs to software.
    pub tail: u32,
}

impl Cursor {
    /// Descriptors that the device may use. A head or tail outside of the ring owns nothing.
    #[inline]
    pub fn available(&self) -> u32 {
        if self.head >= self.count || self.tail >= self.count {
            0
        } else if self.tail >= self.head {
            self.tail - self.head
        } else {
            self.count - self.head + self.tail
        }
    }

    /// Number of the descriptor `ahead` of the head; `ahead` is below the number available.
    #[inline]
    pub fn index(&self, ahead: u32) -> u32 {
        let index = self.head + ahead;
        if index >= self.count {
            index - self.count
        } else {
            index
        }
    }

    /// Its IOVA.
    #[inline]
    pub fn address(&self, ahead: u32) -> u64 {
        self.base.wrapping_add(u64::from(self.index(ahead)) * SIZE as u64)
    }

    /// Moves the head past `n` descriptors; `n` is at most the number available.
    #[inline]
    pub fn advance(&mut self, n: u32) {
        self.head += n;
        if self.head >= self.count {
            self.head -= self.count;
        }
    }
}

/// A receive queue.
#[derive(Clone, Debug, Default)]
pub(super) struct RxQueue {
    pub enabled: bool,
    /// A fault stopped the queue until software disables it.
    pub halted: bool,
    pub ring: Cursor,
    /// Where the ring was found.
    pub place: RingPlace,
    /// SRRCTL: bytes of a packet buffer.
    pub buffer: usize,
    /// SRRCTL: legacy write-backs.
    pub legacy: bool,
    /// SRRCTL or QDE: drop when no descriptor is free.
    pub drop: bool,
    /// RXDCTL: strip VLAN tags.
    pub strip_vlan: bool,
    /// RQSMR: which per-queue counters.
    pub counter: u32,
    /// Write-backs of the descriptors right before the head, to be stored at the end of the round. Software polls the first of
    /// them meanwhile: stored one by one, each would have to be fetched back from its cache. Hardware collects them too
    /// (datasheet 7.1.7).
    pub backs: Vec<[u64; 2]>,
}

impl RxQueue {
    /// Stores the write-backs that were collected.
    pub fn write_back(&mut self, dma: &DmaSpace) -> Result<(), Fault> {
        let n = self.backs.len() as u32;
        if n == 0 {
            return Ok(());
        }
        let Cursor {
            base, count, head, ..
        } = self.ring;
        // No more are collected than were available.
        let first = if head >= n { head - n } else { head + count - n };
        let done = match dma.ring(&mut self.place, base, count) {
            Some(ring) => {
                // Up to the ring's end, and from its start.
                let to_end = ring.get(first as usize..).unwrap_or_default();
                let before_end = to_end.len().min(self.backs.len());
                for (slot, back) in to_end.iter().zip(&self.backs) {
                    ring_order::publish(slot, *back);
                }
                for (slot, back) in ring.iter().zip(&self.backs[before_end..]) {
                    ring_order::publish(slot, *back);
                }
                Ok(())
            }
            None => (first..count)
                .chain(0..first)
                .zip(&self.backs)
                .try_for_each(|(index, back)| {
                    let at = u64::from(index) * SIZE as u64;
                    dma.write_desc16(base.wrapping_add(at), *back)
                }),
        };
        self.backs.clear();
        done
    }

    /// Whether frames of up to so many bytes go into one buffer each, described by an advanced write-back; 0 where the queue is
    /// not like that or is off.
    #[inline]
    pub fn longest_in_one(&self) -> usize {
        if self.enabled && !self.halted && !self.legacy {
            self.buffer
        } else {
            0
        }
    }
}

/// A transmit queue.
#[derive(Clone, Debug, Default)]
pub(super) struct TxQueue {
    pub enabled: bool,
    pub halted: bool,
    pub ring: Cursor,
    /// Where the ring was found.
    pub place: RingPlace,
    /// The two context slots.
    pub contexts: [tx::Context; 2],
    /// Head write-back address.
    pub write_back: Option<u64>,
    /// TQSM: which per-queue counters.
    pub counter: u32,
    /// The frame under way: what its first descriptor said.
    pub first: Option<First>,
    /// Its bytes, after [`HEADROOM`] free ones for a VLAN tag.
    pub buf: Vec<u8>,
    /// How many of `buf` are filled, headroom included.
    pub filled: usize,
}

/// Free bytes in front of a frame under way: a VLAN tag fits.
pub(super) const HEADROOM: usize = 4;
/// Longest frame that may be gathered: 256 KiB of TSO payload and its headers (7.2.4).
pub(super) const MAX_GATHER: usize = HEADROOM + 256 * 1024 + 512;

/// What a frame's first descriptor said about it.
#[derive(Clone, Copy, Debug)]
pub(super) enum First {
    Legacy(tx::Legacy),
    Advanced(tx::Data),
}

impl TxQueue {
    /// Forgets the frame under way.
    pub fn drop_frame(&mut self) {
        self.first = None;
        self.filled = HEADROOM;
    }

    /// Room for `len` more bytes of the frame under way, or `None` where it gets longer than any frame.
    #[inline]
    pub fn extend(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.filled.checked_add(len).filter(|&end| end <= MAX_GATHER)?;
        if self.buf.len() < end {
            self.buf.resize(end.max(2048), 0);
        }
        let room = &mut self.buf[self.filled..end];
        self.filled = end;
        Some(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_outside_of_its_ring_owns_nothing() {
        let ring = |head, tail| {
            Cursor {
                base: 0x1000,
                count: 8,
                head,
                tail,
            }
            .available()
        };
        assert_eq!(ring(0, 0), 0);
        assert_eq!(ring(0, 7), 7);
        assert_eq!(ring(6, 2), 4);
        assert_eq!(ring(8, 2), 0);
        assert_eq!(ring(2, 8), 0);
        assert_eq!(Cursor::default().available(), 0);
    }

    #[test]
    fn a_cursor_wraps_at_the_end_of_its_ring() {
        let mut ring = Cursor {
            base: 0x1000,
            count: 8,
            head: 6,
            tail: 2,
        };
        assert_eq!(
            [ring.address(1), ring.address(2), ring.address(3)],
            [0x1070, 0x1000, 0x1010]
        );
        ring.advance(4);
        assert_eq!((ring.head, ring.available()), (2, 0));
    }
}
