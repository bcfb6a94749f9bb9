//! The framework's own verbs: `port`, `queue`, `prog`, `chain`, `map`, and those about the instance itself.

mod capture;
mod chain;
mod events;
mod map;
mod port;
mod prog;

use super::protocol::ControlError;
use super::registry::{ControlRegistry, parse_args};
use super::server;
use crate::app::AppHandle;
use crate::config::QueueSel;
use crate::worker::counters::COUNTERS;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Makes an application answer all of them.
pub(crate) fn register_all(app: &AppHandle) {
    let control = app.control();
    let registry = control.clone();
    control.register("version", move |_| Ok(server::version(&registry)));
    control.register("counters", |_| {
        let all = COUNTERS
            .iter()
            .map(|c| json!({"name": c.name, "unit": c.unit, "meaning": c.meaning}));
        Ok(all.collect())
    });
    add(control, app, "stats", |app, _: Nothing| to_json(app.stats()));
    add(control, app, "stop", |app, _: Nothing| {
        app.request_stop("asked for by control");
        Ok(Value::Null)
    });
    port::register(app);
    prog::register(app);
    chain::register(app);
    capture::register(app);
    map::register(app);
    events::register(app);
}

/// A verb without arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Registers a verb whose arguments are read into a struct.
fn add<A: DeserializeOwned>(
    control: &ControlRegistry,
    app: &AppHandle,
    verb: &str,
    handler: impl Fn(&AppHandle, A) -> Result<Value, ControlError> + Send + Sync + 'static,
) {
    let app = app.clone();
    control.register(verb, move |args| handler(&app, parse_args(args)?));
}

fn to_json(value: impl Serialize) -> Result<Value, ControlError> {
    serde_json::to_value(value).map_err(|e| ControlError::failed(format!("cannot write the answer: {e}")))
}

/// `"queue": 3`, `"queue": "all"`, or left out for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(untagged)]
enum QueueArg {
    N(u16),
    Word(All),
    #[default]
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum All {
    All,
}

impl From<QueueArg> for QueueSel {
    fn from(arg: QueueArg) -> QueueSel {
        match arg {
            QueueArg::N(queue) => QueueSel::N(queue),
            QueueArg::Word(All::All) | QueueArg::Absent => QueueSel::All,
        }
    }
}

/// Bytes as the socket carries them: two hex digits a byte.
fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn from_hex(text: &str) -> Result<Vec<u8>, ControlError> {
    let bad = || {
        ControlError::invalid(format!(
            "{text:?} is not hex; write two digits a byte, such as 0a000001"
        ))
    };
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).map_err(|_| bad()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_number_or_all_or_left_out() {
        let of = |text: &str| serde_json::from_str::<QueueArg>(text).map(QueueSel::from);
        assert_eq!(of("3").expect("number"), QueueSel::N(3));
        assert_eq!(of("\"all\"").expect("all"), QueueSel::All);
        assert!(of("\"some\"").is_err() && of("-1").is_err() && of("70000").is_err());
        assert_eq!(QueueSel::from(QueueArg::default()), QueueSel::All);
    }

    #[test]
    fn hex_comes_back_as_it_went_and_bad_hex_is_refused() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)).expect("hex"), bytes);
        for bad in ["0", "0g", "0x", "ää"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }
}
