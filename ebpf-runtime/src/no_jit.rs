//! Stands where the JIT is not: on machines other than x86-64, and without the feature `jit`.

use std::sync::Arc;
use std::time::Duration;

use crate::interp::Core;
use crate::{FaultReport, HintLayout, InstanceStats, LoadError, Program, Verdict, XdpBuff};

/// Why there is no JIT in this build.
pub(crate) const UNAVAILABLE: Option<&str> = Some(if cfg!(feature = "jit") {
    "it makes code for x86-64 only"
} else {
    "it was built without the feature `jit`"
});

/// No code.
pub(crate) fn executable_bytes() -> usize {
    0
}

/// Where a program would keep its code.
#[derive(Debug, Default)]
pub(crate) struct Slot;

impl Slot {
    pub fn get(&self) -> Option<&Code> {
        None
    }
}

/// There is none.
#[derive(Debug)]
pub(crate) struct Code {
    pub time: Duration,
    pub bytes: usize,
}

/// An engine that is never made.
#[derive(Debug)]
pub(crate) enum Jit {}

impl Jit {
    pub fn new(_: &Arc<Program>, _: u32) -> Result<Jit, LoadError> {
        Err(LoadError::EngineUnavailable(
            "jit",
            UNAVAILABLE.unwrap_or_default(),
        ))
    }

    pub fn core(&mut self) -> &mut Core {
        match *self {}
    }

    pub fn set_hints(&mut self, _: &HintLayout) {
        match *self {}
    }

    pub fn set_budget(&mut self, _: u64) {
        match *self {}
    }

    pub fn run_batch(&mut self, _: &mut [XdpBuff<'_>], _: &mut [Verdict]) {
        match *self {}
    }

    pub fn run_one(&mut self, _: &mut XdpBuff<'_>) -> Verdict {
        match *self {}
    }

    pub fn note_frags(&mut self) {
        match *self {}
    }

    pub fn stats(&self) -> InstanceStats {
        match *self {}
    }

    pub fn last_fault(&self) -> Option<FaultReport> {
        match *self {}
    }
}
