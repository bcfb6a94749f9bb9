//! Helpers and kfuncs: what a program can call. Numbers and meanings are those of `enum bpf_func_id` in linux/bpf.h
//! and of bpf-helpers(7); results that are errors are negative error numbers, as there.

pub(crate) mod clock;
mod csum;
mod kfunc;
mod map;
mod names;
mod packet;
mod ring;
mod route;
mod text;

use crate::interp::{Core, Then, errno};
use crate::{Errno, Fault, XdpBuff};
pub(crate) use kfunc::call as kfunc;
pub(crate) use map::lookup;
pub(crate) use packet::adjust_head;

/// Number of `bpf_map_lookup_elem`.
pub(crate) const LOOKUP: i32 = 1;

/// Number of `bpf_xdp_adjust_head`.
pub(crate) const ADJUST_HEAD: i32 = 44;

/// What a call leads to.
pub(crate) enum Outcome {
    /// r0.
    Value(u64),
    /// `bpf_tail_call`.
    TailCall { map: u64, index: u32 },
    /// A callback runs, perhaps often.
    Repeat(Then),
}

/// Whether a helper can be called.
pub(crate) enum Support {
    Yes,
    No {
        name: &'static str,
        reason: &'static str,
    },
}

/// Longest loop of `bpf_loop` (`BPF_MAX_LOOPS`).
pub(crate) const MAX_LOOPS: u64 = 1 << 23;

/// A helper's name in `enum bpf_func_id`.
pub(crate) fn name(id: i32) -> &'static str {
    usize::try_from(id)
        .ok()
        .and_then(|id| names::NAMES.get(id).copied())
        .unwrap_or("unknown")
}

/// Looks a helper up by its number.
pub(crate) fn support(id: i32) -> Support {
    let name = name(id);
    match id {
        1..=3
        | 5..=8
        | 12
        | 23
        | 25
        | 26
        | 28
        | 34
        | 44
        | 51
        | 54
        | 65
        | 69
        | 93
        | 94
        | 118
        | 125
        | 130..=134
        | 160
        | 163
        | 164
        | 177 => Support::Yes,
        181 | 182 | 188..=190 | 195 | 208 => Support::Yes,
        _ if name == "unknown" => Support::No {
            name,
            reason: "is not in the kernel's table of helpers",
        },
        _ => Support::No {
            name,
            reason: "is not available to XDP programs here; ebpf-runtime/README.md lists those that are",
        },
    }
}

/// Calls a helper.
#[inline]
pub(crate) fn call(id: i32, core: &mut Core, a: [u64; 5], buf: &mut XdpBuff<'_>) -> Result<Outcome, Fault> {
    let value = match id {
        LOOKUP => map::lookup(core, buf, a[0], a[1])?,
        2 => map::update(core, buf, a)?,
        3 => map::delete(core, buf, a)?,
        5 | 118 | 125 | 160 | 208 => clock::now(id, core),
        6 => text::trace_printk(core, buf, a)?,
        7 => u64::from(clock::random(core)),
        8 => u64::from(core.worker),
        12 => {
            return Ok(Outcome::TailCall {
                map: a[1],
                index: a[2] as u32,
            });
        }
        23 => packet::redirect(core, a),
        25 => ring::perf_output(core, buf, a)?,
        26 => packet::skb_load_bytes(core, buf, a)?,
        28 => csum::diff(core, buf, a)?,
        34 => core.space.skb().map_or(0, |skb| skb.word(68).into()),
        ADJUST_HEAD => packet::adjust_head(buf, a[1]),
        51 => packet::redirect_map(core, a)?,
        54 => packet::adjust_meta(buf, a),
        65 => packet::adjust_tail(core, buf, a),
        69 => route::fib_lookup(core, buf, a)?,
        93 => map::spin_lock(core, buf, a[0])?,
        94 => map::spin_unlock(core, buf, a[0])?,
        130 => ring::output(core, buf, a)?,
        131 => ring::reserve(core, a)?,
        132 => ring::finish(core, a, false)?,
        133 => ring::finish(core, a, true)?,
        134 => ring::query(core, a)?,
        163 => route::check_mtu(core, buf, a)?,
        164 => {
            let callback = callback(a[1])?;
            if a[3] != 0 {
                return Ok(Outcome::Value(errno(Errno::INVAL)));
            }
            core.space.map(a[0])?;
            return Ok(Outcome::Repeat(Then::ForEach {
                map: a[0],
                next: 0,
                seen: 0,
                callback,
                ctx: a[2],
            }));
        }
        177 => text::trace_vprintk(core, buf, a)?,
        181 => {
            let callback = callback(a[1])?;
            match (a[3], a[0] as u32) {
                (0, count) if u64::from(count) <= MAX_LOOPS => {
                    return Ok(Outcome::Repeat(Then::Loop {
                        index: 0,
                        count,
                        callback,
                        ctx: a[2],
                    }));
                }
                (0, _) => errno(Errno::TOOBIG),
                _ => errno(Errno::INVAL),
            }
        }
        182 => text::strncmp(core, buf, a)?,
        188 => (buf.len() + core.frags.total()) as u64,
        189 => packet::load_bytes(core, buf, a)?,
        190 => packet::store_bytes(core, buf, a)?,
        195 => map::lookup_percpu(core, buf, a)?,
        _ => return Err(Fault::HelperArgument),
    };
    Ok(Outcome::Value(value))
}

fn callback(addr: u64) -> Result<usize, Fault> {
    crate::mem::space::func_pc(addr)
        .map(|pc| pc as usize)
        .ok_or(Fault::HelperArgument)
}

/// The next entry of a map for `bpf_for_each_map_elem`: its position and the addresses of its key and value.
pub(crate) fn entry(core: &mut Core, map: u64, next: u32) -> Result<Option<(u32, u64, u64)>, Fault> {
    let Some((at, key, value)) = core.space.map(map)?.entry_from(next, core.worker) else {
        return Ok(None);
    };
    let key = match key {
        Some(range) => core.space.remember(range),
        None => core.space.index_key(at),
    };
    let value = core.space.remember(value);
    Ok(Some((at, key, value)))
}

/// Takes back what a program that ended did not give back.
pub(crate) fn release(core: &mut Core, buf: &mut XdpBuff<'_>) {
    while core.space.record_count() != 0 {
        if let Some((ring, record)) = core.space.take_record(None) {
            ring.commit(&record, true);
        }
    }
    if let Some(addr) = core.lock.take() {
        // The value it lies in may be gone from its map, but stays memory.
        let _ = core.space.store::<4>(buf, addr, 0);
    }
}

/// A result as helpers return it.
fn code(result: Result<(), Errno>) -> u64 {
    result.map_or_else(errno, |()| 0)
}
