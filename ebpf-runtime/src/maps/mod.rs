//! eBPF maps with the kernel's semantics: shared by the workers that run programs and by any number of control
//! threads. Values live in memory that stays mapped until the map is dropped.

mod array;
mod hash;
mod refs;

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mem::arena::Range;
use crate::{Errno, LoadError, Program};
use array::Array;
use hash::{Hash, NewValue};
use refs::{InnerMaps, Programs, Targets};

pub(crate) use refs::ProgramSlot;

/// Creation flags of linux/bpf.h that mean something here.
pub const BPF_F_RDONLY: u32 = 1 << 3;
/// Control side may not read.
pub const BPF_F_WRONLY: u32 = 1 << 4;
/// Hash seed 0, for repeatable order.
pub const BPF_F_ZERO_SEED: u32 = 1 << 6;
/// Programs may not write.
pub const BPF_F_RDONLY_PROG: u32 = 1 << 7;

/// Longest key: programs build keys on a stack frame of 512 bytes.
const KEY_MAX: u32 = 512;
/// Longest value.
const VALUE_MAX: u32 = 16 << 20;
/// Most memory one map may map, in bytes. Pages are only touched when used.
const MAP_BYTES_MAX: usize = 1 << 36;

/// Map types of `enum bpf_map_type` (linux/bpf.h) that this runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum MapType {
    Hash = 1,
    Array = 2,
    ProgArray = 3,
    PerfEventArray = 4,
    PercpuHash = 5,
    PercpuArray = 6,
    LruHash = 9,
    LruPercpuHash = 10,
    LpmTrie = 11,
    ArrayOfMaps = 12,
    HashOfMaps = 13,
    Devmap = 14,
    Cpumap = 16,
    Xskmap = 17,
    DevmapHash = 25,
    Ringbuf = 27,
}

/// `flags` of an update: `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum MapFlags {
    /// Create or replace.
    #[default]
    Any,
    /// Create only: `EEXIST` when the key is there.
    NoExist,
    /// Replace only: `ENOENT` when the key is not there.
    Exist,
}

impl MapFlags {
    /// From the number a program or client gives; `BPF_F_LOCK` (4) is accepted and means the same as without.
    pub fn from_raw(raw: u64) -> Result<MapFlags, Errno> {
        match raw & !4 {
            0 => Ok(MapFlags::Any),
            1 => Ok(MapFlags::NoExist),
            2 => Ok(MapFlags::Exist),
            _ => Err(Errno::INVAL),
        }
    }
}

impl MapType {
    /// All types.
    pub const ALL: [MapType; 16] = [
        MapType::Hash,
        MapType::Array,
        MapType::ProgArray,
        MapType::PerfEventArray,
        MapType::PercpuHash,
        MapType::PercpuArray,
        MapType::LruHash,
        MapType::LruPercpuHash,
        MapType::LpmTrie,
        MapType::ArrayOfMaps,
        MapType::HashOfMaps,
        MapType::Devmap,
        MapType::Cpumap,
        MapType::Xskmap,
        MapType::DevmapHash,
        MapType::Ringbuf,
    ];

    /// From the number in an object.
    pub fn from_raw(raw: u32) -> Option<MapType> {
        MapType::ALL.into_iter().find(|t| *t as u32 == raw)
    }

    /// The name that bpftool uses.
    pub fn name(self) -> &'static str {
        match self {
            MapType::Hash => "hash",
            MapType::Array => "array",
            MapType::ProgArray => "prog_array",
            MapType::PerfEventArray => "perf_event_array",
            MapType::PercpuHash => "percpu_hash",
            MapType::PercpuArray => "percpu_array",
            MapType::LruHash => "lru_hash",
            MapType::LruPercpuHash => "lru_percpu_hash",
            MapType::LpmTrie => "lpm_trie",
            MapType::ArrayOfMaps => "array_of_maps",
            MapType::HashOfMaps => "hash_of_maps",
            MapType::Devmap => "devmap",
            MapType::Cpumap => "cpumap",
            MapType::Xskmap => "xskmap",
            MapType::DevmapHash => "devmap_hash",
            MapType::Ringbuf => "ringbuf",
        }
    }

    /// Whether every worker has a value of its own.
    pub fn is_percpu(self) -> bool {
        matches!(
            self,
            MapType::PercpuHash | MapType::PercpuArray | MapType::LruPercpuHash
        )
    }
}

/// A map definition, out of an object or made by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapDef {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Most entries it can hold.
    pub max_entries: u32,
    /// `BPF_F_*` creation flags.
    pub flags: u32,
}

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
            MapType::LpmTrie | MapType::PerfEventArray | MapType::Ringbuf => {
                return Err(bad(format!("type {} is not in this build", def.kind.name())));
            }
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
            Storage::Array(_) => self.def.max_entries,
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
            Storage::Programs(_) | Storage::InnerMaps(_) => Err(Errno::INVAL),
        }
    }

    /// Replaces the values of all workers of a per-CPU map.
    pub fn update_percpu(&self, key: &[u8], values: &[Vec<u8>], flags: MapFlags) -> Result<(), Errno> {
        let size = self.def.value_size as usize;
        if values.len() != self.cpus as usize || values.iter().any(|v| v.len() != size) {
            return Err(Errno::INVAL);
        }
        let mut all = vec![0; pad8(size) * values.len()];
        for (slot, value) in all.chunks_exact_mut(pad8(size)).zip(values) {
            slot[..size].copy_from_slice(value);
        }
        self.update(key, &all, flags)
    }

    /// Puts a program into a `PROG_ARRAY`.
    ///
    /// The array keeps programs of other objects alive; those of the object that made it are kept by the object itself.
    pub fn set_program(&self, index: u32, program: &Arc<Program>) -> Result<(), Errno> {
        match &self.storage {
            Storage::Programs(p) => p.set(index, program),
            _ => Err(Errno::INVAL),
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
            _ => None,
        }
    }

    /// The value that the byte at `addr` belongs to.
    pub(crate) fn range_at(&self, addr: u64) -> Option<Range> {
        match &self.storage {
            Storage::Array(a) => a.range_at(addr),
            Storage::Hash(h) => h.range_at(addr),
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

    /// `bpf_map_update_elem` of a program on worker `cpu`.
    pub(crate) fn program_update(&self, key: &[u8], value: &[u8], flags: u64, cpu: u32) -> Result<(), Errno> {
        let flags = MapFlags::from_raw(flags)?;
        match &self.storage {
            Storage::Array(a) => a.write(key, value, flags, Some(cpu)),
            Storage::Hash(h) => h.update(key, &NewValue::One(value, cpu), flags),
            _ => Err(Errno::INVAL),
        }
    }

    /// `bpf_map_delete_elem` of a program.
    pub(crate) fn program_delete(&self, key: &[u8]) -> Result<(), Errno> {
        match &self.storage {
            Storage::Array(_) | Storage::Hash(_) => self.remove(key),
            _ => Err(Errno::INVAL),
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

/// What the kernel's `map_alloc_check` of each type refuses.
fn check(def: &MapDef) -> Result<(), String> {
    use MapType as T;
    let size = |what: &str, got: u32, want: &[u32]| match want.contains(&got) {
        true => Ok(()),
        false => Err(format!("{} size {got}, must be {want:?}", what)),
    };
    if def.max_entries == 0 && def.kind != T::PerfEventArray {
        return Err("max_entries is 0; set it in the object or with Loader::map_max_entries".into());
    }
    match def.kind {
        T::Array | T::PercpuArray => size("key", def.key_size, &[4])?,
        T::ProgArray | T::PerfEventArray | T::ArrayOfMaps => {
            size("key", def.key_size, &[4])?;
            size("value", def.value_size, &[4])?;
        }
        T::HashOfMaps => size("value", def.value_size, &[4])?,
        T::Devmap | T::DevmapHash | T::Cpumap => {
            size("key", def.key_size, &[4])?;
            size("value", def.value_size, &[4, 8])?;
        }
        T::Xskmap => {
            size("key", def.key_size, &[4])?;
            size("value", def.value_size, &[4])?;
        }
        T::LpmTrie if !(5..=260).contains(&def.key_size) => {
            return Err(format!(
                "key size {} of an LPM trie, must be 5 to 260",
                def.key_size
            ));
        }
        T::Ringbuf => {
            size("key", def.key_size, &[0])?;
            size("value", def.value_size, &[0])?;
            if !def.max_entries.is_power_of_two() || !def.max_entries.is_multiple_of(4096) {
                return Err(format!(
                    "ring of {} bytes, must be a power of two of pages",
                    def.max_entries
                ));
            }
            return Ok(());
        }
        _ => {}
    }
    if def.key_size == 0 || def.key_size > KEY_MAX {
        return Err(format!("key size {}, must be 1 to {KEY_MAX}", def.key_size));
    }
    if def.value_size == 0 || def.value_size > VALUE_MAX {
        return Err(format!("value size {}, must be 1 to {VALUE_MAX}", def.value_size));
    }
    Ok(())
}

/// Values are padded to 8 bytes.
fn pad8(n: usize) -> usize {
    n.next_multiple_of(8)
}

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
