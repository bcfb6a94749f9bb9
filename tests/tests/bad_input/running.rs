//! Mistakes and mishaps while a program runs: what was in force stays in force, and who loses its NIC says so and ends.

use crate::rig::*;
use millrace_tests::process::{Process, sibling};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A balancer that balances.
struct Live<'a> {
    rig: &'a Rig,
    process: Process,
    name: &'static str,
}

impl<'a> Live<'a> {
    fn start(rig: &'a Rig, name: &'static str, config: &str, device: &str) -> Live<'a> {
        let args = ["--config", config, "--no-pin", "--device", device, "--name", name];
        let process = rig.start(name, rig.command("millrace-l4lb", &args));
        let mut live = Live { rig, process, name };
        until("the balancer is up", || {
            assert!(live.process.ended().is_none(), "{}", rig.log(name));
            let status = live.ask("status").output();
            status.is_ok_and(|o| o.status.success())
        });
        live
    }

    fn ask(&self, what: &str) -> Command {
        self.rig.command("millrace-l4lb", &[what, "--name", self.name])
    }

    /// Name and backends of each VIP in force.
    fn in_force(&self) -> Vec<(String, usize)> {
        let args = ["status", "--json", "--name", self.name];
        let text = self.rig.succeeds(self.rig.command("millrace-l4lb", &args));
        let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let vips = status["vips"].as_array().expect("VIPs");
        let one = |vip: &serde_json::Value| {
            let backends = vip["backends"].as_array().map_or(0, Vec::len);
            (vip["name"].as_str().unwrap_or_default().to_owned(), backends)
        };
        vips.iter().map(one).collect()
    }
}

#[test]
fn a_broken_file_leaves_the_old_one_in_force() {
    let rig = Rig::new();
    let config = rig.file("lb.toml", RIGHT);
    let mut live = Live::start(&rig, "reloaded", &config, NULL);
    let old = [("web".to_owned(), 2)];
    assert_eq!(live.in_force(), old);
    for (broken, says) in [
        (
            RIGHT.replace("weight", "wait"),
            "lb.toml:11: unknown field `wait`",
        ),
        (
            RIGHT.replace("66.0.12", "66.0.11"),
            "lb.toml:11: backend 10.66.0.11 is listed twice",
        ),
        (RIGHT.replace("}]", "}"), "lb.toml:1"),
        (String::new(), "at least one"),
        (
            RIGHT.replace("4096", "8192").replace("web", "other"),
            "connection_table",
        ),
    ] {
        fs::write(&config, broken).expect("it can be written");
        rig.refuses("millrace-l4lb", live.ask("reload"), &[says]);
        assert_eq!(live.in_force(), old, "{says}");
        live.process.signal(rustix::process::Signal::HUP);
    }
    fs::remove_file(&config).expect("it can be removed");
    rig.refuses("millrace-l4lb", live.ask("reload"), &["lb.toml", "No such file"]);
    assert_eq!(live.in_force(), old);
    // Unasked: the watch over the file refuses it too, and says so in the log.
    fs::write(&config, RIGHT.replace("port = 80", "port = 80000")).expect("it can be written");
    until("the log says what is wrong", || {
        let log = rig.log("reloaded");
        log.contains("port = 80000 is out of range") && log.contains("stays in force")
    });
    assert_eq!(live.in_force(), old);
    // A file that is right again is taken.
    fs::write(&config, RIGHT.replace("web", "other")).expect("it can be written");
    rig.succeeds(live.ask("reload"));
    assert_eq!(live.in_force(), [("other".to_owned(), 2)]);
    let status = live.process.stop(LIMIT).expect("it ends on SIGTERM");
    assert!(status.success(), "{}", rig.log("reloaded"));
}

#[test]
fn an_object_that_is_cut_or_wants_an_unknown_helper_does_not_disturb_a_running_one() {
    let name = "an_object_that_is_cut_or_wants_an_unknown_helper_does_not_disturb_a_running_one";
    let rig = Rig::new();
    let Some(right) = object(&rig, "pass.bpf.o", PASS) else {
        return skip(name, "needs clang");
    };
    object(&rig, "helper.bpf.o", UNKNOWN_HELPER);
    let config = rig.file("lb.toml", RIGHT);
    let live = Live::start(&rig, "shipped", &config, NULL);
    let millrace = |args: &[&str]| rig.command("millrace", args);
    let before = rig.succeeds(millrace(&["prog", "show"]));
    let load = |path: &str, says: &[&str]| {
        rig.refuses("millrace", millrace(&["prog", "load", path, "new"]), says);
        assert_eq!(rig.succeeds(millrace(&["prog", "show"])), before, "{says:?}");
    };
    load("/nonexistent.bpf.o", &["/nonexistent.bpf.o", "No such file"]);
    for part in [0, 8, 63, right.len() / 2, right.len() - 1] {
        let cut = rig.file("cut.bpf.o", &right[..part]);
        load(&cut, &["new", "clang -O2 -g -target bpf"]);
    }
    load(
        &rig.path("helper.bpf.o"),
        &["`wants`", "9999", "helper.bpf.o.c:2"],
    );
    for (args, says) in [
        (
            &["prog", "attach", "none", "port", "eth0"][..],
            ["\"none\"", "`prog list`"],
        ),
        (
            &["prog", "load", &rig.path("pass.bpf.o"), "l4lb"],
            ["\"l4lb\"", "another name"],
        ),
        (&["prog", "unload", "l4lb"], ["\"l4lb\"", "detach it first"]),
        (&["queue", "stop", "eth0", "9"], ["no queue 9", "0 to"]),
        (&["port", "show", "eth9"], ["\"eth9\"", "has: eth0"]),
        (&["map", "dump", "name", "none"], ["\"none\"", "`map list`"]),
    ] {
        rig.refuses("millrace", millrace(args), &says);
    }
    // What is right is still taken.
    rig.succeeds(millrace(&["prog", "load", &rig.path("pass.bpf.o"), "new"]));
    assert_eq!(live.in_force().len(), 1);
}

#[test]
fn a_second_client_server_or_instance_is_refused_and_the_first_goes_on() {
    let rig = Rig::new();
    let config = rig.file("lb.toml", RIGHT);
    let socket = rig.path("nic.sock");
    let device = format!("vfio-user:{socket}");
    let _model = rig.start("model", rig.command("nic-model", &["ixgbe", "--socket", &socket]));
    until("the model is up", || Path::new(&socket).exists());
    let mut live = Live::start(&rig, "first", &config, &device);

    let balancer = |device: &str, name: &str| {
        let args = [
            "--config", &config, "--no-pin", "--device", device, "--name", name,
        ];
        rig.command("millrace-l4lb", &args)
    };
    let busy = ["nic.sock", "in use by another program", "stop it first"];
    rig.refuses("millrace-l4lb", balancer(&device, "second"), &busy);
    rig.refuses("millrace-l4lb", balancer(NULL, "first"), &["first"]);
    let again = rig.command("nic-model", &["ixgbe", "--socket", &socket]);
    let says = ["nic.sock", "another server is listening", "choose another path"];
    rig.refuses("nic-model", again, &says);

    assert_eq!(live.in_force(), [("web".to_owned(), 2)]);
    let status = live.process.stop(LIMIT).expect("it ends on SIGTERM");
    assert!(status.success(), "{}", rig.log("first"));
    // And whoever comes when the first has gone is let in.
    Live::start(&rig, "third", &config, &device);
}

/// Kills the model under a program that is up, and looks at how the program ends.
fn loses_its_nic(rig: &Rig, program: &str, log: &str, process: &mut Process, model: &mut Process) {
    let socket = rig.path("nic.sock");
    model.kill();
    let status = process.wait(Duration::from_secs(10));
    let text = rig.log(log);
    let status = status.unwrap_or_else(|| panic!("{program} hangs when its NIC is gone: {text}"));
    // `count` says on standard output that it runs; here both are in one file.
    let stderr = text
        .lines()
        .filter(|line| !line.contains("Ctrl-C"))
        .collect::<Vec<_>>()
        .join("\n");
    let ended = Ended {
        status,
        stdout: String::new(),
        stderr,
    };
    let line = complaint(program, program, &ended);
    for words in ["port eth0 is down", "closed the connection", "started again"] {
        assert!(line.contains(words), "{line}");
    }
    let left = || {
        // Without root there is no helper that removes a dead model's socket; the next model replaces it.
        let mut traces = rig.traces();
        traces.retain(|trace| *trace != socket || rustix::process::geteuid().is_root());
        traces
    };
    let start = std::time::Instant::now();
    while !left().is_empty() {
        assert!(start.elapsed() < PATIENCE, "{program} left behind: {:?}", left());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_balancer_whose_nic_dies_says_so_and_ends() {
    let rig = Rig::new();
    let config = rig.file("lb.toml", RIGHT);
    let socket = rig.path("nic.sock");
    let mut model = rig.start("model", rig.command("nic-model", &["ixgbe", "--socket", &socket]));
    until("the model is up", || Path::new(&socket).exists());
    let mut live = Live::start(&rig, "orphan", &config, &format!("vfio-user:{socket}"));
    loses_its_nic(&rig, "millrace-l4lb", "orphan", &mut live.process, &mut model);
}

#[test]
fn the_example_whose_nic_dies_says_so_and_ends() {
    let name = "the_example_whose_nic_dies_says_so_and_ends";
    let Ok(example) = sibling("examples/count") else {
        return skip(
            name,
            "needs the example built: cargo build -p millrace --examples",
        );
    };
    let rig = Rig::new();
    if object(&rig, "pass.bpf.o", PASS).is_none() {
        return skip(name, "needs clang");
    }
    let socket = rig.path("nic.sock");
    // The generator's frames go to this address.
    let mac = "02:00:00:00:00:02";
    let wire = "gen:udp4,flows=100,rate=10000";
    let args = ["ixgbe", "--socket", &socket, "--mac", mac, "--wire", wire];
    let mut model = rig.start("model", rig.command("nic-model", &args));
    until("the model is up", || Path::new(&socket).exists());
    let args = [rig.path("pass.bpf.o"), format!("vfio-user:{socket}")];
    let command = rig.prepare(Command::new(example), &[&args[0], &args[1]]);
    let mut count = rig.start("count", command);
    until("frames arrive", || {
        let stats = rig.run(rig.command("millrace", &["--json", "stats"])).stdout;
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap_or_default();
        stats["ports"][0]["queues"][0]["counters"]["rx_frames"].as_u64() > Some(10)
    });
    loses_its_nic(&rig, "count", "count", &mut count, &mut model);
}
