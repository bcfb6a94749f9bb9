//! Map types, flags and definitions, and which definitions make sense.

use crate::Errno;

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

/// What the kernel's `map_alloc_check` of each type refuses.
pub(super) fn check(def: &MapDef) -> Result<(), String> {
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
