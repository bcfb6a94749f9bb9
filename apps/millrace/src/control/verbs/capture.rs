//! `capture.*`: frames as they come in, or as programs leave them, with verdict, queue and hints.

use super::{QueueArg, add, to_json};
use crate::app::AppHandle;
use crate::capture::filter::Filter;
use crate::capture::session::{Part, Wanted};
use crate::capture::{Point, SNAP, SNAP_MAX};
use crate::config::QueueSel;
use crate::control::protocol::ControlError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest a read waits for a frame.
const WAIT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    port: String,
    #[serde(default)]
    queue: QueueArg,
    #[serde(default)]
    point: Point,
    snaplen: Option<usize>,
    #[serde(default)]
    filter: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    id: u64,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: u64,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "capture.start", |app, args: Start| {
        let snap = args.snaplen.unwrap_or(SNAP);
        if !(1..=SNAP_MAX).contains(&snap) {
            return Err(ControlError::invalid(format!(
                "a snaplen of {snap} bytes; give 1 to {SNAP_MAX}"
            )));
        }
        let filter = Filter::parse(&args.filter).map_err(|e| ControlError::invalid(e.to_string()))?;
        let wanted = Wanted {
            port: args.port,
            queues: QueueSel::from(args.queue),
            point: args.point,
            snap,
            filter,
        };
        let (id, records) = app.capture_start(&wanted)?;
        let all = app.port(&wanted.port)?.queues;
        let queues: Vec<u16> = match wanted.queues {
            QueueSel::All => (0..all).collect(),
            QueueSel::N(queue) => vec![queue],
        };
        Ok(json!({"id": id, "queues": queues, "snaplen": snap, "records": records}))
    });
    add(control, app, "capture.read", |app, args: Read| {
        let wait = Duration::from_millis(args.wait_ms).min(WAIT);
        told(app.capture_read(args.id, wait)?)
    });
    add(control, app, "capture.stop", |app, args: Which| {
        told(app.capture_stop(args.id)?)
    });
}

fn told(part: Part) -> Result<Value, ControlError> {
    Ok(json!({
        "frames": to_json(part.frames)?, "matched": part.matched, "dropped": part.dropped,
    }))
}
