//! The command itself: what it refuses in one line, and a life from start to SIGTERM on a modelled port without a network.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const FILE: &str = r#"
[balancer]
max_vips = 4
connection_table = 4096
[[vip]]
name = "web"
address = "10.66.0.100"
port = 80
protocol = "tcp"
mode = "l2"
health = { type = "none" }
backend = [{ address = "10.66.0.11" }, { address = "10.66.0.12", weight = 3 }]
"#;

fn l4lb(args: &[&str], run_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-l4lb"));
    command
        .args(args)
        .env("MILLRACE_RUN_DIR", run_dir)
        .env_remove("RUST_LOG");
    command
}

fn output(args: &[&str], run_dir: &Path) -> Output {
    l4lb(args, run_dir).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The last line on stderr; log lines may come before it.
fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn mistakes_are_one_line_and_a_status() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let (right, wrong) = (dir.join("right.toml"), dir.join("wrong.toml"));
    std::fs::write(&right, FILE).expect("it can be written");
    std::fs::write(&wrong, FILE.replace("0.12", "0.11")).expect("it can be written");
    let (right, wrong) = (
        right.to_string_lossy().into_owned(),
        wrong.to_string_lossy().into_owned(),
    );
    let socket = format!("vfio-user:{}/nobody.sock", dir.display());

    let good = output(&["--config", &right, "--check"], dir);
    assert!(good.status.success());
    assert_eq!(stdout(&good), format!("{right}: right, 1 VIPs, 2 backends\n"));
    for (args, status, words) in [
        (
            vec!["--config", &wrong, "--check"],
            1,
            "wrong.toml:12: backend 10.66.0.11 is listed twice",
        ),
        (
            vec!["check", &wrong],
            1,
            "wrong.toml:12: backend 10.66.0.11 is listed twice",
        ),
        (
            vec!["--config", "/nonexistent", "--device", "x"],
            1,
            "/nonexistent: ",
        ),
        (vec!["--config", &right, "--device", "floppy:0"], 1, "floppy"),
        (vec!["--config", &right, "--device", &socket], 1, "nobody.sock"),
        (vec!["status"], 1, "no instance runs"),
    ] {
        let output = output(&args, dir);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        let line = last_line(&output);
        assert!(
            line.starts_with("millrace-l4lb: ") && line.contains(words),
            "{args:?}: {line}"
        );
    }
    for args in [
        vec!["--config", &right],
        vec![],
        vec!["--tap-address", "x"],
        vec!["flow", "sctp", "1:1", "2:2"],
    ] {
        assert_eq!(output(&args, dir).status.code(), Some(2), "{args:?}");
    }
    let help = stdout(&output(&["--help"], dir));
    assert!(help.contains("Examples:") && help.contains("--exception-tap"));
}

struct Balancer(Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_serves_answers_and_ends_cleanly_on_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    let config = dir.join("lb.toml");
    std::fs::write(&config, FILE).expect("it can be written");
    let config = config.to_string_lossy().into_owned();
    let args = [
        "--config",
        &config,
        "--device",
        "model:ixgbe?wire=null",
        "--queues",
        "2",
        "--name",
        "t",
        "--no-pin",
    ];
    let child = l4lb(&args, dir)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut balancer = Balancer(child);
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        let answer = output(&["status", "--json"], dir);
        if answer.status.success() {
            break answer;
        }
        if let Ok(Some(_)) = balancer.0.try_wait() {
            let mut why = String::new();
            let _ = std::io::Read::read_to_string(&mut balancer.0.stderr.take().expect("piped"), &mut why);
            panic!("it ended: {why}");
        }
        assert!(Instant::now() < end, "{}", last_line(&answer));
        std::thread::sleep(Duration::from_millis(50));
    };
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["vips"][0]["name"], "web");
    assert_eq!(status["vips"][0]["backends"][1]["weight"], 3);
    assert!(stdout(&output(&["status"], dir)).contains("VIP web: 10.66.0.100 port 80/tcp by l2"));
    assert!(output(&["drain", "10.66.0.11"], dir).status.success());
    assert!(stdout(&output(&["stats"], dir)).contains("forwarded"));
    let flow = stdout(&output(&["flow", "tcp", "192.0.2.1:5", "10.66.0.100:80"], dir));
    assert!(flow.contains("found") && flow.contains("false"), "{flow}");
    std::fs::write(&config, FILE.replace("web", "other")).expect("it can be written");
    assert!(output(&["reload"], dir).status.success());
    assert!(stdout(&output(&["status"], dir)).contains("VIP other"));

    let pid = rustix::process::Pid::from_child(&balancer.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let status = balancer.0.wait().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(!dir.join("t.sock").exists(), "the socket is gone");
}
