//! How a function is entered and left: the loop over a batch, a call from another function, a fault.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};
use cranelift_frontend::Variable;

use super::function::Translator;
use super::state::offset;
use crate::insn;
use crate::mem::space::CTX_ADDR;
use crate::{Verdict, XdpBuff};

const BUF_SIZE: i64 = size_of::<XdpBuff<'static>>() as i64;

/// What the turns of the loop over a batch have in common.
struct Turns {
    /// Where the frame's verdict goes.
    verdict: Variable,
    /// Where the frames end.
    end: Value,
    head: Block,
    /// Takes the last frame's r0 and status.
    out: Block,
}

impl Translator<'_, '_> {
    /// The loop over a batch: state, frames, verdicts, count, r10.
    pub fn batch(&mut self, params: &[Value]) {
        let (bufs, verdicts, count) = (params[1], params[2], params[3]);
        let verdict_var = self.b.declare_var(types::I64);
        self.b.def_var(self.buf, bufs);
        self.b.def_var(verdict_var, verdicts);
        let len = self.b.ins().imul_imm_s(count, BUF_SIZE);
        let end = self.b.ins().iadd(bufs, len);
        let (head, out) = (self.b.create_block(), self.b.create_block());
        for _ in 0..2 {
            self.b.append_block_param(out, types::I64);
        }
        let turns = Turns {
            verdict: verdict_var,
            end,
            head,
            out,
        };
        self.b.ins().jump(head, &[]);

        self.b.switch_to_block(head);
        let state = self.state;
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
        self.next_frame(&turns, [r0, zero]);

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
        self.next_frame(&turns, [zero, status]);

        self.b.switch_to_block(out);
        let results = self.b.block_params(out).to_vec();
        self.b.ins().return_(&results);
    }

    /// Goes on with the next frame, or leaves with r0 and status of the last one.
    fn next_frame(&mut self, turns: &Turns, results: [Value; 2]) {
        for (var, step) in [(self.buf, BUF_SIZE), (turns.verdict, size_of::<Verdict>() as i64)] {
            let now = self.b.use_var(var);
            let then = self.b.ins().iadd_imm_s(now, step);
            self.b.def_var(var, then);
        }
        let buf = self.buf();
        let more = self.b.ins().icmp(IntCC::NotEqual, buf, turns.end);
        let last = results.map(BlockArg::Value);
        self.b.ins().brif(more, turns.head, &[], turns.out, &last);
    }

    /// A function that is called: state, r1 to r5, r10.
    pub fn plain(&mut self, params: &[Value]) {
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
    pub fn fault_block(&mut self) {
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
}
