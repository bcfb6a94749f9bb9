//! `millrace map`.

use super::capture::stop_flag;
use super::words::Words;
use super::{CliError, Context, rows, text};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Keys and values are bytes in hex in the order of memory, as bpftool shows them: 0a 00 00 01, 0x0a 0x00,\nor 0a000001. The word `name` may be left out, `hex` may be written.\n\nExamples:\n  millrace map show\n  millrace map dump name conntrack\n  millrace map lookup name counters key 00 00 00 00\n  millrace map update name ports key 50 00 value 01 00 00 00 noexist\n  millrace map update name guarded key 07 00 value 00 00 00 00 2a 00 00 00 --lock\n  millrace map delete name ports key 50 00\n  millrace map create name inner2 type hash key 4 value 8 entries 1024\n  millrace map update name outer key 00 00 00 00 value map inner2    while programs look into it\n  millrace map update name jumps key 01 00 00 00 value program filter\n  millrace map update-batch name ports file ports.json\n  millrace map pin name conntrack             it stays when its program goes\n  millrace map event-pipe name events -c 10"
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
        /// Hold the value's bpf_spin_lock meanwhile, so that it is no mixture of two updates
        #[arg(long)]
        lock: bool,
    },
    /// Create or replace an entry: name X key BYTES value VALUE [any|exist|noexist]
    Update {
        /// [name] X key BYTES value BYTES|map Y|program P [any|exist|noexist]
        #[arg(required = true)]
        words: Vec<String>,
        /// Change the value in place, holding its bpf_spin_lock
        #[arg(long)]
        lock: bool,
    },
    /// Create or replace the entries that a file lists, as `millrace --json map dump` writes them: name X file FILE
    UpdateBatch {
        /// [name] X file FILE [any|exist|noexist]
        #[arg(required = true)]
        words: Vec<String>,
        /// Change each value in place, holding its bpf_spin_lock
        #[arg(long)]
        lock: bool,
    },
    /// Make a map of no program: name X type T key BYTES value BYTES entries N [flags N]
    Create {
        /// [name] X type T key SIZE value SIZE entries N [flags N]
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Keep a map when its program is unloaded; objects that pin one of this name share it: name X
    Pin {
        /// [name] X
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// End a pin, and with it a map that no program uses: name X
    Unpin {
        /// [name] X
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Records of a ringbuf or perf_event_array as they come, until Ctrl-C: name X
    EventPipe {
        /// [name] X
        #[arg(required = true)]
        words: Vec<String>,
        /// End after N records
        #[arg(long, short = 'c', value_name = "N")]
        count: Option<u64>,
        /// End after SECONDS
        #[arg(long, short = 't', value_name = "SECONDS")]
        time: Option<f64>,
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
        MapVerb::Lookup { words, lock } => {
            let mut args = keyed(words, "millrace map lookup name X key BYTES [--lock]")?;
            args["lock"] = lock.into();
            let answer = cx.call("map.lookup", args)?;
            cx.show(&answer, |v| Ok(entry(v)))
        }
        MapVerb::Update { words, lock } => {
            let mut words = Words::new(
                words,
                "millrace map update name X key BYTES value BYTES|map Y|program P [any|exist|noexist] [--lock]",
            );
            let name = name(&mut words)?;
            let key = key(&mut words, &["value"])?;
            if !words.skip(&["value"]) {
                return Err(words.error("the value is missing"));
            }
            let mut args = json!({"name": name, "key": key, "lock": lock});
            match words.one_of(&["map", "program"]) {
                Some(what) => args[what.as_str()] = words.next("its name")?.into(),
                None => args["value"] = words.bytes("value", FLAGS)?.into(),
            }
            if let Some(flags) = words.next_if_any() {
                args["flags"] = flags.into();
            }
            words.end()?;
            cx.done("map.update", args)
        }
        MapVerb::UpdateBatch { words, lock } => update_batch(cx, words, lock),
        MapVerb::Create { words } => create(cx, words),
        MapVerb::Pin { words } => cx.done("map.pin", named(words, "millrace map pin name X")?),
        MapVerb::Unpin { words } => cx.done("map.unpin", named(words, "millrace map unpin name X")?),
        MapVerb::EventPipe { words, count, time } => events(cx, words, count, time),
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

fn named(words: Vec<String>, usage: &'static str) -> Result<Value, CliError> {
    let mut words = Words::new(words, usage);
    let args = json!({"name": name(&mut words)?});
    words.end()?;
    Ok(args)
}

/// Entries that a request carries; a request line has its limit.
const BATCH: usize = 1000;

fn update_batch(cx: &mut Context<'_>, words: Vec<String>, lock: bool) -> Result<(), CliError> {
    let mut words = Words::new(
        words,
        "millrace map update-batch name X file FILE [any|exist|noexist]",
    );
    let name = name(&mut words)?;
    if !words.skip(&["file"]) {
        return Err(words.error("the file is missing"));
    }
    let path = PathBuf::from(words.next("the file's name")?);
    let flags = words.one_of(FLAGS);
    words.end()?;
    let bytes = std::fs::read(&path).map_err(|source| CliError::File {
        path: path.clone(),
        source,
    })?;
    let wrong = |why: String| {
        let path = path.display();
        CliError::Usage(format!(
            "{path}: {why}; write an array of {{\"key\":\"0a00\",\"value\":\"0100\"}}, as `millrace --json map dump` does"
        ))
    };
    let entries: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let entries = entries.as_array().ok_or_else(|| wrong("no array".into()))?;
    let mut count = 0;
    for part in entries.chunks(BATCH) {
        let args = json!({"name": name, "entries": part, "flags": flags, "lock": lock});
        count += cx.call("map.update_batch", args)?["count"].as_u64().unwrap_or(0);
    }
    cx.show(&json!({"count": count}), |_| Ok(format!("{count} entries\n")))
}

fn create(cx: &mut Context<'_>, words: Vec<String>) -> Result<(), CliError> {
    let usage = "millrace map create name X type T key SIZE value SIZE entries N [flags N]";
    let mut words = Words::new(words, usage);
    let mut args = json!({"name": name(&mut words)?});
    while let Some(word) = words.next_if_any() {
        let field = match word.as_str() {
            "type" => {
                args["type"] = words.next("the type")?.into();
                continue;
            }
            "key" => "key_size",
            "value" => "value_size",
            "entries" => "max_entries",
            "flags" => "flags",
            other => return Err(words.error(format_args!("{other:?} is not expected here"))),
        };
        let number = words.next(&word)?;
        let parsed: Result<u32, _> = number.parse();
        args[field] = parsed
            .map_err(|_| words.error(format_args!("{number:?} is no number")))?
            .into();
    }
    for (field, word) in [
        ("type", "type"),
        ("key_size", "key"),
        ("value_size", "value"),
        ("max_entries", "entries"),
    ] {
        if args[field].is_null() {
            return Err(words.error(format_args!("{word} is missing")));
        }
    }
    let answer = cx.call("map.create", args)?;
    cx.show(&answer, |v| Ok(one(v)))
}

fn events(
    cx: &mut Context<'_>,
    words: Vec<String>,
    count: Option<u64>,
    time: Option<f64>,
) -> Result<(), CliError> {
    let args = named(words, "millrace map event-pipe name X")?;
    let stop = stop_flag()?;
    let begun = Instant::now();
    let limit = time.map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
    let mut left = count.unwrap_or(u64::MAX);
    let mut lost = 0;
    loop {
        let over = limit.is_some_and(|limit| begun.elapsed() >= limit);
        let wait = if over { 0 } else { 200 };
        let part = cx.call("map.events", json!({"name": args["name"], "wait_ms": wait}))?;
        let records = rows(&part["records"]);
        for record in records.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            if cx.json {
                writeln!(cx.out, "{record}")?;
                continue;
            }
            match record["cpu"].as_u64() {
                Some(cpu) => writeln!(cx.out, "[{cpu:03}] {}", spaced(&text(&record["data"])))?,
                None => writeln!(cx.out, "{}", spaced(&text(&record["data"])))?,
            }
        }
        cx.out.flush()?;
        let now = part["lost"].as_u64().unwrap_or(0);
        if now > lost {
            eprintln!("{} records found no room so far", now);
            lost = now;
        }
        if left == 0 || (records.is_empty() && over) || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
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
    let pinned = if map["pinned"] == true { "  pinned" } else { "" };
    format!(
        "{}: {}  name {}  flags {:#x}{pinned}\n    key {}B  value {}B  max_entries {}{cpus}\n",
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
