//! Stands where rbpf is not: on machines other than x86-64, and without the feature `rbpf`.

use std::sync::Arc;

use crate::interp::Core;
use crate::{EngineKind, FaultReport, InstanceStats, LoadError, Program, Verdict, XdpBuff};

/// Why there is no such engine in this build.
pub(crate) const UNAVAILABLE: Option<&str> = Some(if cfg!(feature = "rbpf") {
    "it makes code for x86-64 only"
} else {
    "it was built without the feature `rbpf`"
});

/// An engine that is never made.
#[derive(Debug)]
pub(crate) enum Foreign {}

impl Foreign {
    pub fn new(_: &Arc<Program>, _: u32, engine: EngineKind) -> Result<Foreign, LoadError> {
        Err(LoadError::EngineUnavailable(
            engine.name(),
            UNAVAILABLE.unwrap_or_default(),
        ))
    }

    pub fn core(&mut self) -> &mut Core {
        match *self {}
    }

    pub fn run(&mut self, _: &mut XdpBuff<'_>) -> Verdict {
        match *self {}
    }

    pub fn stats(&self) -> InstanceStats {
        match *self {}
    }

    pub fn last_fault(&self) -> Option<FaultReport> {
        match *self {}
    }
}
