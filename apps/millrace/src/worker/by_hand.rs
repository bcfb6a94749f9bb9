//! A worker without a thread, for benches and tests: they want to know what a round costs, or see what it leaves behind.

use super::batch::{PassHandler, QueuePair, Scratch, Slot};
use super::chain::Attached;
use super::counters::{LocalCounters, SharedCounters};
use super::idle::{Backoff, IdlePolicy};
use super::mailbox::{Mailbox, mailbox};
use super::route::{Doorstep, QueueRoute, Routes};
use super::run::{Command, Reply, Worker, WorkerStats};
use super::wake::Waker;
use crate::AppError;
use millrace_driver::queue::{RxBatch, RxQueue, TxQueue};
use millrace_driver::steering::TxSteering;
use millrace_ebpf::Instance;
use std::sync::Arc;

/// One worker with one queue pair, stepped by whoever holds it. It does what the worker of an application does; control
/// cannot reach it.
pub struct HandWorker {
    worker: Worker,
    counters: Arc<SharedCounters>,
    /// The other end of the worker's mailbox, which nobody uses.
    _control: Mailbox<Command, Reply>,
}

impl std::fmt::Debug for HandWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandWorker").finish_non_exhaustive()
    }
}

impl HandWorker {
    /// Takes a port's queue pair; what comes in on it goes out on it, as an application has it at first. `program` runs in
    /// front of it; `on_pass` is called for what passes.
    pub fn new(
        rx: RxQueue,
        tx: TxQueue,
        program: Option<Instance>,
        on_pass: Option<PassHandler>,
    ) -> Result<HandWorker, AppError> {
        let queue = tx.id();
        let steering = |source| AppError::Steering {
            port: "of a worker by hand".to_owned(),
            source,
        };
        let mut maps = TxSteering::new(queue.saturating_add(1)).map_err(steering)?;
        maps.set_rxq(queue, &[queue]).map_err(steering)?;
        let waker = Waker::new().map_err(|source| AppError::Io {
            what: "eventfd",
            source,
        })?;
        let doorstep = Doorstep::new(waker.clone());
        let routes = Routes {
            ports: vec![(0..=queue).map(|_| QueueRoute::new(0, 0)).collect()],
            doorsteps: vec![doorstep.clone()],
        };
        let counters = SharedCounters::new();
        let slot = Slot {
            port: 0,
            queue,
            ifindex: 1,
            pair: Some(QueuePair { rx, tx, irq: None }),
            batch: Box::new(RxBatch::new()),
            program: program.map(|instance| Box::new(Attached::single(instance))),
            tapped: None,
            steering: maps,
            key: [0; 40],
            tap: None,
            counters: LocalCounters::new(counters.clone()),
        };
        let (control, inbox) = mailbox(waker);
        let policy = IdlePolicy::busy_poll();
        let worker = Worker {
            id: 0,
            slots: vec![slot],
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

    /// One round of the worker's loop: a poll, the program, what follows from its verdicts, a doorbell. Gives how many frames it
    /// dealt with.
    #[inline]
    pub fn round(&mut self) -> usize {
        self.worker.round()
    }

    /// The queue's counters by name, as of the last round that found work: see [`COUNTERS`](crate::COUNTERS).
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.snapshot()
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

    /// The queues, to be given back to their port; nothing is left in the worker. `None` does not happen.
    pub fn into_queues(mut self) -> Option<(RxQueue, TxQueue)> {
        let pair = self.worker.give(0)?;
        Some((pair.rx, pair.tx))
    }
}
