//! A loaded program and the engines it can run on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::insn::{self, Insn};
use crate::object::btf::{Btf, Lines};
use crate::verifier::{Refusal, Verified, verify};
use crate::{HintLayout, Hook, Instance, LoadError, Map, RunConfig, RxMeta, SourceLine, foreign, jit};

// Numbers of helpers (`enum bpf_func_id`, linux/bpf.h).
const TAIL_CALL: i32 = 12;
const ADJUST_HEAD: i32 = 44;
const ADJUST_META: i32 = 54;
const ADJUST_TAIL: i32 = 65;

/// Which engine runs a program. The default is the fastest that this build has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The checked interpreter: the reference.
    Interp,
    /// Machine code by cranelift.
    Jit,
    /// The rbpf crate's JIT, for comparison: what it does wrong is refused ([`LoadError::EngineRefused`]).
    Rbpf,
    /// The rbpf crate's interpreter, for comparison too.
    RbpfInterp,
}

impl Default for EngineKind {
    fn default() -> EngineKind {
        match jit::UNAVAILABLE {
            None => EngineKind::Jit,
            Some(_) => EngineKind::Interp,
        }
    }
}

impl EngineKind {
    /// Why this build does not have the engine.
    fn unavailable(self) -> Option<&'static str> {
        match self {
            EngineKind::Interp => None,
            EngineKind::Jit => jit::UNAVAILABLE,
            EngineKind::Rbpf | EngineKind::RbpfInterp => foreign::UNAVAILABLE,
        }
    }

    /// The engines of this build that run whatever the verifier accepts, the default first. Those of rbpf, which
    /// are for comparison, do not.
    pub fn available() -> Vec<EngineKind> {
        [EngineKind::Jit, EngineKind::Interp]
            .into_iter()
            .filter(|e| e.unavailable().is_none())
            .collect()
    }

    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Interp => "interp",
            EngineKind::Jit => "jit",
            EngineKind::Rbpf => "rbpf",
            EngineKind::RbpfInterp => "rbpf-interp",
        }
    }
}

impl std::str::FromStr for EngineKind {
    type Err = LoadError;

    fn from_str(s: &str) -> Result<EngineKind, LoadError> {
        match s {
            "interp" => Ok(EngineKind::Interp),
            "jit" => Ok(EngineKind::Jit),
            "rbpf" => Ok(EngineKind::Rbpf),
            "rbpf-interp" => Ok(EngineKind::RbpfInterp),
            other => Err(LoadError::Unsupported(format!(
                "unknown engine `{other}`; there are interp, jit, rbpf and rbpf-interp"
            ))),
        }
    }
}

/// What compiling a program took and gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiled {
    /// How long it took.
    pub time: Duration,
    /// Bytes of machine code.
    pub bytes: usize,
}

/// The code of one program: its function and every function it calls, in one instruction stream.
#[derive(Debug)]
pub(crate) struct Body {
    pub id: u32,
    pub name: String,
    pub section: String,
    pub hook: Hook,
    /// Linked instructions. A map reference (`IMM_MAP`, `IMM_MAP_VALUE`) holds an index in [`Collection::maps`] and, in
    /// its second slot, an offset; a function reference (`IMM_FUNC`) holds an absolute instruction.
    pub insns: Vec<Insn>,
    /// First instruction and end of each function, the program's own first.
    pub functions: Vec<(usize, usize)>,
    pub lines: Lines,
    pub btf: Arc<Btf>,
    /// Its machine code, once an instance asked for it.
    pub jit: jit::Slot,
    /// Where functions begin that read stack they have not written; known once the program is verified.
    pub zeroed: OnceLock<Vec<usize>>,
    /// The struct of the queue's metadata that it, or a program it may call as its tail, reads.
    pub rx_meta: Option<Arc<RxMeta>>,
    /// Instructions that use fields which the struct does not have: what is wrong with each, and what to do.
    pub never: Vec<(usize, String, String)>,
    /// What the verifier said, once it was asked.
    pub verified: OnceLock<Result<Arc<Verified>, Box<Refusal>>>,
}

impl Body {
    /// A number no other program of this process has.
    pub fn next_id() -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether it is marked `xdp.frags`.
    pub fn frags(&self) -> bool {
        // A question mark says that a loader should not load it unasked (libbpf).
        let section = self.section.trim_start_matches('?');
        section == "xdp.frags" || section.starts_with("xdp.frags/")
    }

    /// The maps that it names, by index.
    pub fn named_maps(&self) -> impl Iterator<Item = usize> {
        let named = self
            .insns
            .iter()
            .filter(|i| i.is_wide() && i.src == insn::IMM_MAP);
        named.filter_map(|i| usize::try_from(i.imm).ok())
    }

    /// The source line of an instruction, when the object tells.
    pub fn line(&self, insn: usize) -> Option<SourceLine> {
        self.lines.at(insn, &self.btf)
    }

    /// A refusal in the words of the field that the refused instruction uses, if it is about one.
    fn told(&self, mut refusal: Box<Refusal>) -> Box<Refusal> {
        if let Some((_, what, remedy)) = self.never.iter().find(|(at, ..)| *at == refusal.insn) {
            refusal.code = "use of a field that is not there".into();
            refusal.what.clone_from(what);
            refusal.remedy.clone_from(remedy);
        }
        refusal
    }

    /// The verifier's proof, if it was asked and accepted the program.
    #[cfg_attr(
        not(all(any(feature = "jit", feature = "rbpf"), target_arch = "x86_64")),
        expect(dead_code, reason = "for engines that make machine code")
    )]
    pub fn proof(&self) -> Option<&Verified> {
        self.verified.get()?.as_deref().ok()
    }
}

/// What one load of an object made: its maps and the programs that share them.
#[derive(Debug)]
pub(crate) struct Collection {
    pub maps: Vec<Arc<Map>>,
    /// Keeps the code alive that program arrays only point to.
    pub _bodies: Vec<Arc<Body>>,
    /// Where in its values each map has a spin lock.
    pub locks: Vec<Option<u32>>,
    pub cpus: u32,
}

/// A linked program with its maps, shared by all workers that run it.
#[derive(Debug)]
pub struct Program {
    body: Arc<Body>,
    collection: Arc<Collection>,
}

impl Program {
    pub(crate) fn new(body: Arc<Body>, collection: Arc<Collection>) -> Program {
        Program { body, collection }
    }

    /// Proves that the program can do no harm, once; later calls give the first one's result.
    pub fn verify(&self) -> Result<&Arc<Verified>, LoadError> {
        let result = self.body.verified.get_or_init(|| {
            let verified = verify(&self.body, &self.collection).map_err(|r| self.body.told(r))?;
            let functions = self.body.functions.iter().zip(&verified.functions);
            let zeroed = functions.filter(|(_, f)| f.zero).map(|((start, _), _)| *start);
            // Verified once, so set once.
            let _ = self.body.zeroed.set(zeroed.collect());
            Ok(Arc::new(verified))
        });
        result
            .as_ref()
            .map_err(|refusal| LoadError::Refused(refusal.clone()))
    }

    pub(crate) fn body(&self) -> &Arc<Body> {
        &self.body
    }

    pub(crate) fn collection(&self) -> &Arc<Collection> {
        &self.collection
    }

    /// A number that no other program of this process has.
    pub fn id(&self) -> u32 {
        self.body.id
    }

    /// Function name.
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// ELF section it came from.
    pub fn section(&self) -> &str {
        &self.body.section
    }

    /// Where it can run.
    pub fn hook(&self) -> Hook {
        self.body.hook
    }

    /// Its place in a chain of programs, as the object says.
    pub fn run_config(&self) -> Result<RunConfig, LoadError> {
        RunConfig::of(&self.body.btf, &self.body.name)
    }

    /// The struct of the queue's metadata, `struct millrace_rx_meta`, that it or a program it may call as its tail reads.
    pub fn rx_meta(&self) -> Option<&RxMeta> {
        self.body.rx_meta.as_deref()
    }

    /// Refuses queues on which the struct of metadata is not the one that the program was loaded with
    /// ([`crate::Loader::hints`]).
    pub fn fits_hints(&self, layout: &HintLayout) -> Result<(), LoadError> {
        match &self.body.rx_meta {
            Some(meta) => meta.fits(self.name(), layout),
            None => Ok(()),
        }
    }

    /// Whether a run may move the frame's edges: the program calls `bpf_xdp_adjust_head`, `_meta` or `_tail`, or a program that
    /// may. After a run of any other, the frame begins and ends where it did.
    pub fn moves_edges(&self) -> bool {
        let moves = |i: &Insn| {
            i.code == insn::CALL
                && i.src == insn::CALL_HELPER
                && matches!(i.imm, TAIL_CALL | ADJUST_HEAD | ADJUST_META | ADJUST_TAIL)
        };
        self.body.insns.iter().any(moves)
    }

    /// Whether it is marked `xdp.frags`: only such programs may be given frames of several buffers.
    pub fn frags(&self) -> bool {
        self.body.frags()
    }

    /// Whether it, or a program of its object that it may call as its tail, asks for the host's routes
    /// ([`crate::Instance::set_routes`]).
    pub fn wants_routes(&self) -> bool {
        const FIB_LOOKUP: i32 = 69;
        const CHECK_MTU: i32 = 163;
        let asks = |i: &Insn| {
            i.code == insn::CALL && i.src == insn::CALL_HELPER && matches!(i.imm, FIB_LOOKUP | CHECK_MTU)
        };
        let mut bodies = self.collection._bodies.iter().chain([&self.body]);
        bodies.any(|body| body.insns.iter().any(asks))
    }

    /// Instruction slots of the linked program.
    pub fn instructions(&self) -> usize {
        self.body.insns.len()
    }

    /// The maps its object has.
    pub fn maps(&self) -> Vec<Arc<Map>> {
        self.collection.maps.clone()
    }

    /// Engine state for one worker; `worker` is what `bpf_get_smp_processor_id` returns and which value of a per-CPU map
    /// the program sees, so it must be below the loader's `cpus`. The program is verified first.
    pub fn instance(self: &Arc<Self>, engine: EngineKind, worker: u32) -> Result<Instance, LoadError> {
        if let Some(why) = engine.unavailable() {
            return Err(LoadError::EngineUnavailable(engine.name(), why));
        }
        self.verify()?;
        self.instance_unverified_on(engine, worker)
    }

    /// The same on the checked interpreter, which contains whatever a program does, without verifying it. For programs
    /// under study; what is attached to a queue is always verified.
    pub fn instance_unverified(self: &Arc<Self>, worker: u32) -> Result<Instance, LoadError> {
        self.instance_unverified_on(EngineKind::Interp, worker)
    }

    /// The same on any engine: without a proof the JIT checks as the interpreter does.
    pub fn instance_unverified_on(
        self: &Arc<Self>,
        engine: EngineKind,
        worker: u32,
    ) -> Result<Instance, LoadError> {
        if let Some(why) = engine.unavailable() {
            return Err(LoadError::EngineUnavailable(engine.name(), why));
        }
        if worker >= self.collection.cpus {
            return Err(LoadError::Unsupported(format!(
                "worker {worker} of a program loaded for {} workers; give Loader::cpus the number of workers",
                self.collection.cpus
            )));
        }
        Instance::new(self, engine, worker)
    }

    /// What compiling to machine code cost, once an instance on the JIT was made.
    pub fn compiled(&self) -> Option<Compiled> {
        self.body.jit.get().map(|code| Compiled {
            time: code.time,
            bytes: code.bytes,
        })
    }
}
