//! Calls of helpers: small ones inline, others direct calls. Map lookups are in [`super::lookup`].

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};

use super::adjust::{ADJUST_HEAD, ADJUST_META, ADJUST_TAIL};
use super::function::Translator;
use super::rt;
use super::state::{DONE, NOTED, offset};
use super::track;
use crate::insn::{self, Insn};
use crate::interp::errno;
use crate::{Errno, Fault, helpers};

pub(super) const LOOKUP: i32 = 1;
const CPU_ID: i32 = 8;
const RANDOM: i32 = 7;
const TAIL_CALL: i32 = 12;
const FOR_EACH: i32 = 164;
const LOOP: i32 = 181;
const BUFF_LEN: i32 = 188;

impl Translator<'_, '_> {
    /// A helper or kernel function.
    pub fn call(&mut self, insn: Insn, at: usize) {
        self.bytes.forget_loads();
        if insn.src == insn::CALL_KFUNC {
            self.here.known.forget_all();
            return self.kfunc(insn, at);
        }
        let calls_back = matches!(insn.imm, LOOP | FOR_EACH);
        if track::writes_memory(insn.imm) || calls_back {
            self.here.known.forget_all();
        }
        if calls_back || insn.imm == TAIL_CALL {
            self.here.edges = [None; 3];
        }
        let value = match insn.imm {
            LOOKUP => self.lookup(at),
            CPU_ID => {
                let state = self.state;
                self.load_vm(types::I64, state, offset::WORKER)
            }
            RANDOM => self.random(),
            BUFF_LEN => self.buff_len(at),
            ADJUST_HEAD | ADJUST_META | ADJUST_TAIL => self.adjust(insn.imm, at),
            TAIL_CALL => return self.tail_call(at),
            LOOP | FOR_EACH => self.callbacks(insn.imm, at),
            id => match rt::clock_address(id) {
                Some(clock) => self.call_rt(clock, &[], 1)[0],
                None => self.helper(id, at),
            },
        };
        self.set(0, value);
    }

    pub fn args<const N: usize>(&mut self) -> [Value; N] {
        std::array::from_fn(|i| self.reg(i as u8 + 1))
    }

    pub fn helper(&mut self, id: i32, at: usize) -> Value {
        let Some(f) = rt::helper_address(id) else {
            // `check` refuses helpers that do not exist.
            let always = self.b.ins().iconst(types::I8, 1);
            self.fault_if(always, Fault::HelperArgument, at);
            return self.c(0);
        };
        let args: [Value; 5] = self.args();
        let [value, status] = self.call_rt(f, &args, 2);
        self.checked(status, at);
        value
    }

    /// `bpf_xdp_get_buff_len`: the first buffer's length, unless there are others.
    fn buff_len(&mut self, at: usize) -> Value {
        let (slow, done) = (self.cold(), self.b.create_block());
        let result = self.b.append_block_param(done, types::I64);
        self.unless_several(slow);
        let buf = self.buf();
        let start = self.load_vm(types::I64, buf, offset::DATA);
        let end = self.load_vm(types::I64, buf, offset::DATA_END);
        let len = self.b.ins().isub(end, start);
        self.b.ins().jump(done, &[BlockArg::Value(len)]);
        self.begin(slow);
        let len = self.helper(BUFF_LEN, at);
        self.b.ins().jump(done, &[BlockArg::Value(len)]);
        self.begin(done);
        result
    }

    /// Goes on where the frame is in one buffer.
    pub fn unless_several(&mut self, otherwise: Block) {
        let state = self.state;
        let several = self.load_vm(types::I64, state, offset::SEVERAL);
        self.unless(several, otherwise);
    }

    /// `bpf_get_prandom_u32`, as `helpers::clock::random` has it.
    fn random(&mut self) -> Value {
        let state = self.state;
        let mut x = self.load_vm(types::I64, state, offset::RANDOM);
        for by in [12i64, -25, 27] {
            let shifted = match by {
                -25 => self.b.ins().ishl_imm_s(x, 25),
                by => self.b.ins().ushr_imm_s(x, by),
            };
            x = self.b.ins().bxor(x, shifted);
        }
        self.store_vm(x, state, offset::RANDOM);
        let factor = self.c(helpers::clock::RANDOM_FACTOR as i64);
        let product = self.b.ins().imul(x, factor);
        self.b.ins().ushr_imm_s(product, 32)
    }

    fn callbacks(&mut self, id: i32, at: usize) -> Value {
        let f = if id == LOOP {
            rt::run_loop as *const ()
        } else {
            rt::for_each as *const ()
        };
        let table = self.c(self.env.table.expose_provenance() as i64);
        let [a, b, c, d] = self.args();
        let [value, status] = self.call_rt(f, &[a, b, c, d, table], 2);
        let (cold, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(status, cold, &[], on, &[]);
        self.begin(cold);
        self.maybe_noted(status, at);
        self.begin(on);
        value
    }

    /// Goes on when there is nothing to call; otherwise the other program's result is this function's.
    fn tail_call(&mut self, at: usize) {
        let [_, map, index] = self.args();
        let [value, status] = self.call_rt(rt::tail_call as *const (), &[map, index], 2);
        let (called, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(status, called, &[], on, &[]);
        self.begin(called);
        let done = self.c(DONE as i64);
        let ran = self.b.ins().icmp(IntCC::Equal, status, done);
        let cold = self.cold();
        self.b
            .ins()
            .brif(ran, self.exit, &[BlockArg::Value(value)], cold, &[]);
        self.begin(cold);
        self.maybe_noted(status, at);
        self.begin(on);
        let missing = self.c(errno(Errno::NOENT) as i64);
        self.set(0, missing);
    }

    /// Ends the run: with the callee's fault if it has noted one, else with one of this call.
    fn maybe_noted(&mut self, status: Value, at: usize) {
        let bit = self.c(NOTED as i64);
        let noted = self.b.ins().band(status, bit);
        let fault = self.b.ins().bxor(status, noted);
        let own = self.cold();
        self.b
            .ins()
            .brif(noted, self.propagate, &[BlockArg::Value(fault)], own, &[]);
        self.begin(own);
        self.fault_with(fault, at);
    }
}
