//! What registers and stack slots hold at a point of a program, and what becomes of that.

use crate::mem::space::FRAME;

/// Stack slots of a function.
pub(super) const SLOTS: usize = FRAME / 8;

/// What a register or an 8-byte stack slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Unknown,
    /// The context pointer.
    Ctx,
    /// The map at this index of the collection.
    Map(u32),
    /// The function's own r10 plus this.
    Stack(i32),
    /// This far into a value of a map.
    Value { map: u32, off: i32 },
    /// What the lookup at instruction `at` returned: a value of a map, or null.
    MaybeValue { map: u32, at: u32 },
    /// `xdp_md.data` plus `off`; the frame is known to have at least `len` bytes.
    Packet { off: i32, len: i32 },
    /// `xdp_md.data_end`.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub regs: [Kind; 11],
    pub slots: [Kind; SLOTS],
}

impl State {
    pub fn entry(args: [Kind; 5]) -> State {
        let mut regs = [Kind::Unknown; 11];
        regs[1..6].copy_from_slice(&args);
        regs[10] = Kind::Stack(0);
        State {
            regs,
            slots: [Kind::Unknown; SLOTS],
        }
    }

    pub fn all(&mut self) -> impl Iterator<Item = &mut Kind> {
        self.regs.iter_mut().chain(self.slots.iter_mut())
    }

    /// Keeps what holds in both; tells whether anything was lost.
    pub fn join(&mut self, other: &State) -> bool {
        let mut changed = false;
        let theirs = other.regs.iter().chain(other.slots.iter());
        for (mine, theirs) in self.regs.iter_mut().chain(self.slots.iter_mut()).zip(theirs) {
            let both = join(*mine, *theirs);
            changed |= both != *mine;
            *mine = both;
        }
        changed
    }

    /// After something that may have moved the frame's edges.
    pub fn forget_frame(&mut self) {
        self.all()
            .filter(|k| matches!(k, Kind::Packet { .. } | Kind::End))
            .for_each(|k| *k = Kind::Unknown);
    }

    /// A store of `len` bytes, at a known place or anywhere.
    pub fn stored(&mut self, to: Kind, off: i32, len: i32, value: Kind) {
        match to {
            Kind::Value { .. } | Kind::Packet { .. } => {}
            Kind::Stack(base) if base.checked_add(off).is_some() => {
                let at = base + off + FRAME as i32;
                if len == 8
                    && at % 8 == 0
                    && let Some(slot) = usize::try_from(at / 8).ok().and_then(|s| self.slots.get_mut(s))
                    && at >= 0
                {
                    *slot = value;
                    return;
                }
                for (i, slot) in self.slots.iter_mut().enumerate() {
                    let start = i as i32 * 8;
                    if start < at + len && at < start + 8 {
                        *slot = Kind::Unknown;
                    }
                }
            }
            _ => self.slots = [Kind::Unknown; SLOTS],
        }
    }

    /// `reg` was compared to null on this edge.
    pub fn null_tested(&mut self, reg: u8, is_null: bool) {
        let Kind::MaybeValue { map, at } = self.regs[usize::from(reg)] else {
            return;
        };
        let now = if is_null {
            Kind::Unknown
        } else {
            Kind::Value { map, off: 0 }
        };
        self.all()
            .filter(|k| **k == Kind::MaybeValue { map, at })
            .for_each(|k| *k = now);
    }

    /// The frame is known to have `known` bytes on this edge.
    pub fn frame_has(&mut self, known: i32) {
        for kind in self.all() {
            if let Kind::Packet { len, .. } = kind {
                *len = known.max(*len);
            }
        }
    }
}

pub(super) fn join(a: Kind, b: Kind) -> Kind {
    match (a, b) {
        (
            Kind::Packet { off, len },
            Kind::Packet {
                off: other,
                len: less,
            },
        ) if off == other => Kind::Packet {
            off,
            len: len.min(less),
        },
        _ if a == b => a,
        _ => Kind::Unknown,
    }
}
