//! The `millrace` command against a live instance: what people see, what scripts parse, what errors say.

mod common;

use common::*;
use millrace::Running;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

struct Instance {
    dir: TempDir,
    running: Running,
}

impl Instance {
    fn new(wire: &str) -> Instance {
        let dir = tempfile::tempdir().expect("tempdir");
        let app = builder(wire, 2)
            .control("test")
            .run_dir(dir.path())
            .build()
            .expect("app");
        Instance {
            running: app.start().expect("start"),
            dir,
        }
    }

    fn run(&self, line: &str) -> Output {
        run_in(self.dir.path(), line)
    }

    /// Standard output of a command that succeeds.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "millrace {line}: {error}");
        assert!(error.is_empty(), "millrace {line}: {error}");
        String::from_utf8(output.stdout).expect("utf-8")
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("--json {line}"))).expect("JSON")
    }

    /// The one line on standard error of a command that fails.
    fn fails(&self, line: &str) -> String {
        one_line_error(&self.run(line))
    }
}

fn run_in(dir: &Path, line: &str) -> Output {
    let words = line.split_whitespace();
    Command::new(binary())
        .arg("--run-dir")
        .arg(dir)
        .args(words)
        .output()
        .expect("millrace runs")
}

fn one_line_error(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn objects(dir: &Path) -> Option<()> {
    std::fs::write(dir.join("verdict.bpf.o"), object("verdict")?).expect("write");
    Some(())
}

#[test]
fn ports_and_queues_are_shown_as_people_and_as_scripts_want_them() {
    let it = Instance::new("gen:udp4,flows=100,rate=5000");
    let shown = it.ok("port show");
    assert!(
        shown.starts_with("1: eth0: <") && shown.contains("link/ether ") && shown.contains("mtu 1500"),
        "{shown}"
    );
    assert_eq!(
        it.ok("po sh eth0"),
        it.ok("port show"),
        "objects and verbs may be shortened"
    );
    assert_eq!(it.ok("port list"), "eth0\n");
    let port = &it.json("port show")[0];
    assert_eq!((&port["queues"], &port["driver"]), (&2.into(), &"ixgbe".into()));
    until("frames", || it.running.stats().total("rx_frames") > 10);
    let stats = it.ok("port stats eth0");
    assert!(
        stats.starts_with("eth0:\n") && stats.contains("     rx_packets: "),
        "{stats}"
    );
    assert!(it.json("port stats")["eth0"]["stats"]["rx_packets"].as_u64() > Some(0));

    let queues = it.ok("queue show");
    let lines: Vec<&str> = queues.lines().collect();
    assert!(
        lines[0].starts_with("PORT  QUEUE  WORKER  STATE    PROGRAM"),
        "{queues}"
    );
    assert_eq!(lines.len(), 3);
    assert!(
        lines[1].starts_with("eth0      0       0  running  -"),
        "{queues}"
    );
    assert_eq!(it.json("queue list eth0")[1]["worker"], 1);
    assert!(it.json("queue show port eth0 queue 0")[0]["counters"]["rx_frames"].is_u64());
    assert!(it.ok("queue show eth0 1").contains("     rx_frames: "));

    assert_eq!(it.ok("queue stop eth0 1"), "");
    assert_eq!(it.json("queue list")[1]["state"], "stopped");
    assert!(
        it.fails("queue stop port eth0 queue 1")
            .contains("stopped already")
    );
    it.ok("queue start port eth0 queue 1");
    assert_eq!(it.json("queue list")[1]["state"], "running");
    assert!(it.fails("queue start eth0 7").contains("queues are 0 to 1"));
    assert!(it.fails("port show eth7").contains("this instance has: eth0"));
}

#[test]
fn a_program_is_shipped_attached_replaced_detached_and_unloaded() {
    let it = Instance::new("gen:udp4,flows=100,rate=5000");
    if objects(it.dir.path()).is_none() {
        return skip(
            "a_program_is_shipped_attached_replaced_detached_and_unloaded",
            "needs clang",
        );
    }
    let file = it.dir.path().join("verdict.bpf.o").display().to_string();
    let loaded = it.ok(&format!("prog load {file} one"));
    assert!(
        loaded.starts_with("one: function say section xdp type xdp\n    maps ") && loaded.contains("seen"),
        "{loaded}"
    );
    it.ok(&format!("prog load {file} two function say"));
    it.ok("prog attach one port eth0 queue 0");
    assert!(it.fails("prog attach two port eth0").contains("use replace"));
    until("drops", || it.running.stats().total("xdp_drop") > 0);
    it.ok("prog replace two port eth0");
    let attached = it.json("prog show two");
    assert_eq!(
        attached[0]["attached"].as_array().map(Vec::len),
        Some(2),
        "{attached}"
    );
    assert_eq!(it.json("queue list")[0]["program"], "two");
    assert!(it.fails("prog unload two").contains("detach it first"));
    it.ok("prog detach port eth0 queue all");
    it.ok("prog unload two");
    assert!(
        it.fails("prog attach two port eth0")
            .contains("no program \"two\"")
    );
    assert!(
        it.fails(&format!("prog load {file} one"))
            .contains("loaded already")
    );
    assert!(
        it.fails("prog attach one port eth0 engine warp")
            .contains("interp")
    );
    assert!(it.fails("prog load /nonexistent x").contains("/nonexistent"));

    // Things that are no objects: nothing is loaded, the instance goes on.
    let bad = it.dir.path().join("bad.o");
    let elf = std::fs::read(&file).expect("object");
    for bytes in [&b"not an ELF file"[..], &elf[..elf.len() / 2], &[]] {
        std::fs::write(&bad, bytes).expect("write");
        it.fails(&format!("prog load {} bad", bad.display()));
    }
    assert_eq!(it.json("prog list").as_array().map(Vec::len), Some(1));
}

#[test]
fn maps_are_listed_dumped_and_changed_in_hex() {
    let it = Instance::new("gen:udp4,flows=100,rate=5000");
    let Some(elf) = object("thirds") else {
        return skip("maps_are_listed_dumped_and_changed_in_hex", "needs clang");
    };
    let file = it.dir.path().join("thirds.bpf.o");
    std::fs::write(&file, elf).expect("write");
    it.ok(&format!("prog load {} thirds", file.display()));
    let shown = it.ok("map show name verdicts");
    assert!(
        shown.contains(": array  name verdicts  flags 0x0\n    key 4B  value 8B  max_entries 5"),
        "{shown}"
    );
    it.ok("map update name verdicts key 02 00 00 00 value 01 02 03 04 05 06 07 08");
    let entry = "key: 02 00 00 00  value: 01 02 03 04 05 06 07 08\n";
    assert_eq!(it.ok("map lookup name verdicts key hex 0x02 0x0 0 0"), entry);
    let dump = it.ok("map dump name verdicts");
    assert!(
        dump.contains(entry) && dump.ends_with("Found 5 elements\n"),
        "{dump}"
    );
    let json = it.json("map dump verdicts");
    assert_eq!(json[2]["value"], "0102030405060708");
    assert_eq!(json.as_array().map(Vec::len), Some(5));
    assert!(
        it.fails("map lookup name verdicts key 02 00")
            .contains("a key has 4 bytes")
    );
    assert!(
        it.fails("map lookup name nosuch key 00")
            .contains("no map \"nosuch\"")
    );
    assert!(
        it.fails("map update name verdicts key 0 0 0 0")
            .contains("value is missing")
    );
    assert_eq!(it.run("map dump").status.code(), Some(2), "usage");
}

#[test]
fn stats_come_once_or_again_and_again_for_people_and_for_scripts() {
    let it = Instance::new("gen:udp4,flows=100,rate=5000");
    until("frames", || it.running.stats().total("rx_frames") > 10);
    let once = it.ok("stats");
    assert!(
        once.starts_with("up ") && once.contains("buffers in flight"),
        "{once}"
    );
    let watched = it.ok("stats --watch 0.1 --count 3");
    assert_eq!(watched.matches("RX/s").count(), 3, "{watched}");
    let lines = it.ok("stats --json --watch 0.1 --count 2");
    for line in lines.lines() {
        let stats: Value = serde_json::from_str(line).expect("an object a line");
        assert!(stats["ports"][0]["queues"][0]["counters"]["rx_frames"].is_u64());
    }
    assert_eq!(lines.lines().count(), 2);
    assert!(
        it.ok("stats --legend")
            .contains("xdp_drop (frames)\n    verdict XDP_DROP")
    );
    assert_eq!(it.json("call stats")["ports"][0]["name"], "eth0");
    assert!(it.ok("info").contains("protocol 1"));
}

#[test]
fn verbs_of_an_application_are_called_by_name() {
    let it = Instance::new("null");
    it.running
        .control()
        .register("demo.greet", |args| Ok(format!("hello {}", args["name"]).into()));
    let output = Command::new(binary())
        .arg("--run-dir")
        .arg(it.dir.path())
        .args(["call", "demo.greet", r#"{"name":"you"}"#])
        .output()
        .expect("millrace runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\"hello \\\"you\\\"\"\n");
    assert!(it.fails("call demo.nosuch").contains("no verb"));
}

#[test]
fn the_command_says_what_to_do_when_none_or_several_instances_run() {
    let dir = tempfile::tempdir().expect("tempdir");
    let error = one_line_error(&run_in(dir.path(), "port show"));
    assert!(error.contains("no instance runs"), "{error}");
    let start = |name: &str| {
        builder("null", 1)
            .control(name)
            .run_dir(dir.path())
            .build()
            .expect("app")
            .start()
            .expect("it starts")
    };
    let (_a, _b) = (start("a"), start("b"));
    let error = one_line_error(&run_in(dir.path(), "port show"));
    assert!(error.contains("a, b") && error.contains("--instance"), "{error}");
    assert!(run_in(dir.path(), "--instance b port show").status.success());
    let names = run_in(dir.path(), "instances");
    assert_eq!(String::from_utf8_lossy(&names.stdout), "a\nb\n");
}

#[test]
fn stop_ends_the_instance_cleanly() {
    let it = Instance::new("gen:udp4,flows=100,rate=5000");
    it.ok("stop");
    let report = it.running.wait().expect("clean end");
    assert_eq!(report.buffers_missing, 0);
    assert!(!it.dir.path().join("test.sock").exists());
}

#[test]
fn help_teaches_with_examples() {
    for object in [
        "", "port ", "queue ", "prog ", "chain ", "capture ", "map ", "stats ",
    ] {
        let output = run_in(Path::new("/nonexistent"), &format!("{object}--help"));
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Examples:\n  millrace "), "{object}: {text}");
    }
    let wrong = run_in(Path::new("/nonexistent"), "prot show");
    assert_eq!(wrong.status.code(), Some(2));
}
