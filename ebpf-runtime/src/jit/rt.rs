//! What compiled code calls: helpers, checked accesses, callbacks, tail calls.
//!
//! Every function here takes the [`State`] that the code was entered with. References into it are taken anew in each
//! call and never held over compiled code.

use std::sync::Arc;

use super::Unit;
use super::compile::Table;
use super::state::{DONE, NOTED, Pair, PlainFn, State};
use crate::helpers::{self, Outcome};
use crate::hook::SKB_SIZE;
use crate::interp::{Core, TAIL_CALLS, context, errno};
use crate::maps::{Map, MapType};
use crate::mem::space::{CTX_ADDR, FRAME, FRAMES};
use crate::{Errno, Fault, Verdict, XdpBuff};

/// A value, or why the run ends.
fn pair(result: Result<u64, Fault>) -> Pair {
    ended(result.map_err(|fault| fault as u64))
}

fn ended(result: Result<u64, u64>) -> Pair {
    match result {
        Ok(value) => Pair { value, status: 0 },
        Err(status) => Pair { value: 0, status },
    }
}

/// An access of `len` bytes at `addr` through the interpreter's space; notes where one was that was refused.
///
/// # Safety
/// As of [`open`].
unsafe fn access(
    state: *mut State,
    addr: u64,
    len: usize,
    f: impl FnOnce(&mut Core, &mut XdpBuff<'static>) -> Result<u64, Fault>,
) -> Pair {
    // SAFETY: as the caller promises.
    let (state, buf) = unsafe { open(state) };
    let result = f(&mut state.core, buf);
    if result.is_err() {
        state.access = (addr, len as u64);
    }
    pair(result)
}

/// The state and its frame, with the stack opened as deep as the caller is.
///
/// # Safety
/// `state` is the state that compiled code was entered with, and no reference into it or to its frame is alive.
unsafe fn open<'a>(state: *mut State) -> (&'a mut State, &'a mut XdpBuff<'static>) {
    // SAFETY: as the caller promises; `buf` points to the frame that `Jit::run_batch` borrowed mutably.
    let (state, buf) = unsafe { (&mut *state, &mut *(*state).buf) };
    let depth = state.top.wrapping_sub(state.fp) as usize / FRAME;
    state.core.space.set_depth(depth.min(FRAMES - 1));
    (state, buf)
}

/// A helper by its number.
pub(super) unsafe extern "C" fn helper<const ID: i32>(
    state: *mut State,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
) -> Pair {
    // SAFETY: called by compiled code with its own state.
    let (state, buf) = unsafe { open(state) };
    pair(match helpers::call(ID, &mut state.core, [a, b, c, d, e], buf) {
        Ok(Outcome::Value(value)) => Ok(value),
        // The compiler calls `tail_call`, `run_loop` and `for_each` for those.
        Ok(_) => Err(Fault::HelperArgument),
        Err(fault) => Err(fault),
    })
}

/// Addresses of the helpers above, for those numbers that compiled code may call directly.
pub(super) fn helper_address(id: i32) -> Option<*const ()> {
    macro_rules! table {
        ($($n:literal)*) => {
            match id {
                $($n => Some(helper::<$n> as *const ()),)*
                _ => None,
            }
        };
    }
    table!(1 2 3 5 6 7 8 23 25 26 28 34 44 51 54 65 69 93 94 118 125 130 131 132 133 134 160 163 177 182 188 189 190 195 208)
}

/// A clock, by its helper's number.
unsafe extern "C" fn clock<const ID: i32>(state: *mut State) -> u64 {
    // SAFETY: called by compiled code with its own state, to which no reference is alive.
    helpers::clock::now(ID, unsafe { &(*state).core })
}

/// Addresses of the clocks: they take the state alone and cannot fail.
pub(super) fn clock_address(id: i32) -> Option<*const ()> {
    Some(match id {
        5 => clock::<5> as *const (),
        118 => clock::<118> as *const (),
        125 => clock::<125> as *const (),
        160 => clock::<160> as *const (),
        208 => clock::<208> as *const (),
        _ => return None,
    })
}

/// A kernel function.
pub(super) unsafe extern "C" fn kfunc(
    state: *mut State,
    id: u64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
) -> Pair {
    // SAFETY: called by compiled code with its own state.
    let (state, buf) = unsafe { open(state) };
    pair(helpers::kfunc(id as i64, &mut state.core, &[a, b, c, d, e], buf))
}

/// A load that compiled code could not check by itself.
pub(super) unsafe extern "C" fn load<const N: usize>(state: *mut State, addr: u64) -> Pair {
    let field = addr.wrapping_sub(CTX_ADDR);
    let load = |core: &mut Core, buf: &mut XdpBuff<'static>| match field < SKB_SIZE && N == 4 {
        true => context(core, buf, field),
        false => core.space.load::<N>(buf, addr),
    };
    // SAFETY: called by compiled code with its own state.
    unsafe { access(state, addr, N, load) }
}

/// A store that compiled code could not check by itself.
pub(super) unsafe extern "C" fn store<const N: usize>(state: *mut State, addr: u64, value: u64) -> Pair {
    // SAFETY: called by compiled code with its own state.
    unsafe {
        access(state, addr, N, |core, buf| {
            core.space.store::<N>(buf, addr, value).map(|()| 0)
        })
    }
}

/// An atomic operation that compiled code could not check by itself; gives what was there.
pub(super) unsafe extern "C" fn atomic<const N: usize>(
    state: *mut State,
    addr: u64,
    op: u64,
    src: u64,
    expected: u64,
) -> Pair {
    // SAFETY: called by compiled code with its own state.
    unsafe {
        access(state, addr, N, |core, buf| {
            let old = core
                .space
                .atomic::<N>(buf, addr, op as u32 as i32, src, expected)?;
            Ok(old.unwrap_or(0))
        })
    }
}

/// The value of a key in a map that is known; the key is known to be readable.
///
/// # Safety
/// `map` is alive and `key` points to its `key_size` bytes, which only this worker can change.
pub(super) unsafe extern "C" fn find(map: *const Map, key: *const u8, worker: u64) -> u64 {
    // SAFETY: the collection that the code belongs to keeps the map alive; the key lies in the stack or the frame.
    let (map, key) = unsafe {
        let map = &*map;
        (map, std::slice::from_raw_parts(key, map.def().key_size as usize))
    };
    map.find(key, worker as u32).map_or(0, |range| range.addr())
}

/// The function of a program that a function address stands for.
fn callback(table: &Table, addr: u64) -> Result<PlainFn, u64> {
    let function = crate::mem::space::func_pc(addr).and_then(|pc| table.function(pc));
    function.ok_or(Fault::HelperArgument as u64)
}

/// r10 of the function that a callback's caller calls.
fn frame_below(state: *mut State) -> Result<u64, u64> {
    // SAFETY: called by compiled code with its own state; plain reads.
    let (fp, top) = unsafe { ((*state).fp, (*state).top) };
    if top.wrapping_sub(fp) as usize / FRAME + 1 >= FRAMES {
        return Err(Fault::CallDepth as u64);
    }
    Ok(fp - FRAME as u64)
}

/// Runs a callback once.
///
/// # Safety
/// `state` is the one compiled code was entered with; `f` belongs to code that is alive.
unsafe fn turn(state: *mut State, f: PlainFn, a: [u64; 4], fp: u64) -> Result<u64, u64> {
    // SAFETY: no reference into the state is alive here, and `fp` is a frame of its stack.
    let out = unsafe { f(state, a[0], a[1], a[2], a[3], 0, fp) };
    // SAFETY: as above. The callback left its own caller's frame here.
    unsafe { (*state).fp = fp + FRAME as u64 };
    match out.status {
        0 => Ok(out.value),
        status => Err(status | NOTED),
    }
}

/// `bpf_loop(count, callback, ctx, flags)`; `table` is the caller's.
pub(super) unsafe extern "C" fn run_loop(
    state: *mut State,
    count: u64,
    function: u64,
    ctx: u64,
    flags: u64,
    table: *const Table,
) -> Pair {
    let go = || {
        // SAFETY: compiled code passes its own table, which is alive while it runs; no reference is held over
        // the callbacks.
        unsafe {
            let f = callback(&*table, function)?;
            if flags != 0 {
                return Ok(errno(Errno::INVAL));
            }
            let count = u64::from(count as u32);
            if count > helpers::MAX_LOOPS {
                return Ok(errno(Errno::TOOBIG));
            }
            let fp = frame_below(state)?;
            let mut done = 0;
            while done < count {
                let stop = turn(state, f, [done, ctx, 0, 0], fp)?;
                done += 1;
                if stop != 0 {
                    break;
                }
            }
            Ok(done)
        }
    };
    ended(go())
}

/// `bpf_for_each_map_elem(map, callback, ctx, flags)`; `table` is the caller's.
pub(super) unsafe extern "C" fn for_each(
    state: *mut State,
    map: u64,
    function: u64,
    ctx: u64,
    flags: u64,
    table: *const Table,
) -> Pair {
    let go = || {
        // SAFETY: as in `run_loop`.
        unsafe {
            let f = callback(&*table, function)?;
            if flags != 0 {
                return Ok(errno(Errno::INVAL));
            }
            (*state).core.space.map(map).map_err(|f| f as u64)?;
            let fp = frame_below(state)?;
            let (mut next, mut seen) = (0, 0);
            loop {
                let entry = helpers::entry(&mut (*state).core, map, next);
                let Some((at, key, value)) = entry.map_err(|f| f as u64)? else {
                    return Ok(seen);
                };
                let stop = turn(state, f, [map, key, value, ctx], fp)?;
                seen += 1;
                next = at + 1;
                if stop != 0 {
                    return Ok(seen);
                }
            }
        }
    };
    ended(go())
}

/// `bpf_tail_call(ctx, map, index)`: status 0 when there is nothing to call, [`DONE`] when the other program ran.
pub(super) unsafe extern "C" fn tail_call(state: *mut State, map: u64, index: u64) -> Pair {
    // SAFETY: called by compiled code with its own state; the reference ends before other code runs.
    let target = match unsafe { target(&mut *state, map, index as u32) } {
        Ok(Some(unit)) => unit,
        Ok(None) => return pair(Ok(0)),
        Err(fault) => return pair(Err(fault)),
    };
    let mut verdict = Verdict::default();
    // SAFETY: plain accesses to the state that compiled code was entered with. The other program takes over this one's
    // frame and stack frame; `target` keeps its code alive, and its map addresses are put back as they were.
    unsafe {
        let (maps, faults, left, fp) = ((*state).maps, (*state).faults, (*state).left, (*state).fp);
        (*state).maps = target.maps.as_ptr();
        let budget = (*state).budget;
        (*state).budget = left;
        let out = target.code.batch()(state, (*state).buf, &mut verdict, 1, fp);
        (*state).budget = budget;
        (*state).maps = maps;
        (*state).faults = faults;
        match out.status {
            0 => Pair {
                value: out.value,
                status: DONE,
            },
            status => Pair {
                value: 0,
                status: status | NOTED,
            },
        }
    }
}

fn target(state: &mut State, map: u64, index: u32) -> Result<Option<Arc<Unit>>, Fault> {
    let map = state.core.space.map(map)?;
    if map.kind() != MapType::ProgArray {
        return Ok(None);
    }
    let slot = map.program_at(index);
    let target = slot.and_then(|s| Some((s.body.upgrade()?, s.collection.upgrade()?)));
    let Some((body, collection)) =
        target.filter(|(body, _)| state.tail_calls < TAIL_CALLS && state.runs(body.hook))
    else {
        return Ok(None);
    };
    if state.core.worker >= collection.cpus {
        return Ok(None);
    }
    let known = state.units.iter().find(|u| Arc::ptr_eq(&u.body, &body)).cloned();
    let unit = match known.map_or_else(
        || Unit::new(&body, &collection, &mut state.core).map(Arc::new),
        Ok,
    ) {
        Ok(unit) => unit,
        Err(error) => {
            tracing::error!(program = body.name, %error, "a tail call's target cannot be compiled");
            return Ok(None);
        }
    };
    state.tail_calls += 1;
    if !state.units.iter().any(|u| Arc::ptr_eq(u, &unit)) {
        state.units.push(unit.clone());
    }
    // The callee's own calls come on top of those that led here.
    let nested = state.top.wrapping_sub(state.fp) as usize / FRAME;
    match unit.code.depth {
        Some(frames) if nested + frames > FRAMES => Err(Fault::CallDepth),
        _ => Ok(Some(unit)),
    }
}
