//! The verifier: proves that a program can do no harm before it runs on packets, or says why it cannot.
//!
//! It walks over every path ([`explore`]) with a description of what each register and stack slot can hold ([`state`],
//! numbers as [`scalar`] with [`tnum`]), and follows each instruction's effect on it: arithmetic ([`arith`]), memory
//! ([`memory`], [`stack`]), comparisons ([`branch`], [`compare`]), functions ([`frames`]), helpers ([`calls`] by the contracts in [`proto`]). A path ends
//! early where a state seen before covers it ([`keep`], [`prune`]); for that it knows which registers can still be read ([`live`])
//! and which values the proof depended on ([`deps`]).
//!
//! What it accepts reads and writes nothing but its stack frames, the context's fields, the packet within its proven
//! bounds, map values and ring-buffer records it holds; it ends; it gives back what it takes; no address gets into a
//! packet, a map or a result. It leaves [`Verified`] for the engines. What it refuses is told by a [`Refusal`]: the
//! instruction, the source line, what the registers held and what would satisfy it.

mod arith;
#[cfg(test)]
mod arith_tests;
mod branch;
mod calls;
mod compare;
mod deps;
mod explore;
mod facts;
mod frames;
mod keep;
mod live;
mod memory;
mod problem;
mod proto;
mod prune;
mod scalar;
mod skb;
#[cfg(test)]
mod soundness;
mod stack;
mod state;
mod tnum;
#[allow(dead_code, reason = "only tests look at what was traced")]
mod trace;
mod words;

use std::sync::Arc;

pub use facts::{Access, CallFact, CtxField, Fact, FunctionFacts, Memory, Verified, VerifyStats};
pub use problem::{Refusal, Step};

use crate::maps::{BPF_F_RDONLY_PROG, MapDef};
use crate::program::{Body, Collection};
use crate::{Map, MapType};
use explore::{MapInfo, Verifier};

/// How much a verification may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Instructions walked over.
    pub instructions: u64,
    /// States kept at a time.
    pub states: u64,
    /// Branches that wait to be followed.
    pub pending: usize,
    /// Compare numbers even where nothing depends on them; for tests.
    pub exact: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            instructions: 1_000_000,
            states: 30_000,
            pending: 8192,
            exact: false,
        }
    }
}

/// Verifies a linked program that passed [`crate::check`].
pub(crate) fn verify(body: &Body, collection: &Collection) -> Result<Verified, Box<Refusal>> {
    verify_with(body, collection, Limits::default(), None)
}

pub(crate) fn verify_with(
    body: &Body,
    collection: &Collection,
    limits: Limits,
    trace: Option<&mut trace::Trace>,
) -> Result<Verified, Box<Refusal>> {
    let maps = collection
        .maps
        .iter()
        .zip(collection.locks.iter().chain(std::iter::repeat(&None)));
    let maps = maps.map(|(map, lock)| describe(map, *lock)).collect();
    Verifier::new(body, maps, limits, trace).verify()
}

fn describe(map: &Arc<Map>, lock: Option<u32>) -> MapInfo {
    MapInfo {
        lock,
        constant: map.constant(),
        inner: map.inner_shape().map(|def| Box::new(of_def(def))),
        ..of_def(map.def())
    }
}

fn of_def(def: &MapDef) -> MapInfo {
    MapInfo {
        name: def.name.clone(),
        kind: def.kind,
        key_size: def.key_size,
        // A lookup in an XSKMAP gives a `struct bpf_xdp_sock`, of which `queue_id` can be read.
        value_size: match def.kind {
            MapType::Xskmap => 4,
            _ => def.value_size,
        },
        max_entries: def.max_entries,
        readonly: def.flags & BPF_F_RDONLY_PROG != 0
            || matches!(def.kind, MapType::Xskmap | MapType::Devmap | MapType::DevmapHash),
        lock: None,
        constant: None,
        inner: None,
    }
}
