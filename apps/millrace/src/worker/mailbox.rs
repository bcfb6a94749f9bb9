//! How control reaches a worker. Control posts a command under a new generation number and waits; the worker compares that
//! number with the last it saw (one load, at the top of its loop), does what the commands say and sends the old values
//! back, so that nothing is freed, locked or allocated on the path of a packet.
//!
//! Both ways are bounded crossbeam channels whose slots are allocated when the mailbox is made.

use super::wake::Waker;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Commands that may be unanswered before control gives the worker up as stuck.
const DEPTH: usize = 64;

/// Why a command was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    #[error("the worker has ended")]
    Gone,
    #[error("the worker did not answer within {0:?}; is its core taken by something else?")]
    Stuck(Duration),
}

/// Control's end.
pub(crate) struct Mailbox<C, R> {
    generation: Arc<CachePadded<AtomicU64>>,
    ends: Mutex<Ends<C, R>>,
    waker: Waker,
}

struct Ends<C, R> {
    commands: Sender<(u64, C)>,
    replies: Receiver<(u64, R)>,
    unanswered: usize,
}

/// The worker's end.
pub(crate) struct Inbox<C, R> {
    generation: Arc<CachePadded<AtomicU64>>,
    seen: u64,
    commands: Receiver<(u64, C)>,
    replies: Sender<(u64, R)>,
}

pub(crate) fn mailbox<C, R>(waker: Waker) -> (Mailbox<C, R>, Inbox<C, R>) {
    let generation = Arc::new(CachePadded::new(AtomicU64::new(0)));
    let (commands, command_out) = bounded(DEPTH);
    let (reply_in, replies) = bounded(DEPTH);
    let inbox = Inbox {
        generation: generation.clone(),
        seen: 0,
        commands: command_out,
        replies: reply_in,
    };
    (
        Mailbox {
            generation,
            ends: Mutex::new(Ends {
                commands,
                replies,
                unanswered: 0,
            }),
            waker,
        },
        inbox,
    )
}

impl<C, R> Mailbox<C, R> {
    /// Posts `command` and waits for its answer. Commands are done one after the other, in order.
    pub(crate) fn call(&self, command: C, limit: Duration) -> Result<R, MailboxError> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers that came after an earlier call gave up are freed here, by control.
        while ends.replies.try_recv().is_ok() {
            ends.unanswered = ends.unanswered.saturating_sub(1);
        }
        if ends.unanswered >= DEPTH {
            return Err(MailboxError::Stuck(limit));
        }
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        match ends.commands.try_send((generation, command)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(MailboxError::Stuck(limit)),
            Err(TrySendError::Disconnected(_)) => return Err(MailboxError::Gone),
        }
        ends.unanswered += 1;
        // Release pairs with the Acquire in `pending`: who sees the number finds the command in the channel.
        self.generation.store(generation, Ordering::Release);
        self.waker.wake();
        let deadline = Instant::now() + limit;
        loop {
            match ends.replies.recv_deadline(deadline) {
                Ok((answered, reply)) => {
                    ends.unanswered = ends.unanswered.saturating_sub(1);
                    if answered == generation {
                        return Ok(reply);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(MailboxError::Stuck(limit)),
                Err(RecvTimeoutError::Disconnected) => return Err(MailboxError::Gone),
            }
        }
    }
}

impl<C, R> Inbox<C, R> {
    /// Whether control has posted anything since the last `take` that returned `None`.
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        self.generation.load(Ordering::Acquire) != self.seen
    }

    /// The next command with its generation.
    pub(crate) fn take(&mut self) -> Option<(u64, C)> {
        let (generation, command) = self.commands.try_recv().ok()?;
        self.seen = generation;
        Some((generation, command))
    }

    /// Answers a command; control frees what the answer holds.
    pub(crate) fn reply(&self, generation: u64, reply: R) {
        // There is a slot for every command control may leave unanswered. When control is gone, so is the reason to keep it.
        let _ = self.replies.try_send((generation, reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn ten_thousand_swaps_give_every_old_value_back_to_control_in_order() {
        let (control, mut worker) = mailbox::<Option<Box<u64>>, Box<u64>>(Waker::new().expect("waker"));
        let thread = thread::spawn(move || {
            let mut current = Box::new(0u64);
            loop {
                if !worker.pending() {
                    thread::yield_now();
                    continue;
                }
                while let Some((generation, command)) = worker.take() {
                    let Some(new) = command else { return *current };
                    worker.reply(generation, std::mem::replace(&mut current, new));
                }
            }
        });
        for i in 1..=10_000u64 {
            assert_eq!(*control.call(Some(Box::new(i)), LIMIT).expect("swap"), i - 1);
        }
        assert_eq!(
            control.call(None, LIMIT).expect_err("worker ends"),
            MailboxError::Gone
        );
        assert_eq!(thread.join().expect("worker"), 10_000);
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_answer_to_the_next_command() {
        let (control, mut worker) = mailbox::<u32, u32>(Waker::new().expect("waker"));
        let short = Duration::from_millis(1);
        assert_eq!(control.call(1, short), Err(MailboxError::Stuck(short)));
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while answered < 2 {
                while let Some((generation, command)) = worker.take() {
                    worker.reply(generation, command * 10);
                    answered += 1;
                }
                thread::yield_now();
            }
        });
        assert_eq!(control.call(2, LIMIT), Ok(20));
        thread.join().expect("worker");
    }

    #[test]
    fn a_worker_that_never_answers_is_reported_and_memory_stays_bounded() {
        let (control, _worker) = mailbox::<u32, u32>(Waker::new().expect("waker"));
        for i in 0..2 * DEPTH as u32 {
            assert!(matches!(
                control.call(i, Duration::ZERO),
                Err(MailboxError::Stuck(_))
            ));
        }
    }

    #[test]
    fn a_sleeping_worker_is_woken_by_a_command() {
        let waker = Waker::new().expect("waker");
        let (control, mut worker) = mailbox::<u32, u32>(waker.clone());
        let thread = thread::spawn(move || {
            loop {
                waker.prepare_sleep();
                if !worker.pending() {
                    let fd = waker.fd();
                    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
                    let limit = rustix::event::Timespec {
                        tv_sec: 20,
                        tv_nsec: 0,
                    };
                    rustix::event::poll(&mut fds, Some(&limit)).expect("poll");
                }
                waker.awake();
                while let Some((generation, command)) = worker.take() {
                    worker.reply(generation, command);
                    if command == 999 {
                        return;
                    }
                }
            }
        });
        for i in 0..1000 {
            assert_eq!(control.call(i, LIMIT), Ok(i));
        }
        thread.join().expect("worker");
    }
}
