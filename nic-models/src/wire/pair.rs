//! Two ports joined by memory: no socket, no system call, for models in one process.
//!
//! Each direction is a mailbox that holds one batch of frames. A sender collects frames and leaves them there with
//! [`Wire::flush`], which a model calls once a round; a receiver takes the whole batch. So the two ends meet once a batch,
//! and may be stepped by one thread or by two. The cable itself is a short queue: while the far side does not keep up a
//! sender's frames are dropped and counted, as a link's other end would have to drop them.

use super::frames::{Batch, Frames, Outgoing};
use super::{SendOutcome, Wire};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames that one direction holds, beside the batch that the receiver has taken.
const ROOM: usize = 512;

/// One direction.
#[derive(Debug, Default)]
struct Mailbox {
    batch: Mutex<Frames>,
    /// There is something in it: spares the receiver the lock.
    full: AtomicBool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Frames> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a pair: see [`pair`].
#[derive(Debug)]
pub struct PairWire {
    to: Arc<Mailbox>,
    from: Arc<Mailbox>,
    /// Shared by both ends and nobody else, so that an end knows whether the other is there.
    alive: Arc<()>,
    /// Frames of this round.
    out: Frames,
    /// Frames taken from the other end, and how many of them have been handed over.
    input: Frames,
    next: usize,
    sent: u64,
    received: u64,
    dropped: u64,
}

/// Both ends of a new cable.
pub fn pair() -> (PairWire, PairWire) {
    let (there, back) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
    let alive = Arc::new(());
    let end = |to: &Arc<Mailbox>, from: &Arc<Mailbox>| PairWire {
        to: to.clone(),
        from: from.clone(),
        alive: alive.clone(),
        out: Frames::default(),
        input: Frames::default(),
        next: 0,
        sent: 0,
        received: 0,
        dropped: 0,
    };
    (end(&there, &back), end(&back, &there))
}

impl PairWire {
    /// Takes the batch that the other end has left; false if there is none.
    fn take(&mut self) -> bool {
        self.input.clear();
        self.next = 0;
        if !self.from.full.load(Ordering::Acquire) {
            return false;
        }
        let mut batch = self.from.lock();
        std::mem::swap(&mut *batch, &mut self.input);
        self.from.full.store(false, Ordering::Release);
        !self.input.is_empty()
    }
}

impl Wire for PairWire {
    #[inline]
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        if self.next == self.input.len() && !self.take() {
            return Ok(None);
        }
        self.next += 1;
        self.received += 1;
        Ok(self.input.get(self.next - 1))
    }

    fn recv_batch(&mut self, max: usize) -> Option<Batch<'_>> {
        if self.next == self.input.len() && !self.take() {
            return None;
        }
        let batch = self.input.batch(self.next, max);
        self.next += batch.len();
        self.received += batch.len() as u64;
        Some(batch)
    }

    #[inline]
    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        if self.out.len() >= ROOM {
            self.flush()?;
            if self.out.len() >= ROOM || !self.link_up() {
                self.dropped += 1;
                return Ok(SendOutcome::Dropped);
            }
        }
        self.out.push(frame);
        self.sent += 1;
        Ok(SendOutcome::Sent)
    }

    #[inline]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        (self.out.len() < ROOM).then(|| self.out.room(len))
    }

    #[inline]
    fn commit(&mut self, len: usize) {
        self.out.commit(len);
        self.sent += 1;
    }

    fn outgoing(&mut self) -> Option<Outgoing<'_>> {
        Some(Outgoing {
            frames: &mut self.out,
            limit: ROOM,
            sent: &mut self.sent,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut batch = self.to.lock();
        if batch.is_empty() {
            std::mem::swap(&mut *batch, &mut self.out);
        } else if batch.len() + self.out.len() <= ROOM {
            batch.take_all(&mut self.out);
        } else {
            // The other end is behind: what was collected waits for the next round.
            return Ok(());
        }
        self.to.full.store(true, Ordering::Release);
        Ok(())
    }

    fn link_up(&self) -> bool {
        Arc::strong_count(&self.alive) > 1
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// While something waits. There is nothing that a sleeping model could wait for otherwise: whoever steps the models of a
    /// pair must not sleep for long.
    fn is_source(&self) -> bool {
        self.next < self.input.len() || self.from.full.load(Ordering::Relaxed)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("wire_recv_frames", self.received),
            ("wire_send_frames", self.sent),
            ("wire_send_drops", self.dropped),
        ]
    }
}
