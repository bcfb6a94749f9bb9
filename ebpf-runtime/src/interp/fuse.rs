//! Several instructions done at once.
//!
//! Compilers write the same few lines again and again: a byte copied from here to there, a 16-bit number put together from
//! two bytes, the frame's length compared with what is about to be read. Each [`Form`] is such a line. The operation that does
//! all of it stands where the line begins; the instructions behind it stay as they are, for those who jump among them.
//! What an operation does is in [`super::fast`]: all of its line, or nothing. Where it does nothing (an access misses the usual
//! places, a register holds something else than it mostly does), only what comes first in the line is done, by itself, then
//! whatever stands at the next instruction. So a fault is always that of a single instruction.

use std::collections::BTreeSet;

use super::op::Code::{self, *};
use super::op::{Op, REACH, Reg};
use crate::Hook;
use crate::mem::space::{FRAME, is_map_addr};

/// A line of instructions, and the operation that does it.
pub(super) struct Form {
    /// The operation.
    pub code: Code,
    /// Its instructions; those of more than one opcode where it makes no difference.
    pub line: &'static [&'static [Code]],
    /// What their operands must be like.
    fits: fn(&[Op; REACH]) -> bool,
}

const fn form(code: Code, line: &'static [&'static [Code]], fits: fn(&[Op; REACH]) -> bool) -> Form {
    Form { code, line, fits }
}

// A byte or two shifted, put together, compared: 32 or 64 bits are the same.
const SHIFT: &[Code] = &[Lsh32I, Lsh64I];
const OR: &[Code] = &[Or32R, Or64R];
const AND: &[Code] = &[And32I, And64I];
const JEQ: &[Code] = &[Jeq32I, Jeq64I];
const JNE: &[Code] = &[Jne32I, Jne64I];
/// What a 64-bit load keeps in its second slot.
const REST: &[Code] = &[Unknown];

/// All forms.
#[rustfmt::skip]
pub(super) const FORMS: &[Form] = &[
    // Addresses, and what they are compared with.
    form(Lea, &[&[Mov64R], &[Add64I]], |o| same_dst(o, 2)),
    form(LeaJgt, &[&[Mov64R], &[Add64I], &[Jgt64R]], |o| same_dst(o, 3)),
    form(LeaMovJgt, &[&[Mov64R], &[Add64I], &[Mov32I], &[Jgt64R]], |o| {
        same_dst(o, 2) && o[3].dst == o[0].dst && o[2].dst != o[0].dst
    }),
    form(Index8, &[&[Mov64R], &[Add64R], &[Load8]], |o| {
        same_dst(o, 3) && o[1].src != o[0].dst && o[2].src == o[0].dst
    }),
    // Arithmetic.
    form(MovShl32, &[&[Mov32R], &[Lsh32I]], |o| same_dst(o, 2)),
    form(MovShr32, &[&[Mov32R], &[Rsh32I]], |o| same_dst(o, 2)),
    form(MovAnd32, &[&[Mov32R], &[And32I]], |o| same_dst(o, 2)),
    form(MovShrAdd32, &[&[Mov32R], &[Rsh32I], &[Add32R]], |o| same_dst(o, 2)),
    form(MovAndAdd32, &[&[Mov32R], &[And32I], &[Add32R]], |o| same_dst(o, 2)),
    form(MovAdd32, &[&[Mov32R], &[Add32R]], |_| true),
    form(Rotate32, &[&[Mov32R], &[Rsh32I], &[Mov32R], &[Lsh32I], &[Or32R]], |o| {
        let (a, b) = (o[0].dst, o[2].dst);
        o[1].dst == a && o[3].dst == b && o[4].dst == b && o[4].src == a && a != b && o[2].src == o[0].src && a != o[0].src
    }),
    form(MovXorSub32, &[&[Mov32R], &[Xor32R], &[Sub32R]], |o| {
        same_dst(o, 3) && o[1].src != o[0].dst && o[2].src != o[0].dst
    }),
    form(XorSub32, &[&[Xor32R], &[Sub32R]], |o| same_dst(o, 2) && o[1].src != o[0].dst),
    // Ends of blocks.
    form(MovMovJeq, &[&[Mov64R], &[Mov32I], &[Jeq64I]], mov_mov_jump),
    form(MovMovJne, &[&[Mov64R], &[Mov32I], &[Jne64I]], mov_mov_jump),
    form(MovJeq32, &[&[Mov32I], &[Jeq32I]], |_| true),
    form(MovJne32, &[&[Mov32I], &[Jne32I]], |_| true),
    form(MovJa, &[&[Mov32I], &[Ja]], |_| true),
    form(MovExit, &[&[Mov32I], &[Exit]], |_| true),
    form(StepJeq32, &[&[Add32I], &[Jeq32I]], |o| same_dst(o, 2)),
    form(StepJne32, &[&[Add32I], &[Jne32I]], |o| same_dst(o, 2)),
    form(StepJeq64, &[&[Add64I], &[Jeq64I]], |o| same_dst(o, 2)),
    form(StepJne64, &[&[Add64I], &[Jne64I]], |o| same_dst(o, 2)),
    form(AndJeq32, &[&[And32I], &[Jeq32I]], |o| same_dst(o, 2)),
    form(AndJne32, &[&[And32I], &[Jne32I]], |o| same_dst(o, 2)),
    // Bytes from here to there. (The place is not known before the load if that changes its base.)
    form(Copy8, &[&[Load8], &[Store8R]], copy),
    form(Copy16, &[&[Load16], &[Store16R]], copy),
    form(Copy32, &[&[Load32], &[Store32R]], copy),
    form(Copy64, &[&[Load64], &[Store64R]], copy),
    form(Copy8Twice, &[&[Load8], &[Store8R], &[Load8], &[Store8R]], |o| {
        copy(o) && o[3].src == o[2].dst && o[3].dst != o[2].dst
    }),
    form(FramePut8, &[&[Frame32], &[Store8R]], |_| true),
    form(Save8, &[&[Load8], &[ToFrame8R]], save),
    form(Save16, &[&[Load16], &[ToFrame16R]], save),
    form(Save32, &[&[Load32], &[ToFrame32R]], save),
    form(Save64, &[&[Load64], &[ToFrame64R]], save),
    form(Save8As32, &[&[Load8], &[ToFrame32R]], save),
    form(Save16Twice, &[&[Load16], &[ToFrame16R], &[Load16], &[ToFrame16R]], save_twice),
    form(Save32Twice, &[&[Load32], &[ToFrame32R], &[Load32], &[ToFrame32R]], save_twice),
    form(Set8, &[&[Mov32I], &[Store8R]], put),
    form(Set16, &[&[Mov32I], &[Store16R]], put),
    form(Set32, &[&[Mov32I], &[Store32R]], put),
    form(Set8Twice, &[&[Mov32I], &[Store8R], &[Mov32I], &[Store8R]], |o| {
        put(o) && o[3].src == o[2].dst && o[3].dst != o[2].dst
    }),
    form(ShrPut8, &[&[Rsh32I], &[Store8R]], put),
    form(MovShrPut8, &[&[Mov32R], &[Rsh32I], &[Store8R]], |o| {
        same_dst(o, 2) && o[2].src == o[0].dst && o[2].dst != o[0].dst
    }),
    form(Put8Put8, &[&[Store8R], &[Store8R]], |_| true),
    // Numbers put together from bytes.
    form(HalfUp, &[&[Load8], &[Load8], SHIFT, OR], half_up),
    form(HalfUpJne, &[&[Load8], &[Load8], SHIFT, OR, JNE], |o| half_up(o) && small(&o[4], o[1].dst)),
    form(HalfUpJeq, &[&[Load8], &[Load8], SHIFT, OR, JEQ], |o| half_up(o) && small(&o[4], o[1].dst)),
    form(HalfDown, &[&[Load8], SHIFT, &[Load8], OR], |o| {
        let (a, b) = (o[0].dst, o[2].dst);
        next_byte(&o[2], &o[0]) && a != b && a != o[0].src && shifts(&o[1], a, 8) && (o[3].dst, o[3].src) == (a, b)
    }),
    form(Upper, &[&[Load8], SHIFT, &[Load8], &[Lsh32I], &[Or32R], &[Or32R]], |o| {
        let (a, b, low) = (o[0].dst, o[2].dst, o[5].src);
        next_byte(&o[0], &o[2]) && a != b && a != o[0].src && shifts(&o[1], a, 16) && shifts(&o[3], b, 24)
            && (o[4].dst, o[4].src) == (b, a) && o[5].dst == b && low != a && low != b
    }),
    // Loads, and what they are compared with or added to.
    form(Load8Jne, &[&[Load8], JNE], |o| small(&o[1], o[0].dst)),
    form(Load8Jeq, &[&[Load8], JEQ], |o| small(&o[1], o[0].dst)),
    form(Load16Jne, &[&[Load16], JNE], |o| small(&o[1], o[0].dst)),
    form(Load16Jeq, &[&[Load16], JEQ], |o| small(&o[1], o[0].dst)),
    form(Load8AndJne, &[&[Load8], AND, JNE], masked),
    form(Load8AndJeq, &[&[Load8], AND, JEQ], masked),
    form(Load16AndJne, &[&[Load16], AND, JNE], masked),
    form(Load16AndJeq, &[&[Load16], AND, JEQ], masked),
    form(Load8And, &[&[Load8], AND], |o| same_dst(o, 2) && o[1].imm >= 0),
    form(Load16Add, &[&[Load16], &[Add32R]], |o| o[1].src == o[0].dst && o[1].dst != o[0].dst),
    form(AddTo, &[&[Load64], &[Add64I], &[Store64R]], |o| same_dst(o, 2) && o[2].src == o[0].dst && back(o)),
    form(CountIn, &[&[Load64], &[Add64R], &[Store64R]], |o| {
        let (sum, other) = (o[1].dst, o[1].src);
        let loaded = o[0].dst;
        o[2].src == sum && sum != other && (sum == loaded || other == loaded) && sum != o[2].dst && back(o)
    }),
    // A lookup in a map that is named, by a key in the frame.
    form(LookupAt, &[&[Mov64R], &[Add64I], &[Wide], REST, &[Lookup]], |o| {
        let frame = FRAME as i32;
        same_dst(o, 2) && o[0].dst == Reg::R2 && o[0].src == Reg::R10 && (-frame..0).contains(&o[1].imm)
            && o[2].dst == Reg::R1 && is_map_addr(o[2].wide())
    }),
];

/// The first `count` instructions all write, or compare, one register.
fn same_dst(o: &[Op; REACH], count: usize) -> bool {
    o[..count].iter().all(|op| op.dst == o[0].dst)
}

fn mov_mov_jump(o: &[Op; REACH]) -> bool {
    o[0].dst != o[1].dst && o[2].dst == o[0].dst
}

fn copy(o: &[Op; REACH]) -> bool {
    save(o) && o[1].dst != o[0].dst
}

fn save(o: &[Op; REACH]) -> bool {
    o[1].src == o[0].dst
}

fn save_twice(o: &[Op; REACH]) -> bool {
    save(o) && o[3].src == o[2].dst
}

fn put(o: &[Op; REACH]) -> bool {
    o[1].src == o[0].dst && o[1].dst != o[0].dst
}

fn half_up(o: &[Op; REACH]) -> bool {
    let (a, b) = (o[0].dst, o[1].dst);
    next_byte(&o[0], &o[1])
        && a != b
        && a != o[0].src
        && shifts(&o[2], b, 8)
        && (o[3].dst, o[3].src) == (b, a)
}

/// `second` loads the byte behind that of `first`.
fn next_byte(first: &Op, second: &Op) -> bool {
    first.src == second.src && second.off == first.off + 1
}

fn shifts(op: &Op, reg: Reg, by: i32) -> bool {
    op.dst == reg && op.imm == by
}

/// A comparison of `reg` that comes out the same at 32 and 64 bits, whatever 32-bit number is in it.
fn small(op: &Op, reg: Reg) -> bool {
    op.dst == reg && op.imm >= 0
}

fn masked(o: &[Op; REACH]) -> bool {
    same_dst(o, 2) && o[1].imm >= 0 && small(&o[2], o[0].dst)
}

/// The store goes where the load came from, with its base still what it was.
fn back(o: &[Op; REACH]) -> bool {
    o[2].dst == o[0].src && o[2].off == o[0].off && o[0].dst != o[0].src
}

/// Chooses the operations of a program, so that from each place on a straight line takes as few as can be.
/// The last [`REACH`] are not of the program.
pub(super) fn fuse(code: &mut [Op], hook: Hook) {
    let context = context_loads(code, hook);
    // Operations from here to the end of the line.
    let mut steps = vec![0u32; code.len() + REACH];
    for at in (0..code.len()).rev() {
        let Some(ops) = code.get(at..).and_then(|rest| rest.first_chunk::<REACH>()) else {
            continue;
        };
        let own = ops[0].plain;
        let mut best = (steps[at + if own == Wide { 2 } else { 1 }], own);
        let edge = edges(ops, context.get(at..).unwrap_or_default());
        let forms = FORMS.iter().filter(|form| form.matches(ops));
        for (code, slots) in forms.map(|form| (form.code, form.line.len())).chain(edge) {
            let to_come = if ends_line(ops[slots - 1].plain) {
                0
            } else {
                steps[at + slots]
            };
            best = best.min_by_steps((to_come, code));
        }
        steps[at] = if ends_line(own) { 1 } else { best.0 + 1 };
        code[at].code = best.1;
    }
}

trait Better {
    /// The one with fewer operations to come; of equals `other`, which does something at once.
    fn min_by_steps(self, other: Self) -> Self;
}

impl Better for (u32, Code) {
    fn min_by_steps(self, other: Self) -> Self {
        if other.0 <= self.0 { other } else { self }
    }
}

fn ends_line(code: Code) -> bool {
    matches!(code, Ja | Ja32 | Exit)
}

impl Form {
    fn matches(&self, ops: &[Op; REACH]) -> bool {
        let same = |(op, codes): (&Op, &&[Code])| codes.contains(&op.plain);
        ops.iter().zip(self.line).all(same) && (self.fits)(ops)
    }
}

/// Loads of the frame's edges, one or both.
fn edges(ops: &[Op; REACH], context: &[bool]) -> Option<(Code, usize)> {
    let edge = |at: usize| match (context.get(at), ops[at].off) {
        (Some(true), 0) => Some(Data),
        (Some(true), 4) => Some(DataEnd),
        _ => None,
    };
    match (edge(0)?, edge(1)) {
        (Data, Some(DataEnd)) if ops[0].dst != ops[1].src => Some((DataAndEnd, 2)),
        (DataEnd, Some(Data)) if ops[0].dst != ops[1].src => Some((EndAndData, 2)),
        (one, _) => Some((one, 1)),
    }
}

/// Which 32-bit loads are probably from an XDP program's context: its address is followed from line to line, as if there were no
/// jumps. A guess, which the operation itself looks into.
fn context_loads(code: &[Op], hook: Hook) -> Vec<bool> {
    let mut holds = [false; 16];
    // Where in the frame it was put for later.
    let mut kept = BTreeSet::new();
    let mut found = vec![false; code.len()];
    if hook != Hook::Xdp {
        return found;
    }
    holds[1] = true;
    for (found, op) in found.iter_mut().zip(code) {
        let (d, s) = (op.dst as usize, op.src as usize);
        match op.plain {
            Load32 => {
                *found = holds[s];
                holds[d] = false;
            }
            ToFrame64R if holds[s] => _ = kept.insert(op.off),
            ToFrame64R | ToFrame64I => _ = kept.remove(&op.off),
            Frame64 => holds[d] = kept.contains(&op.off),
            Mov64R => holds[d] = holds[s],
            Lookup | Helper | Kfunc | Local | AdjustHead => holds[..6].fill(false),
            Exit => {}
            _ if op.keeps_dst() => {}
            _ => holds[d] = false,
        }
    }
    found
}

#[cfg(test)]
#[path = "fuse_tests.rs"]
mod tests;
