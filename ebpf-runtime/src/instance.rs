//! One worker's engine state for one program.

use crate::{Fault, FaultReport, HintLayout, Verdict, XdpBuff};

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
    hints: HintLayout,
    stats: InstanceStats,
    last_fault: Option<FaultReport>,
}

impl Instance {
    /// Says where the queue's hints lie; without this the metadata kfuncs return `-ENODATA`.
    pub fn set_hints(&mut self, layout: &HintLayout) {
        self.hints = layout.clone();
    }

    /// Runs the program on each frame; `verdicts[i]` is about `bufs[i]`. Extra entries of the longer slice are left
    /// alone.
    pub fn run_batch(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        for (buf, verdict) in bufs.iter_mut().zip(verdicts.iter_mut()) {
            *verdict = self.run_one(buf);
        }
    }

    /// Runs the program on one frame.
    pub fn run_one(&mut self, _buf: &mut XdpBuff<'_>) -> Verdict {
        self.stats.runs += 1;
        self.stats.faults += 1;
        Verdict {
            fault: Fault::Budget,
            ..Verdict::default()
        }
    }

    /// Counters.
    pub fn stats(&self) -> InstanceStats {
        self.stats
    }

    /// The most recent fault, told for a person.
    pub fn last_fault(&self) -> Option<&FaultReport> {
        self.last_fault.as_ref()
    }
}
