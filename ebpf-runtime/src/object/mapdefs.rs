//! Map definitions: BTF maps in `.maps`, the older structs in `maps`, and data sections as arrays of one value.

use super::btf::{Btf, Kind};
use super::kconfig::Variable;
use crate::LoadError;
use crate::maps::{BPF_F_RDONLY_PROG, MapDef, MapType};

/// A map as an object defines it.
#[derive(Debug, Clone)]
pub(crate) struct ObjectMap {
    pub def: MapDef,
    /// ELF section and offset that relocations name it by.
    pub section: usize,
    pub offset: u64,
    /// Contents of a data section; `None` for ordinary maps and zeroed sections.
    pub initial: Option<Vec<u8>>,
    /// Whether it is a data section.
    pub data: bool,
    /// Definition of the maps in it, and where its `values` array begins in the definition.
    pub inner: Option<Box<MapDef>>,
    pub values_at: Option<u64>,
    /// Where in a value its `struct bpf_spin_lock` lies.
    pub lock: Option<u32>,
    /// A type that is not supported: programs that name the map cannot be linked, others can.
    pub unsupported: Option<u32>,
    /// Its definition asks for `LIBBPF_PIN_BY_NAME`.
    pub pinned: bool,
    /// What the values in `.kconfig` are.
    pub kconfig: Vec<Variable>,
}

/// The error of a program that names a map of a type that is not supported.
pub(crate) fn unsupported(map: &str, raw: u32) -> LoadError {
    bad(
        map,
        format!(
            "type {raw} of enum bpf_map_type is not supported; ebpf-runtime/README.md lists those that are"
        ),
    )
}

fn bad(map: &str, reason: impl Into<String>) -> LoadError {
    LoadError::Map {
        map: map.into(),
        reason: reason.into(),
    }
}

/// The type by its number, and the number if there is none; an array then stands for the map.
fn kind_of(raw: u32) -> (MapType, Option<u32>) {
    match MapType::from_raw(raw) {
        Some(kind) => (kind, None),
        None => (MapType::Array, Some(raw)),
    }
}

/// What a BTF definition says.
pub(crate) struct BtfMap {
    pub def: MapDef,
    pub inner: Option<Box<MapDef>>,
    pub values_at: Option<u64>,
    pub lock: Option<u32>,
    pub unsupported: Option<u32>,
    pub pinned: bool,
}

/// Reads the struct that a variable in `.maps` has as its type.
pub(crate) fn btf_map(btf: &Btf, name: &str, ty: u32, nested: bool) -> Result<BtfMap, LoadError> {
    let Some(Kind::Composite { members, .. }) = btf.resolve(ty).map(|t| &t.kind) else {
        return Err(bad(name, "its definition is not a struct"));
    };
    let mut raw_kind = 0;
    let mut def = MapDef {
        name: name.into(),
        kind: MapType::Array,
        key_size: 0,
        value_size: 0,
        max_entries: 0,
        flags: 0,
    };
    let mut out_inner = None;
    let mut inner_unsupported = None;
    let mut values_at = None;
    let mut lock = None;
    let mut pinned = false;
    for member in members {
        let field = btf.string(member.name);
        let number = || {
            btf.uint(member.ty)
                .ok_or_else(|| bad(name, format!("`{field}` is not written with __uint")))
        };
        let size = || {
            btf.pointee(member.ty)
                .and_then(|t| btf.size_of(t))
                .ok_or_else(|| bad(name, format!("`{field}` has no size")))
        };
        match field {
            "type" => raw_kind = number()?,
            "max_entries" => def.max_entries = number()?,
            "map_flags" => def.flags = number()?,
            "key_size" => def.key_size = number()?,
            "value_size" => def.value_size = number()?,
            "key" => def.key_size = size()?,
            "value" => {
                def.value_size = size()?;
                lock = btf.pointee(member.ty).and_then(|t| spin_lock(btf, t));
            }
            // LIBBPF_PIN_BY_NAME; what comes of it is the control plane's affair.
            "pinning" => pinned = number()? == 1,
            // A NUMA node is where the worker that touches a page first runs.
            "numa_node" | "map_extra" => {}
            "values" if !nested => {
                values_at = Some(u64::from(member.offset));
                def.value_size = 4;
                if let Some(Kind::Array { elem, .. }) = btf.resolve(member.ty).map(|t| &t.kind) {
                    let target = btf
                        .pointee(*elem)
                        .filter(|t| matches!(btf.resolve(*t).map(|t| &t.kind), Some(Kind::Composite { .. })));
                    if let Some(target) = target {
                        let inner = btf_map(btf, &format!("{name}.inner"), target, true)?;
                        inner_unsupported = inner.unsupported;
                        out_inner = Some(Box::new(inner.def));
                    }
                }
            }
            other => {
                return Err(bad(
                    name,
                    format!("field `{other}` of its definition is not known"),
                ));
            }
        }
    }
    let unsupported;
    (def.kind, unsupported) = kind_of(raw_kind);
    fill_sizes(&mut def);
    Ok(BtfMap {
        unsupported: unsupported.or(inner_unsupported),
        def,
        inner: out_inner,
        values_at,
        lock,
        pinned,
    })
}

/// Where a struct has its `struct bpf_spin_lock`.
fn spin_lock(btf: &Btf, value: u32) -> Option<u32> {
    let Kind::Composite { members, .. } = &btf.resolve(value)?.kind else {
        return None;
    };
    let is_lock = |ty| {
        btf.resolve(ty).is_some_and(|t| {
            matches!(t.kind, Kind::Composite { .. }) && btf.string(t.name) == "bpf_spin_lock"
        })
    };
    members.iter().find(|m| is_lock(m.ty)).map(|m| m.offset)
}

/// Types whose key and value are what they are may leave the sizes out.
fn fill_sizes(def: &mut MapDef) {
    use MapType as T;
    let indexed = matches!(def.kind, T::ProgArray | T::PerfEventArray | T::ArrayOfMaps);
    if indexed && def.key_size == 0 {
        def.key_size = 4;
    }
    if (indexed || def.kind == T::HashOfMaps) && def.value_size == 0 {
        def.value_size = 4;
    }
}

/// Reads a `struct bpf_map_def` of the `maps` section: type, key size, value size, entries and, in all but the oldest
/// objects, flags. What iproute2 and others append after that does not change the map.
pub(crate) fn legacy_map(name: &str, bytes: &[u8]) -> Result<(MapDef, Option<u32>), LoadError> {
    let words: Vec<u32> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|w| u32::from_le_bytes(*w))
        .collect();
    let [kind, key_size, value_size, max_entries, rest @ ..] = words.as_slice() else {
        return Err(bad(
            name,
            format!("its definition has {} bytes, at least 16 are needed", bytes.len()),
        ));
    };
    let (kind, unsupported) = kind_of(*kind);
    let mut def = MapDef {
        name: name.into(),
        kind,
        key_size: *key_size,
        value_size: *value_size,
        max_entries: *max_entries,
        flags: rest.first().copied().unwrap_or(0),
    };
    fill_sizes(&mut def);
    Ok((def, unsupported))
}

/// The array of one value that stands for a data section.
pub(crate) fn data_map(name: &str, size: u32) -> MapDef {
    let read_only = name == ".rodata" || name.starts_with(".rodata.") || name == ".kconfig";
    MapDef {
        name: name.into(),
        kind: MapType::Array,
        key_size: 4,
        value_size: size,
        max_entries: 1,
        flags: if read_only { BPF_F_RDONLY_PROG } else { 0 },
    }
}

/// Whether a section holds global variables.
pub(crate) fn is_data(name: &str) -> bool {
    [".rodata", ".data", ".bss"].iter().any(|p| {
        name.strip_prefix(p)
            .is_some_and(|r| r.is_empty() || r.starts_with('.'))
    })
}
