//! A program's code as the interpreter runs it: jump targets absolute, constants resolved to addresses.

use std::sync::Arc;

use super::fuse::fuse;
use super::op::{Code, Op, REACH, Reg};
use crate::helpers;
use crate::insn::{self, Insn};
use crate::mem::space::{FRAME, Space, func_addr, map_addr};
use crate::program::{Body, Collection};

/// A program translated for one instance.
#[derive(Debug)]
pub(super) struct Unit {
    pub body: Arc<Body>,
    pub code: Box<[Op]>,
    /// Where functions begin that need their frame zeroed.
    pub clears: Box<[bool]>,
    /// Keeps the maps alive whose addresses the code holds.
    _collection: Arc<Collection>,
}

impl Unit {
    pub fn translate(body: &Arc<Body>, collection: &Arc<Collection>, space: &mut Space) -> Unit {
        let indexes: Vec<u32> = collection.maps.iter().map(|m| space.add_map(m)).collect();
        let mut code = Vec::with_capacity(body.insns.len());
        let mut skip = false;
        for (at, insn) in body.insns.iter().enumerate() {
            let mut op = op(*insn, at);
            if skip {
                skip = false;
                op.plain = Code::Unknown;
            } else if insn.is_wide() {
                skip = true;
                let high = body.insns.get(at + 1).map_or(0, |second| second.imm);
                let value = wide(*insn, high, collection, &indexes);
                (op.imm, op.high) = (value as i32, (value >> 32) as i32);
            }
            code.push(op);
        }
        code.extend([Op::UNKNOWN; REACH]);
        fuse(&mut code, body.hook);
        let mut clears = vec![false; code.len()];
        for start in body.zeroed.get().into_iter().flatten() {
            if let Some(clear) = clears.get_mut(*start) {
                *clear = true;
            }
        }
        Unit {
            body: body.clone(),
            code: code.into_boxed_slice(),
            clears: clears.into_boxed_slice(),
            _collection: collection.clone(),
        }
    }
}

/// An instruction by itself.
pub(super) fn op(insn: Insn, at: usize) -> Op {
    let code = Code::plain(insn.code);
    let mut op = Op {
        code,
        plain: code,
        dst: Reg::of(insn.dst),
        src: Reg::of(insn.src),
        off: i32::from(insn.off),
        imm: insn.imm,
        high: 0,
    };
    let mut jumps = |by| (op.off, op.high) = (target(at, by), by);
    match (code, insn.src) {
        (Code::Ja32, _) => jumps(insn.imm),
        (Code::Helper, insn::CALL_LOCAL) => {
            jumps(insn.imm);
            op.plain = Code::Local;
        }
        (Code::Helper, insn::CALL_KFUNC) => op.plain = Code::Kfunc,
        (Code::Helper, _) if insn.imm == helpers::LOOKUP => op.plain = Code::Lookup,
        (Code::Helper, _) if insn.imm == helpers::ADJUST_HEAD => op.plain = Code::AdjustHead,
        (Code::Helper | Code::Exit, _) => {}
        _ if matches!(insn.class(), insn::JMP | insn::JMP32) => jumps(insn.off.into()),
        _ => {}
    }
    if matches!(insn.class(), insn::ALU | insn::ALU64) && insn.off != 0 {
        op.plain = signed(code, insn.off);
    }
    in_frame(op)
}

/// Operations on signed numbers, which the offset tells from the others (RFC 9669 section 4.1).
fn signed(code: Code, off: i16) -> Code {
    match (code, off) {
        (Code::Div64I, _) => Code::SDiv64I,
        (Code::Div64R, _) => Code::SDiv64R,
        (Code::Div32I, _) => Code::SDiv32I,
        (Code::Div32R, _) => Code::SDiv32R,
        (Code::Mod64I, _) => Code::SMod64I,
        (Code::Mod64R, _) => Code::SMod64R,
        (Code::Mod32I, _) => Code::SMod32I,
        (Code::Mod32R, _) => Code::SMod32R,
        (Code::Mov64R, 8) => Code::Sext8To64,
        (Code::Mov64R, 16) => Code::Sext16To64,
        (Code::Mov64R, 32) => Code::Sext32To64,
        (Code::Mov32R, 8) => Code::Sext8To32,
        (Code::Mov32R, 16) => Code::Sext16To32,
        _ => code,
    }
}

/// An access by way of r10, which no program can change, to the function's own frame: where it goes is known now.
fn in_frame(op: Op) -> Op {
    let (plain, base, len) = match op.plain {
        Code::Load8 => (Code::Frame8, op.src, 1),
        Code::Load16 => (Code::Frame16, op.src, 2),
        Code::Load32 => (Code::Frame32, op.src, 4),
        Code::Load64 => (Code::Frame64, op.src, 8),
        Code::Store8I => (Code::ToFrame8I, op.dst, 1),
        Code::Store16I => (Code::ToFrame16I, op.dst, 2),
        Code::Store32I => (Code::ToFrame32I, op.dst, 4),
        Code::Store64I => (Code::ToFrame64I, op.dst, 8),
        Code::Store8R => (Code::ToFrame8R, op.dst, 1),
        Code::Store16R => (Code::ToFrame16R, op.dst, 2),
        Code::Store32R => (Code::ToFrame32R, op.dst, 4),
        Code::Store64R => (Code::ToFrame64R, op.dst, 8),
        _ => return op,
    };
    let frame = FRAME as i32;
    if base != Reg::R10 || !(-frame..=-len).contains(&op.off) {
        return op;
    }
    Op {
        plain,
        off: frame + op.off,
        ..op
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
