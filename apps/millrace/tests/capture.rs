//! `millrace capture`: what a queue sees, judged by tshark.

mod common;

use common::*;
use millrace::Running;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn command(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(dir).args(line.split_whitespace());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that succeeds.
fn ok(dir: &Path, line: &str) -> Output {
    let output = command(dir, line).output().expect("millrace runs");
    assert!(
        output.status.success(),
        "millrace {line}: {}",
        text(&output.stderr)
    );
    output
}

/// Fields of each frame of a file as tshark reads it.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .arg("-n")
        .arg("-r")
        .arg(file)
        .args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark runs");
    assert!(output.status.success(), "tshark: {}", text(&output.stderr));
    let lines = text(&output.stdout);
    let split = |line: &str| line.split('|').map(str::to_string).collect();
    lines.lines().map(split).collect()
}

fn instance(dir: &Path, wire: &str, queues: u16) -> Running {
    let app = builder(wire, queues)
        .control("cap")
        .run_dir(dir)
        .build()
        .expect("app");
    app.start().expect("start")
}

#[test]
fn frames_are_captured_with_verdict_queue_and_hints_as_tshark_reads_them() {
    let name = "frames_are_captured_with_verdict_queue_and_hints_as_tshark_reads_them";
    let Some(elf) = object("bounce") else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("bounce.o"), elf).expect("write");
    let running = instance(dir.path(), "gen:udp4,flows=50,rate=2000,dport=7000", 2);
    let file = |name: &str| dir.path().join(name);
    ok(
        dir.path(),
        &format!("prog load {} bounce", file("bounce.o").display()),
    );
    ok(dir.path(), "prog attach bounce port eth0");
    // As they come in they go to 10.0.0.1; the program sends them back from there.
    let told = ok(
        dir.path(),
        &format!(
            "capture eth0 -w {} --count 60 udp and dst host 10.0.0.1",
            file("entry").display()
        ),
    );
    assert!(text(&told.stderr).starts_with("60 frames captured, "), "{told:?}");
    let exit = format!(
        "capture eth0/1 --exit -w {} -c 20 -s 40 src port 1024 or not dst host 10.0.0.1",
        file("exit").display()
    );
    ok(dir.path(), &exit);
    let nothing = format!(
        "capture eth0 --exit -w {} -t 0.3 dst host 10.0.0.1",
        file("nothing").display()
    );
    ok(dir.path(), &nothing);
    let piped = ok(dir.path(), "capture eth0 -w - -c 5");
    std::fs::write(file("piped"), piped.stdout).expect("write");
    running.stop().expect("clean end");

    let fields = [
        "frame.interface_name",
        "frame.interface_queue",
        "frame.len",
        "frame.cap_len",
        "frame.verdict.ebpf_xdp",
        "frame.comment",
        "ip.src",
        "ip.dst",
    ];
    if Command::new("tshark").arg("-v").output().is_err() || !known(&fields) {
        return skip(name, "needs tshark 4.0 or newer");
    }
    let read = |name: &str| tshark(&file(name), &fields);
    let entry = read("entry");
    assert_eq!(entry.len(), 60);
    for frame in &entry {
        let [interface, queue, len, cap, verdict, comment, source, destination] = &frame[..] else {
            panic!("{frame:?}");
        };
        assert_eq!(interface, &format!("eth0/{queue}"));
        assert!(
            comment.contains(&format!("queue={queue} verdict=XDP_TX")),
            "{frame:?}"
        );
        assert!(comment.contains(" rx_hash=0x"), "{frame:?}");
        assert!(comment.contains(" csum_status=0x"), "{frame:?}");
        assert_eq!((len, verdict.as_str()), (cap, "3"));
        assert!(
            source.starts_with("10.1.0.") && destination == "10.0.0.1",
            "{frame:?}"
        );
    }
    for queue in ["eth0/0", "eth0/1"] {
        assert!(entry.iter().any(|frame| frame[0] == queue), "no frame of {queue}");
    }
    let exit = read("exit");
    assert_eq!(exit.len(), 20);
    for frame in &exit {
        assert_eq!(
            (frame[0].as_str(), frame[2].as_str(), frame[3].as_str()),
            ("eth0/1", "60", "40")
        );
        assert!(
            frame[6] == "10.0.0.1" && frame[7].starts_with("10.1.0."),
            "{frame:?}"
        );
    }
    assert_eq!((read("nothing").len(), read("piped").len()), (0, 5));
}

/// Whether this tshark has all these fields.
fn known(fields: &[&str]) -> bool {
    let output = Command::new("tshark").args(["-G", "fields"]).output();
    output.is_ok_and(|output| {
        let all = text(&output.stdout);
        fields.iter().all(|field| all.contains(&format!("\t{field}\t")))
    })
}

#[test]
fn a_slow_client_costs_frames_that_are_counted_and_a_dead_one_ends_its_capture() {
    let dir = tempfile::tempdir().expect("tempdir");
    let running = instance(dir.path(), "gen:udp4,flows=50,rate=40000", 1);
    let call = |line: &str| -> serde_json::Value {
        let output = ok(dir.path(), line);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let output = Command::new(binary())
        .arg("--run-dir")
        .arg(dir.path())
        .args(["call", "capture.start", r#"{"port":"eth0","snaplen":16384}"#])
        .output()
        .expect("millrace runs");
    let started: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let records = started["records"].as_u64().expect("a number");
    // A second one on the same queue has to wait.
    let second = command(dir.path(), "capture eth0/0 -c 1")
        .output()
        .expect("millrace runs");
    assert!(
        !second.status.success() && text(&second.stderr).contains("captured already"),
        "{second:?}"
    );
    let before = running.stats().total("rx_frames");
    until("more frames than records", || {
        running.stats().total("rx_frames") > before + 3 * records
    });
    let stopped = call(r#"call capture.stop {"id":1}"#);
    let number = |name: &str| stopped[name].as_u64().expect("a number");
    assert!(number("dropped") > 0, "{}", number("dropped"));
    assert_eq!(
        stopped["frames"].as_array().map(|frames| frames.len() as u64),
        Some(records)
    );
    assert_eq!(number("matched"), number("dropped") + records);

    // A client that is killed says no goodbye; its capture ends by itself, after ten seconds.
    if std::env::var_os("MILLRACE_SOAK").is_none() {
        return assert_eq!(running.stop().expect("clean end").buffers_missing, 0);
    }
    let mut client = command(dir.path(), "capture eth0 -w /dev/null")
        .stderr(Stdio::null())
        .spawn()
        .expect("millrace runs");
    until("the second capture", || {
        !command(dir.path(), "capture eth0/0 -t 0")
            .output()
            .expect("runs")
            .status
            .success()
    });
    client.kill().expect("kill");
    client.wait().expect("wait");
    until("the queue is free again", || {
        std::thread::sleep(Duration::from_millis(200));
        command(dir.path(), "capture eth0/0 -t 0")
            .output()
            .expect("runs")
            .status
            .success()
    });
    assert_eq!(running.stop().expect("clean end").buffers_missing, 0);
}

#[test]
fn mistakes_are_told_in_one_line_and_start_no_capture() {
    let dir = tempfile::tempdir().expect("tempdir");
    let running = instance(dir.path(), "null", 2);
    for (line, word) in [
        ("capture eth7", "no port \"eth7\""),
        ("capture eth0/9", "queues are 0 to 1"),
        ("capture eth0/x", "PORT/N"),
        ("capture eth0 tcp prot 80", "prot"),
        ("capture eth0 -s 0", "snaplen"),
        ("capture eth0 -w /nonexistent/file", "/nonexistent/file"),
    ] {
        let output = command(dir.path(), line).output().expect("millrace runs");
        let error = text(&output.stderr);
        assert!(
            !output.status.success() && error.contains(word),
            "{line}: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
    }
    // Nothing of these is left on the queues.
    ok(dir.path(), "capture eth0 -t 0");
    running.stop().expect("clean end");
}
