//! One worker's engine state for one program.

use std::sync::Arc;

use crate::interp::Interp;
use crate::program::Program;
use crate::{FaultReport, HintLayout, Verdict, XdpBuff};

/// What an instance counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceStats {
    /// Frames run.
    pub runs: u64,
    /// BPF instructions executed.
    pub instructions: u64,
    /// Runs that ended in a fault (their verdict is `XDP_ABORTED`).
    pub faults: u64,
}

/// Runs a program on one worker. `Send`, used by one thread at a time.
#[derive(Debug)]
pub struct Instance {
    program: Arc<Program>,
    engine: Interp,
}

impl Instance {
    pub(crate) fn new(program: &Arc<Program>, worker: u32) -> Instance {
        Instance {
            program: program.clone(),
            engine: Interp::new(program, worker),
        }
    }

    /// The program it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Says where the queue's hints lie; without this the metadata kfuncs return `-ENODATA`.
    pub fn set_hints(&mut self, layout: &HintLayout) {
        self.engine.core.hints = layout.clone();
    }

    /// How many instructions one run may execute before it is ended with [`crate::Fault::Budget`].
    pub fn set_budget(&mut self, instructions: u64) {
        self.engine.core.budget = instructions;
    }

    /// Fixes what clocks return (nanoseconds) and restarts the random numbers from `seed`, so that runs can be
    /// compared.
    pub fn fix_environment(&mut self, clock: u64, seed: u64) {
        self.engine.core.fixed_clock = Some(clock);
        self.engine.core.random = seed | 1;
    }

    /// Runs the program on each frame; `verdicts[i]` is about `bufs[i]`. Extra entries of the longer slice are left
    /// alone.
    pub fn run_batch(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        for (buf, verdict) in bufs.iter_mut().zip(verdicts.iter_mut()) {
            *verdict = self.engine.run(buf);
        }
    }

    /// Runs the program on one frame.
    pub fn run_one(&mut self, buf: &mut XdpBuff<'_>) -> Verdict {
        self.engine.run(buf)
    }

    /// Counters.
    pub fn stats(&self) -> InstanceStats {
        self.engine.stats
    }

    /// The most recent fault, told for a person.
    pub fn last_fault(&self) -> Option<FaultReport> {
        self.engine.last_fault()
    }
}
