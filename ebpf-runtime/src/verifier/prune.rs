//! Whether a state that was explored before covers another: then nothing can go wrong from the other that could not
//! have gone wrong from it.

use super::deps::Deps;
use super::live::Regs;
use super::state::{Byte, Callback, Frame, Kind, Reg, Slot, State};

/// How much must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// All paths from the old state have been followed: what they did not depend on may differ.
    Finished,
    /// Paths from the old state are still being followed, so nobody knows what they will depend on.
    Running,
}

/// One comparison.
pub(super) struct Compare<'a> {
    pub deps: &'a Deps,
    pub live: &'a [Regs],
    pub at: usize,
    pub mode: Mode,
    /// Whether numbers are compared even where nothing depends on them.
    pub exact: bool,
    ids: Vec<(u32, u32)>,
    refs: Vec<(u32, u32)>,
    temporary: u32,
}

impl<'a> Compare<'a> {
    pub fn new(deps: &'a Deps, live: &'a [Regs], at: usize, mode: Mode, exact: bool) -> Compare<'a> {
        Compare {
            deps,
            live,
            at,
            mode,
            exact,
            ids: Vec::new(),
            refs: Vec::new(),
            temporary: u32::MAX,
        }
    }

    /// Whether `old` covers `new`.
    pub fn covers(&mut self, old: &State, new: &State) -> bool {
        if old.frames.len() != new.frames.len() || old.refs.len() != new.refs.len() {
            return false;
        }
        for (a, b) in old.refs.iter().zip(&new.refs) {
            self.refs.push((a.id, b.id));
        }
        match (&old.lock, &new.lock) {
            (None, None) => {}
            (Some(a), Some(b)) if a.map == b.map && self.same_id(a.id, b.id) => {}
            _ => return false,
        }
        let top = old.frames.len() - 1;
        for (depth, (a, b)) in old.frames.iter().zip(&new.frames).enumerate() {
            let live = match new.frames.get(depth + 1) {
                // What a caller may read after the call.
                Some(callee) if depth < top => self.after_call(callee.call) & !0x3f,
                _ => self.live.get(self.at).copied().unwrap_or(Regs::MAX),
            };
            if !self.frame(a, b, live) {
                return false;
            }
        }
        true
    }

    fn after_call(&self, call: usize) -> Regs {
        self.live.get(call + 1).copied().unwrap_or(Regs::MAX)
    }

    fn frame(&mut self, old: &Frame, new: &Frame, live: Regs) -> bool {
        if old.function != new.function || old.call != new.call {
            return false;
        }
        match (&old.callback, &new.callback) {
            (None, None) => {}
            (Some(a), Some(b)) if self.callback(a, b) => {}
            _ => return false,
        }
        for n in 0..10 {
            if live & (1 << n) != 0 && !self.reg(&old.regs[n], &new.regs[n]) {
                return false;
            }
        }
        old.stack.iter().zip(&new.stack).all(|(a, b)| {
            let read = self.deps.is_marked(a.cell);
            if self.mode == Mode::Finished && !read {
                return true;
            }
            if let Some(x) = a.whole() {
                return match b.whole() {
                    Some(y) => self.reg(x, y),
                    // Bytes are a number too.
                    None => {
                        let depends = self.exact || self.mode == Mode::Running || self.deps.is_marked(x.dep);
                        let zeroes = b.bytes == [Byte::Zero; 8] && x.value.contains(0) && x.id == 0;
                        x.is_scalar() && (zeroes || (!depends && b.is_number()))
                    }
                };
            }
            self.bytes(a, b)
        })
    }

    fn callback(&mut self, a: &Callback, b: &Callback) -> bool {
        (a.at, a.map, a.refs, a.most) == (b.at, b.map, b.refs, b.most)
            && a.rounds <= b.rounds
            && self.reg(&a.ctx, &b.ctx)
    }

    fn bytes(&mut self, a: &Slot, b: &Slot) -> bool {
        for i in 0..8 {
            let number = |byte| b.owner(byte).is_some_and(Reg::is_scalar);
            let fits = match (a.bytes[i], b.bytes[i]) {
                (Byte::Poison, _) => true,
                (_, Byte::Poison) => false,
                // Reading what nobody wrote is reading some number: its frame is zeroed then.
                (Byte::Unwritten, Byte::Unwritten | Byte::Misc | Byte::Zero) => true,
                (Byte::Misc, Byte::Misc | Byte::Zero) => true,
                (Byte::Unwritten | Byte::Misc, byte @ (Byte::Spill | Byte::Upper)) => number(byte),
                (Byte::Zero, Byte::Zero) => true,
                (Byte::Zero, byte @ (Byte::Spill | Byte::Upper)) => {
                    b.owner(byte).and_then(Reg::known) == Some(0)
                }
                (Byte::Spill, Byte::Spill) | (Byte::Upper, Byte::Upper) => true,
                // A number that nothing depends on may be any other.
                (byte @ (Byte::Spill | Byte::Upper), _) if !self.depends(a, byte) => b.is_number(),
                _ => false,
            };
            if !fits {
                return false;
            }
        }
        let mut same = |byte: Byte| {
            if !a.bytes.contains(&byte) || !self.depends(a, byte) {
                return true;
            }
            match (a.owner(byte), b.owner(byte)) {
                (Some(x), Some(y)) => {
                    (0..8).all(|i| (a.bytes[i] == byte) == (b.bytes[i] == byte)) && self.reg(x, y)
                }
                _ => false,
            }
        };
        same(Byte::Spill) && same(Byte::Upper)
    }

    /// Whether anything depends on the register that bytes of a slot belong to.
    fn depends(&self, slot: &Slot, byte: Byte) -> bool {
        self.exact
            || self.mode == Mode::Running
            || slot
                .owner(byte)
                .is_none_or(|r| !r.is_scalar() || self.deps.is_marked(r.dep))
    }

    fn reg(&mut self, old: &Reg, new: &Reg) -> bool {
        if old.kind == Kind::Uninit {
            return true;
        }
        if std::mem::discriminant(&old.kind) != std::mem::discriminant(&new.kind)
            || old.or_null != new.or_null
        {
            return false;
        }
        match old.kind {
            Kind::Scalar => {
                let depends = self.exact || self.mode == Mode::Running || self.deps.is_marked(old.dep);
                if !depends {
                    return true;
                }
                if !old.value.covers(&new.value) {
                    return false;
                }
                if old.id == 0 {
                    return true;
                }
                if new.id != 0 {
                    // Linked numbers keep their distances.
                    return old.off == new.off && self.same_id(old.id, new.id);
                }
                self.temporary -= 1;
                self.same_id(old.id, self.temporary)
            }
            Kind::Packet | Kind::Meta => {
                old.off == new.off
                    && old.range <= new.range
                    && old.value.covers(&new.value)
                    && self.same_id(old.id, new.id)
            }
            Kind::PacketEnd | Kind::PacketBits | Kind::Stale => true,
            _ => {
                old.kind == new.kind
                    && old.off == new.off
                    && old.value.covers(&new.value)
                    && self.same_id(old.id, new.id)
                    && self.same_owner(old.owner, new.owner)
            }
        }
    }

    /// Whether these ids can mean the same in both states.
    fn same_id(&mut self, old: u32, new: u32) -> bool {
        if old == 0 || new == 0 {
            return old == new;
        }
        match self.ids.iter().find(|(a, _)| *a == old) {
            Some((_, b)) => *b == new,
            None => {
                self.ids.push((old, new));
                true
            }
        }
    }

    fn same_owner(&self, old: u32, new: u32) -> bool {
        old == new || self.refs.contains(&(old, new))
    }
}

/// After `old` was found to cover `new`: what the proof from `old` depended on, `new` depends on too.
pub(super) fn inherit(deps: &mut Deps, old: &State, new: &State) {
    for (a, b) in old.frames.iter().zip(&new.frames) {
        for (x, y) in a.regs.iter().zip(&b.regs) {
            if deps.is_marked(x.dep) {
                deps.mark(y.dep);
            }
        }
        for (x, y) in a.stack.iter().zip(&b.stack) {
            let read = deps.is_marked(x.cell);
            if !read {
                continue;
            }
            deps.mark(y.cell);
            for (old, new) in [(&x.spill, &y.spill), (&x.upper, &y.upper)] {
                let depends = old.as_ref().is_none_or(|s| deps.is_marked(s.dep)) || x.bytes != y.bytes;
                if let (Some(new), true) = (new, depends) {
                    deps.mark(new.dep);
                }
            }
        }
    }
}

/// Everything that `state` holds may matter.
pub(super) fn depend_on_all(deps: &mut Deps, state: &State) {
    for frame in &state.frames {
        frame.regs.iter().for_each(|r| deps.mark(r.dep));
        for slot in &frame.stack {
            deps.mark(slot.cell);
            for spill in [&slot.spill, &slot.upper].into_iter().flatten() {
                deps.mark(spill.dep);
            }
        }
    }
}
