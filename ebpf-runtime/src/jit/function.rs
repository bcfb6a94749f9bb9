//! One function of a program in cranelift's form: a block for each jump target, registers as variables.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AliasRegionData, Block, BlockArg, InstBuilder, MemFlagsData, Type, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

use super::compile::{self, Env};
use super::known::Known;
use super::state::offset;
use super::track::jump_target;
use crate::insn::{self, Insn};
use crate::interp::MAY_GOTO_MAX;
use crate::mem::space::{CTX_ADDR, FRAME, FRAMES, func_addr};
use crate::{Fault, LoadError, Verdict, XdpBuff};

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
        let (stack, value) = match told_apart {
            true => (region(3, "stack"), region(4, "map value")),
            false => (packet, packet),
        };
        Regions {
            vm,
            stack,
            packet,
            value,
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
        b,
        regs,
        regions,
        state: params[0],
        fp: *params.last().unwrap_or(&params[0]),
        buf,
        blocks: HashMap::new(),
        fault,
        propagate,
        exit,
        signatures: HashMap::new(),
        functions: HashMap::new(),
        present: HashSet::new(),
        known: Known::default(),
    };
    match form {
        Form::Batch => t.batch(&params),
        Form::Plain => t.plain(&params),
    }
    t.fault_block();
    t.b.seal_all_blocks();
    t.b.finalize(isa.frontend_config());
    Ok(())
}

/// Translation of one function in progress.
pub(super) struct Translator<'a, 'f> {
    pub env: &'a Env<'a>,
    f: usize,
    pub b: FunctionBuilder<'f>,
    regs: [Variable; 10],
    pub regions: Regions,
    /// The [`State`].
    pub state: Value,
    /// r10.
    pub fp: Value,
    /// The [`XdpBuff`].
    buf: Variable,
    blocks: HashMap<usize, Block>,
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
    /// What is known of the function's frame at this point.
    pub known: Known,
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
        self.b.switch_to_block(cold);
        self.fault(fault, at);
        self.b.switch_to_block(on);
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
        self.b.switch_to_block(cold);
        self.fault_with(status, at);
        self.b.switch_to_block(on);
    }

    /// Calls a runtime function with the state as its first argument.
    pub fn call_rt(&mut self, f: *const (), args: &[Value], returns: usize) -> [Value; 2] {
        let (state, fp) = (self.state, self.fp);
        self.store_vm(fp, state, offset::FP);
        let all: Vec<Value> = std::iter::once(state).chain(args.iter().copied()).collect();
        self.call_address(f, &all, returns)
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

    /// The loop over a batch: state, frames, verdicts, count, r10.
    fn batch(&mut self, params: &[Value]) {
        let (bufs, verdicts, count) = (params[1], params[2], params[3]);
        let verdict_var = self.b.declare_var(types::I64);
        let left_var = self.b.declare_var(types::I64);
        self.b.def_var(self.buf, bufs);
        self.b.def_var(verdict_var, verdicts);
        self.b.def_var(left_var, count);
        let zero = self.c(0);
        let (head, next, out) = (
            self.b.create_block(),
            self.b.create_block(),
            self.b.create_block(),
        );
        for block in [next, out] {
            self.b.append_block_param(block, types::I64);
            self.b.append_block_param(block, types::I64);
        }
        let nothing = [BlockArg::Value(zero), BlockArg::Value(zero)];
        self.b.ins().brif(count, head, &[], out, &nothing);

        self.b.switch_to_block(head);
        let (state, buf) = (self.state, self.buf());
        self.store_vm(buf, state, offset::BUF);
        if self.env.budget {
            let budget = self.load_vm(types::I64, state, offset::BUDGET);
            self.store_vm(budget, state, offset::LEFT);
        }
        if self.env.body.insns.iter().any(|i| i.code == insn::JCOND) {
            let zero = self.c(0);
            self.store_vm(zero, state, offset::GOTOS);
        }
        for n in 0..10 {
            let value = if n == 1 { CTX_ADDR as i64 } else { 0 };
            let value = self.c(value);
            self.set(n, value);
        }
        self.body();

        self.b.switch_to_block(self.exit);
        let r0 = self.b.block_params(self.exit)[0];
        let verdict = self.b.use_var(verdict_var);
        let raw = self.b.ins().ireduce(types::I32, r0);
        let raw = self.b.ins().uextend(types::I64, raw);
        let zero = self.c(0);
        for (at, word) in [raw, zero, zero].into_iter().enumerate() {
            self.store_vm(word, verdict, at as i32 * 8);
        }
        self.b
            .ins()
            .jump(next, &[BlockArg::Value(r0), BlockArg::Value(zero)]);

        self.b.switch_to_block(self.propagate);
        let status = self.b.block_params(self.propagate)[0];
        let verdict = self.b.use_var(verdict_var);
        let zero = self.c(0);
        for at in 0..3 {
            self.store_vm(zero, verdict, at * 8);
        }
        let fault = self.b.ins().ireduce(types::I32, status);
        self.store_vm(fault, verdict, offset::VERDICT_FAULT);
        let faults = self.load_vm(types::I64, state, offset::FAULTS);
        let one = self.c(1);
        let faults = self.b.ins().iadd(faults, one);
        self.store_vm(faults, state, offset::FAULTS);
        self.b
            .ins()
            .jump(next, &[BlockArg::Value(zero), BlockArg::Value(status)]);

        self.b.switch_to_block(next);
        let last: Vec<BlockArg> = self
            .b
            .block_params(next)
            .iter()
            .map(|v| BlockArg::Value(*v))
            .collect();
        let steps = [
            (self.buf, size_of::<XdpBuff<'static>>() as i64),
            (verdict_var, size_of::<Verdict>() as i64),
            (left_var, -1),
        ];
        for (var, step) in steps {
            let (now, step) = (self.b.use_var(var), self.c(step));
            let then = self.b.ins().iadd(now, step);
            self.b.def_var(var, then);
        }
        let left = self.b.use_var(left_var);
        self.b.ins().brif(left, head, &[], out, &last);
        self.b.switch_to_block(out);
        let results = self.b.block_params(out).to_vec();
        self.b.ins().return_(&results);
    }

    /// A function that is called: state, r1 to r5, r10.
    fn plain(&mut self, params: &[Value]) {
        let state = self.state;
        let buf = self.load_vm(types::I64, state, offset::BUF);
        self.b.def_var(self.buf, buf);
        for n in 0..10u8 {
            let value = match n {
                1..=5 => params[usize::from(n)],
                _ => self.c(0),
            };
            self.set(n, value);
        }
        let (start, end) = self.env.body.functions[self.f];
        if self.env.budget {
            // A call may run as often as a loop; how much of the callee will run is not known here.
            self.take((end - start) as i64 / 16 + 1, start);
        }
        self.body();
        self.b.switch_to_block(self.exit);
        let r0 = self.b.block_params(self.exit)[0];
        let zero = self.c(0);
        self.b.ins().return_(&[r0, zero]);
        self.b.switch_to_block(self.propagate);
        let status = self.b.block_params(self.propagate)[0];
        let zero = self.c(0);
        self.b.ins().return_(&[zero, status]);
    }

    /// Where faults of this function are noted before they go up.
    fn fault_block(&mut self) {
        self.b.switch_to_block(self.fault);
        let (status, at) = {
            let params = self.b.block_params(self.fault);
            (params[0], params[1])
        };
        let state = self.state;
        self.store_vm(at, state, offset::FAULT_AT);
        let body = self.b.ins().iconst(types::I32, i64::from(self.env.body.id));
        self.store_vm(body, state, offset::FAULT_BODY);
        let fault = self.b.ins().ireduce(types::I32, status);
        self.store_vm(fault, state, offset::FAULT);
        self.b.ins().jump(self.propagate, &[BlockArg::Value(status)]);
    }

    /// Takes from the budget; ends the run at `at` when it is used up.
    fn take(&mut self, instructions: i64, at: usize) {
        let state = self.state;
        let left = self.load_vm(types::I64, state, offset::LEFT);
        let cost = self.c(instructions);
        let left = self.b.ins().isub(left, cost);
        self.store_vm(left, state, offset::LEFT);
        let zero = self.c(0);
        let over = self.b.ins().icmp(IntCC::SignedLessThan, left, zero);
        self.fault_if(over, Fault::Budget, at);
    }

    /// The function's instructions, from the current block on.
    fn body(&mut self) {
        let (start, end) = self.env.body.functions[self.f];
        let zeroed = i32::from(self.env.facts.zeroed(self.f)).min(FRAME as i32);
        for at in (1..=zeroed / 8).rev() {
            let (zero, fp, stack) = (self.c(0), self.fp, self.regions.stack);
            self.b.ins().store(stack, zero, fp, -8 * at);
        }
        let mut at = start;
        while at < end {
            let insn = self.env.body.insns[at];
            if let Some(target) = jump_target(insn, at) {
                self.block(target);
            }
            at += if insn.is_wide() { 2 } else { 1 };
        }
        let mut open = true;
        let mut at = start;
        while at < end {
            let insn = self.env.body.insns[at];
            let next = at + if insn.is_wide() { 2 } else { 1 };
            if let Some(block) = self.blocks.get(&at).copied() {
                if open {
                    self.b.ins().jump(block, &[]);
                }
                self.b.switch_to_block(block);
                self.known.forget_all();
                open = true;
            }
            if open {
                open = self.instruction(insn, at);
            }
            at = next;
        }
    }

    fn block(&mut self, at: usize) -> Block {
        match self.blocks.get(&at) {
            Some(block) => *block,
            None => {
                let block = self.b.create_block();
                self.blocks.insert(at, block);
                block
            }
        }
    }

    /// Translates one instruction; tells whether control goes on to the next.
    fn instruction(&mut self, insn: Insn, at: usize) -> bool {
        match insn.class() {
            insn::ALU | insn::ALU64 => self.alu(insn),
            insn::LD => self.wide(insn, at),
            insn::LDX => self.load(insn, at),
            insn::ST | insn::STX => self.store(insn, at),
            _ => match insn.code {
                insn::EXIT => {
                    let r0 = self.reg(0);
                    self.b.ins().jump(self.exit, &[BlockArg::Value(r0)]);
                    return false;
                }
                insn::CALL if insn.src == insn::CALL_LOCAL => self.local(insn, at),
                insn::CALL => self.call(insn, at),
                insn::JA | insn::JA32 => {
                    let target = self.edge(insn, at);
                    self.b.ins().jump(target, &[]);
                    self.charge(insn, at, target);
                    return false;
                }
                insn::JCOND => {
                    let state = self.state;
                    let gotos = self.load_vm(types::I64, state, offset::GOTOS);
                    let one = self.c(1);
                    let gotos = self.b.ins().iadd(gotos, one);
                    self.store_vm(gotos, state, offset::GOTOS);
                    let most = self.c(MAY_GOTO_MAX.into());
                    let over = self.b.ins().icmp(IntCC::UnsignedGreaterThan, gotos, most);
                    self.jump_if(over, insn, at);
                }
                _ => match self.decided(insn, at) {
                    Some(true) => {
                        let target = self.edge(insn, at);
                        self.b.ins().jump(target, &[]);
                        self.charge(insn, at, target);
                        return false;
                    }
                    Some(false) => {}
                    None => {
                        let condition = self.condition(insn);
                        self.jump_if(condition, insn, at);
                    }
                },
            },
        }
        true
    }

    /// Whether a conditional jump is taken, where that is known: the verifier saw one way only, or an address is compared
    /// with null that cannot be null.
    fn decided(&mut self, insn: Insn, at: usize) -> Option<bool> {
        match self.env.facts.branch(at) {
            (true, false) => return Some(true),
            (false, true) => return Some(false),
            _ => {}
        }
        let null_test = insn.class() == insn::JMP && insn.code & 0x08 == 0 && insn.imm == 0;
        if !null_test {
            return None;
        }
        let value = self.reg(insn.dst);
        let present = self.present.contains(&value);
        match insn.code & 0xf0 {
            0x10 if present => Some(false),
            0x50 if present => Some(true),
            _ => None,
        }
    }

    fn jump_if(&mut self, condition: Value, insn: Insn, at: usize) {
        let target = self.edge(insn, at);
        let on = self.b.create_block();
        self.b.ins().brif(condition, target, &[], on, &[]);
        self.charge(insn, at, target);
        self.b.switch_to_block(on);
    }

    /// The block to jump to: the target's, or for a jump backwards one that takes from the budget first.
    fn edge(&mut self, insn: Insn, at: usize) -> Block {
        let target = jump_target(insn, at).unwrap_or(at);
        if target <= at && self.env.budget {
            self.b.create_block()
        } else {
            self.block(target)
        }
    }

    /// Fills the block that [`Self::edge`] made for a jump backwards.
    fn charge(&mut self, insn: Insn, at: usize, edge: Block) {
        let target = jump_target(insn, at).unwrap_or(at);
        if target <= at && self.env.budget {
            let to = self.block(target);
            self.b.switch_to_block(edge);
            self.take((at - target) as i64 + 1, at);
            self.b.ins().jump(to, &[]);
        }
    }

    /// A 64-bit constant, or what a reference stands for.
    fn wide(&mut self, insn: Insn, at: usize) {
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
    fn local(&mut self, insn: Insn, at: usize) {
        self.known.forget_all();
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
        self.b.switch_to_block(on);
    }
}
