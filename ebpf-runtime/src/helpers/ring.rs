//! Helpers that send records to a consumer: ring buffers and perf event arrays.

use crate::interp::{Core, SCRATCH, errno};
use crate::mem::packet;
use crate::{Errno, Fault, XdpBuff};

/// Records a run may have reserved at a time.
const RESERVED_MAX: usize = 64;
/// `BPF_F_INDEX_MASK` and `BPF_F_CURRENT_CPU`.
const INDEX_MASK: u64 = 0xffff_ffff;
/// `BPF_F_CTXLEN_MASK`: bytes of the frame to append.
const CTXLEN_MASK: u64 = 0xf_ffff << 32;

/// `bpf_perf_event_output(ctx, map, flags, data, size)`.
pub(super) fn perf_output(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let [_, map, flags, data, size] = a;
    if flags & !(INDEX_MASK | CTXLEN_MASK) != 0 {
        return Ok(errno(Errno::INVAL));
    }
    let frame_len = ((flags & CTXLEN_MASK) >> 32) as usize;
    let Core {
        space, bytes, worker, ..
    } = core;
    let Some(data_bytes) = bytes.get_mut(..size as usize) else {
        return Ok(errno(Errno::TOOBIG));
    };
    space.read(buf, data, data_bytes)?;
    let Some(frame) = packet::bytes(buf).get(..frame_len) else {
        return Ok(errno(Errno::FAULT));
    };
    let index = match flags & INDEX_MASK {
        INDEX_MASK => *worker,
        index => index as u32,
    };
    Ok(super::code(
        space.map(map)?.output(Some(index), [data_bytes, frame]),
    ))
}

/// `bpf_ringbuf_output(map, data, size, flags)`.
pub(super) fn output(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let Core { space, bytes, .. } = core;
    let flags_ok = a[3] & !3 == 0;
    let Some(bytes) = bytes.get_mut(..a[2] as usize).filter(|_| flags_ok) else {
        return Ok(errno(if flags_ok { Errno::TOOBIG } else { Errno::INVAL }));
    };
    space.read(buf, a[1], bytes)?;
    Ok(super::code(space.map(a[0])?.output(None, [bytes, &[]])))
}

/// `bpf_ringbuf_reserve(map, size, flags)`: null when there is no room.
pub(super) fn reserve(core: &mut Core, a: [u64; 5]) -> Result<u64, Fault> {
    let full = core.space.record_count() >= RESERVED_MAX || a[2] != 0 || a[1] > SCRATCH as u64;
    let map = core.space.map(a[0])?;
    let record = map
        .reserve(if full { u64::MAX } else { a[1] })
        .map_err(|_| Fault::HelperArgument)?;
    Ok(record.map_or(0, |record| core.space.add_record(a[0], record)))
}

/// `bpf_ringbuf_submit(record, flags)` and `bpf_ringbuf_discard(record, flags)`.
pub(super) fn finish(core: &mut Core, a: [u64; 5], discard: bool) -> Result<u64, Fault> {
    let (ring, record) = core.space.take_record(Some(a[0])).ok_or(Fault::HelperArgument)?;
    ring.commit(&record, discard);
    Ok(0)
}

/// `bpf_ringbuf_query(map, what)`.
pub(super) fn query(core: &mut Core, a: [u64; 5]) -> Result<u64, Fault> {
    core.space
        .map(a[0])?
        .query(a[1])
        .map_err(|_| Fault::HelperArgument)
}
