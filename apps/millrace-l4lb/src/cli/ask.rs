//! Questions to a running balancer, and its answers as tables.

use std::io::{Write, stdout};

use millrace::control::{Client, default_run_dir};
use serde_json::{Value, json};

use super::{Ask, CliError, Instance};

pub(super) fn ask(question: Ask) -> Result<(), CliError> {
    let (instance, verb, args, show): (Instance, _, _, fn(&Value) -> String) = match question {
        Ask::Status { vip, instance } => (instance, "lb.vips", json!({ "name": vip }), status),
        Ask::Stats { instance } => (instance, "lb.stats", json!({}), stats),
        Ask::Flow {
            protocol,
            client,
            vip,
            instance,
        } => {
            let args = json!({ "protocol": protocol, "source": client, "destination": vip });
            (instance, "lb.flow", args, flow)
        }
        Ask::Events { instance } => (instance, "lb.events", json!({}), events),
        Ask::Drain {
            backend,
            vip,
            instance,
        } => (
            instance,
            "lb.drain",
            json!({ "backend": backend, "vip": vip }),
            nothing,
        ),
        Ask::Undrain {
            backend,
            vip,
            instance,
        } => (
            instance,
            "lb.undrain",
            json!({ "backend": backend, "vip": vip }),
            nothing,
        ),
        Ask::Reload { instance } => (instance, "lb.reload", json!({}), nothing),
    };
    let dir = instance.run_dir.unwrap_or_else(default_run_dir);
    let answer = Client::connect(&dir, instance.name.as_deref())?.call(verb, args)?;
    let text = if instance.json {
        serde_json::to_string_pretty(&answer)? + "\n"
    } else {
        show(&answer)
    };
    match stdout().write_all(text.as_bytes()) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map_or(&[], Vec::as_slice)
}

/// Columns as wide as their widest word, words of the first row as headings.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(word, width)| format!("{word:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn status(answer: &Value) -> String {
    let mut text = String::new();
    for vip in list(answer, "vips") {
        let waits = if vip["settling"] == json!(true) {
            ", waiting for its backends"
        } else {
            ""
        };
        text += &format!(
            "VIP {}: {} port {}/{} by {}{waits}; {} packets, {} flows, {} hits, {} misses, {} moved, {} dropped\n",
            word(&vip["name"]),
            word(&vip["address"]),
            word(&vip["port"]),
            word(&vip["protocol"]),
            word(&vip["mode"]),
            word(&vip["packets"]),
            word(&vip["new_flows"]),
            word(&vip["flow_hits"]),
            word(&vip["flow_misses"]),
            word(&vip["rehashed"]),
            word(&vip["no_backend"]),
        );
        let keys = [
            "address",
            "state",
            "weight",
            "packets",
            "bytes",
            "new_flows",
            "mac",
            "why",
        ];
        let mut rows = vec![keys.map(|key| key.replace('_', " ")).to_vec()];
        rows.extend(
            list(vip, "backends")
                .iter()
                .map(|one| keys.map(|key| word(&one[key])).to_vec()),
        );
        text += &table(&rows)
            .lines()
            .map(|line| format!("  {line}\n"))
            .collect::<String>();
    }
    text
}

fn stats(answer: &Value) -> String {
    let none = serde_json::Map::new();
    let reasons = answer["reasons"].as_object().unwrap_or(&none);
    let rows: Vec<_> = reasons
        .iter()
        .map(|(name, count)| vec![name.clone(), word(count)])
        .collect();
    let refusal = match &answer["refusal"] {
        Value::Null => String::new(),
        why => format!("the file is not in force: {}\n", word(why)),
    };
    table(&rows) + &refusal
}

fn flow(answer: &Value) -> String {
    let keys = [
        "vip",
        "found",
        "backend",
        "state",
        "since_ms",
        "created_ms",
        "previous",
        "moves",
        "only_syn",
        "closed",
    ];
    table(&keys.map(|key| vec![key.to_owned(), word(&answer[key])]))
}

fn events(answer: &Value) -> String {
    let keys = ["at_ms", "vip", "backend", "from", "to", "why"];
    let mut rows = vec![keys.map(str::to_owned).to_vec()];
    rows.extend(
        list(answer, "events")
            .iter()
            .map(|event| keys.map(|key| word(&event[key])).to_vec()),
    );
    table(&rows)
}

fn nothing(_: &Value) -> String {
    String::new()
}
