//! Who owns which TX queue, and how a frame gets to a queue of another worker: through that worker's bounded rings.

use super::wake::Waker;
use crossbeam::queue::ArrayQueue;
use millrace_driver::mem::Frame;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Frames a worker may have waiting from other workers.
const HANDED: usize = 1024;
/// Frames a worker may have waiting from exception taps and from control.
const INJECTED: usize = 512;

/// Bytes of a whole frame on their way from outside to a TX queue.
#[derive(Debug)]
pub(crate) struct Injected {
    pub(crate) slot: usize,
    pub(crate) bytes: Vec<u8>,
    /// Where the vector goes when the frame is in the ring, to be filled again.
    pub(crate) home: Arc<ArrayQueue<Vec<u8>>>,
}

/// What a worker can be given by other threads.
#[derive(Debug)]
pub(crate) struct Doorstep {
    /// Frames of other workers, each for one of this worker's slots.
    pub(crate) handed: ArrayQueue<(usize, Frame)>,
    pub(crate) injected: ArrayQueue<Injected>,
    pub(crate) waker: Waker,
}

impl Doorstep {
    pub(crate) fn new(waker: Waker) -> Arc<Doorstep> {
        Arc::new(Doorstep {
            handed: ArrayQueue::new(HANDED),
            injected: ArrayQueue::new(INJECTED),
            waker,
        })
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.handed.is_empty() && self.injected.is_empty()
    }
}

/// The owner of one queue pair, fixed when the application is built.
#[derive(Debug)]
pub(crate) struct QueueRoute {
    pub(crate) worker: usize,
    /// Index among that worker's slots.
    pub(crate) slot: usize,
    active: AtomicBool,
}

impl QueueRoute {
    pub(crate) fn new(worker: usize, slot: usize) -> QueueRoute {
        QueueRoute {
            worker,
            slot,
            active: AtomicBool::new(false),
        }
    }

    /// Whether the queue runs; frames for one that does not are dropped by its worker all the same.
    pub(crate) fn active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }
}

/// All routes: by port, then by queue.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) ports: Vec<Vec<QueueRoute>>,
    pub(crate) doorsteps: Vec<Arc<Doorstep>>,
}

impl Routes {
    /// The queue of `port` that `worker` sends on when nothing else decides: its own, else one by its number.
    pub(crate) fn queue_of_worker(&self, port: usize, worker: usize) -> Option<u16> {
        let queues = self.ports.get(port)?;
        let own = queues.iter().position(|route| route.worker == worker);
        let queue = own.or_else(|| worker.checked_rem(queues.len()))?;
        u16::try_from(queue).ok()
    }

    pub(crate) fn get(&self, port: usize, queue: u16) -> Option<&QueueRoute> {
        self.ports.get(port)?.get(usize::from(queue))
    }

    /// Gives bytes to the worker that owns a TX queue, preferring `queue` and taking the next running one otherwise.
    /// What cannot be given comes back.
    pub(crate) fn inject(
        &self,
        port: usize,
        queue: u16,
        bytes: Vec<u8>,
        home: &Arc<ArrayQueue<Vec<u8>>>,
    ) -> Result<(), Vec<u8>> {
        let Some(queues) = self.ports.get(port).filter(|queues| !queues.is_empty()) else {
            return Err(bytes);
        };
        let chosen = usize::from(queue) % queues.len();
        let running = (0..queues.len())
            .map(|i| &queues[(chosen + i) % queues.len()])
            .find(|route| route.active());
        let Some(route) = running else { return Err(bytes) };
        let Some(doorstep) = self.doorsteps.get(route.worker) else {
            return Err(bytes);
        };
        let injected = Injected {
            slot: route.slot,
            bytes,
            home: home.clone(),
        };
        doorstep
            .injected
            .push(injected)
            .map_err(|refused| refused.bytes)?;
        doorstep.waker.wake();
        Ok(())
    }
}
