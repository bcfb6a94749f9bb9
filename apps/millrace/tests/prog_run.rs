//! `millrace prog run`: a program on a capture, with nothing else running.

mod common;

use common::{binary, object};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// A pcap file (libpcap's classic format, little endian, Ethernet).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        out.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    out
}

fn millrace(dir: &Path, args: &[&str]) -> Output {
    Command::new(binary())
        .current_dir(dir)
        .args(args)
        .output()
        .expect("millrace runs")
}

fn error(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_program_is_tried_on_a_capture_on_each_engine() {
    let Some(elf) = object("verdict") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("p.o"), elf).expect("write");
    let frames = [vec![1u8; 60], vec![2; 100], vec![3; 1514]];
    std::fs::write(dir.path().join("in.pcap"), pcap(&frames)).expect("write");
    for engine in millrace_ebpf::EngineKind::available() {
        let args = [
            "--json", "prog", "run", "p.o", "--pcap", "in.pcap", "--repeat", "5",
        ];
        let output = millrace(dir.path(), &[&args[..], &["--engine", engine.name()]].concat());
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["engine"], engine.name());
        assert_eq!(
            (&report["runs"], &report["verdicts"]["XDP_DROP"]),
            (&15.into(), &3.into())
        );
        assert!(
            report["ns_per_packet"].as_f64().is_some_and(|ns| ns > 0.0),
            "{report}"
        );
        let lengths: Vec<_> = (report["packets"].as_array().expect("packets").iter())
            .map(|p| p["length"].as_u64())
            .collect();
        assert_eq!(lengths, [Some(60), Some(100), Some(1514)]);
        assert_eq!(report["packets"][1]["output"], "02".repeat(100));
    }
    let shown = millrace(
        dir.path(),
        &["prog", "run", "p.o", "--pcap", "in.pcap", "--write", "out.pcap"],
    );
    let shown = String::from_utf8(shown.stdout).expect("utf-8");
    assert!(
        shown.contains("3 XDP_DROP") && shown.contains("ns a frame over 3 runs"),
        "{shown}"
    );
    let out = std::fs::read(dir.path().join("out.pcap")).expect("written");
    assert_eq!(out.len(), 24, "dropped frames are not written");
}

#[test]
fn mistakes_of_prog_run_are_one_line_that_names_the_file() {
    let Some(elf) = object("verdict") else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("p.o"), elf).expect("write");
    std::fs::write(dir.path().join("empty.pcap"), pcap(&[])).expect("write");
    std::fs::write(dir.path().join("text.pcap"), "no capture").expect("write");
    for (args, word) in [
        (["nope.o", "--pcap", "empty.pcap"], "nope.o"),
        (["p.o", "--pcap", "nope.pcap"], "nope.pcap"),
        (["p.o", "--pcap", "empty.pcap"], "no whole Ethernet frame"),
        (["p.o", "--pcap", "text.pcap"], "text.pcap"),
        (["text.pcap", "--pcap", "empty.pcap"], "not a loadable BPF object"),
    ] {
        let output = millrace(dir.path(), &[&["prog", "run"][..], &args].concat());
        assert!(error(&output).contains(word), "{args:?}: {output:?}");
    }
    let args = ["prog", "run", "p.o", "--pcap", "empty.pcap", "--engine", "warp"];
    assert!(error(&millrace(dir.path(), &args)).contains("interp"));
}
