//! The checked interpreter: the complete instruction set of RFC 9669 (and Linux's additions up to v4), every memory
//! access through [`Space`].
//!
//! [`Interp`] owns what a worker needs to run a program: its translated code ([`unit`]), and [`Core`], the state that
//! instructions and helpers work on. [`op`] is one instruction as translated, [`fuse`] finds those that are
//! done at once, [`exec`] is the instruction loop, [`fast`] what it does for several, [`frames`] calls and callbacks, [`alu`] the
//! arithmetic that has edge cases.

mod alu;
mod exec;
mod fast;
mod frames;
mod fuse;
mod op;
mod unit;

use std::sync::Arc;

use crate::mem::space::{CTX_ADDR, FRAMES, Space};
use crate::program::Program;
use crate::routes::RouteReader;
use crate::{Fault, FaultReport, Frags, HintLayout, Hook, InstanceStats, Redirect, Verdict, XdpBuff};
use exec::Stop;
use frames::Frame;
use op::REGS;

pub(crate) use exec::{MAY_GOTO_MAX, Watch};
pub(crate) use frames::{Then, context, errno};
use unit::Unit;

/// Instructions a run may execute unless [`crate::Instance::set_budget`] says otherwise.
const BUDGET: u64 = 1 << 22;
/// `MAX_TAIL_CALL_CNT` of the kernel.
pub(crate) const TAIL_CALLS: u32 = 33;
/// Bytes a helper moves at most in one go: the largest map value that `bpf_map_update_elem` copies.
pub(crate) const SCRATCH: usize = 1 << 16;

/// State that instructions and helpers share.
#[derive(Debug)]
pub(crate) struct Core {
    pub space: Space,
    pub worker: u32,
    pub hints: HintLayout,
    /// The host's routes, for those who ask.
    pub routes: RouteReader,
    /// Redirect that the run has asked for.
    pub redirect: Redirect,
    pub random: u64,
    pub fixed_clock: Option<u64>,
    pub budget: u64,
    /// Instructions the run may still execute.
    pub left: u64,
    /// Map key of the helper call in progress.
    pub key: Box<[u8; 512]>,
    /// Bytes a helper moves.
    pub bytes: Vec<u8>,
    /// The spin lock the program holds.
    pub lock: Option<u64>,
    /// The buffers of the frame behind its first.
    pub frags: Frags,
}

impl Core {
    /// State of one worker; `program` makes its random numbers differ from others'.
    pub fn new(space: Space, worker: u32, program: u32) -> Core {
        Core {
            space,
            worker,
            hints: HintLayout::none(),
            routes: RouteReader::default(),
            redirect: Redirect::default(),
            random: 0x9e37_79b9_7f4a_7c15 ^ u64::from(worker + 1) << 32 ^ u64::from(program),
            fixed_clock: None,
            budget: BUDGET,
            left: 0,
            key: Box::new([0; 512]),
            bytes: vec![0; SCRATCH],
            lock: None,
            frags: Frags::default(),
        }
    }
}

/// Registers and call frames of a run.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Machine {
    /// r0 to r10; as many as a 4-bit register number can name.
    pub regs: [u64; REGS],
    pub pc: usize,
    pub unit: usize,
    pub depth: usize,
    pub frames: [Frame; FRAMES],
    pub tail_calls: u32,
    pub gotos: u32,
}

/// An engine instance.
#[derive(Debug)]
pub(crate) struct Interp {
    pub core: Core,
    pub stats: InstanceStats,
    machine: Machine,
    /// The program's own code, then that of programs reached by tail calls.
    units: Vec<Unit>,
    /// Maps that the units name; what lies above was found in maps of maps.
    maps: usize,
    fault: Option<(Fault, usize, usize, u64, u64)>,
}

impl Interp {
    pub fn new(program: &Arc<Program>, worker: u32) -> Interp {
        let mut space = Space::new();
        let unit = Unit::translate(program.body(), program.collection(), &mut space);
        let maps = space.map_count();
        let core = Core::new(space, worker, program.id());
        let machine = Machine {
            regs: [0; REGS],
            pc: 0,
            unit: 0,
            depth: 0,
            frames: [Frame::EMPTY; FRAMES],
            tail_calls: 0,
            gotos: 0,
        };
        Interp {
            core,
            stats: InstanceStats::default(),
            machine,
            units: vec![unit],
            maps,
            fault: None,
        }
    }

    /// Runs the program on one frame.
    pub fn run(&mut self, buf: &mut XdpBuff<'_>) -> Verdict {
        self.run_watched(buf, &mut ())
    }

    /// Runs the program on one frame while somebody looks on.
    pub fn run_watched(&mut self, buf: &mut XdpBuff<'_>, watch: &mut impl Watch) -> Verdict {
        let core = &mut self.core;
        let machine = &mut self.machine;
        core.left = core.budget;
        core.redirect = Redirect::default();
        core.space.truncate_maps(self.maps);
        core.space.set_depth(0);
        machine.regs = [0; REGS];
        machine.regs[1] = CTX_ADDR;
        machine.regs[10] = core.space.frame_pointer(0);
        (machine.pc, machine.unit, machine.depth) = (0, 0, 0);
        (machine.tail_calls, machine.gotos) = (0, 0);

        let result = self.drive(buf, watch);
        self.release(buf);
        self.stats.runs += 1;
        self.stats.instructions += self.core.budget - self.core.left;
        match result {
            Ok(value) => Verdict {
                raw: value as u32,
                redirect: self.core.redirect,
                fault: Fault::None,
            },
            Err(fault) => {
                self.stats.faults += 1;
                self.note(fault);
                Verdict {
                    raw: 0,
                    redirect: Redirect::default(),
                    fault,
                }
            }
        }
    }

    fn drive(&mut self, buf: &mut XdpBuff<'_>, watch: &mut impl Watch) -> Result<u64, Fault> {
        loop {
            let unit = self.units.get(self.machine.unit).ok_or(Fault::HelperArgument)?;
            match exec::exec(unit, &mut self.core, &mut self.machine, buf, watch)? {
                Stop::Exit => return Ok(self.machine.regs[0]),
                Stop::Switch => {}
                Stop::TailCall { map, index } => self.tail_call(map, index)?,
            }
        }
    }

    /// `bpf_tail_call`: on success the other program takes over the frame, otherwise execution goes on.
    fn tail_call(&mut self, map: u64, index: u32) -> Result<(), Fault> {
        let map = self.core.space.map(map)?;
        let slot = map.program_at(index);
        let target = slot.and_then(|s| Some((s.body.upgrade()?, s.collection.upgrade()?)));
        let machine = &mut self.machine;
        // As the kernel has it: a program array is for programs of one type.
        let hook = self.units.first().map_or(Hook::Xdp, |unit| unit.body.hook);
        let Some((body, collection)) =
            target.filter(|(body, _)| machine.tail_calls < TAIL_CALLS && body.hook == hook)
        else {
            return Ok(());
        };
        if self.core.worker >= collection.cpus {
            return Ok(());
        }
        machine.tail_calls += 1;
        let known = self.units.iter().position(|u| Arc::ptr_eq(&u.body, &body));
        machine.unit = match known {
            Some(at) => at,
            None => {
                self.units
                    .push(Unit::translate(&body, &collection, &mut self.core.space));
                self.maps = self.core.space.map_count();
                self.units.len() - 1
            }
        };
        machine.pc = 0;
        machine.regs[1] = CTX_ADDR;
        Ok(())
    }

    /// Takes back what the program did not: reserved records and its spin lock.
    fn release(&mut self, buf: &mut XdpBuff<'_>) {
        crate::helpers::release(&mut self.core, buf);
    }

    fn note(&mut self, fault: Fault) {
        let machine = &self.machine;
        let op = self.units.get(machine.unit).and_then(|u| u.code.get(machine.pc));
        let (addr, len) = op.map_or((0, 0), |op| op.access(&machine.regs));
        self.fault = Some((fault, machine.unit, machine.pc, addr, len));
    }

    /// The last fault in words.
    pub fn last_fault(&self) -> Option<FaultReport> {
        let (fault, unit, pc, addr, len) = self.fault?;
        let body = &self.units.get(unit)?.body;
        let program = body.name.clone();
        Some(FaultReport {
            fault,
            program,
            insn: pc,
            line: body.line(pc),
            addr,
            len,
        })
    }
}
