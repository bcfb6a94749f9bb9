//! `map.*`, with the errors of bpf(2) in words.

use super::{Nothing, add, from_hex, to_hex};
use crate::app::AppHandle;
use crate::control::protocol::{ControlError, ErrorCode};
use millrace_ebpf::{Errno, Map, MapDef, MapFlags, MapType};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Entries in a page of a dump unless the client says otherwise, and at most.
const PAGE: usize = 1000;
const LARGEST_PAGE: usize = 10_000;
/// A page ends once it holds this many bytes of keys and values, so that it fits an answer.
const PAGE_BYTES: usize = 2 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dump {
    name: String,
    /// Last key of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lookup {
    name: String,
    key: String,
    /// Hold the value's spin lock meanwhile (`BPF_F_LOCK`).
    #[serde(default)]
    lock: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    name: String,
    key: String,
    /// Of a per-CPU map: the value of every CPU.
    value: Option<String>,
    /// Of a map of maps: the inner map's name.
    map: Option<String>,
    /// Of a prog_array: the program's name.
    program: Option<String>,
    /// `any`, `noexist` or `exist`.
    flags: Option<String>,
    /// Hold the value's spin lock meanwhile (`BPF_F_LOCK`).
    #[serde(default)]
    lock: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateBatch {
    name: String,
    entries: Vec<Entry>,
    flags: Option<String>,
    #[serde(default)]
    lock: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBatch {
    name: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    #[serde(default)]
    flags: u32,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "map.list", |app, _: Nothing| {
        Ok(app
            .maps()
            .list()
            .iter()
            .map(|(name, map)| shown(app, name, map))
            .collect())
    });
    add(control, app, "map.show", |app, args: Named| {
        let map = app.maps().get(&args.name)?;
        Ok(shown(app, &args.name, &map))
    });
    add(control, app, "map.dump", dump);
    add(control, app, "map.lookup", |app, args: Lookup| {
        let map = app.maps().get(&args.name)?;
        let key = from_hex(&args.key)?;
        let found = match args.lock {
            true => map.lookup_locked(&key).map(|value| shown_entry(&key, &value)),
            false => entry(&map, &key),
        };
        let what = if args.lock { "locked lookup" } else { "lookup" };
        found.map_err(|errno| told(errno, what, &args.name, &map))
    });
    add(control, app, "map.update", update);
    add(control, app, "map.update_batch", update_batch);
    add(control, app, "map.delete_batch", delete_batch);
    add(control, app, "map.create", create);
    add(control, app, "map.pin", |app, args: Named| {
        app.maps().pin(&args.name)?;
        Ok(Value::Null)
    });
    add(control, app, "map.unpin", |app, args: Named| {
        app.maps().unpin(&args.name)?;
        Ok(Value::Null)
    });
    add(control, app, "map.delete", |app, args: Key| {
        let map = app.maps().get(&args.name)?;
        map.delete(&from_hex(&args.key)?)
            .map_err(|errno| told(errno, "delete", &args.name, &map))?;
        Ok(Value::Null)
    });
}

fn shown(app: &AppHandle, name: &str, map: &Map) -> Value {
    let def = map.def();
    json!({
        "name": name, "id": map.id(), "type": def.kind.name(), "key_size": def.key_size,
        "value_size": def.value_size, "max_entries": def.max_entries, "flags": def.flags,
        "cpus": if per_cpu(map) { Value::from(map.cpus()) } else { Value::Null },
        "pinned": app.maps().is_pinned(name),
    })
}

fn per_cpu(map: &Map) -> bool {
    matches!(
        map.kind(),
        MapType::PercpuHash | MapType::PercpuArray | MapType::LruPercpuHash
    )
}

fn entry(map: &Map, key: &[u8]) -> Result<Value, Errno> {
    if per_cpu(map) {
        let values: Vec<String> = map
            .lookup_percpu(key)?
            .iter()
            .map(|value| to_hex(value))
            .collect();
        return Ok(json!({"key": to_hex(key), "values": values}));
    }
    Ok(shown_entry(key, &map.lookup(key)?))
}

fn shown_entry(key: &[u8], value: &[u8]) -> Value {
    json!({"key": to_hex(key), "value": to_hex(value)})
}

fn dump(app: &AppHandle, args: Dump) -> Result<Value, ControlError> {
    let map = app.maps().get(&args.name)?;
    let limit = args.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let mut last = args.after.as_deref().map(from_hex).transpose()?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let mut more = true;
    // Keys that are deleted meanwhile cost a step and no entry, so steps are bounded too.
    for _ in 0..LARGEST_PAGE {
        if entries.len() >= limit || bytes >= PAGE_BYTES {
            break;
        }
        let key = match map.next_key(last.as_deref()) {
            Ok(key) => key,
            Err(Errno::NOENT) => {
                more = false;
                break;
            }
            Err(errno) => return Err(told(errno, "dump", &args.name, &map)),
        };
        match entry(&map, &key) {
            Ok(entry) => {
                bytes += key.len() + map.def().value_size as usize * map.cpus().max(1) as usize;
                entries.push(entry);
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(told(errno, "dump", &args.name, &map)),
        }
        last = Some(key);
    }
    let next = if more { last.map(|key| to_hex(&key)) } else { None };
    Ok(json!({"entries": entries, "next": next}))
}

fn update(app: &AppHandle, args: Update) -> Result<Value, ControlError> {
    let map = app.maps().get(&args.name)?;
    let key = from_hex(&args.key)?;
    let flags = flags(args.flags.as_deref())?;
    let outcome = match (&args.value, &args.map, &args.program) {
        (Some(value), None, None) => put(&map, &key, from_hex(value)?, flags, args.lock),
        // No value that a lock could be in.
        (None, _, _) if args.lock => Err(Errno::INVAL),
        (None, Some(inner), None) => map.set_inner(&key, &app.maps().get(inner)?, flags),
        (None, None, Some(program)) => {
            let program = app.programs().get(program)?.program;
            let index = <[u8; 4]>::try_from(key.as_slice()).map(u32::from_ne_bytes);
            index.map_or(Err(Errno::INVAL), |index| map.set_program(index, &program))
        }
        _ => {
            return Err(ControlError::invalid(
                "give one of value (hex), map (a name, into a map of maps) and program (a name, into a prog_array)",
            ));
        }
    };
    let what = if args.lock { "locked update" } else { "update" };
    outcome.map_err(|errno| told(errno, what, &args.name, &map))?;
    Ok(Value::Null)
}

fn flags(word: Option<&str>) -> Result<MapFlags, ControlError> {
    match word {
        None | Some("any") => Ok(MapFlags::Any),
        Some("noexist") => Ok(MapFlags::NoExist),
        Some("exist") => Ok(MapFlags::Exist),
        Some(other) => Err(ControlError::invalid(format!(
            "flags {other:?} are not any, noexist or exist"
        ))),
    }
}

fn put(map: &Map, key: &[u8], value: Vec<u8>, flags: MapFlags, lock: bool) -> Result<(), Errno> {
    if lock {
        map.update_locked(key, &value, flags)
    } else if per_cpu(map) {
        let values = vec![value; map.cpus() as usize];
        map.update_percpu(key, &values, flags)
    } else {
        map.update(key, &value, flags)
    }
}

/// In the order given, up to the first that fails, as `BPF_MAP_UPDATE_BATCH`.
fn update_batch(app: &AppHandle, args: UpdateBatch) -> Result<Value, ControlError> {
    let map = app.maps().get(&args.name)?;
    let flags = flags(args.flags.as_deref())?;
    for (done, entry) in args.entries.iter().enumerate() {
        let (key, value) = (from_hex(&entry.key)?, from_hex(&entry.value)?);
        put(&map, &key, value, flags, args.lock)
            .map_err(|errno| after(done, told(errno, "update", &args.name, &map)))?;
    }
    Ok(json!({"count": args.entries.len()}))
}

/// In the order given, up to the first that fails, as `BPF_MAP_DELETE_BATCH`.
fn delete_batch(app: &AppHandle, args: DeleteBatch) -> Result<Value, ControlError> {
    let map = app.maps().get(&args.name)?;
    for (done, key) in args.keys.iter().enumerate() {
        let outcome = map.delete(&from_hex(key)?);
        outcome.map_err(|errno| after(done, told(errno, "delete", &args.name, &map)))?;
    }
    Ok(json!({"count": args.keys.len()}))
}

/// Says how much of a batch was done.
fn after(done: usize, error: ControlError) -> ControlError {
    let message = format!("{} (entry {}; those before it are done)", error.message, done + 1);
    ControlError { message, ..error }
}

/// A map of no program, for map-in-map updates and for objects that reuse it; pinned until it is unpinned.
fn create(app: &AppHandle, args: Create) -> Result<Value, ControlError> {
    let kind = MapType::ALL.into_iter().find(|kind| kind.name() == args.kind);
    let kind = kind.ok_or_else(|| {
        let all: Vec<_> = MapType::ALL.iter().map(|kind| kind.name()).collect();
        ControlError::invalid(format!(
            "unknown map type {:?}; there are {}",
            args.kind,
            all.join(", ")
        ))
    })?;
    if args.name.is_empty() || args.name.len() > 64 || args.name.contains(char::is_whitespace) {
        return Err(ControlError::invalid(format!(
            "{:?} is not usable as a name; use one short word",
            args.name
        )));
    }
    let def = MapDef {
        name: args.name.clone(),
        kind,
        key_size: args.key_size,
        value_size: args.value_size,
        max_entries: args.max_entries,
        flags: args.flags,
    };
    let map = Map::new(&def, app.workers() as u32).map_err(|e| ControlError::invalid(e.to_string()))?;
    let map = Arc::new(map);
    app.maps().insert_new(&args.name, map.clone())?;
    Ok(shown(app, &args.name, &map))
}

fn told(errno: Errno, what: &str, name: &str, map: &Map) -> ControlError {
    let def = map.def();
    let (code, text) = match errno {
        Errno::NOENT => (ErrorCode::NotFound, "there is no such key".to_string()),
        Errno::EXIST => (ErrorCode::Exists, "the key is there already".to_string()),
        Errno::TOOBIG => (
            ErrorCode::Failed,
            format!(
                "the map is full or the index too large ({} entries)",
                def.max_entries
            ),
        ),
        Errno::INVAL => (
            ErrorCode::InvalidArgument,
            match def.kind {
                MapType::ProgArray => "not possible like this: an index has 4 bytes, and programs are like those that jump through the array: for the same hook, xdp.frags or not, and with the same struct millrace_rx_meta".into(),
                _ if what.starts_with("locked") => format!(
                    "not possible like this: a key has {} bytes, a value {}, and there is a struct bpf_spin_lock in it",
                    def.key_size, def.value_size
                ),
                _ => format!(
                    "not possible like this: a key has {} bytes, a value {}",
                    def.key_size, def.value_size
                ),
            },
        ),
        Errno::OPNOTSUPP => (
            ErrorCode::Unsupported,
            format!("a {} cannot do that", def.kind.name()),
        ),
        errno => (ErrorCode::Failed, errno.to_string()),
    };
    ControlError::new(code, format!("{what} in map {name}: {text}"))
}
