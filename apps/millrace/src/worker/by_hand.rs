//! A worker without a thread, for benches and tests: they want to know what a round costs, or see what it leaves behind.

use super::batch::{PassHandler, Scratch, Slot};
use super::chain::Attached;
use super::counters::{LocalCounters, SharedCounters};
use super::idle::{Backoff, IdlePolicy};
use super::mailbox::{Mailbox, mailbox};
use super::pair::QueuePair;
use super::route::{Doorstep, QueueRoute, Routes};
use super::run::{Command, Reply, Worker, WorkerStats};
use super::wake::Waker;
use crate::AppError;
use millrace_driver::queue::{RxBatch, RxQueue, TxQueue};
use millrace_driver::steering::{SteeringError, TxSteering};
use millrace_ebpf::Instance;
use std::sync::Arc;

/// One worker with queue pairs of one port, stepped by whoever holds it. It does what the worker of an application does;
/// control cannot reach it.
pub struct HandWorker {
    worker: Worker,
    /// A queue's each, in the order of the pairs.
    counters: Vec<Arc<SharedCounters>>,
    /// The other end of the worker's mailbox, which nobody uses.
    _control: Mailbox<Command, Reply>,
}

impl std::fmt::Debug for HandWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandWorker").finish_non_exhaustive()
    }
}

impl HandWorker {
    /// Takes queue pairs of one port, numbered from 0 in their order; what comes in on one goes out on it, as an application
    /// has it at first. `program` runs in front of the first of them; `on_pass` is called for what passes.
    pub fn new(
        pairs: impl IntoIterator<Item = (RxQueue, TxQueue)>,
        program: Option<Instance>,
        on_pass: Option<PassHandler>,
    ) -> Result<HandWorker, AppError> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let n = u16::try_from(pairs.len()).unwrap_or(u16::MAX);
        let mut program = program.map(|instance| Box::new(Attached::single(instance)));
        let waker = Waker::new().map_err(|source| AppError::Io {
            what: "eventfd",
            source,
        })?;
        let doorstep = Doorstep::new(waker.clone());
        let routes = Routes {
            ports: vec![(0..pairs.len()).map(|slot| QueueRoute::new(0, slot)).collect()],
            doorsteps: vec![doorstep.clone()],
        };
        let (mut slots, mut counters) = (Vec::new(), Vec::new());
        for (queue, (rx, tx)) in (0u16..).zip(pairs) {
            let mut maps = TxSteering::new(n).map_err(steering)?;
            maps.set_rxq(queue, &[queue]).map_err(steering)?;
            let shared = SharedCounters::new();
            counters.push(shared.clone());
            slots.push(Slot {
                port: 0,
                queue,
                ifindex: 1,
                pair: Some(QueuePair::new(rx, tx, None)),
                batch: Box::new(RxBatch::new()),
                program: program.take(),
                tapped: None,
                steering: maps,
                key: [0; 40],
                tap: None,
                counters: LocalCounters::new(shared),
            });
        }
        let (control, inbox) = mailbox(waker);
        let policy = IdlePolicy::busy_poll();
        let worker = Worker {
            id: 0,
            slots,
            open: true,
            inbox,
            doorstep,
            routes: Arc::new(routes),
            scratch: Scratch::new(0, 1, on_pass),
            backoff: Backoff::new(policy),
            policy,
            stats: Arc::new(WorkerStats::default()),
        };
        Ok(HandWorker {
            worker,
            counters,
            _control: control,
        })
    }

    /// Frames received on `queue` leave through one of `tx`, chosen by their hash.
    pub fn set_rxq(&mut self, queue: u16, tx: &[u16]) -> Result<(), AppError> {
        match self.worker.slots.get_mut(usize::from(queue)) {
            Some(slot) => slot.steering.set_rxq(queue, tx).map_err(steering),
            None => Ok(()),
        }
    }

    /// At most so many frames come with one poll.
    pub fn set_burst(&mut self, burst: usize) {
        for slot in &mut self.worker.slots {
            slot.batch.set_limit(burst);
        }
    }

    /// One round of the worker's loop: a poll, the program, what follows from its verdicts, a doorbell. Gives how many frames it
    /// dealt with.
    #[inline]
    pub fn round(&mut self) -> usize {
        self.worker.round()
    }

    /// The queues' counters by name, added up, as of the last round that found work: see [`COUNTERS`](crate::COUNTERS).
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut queues = self.counters.iter().map(|queue| queue.snapshot());
        let mut sum = queues.next().unwrap_or_default();
        for queue in queues {
            for ((_, sum), (_, value)) in sum.iter_mut().zip(queue) {
                *sum += value;
            }
        }
        sum
    }

    /// One of them; 0 if there is none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.counters();
        counters
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, value)| *value)
    }

    /// The program's last fault, told for a person.
    pub fn last_fault(&self) -> Option<String> {
        let slot = self.worker.slots.first()?;
        slot.program.as_ref()?.last_fault()
    }

    /// What the driver and the worker keep of each queue, for a bench that counts what lies in caches.
    pub fn queues(&self) -> impl Iterator<Item = (&RxQueue, &TxQueue, &RxBatch)> {
        let slots = self.worker.slots.iter();
        slots.filter_map(|slot| Some((&slot.pair.as_ref()?.rx, &slot.pair.as_ref()?.tx, &*slot.batch)))
    }

    /// The queues, to be given back to their port; nothing is left in the worker.
    pub fn into_queues(mut self) -> Vec<(RxQueue, TxQueue)> {
        let slots = 0..self.worker.slots.len();
        let pairs = slots.filter_map(|slot| self.worker.give(slot));
        pairs.map(|pair| (pair.rx, pair.tx)).collect()
    }
}

fn steering(source: SteeringError) -> AppError {
    AppError::Steering {
        port: "of a worker by hand".to_owned(),
        source,
    }
}
