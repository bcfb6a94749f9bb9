//! What programs tell: records of ring buffers and perf event arrays, and what they print.

use super::{add, to_hex};
use crate::app::AppHandle;
use crate::control::protocol::{ControlError, ErrorCode};
use millrace_ebpf::{Errno, Map, MapType, trace};
use serde::Deserialize;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// Longest a read waits.
const WAIT: Duration = Duration::from_secs(2);
/// Records or lines in an answer.
const MOST: usize = 1000;
/// Bytes of records in an answer.
const BYTES: usize = 4 << 20;
/// Bytes of a perf event array's ring a worker, made when it is read for the first time.
const PERF_RING: u32 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    name: String,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    /// Number of the first line wanted; left out: those that come from now on.
    from: Option<u64>,
    #[serde(default)]
    wait_ms: u64,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "map.events", events);
    add(control, app, "trace.read", |_, args: Trace| {
        let Some(from) = args.from else {
            return Ok(json!({"lines": [], "next": trace::next()}));
        };
        let lines = waited(args.wait_ms, || {
            let lines = trace::read(from, MOST);
            (!lines.is_empty()).then_some(lines)
        })
        .unwrap_or_default();
        let next = lines.last().map_or(from, |line| line.number + 1);
        let lines: Vec<Value> = lines
            .iter()
            .map(|l| json!({"number": l.number, "time": l.time, "worker": l.worker, "text": l.text}))
            .collect();
        Ok(json!({"lines": lines, "next": next}))
    });
}

/// Looks again and again until there is something or the time is over.
fn waited<T>(wait_ms: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn events(app: &AppHandle, args: Events) -> Result<Value, ControlError> {
    let map = app.maps().get(&args.name)?;
    if !matches!(map.kind(), MapType::Ringbuf | MapType::PerfEventArray) {
        return Err(ControlError::new(
            ErrorCode::Unsupported,
            format!(
                "map {} is a {}; events come from a ringbuf or a perf_event_array",
                args.name,
                map.kind().name()
            ),
        ));
    }
    let workers = app.workers() as u32;
    if map.kind() == MapType::PerfEventArray {
        for worker in 0..workers {
            match map.open_perf(worker, PERF_RING) {
                // Busy: it is open. Too big: the array has fewer places than there are workers.
                Ok(()) | Err(Errno::BUSY | Errno::TOOBIG) => {}
                Err(errno) => return Err(ControlError::failed(format!("map {}: {errno}", args.name))),
            }
        }
    }
    let taken = waited(args.wait_ms, || {
        let records = take(&map, workers);
        (!records.is_empty()).then_some(records)
    });
    let lost: u64 = match map.kind() {
        MapType::Ringbuf => map.lost(0).unwrap_or(0),
        _ => (0..workers).filter_map(|worker| map.lost(worker).ok()).sum(),
    };
    Ok(json!({"records": taken.unwrap_or_default(), "lost": lost}))
}

fn take(map: &Map, workers: u32) -> Vec<Value> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    if map.kind() == MapType::Ringbuf {
        while records.len() < MOST && bytes < BYTES {
            let one = map.consume(1, |record| {
                bytes += record.len();
                records.push(json!({"data": to_hex(record)}));
            });
            if one != Ok(1) {
                break;
            }
        }
        return records;
    }
    for worker in 0..workers {
        while records.len() < MOST && bytes < BYTES {
            let one = map.consume_perf(worker, 1, |record| {
                bytes += record.len();
                records.push(json!({"cpu": worker, "data": to_hex(record)}));
            });
            if one != Ok(1) {
                break;
            }
        }
    }
    records
}
