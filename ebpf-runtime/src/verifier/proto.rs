//! What each helper and kfunc takes and gives back (bpf-helpers(7), `struct bpf_func_proto` in the kernel).

use crate::insn::{self, Insn};
use crate::kfunc::Kfunc;
use crate::maps::MapType;

/// One argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arg {
    /// Any number.
    Number,
    /// Anything, even if it is not initialised.
    Any,
    Ctx,
    /// One of these maps.
    Map(&'static [MapType]),
    /// Memory of the map's key size, read.
    Key,
    /// Memory of the map's value size, read.
    Value,
    /// Memory that is read; the next argument is its size.
    Read,
    /// Likewise, or null with size 0.
    ReadOrNull,
    /// Memory that may be written; the next argument is its size.
    Write,
    /// Memory that is read and written; the next argument is its size.
    ReadWrite,
    /// Likewise, of this size.
    ReadWriteFixed(u32),
    /// Memory of this size that may be written.
    WriteFixed(u32),
    /// Size of the memory before it, at least 1.
    Size,
    /// Size of the memory before it, or 0.
    SizeOrZero,
    /// Bytes to reserve, a constant.
    Reserve,
    /// A spin lock in a map value.
    Lock,
    /// A function of the program with this many parameters.
    Callback(u8),
    /// A pointer to the stack for the callback, or null.
    CallbackCtx,
    /// A reserved record, which is gone afterwards.
    Record,
    /// A zero-terminated string in read-only data.
    Text,
}

/// What r0 is afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    Number,
    /// A value of the map, or an inner map; or null.
    Value,
    /// A record of the size asked for, or null.
    Record,
    /// `bpf_loop` or `bpf_for_each_map_elem`.
    Loop,
    /// `bpf_tail_call`.
    TailCall,
    /// Takes or gives back a lock.
    Lock,
    Unlock,
}

/// A helper's contract.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proto {
    pub name: &'static str,
    pub args: &'static [Arg],
    pub gives: Gives,
    /// Whether it moves the packet's edges, so that packet pointers mean nothing any more.
    pub moves_packet: bool,
}

use MapType as M;

const LOOKUP: &[M] = &[
    M::Hash,
    M::Array,
    M::PercpuHash,
    M::PercpuArray,
    M::LruHash,
    M::LruPercpuHash,
    M::LpmTrie,
    M::ArrayOfMaps,
    M::HashOfMaps,
    M::Devmap,
    M::DevmapHash,
    M::Xskmap,
];
const UPDATE: &[M] = &[
    M::Hash,
    M::Array,
    M::PercpuHash,
    M::PercpuArray,
    M::LruHash,
    M::LruPercpuHash,
    M::LpmTrie,
];
const WALK: &[M] = &[
    M::Hash,
    M::Array,
    M::PercpuHash,
    M::PercpuArray,
    M::LruHash,
    M::LruPercpuHash,
];
const PERCPU: &[M] = &[M::PercpuHash, M::PercpuArray, M::LruPercpuHash];
const REDIRECT: &[M] = &[M::Devmap, M::DevmapHash, M::Cpumap, M::Xskmap];

/// The contract of a helper by its number; those that are not here are not available at all.
pub(super) fn helper(id: i32) -> Option<Proto> {
    use Arg::*;
    let (name, args, gives): (_, &'static [Arg], _) = match id {
        1 => ("bpf_map_lookup_elem", &[Map(LOOKUP), Key], Gives::Value),
        2 => (
            "bpf_map_update_elem",
            &[Map(UPDATE), Key, Value, Number],
            Gives::Number,
        ),
        3 => ("bpf_map_delete_elem", &[Map(UPDATE), Key], Gives::Number),
        5 => ("bpf_ktime_get_ns", &[], Gives::Number),
        6 => ("bpf_trace_printk", &[Read, Size, Any, Any, Any], Gives::Number),
        7 => ("bpf_get_prandom_u32", &[], Gives::Number),
        8 => ("bpf_get_smp_processor_id", &[], Gives::Number),
        12 => (
            "bpf_tail_call",
            &[Ctx, Map(&[M::ProgArray]), Number],
            Gives::TailCall,
        ),
        23 => ("bpf_redirect", &[Number, Number], Gives::Number),
        25 => (
            "bpf_perf_event_output",
            &[Ctx, Map(&[M::PerfEventArray]), Number, Read, SizeOrZero],
            Gives::Number,
        ),
        26 => ("bpf_skb_load_bytes", &[Ctx, Number, Write, Size], Gives::Number),
        28 => (
            "bpf_csum_diff",
            &[ReadOrNull, SizeOrZero, ReadOrNull, SizeOrZero, Number],
            Gives::Number,
        ),
        34 => ("bpf_get_hash_recalc", &[Ctx], Gives::Number),
        44 => ("bpf_xdp_adjust_head", &[Ctx, Number], Gives::Number),
        51 => (
            "bpf_redirect_map",
            &[Map(REDIRECT), Number, Number],
            Gives::Number,
        ),
        54 => ("bpf_xdp_adjust_meta", &[Ctx, Number], Gives::Number),
        65 => ("bpf_xdp_adjust_tail", &[Ctx, Number], Gives::Number),
        69 => ("bpf_fib_lookup", &[Ctx, ReadWrite, Size, Number], Gives::Number),
        93 => ("bpf_spin_lock", &[Lock], Gives::Lock),
        94 => ("bpf_spin_unlock", &[Lock], Gives::Unlock),
        118 => ("bpf_jiffies64", &[], Gives::Number),
        125 => ("bpf_ktime_get_boot_ns", &[], Gives::Number),
        130 => (
            "bpf_ringbuf_output",
            &[Map(&[M::Ringbuf]), Read, SizeOrZero, Number],
            Gives::Number,
        ),
        131 => (
            "bpf_ringbuf_reserve",
            &[Map(&[M::Ringbuf]), Reserve, Number],
            Gives::Record,
        ),
        132 => ("bpf_ringbuf_submit", &[Record, Number], Gives::Number),
        133 => ("bpf_ringbuf_discard", &[Record, Number], Gives::Number),
        134 => ("bpf_ringbuf_query", &[Map(&[M::Ringbuf]), Number], Gives::Number),
        160 => ("bpf_ktime_get_coarse_ns", &[], Gives::Number),
        163 => (
            "bpf_check_mtu",
            &[Ctx, Number, ReadWriteFixed(4), Number, Number],
            Gives::Number,
        ),
        164 => (
            "bpf_for_each_map_elem",
            &[Map(WALK), Callback(4), CallbackCtx, Number],
            Gives::Loop,
        ),
        177 => (
            "bpf_trace_vprintk",
            &[Read, Size, ReadOrNull, SizeOrZero],
            Gives::Number,
        ),
        181 => (
            "bpf_loop",
            &[Number, Callback(2), CallbackCtx, Number],
            Gives::Loop,
        ),
        182 => ("bpf_strncmp", &[Read, Size, Text], Gives::Number),
        188 => ("bpf_xdp_get_buff_len", &[Ctx], Gives::Number),
        189 => ("bpf_xdp_load_bytes", &[Ctx, Number, Write, Size], Gives::Number),
        190 => ("bpf_xdp_store_bytes", &[Ctx, Number, Read, Size], Gives::Number),
        195 => (
            "bpf_map_lookup_percpu_elem",
            &[Map(PERCPU), Key, Number],
            Gives::Value,
        ),
        208 => ("bpf_ktime_get_tai_ns", &[], Gives::Number),
        _ => return None,
    };
    Some(Proto {
        name,
        args,
        gives,
        moves_packet: matches!(id, 12 | 44 | 54 | 65),
    })
}

/// The contract of a kernel function.
pub(super) fn kfunc(kfunc: Kfunc) -> Option<Proto> {
    use Arg::*;
    let args: &'static [Arg] = match kfunc {
        Kfunc::Missing => return None,
        Kfunc::RxHash => &[Ctx, WriteFixed(4), WriteFixed(4)],
        Kfunc::RxTimestamp => &[Ctx, WriteFixed(8)],
        Kfunc::RxVlanTag => &[Ctx, WriteFixed(2), WriteFixed(2)],
        Kfunc::RxPtype | Kfunc::RxMark | Kfunc::RxCsum | Kfunc::RxHeaderLen | Kfunc::RxExtracted => {
            &[Ctx, WriteFixed(4)]
        }
        Kfunc::HashToeplitz => &[Read, Size, Read, Size],
        Kfunc::HashCrc => &[Read, Size, Number],
        Kfunc::HashXor => &[Read, Size],
    };
    Some(Proto {
        name: kfunc.name(),
        args,
        gives: Gives::Number,
        moves_packet: false,
    })
}

/// How many argument registers a call may read.
pub(super) fn arguments(insn: Insn) -> u32 {
    let proto = match insn.src {
        insn::CALL_HELPER => helper(insn.imm),
        insn::CALL_KFUNC => kfunc(Kfunc::by_id(insn.imm.into())),
        _ => None,
    };
    proto.map_or(5, |p| p.args.len() as u32)
}
