//! What compiled code and the runtime share while a program runs.

use std::mem::offset_of;
use std::sync::Arc;

use super::Code;
use crate::interp::Core;
use crate::program::{Body, Collection};
use crate::{Fault, Hook, Redirect, Verdict, XdpBuff};

/// A program that this instance can run: its code, and what its map references stand for here.
#[derive(Debug)]
pub(super) struct Unit {
    pub body: Arc<Body>,
    pub code: Arc<Code>,
    /// Address that stands for each map of the collection in this instance's space.
    pub maps: Box<[u64]>,
    /// Keeps the maps alive whose addresses the code holds.
    pub _collection: Arc<Collection>,
}

/// The first fields are read and written by compiled code.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct State {
    /// The frame in work, from the first call on that compiled code makes.
    pub buf: *mut XdpBuff<'static>,
    /// What is left of the instruction budget; below zero the run ends.
    pub left: i64,
    /// [`Unit::maps`] of the program whose code runs.
    pub maps: *const u64,
    /// r10 of the function that called the runtime.
    pub fp: u64,
    /// r10 of the main program.
    pub top: u64,
    pub worker: u64,
    /// Not 0 while the frame goes on behind its first buffer.
    pub several: u64,
    /// `may_goto` loops so far in this run.
    pub gotos: u64,
    /// Runs that faulted.
    pub faults: u64,
    /// Budget of a run.
    pub budget: i64,
    /// Where the last fault was: instruction and [`Body::id`].
    pub fault_at: u32,
    pub fault_body: u32,
    pub fault: Fault,
    /// From here on only the runtime looks, but for the random numbers in `core`.
    pub access: (u64, u64),
    pub tail_calls: u32,
    pub core: Core,
    pub units: Vec<Arc<Unit>>,
}

// SAFETY: `buf` is only used within a run, whose caller holds the frame; `maps` points into one of `units`, which the
// state owns.
unsafe impl Send for State {}

impl State {
    /// Whether the instance's program is for this hook. As the kernel has it, a program array is for programs of one type.
    pub fn runs(&self, hook: Hook) -> bool {
        self.units.first().is_none_or(|unit| unit.body.hook == hook)
    }
}

/// Offsets of the fields that compiled code uses.
pub(super) mod offset {
    use super::*;

    pub const BUF: i32 = offset_of!(State, buf) as i32;
    pub const LEFT: i32 = offset_of!(State, left) as i32;
    pub const MAPS: i32 = offset_of!(State, maps) as i32;
    pub const FP: i32 = offset_of!(State, fp) as i32;
    pub const TOP: i32 = offset_of!(State, top) as i32;
    pub const WORKER: i32 = offset_of!(State, worker) as i32;
    pub const SEVERAL: i32 = offset_of!(State, several) as i32;
    pub const GOTOS: i32 = offset_of!(State, gotos) as i32;
    pub const FAULTS: i32 = offset_of!(State, faults) as i32;
    pub const BUDGET: i32 = offset_of!(State, budget) as i32;
    pub const FAULT_AT: i32 = offset_of!(State, fault_at) as i32;
    pub const FAULT_BODY: i32 = offset_of!(State, fault_body) as i32;
    pub const FAULT: i32 = offset_of!(State, fault) as i32;
    pub const RANDOM: i32 = offset_of!(State, core.random) as i32;

    pub const DATA: i32 = offset_of!(XdpBuff<'static>, data) as i32;
    pub const DATA_END: i32 = offset_of!(XdpBuff<'static>, data_end) as i32;
    pub const DATA_META: i32 = offset_of!(XdpBuff<'static>, data_meta) as i32;
    pub const HARD_START: i32 = offset_of!(XdpBuff<'static>, hard_start) as i32;
    pub const INGRESS: i32 = offset_of!(XdpBuff<'static>, ingress_ifindex) as i32;
    pub const RX_QUEUE: i32 = offset_of!(XdpBuff<'static>, rx_queue) as i32;
    pub const EGRESS: i32 = offset_of!(XdpBuff<'static>, egress_ifindex) as i32;
    pub const HINTS: i32 = offset_of!(XdpBuff<'static>, hints) as i32;
    pub const HINTS_LEN: i32 = offset_of!(XdpBuff<'static>, hints_len) as i32;

    /// A verdict is written as three words: the raw value with no redirect, zero, and zero with the fault on top.
    pub const VERDICT_FAULT: i32 = offset_of!(Verdict, fault) as i32;
    const _: () = assert!(offset_of!(Verdict, raw) == 0 && size_of::<Verdict>() == 24);
    const _: () = assert!(offset_of!(Verdict, redirect) == 4 && offset_of!(Verdict, fault) == 20);
    const _: () = assert!(size_of::<Redirect>() == 16 && offset_of!(Redirect, kind) == 0);
    const _: () = assert!(Fault::None as u32 == 0 && crate::RedirectKind::None as u32 == 0);
}

/// What compiled functions and the runtime's functions return: r0, and 0 or why the run ends.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Pair {
    pub value: u64,
    pub status: u64,
}

/// Status of a tail call that took place: `value` is the program's result. Faults are smaller.
pub(super) const DONE: u64 = 1 << 32;

/// Added to a fault's status when the code that faulted has noted where that was.
pub(super) const NOTED: u64 = 1 << 33;

/// Runs the program on `count` frames, at least one: state, frames, verdicts, count, r10. Returns the last run's r0 and status.
pub(super) type BatchFn =
    unsafe extern "C" fn(*mut State, *mut XdpBuff<'static>, *mut Verdict, u64, u64) -> Pair;

/// A function of a program: state, r1 to r5, r10.
pub(super) type PlainFn = unsafe extern "C" fn(*mut State, u64, u64, u64, u64, u64, u64) -> Pair;
