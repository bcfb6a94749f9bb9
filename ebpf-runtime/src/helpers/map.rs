//! Map helpers: lookup, update, delete, per-CPU lookup, spin locks.

use crate::insn::atomic;
use crate::interp::{Core, errno};
use crate::maps::MapType;
use crate::{Errno, Fault, XdpBuff};

/// Turns at a spin lock before a program is taken to be stuck.
const SPINS: u32 = 1 << 20;

/// `bpf_map_lookup_elem`.
pub(crate) fn lookup(core: &mut Core, buf: &mut XdpBuff<'_>, map: u64, key: u64) -> Result<u64, Fault> {
    match core.space.find(buf, map, key, core.worker) {
        Some(value) => Ok(value),
        None => lookup_on(core, buf, map, key, core.worker),
    }
}

/// `bpf_map_lookup_percpu_elem`.
pub(super) fn lookup_percpu(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    if !core.space.map(a[0])?.kind().is_percpu() {
        return Err(Fault::HelperArgument);
    }
    lookup_on(core, buf, a[0], a[1], u32::try_from(a[2]).unwrap_or(u32::MAX))
}

#[inline(never)]
fn lookup_on(core: &mut Core, buf: &mut XdpBuff<'_>, map: u64, key: u64, cpu: u32) -> Result<u64, Fault> {
    let size = core.space.map(map)?.def().key_size as usize;
    let Core {
        space, key: bytes, ..
    } = core;
    let bytes = bytes.get_mut(..size).ok_or(Fault::HelperArgument)?;
    space.read(buf, key, bytes)?;
    let map = space.map(map)?;
    match map.kind() {
        MapType::ArrayOfMaps | MapType::HashOfMaps => {
            let inner = map.with_inner(bytes, |inner| inner.clone());
            Ok(inner.map_or(0, |inner| crate::mem::space::map_addr(space.add_map(&inner))))
        }
        _ => Ok(map.find(bytes, cpu).map_or(0, |range| space.remember(range))),
    }
}

/// `bpf_map_update_elem`.
pub(super) fn update(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let def = core.space.map(a[0])?.def();
    let (key_size, value_size) = (def.key_size as usize, def.value_size as usize);
    let Core {
        space,
        key,
        bytes,
        worker,
        ..
    } = core;
    let key = key.get_mut(..key_size).ok_or(Fault::HelperArgument)?;
    let Some(value) = bytes.get_mut(..value_size) else {
        return Ok(errno(Errno::TOOBIG));
    };
    space.read(buf, a[1], key)?;
    space.read(buf, a[2], value)?;
    Ok(super::code(
        space.map(a[0])?.program_update(key, value, a[3], *worker),
    ))
}

/// `bpf_map_delete_elem`.
pub(super) fn delete(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let size = core.space.map(a[0])?.def().key_size as usize;
    let Core { space, key, .. } = core;
    let key = key.get_mut(..size).ok_or(Fault::HelperArgument)?;
    space.read(buf, a[1], key)?;
    Ok(super::code(space.map(a[0])?.program_delete(key)))
}

/// `bpf_spin_lock`: one lock at a time, which the run gives back at its end at the latest.
pub(super) fn spin_lock(core: &mut Core, buf: &mut XdpBuff<'_>, addr: u64) -> Result<u64, Fault> {
    if core.lock.is_some() {
        return Err(Fault::HelperArgument);
    }
    for turn in 0..SPINS {
        if core.space.atomic::<4>(buf, addr, atomic::CMPXCHG, 1, 0)? == Some(0) {
            core.lock = Some(addr);
            return Ok(0);
        }
        if turn.is_multiple_of(64) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
    Err(Fault::Budget)
}

/// `bpf_spin_unlock`.
pub(super) fn spin_unlock(core: &mut Core, buf: &mut XdpBuff<'_>, addr: u64) -> Result<u64, Fault> {
    if core.lock != Some(addr) {
        return Err(Fault::HelperArgument);
    }
    core.lock = None;
    core.space.atomic::<4>(buf, addr, atomic::STORE_RELEASE, 0, 0)?;
    Ok(0)
}
