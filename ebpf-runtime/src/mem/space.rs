//! The memory that one running program may touch, and each of its accesses, checked.
//!
//! A register holds a plain 64-bit address. Every access looks up which region the address lies in and is carried out
//! through that region's own pointer, never through the number the program computed:
//!
//! * the stack frames that are in use,
//! * the frame between `data_meta` and `data_end`,
//! * values of the maps that the program knows, each on its own,
//! * ring-buffer records it has reserved,
//! * the context of a steering program, whose address stands for it.

mod near;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::arena::Range;
use super::packet;
use super::values::Values;
use super::window::{peek, poke};
use crate::hook::{SKB_SIZE, SkBuff, SkbInfo};
use crate::insn::atomic;
use crate::maps::{Map, index_of};
use crate::{Fault, XdpBuff};

/// Bytes of one function's stack frame (`MAX_BPF_STACK`).
pub(crate) const FRAME: usize = 512;
/// Frames of bpf-to-bpf calls (`MAX_CALL_FRAMES`).
pub(crate) const FRAMES: usize = 8;

const STACK: usize = FRAME * FRAMES;
const CACHED: usize = 8;

/// Addresses that name things that are no memory. They lie outside the canonical range, so no access to them can hit
/// a region.
pub(crate) const CTX_ADDR: u64 = 0xc7c0_0000_0000_0000;
const MAP_ADDR: u64 = 0xc3a9_0000_0000_0000;
const FUNC_ADDR: u64 = 0xcf0c_0000_0000_0000;
const TAG: u64 = 0xffff_0000_0000_0000;

/// The address that stands for the map with this index in [`Space::maps`].
pub(crate) fn map_addr(index: u32) -> u64 {
    MAP_ADDR | u64::from(index) << 8
}

/// Whether an address stands for a map.
pub(crate) fn is_map_addr(addr: u64) -> bool {
    addr & (TAG | 0xff) == MAP_ADDR
}

/// The address that stands for a function beginning at instruction `pc`.
pub(crate) fn func_addr(pc: u32) -> u64 {
    FUNC_ADDR | u64::from(pc) << 3
}

/// The instruction a function address stands for.
pub(crate) fn func_pc(addr: u64) -> Option<u32> {
    (addr & TAG == FUNC_ADDR && addr & 7 == 0)
        .then(|| u32::try_from((addr & !TAG) >> 3).ok())
        .flatten()
}

#[repr(C, align(64))]
struct Stack([u8; STACK + 64]);

/// See the module's text.
pub(crate) struct Space {
    stack: Box<Stack>,
    /// Lowest stack offset in use: the current frame's bottom.
    low: usize,
    /// End of what is accessible: the first frame's top, or a word more while a callback is given an array's index.
    high: usize,
    /// The value used last.
    hot: Range,
    /// Values used before, perhaps some of them twice.
    cache: [Range; CACHED],
    next: usize,
    maps: Vec<Arc<Map>>,
    /// Where the values of each of the maps lie, if it is an array.
    arrays: Vec<Option<Values>>,
    /// Reserved records, each with the index of its ring.
    records: Vec<(u32, Range)>,
    /// The context of steering programs.
    skb: Option<Box<SkBuff>>,
    /// The stack of an engine that does not use ours.
    lent: Range,
}

// SAFETY: the ranges point into arenas owned by `maps`, which are `Send + Sync`; the stack is owned.
unsafe impl Send for Space {}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({} maps)", self.maps.len())
    }
}

/// Whose memory an access hit: only this worker can reach exclusive memory while the program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Exclusive,
    Shared,
}

impl Space {
    /// A space with an empty stack and no maps.
    pub fn new() -> Space {
        Space {
            stack: Box::new(Stack([0; STACK + 64])),
            low: STACK - FRAME,
            high: STACK,
            hot: Range::EMPTY,
            cache: [Range::EMPTY; CACHED],
            next: 0,
            maps: Vec::new(),
            arrays: Vec::new(),
            records: Vec::new(),
            skb: None,
            lent: Range::EMPTY,
        }
    }

    /// Describes the next frame to a steering program; programs without this have `struct xdp_md`.
    pub fn describe(&mut self, info: &SkbInfo) {
        self.skb.get_or_insert_with(SkBuff::new).fill(info);
    }

    /// The context of a steering program.
    #[inline]
    pub fn skb(&self) -> Option<&SkBuff> {
        self.skb.as_deref()
    }

    /// Makes a map's values reachable; gives its index, the old one if it was known already.
    pub fn add_map(&mut self, map: &Arc<Map>) -> u32 {
        if let Some(at) = self.maps.iter().position(|m| Arc::ptr_eq(m, map)) {
            return at as u32;
        }
        self.maps.push(map.clone());
        self.arrays.push(Values::of(map));
        (self.maps.len() - 1) as u32
    }

    /// Forgets the maps added after the first `keep`, and every region cached so far.
    #[inline]
    pub fn truncate_maps(&mut self, keep: usize) {
        if self.maps.len() > keep {
            self.hot = Range::EMPTY;
            self.cache = [Range::EMPTY; CACHED];
            self.maps.truncate(keep);
            self.arrays.truncate(keep);
        }
    }

    /// The index that a map address stands for.
    pub fn map_index(addr: u64) -> usize {
        ((addr & !TAG) >> 8) as usize
    }

    /// Number of maps known.
    pub fn map_count(&self) -> usize {
        self.maps.len()
    }

    /// The map that a program's map address stands for.
    #[inline]
    pub fn map(&self, addr: u64) -> Result<&Arc<Map>, Fault> {
        if !is_map_addr(addr) {
            return Err(Fault::HelperArgument);
        }
        self.maps
            .get(((addr & !TAG) >> 8) as usize)
            .ok_or(Fault::HelperArgument)
    }

    /// The frame pointer (r10) of call depth `depth`.
    #[inline]
    pub fn frame_pointer(&self, depth: usize) -> u64 {
        (self.stack.0.as_ptr().addr() + STACK - depth * FRAME) as u64
    }

    /// Makes frames 0 to `depth` accessible and no others.
    #[inline]
    pub fn set_depth(&mut self, depth: usize) {
        self.low = STACK.saturating_sub((depth + 1) * FRAME);
        if depth == 0 {
            self.high = STACK;
        }
    }

    /// Zeroes the frame of call depth `depth`.
    pub fn clear_frame(&mut self, depth: usize) {
        let end = STACK.saturating_sub(depth * FRAME);
        self.stack.0[end.saturating_sub(FRAME)..end].fill(0);
    }

    /// Puts an array index where a callback can read it as its key; gives its address.
    pub fn index_key(&mut self, index: u32) -> u64 {
        self.stack.0[STACK..STACK + 4].copy_from_slice(&index.to_ne_bytes());
        self.high = STACK + 4;
        (self.stack.0.as_ptr().addr() + STACK) as u64
    }

    /// Remembers a value that a lookup just found, so that its accesses need no search. The range must come from a map
    /// of this space.
    #[inline]
    pub fn remember(&mut self, range: Range) -> u64 {
        let addr = range.addr();
        if self.hot.addr() != addr || self.hot.len() != range.len() {
            self.cache[self.next % CACHED] = self.hot;
            self.next = (self.next + 1) % CACHED;
            self.hot = range;
        }
        addr
    }

    /// `bpf_map_lookup_elem` with a key that is nobody else's to change, in the stack or the frame. `None` where it is not, and for
    /// maps that have no values.
    #[inline]
    pub fn find(&mut self, buf: &XdpBuff<'_>, map: u64, key: u64, cpu: u32) -> Option<u64> {
        if !is_map_addr(map) {
            return None;
        }
        let at = Space::map_index(map);
        let found = if let Some(values) = self.arrays.get(at)? {
            let key = self.exclusive(buf, key, 4)?;
            values.at(index_of(key)?, cpu)
        } else {
            let map = self.maps.get(at)?;
            if !map.has_values() {
                return None;
            }
            map.find(self.exclusive(buf, key, map.def().key_size as usize)?, cpu)
        };
        Some(found.map_or(0, |range| self.remember(range)))
    }

    /// Bytes of the stack or the frame.
    #[inline]
    fn exclusive<'b>(&'b self, buf: &'b XdpBuff<'_>, addr: u64, len: usize) -> Option<&'b [u8]> {
        let stack = &self.stack.0;
        let off = (addr as usize).wrapping_sub(stack.as_ptr().addr());
        if off >= self.low && off < self.high && len <= self.high - off {
            return stack.get(off..off + len);
        }
        let off = (addr as usize).wrapping_sub(buf.data.addr());
        packet::bytes(buf).get(off..off.checked_add(len)?)
    }

    /// Lets helpers reach a stack that another engine brought. The caller sees to it that it is there while helpers run.
    #[cfg_attr(
        not(all(feature = "rbpf", target_arch = "x86_64")),
        expect(dead_code, reason = "for another engine")
    )]
    pub fn lend(&mut self, stack: Range) {
        self.lent = stack;
    }

    /// Lets the program reach a record it reserved in a ring of this space.
    pub fn add_record(&mut self, ring: u64, range: Range) -> u64 {
        self.records.push((((ring & !TAG) >> 8) as u32, range));
        range.addr()
    }

    /// Takes a reserved record away again, with its ring; any record when `addr` is `None`.
    pub fn take_record(&mut self, addr: Option<u64>) -> Option<(Arc<Map>, Range)> {
        let wanted = |(_, r): &(u32, Range)| addr.is_none_or(|a| r.addr() == a);
        let at = self.records.iter().position(wanted)?;
        let (ring, range) = self.records.swap_remove(at);
        Some((self.maps.get(ring as usize)?.clone(), range))
    }

    /// Records reserved and not given back.
    pub fn record_count(&self) -> usize {
        self.records.len()
    }

    /// The pointer to use for an access; the heart of the matter.
    #[inline(always)]
    fn resolve(
        &mut self,
        buf: &XdpBuff<'_>,
        addr: u64,
        len: usize,
        write: bool,
    ) -> Result<(*mut u8, Reach), Fault> {
        let stack = self.stack.0.as_mut_ptr();
        let off = (addr as usize).wrapping_sub(stack.addr());
        if off >= self.low && off < self.high && len <= self.high - off {
            return Ok((stack.wrapping_add(off), Reach::Exclusive));
        }
        let off = (addr as usize).wrapping_sub(buf.data_meta.addr());
        let room = buf.data_end.addr() - buf.data_meta.addr();
        if off <= room && len <= room - off {
            return Ok((buf.data_meta.wrapping_add(off), Reach::Exclusive));
        }
        self.resolve_shared(addr, len, write)
    }

    #[inline]
    fn resolve_shared(&mut self, addr: u64, len: usize, write: bool) -> Result<(*mut u8, Reach), Fault> {
        let mut found = within(&self.hot, addr, len);
        for range in &mut self.cache {
            if found.is_some() {
                break;
            }
            found = within(range, addr, len);
            if found.is_some() {
                std::mem::swap(&mut self.hot, range);
            }
        }
        match found {
            Some(_) if write && !self.hot.writable => Err(Fault::ReadOnly),
            Some(ptr) => Ok((ptr, Reach::Shared)),
            None => self.search(addr, len, write),
        }
    }

    #[cold]
    fn search(&mut self, addr: u64, len: usize, write: bool) -> Result<(*mut u8, Reach), Fault> {
        let off = addr.wrapping_sub(CTX_ADDR);
        if let Some(skb) = &mut self.skb
            && off < SKB_SIZE
            && len as u64 <= SKB_SIZE - off
        {
            let start = skb.0.as_mut_ptr().cast::<u8>();
            return Ok((start.wrapping_add(off as usize), Reach::Exclusive));
        }
        let record = self
            .records
            .iter()
            .map(|(_, r)| *r)
            .find(|r| within(r, addr, len).is_some());
        let found = match record {
            Some(range) => range,
            None if within(&self.lent, addr, len).is_some() => self.lent,
            None => {
                let range = self
                    .maps
                    .iter()
                    .find_map(|m| m.range_at(addr))
                    .ok_or(Fault::OutOfBounds)?;
                self.remember(range);
                range
            }
        };
        let ptr = within(&found, addr, len).ok_or(Fault::OutOfBounds)?;
        if write && !found.writable {
            Err(Fault::ReadOnly)
        } else {
            Ok((ptr, Reach::Shared))
        }
    }

    /// [`Space::store`], not inlined.
    #[inline(never)]
    pub fn far_store<const N: usize>(
        &mut self,
        buf: &XdpBuff<'_>,
        addr: u64,
        value: u64,
    ) -> Result<(), Fault> {
        self.store::<N>(buf, addr, value)
    }

    /// Loads 1, 2, 4 or 8 bytes, zero extended.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, buf: &XdpBuff<'_>, addr: u64) -> Result<u64, Fault> {
        let (ptr, reach) = self.resolve(buf, addr, N, false)?;
        if reach == Reach::Exclusive {
            // SAFETY: `resolve` checked that `ptr..ptr+N` lies in the stack or the frame, which only this worker
            // accesses while the program runs.
            return Ok(unsafe { peek::<N>(ptr) });
        }
        if !ptr.addr().is_multiple_of(N) {
            let mut word = [0u8; 8];
            self.copy_shared_out(ptr, &mut word[..N]);
            return Ok(u64::from_le_bytes(word));
        }
        // SAFETY: `resolve` checked that `ptr..ptr+N` lies in a live range of a map; the alignment was checked just above.
        Ok(unsafe { load_shared::<N>(ptr) })
    }

    /// Stores the low 1, 2, 4 or 8 bytes.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, buf: &XdpBuff<'_>, addr: u64, value: u64) -> Result<(), Fault> {
        let (ptr, reach) = self.resolve(buf, addr, N, true)?;
        if reach == Reach::Exclusive {
            // SAFETY: as in `load`; the frame was borrowed mutably and the stack is ours.
            unsafe { poke::<N>(ptr, value) };
            return Ok(());
        }
        if !ptr.addr().is_multiple_of(N) {
            self.copy_shared_in(ptr, &value.to_le_bytes()[..N]);
            return Ok(());
        }
        // SAFETY: as in `load`.
        unsafe { store_shared::<N>(ptr, value) };
        Ok(())
    }

    /// An atomic instruction; gives what its result register gets, or `None` when it has none.
    pub fn atomic<const N: usize>(
        &mut self,
        buf: &XdpBuff<'_>,
        addr: u64,
        op: i32,
        src: u64,
        expected: u64,
    ) -> Result<Option<u64>, Fault> {
        use Ordering::{Acquire, Release, SeqCst};
        let (ptr, _) = self.resolve(buf, addr, N, op != atomic::LOAD_ACQUIRE)?;
        if !ptr.addr().is_multiple_of(N) {
            return Err(Fault::Unaligned);
        }
        macro_rules! run {
            ($cell:expr, $int:ty) => {{
                let cell = $cell;
                let old = match op {
                    atomic::XCHG => cell.swap(src as $int, SeqCst),
                    atomic::CMPXCHG => cell
                        .compare_exchange(expected as $int, src as $int, SeqCst, SeqCst)
                        .unwrap_or_else(|seen| seen),
                    atomic::LOAD_ACQUIRE => cell.load(Acquire),
                    atomic::STORE_RELEASE => {
                        cell.store(src as $int, Release);
                        return Ok(None);
                    }
                    _ => match op & !atomic::FETCH {
                        atomic::ADD => cell.fetch_add(src as $int, SeqCst),
                        atomic::OR => cell.fetch_or(src as $int, SeqCst),
                        atomic::AND => cell.fetch_and(src as $int, SeqCst),
                        _ => cell.fetch_xor(src as $int, SeqCst),
                    },
                };
                let fetches = op & atomic::FETCH != 0 || op == atomic::LOAD_ACQUIRE;
                Ok(fetches.then_some(u64::from(old)))
            }};
        }
        // SAFETY: in bounds by `resolve`, aligned by the check above, and accessed either only by this worker or only
        // with atomics.
        unsafe {
            match N {
                1 => run!(AtomicU8::from_ptr(ptr), u8),
                2 => run!(AtomicU16::from_ptr(ptr.cast()), u16),
                4 => run!(AtomicU32::from_ptr(ptr.cast()), u32),
                _ => run!(AtomicU64::from_ptr(ptr.cast()), u64),
            }
        }
    }

    fn copy_shared_out(&self, ptr: *mut u8, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            // SAFETY: the caller resolved `ptr..ptr+out.len()` to a live range of a map.
            *byte = unsafe { AtomicU8::from_ptr(ptr.add(i)) }.load(Ordering::Relaxed);
        }
    }

    fn copy_shared_in(&self, ptr: *mut u8, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            // SAFETY: the caller resolved `ptr..ptr+data.len()` to a live, writable range of a map.
            unsafe { AtomicU8::from_ptr(ptr.add(i)) }.store(*byte, Ordering::Relaxed);
        }
    }

    /// Copies what a helper reads: `out.len()` bytes at `addr`.
    pub fn read(&mut self, buf: &XdpBuff<'_>, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        if out.is_empty() {
            return Ok(());
        }
        let (ptr, reach) = self.resolve(buf, addr, out.len(), false)?;
        match reach {
            // SAFETY: in bounds by `resolve`; `out` is a Rust slice, which cannot overlap the stack or frame that this
            // worker holds exclusively.
            Reach::Exclusive => unsafe { ptr.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) },
            Reach::Shared => self.copy_shared_out(ptr, out),
        }
        Ok(())
    }

    /// Copies what a helper writes to `addr`.
    pub fn write(&mut self, buf: &XdpBuff<'_>, addr: u64, data: &[u8]) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        let (ptr, reach) = self.resolve(buf, addr, data.len(), true)?;
        match reach {
            // SAFETY: as in `read`, and `resolve` was asked for write access.
            Reach::Exclusive => unsafe { ptr.copy_from_nonoverlapping(data.as_ptr(), data.len()) },
            Reach::Shared => self.copy_shared_in(ptr, data),
        }
        Ok(())
    }
}

/// Loads from a map's memory.
///
/// # Safety
/// `ptr..ptr+N` lies in a live range of a map, which is accessed with atomics only, and `ptr` is a multiple of N.
#[inline(always)]
unsafe fn load_shared<const N: usize>(ptr: *mut u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(ptr).load(Ordering::Relaxed).into(),
            2 => AtomicU16::from_ptr(ptr.cast()).load(Ordering::Relaxed).into(),
            4 => AtomicU32::from_ptr(ptr.cast()).load(Ordering::Relaxed).into(),
            _ => AtomicU64::from_ptr(ptr.cast()).load(Ordering::Relaxed),
        }
    }
}

/// Stores into a map's memory.
///
/// # Safety
/// As for [`load_shared`], and programs may write the range.
#[inline(always)]
unsafe fn store_shared<const N: usize>(ptr: *mut u8, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match N {
            1 => AtomicU8::from_ptr(ptr).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(ptr.cast()).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(ptr.cast()).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(ptr.cast()).store(value, Ordering::Relaxed),
        }
    }
}

#[inline(always)]
fn within(range: &Range, addr: u64, len: usize) -> Option<*mut u8> {
    let off = (addr as usize).wrapping_sub(range.ptr.addr());
    (off < range.len && len <= range.len - off).then(|| range.ptr.wrapping_add(off))
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
