//! `map.*`, with the errors of bpf(2) in words.

use super::{Nothing, add, from_hex, to_hex};
use crate::app::AppHandle;
use crate::control::protocol::{ControlError, ErrorCode};
use millrace_ebpf::{Errno, Map, MapFlags, MapType};
use serde::Deserialize;
use serde_json::{Value, json};

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
struct Update {
    name: String,
    key: String,
    /// Of a per-CPU map: the value of every CPU.
    value: String,
    /// `any`, `noexist` or `exist`.
    flags: Option<String>,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "map.list", |app, _: Nothing| {
        Ok(app
            .maps()
            .list()
            .iter()
            .map(|(name, map)| shown(name, map))
            .collect())
    });
    add(control, app, "map.show", |app, args: Named| {
        let map = app.maps().get(&args.name)?;
        Ok(shown(&args.name, &map))
    });
    add(control, app, "map.dump", dump);
    add(control, app, "map.lookup", |app, args: Key| {
        let map = app.maps().get(&args.name)?;
        let key = from_hex(&args.key)?;
        entry(&map, &key).map_err(|errno| told(errno, "lookup", &args.name, &map))
    });
    add(control, app, "map.update", update);
    add(control, app, "map.delete", |app, args: Key| {
        let map = app.maps().get(&args.name)?;
        map.delete(&from_hex(&args.key)?)
            .map_err(|errno| told(errno, "delete", &args.name, &map))?;
        Ok(Value::Null)
    });
}

fn shown(name: &str, map: &Map) -> Value {
    let def = map.def();
    json!({
        "name": name, "id": map.id(), "type": def.kind.name(), "key_size": def.key_size,
        "value_size": def.value_size, "max_entries": def.max_entries, "flags": def.flags,
        "cpus": if per_cpu(map) { Value::from(map.cpus()) } else { Value::Null },
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
    Ok(json!({"key": to_hex(key), "value": to_hex(&map.lookup(key)?)}))
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
    let (key, value) = (from_hex(&args.key)?, from_hex(&args.value)?);
    let flags = match args.flags.as_deref() {
        None | Some("any") => MapFlags::Any,
        Some("noexist") => MapFlags::NoExist,
        Some("exist") => MapFlags::Exist,
        Some(other) => {
            return Err(ControlError::invalid(format!(
                "flags {other:?} are not any, noexist or exist"
            )));
        }
    };
    let outcome = if per_cpu(&map) {
        let values = vec![value; map.cpus() as usize];
        map.update_percpu(&key, &values, flags)
    } else {
        map.update(&key, &value, flags)
    };
    outcome.map_err(|errno| told(errno, "update", &args.name, &map))?;
    Ok(Value::Null)
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
            format!(
                "not possible like this: a key has {} bytes, a value {}",
                def.key_size, def.value_size
            ),
        ),
        Errno::OPNOTSUPP => (
            ErrorCode::Unsupported,
            format!("a {} cannot do that", def.kind.name()),
        ),
        errno => (ErrorCode::Failed, errno.to_string()),
    };
    ControlError::new(code, format!("{what} in map {name}: {text}"))
}
