//! Several programs on a queue, with the metadata that libxdp reads, decide as libxdp's dispatcher would.

mod common;

use common::*;
use millrace::{App, AppError, ChainLink, EngineKind, QueueSel};
use millrace_ebpf::{Loaded, RunConfig};
use serde_json::Value;

const PASS: u32 = 2;
const DROP: u32 = 1;
const TX: u32 = 3;

/// Loads the three programs, which share their maps, and lets control attach them by their names.
fn programs(app: &App, elf: &[u8], says: [u32; 3]) -> Loaded {
    let globals = [
        ("says_first", says[0]),
        ("says_second", says[1]),
        ("says_plain", says[2]),
    ];
    let loaded = load(app, elf, &globals);
    for program in loaded.programs() {
        app.programs().insert(program.name(), program.clone());
    }
    loaded
}

fn link(loaded: &Loaded, name: &str) -> ChainLink {
    let program = loaded.program(Some(name)).expect("program");
    ChainLink {
        name: name.to_string(),
        config: program.run_config().expect("its configuration"),
        program,
    }
}

/// How often each of the three ran, and how often one ran before its turn.
fn order(loaded: &Loaded) -> [u64; 4] {
    let map = loaded.map("order").expect("map");
    [0u32, 1, 2, 3].map(|slot| {
        let value = map.lookup(&slot.to_ne_bytes()).expect("entry");
        u64::from_ne_bytes(value[..8].try_into().expect("eight bytes"))
    })
}

#[test]
fn programs_run_in_libxdps_order_until_one_has_the_last_word() {
    let Some(elf) = object("chain") else {
        return skip(
            "programs_run_in_libxdps_order_until_one_has_the_last_word",
            "needs clang",
        );
    };
    const COUNT: u64 = 500;
    // What the three say; the verdict that must come of it, and how many of the three run: the first goes on after TX, the
    // second after PASS and DROP, the third, which says nothing about itself, after PASS.
    for (says, counter, run) in [
        ([PASS, PASS, DROP], "xdp_pass", 1),
        ([TX, DROP, DROP], "xdp_drop", 3),
        ([TX, PASS, PASS], "xdp_pass", 3),
        ([TX, TX, DROP], "xdp_tx", 2),
        ([TX, 0, DROP], "xdp_aborted", 2),
    ] {
        let dir = tempfile::tempdir().expect("tempdir");
        let app = builder(&format!("gen:udp4,flows=10,rate=20000,count={COUNT}"), 1)
            .control("chain")
            .run_dir(dir.path())
            .build()
            .expect("app");
        let loaded = programs(&app, &elf, says);
        let links = ["plain", "second", "first"].map(|name| link(&loaded, name));
        app.set_chain("eth0", QueueSel::All, &links, EngineKind::default())
            .expect("chain");
        let names: Vec<_> = app.attached().into_iter().map(|at| at.name).collect();
        assert_eq!(names, ["first", "second", "plain"]);
        let running = app.start().expect("start");
        until("all frames", || {
            let stats = running.stats();
            stats.total("rx_frames") + missed(&stats) >= COUNT
        });
        let stats = running.stop().expect("clean end").stats;
        let frames = stats.total("rx_frames");
        assert_eq!(stats.total(counter), frames, "{says:?} gives {counter}");
        let wanted = [0, 1, 2].map(|i| if i < run { frames } else { 0 });
        assert_eq!(order(&loaded)[..3], wanted, "{says:?}");
        assert_eq!(order(&loaded)[3], 0, "none ran before its turn");
    }
}

#[test]
fn a_chain_is_shown_and_changed_by_the_command() {
    let Some(elf) = object("chain") else {
        return skip("a_chain_is_shown_and_changed_by_the_command", "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let app = builder("null", 2)
        .control("chain")
        .run_dir(dir.path())
        .build()
        .expect("app");
    programs(&app, &elf, [TX, PASS, DROP]);
    let running = app.start().expect("start");
    let ok = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(done, "millrace {line}: {text}");
        text
    };
    let fails = |line: &str| {
        let (done, text) = millrace(dir.path(), line);
        assert!(!done, "millrace {line}: {text}");
        text
    };
    let listed: Value = serde_json::from_str(&ok("--json prog list")).expect("JSON");
    let of = |name: &str| {
        let rows = listed.as_array().expect("rows");
        rows.iter()
            .find(|row| row["name"] == name)
            .expect("a row")
            .clone()
    };
    assert_eq!(of("first")["priority"], 10);
    assert_eq!(of("first")["chain_actions"], Value::from(vec!["XDP_TX"]));
    assert_eq!(
        of("second")["chain_actions"],
        Value::from(vec!["XDP_DROP", "XDP_PASS"])
    );
    assert_eq!(of("plain")["priority"], 50);

    ok("chain set plain first port eth0");
    ok("chain add second port eth0 queue 1");
    ok("chain add second port eth0 queue 0 priority 99 actions pass");
    let shown = ok("chain show eth0");
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let names: Vec<_> = rows[1..].iter().map(|row| (row[1], row[2], row[3])).collect();
    assert_eq!(
        names,
        [
            ("0", "first", "10"),
            ("0", "plain", "50"),
            ("0", "second", "99"),
            ("1", "first", "10"),
            ("1", "second", "20"),
            ("1", "plain", "50"),
        ],
        "{shown}"
    );
    assert_eq!(rows[3].last(), Some(&"XDP_PASS"));
    assert_eq!(
        running.stats().ports[0].queues[1].program.as_deref(),
        Some("first,second,plain")
    );
    assert!(fails("chain add first port eth0").contains("runs program first already"));
    assert!(fails("chain del nosuch port eth0").contains("does not run program nosuch"));
    assert!(fails("chain add nosuch port eth0").contains("no program \"nosuch\""));
    assert!(fails("chain add plain port eth0 actions sometimes").contains("unknown verdict"));
    assert!(fails("chain set first first port eth0").contains("twice"));
    ok("chain del plain port eth0 queue all");
    ok("chain del second port eth0 queue 1");
    assert!(fails("prog unload first").contains("detach it first"));
    ok("prog replace plain port eth0 queue 0");
    assert!(ok("chain show").contains("(alone)"));
    ok("prog detach port eth0");
    assert_eq!(ok("chain show").lines().count(), 1);
    running.stop().expect("clean end");
}

#[test]
fn a_chain_that_grows_and_shrinks_under_traffic_loses_no_frame() {
    let Some(elf) = object("chain") else {
        return skip(
            "a_chain_that_grows_and_shrinks_under_traffic_loses_no_frame",
            "needs clang",
        );
    };
    let app = builder("gen:udp4,flows=10,rate=2000", 1).build().expect("app");
    let loaded = programs(&app, &elf, [TX, PASS, DROP]);
    let [first, second, plain] = ["first", "second", "plain"].map(|name| link(&loaded, name));
    let engine = EngineKind::default();
    app.set_chain("eth0", QueueSel::All, &[first, second], engine)
        .expect("chain");
    let running = app.start().expect("start");
    until("traffic", || running.stats().total("rx_frames") > 0);
    for i in 0..30 {
        let before = running.stats().total("rx_frames");
        // Ahead of both, or behind them.
        let config = RunConfig {
            priority: if i % 2 == 0 { 15 } else { 90 },
            ..plain.config
        };
        let plain = ChainLink {
            config,
            ..plain.clone()
        };
        running
            .chain_add("eth0", QueueSel::All, &plain, engine)
            .expect("add");
        until("a frame", || running.stats().total("rx_frames") > before);
        running
            .chain_remove("eth0", QueueSel::All, "plain")
            .expect("remove");
    }
    let missing = running
        .chain_remove("eth0", QueueSel::All, "plain")
        .expect_err("gone");
    assert!(matches!(missing, AppError::NotInChain { .. }), "{missing}");
    let report = running.stop().expect("clean end");
    let stats = &report.stats;
    let [first, second, plain, _] = order(&loaded);
    assert_eq!(first, stats.total("rx_frames"), "the first met every frame");
    assert!(
        plain > 0 && second < first,
        "the third ran between them at times: {plain}, {second}"
    );
    assert_eq!(stats.total("xdp_drop"), plain);
    assert_eq!(stats.total("xdp_pass"), first - plain);
    assert_eq!(stats.total("no_program"), 0, "there was always one");
    assert_eq!(report.buffers_missing, 0);
}
