//! Two threads that stand for two things which run all the time: a driver's worker and the hardware.
//!
//! A NIC does not stop, and a worker has its processor to itself. Threads of a virtual machine do stop: whoever runs it takes
//! a processor away for milliseconds, many times a second. If the models went on meanwhile they would overrun a ring that no
//! real driver would have left alone for so long, and no rate at all would pass. So each thread tells when it was at work
//! last, the other one waits while it is not, and that time is taken off the trial's clock. How much it was is told with
//! the result. Nothing of this is done for real ports.

use crate::clock;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};

/// So long without a round means that a thread was stopped. Rounds take some 10 microseconds, and a ring of 1024 holds what
/// comes in four times as long at the highest rates.
const STOPPED_NANOS: u64 = 50_000;
/// Who has been stopped for so long is not waited for any more.
const GONE_NANOS: u64 = 10_000_000_000;

/// When a thread was at work last, on a cache line (and the one fetched with it) of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seen(AtomicU64);

impl Seen {
    fn tell(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// How long ago it was.
    fn ago(&self, now: u64) -> u64 {
        now.saturating_sub(self.0.load(Ordering::Relaxed))
    }
}

/// What the two threads know of each other.
#[derive(Debug, Default)]
pub struct Pace {
    driver: Seen,
    models: Seen,
}

impl Pace {
    /// Both are at work, now.
    pub fn start(&self) {
        let now = clock::wall_nanos();
        self.driver.tell(now);
        self.models.tell(now);
    }

    /// The models' thread is at work. False while the driver's is not, and nothing may move.
    pub fn models_may_move(&self) -> bool {
        let now = clock::wall_nanos();
        self.models.tell(now);
        let ago = self.driver.ago(now);
        !(STOPPED_NANOS..GONE_NANOS).contains(&ago)
    }
}

/// The clock of a trial, read by the driver's thread once a round.
pub struct Watch<'a> {
    /// `None`: nobody is waited for, and the clock is the wall's.
    pace: Option<&'a Pace>,
    start: u64,
    last: u64,
    /// Nanoseconds that do not count.
    off: u64,
}

impl<'a> Watch<'a> {
    pub fn start(pace: Option<&'a Pace>) -> Watch<'a> {
        if let Some(pace) = pace {
            pace.start();
        }
        let start = clock::wall_nanos();
        Watch {
            pace,
            start,
            last: start,
            off: 0,
        }
    }

    /// Nanoseconds of the trial, at the beginning of a round: while the models' thread is stopped, this waits.
    pub fn round(&mut self) -> u64 {
        let time = self.now();
        let Some(pace) = self.pace else { return time };
        pace.driver.tell(self.last);
        if !(STOPPED_NANOS..GONE_NANOS).contains(&pace.models.ago(self.last)) {
            return time;
        }
        loop {
            spin_loop();
            let now = clock::wall_nanos();
            pace.driver.tell(now);
            if !(STOPPED_NANOS..GONE_NANOS).contains(&pace.models.ago(now)) {
                self.off += now - self.last;
                self.last = now;
                return time;
            }
        }
    }

    /// Nanoseconds of the trial; time in which this thread was stopped is not in them.
    pub fn now(&mut self) -> u64 {
        let now = clock::wall_nanos();
        let since = now - self.last;
        if self.pace.is_some() && since >= STOPPED_NANOS {
            self.off += since;
        }
        self.last = now;
        now - self.start - self.off
    }

    /// Share of the time that did not count, in percent.
    pub fn stopped_percent(&self) -> f64 {
        self.off as f64 * 100.0 / (self.last - self.start).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_millis(5);

    #[test]
    fn time_in_which_the_drivers_thread_was_stopped_does_not_count() {
        let pace = Pace::default();
        let mut watch = Watch::start(Some(&pace));
        let before = watch.round();
        std::thread::sleep(LONG);
        assert!(!pace.models_may_move(), "the driver has not been seen since");
        assert_eq!(watch.now(), before);
        assert!(watch.off >= LONG.as_nanos() as u64 && watch.stopped_percent() > 0.0);
    }

    #[test]
    fn the_driver_waits_for_models_that_were_stopped() {
        let pace = Pace::default();
        let mut watch = Watch::start(Some(&pace));
        std::thread::sleep(LONG);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(LONG);
                // Until the driver goes on, as a thread of models does.
                for _ in 0..1000 {
                    pace.models_may_move();
                    std::thread::sleep(Duration::from_micros(10));
                }
            });
            watch.round();
        });
        assert!(watch.off >= 2 * LONG.as_nanos() as u64, "{}", watch.off);
    }

    #[test]
    fn without_a_pair_of_threads_the_clock_is_the_walls() {
        let mut watch = Watch::start(None);
        std::thread::sleep(LONG);
        assert!(watch.round() >= LONG.as_nanos() as u64);
        assert_eq!(watch.off, 0);
    }
}
