//! eBPF maps with the kernel's semantics: shared by the workers that run programs and by any number of control
//! threads. Values live in memory that stays mapped until the map is dropped.

mod array;
mod def;
mod hash;
mod locked;
mod lpm;
mod refs;
mod ring;

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mem::arena::Range;
use crate::{Errno, LoadError, Program};
use array::Array;
pub(crate) use array::{ArrayShape, index_of};
use def::check;
use hash::{Hash, NewValue};
#[cfg_attr(
    not(all(feature = "jit", target_arch = "x86_64")),
    expect(unused_imports, reason = "for the JIT")
)]
pub(crate) use hash::{HashShape, KEY, SEEN, STATE};
use lpm::Lpm;
use refs::{InnerMaps, Programs, Targets};
use ring::{Perf, Ring};

pub use def::{BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY, BPF_F_ZERO_SEED, MapDef, MapFlags, MapType};
pub(crate) use refs::ProgramSlot;

/// A map.
#[derive(Debug)]
pub struct Map {
    def: MapDef,
    id: u32,
    cpus: u32,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Array(Array),
    Hash(Hash),
    Targets(Targets),
    Programs(Programs),
    InnerMaps(InnerMaps),
    Lpm(Lpm),
    Ring(Ring),
    Perf(Perf),
}

impl Map {
    /// Makes a map for `cpus` workers.
    pub fn new(def: &MapDef, cpus: u32) -> Result<Map, LoadError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let bad = |reason: String| LoadError::Map {
            map: def.name.clone(),
            reason,
        };
        check(def).map_err(bad)?;
        let percpu = def.kind.is_percpu();
        let storage = match def.kind {
            MapType::Array | MapType::PercpuArray => Array::new(def, cpus, percpu).map(Storage::Array),
            MapType::Hash | MapType::PercpuHash => Hash::new(def, cpus, percpu, false).map(Storage::Hash),
            MapType::LruHash | MapType::LruPercpuHash => {
                Hash::new(def, cpus, percpu, true).map(Storage::Hash)
            }
            MapType::Devmap | MapType::DevmapHash | MapType::Cpumap | MapType::Xskmap => {
                Targets::new(def).map(Storage::Targets)
            }
            MapType::ProgArray => Ok(Storage::Programs(Programs::new(def.max_entries))),
            MapType::ArrayOfMaps | MapType::HashOfMaps => Ok(Storage::InnerMaps(InnerMaps::new(def))),
            MapType::LpmTrie => Lpm::new(def).map(Storage::Lpm),
            MapType::Ringbuf => Ring::new(def.max_entries).map(Storage::Ring),
            MapType::PerfEventArray => Ok(Storage::Perf(Perf::new(def, cpus))),
        };
        let storage =
            storage.map_err(|e| bad(format!("no memory for its {} entries: {e}", def.max_entries)))?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Map {
            def: def.clone(),
            id,
            cpus: cpus.max(1),
            storage,
        })
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.def.name
    }

    /// Type.
    pub fn kind(&self) -> MapType {
        self.def.kind
    }

    /// Definition: sizes, flags.
    pub fn def(&self) -> &MapDef {
        &self.def
    }

    /// A number that no other map of this process has.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Workers a per-CPU map has values for.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Entries in a hash map now; `max_entries` of an array.
    pub fn len(&self) -> u32 {
        match &self.storage {
            Storage::Hash(h) => h.len(),
            Storage::Targets(t) => t.len(),
            Storage::Programs(p) => p.len(),
            Storage::InnerMaps(m) => m.len(),
            Storage::Lpm(l) => l.len(),
            Storage::Perf(p) => p.len(),
            Storage::Ring(_) | Storage::Array(_) => self.def.max_entries,
        }
    }

    /// Whether [`Map::len`] is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key_ok(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() == self.def.key_size as usize {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }

    /// The value of a key: `ENOENT`, `EINVAL` (wrong key size). Of a per-CPU map: all workers' values one after the
    /// other, each padded to 8 bytes, as bpf(2) returns them. Of program and map arrays: the id.
    pub fn lookup(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.key_ok(key)?;
        if self.def.flags & BPF_F_WRONLY != 0 {
            return Err(Errno::PERM);
        }
        match &self.storage {
            Storage::Array(a) => a.read(key),
            Storage::Hash(h) => h.read(key),
            Storage::Targets(t) => t.read(key),
            Storage::Programs(p) => p.id(key),
            Storage::InnerMaps(m) => m.id(key),
            Storage::Lpm(l) => l.read(key),
            Storage::Ring(_) | Storage::Perf(_) => Err(Errno::OPNOTSUPP),
        }
    }

    /// The values of all workers of a per-CPU map, each `value_size` bytes.
    pub fn lookup_percpu(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        if !self.def.kind.is_percpu() {
            return Err(Errno::INVAL);
        }
        let size = self.def.value_size as usize;
        Ok(self
            .lookup(key)?
            .chunks_exact(pad8(size))
            .map(|v| v[..size].to_vec())
            .collect())
    }

    /// Creates or replaces: `E2BIG` when full, `EEXIST`, `ENOENT`, `EINVAL`. A per-CPU map takes all workers' values in
    /// the form that [`Map::lookup`] returns.
    pub fn update(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        self.key_ok(key)?;
        if self.def.flags & BPF_F_RDONLY != 0 {
            return Err(Errno::PERM);
        }
        if !self.def.kind.is_percpu() && value.len() != self.def.value_size as usize {
            return Err(Errno::INVAL);
        }
        match &self.storage {
            Storage::Array(a) if a.is_frozen() => Err(Errno::PERM),
            Storage::Array(a) => a.write(key, value, flags, None),
            Storage::Hash(h) => h.update(key, &NewValue::All(value), flags),
            Storage::Targets(t) => t.write(key, value, flags),
            Storage::Lpm(l) => l.update(key, value, flags),
            Storage::Programs(_) | Storage::InnerMaps(_) | Storage::Ring(_) | Storage::Perf(_) => {
                Err(Errno::INVAL)
            }
        }
    }

    /// [`Map::lookup`] while the value's `struct bpf_spin_lock` is held, so that it is no mixture of two updates (`BPF_F_LOCK`);
    /// `EINVAL` where values have none.
    pub fn lookup_locked(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.key_ok(key)?;
        if self.def.flags & BPF_F_WRONLY != 0 {
            return Err(Errno::PERM);
        }
        match &self.storage {
            Storage::Array(a) => a.read_locked(key),
            Storage::Hash(h) => h.read_locked(key),
            _ => Err(Errno::INVAL),
        }
    }

    /// [`Map::update`] in place, while the value's `struct bpf_spin_lock` is held (`BPF_F_LOCK`); `EINVAL` where values have
    /// none. The lock itself is left as it is by every update.
    pub fn update_locked(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        self.key_ok(key)?;
        if self.def.flags & BPF_F_RDONLY != 0 {
            return Err(Errno::PERM);
        }
        if value.len() != self.def.value_size as usize {
            return Err(Errno::INVAL);
        }
        self.write_locked(key, value, flags)
    }

    fn write_locked(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        match &self.storage {
            Storage::Array(a) if a.is_frozen() => Err(Errno::PERM),
            Storage::Array(a) => a.write_locked(key, value, flags),
            Storage::Hash(h) => h.update_locked(key, value, flags),
            _ => Err(Errno::INVAL),
        }
    }

    /// Says where in its values the `struct bpf_spin_lock` lies.
    pub(crate) fn set_lock(&self, at: u32) {
        match &self.storage {
            Storage::Array(a) => a.set_lock(at),
            Storage::Hash(h) => h.set_lock(at),
            _ => {}
        }
    }

    /// Replaces the values of all workers of a per-CPU map.
    pub fn update_percpu(&self, key: &[u8], values: &[Vec<u8>], flags: MapFlags) -> Result<(), Errno> {
        let size = self.def.value_size as usize;
        let fits = values.len() == self.cpus as usize && values.iter().all(|v| v.len() == size);
        if !self.def.kind.is_percpu() || size == 0 || !fits {
            return Err(Errno::INVAL);
        }
        let mut all = vec![0; pad8(size) * values.len()];
        for (slot, value) in all.chunks_exact_mut(pad8(size)).zip(values) {
            slot[..size].copy_from_slice(value);
        }
        self.update(key, &all, flags)
    }

    /// Puts a program into a `PROG_ARRAY`: `E2BIG` past its end, `EACCES` if the verifier refuses the program, `EINVAL` if it
    /// is not like the programs that jump through the array: for the same hook, `xdp.frags` or not, and with the same struct of
    /// metadata if it reads one.
    ///
    /// The array keeps programs of other objects alive; those of the object that made it are kept by the object itself.
    pub fn set_program(&self, index: u32, program: &Arc<Program>) -> Result<(), Errno> {
        match &self.storage {
            Storage::Programs(p) => p.set(index, program),
            _ => Err(Errno::INVAL),
        }
    }

    /// Says what inner maps must look like; otherwise the first one inserted does.
    pub(crate) fn set_inner_shape(&self, shape: &MapDef) {
        if let Storage::InnerMaps(m) = &self.storage {
            m.set_shape(shape);
        }
    }

    /// Puts a map into an `ARRAY_OF_MAPS` or `HASH_OF_MAPS`; all inner maps must be alike.
    pub fn set_inner(&self, key: &[u8], inner: &Arc<Map>, flags: MapFlags) -> Result<(), Errno> {
        self.key_ok(key)?;
        match &self.storage {
            Storage::InnerMaps(m) => m.set(key, inner, flags),
            _ => Err(Errno::INVAL),
        }
    }

    /// Removes a key: `ENOENT`; `EINVAL` for arrays.
    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.key_ok(key)?;
        if self.def.flags & BPF_F_RDONLY != 0 {
            return Err(Errno::PERM);
        }
        self.remove(key)
    }

    fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        match &self.storage {
            Storage::Array(_) => Err(Errno::INVAL),
            Storage::Hash(h) => h.remove(key),
            Storage::Targets(t) => t.remove(key),
            Storage::Programs(p) => p.remove(key),
            Storage::InnerMaps(m) => m.remove(key),
            Storage::Lpm(l) => l.remove(key),
            Storage::Ring(_) | Storage::Perf(_) => Err(Errno::INVAL),
        }
    }

    /// The key after `key`, or the first when `key` is `None` or no longer there; `ENOENT` at the end.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        if let Some(key) = key {
            self.key_ok(key)?;
        }
        match &self.storage {
            Storage::Hash(h) => h.next_key(key),
            Storage::Targets(t) => t.next_key(key),
            Storage::InnerMaps(m) => m.next_key(key),
            Storage::Lpm(l) => l.next_key(key),
            Storage::Ring(_) | Storage::Perf(_) => Err(Errno::OPNOTSUPP),
            Storage::Array(_) | Storage::Programs(_) => array::next_index(key, self.def.max_entries),
        }
    }

    /// Keys and values by walking [`Map::next_key`]; entries changed meanwhile may be missed, as in the kernel.
    pub fn iter(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let mut last: Option<Vec<u8>> = None;
        std::iter::from_fn(move || {
            loop {
                let key = self.next_key(last.as_deref()).ok()?;
                last = Some(key.clone());
                if let Ok(value) = self.lookup(&key) {
                    return Some((key, value));
                }
            }
        })
    }

    /// Hands up to `max` finished records of a `RINGBUF` to `f`, in order; gives their number. One consumer at a time.
    pub fn consume(&self, max: usize, f: impl FnMut(&[u8])) -> Result<usize, Errno> {
        match &self.storage {
            Storage::Ring(r) => Ok(r.consume(max, f)),
            _ => Err(Errno::INVAL),
        }
    }

    /// Opens the ring of one worker in a `PERF_EVENT_ARRAY`; `EBUSY` when it is open. Until then programs get `ENOENT`.
    pub fn open_perf(&self, worker: u32, bytes: u32) -> Result<(), Errno> {
        match &self.storage {
            Storage::Perf(p) => p.open(worker, bytes),
            _ => Err(Errno::INVAL),
        }
    }

    /// Hands up to `max` records of one worker's ring in a `PERF_EVENT_ARRAY` to `f`.
    pub fn consume_perf(&self, worker: u32, max: usize, f: impl FnMut(&[u8])) -> Result<usize, Errno> {
        match &self.storage {
            Storage::Perf(p) => Ok(p.ring(worker)?.consume(max, f)),
            _ => Err(Errno::INVAL),
        }
    }

    /// Records that found no room, in a `RINGBUF` or in one worker's ring of a `PERF_EVENT_ARRAY`.
    pub fn lost(&self, worker: u32) -> Result<u64, Errno> {
        match &self.storage {
            Storage::Ring(r) => Ok(r.lost()),
            Storage::Perf(p) => Ok(p.ring(worker)?.lost()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Refuses writes from the control side from now on (`BPF_MAP_FREEZE`); programs are not affected.
    pub fn freeze(&self) -> Result<(), Errno> {
        match &self.storage {
            Storage::Array(a) => {
                a.freeze();
                Ok(())
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

/// What engines and helpers use.
impl Map {
    /// The value that a program on worker `cpu` sees.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], cpu: u32) -> Option<Range> {
        match &self.storage {
            Storage::Array(a) => a.find(key, cpu),
            Storage::Hash(h) => h.find(key, cpu),
            Storage::Lpm(l) => l.find(key),
            Storage::Targets(t) => t.find(key),
            _ => None,
        }
    }

    /// The value that the byte at `addr` belongs to.
    pub(crate) fn range_at(&self, addr: u64) -> Option<Range> {
        match &self.storage {
            Storage::Array(a) => a.range_at(addr),
            Storage::Hash(h) => h.range_at(addr),
            Storage::Lpm(l) => l.range_at(addr),
            Storage::Targets(t) => t.range_at(addr),
            _ => None,
        }
    }

    /// Address of the first value of an array: global data.
    pub(crate) fn base_addr(&self) -> Option<u64> {
        match &self.storage {
            Storage::Array(a) => Some(a.base()),
            _ => None,
        }
    }

    /// How an array's values lie, for lookups without a call.
    pub(crate) fn array_shape(&self) -> Option<ArrayShape> {
        match &self.storage {
            Storage::Array(a) => Some(a.shape()),
            _ => None,
        }
    }

    /// How a hash map's entries lie, for lookups without a call.
    #[cfg_attr(
        not(all(feature = "jit", target_arch = "x86_64")),
        expect(dead_code, reason = "for the JIT")
    )]
    pub(crate) fn hash_shape(&self) -> Option<HashShape> {
        match &self.storage {
            Storage::Hash(h) => Some(h.shape()),
            _ => None,
        }
    }

    /// Whether a lookup gives a program a pointer to a value that is its own to read and write.
    pub(crate) fn has_values(&self) -> bool {
        matches!(
            self.storage,
            Storage::Array(_) | Storage::Hash(_) | Storage::Lpm(_)
        )
    }

    /// Whether programs may write values.
    pub(crate) fn is_writable(&self) -> bool {
        self.def.flags & BPF_F_RDONLY_PROG == 0
    }

    /// `bpf_map_update_elem` of a program on worker `cpu`.
    pub(crate) fn program_update(&self, key: &[u8], value: &[u8], flags: u64, cpu: u32) -> Result<(), Errno> {
        if flags & BPF_F_LOCK != 0 {
            return self.write_locked(key, value, MapFlags::from_raw(flags & !BPF_F_LOCK)?);
        }
        let flags = MapFlags::from_raw(flags)?;
        match &self.storage {
            Storage::Array(a) => a.write(key, value, flags, Some(cpu)),
            Storage::Hash(h) => h.update(key, &NewValue::One(value, cpu), flags),
            Storage::Lpm(l) => l.update(key, value, flags),
            _ => Err(Errno::INVAL),
        }
    }

    /// `bpf_map_delete_elem` of a program.
    pub(crate) fn program_delete(&self, key: &[u8]) -> Result<(), Errno> {
        match &self.storage {
            Storage::Array(_) | Storage::Hash(_) | Storage::Lpm(_) => self.remove(key),
            _ => Err(Errno::INVAL),
        }
    }

    /// `bpf_ringbuf_reserve`.
    pub(crate) fn reserve(&self, len: u64) -> Result<Option<Range>, Errno> {
        match &self.storage {
            Storage::Ring(r) => Ok(r.reserve(len)),
            _ => Err(Errno::INVAL),
        }
    }

    /// `bpf_ringbuf_submit` and `_discard`.
    pub(crate) fn commit(&self, record: &Range, discard: bool) {
        if let Storage::Ring(r) = &self.storage {
            r.commit(record, discard);
        }
    }

    /// `bpf_ringbuf_output`; with `worker`, `bpf_perf_event_output`.
    pub(crate) fn output(&self, worker: Option<u32>, parts: [&[u8]; 2]) -> Result<(), Errno> {
        match (&self.storage, worker) {
            (Storage::Ring(r), None) => r.output(parts),
            (Storage::Perf(p), Some(worker)) => p
                .ring(worker)?
                .output(parts)
                .map_err(|e| if e == Errno::AGAIN { Errno::NOSPC } else { e }),
            _ => Err(Errno::INVAL),
        }
    }

    /// `bpf_ringbuf_query`.
    pub(crate) fn query(&self, what: u64) -> Result<u64, Errno> {
        match &self.storage {
            Storage::Ring(r) => Ok(r.query(what)),
            _ => Err(Errno::INVAL),
        }
    }

    /// The value of a map of one value that nobody can change any more: programs may not, and it is frozen.
    pub(crate) fn constant(&self) -> Option<Vec<u8>> {
        let readonly = self.def.flags & BPF_F_RDONLY_PROG != 0;
        match &self.storage {
            Storage::Array(a) if readonly && a.is_frozen() && self.def.max_entries == 1 => {
                a.read(&0u32.to_ne_bytes()).ok()
            }
            _ => None,
        }
    }

    /// What the maps in a map of maps look like, once that is known.
    pub(crate) fn inner_shape(&self) -> Option<&MapDef> {
        match &self.storage {
            Storage::InnerMaps(m) => m.shape(),
            _ => None,
        }
    }

    /// The redirect target at an index.
    pub(crate) fn target(&self, index: u32) -> Option<u32> {
        match &self.storage {
            Storage::Targets(t) => t.get(index),
            _ => None,
        }
    }

    /// Shows the map in a map of maps at this key.
    pub(crate) fn with_inner<R>(&self, key: &[u8], f: impl FnOnce(&Arc<Map>) -> R) -> Option<R> {
        match &self.storage {
            Storage::InnerMaps(m) => m.with(key, f),
            _ => None,
        }
    }

    /// Whether a program may jump through a program array, as those do that did so before.
    pub(crate) fn joins(&self, body: &crate::program::Body) -> bool {
        match &self.storage {
            Storage::Programs(p) => p.joins(body),
            _ => true,
        }
    }

    /// The program at an index of a program array.
    pub(crate) fn program_at(&self, index: u32) -> Option<ProgramSlot> {
        match &self.storage {
            Storage::Programs(p) => p.get(index),
            _ => None,
        }
    }

    /// Names the object that made this map, whose programs need not be kept alive by it.
    pub(crate) fn set_owner(&self, owner: &Arc<crate::program::Collection>) {
        if let Storage::Programs(p) = &self.storage {
            p.set_owner(owner);
        }
    }

    /// The `n`-th live entry or a later one of a map that `bpf_for_each_map_elem` can walk: its position, its key's
    /// region (none for arrays) and its value's.
    pub(crate) fn entry_from(&self, n: u32, cpu: u32) -> Option<(u32, Option<Range>, Range)> {
        match &self.storage {
            Storage::Array(a) => Some((n, None, a.find(&n.to_ne_bytes(), cpu)?)),
            Storage::Hash(h) => h.live_from(n, cpu).map(|(at, key, value)| (at, Some(key), value)),
            _ => None,
        }
    }
}

/// `BPF_F_LOCK` of `bpf_map_update_elem`.
const BPF_F_LOCK: u64 = 4;

/// Values are padded to 8 bytes.
fn pad8(n: usize) -> usize {
    n.next_multiple_of(8)
}

/// Most memory one map may map, in bytes. Pages are only touched when used.
const MAP_BYTES_MAX: usize = 1 << 36;

/// A size that arithmetic did not overflow and that is within reason.
fn bounded(bytes: Option<usize>) -> io::Result<usize> {
    bytes
        .filter(|n| *n <= MAP_BYTES_MAX)
        .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// A number nobody can guess, so that nobody can choose keys that collide.
fn seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
