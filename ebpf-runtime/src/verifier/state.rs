//! What the verifier knows at one point of one path: registers, stack frames, references held.

use std::fmt;
use std::rc::Rc;

use super::deps::{Dep, Deps, NONE};
use super::scalar::Scalar;
use crate::mem::space::FRAME;

/// Eight-byte slots of a frame.
pub(crate) const SLOTS: usize = FRAME / 8;

/// A map that a pointer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MapRef {
    /// Index in the program's maps; of a map found in a map of maps, that of the outer one.
    pub index: u32,
    /// Whether it was found in a map of maps.
    pub inner: bool,
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Nothing that may be read.
    Uninit,
    Scalar,
    Ctx,
    /// Into the frame of this depth; offset 0 is its top.
    Stack(u8),
    Packet,
    Meta,
    PacketEnd,
    /// Part of a packet pointer's bits: good for nothing but a difference.
    PacketBits,
    /// A packet pointer from before the packet's edges moved: likewise.
    Stale,
    MapPtr(MapRef),
    MapValue(MapRef),
    MapKey(MapRef),
    /// A ring-buffer record of this size.
    Record(u32),
    /// A function, by its first instruction.
    Func(u32),
}

impl Kind {
    /// As messages name it.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Uninit => "not initialised",
            Kind::Scalar => "a number",
            Kind::Ctx => "the context",
            Kind::Stack(_) => "a pointer to the stack",
            Kind::Packet => "a packet pointer",
            Kind::Meta => "a pointer to the packet's metadata",
            Kind::PacketEnd => "data_end",
            Kind::PacketBits => "half of a packet pointer",
            Kind::Stale => "a packet pointer from before a helper moved the packet",
            Kind::MapPtr(_) => "a map",
            Kind::MapValue(_) => "a pointer to a map value",
            Kind::MapKey(_) => "a pointer to a map key",
            Kind::Record(_) => "a pointer to a ring-buffer record",
            Kind::Func(_) => "a function",
        }
    }
}

/// A register, or a spilled one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reg {
    pub kind: Kind,
    /// A pointer that may also be 0.
    pub or_null: bool,
    /// Known part of a pointer's offset; of a number that is linked to others, its distance from them.
    pub off: i32,
    /// A number, or the variable part of a pointer's offset.
    pub value: Scalar,
    /// Numbers with one id differ by their `off` only; so do packet pointers with one id. Pointers that may be null with
    /// one id are null together. 0: none.
    pub id: u32,
    /// Packet pointers: bytes from `value`'s place on that are known to lie in the packet.
    pub range: u32,
    /// Reference that must be given back, for records.
    pub owner: u32,
    /// Node of the number in [`super::deps::Deps`].
    pub dep: Dep,
}

impl Reg {
    pub const UNINIT: Reg = Reg {
        kind: Kind::Uninit,
        or_null: false,
        off: 0,
        value: Scalar::UNKNOWN,
        id: 0,
        range: 0,
        owner: 0,
        dep: NONE,
    };

    /// A number about which nothing is known.
    pub const NUMBER: Reg = Reg {
        kind: Kind::Scalar,
        ..Reg::UNINIT
    };

    pub fn scalar(value: Scalar, dep: Dep) -> Reg {
        Reg {
            value,
            dep,
            ..Reg::NUMBER
        }
    }

    /// A pointer to the beginning of something.
    pub fn pointer(kind: Kind) -> Reg {
        Reg {
            kind,
            value: Scalar::constant(0),
            ..Reg::UNINIT
        }
    }

    pub fn is_scalar(&self) -> bool {
        self.kind == Kind::Scalar
    }

    /// Whether it holds an address or part of one, which must not get out.
    pub fn is_pointer(&self) -> bool {
        !matches!(self.kind, Kind::Scalar | Kind::Uninit)
    }

    /// The number, if it is one and there is just one it can be.
    pub fn known(&self) -> Option<u64> {
        if self.is_scalar() {
            self.value.known()
        } else {
            None
        }
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let null = if self.or_null { "_or_null" } else { "" };
        match self.kind {
            Kind::Uninit => return f.write_str("?"),
            Kind::Scalar => return write_scalar(f, &self.value),
            Kind::Ctx => write!(f, "ctx")?,
            Kind::Stack(0) => write!(f, "fp")?,
            Kind::Stack(n) => write!(f, "fp[frame {n}]")?,
            Kind::Packet => write!(f, "pkt")?,
            Kind::Meta => write!(f, "pkt_meta")?,
            Kind::PacketEnd => write!(f, "pkt_end")?,
            Kind::PacketBits => return f.write_str("pkt_bits"),
            Kind::Stale => return f.write_str("pkt_stale"),
            Kind::MapPtr(m) => write!(f, "map_ptr{null}({})", m.index)?,
            Kind::MapValue(m) => write!(f, "map_value{null}({})", m.index)?,
            Kind::MapKey(m) => write!(f, "map_key({})", m.index)?,
            Kind::Record(n) => write!(f, "record{null}({n} bytes)")?,
            Kind::Func(at) => return write!(f, "function at {at}"),
        }
        if self.off != 0 {
            write!(f, "{:+}", self.off)?;
        }
        if self.value.known() != Some(0) {
            f.write_str("+[")?;
            write_scalar(f, &self.value)?;
            f.write_str("]")?;
        }
        if matches!(self.kind, Kind::Packet | Kind::Meta) {
            write!(f, " ({} bytes proven)", self.range)?;
        }
        Ok(())
    }
}

fn write_scalar(f: &mut fmt::Formatter<'_>, s: &Scalar) -> fmt::Result {
    if let Some(value) = s.known() {
        return match value {
            0..0x1_0000 => write!(f, "{value}"),
            _ if (value as i64) < 0 && value as i64 > -0x1_0000 => write!(f, "{}", value as i64),
            _ => write!(f, "{value:#x}"),
        };
    }
    let mut parts = Vec::new();
    if s.u != (0, u64::MAX) {
        parts.push(format!("{}..={}", s.u.0, s.u.1));
    }
    if s.s != (i64::MIN, i64::MAX) && (s.s.0 < 0 || s.u == (0, u64::MAX)) {
        parts.push(format!("signed {}..={}", s.s.0, s.s.1));
    }
    if s.u.1 > u32::MAX.into() && s.u32 != (0, u32::MAX) {
        parts.push(format!("low half {}..={}", s.u32.0, s.u32.1));
    }
    if s.bits.mask.count_ones() + s.u.1.leading_zeros() < 64 {
        parts.push(format!(
            "bits {:#x} unknown, rest {:#x}",
            s.bits.mask, s.bits.value
        ));
    }
    if parts.is_empty() {
        f.write_str("any number")
    } else {
        f.write_str(&parts.join(", "))
    }
}

/// What a byte of the stack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Byte {
    /// What was there when the function was entered.
    Unwritten,
    /// Some number's byte.
    Misc,
    Zero,
    /// A byte of the slot's spilled register.
    Spill,
    /// A byte of the number in the slot's upper half.
    Upper,
    /// Part of a pointer that was partly overwritten; cannot be read.
    Poison,
}

/// Eight bytes of stack.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub bytes: [Byte; 8],
    pub spill: Option<Rc<Reg>>,
    /// A number of at most four bytes at the slot's fifth byte.
    pub upper: Option<Rc<Reg>>,
    /// Node that is marked when the content is read.
    pub cell: Dep,
}

impl Slot {
    fn unwritten(cell: Dep) -> Slot {
        Slot {
            bytes: [Byte::Unwritten; 8],
            spill: None,
            upper: None,
            cell,
        }
    }

    /// What a byte belongs to, if it is part of a register.
    pub fn owner(&self, byte: Byte) -> Option<&Reg> {
        match byte {
            Byte::Spill => self.spill.as_deref(),
            Byte::Upper => self.upper.as_deref(),
            _ => None,
        }
    }

    /// Whether no byte is unwritten or part of a pointer.
    pub fn is_number(&self) -> bool {
        self.bytes.iter().all(|b| match b {
            Byte::Misc | Byte::Zero => true,
            Byte::Unwritten | Byte::Poison => false,
            b => self.owner(*b).is_some_and(Reg::is_scalar),
        })
    }

    /// Forgets the registers that bytes `from..` belong to; what is left of them is some number, or poison.
    pub fn forget(&mut self, range: std::ops::Range<usize>) {
        for kind in [Byte::Spill, Byte::Upper] {
            if !self.bytes[range.clone()].contains(&kind) {
                continue;
            }
            let rest = match self.owner(kind).is_some_and(Reg::is_scalar) {
                true => Byte::Misc,
                false => Byte::Poison,
            };
            self.bytes
                .iter_mut()
                .filter(|b| **b == kind)
                .for_each(|b| *b = rest);
            match kind {
                Byte::Spill => self.spill = None,
                _ => self.upper = None,
            }
        }
    }

    /// The spilled register, when the slot holds all of one.
    pub fn whole(&self) -> Option<&Reg> {
        match &self.spill {
            Some(reg) if self.bytes == [Byte::Spill; 8] => Some(reg),
            _ => None,
        }
    }
}

/// A loop that a helper runs: `bpf_loop` or `bpf_for_each_map_elem`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Callback {
    /// First instruction of the callback.
    pub at: usize,
    /// For `for_each`, the map.
    pub map: Option<MapRef>,
    /// What it is given as its context.
    pub ctx: Reg,
    /// References held when the loop began.
    pub refs: usize,
    /// Turns begun, counted only when there are at most `most`.
    pub rounds: u32,
    /// Most turns, when they are few.
    pub most: Option<u32>,
}

/// A stack frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Which function, by index.
    pub function: usize,
    /// The call that made it.
    pub call: usize,
    pub callback: Option<Callback>,
    pub regs: [Reg; 11],
    /// Slot 0 is the one right below the top.
    pub stack: Vec<Slot>,
}

impl Frame {
    pub fn new(function: usize, call: usize, depth: usize, deps: &mut Deps) -> Frame {
        let mut regs = [Reg::UNINIT; 11];
        regs[10] = Reg::pointer(Kind::Stack(depth as u8));
        Frame {
            function,
            call,
            callback: None,
            regs,
            stack: (0..SLOTS).map(|_| Slot::unwritten(deps.fresh())).collect(),
        }
    }
}

/// A record that was reserved, or any other thing to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    pub id: u32,
    /// The call it came from.
    pub at: usize,
}

/// A spin lock that is held: the map value's id and its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub map: MapRef,
    pub id: u32,
    pub at: usize,
}

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub frames: Vec<Rc<Frame>>,
    pub refs: Vec<Reference>,
    pub lock: Option<Held>,
}

impl State {
    pub fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    /// The current frame.
    pub fn top(&self) -> &Frame {
        // There is always one: states begin with one, and the last is never popped.
        &self.frames[self.frames.len() - 1]
    }

    pub fn top_mut(&mut self) -> &mut Frame {
        let at = self.frames.len() - 1;
        Rc::make_mut(&mut self.frames[at])
    }

    pub fn frame_mut(&mut self, at: usize) -> &mut Frame {
        Rc::make_mut(&mut self.frames[at])
    }

    pub fn reg(&self, n: u8) -> &Reg {
        &self.top().regs[usize::from(n)]
    }

    pub fn set(&mut self, n: u8, reg: Reg) {
        self.top_mut().regs[usize::from(n)] = reg;
    }

    /// Changes every register and spilled register that `wanted` names.
    pub fn change(&mut self, wanted: impl Fn(&Reg) -> bool, mut change: impl FnMut(&mut Reg)) {
        for frame in &mut self.frames {
            let hit = frame.regs.iter().any(&wanted)
                || frame
                    .stack
                    .iter()
                    .any(|s| [&s.spill, &s.upper].into_iter().flatten().any(|r| wanted(r)));
            if !hit {
                continue;
            }
            let frame = Rc::make_mut(frame);
            frame.regs.iter_mut().filter(|r| wanted(r)).for_each(&mut change);
            for slot in &mut frame.stack {
                for spill in [&mut slot.spill, &mut slot.upper].into_iter().flatten() {
                    if wanted(spill) {
                        change(Rc::make_mut(spill));
                    }
                }
            }
        }
    }
}
