//! Calls of helpers: small ones inline, others direct calls. Map lookups are in [`super::lookup`].

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};

use super::function::Translator;
use super::rt;
use super::state::{DONE, NOTED, offset};
use super::track;
use crate::insn::{self, Insn};
use crate::interp::errno;
use crate::mem::packet;
use crate::{Errno, Fault};

pub(super) const LOOKUP: i32 = 1;
const CPU_ID: i32 = 8;
const TAIL_CALL: i32 = 12;
const ADJUST_HEAD: i32 = 44;
const ADJUST_META: i32 = 54;
const ADJUST_TAIL: i32 = 65;
const FOR_EACH: i32 = 164;
const LOOP: i32 = 181;
const BUFF_LEN: i32 = 188;

impl Translator<'_, '_> {
    /// A helper or kernel function.
    pub fn call(&mut self, insn: Insn, at: usize) {
        if insn.src == insn::CALL_KFUNC {
            self.known.forget_all();
            return self.kfunc(insn, at);
        }
        if track::writes_memory(insn.imm) || matches!(insn.imm, LOOP | FOR_EACH) {
            self.known.forget_all();
        }
        let value = match insn.imm {
            LOOKUP => self.lookup(at),
            CPU_ID => {
                let state = self.state;
                self.load_vm(types::I64, state, offset::WORKER)
            }
            BUFF_LEN => {
                let buf = self.buf();
                let start = self.load_vm(types::I64, buf, offset::DATA);
                let end = self.load_vm(types::I64, buf, offset::DATA_END);
                self.b.ins().isub(end, start)
            }
            ADJUST_HEAD | ADJUST_META | ADJUST_TAIL => self.adjust(insn.imm, at),
            TAIL_CALL => return self.tail_call(at),
            LOOP | FOR_EACH => self.callbacks(insn.imm, at),
            id => self.helper(id, at),
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

    fn kfunc(&mut self, insn: Insn, at: usize) {
        let id = self.c(insn.imm.into());
        let [a, b, c, d, e] = self.args();
        let [value, status] = self.call_rt(rt::kfunc as *const (), &[id, a, b, c, d, e], 2);
        self.checked(status, at);
        self.set(0, value);
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
        self.b.switch_to_block(cold);
        self.maybe_noted(status, at);
        self.b.switch_to_block(on);
        value
    }

    /// `bpf_xdp_adjust_head`, `_meta` and `_tail` where they only move an edge that has room; else the helper itself, which
    /// also moves metadata, zeroes what is new at the end, and knows the error numbers.
    fn adjust(&mut self, id: i32, at: usize) -> Value {
        let buf = self.buf();
        let delta = self.reg(2);
        let delta = self.b.ins().ireduce(types::I32, delta);
        let delta = self.b.ins().sextend(types::I64, delta);
        let [data, end, meta] =
            [offset::DATA, offset::DATA_END, offset::DATA_META].map(|at| self.load_vm(types::I64, buf, at));
        let most = IntCC::UnsignedLessThanOrEqual;
        let old = match id {
            ADJUST_HEAD => data,
            ADJUST_META => meta,
            _ => end,
        };
        let new = self.b.ins().iadd(old, delta);
        let fits = if id == ADJUST_TAIL {
            let least = self.b.ins().iadd_imm_s(data, packet::ETH_HLEN as i64);
            let long = self.b.ins().icmp(most, least, new);
            let shrinks = self.b.ins().icmp(most, new, end);
            self.b.ins().band(long, shrinks)
        } else {
            let start = self.load_vm(types::I64, buf, offset::HARD_START);
            let start = self.b.ins().iadd_imm_s(start, packet::XDP_FRAME_SIZE as i64);
            let room = self.b.ins().icmp(most, start, new);
            let other = if id == ADJUST_HEAD {
                let bare = self.b.ins().icmp(IntCC::Equal, meta, data);
                let header = self.b.ins().iadd_imm_s(new, packet::ETH_HLEN as i64);
                let long = self.b.ins().icmp(most, header, end);
                self.b.ins().band(bare, long)
            } else {
                // Below 256, a multiple of 4, and not negative: no other bit is set.
                let len = self.b.ins().isub(data, new);
                let wrong = self.b.ins().band_imm_s(len, !(packet::META_MAX as i64 & !3));
                self.b.ins().icmp_imm_s(IntCC::Equal, wrong, 0)
            };
            self.b.ins().band(room, other)
        };
        let (fast, slow, done) = (self.b.create_block(), self.cold(), self.b.create_block());
        let result = self.b.append_block_param(done, types::I64);
        self.b.ins().brif(fits, fast, &[], slow, &[]);
        self.b.switch_to_block(fast);
        match id {
            ADJUST_HEAD => {
                self.store_vm(new, buf, offset::DATA);
                self.store_vm(new, buf, offset::DATA_META);
            }
            ADJUST_META => self.store_vm(new, buf, offset::DATA_META),
            _ => self.store_vm(new, buf, offset::DATA_END),
        }
        let zero = self.c(0);
        self.b.ins().jump(done, &[BlockArg::Value(zero)]);
        self.b.switch_to_block(slow);
        let value = self.helper(id, at);
        self.b.ins().jump(done, &[BlockArg::Value(value)]);
        self.b.switch_to_block(done);
        result
    }

    /// Goes on when there is nothing to call; otherwise the other program's result is this function's.
    fn tail_call(&mut self, at: usize) {
        let [_, map, index] = self.args();
        let [value, status] = self.call_rt(rt::tail_call as *const (), &[map, index], 2);
        let (called, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(status, called, &[], on, &[]);
        self.b.switch_to_block(called);
        let done = self.c(DONE as i64);
        let ran = self.b.ins().icmp(IntCC::Equal, status, done);
        let cold = self.cold();
        self.b
            .ins()
            .brif(ran, self.exit, &[BlockArg::Value(value)], cold, &[]);
        self.b.switch_to_block(cold);
        self.maybe_noted(status, at);
        self.b.switch_to_block(on);
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
        self.b.switch_to_block(own);
        self.fault_with(fault, at);
    }
}
