//! What the verifier says reaches people: from `prog verify` without an instance, and from an instance that is to load.

mod common;

use common::*;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn millrace(dir: &Path, line: &str) -> Output {
    Command::new(binary())
        .current_dir(dir)
        .args(["--run-dir", "."])
        .args(line.split_whitespace())
        .output()
        .expect("millrace runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn prog_verify_explains_a_refusal_by_source_line_register_and_path() {
    let Some(elf) = object("refused_careless") else {
        return skip(
            "prog_verify_explains_a_refusal_by_source_line_register_and_path",
            "needs clang",
        );
    };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("c.o"), elf).expect("write");

    let told = millrace(dir.path(), "prog verify c.o --explain");
    assert!(err(&told).contains("1 of 2 programs refused"));
    let told = out(&told);
    for part in [
        "careless (section xdp): refused\n",
        "careless.bpf.c:",
        "data[14] == 0x45",
        "  problem      ",
        "  register     r",
        "  remedy       ",
        "  how it came there, the last ",
        "careful (section xdp/good): accepted\n",
        "  accesses     stack 0, packet 0",
    ] {
        assert!(told.contains(part), "{part:?} is missing:\n{told}");
    }
    let short = out(&millrace(dir.path(), "prog verify c.o"));
    assert!(
        short.contains("  remedy       ") && !short.contains("how it came there"),
        "{short}"
    );

    let json = millrace(dir.path(), "--json prog verify c.o --explain");
    err(&json);
    let rows: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let of = |name: &str| {
        let rows = rows.as_array().expect("rows");
        rows.iter()
            .find(|row| row["program"] == name)
            .expect("a row")
            .clone()
    };
    let (bad, good) = (of("careless"), of("careful"));
    assert_eq!(
        (&bad["accepted"], &good["accepted"]),
        (&false.into(), &true.into())
    );
    assert_eq!((&bad["type"], &bad["section"]), (&"xdp".into(), &"xdp".into()));
    assert!(
        bad["line"]["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("careless.bpf.c"))
    );
    assert!(bad["line"]["line"].as_u64().is_some_and(|line| line > 5));
    assert!(
        bad["registers"]
            .as_object()
            .is_some_and(|registers| !registers.is_empty())
    );
    assert!(bad["path"].as_array().is_some_and(|path| !path.is_empty()));
    assert!(
        bad["remedy"]
            .as_str()
            .is_some_and(|remedy| remedy.contains("data_end")),
        "{bad}"
    );

    assert!(
        millrace(dir.path(), "prog verify c.o --program careful")
            .status
            .success()
    );
    assert!(err(&millrace(dir.path(), "prog verify c.o --program nosuch")).contains("careless, careful"));
    assert!(err(&millrace(dir.path(), "prog verify nosuch.o")).contains("nosuch.o"));
}

#[test]
fn a_program_that_the_verifier_refuses_is_not_loaded_and_the_reason_comes_back() {
    let name = "a_program_that_the_verifier_refuses_is_not_loaded_and_the_reason_comes_back";
    let Some(elf) = object("refused_careless") else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("c.o"), elf).expect("write");
    let app = builder("null", 1)
        .control("v")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");

    let plain = millrace(dir.path(), "prog load c.o bad function careless");
    let reason = err(&plain);
    assert!(
        reason.contains("program `careless`, instruction") && reason.contains("careless.bpf.c"),
        "{reason}"
    );
    assert_eq!(out(&plain), "");
    let explained = millrace(dir.path(), "prog load c.o bad function careless --explain");
    assert_eq!(err(&explained), reason);
    assert!(out(&explained).contains("how it came there"), "{explained:?}");
    assert!(running.programs().list().is_empty() && running.maps().list().is_empty());

    // Its neighbour in the same object is as good as ever.
    assert!(
        millrace(dir.path(), "prog load c.o good function careful")
            .status
            .success()
    );
    assert!(
        millrace(dir.path(), "prog attach good port eth0")
            .status
            .success()
    );
    running.stop().expect("clean end");
}
