//! `bpf_xdp_adjust_head`, `_meta` and `_tail` inline.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};

use super::function::Translator;
use super::state::offset;
use crate::mem::packet;

pub(super) const ADJUST_HEAD: i32 = 44;
pub(super) const ADJUST_META: i32 = 54;
pub(super) const ADJUST_TAIL: i32 = 65;

/// Offsets of `data`, `data_end` and `data_meta`.
const EDGES: [i32; 3] = [offset::DATA, offset::DATA_END, offset::DATA_META];

impl Translator<'_, '_> {
    /// A frame's edges move inline where they have room; else the helper itself moves them, which also moves metadata,
    /// zeroes what is new at the end, and knows the error numbers.
    pub fn adjust(&mut self, id: i32, at: usize) -> Value {
        let buf = self.buf();
        let delta = self.reg(2);
        // The helper takes 32 bits.
        let fixed = self.constant_of(delta).map(|delta| delta as i32);
        let delta = match fixed {
            Some(delta) => self.c(delta.into()),
            None => {
                let delta = self.b.ins().ireduce(types::I32, delta);
                self.b.ins().sextend(types::I64, delta)
            }
        };
        let [data, end, meta] = self.frame_edges();
        let old = match id {
            ADJUST_HEAD => data,
            ADJUST_META => meta,
            _ => end,
        };
        let new = self.b.ins().iadd(old, delta);
        let slow = self.cold();
        match id {
            ADJUST_TAIL => {
                self.unless_several(slow);
                let least = self.b.ins().iadd_imm_s(data, packet::ETH_HLEN as i64);
                self.only_up_to(least, new, slow);
                self.only_up_to(new, end, slow);
            }
            ADJUST_HEAD => {
                self.has_headroom(new, slow);
                let moved = self.b.ins().icmp(IntCC::NotEqual, meta, data);
                self.unless(moved, slow);
                // What grows by a header or more has one.
                if fixed.is_none_or(|delta| delta > -(packet::ETH_HLEN as i32)) {
                    let header = self.b.ins().iadd_imm_s(new, packet::ETH_HLEN as i64);
                    self.only_up_to(header, end, slow);
                }
            }
            _ => {
                self.has_headroom(new, slow);
                // Below 256, a multiple of 4, and not negative: no other bit is set.
                let len = self.b.ins().isub(data, new);
                let wrong = self.b.ins().band_imm_s(len, !(packet::META_MAX as i64 & !3));
                self.unless(wrong, slow);
            }
        }
        let after = match id {
            ADJUST_HEAD => [new, end, new],
            ADJUST_META => [data, end, new],
            _ => [data, new, meta],
        };
        for ((off, before), now) in EDGES.into_iter().zip([data, end, meta]).zip(after) {
            if now != before {
                self.store_vm(now, buf, off);
            }
        }
        let done = self.b.create_block();
        for _ in 0..4 {
            self.b.append_block_param(done, types::I64);
        }
        let zero = self.c(0);
        let [data, end, meta] = after;
        let results = [zero, data, end, meta].map(BlockArg::Value);
        self.b.ins().jump(done, &results);

        self.begin(slow);
        let value = self.helper(id, at);
        let [data, end, meta] = EDGES.map(|off| self.load_vm(types::I64, buf, off));
        let results = [value, data, end, meta].map(BlockArg::Value);
        self.b.ins().jump(done, &results);

        self.begin(done);
        let params = self.b.block_params(done);
        let (value, edges) = (params[0], [params[1], params[2], params[3]]);
        self.here.edges = edges.map(Some);
        self.bytes.begins_frame(edges[0]);
        value
    }

    /// `data`, `data_end` and `data_meta`.
    fn frame_edges(&mut self) -> [Value; 3] {
        let buf = self.buf();
        let known = self.here.edges;
        std::array::from_fn(|i| known[i].unwrap_or_else(|| self.load_vm(types::I64, buf, EDGES[i])))
    }

    fn has_headroom(&mut self, new: Value, otherwise: Block) {
        let buf = self.buf();
        let start = self.load_vm(types::I64, buf, offset::HARD_START);
        let start = self.b.ins().iadd_imm_s(start, packet::XDP_FRAME_SIZE as i64);
        self.only_up_to(start, new, otherwise);
    }

    fn only_up_to(&mut self, low: Value, high: Value, otherwise: Block) {
        let above = self.b.ins().icmp(IntCC::UnsignedGreaterThan, low, high);
        self.unless(above, otherwise);
    }
}
