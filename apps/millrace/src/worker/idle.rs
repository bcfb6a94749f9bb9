//! What a worker does when there is nothing to do: spin for a moment, then give the core away, then sleep, longer each time
//! but never longer than a bound.

use std::time::Duration;

/// How patient an idle worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// Empty rounds before it starts to yield.
    pub spins: u32,
    /// Empty rounds with a yield before it starts to sleep.
    pub yields: u32,
    /// First sleep where the device's interrupt is not used; each further one is twice as long.
    pub first_sleep: Duration,
    /// Longest sleep where the interrupt is not used: how late a frame may be noticed.
    pub longest_sleep: Duration,
    /// Longest sleep where the interrupt ends it earlier (a lost interrupt costs no more than this).
    pub longest_wait: Duration,
}

impl Default for IdlePolicy {
    fn default() -> IdlePolicy {
        IdlePolicy {
            spins: 128,
            yields: 32,
            first_sleep: Duration::from_micros(20),
            longest_sleep: Duration::from_micros(500),
            longest_wait: Duration::from_millis(100),
        }
    }
}

impl IdlePolicy {
    /// Never gives the core away: for cores that belong to the worker alone.
    pub fn busy_poll() -> IdlePolicy {
        IdlePolicy {
            spins: u32::MAX,
            ..IdlePolicy::default()
        }
    }
}

/// What to do after an empty round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Spin,
    Yield,
    /// Sleep this long where no interrupt is armed.
    Sleep(Duration),
}

#[derive(Debug)]
pub(crate) struct Backoff {
    policy: IdlePolicy,
    empty: u32,
    sleep: Duration,
}

impl Backoff {
    pub(crate) fn new(policy: IdlePolicy) -> Backoff {
        Backoff {
            policy,
            empty: 0,
            sleep: policy.first_sleep,
        }
    }

    /// There was work.
    #[inline]
    pub(crate) fn reset(&mut self) {
        self.empty = 0;
        self.sleep = self.policy.first_sleep;
    }

    /// There was none.
    pub(crate) fn step(&mut self) -> Step {
        if self.policy.spins == u32::MAX || self.empty < self.policy.spins {
            self.empty = self.empty.saturating_add(1);
            return Step::Spin;
        }
        if self.empty - self.policy.spins < self.policy.yields {
            self.empty += 1;
            return Step::Yield;
        }
        let sleep = self.sleep.min(self.policy.longest_sleep);
        self.sleep = (self.sleep * 2).min(self.policy.longest_sleep);
        Step::Sleep(sleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_worker_spins_then_yields_then_sleeps_no_longer_than_the_bound() {
        let policy = IdlePolicy {
            spins: 3,
            yields: 2,
            ..IdlePolicy::default()
        };
        let mut backoff = Backoff::new(policy);
        let steps: Vec<Step> = (0..15).map(|_| backoff.step()).collect();
        assert_eq!(
            steps[..5],
            [Step::Spin, Step::Spin, Step::Spin, Step::Yield, Step::Yield]
        );
        assert_eq!(steps[5], Step::Sleep(policy.first_sleep));
        assert_eq!(steps[6], Step::Sleep(policy.first_sleep * 2));
        assert_eq!(steps[14], Step::Sleep(policy.longest_sleep));
        backoff.reset();
        assert_eq!(backoff.step(), Step::Spin);
    }

    #[test]
    fn a_busy_polling_worker_never_sleeps() {
        let mut backoff = Backoff::new(IdlePolicy::busy_poll());
        assert!((0..100_000).all(|_| backoff.step() == Step::Spin));
    }
}
