//! The rbpf crate's JIT and its interpreter as engines to compare with. They are no safety story: what the JIT makes checks
//! nothing, and the interpreter is given all memory, so that its own check costs as little as it can; both run only what the
//! verifier has proven, and of that only what they do right ([`lower`] names what they do not).
//!
//! rbpf hands helpers no state, so a run leaves it where this thread finds it ([`RUN`]). It calls helpers with a stack that
//! is not aligned as the ABI says, so [`aligned`] stands in between. Its stack is the machine's: the program's first
//! instructions tell the runtime where, because helpers read keys from there.
#![allow(unsafe_code)]

mod lower;

use std::arch::naked_asm;
use std::cell::Cell;
use std::mem::offset_of;
use std::sync::Arc;

use crate::helpers::{self, Outcome};
use crate::interp::Core;
use crate::mem::arena::Range;
use crate::mem::space::{CTX_ADDR, FRAME, Space};
use crate::{EngineKind, Fault, FaultReport, InstanceStats, LoadError, Program, Redirect, Verdict, XdpBuff};
use lower::{CTX_FIELDS, NOTE_STACK};

/// Why this build does not have the engine: it does.
pub(crate) const UNAVAILABLE: Option<&str> = None;

/// What the helpers of a run work on.
struct Run {
    core: *mut Core,
    buf: *mut XdpBuff<'static>,
    fault: Fault,
}

thread_local! {
    /// The run that this thread is in.
    static RUN: Cell<*mut Run> = const { Cell::new(std::ptr::null_mut()) };
}

/// An engine instance.
pub(crate) struct Foreign {
    /// Its interpreter, not its JIT.
    interpreted: bool,
    // Before the code that it refers to, so that it is dropped first.
    vm: rbpf::EbpfVmRaw<'static>,
    _code: Box<[u8]>,
    core: Box<Core>,
    stats: InstanceStats,
    fault: Fault,
    maps: usize,
    program: Arc<Program>,
}

// SAFETY: the machine's only state that is not `Send` by itself is the optional data of a stack calculator, which it was not
// given. All else is owned, and a run's state is in `RUN` only while it runs.
unsafe impl Send for Foreign {}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Foreign({})", self.program.name())
    }
}

impl Foreign {
    pub fn new(program: &Arc<Program>, worker: u32, engine: EngineKind) -> Result<Foreign, LoadError> {
        let refused = |reason: String| LoadError::EngineRefused {
            engine: engine.name(),
            program: program.name().to_owned(),
            reason,
        };
        let interpreted = engine == EngineKind::RbpfInterp;
        let mut space = Space::new();
        let code = lower::lower(program, &mut space, interpreted).map_err(refused)?;
        let maps = space.map_count();
        let code = code.into_boxed_slice();
        // SAFETY: the bytes stay where they are, in the box beside the machine, as long as the machine lives, and nobody
        // changes them.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(code.as_ptr(), code.len()) };
        let rbpf = |e: std::io::Error| refused(e.to_string());
        let mut vm = rbpf::EbpfVmRaw::new(Some(bytes)).map_err(rbpf)?;
        for (id, helper) in helpers(interpreted) {
            vm.register_helper(id, helper).map_err(rbpf)?;
        }
        if interpreted {
            vm.register_allowed_memory(0..u64::MAX);
        } else {
            vm.jit_compile().map_err(rbpf)?;
        }
        Ok(Foreign {
            interpreted,
            vm,
            _code: code,
            core: Box::new(Core::new(space, worker, program.id())),
            stats: InstanceStats::default(),
            fault: Fault::None,
            maps,
            program: program.clone(),
        })
    }

    /// State that helpers work on.
    pub fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Counters.
    pub fn stats(&self) -> InstanceStats {
        self.stats
    }

    /// Runs the program on one frame.
    pub fn run(&mut self, buf: &mut XdpBuff<'_>) -> Verdict {
        let core = &mut *self.core;
        core.redirect = Redirect::default();
        core.space.truncate_maps(self.maps);
        core.space.set_depth(0);
        let mut run = Run {
            core: &raw mut *core,
            buf: std::ptr::from_mut(buf).cast(),
            fault: Fault::None,
        };
        let outer = RUN.replace(&raw mut run);
        // SAFETY: the code was made of a program that the verifier accepted and in which every context access was made one
        // to the field of an `XdpBuff`; the slice is the `XdpBuff`, borrowed exclusively over the call. `run` and what it
        // points to live until the call returns, and nobody else uses them meanwhile.
        let result = unsafe {
            let context = std::slice::from_raw_parts_mut(run.buf.cast::<u8>(), size_of::<XdpBuff<'static>>());
            match self.interpreted {
                true => self.vm.execute_program(context),
                false => self.vm.execute_program_jit(context),
            }
        };
        RUN.set(outer);
        helpers::release(&mut self.core, buf);
        self.stats.runs += 1;
        let fault = match result {
            Ok(_) => run.fault,
            Err(_) => Fault::HelperArgument,
        };
        if fault != Fault::None {
            self.stats.faults += 1;
            self.fault = fault;
            return Verdict {
                fault,
                ..Verdict::default()
            };
        }
        Verdict {
            raw: result.unwrap_or_default() as u32,
            redirect: self.core.redirect,
            fault: Fault::None,
        }
    }

    /// The last fault; where it was is not known here.
    pub fn last_fault(&self) -> Option<FaultReport> {
        (self.fault != Fault::None).then(|| FaultReport {
            fault: self.fault,
            program: self.program.name().to_owned(),
            insn: 0,
            line: None,
            addr: 0,
            len: 0,
        })
    }
}

/// Offsets of the context's fields in an [`XdpBuff`], in the order of [`CTX_FIELDS`].
pub(super) const FIELD_OFFSETS: [usize; CTX_FIELDS] = [
    offset_of!(XdpBuff<'static>, data),
    offset_of!(XdpBuff<'static>, data_end),
    offset_of!(XdpBuff<'static>, data_meta),
    offset_of!(XdpBuff<'static>, ingress_ifindex),
    offset_of!(XdpBuff<'static>, rx_queue),
    offset_of!(XdpBuff<'static>, egress_ifindex),
];

/// A helper by its number, on the run of this thread.
extern "C" fn helper<const ID: i32>(a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
    let run = RUN.get();
    if run.is_null() {
        return 0;
    }
    // SAFETY: `Foreign::run` set this to a run that it keeps alive until the code that called us has returned, and holds
    // no reference into it meanwhile.
    let (run, core, buf) = unsafe { (&mut *run, &mut *(*run).core, &mut *(*run).buf) };
    if ID == NOTE_STACK {
        // SAFETY: the lowered program's first instructions pass its own r10, below which rbpf keeps its 512 bytes of stack,
        // until the program ends. Only this thread uses them.
        let stack = unsafe { Range::of_stack(a, FRAME) };
        core.space.lend(stack);
        return 0;
    }
    let a = if a == (&raw const *buf).expose_provenance() as u64 {
        CTX_ADDR
    } else {
        a
    };
    match helpers::call(ID, core, [a, b, c, d, e], buf) {
        Ok(Outcome::Value(value)) => value,
        Ok(_) => {
            run.fault = Fault::HelperArgument;
            0
        }
        Err(fault) => {
            run.fault = fault;
            0
        }
    }
}

/// Calls [`helper`] with the stack aligned to 16 bytes, as the System V ABI wants it.
#[unsafe(naked)]
unsafe extern "C" fn aligned<const ID: i32>(a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "and rsp, -16",
        "call {helper}",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
        helper = sym helper::<ID>,
    )
}

type Helper = fn(u64, u64, u64, u64, u64) -> u64;

/// What the interpreter calls, as Rust calls.
fn called<const ID: i32>(a: u64, b: u64, c: u64, d: u64, e: u64) -> u64 {
    helper::<ID>(a, b, c, d, e)
}

/// Every helper that rbpf can be given.
fn helpers(interpreted: bool) -> Vec<(u32, Helper)> {
    macro_rules! table {
        ($($n:literal)*) => {
            vec![$(($n as u32, code::<$n>(interpreted))),*]
        };
    }
    fn code<const ID: i32>(interpreted: bool) -> Helper {
        if interpreted {
            return called::<ID>;
        }
        let f: unsafe extern "C" fn(u64, u64, u64, u64, u64) -> u64 = aligned::<ID>;
        // SAFETY: only the code that rbpf's JIT makes calls this, and it does so as C would; Rust never calls it by this type.
        unsafe { std::mem::transmute::<unsafe extern "C" fn(u64, u64, u64, u64, u64) -> u64, Helper>(f) }
    }
    let mut all = table!(
        1 2 3 5 6 7 8 23 25 28 44 51 54 65 69 93 94 118 125 130 131 132 133 134 160 163 177 182 188 189 190 195 208
    );
    all.push((NOTE_STACK as u32, code::<NOTE_STACK>(interpreted)));
    all
}

/// Whether rbpf can be given a helper.
pub(super) fn has_helper(id: i32) -> bool {
    id != NOTE_STACK && helpers(true).iter().any(|(known, _)| *known == id as u32)
}
