//! What verification proved, for the engines: they leave out the checks that these facts make superfluous.

use std::time::Duration;

/// The result of verifying a program that was accepted.
#[derive(Debug, Clone)]
pub struct Verified {
    /// One for each slot of the linked program.
    pub facts: Vec<Fact>,
    /// One for each function of the linked program, in its order.
    pub functions: Vec<FunctionFacts>,
    /// What it cost.
    pub stats: VerifyStats,
}

/// What holds for an instruction on every path that reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fact {
    /// No path reaches it.
    #[default]
    Unreached,
    /// Nothing to say: arithmetic, moves, unconditional jumps, exit. A load or store of which nothing is said is one whose
    /// kind of memory differs between paths, or is a steering program's context; engines find out which.
    Plain,
    /// A conditional jump.
    Branch {
        /// Whether it can jump.
        taken: bool,
        /// Whether it can go on with the next instruction.
        falls: bool,
    },
    /// A load, store or atomic operation. It lies within live memory of the kind named, may be written if it writes, and
    /// is naturally aligned if it is atomic.
    Access(Access),
    /// A load from the context.
    Ctx(CtxField),
    /// A helper or kfunc whose arguments are what it takes.
    Call(CallFact),
    /// A call of a function of the program, which has a frame left.
    Local,
}

/// A proven memory access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Whose memory.
    pub memory: Memory,
    /// The map, by index in the program's maps, when it always is the same.
    pub map: Option<u32>,
}

/// Kinds of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// A stack frame, its own or a caller's.
    Stack,
    /// The frame from `data` to `data_end`.
    Packet,
    /// The metadata from `data_meta` to `data`.
    Meta,
    /// A value of a map, global data included.
    MapValue,
    /// A key that `bpf_for_each_map_elem` shows its callback.
    MapKey,
    /// A reserved ring-buffer record.
    Record,
    /// Several kinds, depending on the path.
    Mixed,
}

/// Fields of `struct xdp_md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtxField {
    /// `data`.
    Data,
    /// `data_end`.
    DataEnd,
    /// `data_meta`.
    DataMeta,
    /// `ingress_ifindex`.
    IngressIfindex,
    /// `rx_queue_index`.
    RxQueue,
    /// `egress_ifindex`.
    EgressIfindex,
}

impl CtxField {
    /// The field at an offset of `struct xdp_md`.
    pub fn at(offset: i64) -> Option<CtxField> {
        Some(match offset {
            0 => CtxField::Data,
            4 => CtxField::DataEnd,
            8 => CtxField::DataMeta,
            12 => CtxField::IngressIfindex,
            16 => CtxField::RxQueue,
            20 => CtxField::EgressIfindex,
            _ => return None,
        })
    }
}

/// A checked helper call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallFact {
    /// The map it is given, by index in the program's maps, when it always is the same.
    pub map: Option<u32>,
    /// What the key of a lookup in an array is always below, when that is no more than the array has entries.
    pub key_end: Option<u32>,
    /// Where the key lies, when that always is memory of one kind.
    pub key_in: Option<Memory>,
    /// Where the callback it is given begins, when it always is the same.
    pub callback: Option<usize>,
}

/// What holds for a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FunctionFacts {
    /// Bytes of its frame that are accessed, a multiple of 8.
    pub stack: u16,
    /// Whether its frame must be zeroed on entry: it reads stack that it has not written, which the kernel allows to
    /// privileged programs, and what others left there must not show.
    pub zero: bool,
}

/// What a verification cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyStats {
    /// Instructions walked over, each as often as a path led there.
    pub processed: u64,
    /// States kept to compare others with.
    pub states: u64,
    /// Paths that ended because a kept state covered them.
    pub pruned: u64,
    /// Wall-clock time.
    pub time: Duration,
}

impl Fact {
    /// Takes in what another path found.
    pub(super) fn join(&mut self, other: Fact) {
        *self = match (*self, other) {
            (Fact::Unreached, fact) => fact,
            (Fact::Branch { taken, falls }, Fact::Branch { taken: t, falls: f }) => Fact::Branch {
                taken: taken || t,
                falls: falls || f,
            },
            (Fact::Access(a), Fact::Access(b)) => Fact::Access(Access {
                memory: if a.memory == b.memory {
                    a.memory
                } else {
                    Memory::Mixed
                },
                map: a.map.filter(|_| a.map == b.map),
            }),
            (Fact::Call(a), Fact::Call(b)) => Fact::Call(CallFact {
                map: a.map.filter(|_| a.map == b.map),
                key_end: a.key_end.zip(b.key_end).map(|(a, b)| a.max(b)),
                key_in: a.key_in.filter(|_| a.key_in == b.key_in),
                callback: a.callback.filter(|_| a.callback == b.callback),
            }),
            (a, b) if a == b => a,
            // One instruction on pointers of different kinds: nothing holds on every path, so engines check it.
            _ => Fact::Plain,
        };
    }
}
