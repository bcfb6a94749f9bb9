//! Loops that turn a known number of times: they are unrolled, with their counter a constant in each turn.

use crate::insn::{self, Insn, atomic};
use crate::program::Body;

use super::track::jump_target;

/// Instructions that a loop may become.
const MOST: usize = 320;

/// A loop with a counter, as far as the instructions tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// Its first and its last instruction.
    pub head: usize,
    pub last: usize,
    /// The register that counts, and the only instruction that changes it.
    pub counter: u8,
    pub step: usize,
    /// The conditional jump that ends a turn.
    pub test: usize,
}

impl Counted {
    /// The values that the counter has at the end of each turn, if it begins with `start`; `None` where there are too many.
    pub fn turns(&self, body: &Body, start: i64) -> Option<Vec<i64>> {
        let (step, test) = (body.insns[self.step], body.insns[self.test]);
        let most = MOST / (self.last + 1 - self.head);
        let mut values = Vec::new();
        let mut counter = start;
        while values.len() < most {
            let by = if step.code & 0xf0 == 0x10 {
                i64::from(step.imm).wrapping_neg()
            } else {
                step.imm.into()
            };
            counter = match step.class() {
                insn::ALU64 => counter.wrapping_add(by),
                _ => i64::from((counter as u32).wrapping_add(by as u32)),
            };
            values.push(counter);
            // The test is the jump back itself, or jumps over one.
            let again = holds(test, counter) == (self.test == self.last);
            if !again {
                return Some(values);
            }
        }
        None
    }
}

/// Whether a comparison with a constant holds.
fn holds(test: Insn, value: i64) -> bool {
    let imm = i64::from(test.imm);
    let wide = test.class() == insn::JMP;
    let (signed, other) = if wide {
        (value, imm)
    } else {
        (i64::from(value as i32), imm)
    };
    let (left, right) = match wide {
        true => (value as u64, imm as u64),
        false => (u64::from(value as u32), u64::from(test.imm as u32)),
    };
    match test.code & 0xf0 {
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        0x60 => signed > other,
        0x70 => signed >= other,
        0xa0 => left < right,
        0xb0 => left <= right,
        0xc0 => signed < other,
        _ => signed <= other,
    }
}

/// The loops of a function that may be unrolled.
pub(super) fn counted(body: &Body, start: usize, end: usize) -> Vec<Counted> {
    let jumps: Vec<(usize, usize)> = instructions(body, start, end)
        .filter_map(|at| Some((at, jump_target(body.insns[at], at)?)))
        .collect();
    let back = jumps.iter().filter(|(at, target)| target <= at);
    back.filter_map(|&(last, head)| one(body, &jumps, head, last))
        .collect()
}

fn instructions(body: &Body, start: usize, end: usize) -> impl Iterator<Item = usize> {
    let mut next = start;
    std::iter::from_fn(move || {
        let at = next;
        let insn = body.insns.get(at).filter(|_| at < end)?;
        next += if insn.is_wide() { 2 } else { 1 };
        Some(at)
    })
}

fn one(body: &Body, jumps: &[(usize, usize)], head: usize, last: usize) -> Option<Counted> {
    let inside = head..=last;
    // It is entered at its head only, from above or by its own jump back, which is the only one.
    let entered = |&&(at, target): &&(usize, usize)| {
        let own = (at, target) == (last, head);
        !own && inside.contains(&target) && (!inside.contains(&at) || target <= at)
    };
    if last + 1 - head > MOST / 2 || jumps.iter().any(|jump| entered(&jump)) {
        return None;
    }
    let test = match body.insns[last].code {
        insn::JA | insn::JA32 => last.checked_sub(1).filter(|at| *at >= head)?,
        _ => last,
    };
    let insn = body.insns[test];
    let compares = matches!(insn.class(), insn::JMP | insn::JMP32) && insn.code & 0x08 == 0;
    let conditional = compares
        && !matches!(
            insn.code,
            insn::JA | insn::JA32 | insn::CALL | insn::EXIT | insn::JCOND
        );
    let leaves = test == last || jump_target(insn, test).is_some_and(|target| !inside.contains(&target));
    if !conditional || !leaves {
        return None;
    }
    let counter = insn.dst;
    let mut step = None;
    for at in instructions(body, head, last + 1) {
        let insn = body.insns[at];
        if insn.code == insn::CALL || insn.code == insn::JCOND || insn.code == insn::EXIT {
            return None;
        }
        if writes(insn) == Some(counter) {
            let adds = matches!(insn.code, 0x07 | 0x04 | 0x17 | 0x14) && step.is_none();
            step = adds.then_some(at);
            step?;
        }
    }
    let step = step.filter(|step| *step < test)?;
    // Nothing jumps over it, nor over the test.
    let skips = |&(at, target): &(usize, usize)| {
        let over = |place| at < place && target > place;
        (head..last).contains(&at) && at != test && target <= last && (over(step) || over(test))
    };
    (!jumps.iter().any(skips)).then_some(Counted {
        head,
        last,
        counter,
        step,
        test,
    })
}

/// The register that an instruction other than a call writes.
fn writes(insn: Insn) -> Option<u8> {
    match insn.class() {
        insn::ALU | insn::ALU64 | insn::LD | insn::LDX => Some(insn.dst),
        insn::STX if matches!(insn.code, 0xc3 | 0xdb | 0xcb | 0xd3) => match insn.imm {
            atomic::CMPXCHG => Some(0),
            atomic::LOAD_ACQUIRE => Some(insn.dst),
            op if op & atomic::FETCH != 0 => Some(insn.src),
            _ => None,
        },
        _ => None,
    }
}
