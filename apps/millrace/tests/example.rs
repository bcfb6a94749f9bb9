//! The front door works: the example runs the object that lies beside it, and says what it counted.

mod common;

use common::*;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A child that does not outlive a test that fails.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_counts_until_it_is_interrupted() {
    let name = "the_example_counts_until_it_is_interrupted";
    // cargo builds examples for tests, beside the folder that the test binary is in.
    let itself = std::env::current_exe().expect("test binary");
    let Some(example) = itself
        .ancestors()
        .nth(2)
        .map(|dir| dir.join("examples/count"))
        .filter(|p| p.exists())
    else {
        return skip(name, "needs the example built: cargo build --examples");
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/count.bpf.c");
    let Some(elf) = compile(&source) else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let object = dir.path().join("count.bpf.o");
    std::fs::write(&object, elf).expect("write");
    let child = Command::new(example)
        .arg(&object)
        .env("MILLRACE_RUN_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("example runs");
    let mut child = Guarded(child);
    let mut output = BufReader::new(child.0.stdout.take().expect("stdout"));
    let mut first = String::new();
    output.read_line(&mut first).expect("a line");
    assert!(first.contains("Ctrl-C"), "{first}");
    let millrace = || {
        Command::new(binary())
            .arg("--run-dir")
            .arg(dir.path())
            .args(["--json", "stats"])
            .output()
    };
    until("drops, seen through the control socket", || {
        let stats: serde_json::Value =
            serde_json::from_slice(&millrace().expect("millrace").stdout).unwrap_or_default();
        stats["ports"][0]["queues"][0]["counters"]["xdp_drop"].as_u64() > Some(100)
    });
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupt");
    assert!(child.0.wait().expect("the example ends").success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("output");
    let of = |name: &str| -> u64 {
        let line = rest
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .expect(name);
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect(name)
    };
    assert!(
        of("xdp_drop") > 100 && of("xdp_drop") == of("rx_frames"),
        "{rest}"
    );
    assert!(
        rest.contains("protocols [11, 00, 00, 00]: "),
        "UDP was counted: {rest}"
    );
    assert!(!dir.path().join("count.sock").exists());
}
