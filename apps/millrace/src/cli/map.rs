//! `millrace map`.

use super::words::Words;
use super::{CliError, Context, rows, text};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Keys and values are bytes in hex in the order of memory, as bpftool shows them: 0a 00 00 01, 0x0a 0x00,\nor 0a000001. The word `name` may be left out, `hex` may be written.\n\nExamples:\n  millrace map show\n  millrace map dump name conntrack\n  millrace map lookup name counters key 00 00 00 00\n  millrace map update name ports key 50 00 value 01 00 00 00 noexist\n  millrace map delete name ports key 50 00"
)]
pub(super) struct MapArgs {
    #[command(subcommand)]
    verb: Option<MapVerb>,
}

#[derive(Subcommand)]
enum MapVerb {
    /// Type and sizes of all maps or of one: [name X]
    #[command(alias = "list")]
    Show {
        /// [name] X
        words: Vec<String>,
    },
    /// All entries: name X
    Dump {
        /// [name] X
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// One entry: name X key BYTES
    Lookup {
        /// [name] X key BYTES
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Create or replace an entry: name X key BYTES value BYTES [any|exist|noexist]
    Update {
        /// [name] X key BYTES value BYTES [any|exist|noexist]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Remove an entry: name X key BYTES
    Delete {
        /// [name] X key BYTES
        #[arg(required = true)]
        words: Vec<String>,
    },
}

const FLAGS: &[&str] = &["any", "exist", "noexist"];

pub(super) fn run(cx: &mut Context<'_>, args: MapArgs) -> Result<(), CliError> {
    match args.verb.unwrap_or(MapVerb::Show { words: Vec::new() }) {
        MapVerb::Show { words } => {
            let mut words = Words::new(words, "millrace map show [name X]");
            words.skip(&["name"]);
            let answer = match words.next_if_any() {
                Some(name) => json!([cx.call("map.show", json!({"name": name}))?]),
                None => cx.call("map.list", Value::Null)?,
            };
            words.end()?;
            cx.show(&answer, |v| Ok(rows(v).iter().map(one).collect()))
        }
        MapVerb::Dump { words } => {
            let mut words = Words::new(words, "millrace map dump name X");
            let name = name(&mut words)?;
            words.end()?;
            dump(cx, &name)
        }
        MapVerb::Lookup { words } => {
            let args = keyed(words, "millrace map lookup name X key BYTES")?;
            let answer = cx.call("map.lookup", args)?;
            cx.show(&answer, |v| Ok(entry(v)))
        }
        MapVerb::Update { words } => {
            let mut words = Words::new(
                words,
                "millrace map update name X key BYTES value BYTES [any|exist|noexist]",
            );
            let name = name(&mut words)?;
            let key = key(&mut words, &["value"])?;
            if !words.skip(&["value"]) {
                return Err(words.error("the value is missing"));
            }
            let mut args = json!({"name": name, "key": key, "value": words.bytes("value", FLAGS)?});
            if let Some(flags) = words.next_if_any() {
                args["flags"] = flags.into();
            }
            words.end()?;
            cx.done("map.update", args)
        }
        MapVerb::Delete { words } => cx.done(
            "map.delete",
            keyed(words, "millrace map delete name X key BYTES")?,
        ),
    }
}

fn name(words: &mut Words) -> Result<String, CliError> {
    words.skip(&["name"]);
    words.next("the map's name")
}

fn key(words: &mut Words, until: &[&str]) -> Result<String, CliError> {
    if !words.skip(&["key"]) {
        return Err(words.error("the key is missing"));
    }
    words.bytes("key", until)
}

fn keyed(words: Vec<String>, usage: &'static str) -> Result<Value, CliError> {
    let mut words = Words::new(words, usage);
    let args = json!({"name": name(&mut words)?, "key": key(&mut words, &[])?});
    words.end()?;
    Ok(args)
}

/// Page by page, so that a map of any size can be shown.
fn dump(cx: &mut Context<'_>, name: &str) -> Result<(), CliError> {
    let mut after = Value::Null;
    let mut count = 0u64;
    if cx.json {
        write!(cx.out, "[")?;
    }
    loop {
        let page = cx.call("map.dump", json!({"name": name, "after": after}))?;
        for found in rows(&page["entries"]) {
            if cx.json {
                write!(cx.out, "{}{found}", if count > 0 { "," } else { "" })?;
            } else {
                cx.out.write_all(entry(found).as_bytes())?;
            }
            count += 1;
        }
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    if cx.json {
        writeln!(cx.out, "]")?;
    } else {
        writeln!(
            cx.out,
            "Found {count} element{}",
            if count == 1 { "" } else { "s" }
        )?;
    }
    Ok(cx.out.flush()?)
}

fn one(map: &Value) -> String {
    let of = |field: &str| text(&map[field]);
    let cpus = if map["cpus"].is_null() {
        String::new()
    } else {
        format!("  cpus {}", of("cpus"))
    };
    format!(
        "{}: {}  name {}  flags {:#x}\n    key {}B  value {}B  max_entries {}{cpus}\n",
        of("id"),
        of("type"),
        of("name"),
        map["flags"].as_u64().unwrap_or(0),
        of("key_size"),
        of("value_size"),
        of("max_entries")
    )
}

fn entry(entry: &Value) -> String {
    let key = spaced(&text(&entry["key"]));
    let values = rows(&entry["values"]);
    if values.is_empty() {
        return format!("key: {key}  value: {}\n", spaced(&text(&entry["value"])));
    }
    let mut out = format!("key: {key}\n");
    for (cpu, value) in values.iter().enumerate() {
        let _ = writeln!(out, "value (CPU {cpu:02}): {}", spaced(&text(value)));
    }
    out
}

fn spaced(hex: &str) -> String {
    let bytes: Vec<&str> = (0..hex.len())
        .step_by(2)
        .filter_map(|i| hex.get(i..i + 2))
        .collect();
    bytes.join(" ")
}
