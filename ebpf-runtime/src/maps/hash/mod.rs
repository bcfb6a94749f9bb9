//! `HASH`, `PERCPU_HASH` and the LRU ones: chained buckets over preallocated elements.
//!
//! Readers take no lock. Each bucket has a sequence number that is odd while somebody changes the bucket's chain; a
//! reader that walked a chain looks at the number again and starts over when it moved. A writer holds only its key's
//! bucket. Elements live in one arena and are found by index, so a reader that strays onto an element being reused
//! reads stale numbers, never other memory, and then notices.
//!
//! As in the kernel (kernel/bpf/hashtab.c), replacing a value gives the key a new element, so readers see the old
//! value or the new one; a pointer a program still holds to the old one stays readable. Per-CPU values are written in
//! place. An LRU map that is full evicts by second chance: a hand sweeps the elements, passes over those looked up
//! since its last visit, and takes the first other.
//!
//! [`elements`] has the free elements and the hand, [`guarded`] what is done while a value's spin lock is held.

mod elements;
mod guarded;

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::locked::LockPlace;
use super::{MapDef, MapFlags, bounded, pad8};
use crate::Errno;
use crate::mem::arena::{Arena, Range};

// Element header.
const NEXT: usize = 0;
const HASH: usize = 4;
pub(crate) const STATE: usize = 8;
pub(crate) const KEY: usize = 16;

// Element states.
const FREE: u32 = 0;
const LIVE: u32 = 1;
/// Live, and looked up since the hand last passed.
pub(crate) const SEEN: u32 = 3;

/// Elements beyond `max_entries`: a replacement holds the old and the new one for a moment.
const SPARE: u32 = 64;

#[derive(Debug)]
pub(super) struct Hash {
    /// Per bucket: sequence number, then first element + 1.
    buckets: Arena,
    mask: u32,
    elems: Arena,
    stride: usize,
    value_at: usize,
    percpu: Option<PerCpu>,
    key: usize,
    value: usize,
    capacity: u32,
    max_entries: u32,
    count: AtomicU32,
    /// Elements from here on were never used.
    fresh: AtomicU32,
    /// Freed elements: generation, then first + 1; linked through `NEXT`.
    free: AtomicU64,
    lru: bool,
    hand: AtomicU32,
    seeds: [u64; 2],
    writable: bool,
    value_lock: LockPlace,
}

/// Values of per-CPU maps: `[cpu][element]`.
#[derive(Debug)]
struct PerCpu {
    arena: Arena,
    stride: usize,
    block: usize,
    cpus: u32,
}

/// Where a hash map's entries lie. A bucket is 8 bytes: its sequence number, then its first element's number + 1. An element
/// begins with the number of the next one + 1 and its hash, 4 bytes each.
#[derive(Debug, Clone)]
pub(crate) struct HashShape {
    pub buckets: u64,
    pub mask: u32,
    pub elems: u64,
    pub stride: u64,
    /// Bytes of a key.
    pub key: usize,
    /// Where the value begins in an element.
    pub value_at: u64,
    pub percpu: Option<PerCpuShape>,
    pub lru: bool,
    pub seeds: [u64; 2],
}

/// Where per-CPU values lie: that of element `i` for worker `w` at `base + w * block + i * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerCpuShape {
    pub base: u64,
    pub stride: u64,
    pub block: u64,
    pub cpus: u32,
}

/// What an update writes.
pub(super) enum NewValue<'a> {
    /// One value; in a per-CPU map that worker's, the others become zero if the key is new.
    One(&'a [u8], u32),
    /// All workers' values, each padded to 8 bytes.
    All(&'a [u8]),
}

impl Hash {
    pub fn new(def: &MapDef, cpus: u32, percpu: bool, lru: bool) -> io::Result<Hash> {
        let oom = io::ErrorKind::OutOfMemory;
        let buckets = def.max_entries.checked_next_power_of_two().ok_or(oom)?;
        let capacity = def
            .max_entries
            .checked_add(SPARE.saturating_add(cpus))
            .ok_or(oom)?;
        let (key, value) = (def.key_size as usize, def.value_size as usize);
        let value_at = KEY + pad8(key);
        let stride = value_at + if percpu { 0 } else { pad8(value) };
        let percpu = match percpu {
            false => None,
            true => {
                let cpus = cpus.max(1);
                let stride = pad8(value);
                let block = bounded(stride.checked_mul(capacity as usize))?.next_multiple_of(64);
                let arena = Arena::new(bounded(block.checked_mul(cpus as usize))?)?;
                Some(PerCpu {
                    arena,
                    stride,
                    block,
                    cpus,
                })
            }
        };
        Ok(Hash {
            buckets: Arena::new(bounded((buckets as usize).checked_mul(8))?)?,
            mask: buckets - 1,
            elems: Arena::new(bounded(stride.checked_mul(capacity as usize))?)?,
            stride,
            value_at,
            percpu,
            key,
            value,
            capacity,
            max_entries: def.max_entries,
            count: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            free: AtomicU64::new(0),
            lru,
            hand: AtomicU32::new(0),
            seeds: match def.flags & super::BPF_F_ZERO_SEED {
                0 => [super::seed(), super::seed()],
                _ => [0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f],
            },
            writable: def.flags & super::BPF_F_RDONLY_PROG == 0,
            value_lock: LockPlace::default(),
        })
    }

    pub fn len(&self) -> u32 {
        self.count.load(Relaxed)
    }

    /// Two words a round; the JIT makes the same of a key ([`crate::jit`], `lookup`).
    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        let [first, mut h] = self.seeds;
        let (pairs, rest) = key.as_chunks::<16>();
        for pair in pairs {
            let (a, b) = pair.split_at(8);
            h = mix(word(a) ^ first, word(b) ^ h);
        }
        if let Some((a, b)) = rest.split_at_checked(8) {
            h = mix(word(a) ^ first, word(b) ^ h);
        } else if !rest.is_empty() {
            h = mix(word(rest) ^ first, h);
        }
        (h ^ (h >> 32)) as u32
    }

    /// For lookups without a call.
    pub fn shape(&self) -> HashShape {
        HashShape {
            buckets: self.buckets.addr(),
            mask: self.mask,
            elems: self.elems.addr(),
            stride: self.stride as u64,
            key: self.key,
            value_at: self.value_at as u64,
            percpu: self.percpu.as_ref().map(|p| PerCpuShape {
                base: p.arena.addr(),
                stride: p.stride as u64,
                block: p.block as u64,
                cpus: p.cpus,
            }),
            lru: self.lru,
            seeds: self.seeds,
        }
    }

    fn seq(&self, bucket: u32) -> &AtomicU32 {
        self.buckets.u32(bucket as usize * 8)
    }

    fn head(&self, bucket: u32) -> &AtomicU32 {
        self.buckets.u32(bucket as usize * 8 + 4)
    }

    fn field(&self, elem: u32, field: usize) -> &AtomicU32 {
        self.elems.u32(elem as usize * self.stride + field)
    }

    fn key_is(&self, elem: u32, key: &[u8]) -> bool {
        self.elems.equals(elem as usize * self.stride + KEY, key)
    }

    /// Index of the key's element.
    #[inline]
    fn search(&self, key: &[u8], hash: u32) -> Option<u32> {
        Some(self.search_at(key, hash)?.0)
    }

    /// Index of the key's element, and the bucket's sequence number while it was there.
    #[inline]
    fn search_at(&self, key: &[u8], hash: u32) -> Option<(u32, u32)> {
        let bucket = hash & self.mask;
        let mut wait = Wait::default();
        'again: loop {
            let seq = self.seq(bucket).load(Acquire);
            if seq & 1 != 0 {
                wait.turn();
                continue;
            }
            let unchanged = || {
                fence(Acquire);
                self.seq(bucket).load(Relaxed) == seq
            };
            let mut link = self.head(bucket).load(Relaxed);
            let mut hops = 0u32;
            while link != 0 {
                let elem = link - 1;
                if elem >= self.capacity {
                    continue 'again;
                }
                if self.field(elem, HASH).load(Relaxed) == hash && self.key_is(elem, key) {
                    if unchanged() {
                        return Some((elem, seq));
                    }
                    continue 'again;
                }
                link = self.field(elem, NEXT).load(Relaxed);
                hops += 1;
                if hops.is_multiple_of(16) && !unchanged() {
                    continue 'again;
                }
            }
            if unchanged() {
                return None;
            }
        }
    }

    fn value_range(&self, elem: u32, cpu: u32) -> Option<Range> {
        match &self.percpu {
            None => {
                let off = elem as usize * self.stride + self.value_at;
                Some(self.elems.range(off, self.value, self.writable))
            }
            Some(p) if cpu < p.cpus => {
                let off = p.block * cpu as usize + p.stride * elem as usize;
                Some(p.arena.range(off, self.value, self.writable))
            }
            Some(_) => None,
        }
    }

    /// The value a program on worker `cpu` sees. Marks the element as used.
    #[inline]
    pub fn find(&self, key: &[u8], cpu: u32) -> Option<Range> {
        let elem = self.search(key, self.hash(key))?;
        if self.lru {
            let state = self.field(elem, STATE);
            if state.load(Relaxed) == LIVE {
                // Fails when the element is being freed or was marked by another worker; both are fine.
                let _ = state.compare_exchange(LIVE, SEEN, Relaxed, Relaxed);
            }
        }
        self.value_range(elem, cpu)
    }

    /// The value that the byte at `addr` belongs to.
    pub fn range_at(&self, addr: u64) -> Option<Range> {
        let (elem, cpu) = match &self.percpu {
            None => (self.elems.offset_of(addr)? / self.stride, 0),
            Some(p) => {
                let off = p.arena.offset_of(addr)?;
                (off % p.block / p.stride, u32::try_from(off / p.block).ok()?)
            }
        };
        let elem = u32::try_from(elem).ok().filter(|e| *e < self.capacity)?;
        self.value_range(elem, cpu)
    }

    /// Each worker's value, padded when per-CPU.
    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let hash = self.hash(key);
        loop {
            let (elem, seq) = self.search_at(key, hash).ok_or(Errno::NOENT)?;
            let value = self.read_elem(elem);
            // Unless the bucket changed, the element was the key's own all the while.
            fence(Acquire);
            if self.seq(hash & self.mask).load(Relaxed) == seq {
                return Ok(value);
            }
        }
    }

    fn read_elem(&self, elem: u32) -> Vec<u8> {
        let Some(p) = &self.percpu else {
            let mut out = vec![0; self.value];
            self.elems
                .read(elem as usize * self.stride + self.value_at, &mut out);
            self.value_lock.hide(&mut out);
            return out;
        };
        let mut out = vec![0; p.stride * p.cpus as usize];
        for (cpu, value) in out.chunks_exact_mut(p.stride).enumerate() {
            p.arena
                .read(p.block * cpu + p.stride * elem as usize, &mut value[..self.value]);
        }
        out
    }

    /// Creates or replaces.
    pub fn update(&self, key: &[u8], value: &NewValue<'_>, flags: MapFlags) -> Result<(), Errno> {
        self.check(value)?;
        let hash = self.hash(key);
        let bucket = hash & self.mask;
        let mut wait = Wait::default();
        loop {
            let guard = self.lock(bucket);
            let old = self.locate(bucket, key, hash);
            match (&old, flags) {
                (Some(_), MapFlags::NoExist) => return Err(Errno::EXIST),
                (None, MapFlags::Exist) => return Err(Errno::NOENT),
                _ => {}
            }
            if let (Some(at), Some(_)) = (&old, &self.percpu) {
                self.write_elem(at.elem, value, false);
                return Ok(());
            }
            let Some(new) = self.take(old.is_none()) else {
                drop(guard);
                if old.is_none() && !self.lru {
                    return Err(Errno::TOOBIG);
                }
                // Full: make room. Or every spare element is in another thread's hands for a moment.
                if (old.is_none() && self.evict()) || wait.turn() < 1000 {
                    continue;
                }
                return Err(Errno::NOMEM);
            };
            self.elems.write(new as usize * self.stride + KEY, key);
            self.write_elem(new, value, true);
            self.field(new, HASH).store(hash, Relaxed);
            if let Some(at) = &old {
                self.unlink(bucket, at);
            }
            self.field(new, NEXT)
                .store(self.head(bucket).load(Relaxed), Relaxed);
            self.field(new, STATE).store(LIVE, Release);
            self.head(bucket).store(new + 1, Relaxed);
            if let Some(at) = &old {
                self.give(at.elem, false);
            }
            drop(guard);
            return Ok(());
        }
    }

    fn check(&self, value: &NewValue<'_>) -> Result<(), Errno> {
        let ok = match (value, &self.percpu) {
            (NewValue::One(data, cpu), p) => {
                data.len() >= self.value && p.as_ref().is_none_or(|p| *cpu < p.cpus)
            }
            (NewValue::All(data), Some(p)) => data.len() == p.stride * p.cpus as usize,
            (NewValue::All(data), None) => data.len() == self.value,
        };
        if ok { Ok(()) } else { Err(Errno::INVAL) }
    }

    fn write_elem(&self, elem: u32, value: &NewValue<'_>, fresh: bool) {
        match (&self.percpu, value) {
            (None, NewValue::One(data, _) | NewValue::All(data)) => {
                let off = elem as usize * self.stride + self.value_at;
                self.value_lock.write(&self.elems, off, &data[..self.value]);
            }
            (Some(p), NewValue::One(data, mine)) => {
                for cpu in 0..p.cpus {
                    let off = p.block * cpu as usize + p.stride * elem as usize;
                    if cpu == *mine {
                        p.arena.write(off, &data[..self.value]);
                    } else if fresh {
                        p.arena.zero(off, p.stride);
                    }
                }
            }
            (Some(p), NewValue::All(data)) => {
                for (cpu, one) in data.chunks_exact(p.stride).enumerate() {
                    p.arena
                        .write(p.block * cpu + p.stride * elem as usize, &one[..self.value]);
                }
            }
        }
    }

    /// Removes a key.
    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let hash = self.hash(key);
        let bucket = hash & self.mask;
        let _guard = self.lock(bucket);
        let at = self.locate(bucket, key, hash).ok_or(Errno::NOENT)?;
        self.unlink(bucket, &at);
        self.give(at.elem, true);
        Ok(())
    }

    /// The key after `key` in bucket order; an unknown or missing key starts over.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let mut from = 0;
        if let Some(key) = key {
            let hash = self.hash(key);
            let mine = hash & self.mask;
            let _guard = self.lock(mine);
            if let Some(at) = self.locate(mine, key, hash) {
                let link = self.field(at.elem, NEXT).load(Relaxed);
                if link != 0 {
                    return Ok(self.key_of(link - 1));
                }
                from = mine + 1;
            }
        }
        for bucket in from..=self.mask {
            if self.head(bucket).load(Relaxed) == 0 {
                continue;
            }
            let _guard = self.lock(bucket);
            let link = self.head(bucket).load(Relaxed);
            if link != 0 {
                return Ok(self.key_of(link - 1));
            }
        }
        Err(Errno::NOENT)
    }

    fn key_of(&self, elem: u32) -> Vec<u8> {
        let mut key = vec![0; self.key];
        self.elems.read(elem as usize * self.stride + KEY, &mut key);
        key
    }

    /// The first live element at or after `from` in arena order, with its key's and its value's region: for
    /// `bpf_for_each_map_elem`.
    pub fn live_from(&self, from: u32, cpu: u32) -> Option<(u32, Range, Range)> {
        let end = self.fresh.load(Acquire).min(self.capacity);
        let elem = (from..end).find(|e| self.field(*e, STATE).load(Acquire) != FREE)?;
        let key = self
            .elems
            .range(elem as usize * self.stride + KEY, self.key, false);
        Some((elem, key, self.value_range(elem, cpu)?))
    }

    /// Finds a key in a bucket that the caller has locked.
    fn locate(&self, bucket: u32, key: &[u8], hash: u32) -> Option<Found> {
        let mut before = None;
        let mut link = self.head(bucket).load(Relaxed);
        while link != 0 {
            let elem = link - 1;
            if self.field(elem, HASH).load(Relaxed) == hash && self.key_is(elem, key) {
                return Some(Found { elem, before });
            }
            before = Some(elem);
            link = self.field(elem, NEXT).load(Relaxed);
        }
        None
    }

    fn unlink(&self, bucket: u32, at: &Found) {
        let next = self.field(at.elem, NEXT).load(Relaxed);
        match at.before {
            Some(before) => self.field(before, NEXT).store(next, Relaxed),
            None => self.head(bucket).store(next, Relaxed),
        }
    }

    fn lock(&self, bucket: u32) -> Guard<'_> {
        let seq = self.seq(bucket);
        let mut wait = Wait::default();
        loop {
            let now = seq.load(Relaxed);
            if now & 1 == 0
                && seq
                    .compare_exchange_weak(now, now.wrapping_add(1), Acquire, Relaxed)
                    .is_ok()
            {
                // Readers must see the odd number before any of the changes.
                fence(Release);
                return Guard { seq, now };
            }
            wait.turn();
        }
    }
}

/// Where an element hangs in its chain.
struct Found {
    elem: u32,
    before: Option<u32>,
}

/// A bucket held for changing.
struct Guard<'a> {
    seq: &'a AtomicU32,
    now: u32,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.seq.store(self.now.wrapping_add(2), Release);
    }
}

/// Waits for another thread: spins a little, then lets it run.
#[derive(Default)]
pub(super) struct Wait(u32);

impl Wait {
    pub fn turn(&mut self) -> u32 {
        self.0 += 1;
        if self.0.is_multiple_of(32) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        self.0
    }
}

/// Up to 8 bytes as a number.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<8>(), bytes.first_chunk::<4>()) {
        (Some(word), _) => u64::from_le_bytes(*word),
        (None, Some(half)) if bytes.len() == 4 => u32::from_le_bytes(*half).into(),
        _ => bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide ^ (wide >> 64)) as u64
}
