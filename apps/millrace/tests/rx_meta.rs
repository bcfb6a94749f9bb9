//! Programs that read the struct of the queue's metadata, from the device to the map.

mod common;

use common::*;
use millrace::{App, AppError, EngineKind, PortConfig, QueueSel};
use millrace_driver::port::Offloads;
use millrace_ebpf::{Loader, Map, Object};
use millrace_nic_models::ixgbe::desc::rx::ptype;
use std::path::Path;

/// Microsoft, "Verifying the RSS hash calculation": source, destination, 2794 -> 1766.
const FLOW: [u8; 12] = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
const HASH: u32 = 0x323e_8fc2;
const PORTS_HASH: u32 = 0x51cc_c178;

fn frame(ethertype: u16, protocol: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(FLOW);
    frame.extend([0, 20, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// Three of TCP, two of UDP, one of GRE, one of ARP.
fn frames() -> Vec<Vec<u8>> {
    let protocols = [6, 17, 6, 47, 17, 6];
    let mut all: Vec<_> = protocols.iter().map(|p| frame(0x0800, *p)).collect();
    all.push(frame(0x0806, 6));
    all
}

/// Keys and what was counted for them, in order.
type Counts = Vec<(u32, u64)>;

/// What the map has.
fn counts(map: &Map) -> Counts {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
    let mut all: Vec<_> = map
        .iter()
        .map(|(key, value)| (word(&key) as u32, word(&value)))
        .collect();
    all.sort_unstable();
    all
}

fn sorted(mut all: Counts) -> Counts {
    all.sort_unstable();
    all
}

fn expected() -> (Counts, Counts) {
    let flows = vec![(PORTS_HASH, 5), (HASH, 1), (0, 1)];
    let ip = u32::from(ptype::IPV4);
    let types = vec![
        (ip | u32::from(ptype::TCP), 3),
        (ip | u32::from(ptype::UDP), 2),
        (ip, 1),
        (0, 1),
    ];
    (sorted(flows), sorted(types))
}

fn example() -> Option<Vec<u8>> {
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/meta.bpf.c"))
}

#[test]
fn the_example_counts_by_the_hash_and_type_that_the_device_wrote_on_each_engine() {
    let name = "the_example_counts_by_the_hash_and_type_that_the_device_wrote_on_each_engine";
    let Some(elf) = example() else {
        return skip(name, "needs clang");
    };
    for engine in EngineKind::available() {
        let dir = tempfile::tempdir().expect("tempdir");
        let input = dir.path().join("in.pcap");
        write_pcap(&input, &frames());
        let app = builder(&format!("pcap:{}", input.display()), 2)
            .build()
            .expect("app");
        let loaded = load(&app, &elf, &[]);
        let program = loaded.program(None).expect("one program");
        let meta = program.rx_meta().expect("it reads the struct");
        let fields: Vec<_> = meta.fields().iter().map(|f| (f.name, f.offset)).collect();
        assert_eq!(fields, [("rx_hash", 0), ("packet_type", 4)]);
        assert_eq!(meta.family(), Some("82599 advanced"));
        app.attach("eth0", QueueSel::All, &program, engine)
            .expect("attach");
        let running = app.start().expect("start");
        until("all frames", || running.stats().total("rx_frames") == 7);
        let report = running.stop().expect("clean end");
        assert_eq!(report.stats.total("xdp_drop"), 7, "{:?}", report.stats);
        let (flows, types) = expected();
        assert_eq!(counts(loaded.map("flows").expect("map")), flows, "{engine:?}");
        assert_eq!(counts(loaded.map("types").expect("map")), types, "{engine:?}");
    }
}

#[test]
fn control_loads_for_the_ports_there_are_and_shows_the_struct() {
    let name = "control_loads_for_the_ports_there_are_and_shows_the_struct";
    let (Some(meta), Some(stamp)) = (example(), object("refused_stamp")) else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str, elf: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, elf).expect("write");
        path.display().to_string()
    };
    let (meta, stamp) = (file("meta.o", &meta), file("stamp.o", &stamp));
    let app = builder("gen:udp4,flows=10,rate=2000", 2)
        .control("meta")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let (done, text) = millrace(dir.path(), &format!("prog load {stamp} stamp"));
    assert!(!done && text.lines().count() == 1, "{text}");
    for part in [
        "millrace_rx_meta.rx_timestamp",
        "82599 advanced",
        "bpf_core_field_exists",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let (done, text) = millrace(dir.path(), &format!("prog load {meta} meta"));
    assert!(done, "{text}");
    let wanted = "reads struct millrace_rx_meta { __u32 rx_hash; __u32 packet_type; }";
    assert!(text.contains(wanted), "{text}");
    let (done, text) = millrace(dir.path(), "prog attach meta port eth0");
    assert!(done, "{text}");
    until("drops", || running.stats().total("xdp_drop") > 100);
    let flows = running.maps().get("flows").expect("shown");
    until("every flow", || counts(&flows).len() == 10);
    running.stop().expect("clean end");
}

/// Two ports, of which the second strips tags.
fn two_ports() -> App {
    let mut second = port("eth1", "null", 1);
    second.config = PortConfig {
        offloads: Offloads {
            vlan_strip: true,
            ..Offloads::default()
        },
        ..second.config
    };
    builder("null", 1).port(second).build().expect("app")
}

#[test]
fn a_program_loaded_for_one_port_is_refused_on_a_port_with_another_struct() {
    let name = "a_program_loaded_for_one_port_is_refused_on_a_port_with_another_struct";
    let Some(elf) = object("tag") else {
        return skip(name, "needs clang");
    };
    let app = two_ports();
    let object = Object::parse(&elf).expect("an object");
    let program = |port: Option<&str>| {
        let loader = match port {
            Some(port) => Loader::new().hints(&app.hint_layout(port).expect("a layout")),
            None => Loader::new(),
        };
        loader
            .load(&object)
            .expect("loads")
            .program(None)
            .expect("one program")
    };
    let engine = EngineKind::default();
    let refused = |port: &str, from: Option<&str>| {
        let error = app
            .attach(port, QueueSel::All, &program(from), engine)
            .expect_err("another struct");
        assert!(matches!(error, AppError::Program { .. }), "{error}");
        error.to_string()
    };
    let told = refused("eth0", Some("eth1"));
    assert!(
        told.contains("vlan_tci") && told.contains("load it for that queue's port"),
        "{told}"
    );
    refused("eth1", Some("eth0"));
    assert!(refused("eth1", None).contains("loaded for no queue"));
    app.attach("eth0", QueueSel::All, &program(Some("eth0")), engine)
        .expect("its own port");
    app.attach("eth1", QueueSel::All, &program(Some("eth1")), engine)
        .expect("its own port");
    app.replace("eth1", QueueSel::All, &program(Some("eth0")), engine)
        .expect_err("another struct");
    app.start().expect("start").stop().expect("clean end");
}

#[test]
fn where_ports_differ_control_wants_to_know_for_which_to_load() {
    let name = "where_ports_differ_control_wants_to_know_for_which_to_load";
    let Some(elf) = object("tag") else {
        return skip(name, "needs clang");
    };
    let app = two_ports();
    let load = |as_name: &str, hints: Option<&str>| {
        use base64::Engine;
        let elf = base64::engine::general_purpose::STANDARD.encode(&elf);
        let args = serde_json::json!({"name": as_name, "elf": elf, "hints": hints});
        app.control().call("prog.load", &args)
    };
    let told = load("tag", None).expect_err("two structs").to_string();
    assert!(
        told.contains("hints PORT") && told.contains("eth0, eth1"),
        "{told}"
    );
    assert!(load("tag", Some("eth7")).is_err());
    let shown = load("tag0", Some("eth0")).expect("loads");
    assert_eq!(shown["reads"], "struct millrace_rx_meta { __u32 valid; }");
    let shown = load("tag1", Some("eth1")).expect("loads");
    assert_eq!(
        shown["reads"],
        "struct millrace_rx_meta { __u32 valid; __u16 vlan_tci; }"
    );
    app.start().expect("start").stop().expect("clean end");
}

#[test]
fn a_capture_is_tried_as_the_model_would_deliver_it() {
    let name = "a_capture_is_tried_as_the_model_would_deliver_it";
    let (Some(elf), Some(stamp)) = (example(), object("refused_stamp")) else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("meta.o"), elf).expect("write");
    std::fs::write(dir.path().join("stamp.o"), stamp).expect("write");
    write_pcap(&dir.path().join("in.pcap"), &frames());
    let millrace = |line: &str| {
        let output = std::process::Command::new(binary())
            .current_dir(dir.path())
            .args(line.split_whitespace())
            .output()
            .expect("millrace runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("utf-8"))
    };
    let (done, text) = millrace("--json prog run meta.o --pcap in.pcap --hints ixgbe");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(done && report["verdicts"]["XDP_DROP"] == 7, "{text}");
    let (_, text) = millrace("--json prog run meta.o --pcap in.pcap");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(
        report["verdicts"]["XDP_PASS"], 7,
        "no struct without a queue: {text}"
    );
    let (done, text) = millrace("prog verify stamp.o --hints ixgbe");
    assert!(
        !done && text.contains("rx_timestamp") && text.contains("82599"),
        "{text}"
    );
    let (done, text) = millrace("prog verify meta.o --hints ixgbe");
    assert!(
        done && text.contains("reads        struct millrace_rx_meta { __u32 rx_hash; __u32 packet_type; }"),
        "{text}"
    );
    let (done, text) = millrace("prog verify meta.o --hints rtl8139");
    assert!(!done && text.contains("rtl8139"), "{text}");
}
