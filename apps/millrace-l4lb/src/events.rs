//! What happened to backends, with times: a bounded record that answers "who had this flow, and did we know it was dead?".

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::state::State;

/// Events kept; older ones are forgotten.
pub const KEPT: usize = 4096;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// `CLOCK_MONOTONIC` nanoseconds, the clock of the connection table.
    pub at_ns: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment::at(monotonic_ns())
    }

    /// The moment at which the connection table's clock showed `at_ns`. What is earlier on one clock is never later on the
    /// other, for the distance between them is taken once.
    pub fn at(at_ns: u64) -> Moment {
        static AHEAD_NS: OnceLock<u64> = OnceLock::new();
        let ahead = AHEAD_NS.get_or_init(|| {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (unix.as_nanos() as u64).saturating_sub(monotonic_ns())
        });
        Moment {
            at_ns,
            at_ms: (at_ns + ahead) / 1_000_000,
        }
    }
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A backend changed its state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When the data plane began to follow it.
    #[serde(flatten)]
    pub when: Moment,
    /// VIP.
    pub vip: String,
    /// Backend.
    pub backend: IpAddr,
    /// None when it was added.
    pub from: Option<State>,
    /// None when it was removed.
    pub to: Option<State>,
    /// Why, in words.
    pub why: String,
}

/// The last [`KEPT`] events.
#[derive(Debug, Default)]
pub struct Log(VecDeque<Event>);

impl Log {
    /// Adds one, and tells the log of the process.
    pub fn push(&mut self, event: Event) {
        let name = |state: Option<State>| state.map_or("-", State::name);
        let (from, to) = (name(event.from), name(event.to));
        tracing::info!(
            "VIP {}: backend {} {from} -> {to} ({})",
            event.vip,
            event.backend,
            event.why
        );
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.0.iter()
    }
}
