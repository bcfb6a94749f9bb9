//! Every counter a worker keeps, each with one meaning. A queue's counters are written by the worker that owns the queue and
//! by nobody else, so an update is a plain add and a relaxed store; any thread may read.

use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one counter means.
#[derive(Clone, Copy, Debug)]
pub struct CounterInfo {
    /// Name shown by `millrace stats` and in JSON.
    pub name: &'static str,
    /// What one count is.
    pub unit: &'static str,
    /// The one thing it counts.
    pub meaning: &'static str,
}

macro_rules! counters {
    ($($variant:ident $name:literal $unit:literal $meaning:literal;)*) => {
        /// Index of a counter in [`COUNTERS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $(#[doc = $meaning] $variant,)* }
        /// All counters of a queue, in the order they are shown.
        pub const COUNTERS: &[CounterInfo] =
            &[$(CounterInfo { name: $name, unit: $unit, meaning: $meaning },)*];
        const LEN: usize = [$(Counter::$variant,)*].len();
    };
}

counters! {
    RxFrames "rx_frames" "frames" "frames the driver handed to the worker; equals the sum of no_program and the five xdp_ verdicts";
    RxBytes "rx_bytes" "bytes" "bytes of those frames, Ethernet header included, FCS not";
    RxMulti "rx_multi_buffer" "frames" "those of rx_frames that took more than one buffer";
    NoProgram "no_program" "frames" "frames received while no program was attached; treated as passed";
    Aborted "xdp_aborted" "frames" "verdict XDP_ABORTED, an unknown verdict, or a program that failed; dropped";
    Drop "xdp_drop" "frames" "verdict XDP_DROP";
    Pass "xdp_pass" "frames" "verdict XDP_PASS";
    Tx "xdp_tx" "frames" "verdict XDP_TX";
    Redirect "xdp_redirect" "frames" "verdict XDP_REDIRECT";
    PassTap "pass_tap" "frames" "passed frames written to the exception tap";
    PassCallback "pass_callback" "frames" "passed frames the application's callback took";
    PassNowhere "pass_nowhere" "frames" "passed frames dropped because there is neither a tap nor a callback";
    PassTapFull "pass_tap_dropped" "frames" "passed frames the exception tap did not take (queue full or interface down)";
    TxFrames "tx_frames" "frames" "frames put into this queue's TX ring, whatever they came from";
    TxFull "tx_full" "frames" "frames dropped because this queue's TX ring had no room";
    TxRefused "tx_refused" "frames" "frames dropped because this queue can never send them (empty, too long, too many buffers)";
    TxHandover "tx_handover" "frames" "frames steering gave to a TX queue of another worker";
    TxHandoverFull "tx_handover_full" "frames" "frames dropped because the hand-over ring to the other worker was full";
    TxNoQueue "tx_no_queue" "frames" "frames dropped because the TX queue they were for is stopped";
    TapToPort "tap_to_port" "frames" "frames from the exception tap put into this queue's TX ring";
    RedirectPort "redirect_port" "frames" "redirected frames given to a port of this application";
    RedirectUnsupported "redirect_unsupported" "frames" "redirected frames dropped because the target is no port of this application";
    SteerProgram "steer_program" "frames" "frames whose TX queue a steering program chose";
    SteerOutOfRange "steer_out_of_range" "frames" "those of steer_program whose queue number was out of range and was taken modulo the number of queues";
    SteerNoOpinion "steer_no_opinion" "frames" "frames about which the steering program had no opinion";
    SteerAborted "steer_aborted" "frames" "those of steer_no_opinion where the steering program was ended by a fault";
    SteerRxq "steer_rxq_map" "frames" "frames whose TX queue the rxq map chose";
    SteerCpu "steer_cpu_map" "frames" "frames whose TX queue the cpu map chose";
    SteerHash "steer_hash" "frames" "frames whose TX queue the flow hash chose";
    ProgramSwaps "program_swaps" "swaps" "times the worker put another program, or none, in front of this queue or of its TX queue choice";
}

/// Counters of one queue as other threads see them.
#[derive(Debug)]
pub struct SharedCounters(CachePadded<[AtomicU64; LEN]>);

impl SharedCounters {
    /// All zero.
    pub fn new() -> Arc<SharedCounters> {
        Arc::new(SharedCounters(CachePadded::new(std::array::from_fn(|_| {
            AtomicU64::new(0)
        }))))
    }

    #[cfg(test)]
    fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    /// All values with their names, in the order of [`COUNTERS`].
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        COUNTERS
            .iter()
            .zip(self.0.iter())
            .map(|(info, v)| (info.name, v.load(Ordering::Relaxed)))
            .collect()
    }
}

/// The owning worker's side: adds locally, publishes once a batch.
#[derive(Debug)]
pub(crate) struct LocalCounters {
    values: [u64; LEN],
    shared: Arc<SharedCounters>,
}

impl LocalCounters {
    /// Goes on from what `shared` holds, so that a queue which changes hands keeps its counts.
    pub(crate) fn new(shared: Arc<SharedCounters>) -> LocalCounters {
        let values = std::array::from_fn(|i| shared.0[i].load(Ordering::Relaxed));
        LocalCounters { values, shared }
    }

    #[inline]
    pub(crate) fn add(&mut self, counter: Counter, n: u64) {
        self.values[counter as usize] = self.values[counter as usize].wrapping_add(n);
    }

    /// For counters that somebody else keeps.
    #[inline]
    pub(crate) fn set(&mut self, counter: Counter, n: u64) {
        self.values[counter as usize] = n;
    }

    #[cfg(test)]
    fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Makes the values visible. Relaxed: a reader wants each number, not an order between them.
    #[inline]
    pub(crate) fn publish(&self) {
        for (shared, value) in self.shared.0.iter().zip(self.values) {
            shared.store(value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_names_are_unique_and_explained() {
        for (i, a) in COUNTERS.iter().enumerate() {
            assert!(!a.meaning.is_empty() && !a.unit.is_empty());
            assert!(
                COUNTERS[i + 1..].iter().all(|b| b.name != a.name),
                "{} twice",
                a.name
            );
        }
        assert_eq!(COUNTERS[Counter::ProgramSwaps as usize].name, "program_swaps");
    }

    #[test]
    fn a_queue_that_changes_hands_keeps_its_counts() {
        let shared = SharedCounters::new();
        let mut first = LocalCounters::new(shared.clone());
        first.add(Counter::Drop, 3);
        assert_eq!(shared.get(Counter::Drop), 0, "nothing is visible before publish");
        first.publish();
        let mut second = LocalCounters::new(shared.clone());
        second.add(Counter::Drop, 1);
        second.publish();
        assert_eq!(shared.get(Counter::Drop), 4);
        assert_eq!(second.get(Counter::Drop), 4);
    }
}
