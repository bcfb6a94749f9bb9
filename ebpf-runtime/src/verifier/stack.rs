//! The stack: what its bytes hold, saved registers, what reading and writing them does.

use std::rc::Rc;

use super::deps::NONE;
use super::explore::Verifier;
use super::problem::{Problem, refuse};
use super::scalar::Scalar;
use super::state::{Byte, Kind, Reg, SLOTS, State};
use crate::insn::{self, Insn};
use crate::mem::space::FRAME;

impl Verifier<'_> {
    /// What lies on the stack; marks it as read.
    pub(super) fn load_stack(
        &mut self,
        state: &mut State,
        frame: u8,
        base: &Reg,
        off: i64,
        size: u32,
    ) -> Result<Reg, Problem> {
        let (lo, hi) = stack_range(base, off, size);
        let fixed = base.value.known().is_some();
        if fixed && let Some(reg) = self.fill(state, frame, lo, size)? {
            return Ok(reg);
        }
        let zero = self.readable(state, frame, lo, hi)?;
        let value = if zero && fixed {
            Scalar::constant(0)
        } else {
            Scalar::of_bytes(size)
        };
        Ok(self.loaded(value))
    }

    /// A spilled register, if these bytes are one or the low part of one.
    fn fill(&mut self, state: &mut State, frame: u8, lo: i64, size: u32) -> Result<Option<Reg>, Problem> {
        let (slot, first) = place(lo);
        let content = &state.frames[usize::from(frame)].stack[slot];
        let (kind, spill) = match first {
            0 => (Byte::Spill, &content.spill),
            4 => (Byte::Upper, &content.upper),
            _ => return Ok(None),
        };
        let spilled = content.bytes[first..].iter().take_while(|b| **b == kind).count();
        let Some(reg) = spill.as_deref().copied().filter(|_| spilled >= size as usize) else {
            return Ok(None);
        };
        self.deps.mark(content.cell);
        if spilled == 8 && size == 8 {
            return Ok(Some(reg));
        }
        if !reg.is_scalar() {
            return refuse(
                format!("reads {size} bytes of a pointer that was saved at {lo} on the stack"),
                "read all 8 bytes",
            );
        }
        let value = reg.value.truncate(size);
        if value == reg.value {
            return Ok(Some(reg));
        }
        let dep = self.deps.node(reg.dep, NONE);
        Ok(Some(Reg::scalar(value, dep)))
    }

    /// Checks that bytes of the stack may be read as a number, and marks them; says whether all are zero.
    pub(super) fn readable(&mut self, state: &State, frame: u8, lo: i64, hi: i64) -> Result<bool, Problem> {
        let content = &state.frames[usize::from(frame)];
        let mut zero = true;
        let mut unwritten = false;
        for at in lo..hi {
            let (slot, byte) = place(at);
            let slot = &content.stack[slot];
            self.deps.mark(slot.cell);
            match slot.bytes[byte] {
                Byte::Zero => {}
                Byte::Misc => zero = false,
                Byte::Unwritten => {
                    unwritten = true;
                    zero = false;
                }
                b @ (Byte::Spill | Byte::Upper) if slot.owner(b).is_some_and(Reg::is_scalar) => {
                    zero &= slot.owner(b).and_then(Reg::known) == Some(0);
                    if let Some(dep) = slot.owner(b).map(|r| r.dep).filter(|_| zero) {
                        self.deps.mark(dep);
                    }
                }
                Byte::Spill | Byte::Upper | Byte::Poison => {
                    return refuse(
                        format!("reads byte {at} of the stack as a number, where a pointer was saved"),
                        "read the whole pointer with a 64-bit load, or overwrite it first",
                    );
                }
            }
        }
        if unwritten {
            self.functions[content.function].zero = true;
        }
        Ok(zero)
    }

    pub(super) fn store_stack(
        &mut self,
        state: &mut State,
        frame: u8,
        base: &Reg,
        insn: Insn,
        size: u32,
        value: &Reg,
    ) -> Result<(), Problem> {
        let (lo, hi) = stack_range(base, insn.off.into(), size);
        let fixed = base.value.known().is_some();
        if value.is_pointer() {
            if !fixed || size != 8 || lo % 8 != 0 {
                return refuse(
                    format!("saves r{}, {}, in pieces", insn.src, value.kind.describe()),
                    "save pointers with aligned 64-bit stores at a fixed place of the stack",
                );
            }
            if let Kind::Stack(of) = value.kind
                && of > frame
            {
                return refuse(
                    "saves a pointer to this function's stack in its caller's",
                    "keep pointers to a function's stack within it",
                );
            }
        }
        self.note_depth(state, frame, lo);
        if !fixed {
            let zero = value.known() == Some(0);
            if zero {
                self.deps.mark(value.dep);
            }
            self.blur(state, frame, lo, hi, zero);
            return Ok(());
        }
        let (slot, first) = place(lo);
        if (first == 0 && size == 8) || (value.is_scalar() && size <= 4 && matches!(first, 0 | 4)) {
            let mut value = *value;
            let whole = value.value.truncate(size) == value.value;
            if !whole {
                let dep = self.deps.node(value.dep, NONE);
                value = Reg::scalar(value.value.truncate(size), dep);
            } else if value.is_scalar()
                && value.id == 0
                && value.known().is_none()
                && insn.class() == insn::STX
            {
                // The register and its saved copy are one number.
                self.link(&mut value);
                state.set(insn.src, value);
            }
            let cell = if size == 8 {
                self.deps.fresh()
            } else {
                let old = state.frames[usize::from(frame)].stack[slot].cell;
                self.deps.node(old, NONE)
            };
            let content = &mut state.frame_mut(frame.into()).stack[slot];
            let bytes = first..first + size as usize;
            content.forget(bytes.clone());
            if first == 0 {
                content.bytes[bytes].fill(Byte::Spill);
                content.spill = Some(Rc::new(value));
            } else {
                content.bytes[bytes].fill(Byte::Upper);
                content.upper = Some(Rc::new(value));
            }
            content.cell = cell;
            return Ok(());
        }
        let zero = value.known() == Some(0);
        if zero {
            self.deps.mark(value.dep);
        }
        self.overwrite(
            state,
            frame,
            lo,
            size as usize,
            if zero { Byte::Zero } else { Byte::Misc },
        );
        Ok(())
    }

    /// Remembers how deep a function's frame is used.
    pub(super) fn note_depth(&mut self, state: &State, frame: u8, lo: i64) {
        let function = state.frames[usize::from(frame)].function;
        let facts = &mut self.functions[function];
        facts.stack = facts
            .stack
            .max(((-lo).clamp(0, FRAME as i64) as u16).next_multiple_of(8));
    }

    /// Bytes at a known place get new contents.
    pub(super) fn overwrite(&mut self, state: &mut State, frame: u8, lo: i64, len: usize, with: Byte) {
        for at in lo..lo + len as i64 {
            let (slot, byte) = place(at);
            let whole = byte == 0 && at + 8 <= lo + len as i64;
            let old = state.frames[usize::from(frame)].stack[slot].cell;
            let begins = byte == 0 || at == lo;
            let cell = match (begins, whole) {
                (true, true) => self.deps.fresh(),
                (true, false) => self.deps.node(old, NONE),
                (false, _) => old,
            };
            let content = &mut state.frame_mut(frame.into()).stack[slot];
            content.cell = cell;
            content.forget(byte..byte + 1);
            content.bytes[byte] = with;
        }
    }

    /// Some bytes of a range get new contents, nobody knows which.
    pub(super) fn blur(&mut self, state: &mut State, frame: u8, lo: i64, hi: i64, zero: bool) {
        let mut unwritten = false;
        for at in lo..hi {
            let (slot, byte) = place(at);
            let content = &mut state.frame_mut(frame.into()).stack[slot];
            content.forget(byte..byte + 1);
            // What was there may stay, so whoever reads the slot depends on it.
            self.deps.mark(content.cell);
            content.bytes[byte] = match content.bytes[byte] {
                Byte::Poison => Byte::Poison,
                Byte::Zero if zero => Byte::Zero,
                Byte::Unwritten => {
                    unwritten = true;
                    Byte::Misc
                }
                _ => Byte::Misc,
            };
        }
        if unwritten {
            let content = &state.frames[usize::from(frame)];
            self.functions[content.function].zero = true;
        }
    }
}

/// Bytes of the frame that an access may touch: from the first to behind the last.
pub(super) fn stack_range(base: &Reg, off: i64, size: u32) -> (i64, i64) {
    let start = off + i64::from(base.off);
    (start + base.value.s.0, start + base.value.s.1 + i64::from(size))
}

/// The slot and the byte within it at an offset of -512 to -1.
fn place(at: i64) -> (usize, usize) {
    let slot = ((-at - 1) / 8) as usize;
    (slot.min(SLOTS - 1), at.rem_euclid(8) as usize)
}
