//! The JIT: programs as machine code, by cranelift.
//!
//! ```text
//! track     which accesses are certain to be in bounds, by data flow or by the verifier's proof (facts, kind)
//! compile   one program: each function through `function`, linked, put into `code`
//! function  what instructions become; entry: the loop over a batch; flow: blocks, jumps, what is known on the way
//! loops     loops of a known number of turns, unrolled
//! access    loads and stores; bytes: what numbers are made of; known: what bytes of the stack hold; stores: those to the
//!           frame, held back
//! calls     helpers; lookup: maps; adjust: moves of a frame's edges; hints: metadata kfuncs; alu: arithmetic
//! prune     takes out loads that nothing needs; schedule: the order of the rest
//! state     what compiled code and the runtime share; rt: what compiled code calls
//! ```
//!
//! The main program is compiled as a loop over the frames of a batch, so a batch is one call. An access that is not
//! proven in bounds is compiled with a check; what the check does not recognise goes to the interpreter's own
//! [`crate::mem::space::Space`], so a program does here what it would do there, or faults as it would there. Loops and
//! calls take from an instruction budget, so every run ends.
//!
//! Code is made once for a program and shared by its workers. It lives in memory that is never writable and executable
//! at a time, and is unmapped when the last instance and the program itself are gone.
#![allow(unsafe_code)]

mod access;
mod adjust;
mod alu;
mod bytes;
mod calls;
mod code;
mod compile;
mod entry;
mod facts;
mod flow;
mod function;
mod hints;
mod kind;
mod known;
mod lookup;
mod loops;
mod prune;
mod rt;
mod schedule;
mod state;
mod stores;
mod track;

use std::sync::Arc;

use crate::interp::Core;
use crate::mem::space::Space;
use crate::program::{Body, Collection, Program};
use crate::{Fault, FaultReport, HintLayout, InstanceStats, LoadError, Redirect, Verdict, XdpBuff};

pub(crate) use code::executable_bytes;
pub(crate) use compile::{Code, Slot};
use state::{BatchFn, Pair, State, Unit};

/// Why there is no JIT in this build: there is.
pub(crate) const UNAVAILABLE: Option<&str> = None;

/// Frames whose first bytes are fetched ahead of the one in work.
const AHEAD: usize = 8;

/// An engine instance.
#[derive(Debug)]
pub(crate) struct Jit {
    state: Box<State>,
    runs: u64,
    unit: Arc<Unit>,
    /// Of the unit's code, which is asked for both with every batch.
    entry: BatchFn,
    simple: bool,
    /// Maps that the units name; what lies above was found in maps of maps.
    maps: usize,
}

impl Unit {
    fn new(body: &Arc<Body>, collection: &Arc<Collection>, core: &mut Core) -> Result<Unit, LoadError> {
        let code = compile::code(body, collection, &core.hints)?;
        let maps = collection
            .maps
            .iter()
            .map(|map| crate::mem::space::map_addr(core.space.add_map(map)))
            .collect();
        Ok(Unit {
            body: body.clone(),
            code,
            maps,
            _collection: collection.clone(),
        })
    }
}

impl Jit {
    pub fn new(program: &Arc<Program>, worker: u32) -> Result<Jit, LoadError> {
        let mut core = Core::new(Space::new(), worker, program.id());
        let unit = Arc::new(Unit::new(program.body(), program.collection(), &mut core)?);
        let maps = core.space.map_count();
        let budget = budget(core.budget);
        let state = Box::new(State {
            buf: std::ptr::null_mut(),
            left: 0,
            maps: unit.maps.as_ptr(),
            fp: core.space.frame_pointer(0),
            top: core.space.frame_pointer(0),
            worker: worker.into(),
            several: 0,
            gotos: 0,
            faults: 0,
            budget,
            fault_at: 0,
            fault_body: 0,
            access: (0, 0),
            fault: Fault::None,
            tail_calls: 0,
            core,
            units: vec![unit.clone()],
        });
        Ok(Jit {
            state,
            runs: 0,
            entry: unit.code.batch(),
            simple: unit.code.simple(),
            unit,
            maps,
        })
    }

    /// Counters.
    pub fn stats(&self) -> InstanceStats {
        InstanceStats {
            runs: self.runs,
            faults: self.state.faults,
            ..InstanceStats::default()
        }
    }

    /// State that helpers work on.
    pub fn core(&mut self) -> &mut Core {
        &mut self.state.core
    }

    /// How many instructions a run may take.
    pub fn set_budget(&mut self, instructions: u64) {
        self.state.core.budget = instructions;
        self.state.budget = budget(instructions);
    }

    /// Says where hints lie; code that reads them is compiled anew.
    pub fn set_hints(&mut self, layout: &HintLayout) {
        let state = &mut *self.state;
        state.core.hints = layout.clone();
        for unit in &mut state.units {
            let body = unit.body.clone();
            match Unit::new(&body, &unit._collection.clone(), &mut state.core) {
                Ok(new) => *unit = Arc::new(new),
                Err(error) => {
                    tracing::error!(program = body.name, %error, "hints cannot be read: the program could not be compiled anew");
                }
            }
        }
        if let Some(main) = state.units.first() {
            self.unit = main.clone();
            self.entry = main.code.batch();
            self.simple = main.code.simple();
            state.maps = main.maps.as_ptr();
        }
    }

    /// Runs the program on each frame.
    pub fn run_batch(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        let n = bufs.len().min(verdicts.len());
        let (bufs, verdicts) = (&mut bufs[..n], &mut verdicts[..n]);
        if self.simple {
            for buf in bufs.iter().take(AHEAD) {
                fetch(buf);
            }
            let (mut bufs, mut verdicts) = (bufs, verdicts);
            while !bufs.is_empty() {
                let some = bufs.len().min(AHEAD);
                let (now, later) = bufs.split_at_mut(some);
                let (out, others) = verdicts.split_at_mut(some);
                match later.first_chunk::<AHEAD>() {
                    Some(next) => next.iter().for_each(fetch),
                    None => later.iter().for_each(fetch),
                }
                self.enter(now, out);
                (bufs, verdicts) = (later, others);
            }
        } else {
            for at in 0..n {
                if let Some(next) = bufs.get(at + AHEAD) {
                    fetch(next);
                }
                self.one(&mut bufs[at], &mut verdicts[at]);
            }
        }
        self.end(n);
    }

    /// Runs the program on one frame.
    pub fn run_one(&mut self, buf: &mut XdpBuff<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.simple {
            self.one(buf, &mut verdict);
            self.end(1);
            return verdict;
        }
        let out = self.enter(std::slice::from_mut(buf), std::slice::from_mut(&mut verdict));
        self.end(1);
        match out.status {
            // Not read back from memory: a load of what several stores have just written has to wait for them.
            0 => Verdict {
                raw: out.value as u32,
                ..Verdict::default()
            },
            _ => verdict,
        }
    }

    /// The core was given the buffers behind a frame's first, or they were taken away again.
    pub fn note_frags(&mut self) {
        self.state.several = (!self.state.core.frags.is_empty()).into();
    }

    fn end(&mut self, runs: usize) {
        self.runs += runs as u64;
        self.state.buf = std::ptr::null_mut();
    }

    /// A run that may leave something behind: a redirect, a reserved record, a lock, maps of a map.
    fn one(&mut self, buf: &mut XdpBuff<'_>, verdict: &mut Verdict) {
        let state = &mut *self.state;
        state.core.redirect = Redirect::default();
        state.core.space.truncate_maps(self.maps);
        state.tail_calls = 0;
        state.maps = self.unit.maps.as_ptr();
        self.enter(std::slice::from_mut(buf), std::slice::from_mut(verdict));
        let state = &mut *self.state;
        if verdict.fault == Fault::None {
            verdict.redirect = state.core.redirect;
        }
        crate::helpers::release(&mut state.core, buf);
        if state.units.len() > 1 {
            // Units that tail calls brought named their maps after those of this one.
            let named = |u: &Arc<Unit>| u.maps.iter().map(|m| Space::map_index(*m) + 1).max().unwrap_or(0);
            self.maps = state.units.iter().map(named).max().unwrap_or(0).max(self.maps);
        }
    }

    /// Gives the last frame's r0 and status. There is at least one frame, and as many verdicts.
    #[inline]
    fn enter(&mut self, bufs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) -> Pair {
        let fp = self.state.top;
        let state: *mut State = &mut *self.state;
        // SAFETY: `entry` is of the code that `unit` owns, and `state` is a live state made for it; `bufs` and `verdicts` are
        // borrowed exclusively over the call and have the count given; code and runtime use the frames only until it returns.
        // r10 is the top of the state's own stack.
        unsafe {
            (self.entry)(
                state,
                bufs.as_mut_ptr().cast(),
                verdicts.as_mut_ptr(),
                bufs.len() as u64,
                fp,
            )
        }
    }

    /// The last fault in words.
    pub fn last_fault(&self) -> Option<FaultReport> {
        let state = &*self.state;
        let unit = state.units.iter().find(|u| u.body.id == state.fault_body)?;
        let insn = state.fault_at as usize;
        // A helper's own accesses are not what the person asks about.
        let access = unit.body.insns.get(insn).and_then(|i| track::Access::of(*i));
        let (addr, len) = access.map_or((0, 0), |_| state.access);
        Some(FaultReport {
            fault: state.fault,
            program: unit.body.name.clone(),
            insn,
            line: unit.body.line(insn),
            addr,
            len,
        })
    }
}

/// A budget as compiled code counts it, with a sign.
fn budget(instructions: u64) -> i64 {
    i64::try_from(instructions).unwrap_or(i64::MAX)
}

/// Asks for a frame's first bytes before the program does.
#[inline(always)]
fn fetch(buf: &XdpBuff<'_>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(buf.data.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = buf;
}
