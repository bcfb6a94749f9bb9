//! eBPF maps with the kernel's semantics: shared by the workers that run programs and by any number of control
//! threads. Values live in memory that stays mapped until the map is dropped.

use crate::{Errno, LoadError};

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
pub enum MapFlags {
    /// Create or replace.
    #[default]
    Any,
    /// Create only: `EEXIST` when the key is there.
    NoExist,
    /// Replace only: `ENOENT` when the key is not there.
    Exist,
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
}

impl Map {
    /// Makes a map for `cpus` workers.
    pub fn new(def: &MapDef, _cpus: u32) -> Result<Map, LoadError> {
        Err(LoadError::Map {
            map: def.name.clone(),
            reason: "maps are not in this build yet".into(),
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

    /// The value of a key: `ENOENT`, `EINVAL` (wrong key size). Of a per-CPU map: all workers' values one after the
    /// other, each padded to 8 bytes, as bpf(2) returns them.
    pub fn lookup(&self, _key: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// The values of all workers of a per-CPU map, each `value_size` bytes.
    pub fn lookup_percpu(&self, _key: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Creates or replaces: `E2BIG` when full, `EEXIST`, `ENOENT`, `EINVAL`. A per-CPU map takes all workers' values in
    /// the form that [`Map::lookup`] returns.
    pub fn update(&self, _key: &[u8], _value: &[u8], _flags: MapFlags) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Replaces the values of all workers of a per-CPU map.
    pub fn update_percpu(&self, _key: &[u8], _values: &[Vec<u8>], _flags: MapFlags) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Removes a key: `ENOENT`; `EINVAL` for arrays.
    pub fn delete(&self, _key: &[u8]) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// The key after `key`, or the first when `key` is `None` or no longer there; `ENOENT` at the end.
    pub fn next_key(&self, _key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        Err(Errno::OPNOTSUPP)
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
}
