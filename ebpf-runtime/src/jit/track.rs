//! What each register holds, as far as plain data flow tells: the context, a map, a place in the stack, in a map's value
//! or in the frame.
//!
//! This is no verifier: it refuses nothing and knows only constant offsets. It finds the accesses that need no check at
//! run time ([`Facts::proven`]) and the calls whose arguments are known; everything else is compiled with a check, unless
//! the verifier has proven it ([`Facts::prove`]). It must hold for programs that nobody verified, so whatever it does not
//! understand makes what it touches [`Kind::Unknown`], and a store through an unknown pointer forgets the whole stack.

use std::collections::BTreeMap;

use super::facts::{Facts, Place};
use super::kind::{Kind, SLOTS, State, join};
use crate::Hook;
use crate::insn::{self, Insn, atomic};
use crate::maps::MapType;
use crate::mem::space::FRAME;
use crate::program::{Body, Collection};

/// Offsets from `data` beyond this are not followed.
const REACH: i32 = 0xffff;

/// Follows every path of a program.
pub(super) fn track(body: &Body, collection: &Collection) -> Facts {
    let mut entries: Vec<Option<[Kind; 5]>> = vec![None; body.functions.len()];
    let mut main = [Kind::Unknown; 5];
    if body.hook == Hook::Xdp {
        main[0] = Kind::Ctx;
    }
    entries[0] = Some(main);
    let callbacks = body
        .insns
        .iter()
        .filter(|i| i.is_wide() && i.src == insn::IMM_FUNC)
        .filter_map(|i| body.functions.iter().position(|f| f.0 as i64 == i64::from(i.imm)));
    for function in callbacks {
        entries[function] = Some([Kind::Unknown; 5]);
    }
    let mut tracker = Tracker {
        body,
        collection,
        entries,
        facts: Facts::default(),
    };
    // What callers pass may turn out to be less than was thought at first; then the callee is followed again.
    let mut work: Vec<usize> = (0..body.functions.len())
        .filter(|f| tracker.entries[*f].is_some())
        .collect();
    while let Some(function) = work.pop() {
        tracker.function(function, &mut work);
    }
    tracker.facts
}

struct Tracker<'a> {
    body: &'a Body,
    collection: &'a Collection,
    /// What r1 to r5 hold on entry to each function that somebody calls.
    entries: Vec<Option<[Kind; 5]>>,
    facts: Facts,
}

impl Tracker<'_> {
    fn function(&mut self, function: usize, work: &mut Vec<usize>) {
        let (start, end) = self.body.functions[function];
        let Some(args) = self.entries[function] else {
            return;
        };
        self.facts
            .places
            .retain(|at, _| !(start..end).contains(&(*at as usize)));
        self.facts
            .calls
            .retain(|at, _| !(start..end).contains(&(*at as usize)));
        self.facts
            .frame
            .retain(|at, _| !(start..end).contains(&(*at as usize)));
        let mut heads = vec![false; end - start];
        for at in start..end {
            if let Some(target) = jump_target(self.body.insns[at], at)
                && (start..end).contains(&target)
            {
                heads[target - start] = true;
            }
        }
        let mut known: BTreeMap<usize, State> = BTreeMap::new();
        known.insert(start, State::entry(args));
        let mut todo = vec![start];
        while let Some(head) = todo.pop() {
            let Some(mut state) = known.get(&head).cloned() else {
                continue;
            };
            let mut at = head;
            while at < end {
                let insn = self.body.insns[at];
                if at != head && heads[at - start] {
                    reach(&mut known, &mut todo, at, &state);
                    break;
                }
                let flows = self.step(&mut state, at, insn, work);
                if let Some((target, taken)) = flows.jump
                    && (start..end).contains(&target)
                {
                    reach(&mut known, &mut todo, target, &taken);
                }
                if !flows.falls_through {
                    break;
                }
                at += if insn.is_wide() { 2 } else { 1 };
            }
        }
        // Only now that nothing changes any more does each state hold on all paths.
        let heads: Vec<usize> = known.keys().copied().collect();
        for head in heads {
            let Some(mut state) = known.get(&head).cloned() else {
                continue;
            };
            let mut at = head;
            while at < end && (at == head || !known.contains_key(&at)) {
                let insn = self.body.insns[at];
                self.note(&state, at, insn);
                if !self.step(&mut state, at, insn, work).falls_through {
                    break;
                }
                at += if insn.is_wide() { 2 } else { 1 };
            }
        }
    }

    /// Records what is certain at an instruction.
    fn note(&mut self, state: &State, at: usize, insn: Insn) {
        if insn.code == insn::CALL && matches!(insn.src, insn::CALL_HELPER | insn::CALL_KFUNC) {
            let mut args = [Kind::Unknown; 5];
            args.copy_from_slice(&state.regs[1..6]);
            self.facts.calls.insert(at as u32, args);
            if let Kind::Stack(off) = args[1] {
                self.facts.frame.insert(at as u32, off);
            }
            return;
        }
        let Some(access) = Access::of(insn) else {
            return;
        };
        let pointer = state.regs[usize::from(access.base)];
        let off = i32::from(insn.off);
        if pointer == Kind::Ctx && insn.code == 0x61 && matches!(off, 0 | 4 | 8 | 12 | 16 | 20) {
            self.facts.places.insert(at as u32, Place::Ctx(off));
        } else if let Some(place) = self.reaches(pointer, off, access.len, access.writes)
            && (!access.atomic || self.is_aligned(pointer, off, access.len))
        {
            self.facts.places.insert(at as u32, place);
            if let Kind::Stack(base) = pointer {
                self.facts.frame.insert(at as u32, base + off);
            }
        }
    }

    /// Whether `len` bytes at `pointer + off` are certainly there.
    fn reaches(&self, pointer: Kind, off: i32, len: i32, writes: bool) -> Option<Place> {
        reaches(self.collection, pointer, off, len, writes)
    }

    fn is_aligned(&self, pointer: Kind, off: i32, len: i32) -> bool {
        match pointer {
            // Both begin at multiples of 8.
            Kind::Stack(base) | Kind::Value { off: base, .. } => (base + off) % len == 0,
            _ => false,
        }
    }

    /// The effect of one instruction.
    fn step(&mut self, state: &mut State, at: usize, insn: Insn, work: &mut Vec<usize>) -> Flows {
        let (d, s) = (usize::from(insn.dst), usize::from(insn.src));
        let mut flows = Flows {
            jump: None,
            falls_through: true,
        };
        match insn.class() {
            insn::ALU64 => {
                let before = state.regs[d];
                state.regs[d] = match insn.code {
                    0xbf if insn.off == 0 => state.regs[s],
                    0x07 => moved(before, i64::from(insn.imm)),
                    0x17 => moved(before, -i64::from(insn.imm)),
                    _ => Kind::Unknown,
                };
            }
            insn::ALU => state.regs[d] = Kind::Unknown,
            insn::LD => state.regs[d] = self.constant(insn, at),
            insn::LDX => state.regs[d] = loaded(state, insn),
            insn::ST | insn::STX => {
                if let Some(access) = Access::of(insn) {
                    let plain = insn.code == 0x7b;
                    let value = if plain { state.regs[s] } else { Kind::Unknown };
                    if access.writes {
                        let mut to = state.regs[usize::from(access.base)];
                        let off = i32::from(insn.off);
                        // One that is out of bounds may hit anything when it is checked at run time.
                        if !matches!(to, Kind::Stack(_)) && self.reaches(to, off, access.len, false).is_none()
                        {
                            to = Kind::Unknown;
                        }
                        state.stored(to, off, access.len, value);
                    }
                    if access.atomic {
                        match insn.imm {
                            atomic::CMPXCHG => state.regs[0] = Kind::Unknown,
                            atomic::LOAD_ACQUIRE => state.regs[d] = Kind::Unknown,
                            op if op & atomic::FETCH != 0 => state.regs[s] = Kind::Unknown,
                            _ => {}
                        }
                    }
                }
            }
            _ => match insn.code {
                insn::EXIT => flows.falls_through = false,
                insn::CALL => self.call(state, insn, at, work),
                insn::JA | insn::JA32 => {
                    flows.falls_through = false;
                    flows.jump = jump_target(insn, at).map(|t| (t, state.clone()));
                }
                _ => {
                    let mut taken = state.clone();
                    branch(&mut taken, insn, true);
                    branch(state, insn, false);
                    flows.jump = jump_target(insn, at).map(|t| (t, taken));
                }
            },
        }
        flows
    }

    fn constant(&self, insn: Insn, at: usize) -> Kind {
        let index = insn.imm as u32;
        let map = || self.collection.maps.get(index as usize);
        match insn.src {
            insn::IMM_MAP if map().is_some() => Kind::Map(index),
            insn::IMM_MAP_VALUE if map().is_some_and(|m| m.base_addr().is_some()) => Kind::Value {
                map: index,
                off: self.body.insns.get(at + 1).map_or(0, |second| second.imm),
            },
            _ => Kind::Unknown,
        }
    }

    fn call(&mut self, state: &mut State, insn: Insn, at: usize, work: &mut Vec<usize>) {
        let mut args = [Kind::Unknown; 5];
        args.copy_from_slice(&state.regs[1..6]);
        let local = insn.src == insn::CALL_LOCAL;
        if local {
            self.passes(at, insn, args, work);
        }
        let helper = (insn.src == insn::CALL_HELPER).then_some(insn.imm);
        let runs_code = local || matches!(helper, Some(LOOP | FOR_EACH));
        if runs_code || matches!(helper, Some(ADJUST_HEAD | ADJUST_META | ADJUST_TAIL)) {
            state.forget_frame();
        }
        if runs_code || helper.is_none_or(writes_memory) {
            state.slots = [Kind::Unknown; SLOTS];
        }
        // An older result of the same lookup is another pointer than the one that is tested next.
        let here = at as u32;
        state
            .all()
            .filter(|k| matches!(k, Kind::MaybeValue { at, .. } if *at == here))
            .for_each(|k| *k = Kind::Unknown);
        state.regs[..6].fill(Kind::Unknown);
        if let (Some(LOOKUP | LOOKUP_PERCPU), Kind::Map(map)) = (helper, args[0])
            && self.has_values(map)
        {
            state.regs[0] = Kind::MaybeValue { map, at: here };
        }
    }

    fn has_values(&self, map: u32) -> bool {
        use MapType as T;
        let kind = self.collection.maps.get(map as usize).map(|m| m.kind());
        matches!(
            kind,
            Some(
                T::Array
                    | T::PercpuArray
                    | T::Hash
                    | T::PercpuHash
                    | T::LruHash
                    | T::LruPercpuHash
                    | T::LpmTrie
            )
        )
    }

    /// What a callee's arguments hold is what all its callers pass.
    fn passes(&mut self, at: usize, insn: Insn, args: [Kind; 5], work: &mut Vec<usize>) {
        let target = at as i64 + 1 + i64::from(insn.imm);
        let Some(callee) = self.body.functions.iter().position(|f| f.0 as i64 == target) else {
            return;
        };
        let passed = args.map(|kind| match kind {
            // A place in the caller's stack is none in the callee's, and a result only means something next to its test.
            Kind::Stack(_) | Kind::MaybeValue { .. } => Kind::Unknown,
            other => other,
        });
        let entry = match self.entries[callee] {
            None => passed,
            Some(old) => std::array::from_fn(|i| join(old[i], passed[i])),
        };
        if self.entries[callee] != Some(entry) {
            self.entries[callee] = Some(entry);
            work.push(callee);
        }
    }
}

const LOOKUP: i32 = 1;
const ADJUST_HEAD: i32 = 44;
const ADJUST_META: i32 = 54;
const ADJUST_TAIL: i32 = 65;
const FOR_EACH: i32 = 164;
const LOOP: i32 = 181;
const LOOKUP_PERCPU: i32 = 195;

/// Whether a helper may write memory that its arguments point to.
pub(super) fn writes_memory(helper: i32) -> bool {
    !matches!(
        helper,
        1..=3 | 5..=8 | 12 | 23 | 25 | 28 | 44 | 51 | 54 | 65 | 118 | 125 | 130..=134 | 160 | 177 | 182 | 188 | 190 | 195 | 208
    )
}

/// Whether `len` bytes at `pointer + off` are certainly there, to be written if `writes`.
pub(super) fn reaches(
    collection: &Collection,
    pointer: Kind,
    off: i32,
    len: i32,
    writes: bool,
) -> Option<Place> {
    match pointer {
        Kind::Stack(base) => {
            let at = base.checked_add(off)?;
            (at >= -(FRAME as i32) && at.checked_add(len)? <= 0).then_some(Place::Stack)
        }
        Kind::Value { map, off: base } => {
            let map = collection.maps.get(map as usize)?;
            let at = base.checked_add(off)?;
            let end = at.checked_add(len)?;
            let inside = at >= 0 && i64::from(end) <= i64::from(map.def().value_size);
            (inside && (!writes || map.is_writable())).then_some(Place::Value)
        }
        Kind::Packet {
            off: base,
            len: known,
        } => {
            let at = base.checked_add(off)?;
            (at >= 0 && at.checked_add(len)? <= known).then_some(Place::Packet)
        }
        _ => None,
    }
}

struct Flows {
    jump: Option<(usize, State)>,
    falls_through: bool,
}

/// The memory access that an instruction makes.
pub(super) struct Access {
    /// Register with the address.
    pub base: u8,
    pub len: i32,
    pub writes: bool,
    pub atomic: bool,
}

impl Access {
    pub fn of(insn: Insn) -> Option<Access> {
        let atomic = matches!(insn.code, 0xc3 | 0xdb | 0xcb | 0xd3);
        let acquire = atomic && insn.imm == atomic::LOAD_ACQUIRE;
        let (base, writes) = match insn.class() {
            insn::LDX => (insn.src, false),
            insn::ST => (insn.dst, true),
            insn::STX if acquire => (insn.src, false),
            insn::STX => (insn.dst, true),
            _ => return None,
        };
        let len = match insn.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        };
        Some(Access {
            base,
            len,
            writes,
            atomic,
        })
    }
}

/// Where a jump goes; calls are no jumps.
pub(super) fn jump_target(insn: Insn, at: usize) -> Option<usize> {
    let off = match insn.code {
        insn::CALL | insn::EXIT => return None,
        insn::JA32 => i64::from(insn.imm),
        _ if matches!(insn.class(), insn::JMP | insn::JMP32) => i64::from(insn.off),
        _ => return None,
    };
    usize::try_from(at as i64 + 1 + off).ok()
}

fn reach(known: &mut BTreeMap<usize, State>, todo: &mut Vec<usize>, at: usize, state: &State) {
    match known.get_mut(&at) {
        None => {
            known.insert(at, state.clone());
            todo.push(at);
        }
        Some(old) => {
            if old.join(state) {
                todo.push(at);
            }
        }
    }
}

/// A pointer plus a constant.
fn moved(kind: Kind, by: i64) -> Kind {
    let add = |base: i32| {
        let sum = i64::from(base) + by;
        i32::try_from(sum).ok().filter(|s| s.abs() <= 1 << 29)
    };
    match kind {
        Kind::Stack(base) => add(base).map_or(Kind::Unknown, Kind::Stack),
        Kind::Value { map, off } => add(off).map_or(Kind::Unknown, |off| Kind::Value { map, off }),
        Kind::Packet { off, len } => match add(off) {
            Some(off) if off.abs() <= REACH => Kind::Packet { off, len },
            _ => Kind::Unknown,
        },
        _ if by == 0 => kind,
        _ => Kind::Unknown,
    }
}

fn loaded(state: &State, insn: Insn) -> Kind {
    let off = i32::from(insn.off);
    match (state.regs[usize::from(insn.src)], insn.code) {
        (Kind::Ctx, 0x61) if off == 0 => Kind::Packet { off: 0, len: 0 },
        (Kind::Ctx, 0x61) if off == 4 => Kind::End,
        (Kind::Stack(base), 0x79) => {
            let at = base.saturating_add(off).saturating_add(FRAME as i32);
            let slot = (at >= 0 && at % 8 == 0).then_some(at as usize / 8);
            slot.and_then(|s| state.slots.get(s).copied())
                .unwrap_or(Kind::Unknown)
        }
        _ => Kind::Unknown,
    }
}

/// What a conditional jump tells about its operands, on the edge where it is taken or not.
fn branch(state: &mut State, insn: Insn, taken: bool) {
    let op = insn.code & 0xf0;
    let by_register = insn.code & 0x08 != 0;
    if insn.class() != insn::JMP {
        return;
    }
    if !by_register {
        if insn.imm == 0 && matches!(op, 0x10 | 0x50) {
            state.null_tested(insn.dst, taken == (op == 0x10));
        }
        return;
    }
    // As `packet OP end`.
    let (left, right) = (
        state.regs[usize::from(insn.dst)],
        state.regs[usize::from(insn.src)],
    );
    let (off, op) = match (left, right) {
        (Kind::Packet { off, .. }, Kind::End) => (off, op),
        (Kind::End, Kind::Packet { off, .. }) => match op {
            0x20 => (off, 0xa0),
            0x30 => (off, 0xb0),
            0xa0 => (off, 0x20),
            0xb0 => (off, 0x30),
            _ => return,
        },
        _ => return,
    };
    match (op, taken) {
        // Not above, not above or equal, below, below or equal.
        (0x20, false) | (0xb0, true) => state.frame_has(off),
        (0x30, false) | (0xa0, true) => state.frame_has(off + 1),
        _ => {}
    }
}
