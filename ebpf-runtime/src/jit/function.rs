//! One function of a program in cranelift's form: registers as variables, what it reads and writes.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AliasRegionData, Block, BlockArg, InstBuilder, MemFlagsData, Type, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use super::bytes::Bytes;
use super::compile::{self, Env};
use super::flow::{Flow, Stretch};
use super::prune;
use super::state::offset;
use super::stores::Pending;
use crate::insn::{self, Insn};
use crate::mem::space::{FRAME, FRAMES, func_addr};
use crate::{Fault, LoadError};

/// What a function is compiled as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The main program as a loop over frames.
    Batch,
    /// A function that others call.
    Plain,
}

/// Memory that accesses of different regions never share.
#[derive(Clone, Copy)]
pub(super) struct Regions {
    /// State and frame descriptor.
    pub vm: MemFlagsData,
    pub stack: MemFlagsData,
    pub packet: MemFlagsData,
    pub value: MemFlagsData,
    /// Raw descriptor write-backs, and tables for them.
    pub hints: MemFlagsData,
}

impl Regions {
    /// Unless accesses are all told apart, the program's memory is one region.
    fn new(func: &mut ir::Function, told_apart: bool) -> Regions {
        let mut region = |user_id, description: &'static str| {
            let region = func.dfg.alias_regions.insert(AliasRegionData {
                user_id,
                description: description.into(),
            });
            MemFlagsData::new().with_notrap().with_alias_region(Some(region))
        };
        let vm = region(1, "state").with_aligned();
        let packet = region(2, "frame");
        let hints = region(5, "write-back");
        let (stack, value) = match told_apart {
            true => (region(3, "stack"), region(4, "map value")),
            false => (packet, packet),
        };
        Regions {
            vm,
            stack,
            packet,
            value,
            hints,
        }
    }
}

/// Translates function number `f`.
pub(super) fn translate(
    env: &Env<'_>,
    f: usize,
    form: Form,
    func: &mut ir::Function,
    context: &mut FunctionBuilderContext,
    isa: &dyn TargetIsa,
) -> Result<(), LoadError> {
    func.signature = match form {
        Form::Batch => compile::signature(env.conv, 5, 2),
        Form::Plain => env.plain_signature(),
    };
    let regions = Regions::new(func, env.facts.told_apart());
    let mut b = FunctionBuilder::new(func, context);
    let regs = std::array::from_fn(|_| b.declare_var(types::I64));
    let entry = b.create_block();
    let (fault, propagate, exit) = (b.create_block(), b.create_block(), b.create_block());
    b.append_block_params_for_function_params(entry);
    b.append_block_param(fault, types::I64);
    b.append_block_param(fault, types::I32);
    b.append_block_param(propagate, types::I64);
    b.append_block_param(exit, types::I64);
    b.set_cold_block(fault);
    b.set_cold_block(propagate);
    b.switch_to_block(entry);
    let params = b.block_params(entry).to_vec();
    let buf = b.declare_var(types::I64);
    let mut t = Translator {
        env,
        f,
        form,
        b,
        regs,
        regions,
        merges: env.facts.told_apart(),
        state: params[0],
        fp: *params.last().unwrap_or(&params[0]),
        buf,
        flow: Flow::default(),
        fault,
        propagate,
        exit,
        signatures: HashMap::new(),
        functions: HashMap::new(),
        present: HashSet::new(),
        here: Stretch::default(),
        bytes: Bytes::default(),
        pending: Pending::default(),
    };
    match form {
        Form::Batch => t.batch(&params),
        Form::Plain => t.plain(&params),
    }
    t.fault_block();
    t.b.seal_all_blocks();
    t.b.finalize(isa.frontend_config());
    prune::prune(func);
    Ok(())
}

/// Translation of one function in progress.
pub(super) struct Translator<'a, 'f> {
    pub env: &'a Env<'a>,
    pub f: usize,
    form: Form,
    pub b: FunctionBuilder<'f>,
    regs: [Variable; 10],
    pub regions: Regions,
    /// Whether accesses to the frame may be put together.
    pub merges: bool,
    /// The [`State`].
    pub state: Value,
    /// r10.
    pub fp: Value,
    /// The [`XdpBuff`].
    pub buf: Variable,
    pub flow: Flow,
    /// Takes a fault and the instruction it happened at.
    pub fault: Block,
    /// Takes the status of a callee that faulted.
    pub propagate: Block,
    /// Takes r0.
    pub exit: Block,
    signatures: HashMap<(usize, usize), ir::SigRef>,
    functions: HashMap<usize, ir::FuncRef>,
    /// Addresses that are certainly not null.
    pub present: HashSet<Value>,
    /// What is known at this point.
    pub here: Stretch,
    pub bytes: Bytes,
    /// Stores to the frame that were not made yet.
    pub pending: Pending,
}

impl Translator<'_, '_> {
    /// A 64-bit constant.
    pub fn c(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    /// A constant of any integer type.
    pub fn constant(&mut self, ty: Type, value: i64) -> Value {
        let value = match ty.bits() {
            64 => value,
            bits => value & ((1 << bits) - 1),
        };
        self.b.ins().iconst(ty, value)
    }

    /// A register's value.
    pub fn reg(&mut self, n: u8) -> Value {
        match self.regs.get(usize::from(n)) {
            Some(var) => self.b.use_var(*var),
            None => self.fp,
        }
    }

    pub fn set(&mut self, n: u8, value: Value) {
        // r10 is never written: `check` refuses that.
        if let Some(var) = self.regs.get(usize::from(n)) {
            self.b.def_var(*var, value);
            self.note_set(n, value);
        }
    }

    pub fn buf(&mut self) -> Value {
        self.b.use_var(self.buf)
    }

    pub fn load_vm(&mut self, ty: Type, base: Value, off: i32) -> Value {
        self.b.ins().load(ty, self.regions.vm, base, off)
    }

    pub fn store_vm(&mut self, value: Value, base: Value, off: i32) {
        self.b.ins().store(self.regions.vm, value, base, off);
    }

    /// Goes on in a block that all jumps to it were made to.
    pub fn begin(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    /// A new block that is laid out away from the others.
    pub fn cold(&mut self) -> Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        block
    }

    /// Ends the run with `fault` at `at` if `condition` holds.
    pub fn fault_if(&mut self, condition: Value, fault: Fault, at: usize) {
        let (cold, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(condition, cold, &[], on, &[]);
        self.begin(cold);
        self.fault(fault, at);
        self.begin(on);
    }

    /// Ends the run.
    pub fn fault(&mut self, fault: Fault, at: usize) {
        let status = self.c(i64::from(fault as u32));
        self.fault_with(status, at);
    }

    /// Ends the run with the status that the runtime gave.
    pub fn fault_with(&mut self, status: Value, at: usize) {
        let at = self.b.ins().iconst(types::I32, at as i64);
        self.b
            .ins()
            .jump(self.fault, &[BlockArg::Value(status), BlockArg::Value(at)]);
    }

    /// Goes on if `status` is 0 and else ends the run at `at`.
    pub fn checked(&mut self, status: Value, at: usize) {
        let (cold, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(status, cold, &[], on, &[]);
        self.begin(cold);
        self.fault_with(status, at);
        self.begin(on);
    }

    /// Calls a runtime function with the state as its first argument.
    pub fn call_rt(&mut self, f: *const (), args: &[Value], returns: usize) -> [Value; 2] {
        let (state, fp) = (self.state, self.fp);
        self.store_vm(fp, state, offset::FP);
        self.tell_frame();
        let all: Vec<Value> = std::iter::once(state).chain(args.iter().copied()).collect();
        self.call_address(f, &all, returns)
    }

    /// Before a call that may want to know the frame in work. Functions that others call find it where these left it.
    fn tell_frame(&mut self) {
        if self.form == Form::Batch {
            let (state, buf) = (self.state, self.buf());
            self.store_vm(buf, state, offset::BUF);
        }
    }

    /// Calls a function by its address.
    pub fn call_address(&mut self, f: *const (), args: &[Value], returns: usize) -> [Value; 2] {
        let conv = self.env.conv;
        let sig = *self.signatures.entry((args.len(), returns)).or_insert_with(|| {
            self.b
                .import_signature(compile::signature(conv, args.len(), returns))
        });
        let callee = self.c(compile::address(f));
        let call = self.b.ins().call_indirect(sig, callee, args);
        let results = self.b.inst_results(call);
        [results[0], *results.get(1).unwrap_or(&results[0])]
    }

    /// A 64-bit constant, or what a reference stands for.
    pub fn wide(&mut self, insn: Insn, at: usize) {
        let high = self.env.body.insns.get(at + 1).map_or(0, |second| second.imm);
        let value = match insn.src {
            insn::IMM_MAP => {
                let state = self.state;
                let maps = self.load_vm(types::I64, state, offset::MAPS);
                self.load_vm(types::I64, maps, insn.imm.wrapping_mul(8))
            }
            insn::IMM_MAP_VALUE => {
                let map = self.env.collection.maps.get(insn.imm as usize);
                let base = map.and_then(|m| m.base_addr());
                let addr = base.map_or(0, |b| b.wrapping_add(u64::from(high as u32)));
                self.c(addr as i64)
            }
            insn::IMM_FUNC => self.c(func_addr(insn.imm as u32) as i64),
            _ => self.c((u64::from(insn.imm as u32) | u64::from(high as u32) << 32) as i64),
        };
        self.set(insn.dst, value);
    }

    /// A call of another function of the program.
    pub fn local(&mut self, insn: Insn, at: usize) {
        self.forget_all();
        let pc = at as i64 + 1 + i64::from(insn.imm);
        let Some(callee) = self.env.body.functions.iter().position(|f| f.0 as i64 == pc) else {
            // `check` refuses such calls.
            let always = self.b.ins().iconst(types::I8, 1);
            return self.fault_if(always, Fault::OutOfBounds, at);
        };
        let (state, fp) = (self.state, self.fp);
        if self.env.checks_depth {
            let top = self.load_vm(types::I64, state, offset::TOP);
            let deep = self.b.ins().isub(top, fp);
            let most = self.c(((FRAMES - 1) * FRAME) as i64);
            let over = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, deep, most);
            self.fault_if(over, Fault::CallDepth, at);
        }
        let function = match self.functions.get(&callee) {
            Some(function) => *function,
            None => {
                let function = compile::import(self.env, self.b.func, callee);
                self.functions.insert(callee, function);
                function
            }
        };
        self.tell_frame();
        let frame = self.c(FRAME as i64);
        let below = self.b.ins().isub(fp, frame);
        let mut args = vec![state];
        args.extend((1..=5).map(|n| self.reg(n)));
        args.push(below);
        let call = self.b.ins().call(function, &args);
        let (r0, status) = {
            let results = self.b.inst_results(call);
            (results[0], results[1])
        };
        self.propagated(status);
        self.set(0, r0);
    }

    /// Goes on if `status` is 0; else it is that of a callee that has noted its fault.
    pub fn propagated(&mut self, status: Value) {
        let on = self.b.create_block();
        self.b
            .ins()
            .brif(status, self.propagate, &[BlockArg::Value(status)], on, &[]);
        self.begin(on);
    }
}
