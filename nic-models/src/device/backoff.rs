//! How an idle model waits: it spins, then yields, then sleeps until a descriptor is readable or a timer ends.
//!
//! Where the client can ring doorbells without a message, no descriptor tells of it; then sleeps are short.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Model;

/// How long each stage of idling lasts.
#[derive(Clone, Copy, Debug)]
pub struct IdlePolicy {
    /// Time spent spinning after the last work.
    pub spin: Duration,
    /// Time after the last work during which the core is offered to others but not given up.
    pub yielding: Duration,
    /// Longest sleep while doorbells must be looked at.
    pub sleep: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        IdlePolicy {
            spin: Duration::from_micros(20),
            yielding: Duration::from_micros(100),
            sleep: Duration::from_micros(200),
        }
    }
}

/// Longest sleep of all, so that a request to stop is seen.
const LONGEST: Duration = Duration::from_millis(200);
/// How long wire descriptors are left out after they woke a model that found nothing to do.
const DEAF: Duration = Duration::from_millis(1);

/// The idle state of one runner.
#[derive(Debug)]
pub struct Backoff {
    policy: IdlePolicy,
    idle_since: Option<Instant>,
    nap: Duration,
    /// The wire was readable, yet the model did nothing: do not let it wake us at once again.
    wire_cried: bool,
}

/// What a runner waits for beside the model's own descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    pub fd: BorrowedFd<'a>,
    pub write: bool,
}

impl Backoff {
    pub fn new(policy: IdlePolicy) -> Backoff {
        Backoff {
            policy,
            idle_since: None,
            nap: Duration::ZERO,
            wire_cried: false,
        }
    }

    /// There was work: start over.
    pub fn busy(&mut self) {
        self.idle_since = None;
        self.nap = Duration::ZERO;
        self.wire_cried = false;
    }

    /// There was none: wait a little, or until something happens. `look_again` is the caller's own deadline;
    /// `doorbells` says that the client may ring mapped doorbells.
    pub fn idle(
        &mut self,
        model: &dyn Model,
        others: &[Interest<'_>],
        look_again: Option<Instant>,
        doorbells: bool,
    ) {
        let now = Instant::now();
        let idle = now.duration_since(*self.idle_since.get_or_insert(now));
        if idle < self.policy.spin {
            std::hint::spin_loop();
            return;
        }
        if idle < self.policy.yielding {
            std::thread::yield_now();
            return;
        }
        let mut timeout = LONGEST;
        if doorbells {
            self.nap = (self.nap * 2).clamp(Duration::from_micros(20), self.policy.sleep);
            timeout = self.nap;
        }
        for at in model.next_timer().into_iter().chain(look_again) {
            timeout = timeout.min(at.saturating_duration_since(now));
        }
        if timeout.is_zero() {
            return;
        }
        let wires = model.wait_fds();
        let listen_to_wires = !self.wire_cried;
        if !listen_to_wires {
            timeout = timeout.min(DEAF);
        }
        let mut fds: Vec<PollFd<'_>> = others
            .iter()
            .map(|o| PollFd::from_borrowed_fd(o.fd, if o.write { PollFlags::OUT } else { PollFlags::IN }))
            .collect();
        if listen_to_wires {
            fds.extend(
                wires
                    .iter()
                    .map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
            );
        }
        let spec = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        // Interrupted or failed, the caller looks around either way.
        let _ = poll(&mut fds, Some(&spec));
        let cried = fds.iter().skip(others.len()).any(|fd| !fd.revents().is_empty());
        self.wire_cried = listen_to_wires && cried;
    }
}
