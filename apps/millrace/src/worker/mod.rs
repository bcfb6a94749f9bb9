//! Workers: one thread a core that polls its queues, runs their programs and sends what they decide on.
//!
//! `run` is the thread's loop, `batch` what happens to the frames of one poll, with `execute` for the program over them,
//! `mask` for sets of them and `pair` for the way into a ring, `chain` the programs they meet, `steer` the one that chooses
//! their TX queue, `route` how a frame reaches a TX queue that this or another worker owns, `mailbox` and `wake` how control
//! reaches a worker, `idle` what it does without work, `counters` what it counts; `by_hand` is a worker without a thread.

pub(crate) mod batch;
mod by_hand;
pub(crate) mod chain;
pub mod counters;
#[cfg(test)]
mod dispatcher_tests;
mod execute;
pub(crate) mod idle;
pub mod mailbox;
mod mask;
pub(crate) mod pair;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod steer;
pub(crate) mod wake;

pub use batch::{PassAction, PassHandler, PassedFrame};
pub use by_hand::HandWorker;
pub use idle::IdlePolicy;
