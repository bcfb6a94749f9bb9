//! Numbers and what is known of them, held against concrete execution.

use proptest::prelude::*;

use super::arith::compute;
use super::compare::{Relation, refine};
use super::scalar::Scalar;
use super::tnum::Tnum;
use crate::insn::Insn;

/// Words with a taste for edges.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        any::<i32>().prop_map(|x| x as i64 as u64),
        0..70u64,
        (0..64u32, -2..3i64).prop_map(|(n, d)| (1u64 << n).wrapping_add(d as u64)),
    ]
}

/// Something true about a word.
fn known() -> impl Strategy<Value = (Scalar, u64)> {
    (
        word(),
        any::<u64>(),
        [0..66u32, 0..66, 0..34, 0..34, 0..66],
        any::<[u64; 4]>(),
    )
        .prop_map(|(x, mask, slack, noise)| {
            let spread = |n: u32, noise: u64| if n >= 64 { noise } else { noise & ((1 << n) - 1) };
            let mask = match slack[4] {
                0..8 => 0,
                64.. => u64::MAX,
                n => spread(n, mask),
            };
            let mut s = Scalar::UNKNOWN;
            s.bits = Tnum {
                value: x & !mask,
                mask,
            };
            let [a, b, c, d] = noise;
            if slack[0] < 64 {
                s.u = (
                    x.saturating_sub(spread(slack[0], a)),
                    x.saturating_add(spread(slack[0], b)),
                );
            }
            if slack[1] < 64 {
                let i = x as i64;
                let by = |n| spread(slack[1].min(62), n) as i64;
                s.s = (i.saturating_sub(by(b)), i.saturating_add(by(c)));
            }
            if slack[2] < 32 {
                let w = x as u32;
                s.u32 = (
                    w.saturating_sub(spread(slack[2], c) as u32),
                    w.saturating_add(spread(slack[2], d) as u32),
                );
            }
            if slack[3] < 32 {
                let w = x as i32;
                let by = |n| spread(slack[3].min(30), n) as i32;
                s.s32 = (w.saturating_sub(by(d)), w.saturating_add(by(a)));
            }
            (s, x)
        })
}

fn tidy() -> impl Strategy<Value = (Scalar, u64)> {
    known().prop_map(|(s, x)| {
        (
            s.tidy().expect("a description that a number fits is not empty"),
            x,
        )
    })
}

/// What the interpreter makes of an ALU instruction.
fn concrete(insn: Insn, wide: bool, a: u64, b: u64) -> u64 {
    let signed = insn.off != 0;
    let (x, y) = (a as u32, b as u32);
    let narrow = |v: u32| u64::from(v);
    match (insn.code & 0xf0, wide) {
        (0x00, true) => a.wrapping_add(b),
        (0x00, false) => narrow(x.wrapping_add(y)),
        (0x10, true) => a.wrapping_sub(b),
        (0x10, false) => narrow(x.wrapping_sub(y)),
        (0x20, true) => a.wrapping_mul(b),
        (0x20, false) => narrow(x.wrapping_mul(y)),
        (0x30, true) if signed => {
            if b == 0 {
                0
            } else {
                (a as i64).wrapping_div(b as i64) as u64
            }
        }
        (0x30, false) if signed => narrow(if y == 0 {
            0
        } else {
            (x as i32).wrapping_div(y as i32) as u32
        }),
        (0x30, true) => a.checked_div(b).unwrap_or(0),
        (0x30, false) => narrow(x.checked_div(y).unwrap_or(0)),
        (0x40, true) => a | b,
        (0x40, false) => narrow(x | y),
        (0x50, true) => a & b,
        (0x50, false) => narrow(x & y),
        (0x60, true) => a.wrapping_shl(b as u32),
        (0x60, false) => narrow(x.wrapping_shl(y)),
        (0x70, true) => a.wrapping_shr(b as u32),
        (0x70, false) => narrow(x.wrapping_shr(y)),
        (0x80, true) => a.wrapping_neg(),
        (0x80, false) => narrow(x.wrapping_neg()),
        (0x90, true) if signed => {
            if b == 0 {
                a
            } else {
                (a as i64).wrapping_rem(b as i64) as u64
            }
        }
        (0x90, false) if signed => narrow(if y == 0 {
            x
        } else {
            (x as i32).wrapping_rem(y as i32) as u32
        }),
        (0x90, true) => a.checked_rem(b).unwrap_or(a),
        (0x90, false) => narrow(x.checked_rem(y).unwrap_or(x)),
        (0xa0, true) => a ^ b,
        (0xa0, false) => narrow(x ^ y),
        (0xc0, true) => (a as i64).wrapping_shr(b as u32) as u64,
        (0xc0, false) => narrow((x as i32).wrapping_shr(y) as u32),
        (0xd0, _) => {
            let swaps = wide || insn.code & 8 != 0;
            match (insn.imm, swaps) {
                (16, true) => u64::from((a as u16).swap_bytes()),
                (32, true) => narrow(x.swap_bytes()),
                (_, true) => a.swap_bytes(),
                (16, false) => u64::from(a as u16),
                (32, false) => narrow(x),
                (_, false) => a,
            }
        }
        _ => unreachable!(),
    }
}

fn holds(relation: Relation, a: u64, b: u64, wide: bool) -> bool {
    use Relation::*;
    let (a, b) = if wide {
        (a, b)
    } else {
        (u64::from(a as u32), u64::from(b as u32))
    };
    let (x, y) = if wide {
        (a as i64, b as i64)
    } else {
        (i64::from(a as i32), i64::from(b as i32))
    };
    match relation {
        Eq => a == b,
        Ne => a != b,
        Lt => a < b,
        Le => a <= b,
        Gt => a > b,
        Ge => a >= b,
        SLt => x < y,
        SLe => x <= y,
        SGt => x > y,
        SGe => x >= y,
        Set => a & b != 0,
        Clear => a & b == 0,
    }
}

const OPS: [u8; 14] = [
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xc0, 0xd0, 0xd0,
];

const RELATIONS: [Relation; 12] = [
    Relation::Eq,
    Relation::Ne,
    Relation::Lt,
    Relation::Le,
    Relation::Gt,
    Relation::Ge,
    Relation::SLt,
    Relation::SLe,
    Relation::SGt,
    Relation::SGe,
    Relation::Set,
    Relation::Clear,
];

/// Many cases behind `MILLRACE_SOAK=1`.
fn cases() -> ProptestConfig {
    let soak = std::env::var("MILLRACE_SOAK").is_ok_and(|v| v == "1");
    ProptestConfig {
        cases: if soak { 2_000_000 } else { 30_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn tidying_loses_no_number((s, x) in known()) {
        prop_assert!(s.contains(x));
        let tidy = s.tidy();
        prop_assert!(tidy.is_some_and(|t| t.contains(x) && s.covers(&t)), "{s:?} {x:#x} {tidy:?}");
    }

    #[test]
    fn every_result_of_an_instruction_is_foreseen(
        (a, x) in tidy(), (b, y) in tidy(), op in 0..OPS.len(), wide: bool, signed: bool, by_register: bool, width in 0..3usize
    ) {
        let code = OPS[op] | if by_register { 8 } else { 0 };
        let insn = Insn { code, dst: 0, src: 0, off: signed.into(), imm: [16, 32, 64][width] };
        let insn = if matches!(OPS[op], 0x30 | 0x90) { insn } else { Insn { off: 0, ..insn } };
        let result = compute(insn, wide, &a, &b);
        let real = concrete(insn, wide, x, y);
        prop_assert!(result.contains(real), "{insn:?} wide {wide}: {a:?} {b:?} give {result:?}, not {real:#x}");
        prop_assert_eq!(result.tidy(), Some(result));
    }

    #[test]
    fn every_move_and_truncation_is_foreseen((a, x) in tidy(), width in 0..3usize, bytes in 0..4usize) {
        let width = [8, 16, 32][width];
        let real = ((x << (64 - width)) as i64 >> (64 - width)) as u64;
        prop_assert!(a.sext(width).contains(real), "{a:?} {width} {:?} {real:#x}", a.sext(width));
        let bytes = [1, 2, 4, 8][bytes];
        let real = if bytes == 8 { x } else { x & ((1 << (8 * bytes)) - 1) };
        prop_assert!(a.truncate(bytes).contains(real));
    }

    #[test]
    fn comparisons_teach_only_what_is_true((a, x) in tidy(), (b, y) in tidy(), r in 0..RELATIONS.len(), wide: bool, alike: bool) {
        let (b, y) = if alike { (a, x) } else { (b, y) };
        let relation = RELATIONS[r];
        let relation = if holds(relation, x, y, wide) { relation } else { relation.negated() };
        let sides = refine(relation, &a, &b, wide);
        let fine = sides.is_some_and(|(p, q)| p.contains(x) && q.contains(y) && a.covers(&p) && b.covers(&q));
        prop_assert!(fine, "{x:#x} {relation:?} {y:#x} wide {wide}: {a:?} {b:?} give {sides:?}");
    }

    #[test]
    fn a_meet_keeps_what_both_have((a, x) in tidy(), (b, y) in known()) {
        let both = a.meet(&b);
        if b.contains(x) {
            prop_assert!(both.is_some_and(|m| m.contains(x)));
        }
        if let Some(m) = both {
            prop_assert!(a.covers(&m) && b.covers(&m));
        }
        let _ = y;
    }
}
