//! One worker's engine state for one program.

use std::sync::Arc;

use crate::foreign::Foreign;
use crate::interp::{Core, Interp};
use crate::jit::Jit;
use crate::program::Program;
use crate::routes::RouteFeed;
use crate::rx_meta::front::Front;
use crate::{EngineKind, Fault, FaultReport, Frags, HintLayout, Hook, LoadError, SkbInfo, Verdict, XdpBuff};

/// What an instance counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceStats {
    /// Frames run.
    pub runs: u64,
    /// BPF instructions executed, counted by the interpreter only.
    pub instructions: u64,
    /// Runs that ended in a fault (their verdict is `XDP_ABORTED`).
    pub faults: u64,
    /// Frames without headroom for `struct millrace_rx_meta`, which the program reads: it found `data_meta` equal to `data`.
    pub no_meta_room: u64,
}

/// Runs a program on one worker. `Send`, used by one thread at a time.
#[derive(Debug)]
pub struct Instance {
    // Dropped before the program, whose code it runs.
    engine: Engine,
    kind: EngineKind,
    program: Arc<Program>,
    /// Puts the struct of metadata in front of frames, if the program reads it.
    front: Option<Front>,
}

/// Frames whose struct is put in front at a time.
const CHUNK: usize = 64;

#[derive(Debug)]
enum Engine {
    Interp(Box<Interp>),
    Jit(Jit),
    Foreign(Box<Foreign>),
}

impl Instance {
    pub(crate) fn new(program: &Arc<Program>, kind: EngineKind, worker: u32) -> Result<Instance, LoadError> {
        let engine = match kind {
            EngineKind::Jit => Engine::Jit(Jit::new(program, worker)?),
            EngineKind::Interp => Engine::Interp(Box::new(Interp::new(program, worker))),
            EngineKind::Rbpf | EngineKind::RbpfInterp => {
                Engine::Foreign(Box::new(Foreign::new(program, worker, kind)?))
            }
        };
        Ok(Instance {
            engine,
            kind,
            program: program.clone(),
            front: None,
        })
    }

    fn core(&mut self) -> &mut Core {
        match &mut self.engine {
            Engine::Interp(interp) => &mut interp.core,
            Engine::Jit(jit) => jit.core(),
            Engine::Foreign(foreign) => foreign.core(),
        }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> EngineKind {
        self.kind
    }

    /// The program it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Says where the queue's hints lie; without this the metadata kfuncs return `-EOPNOTSUPP`, and no frame has a struct of
    /// metadata. On the JIT a program that calls those kfuncs is compiled for the layout here.
    pub fn set_hints(&mut self, layout: &HintLayout) {
        match &mut self.engine {
            Engine::Jit(jit) => jit.set_hints(layout),
            _ => self.core().hints = layout.clone(),
        }
        let meta = self.program.rx_meta();
        self.front = meta.and_then(|meta| Front::new(meta, layout));
    }

    /// Says where `bpf_fib_lookup` and `bpf_check_mtu` find the host's routes; without this they find no device
    /// (`-ENODEV`).
    pub fn set_routes(&mut self, feed: &RouteFeed) {
        self.core().routes = feed.reader();
    }

    /// How many instructions one run may execute before it is ended with [`crate::Fault::Budget`]. The JIT counts where
    /// code can repeat: at jumps backwards by the distance, at calls by a share of the callee. It does not count in a
    /// verified program without callbacks and `may_goto`: that ends after 1,000,000 instructions at the latest.
    pub fn set_budget(&mut self, instructions: u64) {
        match &mut self.engine {
            Engine::Jit(jit) => jit.set_budget(instructions),
            _ => self.core().budget = instructions,
        }
    }

    /// Fixes what clocks return (nanoseconds) and restarts the random numbers from `seed`, so that runs can be
    /// compared.
    pub fn fix_environment(&mut self, clock: u64, seed: u64) {
        let core = self.core();
        core.fixed_clock = Some(clock);
        core.random = seed | 1;
    }

    /// Runs the program on each frame; `verdicts[i]` is about `bufs[i]`. Extra entries of the longer slice are left
    /// alone.
    pub fn run_batch(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        if self.front.is_some() {
            return self.run_with_meta(bufs, verdicts);
        }
        self.run_as_they_are(bufs, verdicts);
    }

    /// Each frame with the struct of its metadata in front of it.
    fn run_with_meta(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        for (bufs, verdicts) in bufs.chunks_mut(CHUNK).zip(verdicts.chunks_mut(CHUNK)) {
            let n = bufs.len().min(verdicts.len());
            let bufs = &mut bufs[..n];
            let mut put = [None; CHUNK];
            if let Some(front) = &mut self.front {
                for (buf, put) in bufs.iter_mut().zip(&mut put) {
                    *put = front.put(buf);
                }
            }
            self.run_as_they_are(bufs, verdicts);
            if let Some(front) = &self.front {
                for (buf, put) in bufs.iter_mut().zip(put) {
                    front.take(buf, put);
                }
            }
        }
    }

    fn run_as_they_are(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        match &mut self.engine {
            Engine::Interp(interp) => {
                for (buf, verdict) in bufs.iter_mut().zip(verdicts.iter_mut()) {
                    *verdict = interp.run(buf);
                }
            }
            Engine::Jit(jit) => jit.run_batch(bufs, verdicts),
            Engine::Foreign(foreign) => {
                for (buf, verdict) in bufs.iter_mut().zip(verdicts.iter_mut()) {
                    *verdict = foreign.run(buf);
                }
            }
        }
    }

    /// Runs the program on one frame of several buffers; `frags` are those behind the first, which the program reaches through
    /// helpers. Only programs marked `xdp.frags` ([`Program::frags`]) expect such frames.
    pub fn run_frags(&mut self, buf: &mut XdpBuff<'_>, frags: &mut Frags) -> Verdict {
        self.swap_frags(frags);
        let verdict = self.run_one(buf);
        self.swap_frags(frags);
        verdict
    }

    fn swap_frags(&mut self, frags: &mut Frags) {
        std::mem::swap(&mut self.core().frags, frags);
        if let Engine::Jit(jit) = &mut self.engine {
            jit.note_frags();
        }
    }

    /// Runs a steering program on one frame: its int, or `None` when the run was ended by a fault. On a program for another
    /// hook this is `None` too.
    pub fn steer(&mut self, buf: &mut XdpBuff<'_>, info: &SkbInfo) -> Option<i32> {
        if self.program.hook() != Hook::Steering {
            return None;
        }
        self.core().space.describe(info);
        let verdict = self.run_one(buf);
        (verdict.fault == Fault::None).then_some(verdict.raw as i32)
    }

    /// Runs the program on one frame.
    pub fn run_one(&mut self, buf: &mut XdpBuff<'_>) -> Verdict {
        let put = self.front.as_mut().and_then(|front| front.put(buf));
        let verdict = match &mut self.engine {
            Engine::Interp(interp) => interp.run(buf),
            Engine::Jit(jit) => jit.run_one(buf),
            Engine::Foreign(foreign) => foreign.run(buf),
        };
        if let Some(front) = &self.front {
            front.take(buf, put);
        }
        verdict
    }

    /// Counters.
    pub fn stats(&self) -> InstanceStats {
        let mut stats = match &self.engine {
            Engine::Interp(interp) => interp.stats,
            Engine::Jit(jit) => jit.stats(),
            Engine::Foreign(foreign) => foreign.stats(),
        };
        stats.no_meta_room = self.front.as_ref().map_or(0, |front| front.no_room);
        stats
    }

    /// The most recent fault, told for a person.
    pub fn last_fault(&self) -> Option<FaultReport> {
        match &self.engine {
            Engine::Interp(interp) => interp.last_fault(),
            Engine::Jit(jit) => jit.last_fault(),
            Engine::Foreign(foreign) => foreign.last_fault(),
        }
    }
}
