//! The transmit face.

use std::sync::Arc;

use crate::ixgbe;
use crate::mem::{Frame, Handle, Region};
use crate::port::TxStats;

use super::batch::RxBatch;
use super::meta::{TxMeta, TxRefused};

/// The families behind the face: chosen once a call.
#[derive(Debug)]
pub(crate) enum TxFamily {
    Ixgbe(ixgbe::TxRing),
}

/// One transmit queue, owned by one thread.
///
/// Frames are pushed, then submitted with one doorbell. Buffers that the device has sent go to the queue's own
/// free stack, from where they flow back to receivers through the region's depot.
#[derive(Debug)]
pub struct TxQueue {
    pub(crate) inner: TxFamily,
}

impl TxQueue {
    /// Number of the queue on its port.
    #[inline]
    pub fn id(&self) -> u16 {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.id(),
        }
    }

    /// Moves the frames with the given numbers from `batch` to the ring, in order, all with the same requests.
    /// Returns how many were taken; the first one that was refused and all behind it stay in the batch.
    #[inline]
    pub fn push_frames(&mut self, batch: &mut RxBatch, frames: &[u8], meta: &TxMeta) -> usize {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.push_frames(batch, frames, meta),
        }
    }

    /// Moves the run of handles in `slots` to the ring. On refusal they stay where they are.
    #[inline]
    pub(crate) fn push_slots(
        &mut self,
        slots: &mut [Option<Handle>],
        meta: &TxMeta,
    ) -> Result<(), TxRefused> {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.push(slots, meta),
        }
    }

    /// Queues a single-buffer frame; gives the handle back when it is refused.
    #[inline]
    pub fn push_handle(&mut self, handle: Handle, meta: &TxMeta) -> Result<(), (Handle, TxRefused)> {
        let mut slot = [Some(handle)];
        match (self.push_slots(&mut slot, meta), slot) {
            (Err(refused), [Some(handle)]) => Err((handle, refused)),
            _ => Ok(()),
        }
    }

    /// Queues a frame that had left its batch; gives it back when it is refused.
    pub fn push(&mut self, frame: Frame, meta: &TxMeta) -> Result<(), (Frame, TxRefused)> {
        let (region, handles) = frame.into_handles();
        let mut slots: arrayvec::ArrayVec<Option<Handle>, MAX_TX_RUN> = arrayvec::ArrayVec::new();
        let mut rest = Vec::new();
        for handle in handles {
            if let Err(full) = slots.try_push(Some(handle)) {
                rest.extend(full.element());
            }
        }
        let outcome = if rest.is_empty() {
            self.push_slots(&mut slots, meta)
        } else {
            Err(TxRefused::Invalid)
        };
        let Err(refused) = outcome else { return Ok(()) };
        // A frame's handles all belong to its region, so it can always be put together again.
        match Frame::new(region, slots.into_iter().flatten().chain(rest)) {
            Ok(frame) => Err((frame, refused)),
            Err(_) => Ok(()),
        }
    }

    /// Copies `frame` into free buffers of the port and queues it.
    pub fn push_copy(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), TxRefused> {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.push_copy(frame, meta),
        }
    }

    /// Makes `batch` a batch of up to `n` fresh frames of one buffer and `len` bytes, to be written and sent; what lies in
    /// them is whatever was there. What the batch still held goes to this queue's free stack. Gives the number of frames:
    /// fewer when the port runs out of buffers, or the batch's limit is less.
    pub fn allocate(&mut self, batch: &mut RxBatch, n: usize, len: u16) -> usize {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.allocate(batch, n, len),
        }
    }

    /// Hands everything pushed since the last call to the device with one doorbell, and takes back what it has
    /// sent. Returns the number of frames handed over.
    #[inline]
    pub fn submit(&mut self) -> usize {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.submit(),
        }
    }

    /// Takes back buffers of frames that the device has sent; returns how many. `submit` does this too.
    #[inline]
    pub fn reclaim(&mut self) -> usize {
        match &mut self.inner {
            TxFamily::Ixgbe(q) => q.reclaim(),
        }
    }

    /// Free descriptors: a frame takes one per buffer, and one more when its requests differ from the last's.
    #[inline]
    pub fn space(&self) -> usize {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.space(),
        }
    }

    /// Counters since the queue was started.
    pub fn stats(&self) -> TxStats {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.stats(),
        }
    }

    /// The region whose buffers it can send.
    pub fn region(&self) -> &Arc<Region> {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.region(),
        }
    }

    /// Descriptors of the ring.
    pub fn ring_size(&self) -> u32 {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.ring_size(),
        }
    }

    /// False once the port was closed or the device has gone.
    #[inline]
    pub fn is_alive(&self) -> bool {
        match &self.inner {
            TxFamily::Ixgbe(q) => q.is_alive(),
        }
    }
}

/// The most buffers that one frame to be sent may take: a 64 KiB TSO frame in 2 KiB buffers, with headers.
pub const MAX_TX_RUN: usize = 40;
