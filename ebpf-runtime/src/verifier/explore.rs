//! Walking over every path a program can take, one instruction at a time, and leaving those that a state seen before
//! covers.

use std::rc::Rc;
use std::time::Instant;

use super::deps::{Deps, NONE};
use super::facts::{Fact, FunctionFacts, Verified, VerifyStats};
use super::keep::{Checkpoint, Visit};
use super::live::{self, Regs};
use super::problem::{Problem, Refusal, Step, refuse};
use super::proto;
use super::scalar::Scalar;
use super::state::{Frame, Kind, MapRef, Reg, State};
use super::trace::Trace;
use super::{Limits, words};
use crate::insn::{self, Insn};
use crate::maps::MapType;
use crate::program::Body;

/// No checkpoint: the program's beginning.
pub(super) const ROOT: u32 = u32::MAX;
/// Instructions of a failed path that a refusal tells.
const PATH: usize = 32;

/// What the verifier needs to know of a map.
#[derive(Debug, Clone)]
pub(super) struct MapInfo {
    pub name: String,
    pub kind: MapType,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// Programs may not write it.
    pub readonly: bool,
    /// Where in the value its spin lock lies.
    pub lock: Option<u32>,
    /// Its value, when nobody can change it any more.
    pub constant: Option<Vec<u8>>,
    /// What the maps in it look like.
    pub inner: Option<Box<MapInfo>>,
}

/// Where a path goes on.
pub(super) enum Next {
    To(State, usize),
    /// Several ways, or none: the path ends.
    All(Vec<(State, usize)>),
}

struct Pending {
    state: State,
    at: usize,
    parent: u32,
    path: Vec<usize>,
}

/// See the module's text.
pub(super) struct Verifier<'a> {
    pub body: &'a Body,
    pub maps: Vec<MapInfo>,
    /// Whether the program runs on the entries of a device map.
    pub devmap: bool,
    pub deps: Deps,
    pub functions: Vec<FunctionFacts>,
    pub limits: Limits,
    pub live: Vec<Regs>,
    facts: Vec<Fact>,
    /// Where states are kept: jump targets and what follows calls.
    points: Vec<bool>,
    pub kept: Vec<Vec<u32>>,
    pub checkpoints: Vec<Checkpoint>,
    pending: Vec<Pending>,
    next_id: u32,
    pub stats: VerifyStats,
    trace: Option<&'a mut Trace>,
    pub endless: bool,
}

impl<'a> Verifier<'a> {
    pub fn new(
        body: &'a Body,
        maps: Vec<MapInfo>,
        limits: Limits,
        trace: Option<&'a mut Trace>,
    ) -> Verifier<'a> {
        let len = body.insns.len();
        let mut points = vec![false; len];
        let mut mark = |t: i64| {
            if let Some(point) = usize::try_from(t).ok().and_then(|t| points.get_mut(t)) {
                *point = true;
            }
        };
        let mut at = 0;
        let mut endless = true;
        while at < len {
            let insn = body.insns[at];
            let (jump, next) = live::targets(insn, at);
            if let Some(jump) = jump {
                mark(jump);
                if let Some(next) = next {
                    mark(next);
                }
            }
            if insn.code == insn::JCOND {
                mark(at as i64);
                endless = false;
            }
            if insn.code == insn::CALL && insn.src == insn::CALL_LOCAL {
                mark(at as i64 + 1);
            }
            if insn.code == insn::CALL && insn.src == insn::CALL_HELPER && matches!(insn.imm, 164 | 181) {
                mark(at as i64 + 1);
                endless = false;
            }
            at += if insn.is_wide() { 2 } else { 1 };
        }
        for (start, _) in &body.functions {
            points[*start] = true;
        }
        Verifier {
            body,
            maps,
            devmap: body.section.contains("devmap"),
            deps: Deps::new(),
            functions: vec![FunctionFacts::default(); body.functions.len()],
            limits,
            live: live::live(&body.insns, proto::arguments),
            facts: vec![Fact::Unreached; len],
            points,
            kept: vec![Vec::new(); len],
            checkpoints: Vec::new(),
            pending: Vec::new(),
            next_id: 0,
            stats: VerifyStats::default(),
            trace,
            endless,
        }
    }

    /// A number that no pointer or group of numbers has yet.
    pub fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Gives a number an identity, so that its copies are known to be copies.
    pub fn link(&mut self, reg: &mut Reg) {
        reg.id = self.id();
        reg.off = 0;
        if reg.dep == NONE {
            reg.dep = self.deps.fresh();
        }
    }

    /// Follows every path.
    pub fn verify(mut self) -> Result<Verified, Box<Refusal>> {
        let begun = Instant::now();
        let mut frame = Frame::new(0, 0, 0, &mut self.deps);
        frame.regs[1] = Reg::pointer(Kind::Ctx);
        let state = State {
            frames: vec![Rc::new(frame)],
            refs: Vec::new(),
            lock: None,
        };
        self.pending.push(Pending {
            state,
            at: 0,
            parent: ROOT,
            path: Vec::new(),
        });
        while let Some(pending) = self.pending.pop() {
            self.path(pending)?;
        }
        if let Some(trace) = self.trace.take() {
            trace.finish(&self.deps);
        }
        self.stats.time = begun.elapsed();
        Ok(Verified {
            facts: self.facts,
            functions: self.functions,
            stats: self.stats,
        })
    }

    /// Follows one path to its end, or to where it is covered.
    fn path(&mut self, pending: Pending) -> Result<(), Box<Refusal>> {
        let Pending {
            mut state,
            mut at,
            mut parent,
            mut path,
        } = pending;
        let (mut jumps, mut steps) = (0u32, 0u32);
        loop {
            let Some(&insn) = self.body.insns.get(at) else {
                let problem = Problem {
                    what: "control runs past the end".into(),
                    remedy: "end with exit".into(),
                };
                return Err(self.refusal(&state, at, &path, problem));
            };
            let head = insn.code == insn::JCOND || self.begins_turn(&state, at, &path);
            if self.points[at] {
                match self.visit(&mut state, at, parent, head, jumps >= 2 && steps >= 8) {
                    Ok(Visit::Go) => {}
                    Ok(Visit::Kept(kept)) => {
                        parent = kept;
                        (jumps, steps) = (0, 0);
                    }
                    Ok(Visit::Covered) => {
                        self.finish(parent);
                        return Ok(());
                    }
                    Err(problem) => return Err(self.refusal(&state, at, &path, problem)),
                }
            }
            self.stats.processed += 1;
            steps += 1;
            if self.stats.processed > self.limits.instructions {
                let problem = Problem {
                    what: format!(
                        "the program is too complex: {} instructions were walked over and paths are left",
                        self.limits.instructions
                    ),
                    remedy: "bound loops more tightly, use bpf_loop, or split the program with tail calls"
                        .into(),
                };
                return Err(self.refusal(&state, at, &path, problem));
            }
            if let Some(trace) = &mut self.trace {
                trace.visit(at, &state);
            }
            if path.len() == PATH {
                path.remove(0);
            }
            path.push(at);
            let next = if matches!(insn.class(), insn::JMP | insn::JMP32) {
                let frames: Vec<_> = state.frames.iter().skip(1).map(|f| f.call).collect();
                let regs = state.top().regs;
                match self.control(std::mem::take(&mut state), insn, at) {
                    Ok(next) => Some(next),
                    Err(problem) => return Err(self.told(&regs, &frames, at, &path, problem)),
                }
            } else {
                match self.step(&mut state, insn, at) {
                    Ok(()) => None,
                    Err(problem) => return Err(self.refusal(&state, at, &path, problem)),
                }
            };
            match next {
                None => at += if insn.is_wide() { 2 } else { 1 },
                Some(Next::To(then, target)) => {
                    state = then;
                    at = target;
                    jumps += u32::from(matches!(insn.class(), insn::JMP | insn::JMP32));
                }
                Some(Next::All(mut all)) => {
                    jumps += 1;
                    let Some((last, target)) = all.pop() else {
                        self.finish(parent);
                        return Ok(());
                    };
                    for (state, at) in all {
                        if self.pending.len() >= self.limits.pending {
                            let problem = Problem {
                                what: format!(
                                    "more than {} branches wait to be followed",
                                    self.limits.pending
                                ),
                                remedy: "split the program with tail calls".into(),
                            };
                            return Err(self.refusal(&state, at, &path, problem));
                        }
                        if let Some(c) = self.checkpoints.get_mut(parent as usize) {
                            c.branches += 1;
                        }
                        self.pending.push(Pending {
                            state,
                            at,
                            parent,
                            path: path.clone(),
                        });
                    }
                    state = last;
                    at = target;
                }
            }
        }
    }

    /// Whether a helper's loop begins a turn here: its callback's first instruction, reached by no jump of its own.
    fn begins_turn(&self, state: &State, at: usize, path: &[usize]) -> bool {
        let Some(callback) = &state.top().callback else {
            return false;
        };
        if callback.at != at {
            return false;
        }
        // The last instruction was the call or an exit, not one that jumps within the callback.
        path.last().is_none_or(|last| {
            let insn = self.body.insns[*last];
            insn.code == insn::EXIT || insn.code == insn::CALL
        })
    }

    /// Instructions that go on with the next one.
    fn step(&mut self, state: &mut State, insn: Insn, at: usize) -> Result<(), Problem> {
        let fact = match insn.class() {
            insn::LD => {
                self.wide_load(state, insn, at)?;
                Fact::Plain
            }
            insn::LDX => self.load(state, insn)?,
            insn::ST => self.store(state, insn)?,
            insn::STX if insn.code & 0xe0 == 0xc0 => self.atomic(state, insn)?,
            insn::STX => self.store(state, insn)?,
            _ => {
                self.alu(state, insn)?;
                Fact::Plain
            }
        };
        self.facts[at].join(fact);
        Ok(())
    }

    fn control(&mut self, mut state: State, insn: Insn, at: usize) -> Result<Next, Problem> {
        let target = live::targets(insn, at)
            .0
            .and_then(|t| usize::try_from(t).ok())
            .unwrap_or(usize::MAX);
        match insn.code {
            insn::JA | insn::JA32 => {
                self.facts[at].join(Fact::Plain);
                Ok(Next::To(state, target))
            }
            insn::JCOND => {
                self.facts[at].join(Fact::Branch {
                    taken: true,
                    falls: true,
                });
                Ok(Next::All(vec![(state.clone(), target), (state, at + 1)]))
            }
            insn::EXIT => {
                self.facts[at].join(Fact::Plain);
                self.exit(state).map(Next::All)
            }
            insn::CALL if insn.src == insn::CALL_LOCAL => {
                self.facts[at].join(Fact::Local);
                let start = (at as i64 + 1 + i64::from(insn.imm)) as usize;
                if state.lock.is_some() {
                    return refuse(
                        "calls a function while a spin lock is held",
                        "call bpf_spin_unlock first",
                    );
                }
                let function = self.function_at(start);
                self.enter(&mut state, function, at, None)?;
                Ok(Next::To(state, start))
            }
            insn::CALL => {
                let (fact, next) = self.call(state, insn, at)?;
                self.facts[at].join(fact);
                Ok(next)
            }
            _ => {
                let sides = self.branch(state, insn)?;
                self.facts[at].join(Fact::Branch {
                    taken: sides.taken.is_some(),
                    falls: sides.falls.is_some(),
                });
                let mut all = Vec::new();
                all.extend(sides.taken.map(|s| (s, target)));
                all.extend(sides.falls.map(|s| (s, at + 1)));
                Ok(Next::All(all))
            }
        }
    }

    fn wide_load(&mut self, state: &mut State, insn: Insn, at: usize) -> Result<(), Problem> {
        let high = self.body.insns.get(at + 1).map_or(0, |i| i.imm);
        let index = insn.imm as u32;
        let map = MapRef { index, inner: false };
        let reg = match insn.src {
            insn::IMM_PLAIN => {
                let value = u64::from(index) | u64::from(high as u32) << 32;
                Reg::scalar(Scalar::constant(value), self.deps.fresh())
            }
            insn::IMM_FUNC => Reg::pointer(Kind::Func(index)),
            insn::IMM_MAP | insn::IMM_MAP_VALUE if self.maps.get(index as usize).is_none() => {
                return refuse(
                    "names a map that the program does not have",
                    "load the program with its maps",
                );
            }
            insn::IMM_MAP => Reg::pointer(Kind::MapPtr(map)),
            _ => {
                let info = &self.maps[index as usize];
                if info.kind != MapType::Array || info.max_entries != 1 {
                    return refuse(
                        format!(
                            "takes an address in map `{}`, which is no array of one value",
                            info.name
                        ),
                        "look the value up",
                    );
                }
                if u32::try_from(high).is_err() || high as u32 > info.value_size {
                    return refuse(
                        format!(
                            "takes the address at {} in map `{}`, whose value has {} bytes",
                            high as u32, info.name, info.value_size
                        ),
                        "stay within the value",
                    );
                }
                let mut reg = Reg::pointer(Kind::MapValue(map));
                reg.off = high;
                reg
            }
        };
        state.set(insn.dst, reg);
        Ok(())
    }

    /// A register that must hold something.
    pub(super) fn initialised(&self, state: &State, n: u8) -> Result<Reg, Problem> {
        let reg = *state.reg(n);
        if reg.kind == Kind::Uninit {
            return refuse(
                format!("r{n} is read, but was never set, or is no longer valid"),
                format!(
                    "set r{n} on every path to here; calls end r0 to r5, and helpers that move the packet end all packet pointers"
                ),
            );
        }
        Ok(reg)
    }

    /// A register that must hold a number.
    pub(super) fn number(&self, state: &State, n: u8, what: &str) -> Result<Reg, Problem> {
        let reg = self.initialised(state, n)?;
        if !reg.is_scalar() {
            return refuse(
                format!("{what} is {}", reg.kind.describe()),
                "use a number; addresses must not get out",
            );
        }
        Ok(reg)
    }

    fn refusal(&self, state: &State, at: usize, path: &[usize], problem: Problem) -> Box<Refusal> {
        let frames: Vec<_> = state.frames.iter().skip(1).map(|f| f.call).collect();
        self.told(&state.top().regs, &frames, at, path, problem)
    }

    fn told(
        &self,
        regs: &[Reg; 11],
        calls: &[usize],
        at: usize,
        path: &[usize],
        problem: Problem,
    ) -> Box<Refusal> {
        let insn = self.body.insns.get(at).copied();
        let registers = insn.map_or(Vec::new(), |insn| words::registers(insn, proto::arguments(insn)));
        let calls = calls.iter().map(|call| (*call, self.body.line(*call)));
        Box::new(Refusal {
            program: self.body.name.clone(),
            insn: at,
            code: insn.map_or_else(String::new, words::disassemble),
            line: self.body.line(at),
            what: problem.what,
            remedy: problem.remedy,
            registers: registers
                .into_iter()
                .map(|n| (n, regs[usize::from(n).min(10)].to_string()))
                .collect(),
            calls: calls.collect(),
            path: path
                .iter()
                .map(|insn| Step {
                    insn: *insn,
                    code: words::disassemble(self.body.insns[*insn]),
                    line: self.body.line(*insn),
                })
                .collect(),
        })
    }
}
