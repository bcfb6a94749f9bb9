//! Sets of a batch's frames, one bit each.

use millrace_driver::queue::BATCH;

/// A mask of the first `n` frames of a batch.
pub(crate) fn first(n: usize) -> u64 {
    u64::MAX.checked_shr((BATCH - n.min(BATCH)) as u32).unwrap_or(0)
}

/// The numbers of the bits that are set.
#[inline]
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let i = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(i)
    })
}

/// Frames of a batch for one or several other queues of its port, in order.
pub(crate) struct Others {
    /// Each one's queue.
    queues: [u16; BATCH],
    /// One bit each.
    frames: u64,
}

impl Default for Others {
    fn default() -> Others {
        Others {
            queues: [0; BATCH],
            frames: 0,
        }
    }
}

impl Others {
    #[inline]
    pub(crate) fn put(&mut self, queue: u16, i: usize) {
        self.queues[i % BATCH] = queue;
        self.frames |= 1 << (i % BATCH);
    }

    /// Whether there are none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Takes those of one queue, that of the first frame: the queue, and their numbers in order.
    pub(crate) fn take_queue<'a>(&mut self, numbers: &'a mut [u8; BATCH]) -> Option<(u16, &'a [u8])> {
        let queue = *self.queues.get(bits(self.frames).next()?)?;
        let mut n = 0;
        for i in bits(self.frames) {
            if self.queues[i] == queue {
                self.frames &= !(1 << i);
                numbers[n % BATCH] = i as u8;
                n += 1;
            }
        }
        Some((queue, &numbers[..n.min(BATCH)]))
    }
}
