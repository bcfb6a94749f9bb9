//! Call frames, callbacks that run again, and the context's fields.

use super::{Core, Machine};
use crate::helpers;
use crate::hook::SKB_SIZE;
use crate::mem::space::FRAMES;
use crate::{Errno, Fault, XdpBuff};

/// A call frame that waits for its callee.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    ret: usize,
    unit: usize,
    saved: [u64; 4],
    then: Then,
}

impl Frame {
    pub const EMPTY: Frame = Frame {
        ret: 0,
        unit: 0,
        saved: [0; 4],
        then: Then::Return,
    };
}

/// What happens when the callee exits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// The caller goes on.
    Return,
    /// `bpf_loop`: the callback runs again with the next index.
    Loop {
        index: u32,
        count: u32,
        callback: usize,
        ctx: u64,
    },
    /// `bpf_for_each_map_elem`: the callback runs again with the next entry.
    ForEach {
        map: u64,
        next: u32,
        seen: u32,
        callback: usize,
        ctx: u64,
    },
}

/// An error number as helpers return it.
pub(crate) fn errno(errno: Errno) -> u64 {
    i64::from(-errno.raw_os_error()) as u64
}

/// A 32-bit load from `struct xdp_md`, or from `struct __sk_buff` where there is one: the pointer fields yield real
/// pointers.
pub(crate) fn context(core: &Core, buf: &XdpBuff<'_>, off: u64) -> Result<u64, Fault> {
    if let Some(skb) = core.space.skb() {
        return if off.is_multiple_of(4) && off < SKB_SIZE {
            Ok(skb.load(buf, off))
        } else {
            Err(Fault::Context)
        };
    }
    Ok(match off {
        0 => buf.data.addr() as u64,
        4 => buf.data_end.addr() as u64,
        8 => buf.data_meta.addr() as u64,
        12 => buf.ingress_ifindex.into(),
        16 => buf.rx_queue.into(),
        20 => buf.egress_ifindex.into(),
        _ => return Err(Fault::Context),
    })
}

/// Enters a new frame.
pub(super) fn push(core: &mut Core, machine: &mut Machine, ret: usize, then: Then) -> Result<(), Fault> {
    if machine.depth + 1 >= FRAMES {
        return Err(Fault::CallDepth);
    }
    let saved = [machine.regs[6], machine.regs[7], machine.regs[8], machine.regs[9]];
    machine.frames[machine.depth] = Frame {
        ret,
        unit: machine.unit,
        saved,
        then,
    };
    machine.depth += 1;
    core.space.set_depth(machine.depth);
    machine.regs[10] = core.space.frame_pointer(machine.depth);
    Ok(())
}

/// After a callee's exit, or to begin a repeated callback: gives the instruction to go on with.
pub(super) fn again(core: &mut Core, machine: &mut Machine) -> Result<usize, Fault> {
    let frame = &mut machine.frames[machine.depth - 1];
    let result = match &mut frame.then {
        Then::Return => None,
        Then::Loop {
            index,
            count,
            callback,
            ctx,
        } => {
            let stop = *index > 0 && machine.regs[0] != 0;
            if *index < *count && !stop {
                machine.regs[1] = u64::from(*index);
                machine.regs[2] = *ctx;
                *index += 1;
                return Ok(*callback);
            }
            Some(u64::from(*index))
        }
        Then::ForEach {
            map,
            next,
            seen,
            callback,
            ctx,
        } => {
            let stop = *seen > 0 && machine.regs[0] != 0;
            let entry = match stop {
                true => None,
                false => helpers::entry(core, *map, *next)?,
            };
            if let Some((at, key, value)) = entry {
                machine.regs[1] = *map;
                machine.regs[2] = key;
                machine.regs[3] = value;
                machine.regs[4] = *ctx;
                *next = at + 1;
                *seen += 1;
                return Ok(*callback);
            }
            Some(u64::from(*seen))
        }
    };
    let frame = *frame;
    machine.depth -= 1;
    core.space.set_depth(machine.depth);
    machine.regs[10] = core.space.frame_pointer(machine.depth);
    machine.regs[6..10].copy_from_slice(&frame.saved);
    machine.unit = frame.unit;
    if let Some(result) = result {
        machine.regs[0] = result;
    }
    Ok(frame.ret)
}
