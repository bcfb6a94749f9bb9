//! The receive face.

use std::sync::Arc;

use crate::bus::BusError;
use crate::hint::HintLayout;
use crate::ixgbe;
use crate::mem::Region;
use crate::port::RxStats;

use super::batch::RxBatch;

/// The families behind the face: chosen once a poll.
#[derive(Debug)]
pub(crate) enum RxFamily {
    Ixgbe(ixgbe::RxRing),
}

/// One receive queue, owned by one thread.
///
/// Give it back with [`Port::stop_queue`](crate::port::Port::stop_queue). A queue that is dropped instead is safe:
/// its posted buffers wait with the port until the device has let go of them.
#[derive(Debug)]
pub struct RxQueue {
    pub(crate) inner: RxFamily,
}

impl RxQueue {
    /// Number of the queue on its port.
    #[inline]
    pub fn id(&self) -> u16 {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.id(),
        }
    }

    /// Fills `batch` with what has arrived, whole frames only, 64 buffers at most, and posts fresh buffers to
    /// the device. What the batch still held goes to this queue's free stack. Returns the number of frames;
    /// 0 when nothing came, and for ever once the port is closed or its device gone.
    #[inline]
    pub fn poll(&mut self, batch: &mut RxBatch) -> usize {
        match &mut self.inner {
            RxFamily::Ixgbe(q) => q.poll(batch),
        }
    }

    /// Lets the queue raise its interrupt once; the device masks it again when it fires. If frames are already
    /// there the interrupt comes at once, so arming, then sleeping on the eventfd, misses nothing.
    pub fn arm(&mut self) -> Result<(), BusError> {
        match &mut self.inner {
            RxFamily::Ixgbe(q) => q.arm(),
        }
    }

    /// Masks the queue's interrupt.
    pub fn disarm(&mut self) -> Result<(), BusError> {
        match &mut self.inner {
            RxFamily::Ixgbe(q) => q.disarm(),
        }
    }

    /// Counters since the queue was started.
    pub fn stats(&self) -> RxStats {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.stats(),
        }
    }

    /// The layout of this queue's raw write-backs.
    pub fn hint_layout(&self) -> &HintLayout {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.hint_layout(),
        }
    }

    /// The region its buffers come from.
    pub fn region(&self) -> &Arc<Region> {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.region(),
        }
    }

    /// Descriptors of the ring.
    pub fn ring_size(&self) -> u32 {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.ring_size(),
        }
    }

    /// False once the port was closed or the device has gone.
    #[inline]
    pub fn is_alive(&self) -> bool {
        match &self.inner {
            RxFamily::Ixgbe(q) => q.is_alive(),
        }
    }
}
