//! Helpers about the frame: its edges, its bytes, where it goes.

use std::ops::Range;

use crate::interp::{Core, errno};
use crate::maps::MapType;
use crate::mem::packet;
use crate::{Errno, Fault, Redirect, RedirectKind, XdpAction, XdpBuff};

/// `BPF_F_BROADCAST`.
const BROADCAST: u64 = 1 << 3;
/// `BPF_F_EXCLUDE_INGRESS`.
const EXCLUDE_INGRESS: u64 = 1 << 4;
/// Largest offset and length of `bpf_xdp_load_bytes` (net/core/filter.c, `bpf_xdp_pointer`).
const REACH: u64 = 0xffff;

const ABORTED: u64 = XdpAction::Aborted as u64;
const REDIRECT: u64 = XdpAction::Redirect as u64;

/// `bpf_xdp_adjust_head`.
#[inline]
pub(crate) fn adjust_head(buf: &mut XdpBuff<'_>, delta: u64) -> u64 {
    super::code(packet::adjust_head(buf, delta as i32))
}

/// `bpf_xdp_adjust_meta`.
pub(super) fn adjust_meta(buf: &mut XdpBuff<'_>, a: [u64; 5]) -> u64 {
    super::code(packet::adjust_meta(buf, a[1] as i32))
}

/// `bpf_xdp_adjust_tail`.
pub(super) fn adjust_tail(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> u64 {
    let delta = a[1] as i32;
    if core.frags.is_empty() {
        return super::code(packet::adjust_tail(buf, delta));
    }
    let by = delta.unsigned_abs() as usize;
    let result = if delta >= 0 {
        core.frags.grow(by)
    } else {
        let rest = core.frags.shrink(by, buf.len());
        rest.and_then(|rest| packet::adjust_tail(buf, -(rest as i32)))
    };
    super::code(result)
}

/// `bpf_redirect(ifindex, flags)`.
pub(super) fn redirect(core: &mut Core, a: [u64; 5]) -> u64 {
    if a[1] != 0 {
        return ABORTED;
    }
    core.redirect = Redirect {
        kind: RedirectKind::Ifindex,
        target: a[0] as u32,
        map: 0,
        flags: 0,
    };
    REDIRECT
}

/// `bpf_redirect_map(map, key, flags)`: the low two bits of `flags` are what to return when there is no such entry.
pub(super) fn redirect_map(core: &mut Core, a: [u64; 5]) -> Result<u64, Fault> {
    let [map, index, flags, ..] = a;
    let map = core.space.map(map)?;
    let index = index as u32;
    let kind = match map.kind() {
        MapType::Devmap | MapType::DevmapHash => RedirectKind::Ifindex,
        MapType::Cpumap => RedirectKind::Cpu,
        MapType::Xskmap => RedirectKind::Xsk,
        _ => return Err(Fault::HelperArgument),
    };
    let extra = if kind == RedirectKind::Ifindex {
        BROADCAST | EXCLUDE_INGRESS
    } else {
        0
    };
    if flags & !(3 | extra) != 0 {
        return Ok(ABORTED);
    }
    let target = map.target(index);
    let redirect = Redirect {
        kind,
        target: 0,
        map: map.id(),
        flags: flags as u32,
    };
    core.redirect = match (target, kind) {
        _ if flags & BROADCAST != 0 => Redirect {
            kind: RedirectKind::Broadcast,
            ..redirect
        },
        (None, _) => {
            core.redirect = Redirect::default();
            return Ok(flags & 3);
        }
        (Some(ifindex), RedirectKind::Ifindex) => Redirect {
            target: ifindex,
            ..redirect
        },
        (Some(_), _) => Redirect {
            target: index,
            ..redirect
        },
    };
    Ok(REDIRECT)
}

/// Checks offset and length of a copy against the frame.
fn part(core: &Core, buf: &XdpBuff<'_>, offset: u64, len: u64) -> Result<Range<usize>, Errno> {
    let (offset, len) = (u64::from(offset as u32), u64::from(len as u32));
    if offset > REACH || len > REACH {
        return Err(Errno::FAULT);
    }
    let (start, end) = (offset as usize, (offset + len) as usize);
    if end > buf.len() + core.frags.total() {
        Err(Errno::INVAL)
    } else {
        Ok(start..end)
    }
}

/// What of a part lies in the first buffer, of `len` bytes, and where the rest begins in those behind it.
fn split(part: &Range<usize>, len: usize) -> (Range<usize>, Option<usize>) {
    let head = part.start.min(len)..part.end.min(len);
    (head, (part.end > len).then(|| part.start.max(len) - len))
}

/// `bpf_xdp_load_bytes(ctx, offset, to, len)`.
pub(super) fn load_bytes(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let part = match part(core, buf, a[1], a[3]) {
        Ok(part) => part,
        Err(e) => return Ok(errno(e)),
    };
    let Core {
        space, bytes, frags, ..
    } = core;
    let copy = bytes.get_mut(..part.len()).ok_or(Fault::HelperArgument)?;
    let (head, rest) = split(&part, buf.len());
    copy[..head.len()].copy_from_slice(&packet::bytes(buf)[head.clone()]);
    if let Some(from) = rest {
        frags.read(from, &mut copy[head.len()..]);
    }
    space.write(buf, a[2], copy)?;
    Ok(0)
}

/// `bpf_xdp_store_bytes(ctx, offset, from, len)`.
pub(super) fn store_bytes(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let part = match part(core, buf, a[1], a[3]) {
        Ok(part) => part,
        Err(e) => return Ok(errno(e)),
    };
    let Core {
        space, bytes, frags, ..
    } = core;
    let copy = bytes.get_mut(..part.len()).ok_or(Fault::HelperArgument)?;
    space.read(buf, a[2], copy)?;
    let (head, rest) = split(&part, buf.len());
    packet::bytes_mut(buf)[head.clone()].copy_from_slice(&copy[..head.len()]);
    if let Some(to) = rest {
        frags.write(to, &copy[head.len()..]);
    }
    Ok(0)
}

/// `bpf_skb_load_bytes(skb, offset, to, len)`, of steering programs.
pub(super) fn skb_load_bytes(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let Some(part) = crate::hook::skb_bytes(buf, a[1], a[3]) else {
        return Ok(errno(Errno::FAULT));
    };
    let Core { space, bytes, .. } = core;
    let copy = bytes.get_mut(..part.len()).ok_or(Fault::HelperArgument)?;
    copy.copy_from_slice(part);
    space.write(buf, a[2], copy)?;
    Ok(0)
}
