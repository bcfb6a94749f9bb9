//! A program's code as the interpreter runs it: jump targets absolute, constants resolved to addresses.

use std::sync::Arc;

use crate::insn::{self, Insn};
use crate::mem::space::{Space, func_addr, map_addr};
use crate::program::{Body, Collection};

/// One instruction. A 64-bit load keeps its two slots, so positions are those of the linked program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    /// Memory offset, or the absolute target of a jump or call.
    pub off: i32,
    pub imm: i64,
    /// A function begins here that needs its frame zeroed.
    pub clears: bool,
}

impl Op {
    /// The address and length that a load or store was about, for reports.
    pub fn access(&self, regs: &[u64; 16]) -> (u64, u64) {
        let len = match self.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        };
        let base = match self.code & 0x07 {
            insn::LDX => self.src,
            insn::ST | insn::STX => self.dst,
            _ => return (0, 0),
        };
        (
            regs[usize::from(base & 15)].wrapping_add_signed(self.off.into()),
            len,
        )
    }
}

/// A program translated for one instance.
#[derive(Debug)]
pub(super) struct Unit {
    pub body: Arc<Body>,
    pub code: Box<[Op]>,
    /// Keeps the maps alive whose addresses the code holds.
    _collection: Arc<Collection>,
}

impl Unit {
    pub fn translate(body: &Arc<Body>, collection: &Arc<Collection>, space: &mut Space) -> Unit {
        let indexes: Vec<u32> = collection.maps.iter().map(|m| space.add_map(m)).collect();
        let mut code = Vec::with_capacity(body.insns.len());
        let mut skip = false;
        for (at, insn) in body.insns.iter().enumerate() {
            let second = body.insns.get(at + 1);
            let mut op = Op {
                code: insn.code,
                dst: insn.dst,
                src: insn.src,
                off: i32::from(insn.off),
                imm: i64::from(insn.imm),
                clears: false,
            };
            if skip {
                skip = false;
            } else if insn.is_wide() {
                skip = true;
                op.imm = wide(*insn, second.map_or(0, |s| s.imm), collection, &indexes) as i64;
            } else if insn.code == insn::JA32 || (insn.code == insn::CALL && insn.src == insn::CALL_LOCAL) {
                op.off = target(at, insn.imm);
            } else if matches!(insn.class(), insn::JMP | insn::JMP32) && insn.code != insn::CALL {
                op.off = target(at, i32::from(insn.off));
            }
            code.push(op);
        }
        let zeroed = body.zeroed.get().into_iter().flatten();
        for start in zeroed {
            if let Some(op) = code.get_mut(*start) {
                op.clears = true;
            }
        }
        Unit {
            body: body.clone(),
            code: code.into_boxed_slice(),
            _collection: collection.clone(),
        }
    }
}

fn target(at: usize, off: i32) -> i32 {
    (at as i32).wrapping_add(1).wrapping_add(off)
}

fn wide(insn: Insn, high: i32, collection: &Collection, indexes: &[u32]) -> u64 {
    let map = insn.imm as usize;
    match insn.src {
        insn::IMM_MAP => indexes.get(map).map_or(0, |i| map_addr(*i)),
        insn::IMM_MAP_VALUE => {
            let base = collection.maps.get(map).and_then(|m| m.base_addr());
            base.map_or(0, |b| b.wrapping_add(u64::from(high as u32)))
        }
        insn::IMM_FUNC => func_addr(insn.imm as u32),
        _ => u64::from(insn.imm as u32) | u64::from(high as u32) << 32,
    }
}
