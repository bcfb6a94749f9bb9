//! From a linked program to machine code: each function through cranelift, then calls between them resolved.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{self, AbiParam, ExternalName, Signature, UserFuncName, types};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{CodegenError, Context, FinalizedRelocTarget};
use cranelift_frontend::FunctionBuilderContext;

use super::code::Text;
use super::facts::Facts;
use super::function::{self, Form};
use super::schedule;
use super::state::{BatchFn, PlainFn};
use super::track;
use crate::insn::{self, Insn};
use crate::kfunc::Kfunc;
use crate::maps::MapType;
use crate::mem::space::FRAMES;
use crate::program::{Body, Collection};
use crate::verifier::Verified;
use crate::{HintLayout, LoadError};

/// Where a program keeps its code once it is compiled.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    plain: OnceLock<Result<Arc<Code>, LoadError>>,
    /// Code that reads hints as a layout says, while somebody runs it.
    hinted: Mutex<Vec<(HintLayout, Weak<Code>)>>,
}

impl Slot {
    /// The code, if there is any yet.
    pub fn get(&self) -> Option<&Arc<Code>> {
        self.plain.get()?.as_ref().ok()
    }
}

/// First instruction of each function and the address of its code. The code itself refers to this by address.
#[derive(Debug, Default)]
pub(super) struct Table(OnceLock<Vec<(u32, usize)>>);

impl Table {
    /// The function that begins at an instruction.
    pub fn function(&self, pc: u32) -> Option<PlainFn> {
        let &(_, addr) = self.0.get()?.iter().find(|f| f.0 == pc)?;
        let at = std::ptr::with_exposed_provenance::<u8>(addr);
        // SAFETY: a function of this signature was compiled to there; whoever has the table has it from running code.
        Some(unsafe { std::mem::transmute::<*const u8, PlainFn>(at) })
    }
}

/// Machine code of one program.
pub(crate) struct Code {
    text: Text,
    batch: usize,
    _table: Box<Table>,
    simple: bool,
    /// Frames of calls it can nest, if that is known before it runs.
    pub(super) depth: Option<usize>,
    /// How long compiling took.
    pub time: Duration,
    /// Bytes of code.
    pub bytes: usize,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({} bytes)", self.bytes)
    }
}

impl Code {
    /// The program as a loop over a batch.
    pub(super) fn batch(&self) -> BatchFn {
        let at = self.text.at(self.batch);
        // SAFETY: a function of this signature was compiled to there, and the code lives as long as `self`.
        unsafe { std::mem::transmute::<*const u8, BatchFn>(at) }
    }

    /// Whether a run leaves nothing behind that the next one must not see.
    pub(super) fn simple(&self) -> bool {
        self.simple
    }
}

/// The code of a program, compiled on first use; what the verifier has proven then needs no checks.
pub(super) fn code(body: &Body, collection: &Collection, hints: &HintLayout) -> Result<Arc<Code>, LoadError> {
    let compile = |hints| compile(body, collection, body.proof(), hints).map(Arc::new);
    let none = HintLayout::none();
    if *hints == none || !body.insns.iter().any(reads_hints) {
        return body.jit.plain.get_or_init(|| compile(&none)).clone();
    }
    let mut hinted = body.jit.hinted.lock().unwrap_or_else(PoisonError::into_inner);
    hinted.retain(|(_, code)| code.strong_count() > 0);
    let known = hinted.iter().find(|(layout, _)| layout == hints);
    if let Some(code) = known.and_then(|(_, code)| code.upgrade()) {
        return Ok(code);
    }
    let code = compile(hints)?;
    hinted.push((hints.clone(), Arc::downgrade(&code)));
    Ok(code)
}

fn reads_hints(insn: &Insn) -> bool {
    let kfunc = insn.code == insn::CALL && insn.src == insn::CALL_KFUNC;
    kfunc && Kfunc::by_id(insn.imm.into()).reads_metadata()
}

/// What the translation of a function needs to know.
pub(super) struct Env<'a> {
    pub body: &'a Body,
    pub collection: &'a Collection,
    pub facts: Facts,
    /// Where hints lie.
    pub hints: &'a HintLayout,
    /// Whether calls must look how deep they are nested.
    pub checks_depth: bool,
    /// Whether something takes from the instruction budget.
    pub budget: bool,
    /// Where the functions' addresses will be found; its own address does not change.
    pub table: *const Table,
    pub conv: CallConv,
}

impl Env<'_> {
    /// State, r1 to r5, r10; r0 and status.
    pub fn plain_signature(&self) -> Signature {
        signature(self.conv, 7, 2)
    }
}

/// A signature of 64-bit integers.
pub(super) fn signature(conv: CallConv, params: usize, returns: usize) -> Signature {
    let mut sig = Signature::new(conv);
    sig.params = vec![AbiParam::new(types::I64); params];
    sig.returns = vec![AbiParam::new(types::I64); returns];
    sig
}

fn target() -> Result<OwnedTargetIsa, LoadError> {
    let fail = |what: String| LoadError::Jit(what);
    let mut flags = settings::builder();
    let choices = [
        ("opt_level", "speed"),
        ("enable_verifier", "false"),
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        ("is_pic", "false"),
    ];
    for (name, value) in choices {
        flags.set(name, value).map_err(|e| fail(format!("{name}: {e}")))?;
    }
    let isa = cranelift_native::builder().map_err(|e| fail(e.into()))?;
    isa.finish(settings::Flags::new(flags))
        .map_err(|e| fail(e.to_string()))
}

fn compile(
    body: &Body,
    collection: &Collection,
    verified: Option<&Verified>,
    hints: &HintLayout,
) -> Result<Code, LoadError> {
    let begun = Instant::now();
    let mut facts = track::track(body, collection);
    if let Some(verified) = verified {
        facts.prove(verified, body);
    }
    let isa = target()?;
    let calls = Calls::of(body);
    let table = Box::new(Table::default());
    let env = Env {
        body,
        collection,
        facts,
        hints,
        checks_depth: calls.depth.is_none(),
        // The verifier has walked over all that a run can do, but for what helpers' loops and may_goto repeat.
        budget: calls.repeats && (verified.is_none() || calls.open_ended),
        table: &*table,
        conv: CallConv::triple_default(isa.triple()),
    };
    let mut linker = Linker::default();
    linker.add(&env, &*isa, 0, Form::Batch)?;
    let plain: Vec<usize> = (0..body.functions.len())
        .filter(|f| *f != 0 || calls.main_is_called)
        .collect();
    for f in plain {
        linker.add(&env, &*isa, f, Form::Plain)?;
    }
    linker.link(body)?;
    let text =
        Text::new(&linker.code).map_err(|e| LoadError::Jit(format!("memory for machine code: {e}")))?;
    let place = |&(f, offset): &(usize, usize)| {
        let pc = body.functions[f].0 as u32;
        (pc, text.at(offset).expose_provenance())
    };
    // A new table is empty.
    let _ = table.0.set(linker.plain.iter().map(place).collect());
    Ok(Code {
        batch: linker.batch,
        _table: table,
        simple: simple(body, collection),
        depth: calls.depth,
        time: begun.elapsed(),
        bytes: linker.code.len(),
        text,
    })
}

/// Whether runs leave nothing behind: no redirect, record, lock, inner map, no other program.
fn simple(body: &Body, collection: &Collection) -> bool {
    let leaves = |i: &Insn| {
        i.code == insn::CALL && i.src == insn::CALL_HELPER && matches!(i.imm, 12 | 23 | 51 | 93 | 131)
    };
    let nested = |kind| matches!(kind, MapType::ArrayOfMaps | MapType::HashOfMaps);
    !body.insns.iter().any(leaves) && !collection.maps.iter().any(|m| nested(m.kind()))
}

/// Which functions call which.
struct Calls {
    /// Frames that calls can nest; `None` when that depends on the run.
    depth: Option<usize>,
    /// Whether anything can run more than once: loops, calls, callbacks.
    repeats: bool,
    /// Whether a verified program may still run for long: callbacks, `may_goto`.
    open_ended: bool,
    main_is_called: bool,
}

impl Calls {
    fn of(body: &Body) -> Calls {
        let mut callees = vec![Vec::new(); body.functions.len()];
        let mut callbacks = false;
        let mut back = false;
        let mut gotos = false;
        for (f, &(start, end)) in body.functions.iter().enumerate() {
            for at in start..end {
                let insn = body.insns[at];
                if insn.code == insn::CALL && insn.src == insn::CALL_LOCAL {
                    let target = at as i64 + 1 + i64::from(insn.imm);
                    callees[f].extend(body.functions.iter().position(|g| g.0 as i64 == target));
                }
                callbacks |= insn.is_wide() && insn.src == insn::IMM_FUNC;
                gotos |= insn.code == insn::JCOND;
                back |= track::jump_target(insn, at).is_some_and(|t| t <= at);
            }
        }
        let depth = match callbacks {
            true => None,
            false => frames(&callees, &mut vec![0; callees.len()], 0, 0),
        };
        let calls_main = |list: &Vec<usize>| list.contains(&0);
        Calls {
            depth,
            open_ended: callbacks || gotos,
            repeats: back || callbacks || callees.iter().any(|c| !c.is_empty()),
            main_is_called: callbacks || callees.iter().any(calls_main),
        }
    }
}

/// Frames that a call of a function takes; `None` when they are more than programs may nest. `known` holds what was found
/// out already.
fn frames(callees: &[Vec<usize>], known: &mut [usize], from: usize, above: usize) -> Option<usize> {
    if above >= FRAMES {
        return None;
    }
    if known[from] == 0 {
        let mut below = 0;
        for callee in &callees[from] {
            below = below.max(frames(callees, known, *callee, above + 1)?);
        }
        known[from] = below + 1;
    }
    (above + known[from] <= FRAMES).then_some(known[from])
}

#[derive(Default)]
struct Linker {
    code: Vec<u8>,
    batch: usize,
    plain: Vec<(usize, usize)>,
    /// Where a call's offset is to be put, and the function it is to.
    calls: Vec<(usize, usize, i64)>,
    frontend: FunctionBuilderContext,
}

impl Linker {
    fn add(
        &mut self,
        env: &Env<'_>,
        isa: &dyn cranelift_codegen::isa::TargetIsa,
        f: usize,
        form: Form,
    ) -> Result<(), LoadError> {
        let program = &env.body.name;
        let mut context = Context::new();
        context.func.name = UserFuncName::user(0, f as u32);
        function::translate(env, f, form, &mut context.func, &mut self.frontend, isa)?;
        let fail = |error: CodegenError| LoadError::Jit(format!("program `{program}`: {error:?}"));
        let mut control = ControlPlane::default();
        context.optimize(isa, &mut control).map_err(fail)?;
        schedule::schedule(&mut context.func);
        let (func, domtree) = (&context.func, &context.domtree);
        let compiled = isa
            .compile_function(func, domtree, &mut Default::default(), false, &mut control)
            .map_err(fail)?
            .apply_params(&func.params);
        self.code.resize(self.code.len().next_multiple_of(64), 0xcc);
        let base = self.code.len();
        self.code.extend_from_slice(compiled.code_buffer());
        for reloc in compiled.buffer.relocs() {
            let callee = match &reloc.target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                    context.func.params.user_named_funcs()[*name].index as usize
                }
                other => {
                    return Err(LoadError::Jit(format!(
                        "program `{program}`: reference to {other:?}"
                    )));
                }
            };
            if reloc.kind != Reloc::X86CallPCRel4 {
                return Err(LoadError::Jit(format!(
                    "program `{program}`: relocation {:?}",
                    reloc.kind
                )));
            }
            self.calls
                .push((base + reloc.offset as usize, callee, reloc.addend));
        }
        match form {
            Form::Batch => self.batch = base,
            Form::Plain => self.plain.push((f, base)),
        }
        Ok(())
    }

    fn link(&mut self, body: &Body) -> Result<(), LoadError> {
        for &(at, callee, addend) in &self.calls {
            let to = self.plain.iter().find(|(f, _)| *f == callee).map(|(_, to)| *to);
            let off = to
                .map(|to| to as i64 + addend - at as i64)
                .and_then(|off| i32::try_from(off).ok());
            let (Some(off), Some(place)) = (off, self.code.get_mut(at..at + 4)) else {
                return Err(LoadError::Jit(format!(
                    "program `{}`: call out of reach",
                    body.name
                )));
            };
            place.copy_from_slice(&off.to_le_bytes());
        }
        Ok(())
    }
}

/// A function of the same program, for a call to it.
pub(super) fn import(env: &Env<'_>, func: &mut ir::Function, f: usize) -> ir::FuncRef {
    let name = func.declare_imported_user_function(ir::UserExternalName::new(0, f as u32));
    let signature = func.import_signature(env.plain_signature());
    func.import_function(ir::ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated: true,
        patchable: false,
    })
}

/// Address of a runtime function as a constant in code.
pub(super) fn address(f: *const ()) -> i64 {
    f.addr() as i64
}
