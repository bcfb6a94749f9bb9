//! What a conditional jump teaches about the numbers it compares.

use super::scalar::Scalar;
use super::tnum::Tnum;

/// A relation between two numbers; the others are these with their sides changed or negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    SLt,
    SLe,
    SGt,
    SGe,
    /// A bit is set in both.
    Set,
    /// No bit is set in both.
    Clear,
}

impl Relation {
    /// The relation that a jump's opcode tests.
    pub fn of(code: u8) -> Option<Relation> {
        Some(match code & 0xf0 {
            0x10 => Relation::Eq,
            0x20 => Relation::Gt,
            0x30 => Relation::Ge,
            0x40 => Relation::Set,
            0x50 => Relation::Ne,
            0x60 => Relation::SGt,
            0x70 => Relation::SGe,
            0xa0 => Relation::Lt,
            0xb0 => Relation::Le,
            0xc0 => Relation::SLt,
            0xd0 => Relation::SLe,
            _ => return None,
        })
    }

    /// What holds when this does not.
    pub fn negated(self) -> Relation {
        use Relation::*;
        match self {
            Eq => Ne,
            Ne => Eq,
            Lt => Ge,
            Le => Gt,
            Gt => Le,
            Ge => Lt,
            SLt => SGe,
            SLe => SGt,
            SGt => SLe,
            SGe => SLt,
            Set => Clear,
            Clear => Set,
        }
    }

    /// The same relation with its sides exchanged.
    pub fn swapped(self) -> Relation {
        use Relation::*;
        match self {
            Lt => Gt,
            Le => Ge,
            Gt => Lt,
            Ge => Le,
            SLt => SGt,
            SLe => SGe,
            SGt => SLt,
            SGe => SLe,
            other => other,
        }
    }

    /// As a person writes it.
    pub fn symbol(self) -> &'static str {
        use Relation::*;
        match self {
            Eq => "==",
            Ne => "!=",
            Lt => "<",
            Le => "<=",
            Gt => ">",
            Ge => ">=",
            SLt => "s<",
            SLe => "s<=",
            SGt => "s>",
            SGe => "s>=",
            Set => "&",
            Clear => "!&",
        }
    }
}

type Pair = Option<(Scalar, Scalar)>;

/// The two numbers once the relation is known to hold; `None` when it cannot. `wide` compares all 64 bits, otherwise only
/// the low halves.
pub(crate) fn refine(relation: Relation, a: &Scalar, b: &Scalar, wide: bool) -> Pair {
    use Relation::*;
    match relation {
        Gt | Ge | SGt | SGe => {
            let (b, a) = refine(relation.swapped(), b, a, wide)?;
            Some((a, b))
        }
        Eq if wide => {
            let both = a.meet(b)?;
            Some((both, both))
        }
        Eq => {
            let both = a.zext().meet(&b.zext())?;
            Some((with_low(a, &both)?, with_low(b, &both)?))
        }
        Ne => {
            let (mut a, mut b) = (*a, *b);
            if wide {
                if let Some(c) = b.known() {
                    a = unequal(a, c)?;
                } else if let Some(c) = a.known() {
                    b = unequal(b, c)?;
                }
            } else if let Some(c) = b.zext().known() {
                a = with_low(&a, &unequal32(a.zext(), c as u32)?)?;
            } else if let Some(c) = a.zext().known() {
                b = with_low(&b, &unequal32(b.zext(), c as u32)?)?;
            }
            Some((a, b))
        }
        Lt | Le | SLt | SLe => ordered(relation, *a, *b, wide),
        Set | Clear => {
            let (mut a, mut b) = (*a, *b);
            let full = if wide { u64::MAX } else { 0xffff_ffff };
            let (left, right) = (a.bits.and(Tnum::constant(full)), b.bits.and(Tnum::constant(full)));
            if relation == Clear {
                if let Some(mask) = right.known() {
                    a.bits = without(a.bits, mask)?;
                } else if let Some(mask) = left.known() {
                    b.bits = without(b.bits, mask)?;
                }
            } else {
                if left.and(right).max() == 0 {
                    return None;
                }
                if let Some(mask) = right.known().filter(|m| m.is_power_of_two()) {
                    a.bits = a.bits.meet(Tnum {
                        value: mask,
                        mask: !mask,
                    })?;
                }
            }
            Some((a.tidy()?, b.tidy()?))
        }
    }
}

/// The numbers without a bit of `mask`.
fn without(bits: Tnum, mask: u64) -> Option<Tnum> {
    bits.meet(Tnum {
        value: 0,
        mask: !mask,
    })
}

/// The number with a lower half that `low` (zero-extended) describes too.
fn with_low(a: &Scalar, low: &Scalar) -> Option<Scalar> {
    let mut out = *a;
    out.bits = a.bits.with_low(a.bits.low().meet(low.bits.low())?);
    out.u32 = (a.u32.0.max(low.u32.0), a.u32.1.min(low.u32.1));
    out.s32 = (a.s32.0.max(low.s32.0), a.s32.1.min(low.s32.1));
    out.tidy()
}

/// `a` without the number `c`: a range loses it only at an end.
fn unequal(mut a: Scalar, c: u64) -> Option<Scalar> {
    if a.known() == Some(c) {
        return None;
    }
    if a.u.0 == c {
        a.u.0 = c.checked_add(1)?;
    }
    if a.u.1 == c {
        a.u.1 = c.checked_sub(1)?;
    }
    let c = c as i64;
    if a.s.0 == c {
        a.s.0 = c.checked_add(1)?;
    }
    if a.s.1 == c {
        a.s.1 = c.checked_sub(1)?;
    }
    a.tidy()
}

fn unequal32(mut a: Scalar, c: u32) -> Option<Scalar> {
    if a.known() == Some(c.into()) {
        return None;
    }
    if a.u32.0 == c {
        a.u32.0 = c.checked_add(1)?;
    }
    if a.u32.1 == c {
        a.u32.1 = c.checked_sub(1)?;
    }
    let c = c as i32;
    if a.s32.0 == c {
        a.s32.0 = c.checked_add(1)?;
    }
    if a.s32.1 == c {
        a.s32.1 = c.checked_sub(1)?;
    }
    a.tidy()
}

/// `a < b` or `a <= b` on one pair of ranges.
macro_rules! order {
    ($a:expr, $b:expr, $strict:expr) => {{
        let by = if $strict { 1 } else { 0 };
        $a.1 = $a.1.min($b.1.checked_sub(by)?);
        $b.0 = $b.0.max($a.0.checked_add(by)?);
    }};
}

fn ordered(relation: Relation, mut a: Scalar, mut b: Scalar, wide: bool) -> Pair {
    let strict = matches!(relation, Relation::Lt | Relation::SLt);
    let signed = matches!(relation, Relation::SLt | Relation::SLe);
    match (signed, wide) {
        (false, true) => order!(a.u, b.u, strict),
        (true, true) => order!(a.s, b.s, strict),
        (false, false) => order!(a.u32, b.u32, strict),
        (true, false) => order!(a.s32, b.s32, strict),
    }
    Some((a.tidy()?, b.tidy()?))
}
