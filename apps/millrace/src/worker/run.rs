//! A worker's loop: commands, then every queue once, then what others left on the doorstep, then one doorbell a queue.

use super::batch::{Scratch, Slot};
use super::chain::Attached;
use super::counters::Counter;
use super::idle::{Backoff, IdlePolicy, Step};
use super::mailbox::Inbox;
use super::pair::QueuePair;
use super::route::{Doorstep, Injected, Routes};
use crate::capture::tap::Tap;
use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;
use millrace_driver::mem::Frame;
use millrace_driver::queue::{BATCH, RxBatch};
use millrace_driver::steering::{TxChooser, TxFrame, TxSteering, flow_hash};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What control can ask of a worker.
pub(crate) enum Command {
    /// Put this program (or none) in front of a slot; answered with the old one.
    SetProgram {
        slot: usize,
        program: Option<Box<Attached>>,
    },
    /// Put this steering program (or none) in front of a slot's TX queue choice; answered with the old one.
    SetChooser {
        slot: usize,
        chooser: Option<Box<dyn TxChooser>>,
    },
    /// Put this capture (or none) on a slot; answered with the old one.
    SetTap { slot: usize, tap: Option<Box<Tap>> },
    /// Put these maps and this program slot in front of a slot's TX queue choice; answered with the old ones.
    SetSteering { slot: usize, steering: Box<TxSteering> },
    /// Move a slot's queues out; answered with them.
    GiveQueues { slot: usize },
    /// Take queues into a slot.
    TakeQueues { slot: usize, pair: Box<QueuePair> },
    /// Begin to receive. Before this a worker only sends, so that no frame comes in while queues are still on their way to
    /// the workers that are to send it.
    Open,
    /// Nothing; the answer says that everything before it has been seen.
    Barrier,
    /// Leave the loop.
    Stop,
}

/// Answers, which carry the old values home.
pub(crate) enum Reply {
    Program(Option<Box<Attached>>),
    Chooser(Option<Box<dyn TxChooser>>),
    #[allow(dead_code, reason = "carried home to be freed there")]
    Tap(Option<Box<Tap>>),
    Steering(Option<Box<TxSteering>>),
    Queues(Option<Box<QueuePair>>),
    Done,
}

/// What a worker tells about itself. Unit: rounds of its loop, except `sleeps`.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    /// Rounds that found work.
    pub(crate) busy: CachePadded<AtomicU64>,
    /// Rounds that found none.
    pub(crate) idle: AtomicU64,
    /// Times it went to sleep.
    pub(crate) sleeps: AtomicU64,
}

pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) slots: Vec<Slot>,
    /// Whether it receives.
    pub(crate) open: bool,
    pub(crate) inbox: Inbox<Command, Reply>,
    pub(crate) doorstep: Arc<Doorstep>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) scratch: Scratch,
    pub(crate) backoff: Backoff,
    pub(crate) policy: IdlePolicy,
    pub(crate) stats: Arc<WorkerStats>,
}

impl Worker {
    /// Runs until control says stop.
    pub(crate) fn run(&mut self) {
        let (mut busy, mut idle) = (0u64, 0u64);
        loop {
            if self.inbox.pending() && self.obey() {
                return;
            }
            if self.round() > 0 {
                busy += 1;
                self.stats.busy.store(busy, Ordering::Relaxed);
                self.backoff.reset();
                continue;
            }
            idle += 1;
            match self.backoff.step() {
                Step::Spin => std::hint::spin_loop(),
                Step::Yield => {
                    self.reclaim();
                    std::thread::yield_now();
                }
                Step::Sleep(limit) => {
                    self.reclaim();
                    self.stats.idle.store(idle, Ordering::Relaxed);
                    self.sleep(limit);
                }
            }
        }
    }

    /// Every queue once. Returns how many frames were dealt with.
    pub(crate) fn round(&mut self) -> usize {
        let mut work = 0;
        let receiving = if self.open { self.slots.len() } else { 0 };
        for at in 0..receiving {
            let received = self.slots[at].receive(&mut self.scratch);
            work += received;
            if !self.scratch.others.is_empty() {
                self.send_to_others(at);
            }
            if !self.scratch.away.is_empty() {
                self.send_away(at);
            }
        }
        if !self.doorstep.is_empty() {
            work += self.take_in();
        }
        if work > 0 {
            for slot in &mut self.slots {
                slot.submit();
                slot.publish();
            }
        }
        work
    }

    /// Frames of the batch of slot `from` that other queues of its port shall send: a queue's at once where it is this
    /// worker's, too, and else by way of `scratch.away`.
    fn send_to_others(&mut self, from: usize) {
        let mut numbers = [0; BATCH];
        while let Some((queue, frames)) = self.scratch.others.take_queue(&mut numbers) {
            let port = self.slots[from].port;
            let route = self.routes.get(port, queue);
            let own = route
                .filter(|route| route.worker == self.id)
                .map(|route| route.slot);
            let both = own.and_then(|to| self.slots.get_disjoint_mut([from, to]).ok());
            let whole = |batch: &RxBatch| {
                batch.buffers() == batch.len() || frames.iter().all(|i| batch.is_whole(usize::from(*i)))
            };
            match both {
                Some([from, to]) if to.shares_memory(&from.batch) && whole(&from.batch) => {
                    to.push_from(&mut from.batch, frames);
                }
                _ => {
                    for i in frames {
                        self.slots[from].send_away(usize::from(*i), port, Some(queue), &mut self.scratch);
                    }
                }
            }
        }
    }

    /// Frames that slot `from` received and that a queue of another worker or port shall send.
    fn send_away(&mut self, from: usize) {
        while let Some(mut away) = self.scratch.away.pop_at(0) {
            let queue = away
                .queue
                .or_else(|| self.steered(away.port, &mut away.frame))
                .or_else(|| self.routes.queue_of_worker(away.port, self.id));
            let Some(route) = queue.and_then(|queue| self.routes.get(away.port, queue)) else {
                self.slots[from].counters.add(Counter::TxNoQueue, 1);
                continue;
            };
            if route.worker == self.id {
                if let Some(slot) = self.slots.get_mut(route.slot) {
                    slot.send_frame(away.frame, &mut self.scratch.joined);
                }
                continue;
            }
            let doorstep = &self.routes.doorsteps[route.worker];
            let counter = match doorstep.handed.push((route.slot, away.frame)) {
                Ok(()) => Counter::TxHandover,
                Err(_) => Counter::TxHandoverFull,
            };
            doorstep.waker.wake();
            self.slots[from].counters.add(counter, 1);
        }
    }

    /// The TX queue that a steering program of this worker's queue on `port` chooses for a frame from another port; with no
    /// opinion, the maps behind it.
    fn steered(&mut self, port: usize, frame: &mut Frame) -> Option<u16> {
        let own = self.routes.queue_of_worker(port, self.id)?;
        let route = self
            .routes
            .get(port, own)
            .filter(|route| route.worker == self.id)?;
        let slot = self.slots.get_mut(route.slot)?;
        if !slot.steering.has_program() {
            return None;
        }
        let len = frame.len();
        let data = frame.head_mut();
        let hash = flow_hash(&slot.key, data).unwrap_or(0);
        let opinion = slot.steering.run_program(TxFrame {
            data,
            len,
            raw: &[],
            rxq: None,
        });
        Some(slot.steering.choose(None, self.scratch.cpu, hash, opinion))
    }

    /// What other threads left, at most a ring's worth a round so that they cannot starve the queues.
    fn take_in(&mut self) -> usize {
        let mut taken = 0;
        for _ in 0..self.doorstep.handed.capacity().min(256) {
            let Some((slot, frame)) = self.doorstep.handed.pop() else {
                break;
            };
            taken += 1;
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.send_frame(frame, &mut self.scratch.joined);
            }
        }
        for _ in 0..64 {
            let Some(Injected { slot, bytes, home }) = self.doorstep.injected.pop() else {
                break;
            };
            taken += 1;
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.send_bytes(&bytes);
            }
            // Its home has a place for every vector it ever gave out.
            let _ = home.push(bytes);
        }
        taken
    }

    /// Brings home buffers that the device has sent, which otherwise waits for the next frame to send.
    fn reclaim(&mut self) {
        for slot in &mut self.slots {
            if let Some(pair) = &mut slot.pair {
                pair.tx.reclaim();
            }
        }
    }

    /// Sleeps until there is work, a command, or the limit is over.
    fn sleep(&mut self, limit: Duration) {
        // Beyond this many queues a worker sleeps by the clock.
        const IRQS: usize = 15;
        let armed = self.slots.len() <= IRQS
            && self
                .slots
                .iter()
                .all(|slot| slot.pair.as_ref().is_none_or(|pair| pair.irq.is_some()));
        // A device that has gone cannot be armed; its port's thread finds out and ends the worker.
        let armed = armed
            && self
                .slots
                .iter_mut()
                .filter_map(|slot| slot.pair.as_mut())
                .all(|pair| pair.rx.arm().is_ok());
        let limit = if armed { self.policy.longest_wait } else { limit };
        let waker = &self.doorstep.waker;
        waker.prepare_sleep();
        if !self.inbox.pending() && self.doorstep.is_empty() {
            self.stats.sleeps.fetch_add(1, Ordering::Relaxed);
            let wake = waker.fd();
            let mut fds = ArrayVec::<PollFd<'_>, { IRQS + 1 }>::new();
            fds.push(PollFd::new(&wake, PollFlags::IN));
            if armed {
                for slot in &self.slots {
                    if let Some(irq) = slot.pair.as_ref().and_then(|pair| pair.irq.as_ref()) {
                        fds.push(PollFd::new(irq, PollFlags::IN));
                    }
                }
            }
            let limit = Timespec {
                tv_sec: limit.as_secs() as i64,
                tv_nsec: limit.subsec_nanos().into(),
            };
            // EINTR and the like only mean that it looks again.
            let _ = poll(&mut fds, Some(&limit));
            for fd in fds
                .iter()
                .skip(1)
                .filter(|fd| fd.revents().contains(PollFlags::IN))
            {
                let mut count = [0u8; 8];
                let _ = rustix::io::read(fd, &mut count);
            }
        }
        waker.awake();
        if armed {
            for slot in &mut self.slots {
                if let Some(pair) = &mut slot.pair {
                    let _ = pair.rx.disarm();
                }
            }
        }
    }

    /// Does what control posted. True: leave the loop.
    fn obey(&mut self) -> bool {
        let mut stop = false;
        while let Some((generation, command)) = self.inbox.take() {
            let reply = match command {
                Command::SetProgram { slot, program } => match self.slots.get_mut(slot) {
                    Some(slot) => {
                        slot.counters.add(Counter::ProgramSwaps, 1);
                        Reply::Program(std::mem::replace(&mut slot.program, program))
                    }
                    None => Reply::Program(program),
                },
                Command::SetChooser { slot, chooser } => match self.slots.get_mut(slot) {
                    Some(slot) => {
                        slot.counters.add(Counter::ProgramSwaps, 1);
                        Reply::Chooser(slot.steering.set_program(chooser))
                    }
                    None => Reply::Chooser(chooser),
                },
                Command::SetTap { slot, tap } => Reply::Tap(match self.slots.get_mut(slot) {
                    Some(slot) => std::mem::replace(&mut slot.tapped, tap),
                    None => tap,
                }),
                Command::SetSteering { slot, mut steering } => match self.slots.get_mut(slot) {
                    Some(slot) => {
                        std::mem::swap(&mut slot.steering, &mut *steering);
                        Reply::Steering(Some(steering))
                    }
                    None => Reply::Steering(None),
                },
                Command::GiveQueues { slot } => Reply::Queues(self.give(slot)),
                Command::TakeQueues { slot, pair } => match self.slots.get_mut(slot) {
                    Some(slot) if slot.pair.is_none() => {
                        slot.pair = Some(*pair);
                        Reply::Done
                    }
                    _ => Reply::Queues(Some(pair)),
                },
                Command::Open => {
                    self.open = true;
                    Reply::Done
                }
                Command::Barrier => Reply::Done,
                Command::Stop => {
                    stop = true;
                    Reply::Done
                }
            };
            self.slots.iter_mut().for_each(Slot::publish);
            self.inbox.reply(generation, reply);
        }
        stop
    }

    /// Moves a slot's queues out, with nothing of theirs left behind.
    pub(crate) fn give(&mut self, slot: usize) -> Option<Box<QueuePair>> {
        let slot = self.slots.get_mut(slot)?;
        slot.batch.clear();
        let mut pair = slot.pair.take()?;
        pair.tx.submit();
        Some(Box::new(pair))
    }
}
