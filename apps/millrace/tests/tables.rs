//! Maps as control has them: made, pinned, put into other maps, filled in batches; events and prints as they come.

mod common;

use common::*;
use serde_json::Value;

/// A little-endian number of eight bytes as `map lookup --json` shows it.
fn number(entry: &Value) -> u64 {
    let hex = entry["value"].as_str().expect("hex");
    u64::from_str_radix(hex, 16).expect("sixteen digits").swap_bytes()
}

#[test]
fn inner_maps_are_exchanged_and_events_are_read_while_the_program_runs() {
    let name = "inner_maps_are_exchanged_and_events_are_read_while_the_program_runs";
    let Some(elf) = object("tables") else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("tables.o");
    std::fs::write(&file, elf).expect("write");
    let file = file.display();
    let app = builder("gen:udp4,flows=10,rate=2000", 1)
        .control("maps")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let ok = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(done, "millrace {line}: {text}");
        text
    };
    let json = |line: &str| -> Value { serde_json::from_str(&ok(&format!("--json {line}"))).expect("JSON") };
    let fails = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(!done && text.lines().count() == 1, "millrace {line}: {text}");
        text
    };

    ok(&format!("prog load {file} tables"));
    ok("prog attach tables port eth0");
    let count = |map: &str| number(&json(&format!("map lookup name {map} key 00 00 00 00")));
    for inner in ["first", "second"] {
        ok(&format!(
            "map create name {inner} type array key 4 value 8 entries 1"
        ));
    }
    ok("map update name outer key 00 00 00 00 value map first");
    until("counts in the first", || count("first") > 0);
    ok("map update name outer key 00 00 00 00 value map second");
    until("counts in the second", || count("second") > 0);
    running.barrier().expect("the worker goes on");
    let kept = count("first");
    until("more in the second", || count("second") > 10);
    assert_eq!(count("first"), kept, "nobody counts in the first any more");
    ok("map create name other type array key 4 value 16 entries 1");
    assert!(fails("map update name outer key 00 00 00 00 value map other").contains("outer"));
    assert!(fails("map update name outer key 00 00 00 00 value map nosuch").contains("no map \"nosuch\""));
    assert!(fails("map create name first type array key 4 value 8 entries 1").contains("already"));
    assert!(fails("map create name x type fancy key 4 value 8 entries 1").contains("percpu_hash"));
    assert!(fails("map create name x type hash key 4 value 8").contains("entries is missing"));

    let events = ok("map event-pipe name events -c 20");
    assert_eq!(events.lines().count(), 20);
    assert!(
        events.lines().all(|line| line == "88 77 66 55 44 33 22 11"),
        "{events}"
    );
    let perf = ok("map event-pipe name perf --count 5");
    assert!(
        perf.lines().all(|line| line == "[000] 88 77 66 55 44 33 22 11"),
        "{perf}"
    );
    assert!(fails("map event-pipe name first").contains("ringbuf"));
    assert_eq!(ok("map event-pipe name events -t 0 -c 0"), "");

    let lines = ok("trace -c 5");
    assert_eq!(lines.lines().count(), 5);
    let expected = "bpf_trace_printk: tables: queue 0 of 1";
    assert!(
        lines
            .lines()
            .all(|line| line.starts_with("[000] ") && line.ends_with(expected)),
        "{lines}"
    );
    let numbers: Vec<u64> = ok("--json trace --all -c 50")
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["number"]
                .as_u64()
                .expect("a number")
        })
        .collect();
    assert!(numbers.len() == 50 && numbers.is_sorted(), "{numbers:?}");
    running.stop().expect("clean end");
}

#[test]
fn a_map_pinned_by_name_outlives_its_program_and_is_shared_with_the_next() {
    let name = "a_map_pinned_by_name_outlives_its_program_and_is_shared_with_the_next";
    let Some(elf) = object("tables") else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("tables.o");
    std::fs::write(&file, elf).expect("write");
    let file = file.display();
    let app = builder("null", 1)
        .control("maps")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let ok = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(done, "millrace {line}: {text}");
        text
    };
    ok(&format!("prog load {file} one"));
    assert!(ok("map show name shared").contains("  pinned\n"));
    ok("map update name shared key 07 00 00 00 value 2a 00 00 00 00 00 00 00");
    ok("map pin name events");
    ok("prog unload one");
    let (found, _) = millrace(dir.path(), "map show name outer");
    assert!(!found, "what is not pinned goes with the program");
    ok("map show name events");
    ok(&format!("prog load {file} two"));
    assert!(ok("map lookup name shared key 07 00 00 00").contains("value: 2a 00"));
    let shared = running.maps().get("shared").expect("map");
    let program = running.programs().get("two").expect("program").program;
    assert!(
        program
            .maps()
            .iter()
            .any(|map| std::sync::Arc::ptr_eq(map, &shared)),
        "the new program has the old map"
    );

    // In batches: what one instance dumps another takes.
    let entries: Vec<Value> = (0..3000u32)
        .map(|i| {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            serde_json::json!({"key": hex(&i.to_le_bytes()), "value": hex(&u64::from(i).to_le_bytes())})
        })
        .collect();
    let batch = dir.path().join("batch.json");
    std::fs::write(&batch, Value::from(entries).to_string()).expect("write");
    assert_eq!(
        ok(&format!("map update-batch name shared file {}", batch.display())),
        "3000 entries\n"
    );
    let dumped: Value = serde_json::from_str(&ok("--json map dump name shared")).expect("JSON");
    assert_eq!(dumped.as_array().map(Vec::len), Some(3000));
    std::fs::write(&batch, dumped.to_string()).expect("write");
    ok(&format!(
        "map update-batch name shared file {} exist",
        batch.display()
    ));
    let (done, text) = millrace(
        dir.path(),
        &format!("map update-batch name shared file {} noexist", batch.display()),
    );
    assert!(!done && text.contains("entry 1;"), "{text}");
    let keys = r#"{"name":"shared","keys":["05000000","06000000"]}"#;
    assert!(ok(&format!("call map.delete_batch {keys}")).contains("\"count\": 2"));
    assert!(!millrace(dir.path(), "map lookup name shared key 05 00 00 00").0);

    ok("prog unload two");
    ok("map unpin name shared");
    assert!(!millrace(dir.path(), "map show name shared").0);
    assert!(
        millrace(dir.path(), "map unpin name shared")
            .1
            .contains("not pinned")
    );
    running.stop().expect("clean end");
}

#[test]
fn values_with_a_lock_are_changed_and_read_while_it_is_held() {
    let name = "values_with_a_lock_are_changed_and_read_while_it_is_held";
    let source =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ebpf-runtime/tests/progs/locked.bpf.c");
    let Some(elf) = compile(&source) else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("locked.o");
    std::fs::write(&file, elf).expect("write");
    let app = builder("gen:udp4,flows=10,rate=2000", 1)
        .control("locked")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let ok = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(done, "millrace {line}: {text}");
        text
    };
    let fails = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(!done && text.lines().count() == 1, "millrace {line}: {text}");
        text
    };
    ok(&format!("prog load {} locked", file.display()));
    ok("prog attach locked port eth0");
    // before, lock, first, second (one more than first, which it stays), last, padding
    let key = "key 01 00 00 00";
    let value = "07000000 01000000 0000000000000000 0100000000000000 09000000 00000000";
    for map in ["by_index", "by_key"] {
        ok(&format!("map update name {map} {key} value {value} any --lock"));
    }
    // The generator's frames begin with an address that is not zero, so it is the hash map that counts.
    let counted = || {
        let text = ok(&format!("--json map lookup name by_key {key} --lock"));
        let entry: Value = serde_json::from_str(&text).expect("JSON");
        let hex = entry["value"].as_str().expect("hex").to_owned();
        let number = |at: usize| {
            u64::from_str_radix(&hex[at..at + 16], 16)
                .expect("hex")
                .swap_bytes()
        };
        assert_eq!(&hex[..16], "0700000000000000", "the lock is not shown");
        assert_eq!(number(32), number(16) + 1, "no mixture of two updates: {hex}");
        number(16)
    };
    until("the program counts", || counted() > 100);
    ok(&format!(
        "map update name by_key {key} value {value} exist --lock"
    ));
    assert!(counted() < u64::MAX / 2);
    assert!(
        fails(&format!(
            "map update name by_key {key} value {value} noexist --lock"
        ))
        .contains("already")
    );
    ok("map create name plain type array key 4 value 8 entries 4");
    for line in [
        format!("map lookup name plain {key} --lock"),
        format!("map update name plain {key} value 00000000 00000000 --lock"),
    ] {
        assert!(fails(&line).contains("bpf_spin_lock"), "{line}");
    }
    running.stop().expect("clean end");
}
