//! What was found out about a program before it is compiled, by data flow or by the verifier.

use std::collections::BTreeMap;

use super::calls::LOOKUP;
use super::kind::Kind;
use crate::insn;
use crate::program::Body;
use crate::verifier::{CallFact, CtxField, Fact, Memory, Verified};

/// Where an access goes that needs no check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The field at this offset of `struct xdp_md`.
    Ctx(i32),
    Stack,
    /// A value, a key or a record of a map.
    Value,
    Packet,
    /// One of those, depending on the path.
    Mixed,
}

/// What was found out about a program.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub places: BTreeMap<u32, Place>,
    pub calls: BTreeMap<u32, [Kind; 5]>,
    /// Offset from r10 of accesses and of lookups' keys that are at a known place of the function's own frame.
    pub frame: BTreeMap<u32, i32>,
    keys: BTreeMap<u32, (Option<Place>, Option<u32>)>,
    branches: BTreeMap<u32, (bool, bool)>,
    zeroed: Vec<u16>,
}

impl Facts {
    /// Takes in what the verifier proved: no access that it saw needs a check, here or at run time.
    pub fn prove(&mut self, verified: &Verified, body: &Body) {
        for (at, fact) in verified.facts.iter().enumerate() {
            let found = match fact {
                Fact::Ctx(field) if body.insns.get(at).is_some_and(|i| i.code == 0x61) => {
                    Place::Ctx(match field {
                        CtxField::Data => 0,
                        CtxField::DataEnd => 4,
                        CtxField::DataMeta => 8,
                        CtxField::IngressIfindex => 12,
                        CtxField::RxQueue => 16,
                        CtxField::EgressIfindex => 20,
                    })
                }
                Fact::Access(access) => place(access.memory),
                Fact::Call(CallFact {
                    map: Some(map),
                    key_end,
                    key_in,
                    ..
                }) => {
                    let lookup = body
                        .insns
                        .get(at)
                        .is_some_and(|i| i.src == insn::CALL_HELPER && i.imm == LOOKUP);
                    let known = self.calls.get_mut(&(at as u32));
                    if let (true, Some(args)) = (lookup, known) {
                        args[0] = Kind::Map(*map);
                        self.keys.insert(at as u32, (key_in.map(place), *key_end));
                    }
                    continue;
                }
                Fact::Branch { taken, falls } => {
                    self.branches.insert(at as u32, (*taken, *falls));
                    continue;
                }
                _ => continue,
            };
            self.places.insert(at as u32, found);
        }
        self.zeroed = verified
            .functions
            .iter()
            .map(|f| if f.zero { f.stack } else { 0 })
            .collect();
    }

    /// Bytes below r10 that a function must find zeroed.
    pub fn zeroed(&self, function: usize) -> u16 {
        self.zeroed.get(function).copied().unwrap_or(0)
    }

    /// Whether every access goes to memory of one kind.
    pub fn told_apart(&self) -> bool {
        self.places.values().all(|place| *place != Place::Mixed)
    }

    /// Where the access at an instruction goes, if it is certain to stay within bounds.
    pub fn proven(&self, at: usize) -> Option<Place> {
        self.places.get(&(at as u32)).copied()
    }

    /// Where in the function's own frame an access or a lookup's key lies, counted from r10, if that is known.
    pub fn frame_offset(&self, at: usize) -> Option<i32> {
        self.frame.get(&(at as u32)).copied()
    }

    /// Whether the conditional jump at an instruction can jump, and whether it can go on with the next.
    pub fn branch(&self, at: usize) -> (bool, bool) {
        self.branches.get(&(at as u32)).copied().unwrap_or((true, true))
    }

    /// Where the key of the lookup at an instruction lies.
    pub fn key_place(&self, at: usize) -> Option<Place> {
        self.keys.get(&(at as u32))?.0
    }

    /// What the key of the lookup in an array at an instruction is always below.
    pub fn key_below(&self, at: usize) -> Option<u32> {
        self.keys.get(&(at as u32))?.1
    }

    /// What r1 to r5 hold at a helper call.
    pub fn args(&self, at: usize) -> [Kind; 5] {
        self.calls
            .get(&(at as u32))
            .copied()
            .unwrap_or([Kind::Unknown; 5])
    }
}

fn place(memory: Memory) -> Place {
    match memory {
        Memory::Stack => Place::Stack,
        Memory::Packet | Memory::Meta => Place::Packet,
        Memory::MapValue | Memory::MapKey | Memory::Record => Place::Value,
        Memory::Mixed => Place::Mixed,
    }
}
