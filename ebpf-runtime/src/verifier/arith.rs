//! Arithmetic on registers: numbers by [`Scalar`]'s rules, pointers by what keeps them meaningful.

use super::deps::NONE;
use super::explore::Verifier;
use super::problem::{Problem, refuse};
use super::scalar::Scalar;
use super::state::{Kind, Reg, State};
use crate::insn::{self, Insn};

/// Largest distance of a pointer from where it began, either way.
pub(super) const OFFSET_MAX: i64 = 1 << 29;

impl Verifier<'_> {
    /// ALU and ALU64 instructions.
    pub(super) fn alu(&mut self, state: &mut State, insn: Insn) -> Result<(), Problem> {
        let wide = insn.class() == insn::ALU64;
        let op = insn.code & 0xf0;
        let by_register = insn.code & 0x08 != 0;
        let (dst, src) = (insn.dst, insn.src);
        if op == 0xb0 {
            let reg = if by_register {
                self.moved(state, insn, wide)?
            } else {
                let value = insn.imm as i64 as u64;
                let value = if wide { value } else { u64::from(value as u32) };
                Reg::scalar(Scalar::constant(value), self.deps.fresh())
            };
            state.set(dst, reg);
            return Ok(());
        }
        let a = self.initialised(state, dst)?;
        let unary = matches!(op, 0x80 | 0xd0);
        let b = if unary {
            Reg::scalar(Scalar::constant(0), NONE)
        } else if by_register {
            self.initialised(state, src)?
        } else {
            Reg::scalar(Scalar::constant(insn.imm as i64 as u64), NONE)
        };
        if a.is_pointer() || b.is_pointer() {
            let reg = self.pointer_alu(insn, wide, &a, &b)?;
            state.set(dst, reg);
            return Ok(());
        }
        if matches!(op, 0x60 | 0x70 | 0xc0) && !by_register {
            let width = if wide { 64 } else { 32 };
            if !(0..width).contains(&insn.imm) {
                return refuse(
                    format!("shifts by {} bits", insn.imm),
                    format!("shift by 0 to {} bits", width - 1),
                );
            }
        }
        if matches!(op, 0x30 | 0x90) && !by_register && insn.imm == 0 {
            return refuse("divides by the constant zero", "divide by something else");
        }
        let value = compute(insn, wide, &a.value, &b.value);
        let known = b.value.known();
        let linked = if wide { distance(op, &a, known) } else { None };
        let dep = match linked {
            Some(_) => self.deps.node(a.dep, b.dep),
            None => self.derived(a.dep, b.dep, &value),
        };
        let mut reg = Reg::scalar(value, dep);
        // A number that is another plus a constant keeps track of it, so that a check of one bounds both.
        if let Some(delta) = linked {
            (reg.id, reg.off) = (a.id, delta);
        }
        state.set(dst, reg);
        Ok(())
    }

    /// The node of a number computed from two others.
    fn derived(&mut self, a: u32, b: u32, value: &Scalar) -> u32 {
        if *value == Scalar::UNKNOWN {
            NONE
        } else {
            self.deps.node(a, b)
        }
    }

    /// Moves, sign-extending ones too.
    fn moved(&mut self, state: &mut State, insn: Insn, wide: bool) -> Result<Reg, Problem> {
        let mut reg = self.initialised(state, insn.src)?;
        if !reg.is_scalar() {
            if wide && insn.off == 0 {
                return Ok(reg);
            }
            return match reg.kind {
                Kind::Packet | Kind::PacketEnd | Kind::PacketBits | Kind::Stale | Kind::Meta
                    if insn.off == 0 =>
                {
                    Ok(packet_bits())
                }
                _ => refuse(
                    format!("copies part of r{}, {}", insn.src, reg.kind.describe()),
                    "copy pointers with 64-bit moves",
                ),
            };
        }
        let width = insn.off as u32;
        let value = match (insn.off, wide) {
            (0, true) => reg.value,
            (0, false) => reg.value.zext(),
            (_, true) => reg.value.sext(width),
            (_, false) => reg.value.sext(width).zext(),
        };
        if value == reg.value {
            // The same number twice: what is learned of one holds for the other.
            if reg.id == 0 && value.known().is_none() {
                self.link(&mut reg);
                state.set(insn.src, reg);
            }
            return Ok(reg);
        }
        let dep = self.derived(reg.dep, NONE, &value);
        Ok(Reg::scalar(value, dep))
    }

    /// Arithmetic with at least one pointer.
    fn pointer_alu(&mut self, insn: Insn, wide: bool, a: &Reg, b: &Reg) -> Result<Reg, Problem> {
        let op = insn.code & 0xf0;
        let (pointer, at) = if a.is_pointer() {
            (a, insn.dst)
        } else {
            (b, insn.src)
        };
        let family = |r: &Reg| {
            matches!(
                r.kind,
                Kind::Packet | Kind::PacketEnd | Kind::Meta | Kind::Stale | Kind::PacketBits
            )
        };
        if op == 0x10 && family(a) && family(b) {
            // The distance between two places of the packet says nothing about where it lies.
            let full = a.kind != Kind::PacketBits && b.kind != Kind::PacketBits;
            let value = match (wide, full) {
                (true, true) => Scalar::UNKNOWN,
                (true, false) => {
                    return refuse(
                        "subtracts half of a packet pointer",
                        "subtract whole pointers, or compute in 32 bits",
                    );
                }
                (false, _) => Scalar::UNKNOWN.zext(),
            };
            let dep = self.derived(NONE, NONE, &value);
            return Ok(Reg::scalar(value, dep));
        }
        if op == 0x10
            && wide
            && let (Kind::Stack(x), Kind::Stack(y)) = (a.kind, b.kind)
            && x == y
        {
            return Ok(Reg::NUMBER);
        }
        let remedy = "add numbers to pointers or subtract them, in 64 bits; nothing else";
        if !wide {
            return refuse(
                format!("32-bit arithmetic on r{at}, {}", pointer.kind.describe()),
                remedy,
            );
        }
        if a.is_pointer() && b.is_pointer() {
            return refuse(
                format!(
                    "combines two pointers, {} and {}",
                    a.kind.describe(),
                    b.kind.describe()
                ),
                "only pointers into the same packet can be subtracted from each other",
            );
        }
        if !matches!(op, 0x00 | 0x10) || (op == 0x10 && b.is_pointer()) {
            return refuse(
                format!(
                    "arithmetic that makes no sense on r{at}, {}",
                    pointer.kind.describe()
                ),
                remedy,
            );
        }
        if pointer.or_null {
            return refuse(
                format!("adds to r{at}, which may be null"),
                format!("check that r{at} is not null first"),
            );
        }
        if !matches!(
            pointer.kind,
            Kind::Stack(_)
                | Kind::Packet
                | Kind::Meta
                | Kind::MapValue(_)
                | Kind::MapKey(_)
                | Kind::Record(_)
        ) {
            return refuse(
                format!("adds to r{at}, {}", pointer.kind.describe()),
                "this pointer has no parts to move to",
            );
        }
        let number = if a.is_pointer() { b } else { a };
        let mut out = *pointer;
        if let Some(known) = number.value.known() {
            self.deps.mark(number.dep);
            let known = known as i64;
            let delta = if op == 0x10 {
                known.checked_neg()
            } else {
                Some(known)
            };
            let off = delta.and_then(|d| i64::from(pointer.off).checked_add(d));
            match off.filter(|o| -OFFSET_MAX < *o && *o < OFFSET_MAX) {
                Some(off) => out.off = off as i32,
                None => {
                    return refuse(
                        format!("moves r{at}, {}, out of any bounds", pointer.kind.describe()),
                        format!("keep offsets below {OFFSET_MAX}"),
                    );
                }
            }
            return Ok(out);
        }
        let value = if op == 0x10 {
            pointer.value.sub(&number.value)
        } else {
            pointer.value.add(&number.value)
        };
        if number.value.s.0 <= -OFFSET_MAX
            || number.value.s.1 >= OFFSET_MAX
            || value.s.0 <= -OFFSET_MAX
            || value.s.1 >= OFFSET_MAX
        {
            let which = if a.is_pointer() { insn.src } else { insn.dst };
            return refuse(
                format!(
                    "moves {} by r{which}, whose range is unknown or too wide",
                    pointer.kind.describe()
                ),
                format!(
                    "bound r{which} first, with a comparison or a mask (`x &= 0xff`), to less than {OFFSET_MAX}"
                ),
            );
        }
        self.deps.mark(number.dep);
        out.value = value;
        if matches!(pointer.kind, Kind::Packet | Kind::Meta) {
            out.id = self.id();
            out.range = 0;
        }
        Ok(out)
    }
}

/// A 32-bit copy of a packet pointer: compilers compute lengths with them.
fn packet_bits() -> Reg {
    Reg {
        kind: Kind::PacketBits,
        ..Reg::UNINIT
    }
}

/// The new distance from what the number is linked to, if the instruction adds a constant to a linked number.
fn distance(op: u8, a: &Reg, known: Option<u64>) -> Option<i32> {
    if a.id == 0 || a.known().is_some() {
        return None;
    }
    let by = i32::try_from(known? as i64).ok()?;
    match op {
        0x00 => a.off.checked_add(by),
        0x10 => a.off.checked_sub(by),
        _ => None,
    }
}

/// The result of an ALU instruction on numbers.
pub(super) fn compute(insn: Insn, wide: bool, a: &Scalar, b: &Scalar) -> Scalar {
    let signed = insn.off != 0;
    let width = if wide { 64 } else { 32 };
    let narrow = |x: Scalar| if wide { x } else { x.zext() };
    match insn.code & 0xf0 {
        0x00 => narrow(a.add(b)),
        0x10 => narrow(a.sub(b)),
        0x20 => narrow(a.mul(b)),
        0x40 => narrow(a.or(b)),
        0x50 => narrow(a.and(b)),
        0xa0 => narrow(a.xor(b)),
        0x80 => narrow(Scalar::constant(0).sub(a)),
        0x60 => narrow(a.shl(b, width)),
        0x70 => narrow(narrow(*a).shr(b, width)),
        0xc0 if wide => a.ashr(b, 64),
        0xc0 => a.sext(32).ashr(b, 32).zext(),
        0x30 | 0x90 if signed => match (narrow(*a).known(), narrow(*b).known()) {
            (Some(x), Some(y)) => Scalar::constant(signed_division(insn.code & 0xf0 == 0x30, wide, x, y)),
            _ => narrow(Scalar::UNKNOWN),
        },
        0x30 => narrow(*a).div(&narrow(*b)),
        0x90 => narrow(*a).rem(&narrow(*b)),
        0xd0 => swap(insn, wide, a),
        _ => Scalar::UNKNOWN,
    }
}

fn signed_division(quotient: bool, wide: bool, x: u64, y: u64) -> u64 {
    match (quotient, wide) {
        (true, _) if y == 0 => 0,
        (false, _) if y == 0 => x,
        (true, true) => (x as i64).wrapping_div(y as i64) as u64,
        (false, true) => (x as i64).wrapping_rem(y as i64) as u64,
        (true, false) => u64::from((x as i32).wrapping_div(y as i32) as u32),
        (false, false) => u64::from((x as i32).wrapping_rem(y as i32) as u32),
    }
}

/// Byte swaps and truncations.
fn swap(insn: Insn, wide: bool, a: &Scalar) -> Scalar {
    let bytes = (insn.imm / 8) as u32;
    let swaps = wide || insn.code & 0x08 != 0;
    match (swaps, a.known()) {
        (false, _) => a.truncate(bytes),
        (true, Some(x)) => Scalar::constant(match bytes {
            2 => u64::from((x as u16).swap_bytes()),
            4 => u64::from((x as u32).swap_bytes()),
            _ => x.swap_bytes(),
        }),
        (true, None) => Scalar::of_bytes(bytes),
    }
}
