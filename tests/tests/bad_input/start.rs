//! Mistakes in how a program is started.

use crate::rig::*;
use millrace_tests::netns::{self, Netns};
use millrace_tests::process::sibling;
use std::fs;
use std::path::Path;
use std::process::Command;

fn balancer(rig: &Rig, args: &[&str]) -> Command {
    rig.command("millrace-l4lb", args)
}

#[test]
fn a_wrong_device_string_says_what_to_write() {
    let rig = Rig::new();
    let config = rig.file("right.toml", RIGHT);
    let long = format!("vfio-user:/{}", "a".repeat(200));
    let count = count_example(&rig, "a_wrong_device_string_says_what_to_write");
    for (device, says) in [
        ("floppy:0", ["`floppy:`", "write vfio:"]),
        ("eth0", ["`eth0`", "write vfio:"]),
        ("", ["empty", "write vfio:"]),
        ("vfio:", ["PCI address", "lspci -D"]),
        ("vfio:17:00", ["`vfio:17:00`", "lspci -D"]),
        ("vfio-user:", ["path is missing", "vfio-user:/run/nic.sock"]),
        (&long, ["107 bytes", "vfio-user:/run/nic.sock"]),
        ("model:", ["family is missing", "model:ixgbe?wire=tap:mr0"]),
        ("model:e1000", ["`e1000`", "there are: ixgbe"]),
        (
            "model:ixgbe?speed=9",
            ["`speed` is not known", "write FAMILY?wire=SPEC"],
        ),
        ("model:ixgbe?queues=0", ["`0`", "write 1 to 128"]),
        ("model:ixgbe?wire=string", ["\"string\"", "wires are tap:NAME"]),
        (
            "model:ixgbe?wire=packet:mrbad9",
            ["\"mrbad9\"", "`ip link` lists"],
        ),
        (
            "model:exerciser",
            ["1b36:0005, which this driver does not know", "give it an 82599"],
        ),
    ] {
        let args = ["--config", &config, "--no-pin", "--device", device];
        rig.refuses("millrace-l4lb", balancer(&rig, &args), &says);
        if let Some((example, object)) = &count {
            let command = rig.prepare(Command::new(example), &[object, device]);
            rig.refuses("count", command, &says);
        }
    }
}

/// The example and an object that is right; says by name when one is not to be had.
fn count_example(rig: &Rig, test: &str) -> Option<(std::path::PathBuf, String)> {
    let Ok(example) = sibling("examples/count") else {
        skip(
            test,
            "the part with `count` needs it built: cargo build -p millrace --examples",
        );
        return None;
    };
    if object(rig, "pass.bpf.o", PASS).is_none() {
        skip(test, "the part with `count` needs clang");
        return None;
    }
    Some((example, rig.path("pass.bpf.o")))
}

#[test]
fn a_model_that_cannot_have_its_wire_or_socket_says_so() {
    let rig = Rig::new();
    let socket = rig.path("nic.sock");
    let file = rig.file("file", "not a socket");
    let folder = rig.path("nowhere/nic.sock");
    let cut = rig.file("cut.pcap", [0xd4, 0xc3, 0xb2, 0xa1, 2, 0]);
    let cut = format!("pcap:{cut}");
    let on = |wire: &'static str| vec!["ixgbe", "--socket", &socket, "--wire", wire];
    let table: Vec<(Vec<&str>, [&str; 2])> = vec![
        (vec!["e1000", "--socket", &socket], ["e1000", "error"]),
        (vec!["ixgbe"], ["required", "error"]),
        (on("string"), ["\"string\"", "wires are tap:NAME"]),
        (on("packet:mrbad9"), ["\"mrbad9\"", "`ip link` lists"]),
        (on("packet:"), ["name is missing", "packet:IFACE"]),
        (on("tap:a-name-of-some-length"), ["15 characters", "tap:NAME"]),
        (
            on("pcap:/nonexistent.pcap"),
            ["/nonexistent.pcap", "cannot be read"],
        ),
        (
            vec!["ixgbe", "--socket", &socket, "--wire", &cut],
            ["cut.pcap", "capture file"],
        ),
        (on("gen:ipx"), ["\"ipx\"", "with PROTO udp4"]),
        (on("gen:udp4,flows=none"), ["flows", "gen:PROTO"]),
        (
            vec!["ixgbe", "--socket", &socket, "--queues", "0"],
            ["`0`", "write 1 to 128"],
        ),
        (
            vec!["ixgbe", "--socket", &socket, "--mac", "1"],
            ["`1`", "write six pairs"],
        ),
        (
            vec!["ixgbe", "--socket", &file],
            ["not a socket", "choose another path"],
        ),
        (
            vec!["ixgbe", "--socket", &folder],
            ["nowhere/nic.sock", "make its folder first"],
        ),
    ];
    for (args, says) in table {
        rig.refuses("nic-model", rig.command("nic-model", &args), &says);
    }
    assert_eq!(fs::read(&file).expect("the file is still there"), b"not a socket");
}

#[test]
fn a_socket_that_nobody_serves_is_unreachable_for_clients_and_replaced_by_a_server() {
    let rig = Rig::new();
    let config = rig.file("right.toml", RIGHT);
    let stale = rig.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    for (path, says) in [
        (rig.path("none.sock"), "No such file"),
        (stale.clone(), "Connection refused"),
        (rig.file("file", ""), "Connection refused"),
    ] {
        let device = format!("vfio-user:{path}");
        let args = ["--config", &config, "--no-pin", "--device", &device];
        let next = format!("`nic-model ixgbe --socket {path}");
        rig.refuses("millrace-l4lb", balancer(&rig, &args), &[&path, says, &next]);
    }
    let model = rig.command("nic-model", &["ixgbe", "--socket", &stale]);
    let mut model = rig.start("model", model);
    until("the stale socket is replaced", || {
        std::os::unix::net::UnixStream::connect(&stale).is_ok()
    });
    let status = model.stop(LIMIT).expect("it ends on SIGTERM");
    assert!(status.success(), "{}", rig.log("model"));
    until("its socket is gone", || !Path::new(&stale).exists());
}

#[test]
fn a_wrong_file_names_the_line_and_what_is_wrong() {
    let rig = Rig::new();
    let table = [
        (
            "unknown.toml",
            RIGHT.replace("weight", "wait"),
            "unknown.toml:11: unknown field `wait`, expected one of `address`, `weight`",
        ),
        (
            "twice.toml",
            RIGHT.replace("66.0.12", "66.0.11"),
            "twice.toml:11: backend 10.66.0.11 is listed twice in VIP \"web\"",
        ),
        (
            "vips.toml",
            format!("{RIGHT}{}", &RIGHT[RIGHT.find("[[vip]]").unwrap_or(0)..]),
            "vips.toml:13: ",
        ),
        ("syntax.toml", RIGHT.replace("}]", "}"), "syntax.toml:1"),
        (
            "type.toml",
            RIGHT.replace("port = 80", "port = \"www\""),
            "type.toml:7: ",
        ),
        (
            "range.toml",
            RIGHT.replace("port = 80", "port = 80000"),
            "out of range: 1 to 65535",
        ),
        (
            "mode.toml",
            RIGHT.replace("\"l2\"", "\"nat\""),
            "expected `l2` or `ipip`",
        ),
        ("empty.toml", String::new(), "at least one"),
    ];
    for (name, text, says) in table {
        let file = rig.file(name, text);
        let running = ["--config", &file, "--no-pin", "--device", NULL];
        for args in [&running[..], &["--config", &file, "--check"], &["check", &file]] {
            rig.refuses("millrace-l4lb", balancer(&rig, args), &[name, says]);
        }
    }
    let binary = rig.file("binary.toml", [0xff, 0xfe, 0]);
    for (file, says) in [
        ("/nonexistent.toml", "No such file"),
        ("/", "directory"),
        (&binary, "UTF-8"),
    ] {
        let args = ["--config", file, "--no-pin", "--device", NULL];
        rig.refuses(
            "millrace-l4lb",
            balancer(&rig, &args),
            &[file, says, "give the file with --config"],
        );
    }
}

#[test]
fn options_that_cannot_be_had_say_what_can() {
    let rig = Rig::new();
    let config = rig.file("right.toml", RIGHT);
    let table: [(&[&str], [&str; 2]); 6] = [
        (&["--queues", "17"], ["queues = 17", "16 with RSS"]),
        (&["--workers", "9"], ["9 workers", "fewer workers"]),
        (&["--engine", "rbpf"], ["`rbpf`", "use `interp`"]),
        (&["--name", "../up"], ["\"../up\"", "use letters"]),
        (&["--tap-address", "10.0.0.2/24"], ["--exception-tap", "error"]),
        (&["--queues", "none"], ["none", "--queues"]),
    ];
    for (more, says) in table {
        let mut args = vec!["--config", &config, "--no-pin", "--device", NULL];
        args.extend(more);
        rig.refuses("millrace-l4lb", balancer(&rig, &args), &says);
    }
    let table: [(&str, &[&str], [&str; 2]); 6] = [
        (
            "millrace-setup",
            &["bind", "0000:ff:1f.7"],
            ["0000:ff:1f.7", "`millrace-setup status`"],
        ),
        ("millrace-setup", &["hugepages", "lots"], ["`lots`", "512M or 2G"]),
        (
            "millrace-setup",
            &["hugepages", "2M", "--node", "999"],
            ["999", "it has"],
        ),
        (
            "millrace-setup",
            &["hugepages", "2M", "--size", "3M"],
            ["3072 KiB", "it has"],
        ),
        (
            "millrace-bench",
            &["lb", "--case", "none"],
            ["\"none\"", "there are: forward"],
        ),
        (
            "millrace-bench",
            &["lb", "--engine", "none"],
            ["\"none\"", "there are: interp"],
        ),
    ];
    for (program, args, says) in table {
        rig.refuses(program, rig.command(program, args), &says);
    }
}

#[test]
fn a_command_without_an_instance_says_how_to_find_one() {
    let rig = Rig::new();
    let object = rig.file("any.bpf.o", "");
    for args in [
        &["port", "show"][..],
        &["stats"],
        &["prog", "load", &object, "any"],
        &["map", "list"],
        &["stop"],
    ] {
        let says = ["no instance runs", &rig.path("run"), "--run-dir"];
        rig.refuses("millrace", rig.command("millrace", args), &says);
    }
    let args = ["--instance", "nobody", "stats"];
    let says = ["nobody", "start it", "--run-dir"];
    rig.refuses("millrace", rig.command("millrace", &args), &says);
    for args in [&["status"][..], &["drain", "10.0.0.1"], &["reload"]] {
        rig.refuses(
            "millrace-l4lb",
            balancer(&rig, args),
            &["no instance runs", "--run-dir"],
        );
    }
}

#[test]
fn an_object_that_is_cut_or_wants_an_unknown_helper_is_refused_by_the_example() {
    let name = "an_object_that_is_cut_or_wants_an_unknown_helper_is_refused_by_the_example";
    let rig = Rig::new();
    let Ok(example) = sibling("examples/count") else {
        return skip(
            name,
            "needs the example built: cargo build -p millrace --examples",
        );
    };
    let refuses = |path: &str, says: &[&str]| {
        rig.refuses("count", rig.prepare(Command::new(&example), &[path, NULL]), says);
    };
    refuses("/nonexistent.bpf.o", &["/nonexistent.bpf.o", "No such file"]);
    let text = rig.file("text.bpf.o", "this is no object");
    refuses(&text, &["text.bpf.o", "clang -O2 -g -target bpf"]);
    let Some(right) = object(&rig, "pass.bpf.o", PASS) else {
        return skip(name, "needs clang for the rest");
    };
    // Wherever it is cut: header, section headers (they come last), contents.
    for part in [0, 8, 63, right.len() / 2, right.len() - 1] {
        let cut = rig.file("cut.bpf.o", &right[..part]);
        refuses(&cut, &["cut.bpf.o", "clang -O2 -g -target bpf"]);
    }
    object(&rig, "helper.bpf.o", UNKNOWN_HELPER);
    refuses(
        &rig.path("helper.bpf.o"),
        &["helper.bpf.o", "`wants`", "9999", "helper.bpf.o.c:2"],
    );
}

#[test]
fn a_stranger_is_told_what_would_allow_it() {
    let name = "a_stranger_is_told_what_would_allow_it";
    if !rustix::process::geteuid().is_root() || Command::new("setpriv").arg("-V").output().is_err() {
        return skip(name, "needs root and setpriv, to become somebody else");
    }
    let rig = Rig::new();
    if let Err(why) = rig.lets_strangers_in() {
        return skip(name, &format!("another user cannot run programs here: {why}"));
    }
    let config = rig.file("right.toml", RIGHT);
    let (mine, served) = (rig.path("mine.sock"), rig.path("served.sock"));
    let open = rig.open("open", 0o777);
    let theirs = format!("{open}/nic.sock");
    let _model = rig.start("model", rig.command("nic-model", &["ixgbe", "--socket", &served]));
    let args = [
        "--config", &config, "--no-pin", "--device", NULL, "--name", "root",
    ];
    let _balancer = rig.start("balancer", balancer(&rig, &args));
    until("both are up", || {
        Path::new(&served).exists()
            && balancer(&rig, &["status"])
                .output()
                .is_ok_and(|o| o.status.success())
    });

    let on = |device: &'static str| vec!["--config", &config, "--no-pin", "--device", device];
    let device = format!("vfio-user:{served}");
    let with_tap = [on(NULL), vec!["--exception-tap", "mrbad0"]].concat();
    let table: Vec<(&str, Vec<&str>, [&str; 2])> = vec![
        (
            "nic-model",
            vec!["ixgbe", "--socket", &mine],
            ["mine.sock", "run as root, or choose a folder"],
        ),
        (
            "nic-model",
            vec!["ixgbe", "--socket", &theirs, "--wire", "tap:mrbad0"],
            ["\"mrbad0\"", "run as root or `setcap cap_net_admin"],
        ),
        (
            "nic-model",
            vec!["ixgbe", "--socket", &theirs, "--wire", "packet:lo"],
            ["\"lo\"", "run as root or `setcap cap_net_raw"],
        ),
        (
            "nic-model",
            vec!["ixgbe", "--socket", &theirs, "--user", "nobody"],
            ["--user", "start with sudo"],
        ),
        ("millrace-l4lb", on(NULL), ["run as root", "MILLRACE_RUN_DIR"]),
        (
            "millrace-l4lb",
            with_tap,
            ["mrbad0", "run as root or `setcap cap_net_admin"],
        ),
        (
            "millrace-l4lb",
            vec!["--config", &config, "--no-pin", "--device", &device],
            ["served.sock", "run as root"],
        ),
        ("millrace-l4lb", vec!["status"], ["root.sock", "sudo"]),
        ("millrace", vec!["stop"], ["root.sock", "sudo"]),
        (
            "millrace-setup",
            vec!["hugepages", "2M"],
            ["no permission", "sudo millrace-setup"],
        ),
    ];
    for (program, args, says) in table {
        rig.refuses(program, rig.command_of_a_stranger(program, &args), &says);
    }
    assert!(!Path::new("/sys/class/net/mrbad0").exists());
}

#[test]
fn a_pci_device_that_vfio_cannot_have_says_what_is_in_the_way() {
    let name = "a_pci_device_that_vfio_cannot_have_says_what_is_in_the_way";
    let rig = Rig::new();
    let config = rig.file("right.toml", RIGHT);
    let refuses = |device: &str, says: &[&str]| {
        let args = ["--config", &config, "--no-pin", "--device", device];
        rig.refuses("millrace-l4lb", balancer(&rig, &args), says);
    };
    refuses(
        "vfio:ffff:ff:1f.7",
        &["no PCI device ffff:ff:1f.7", "`millrace-setup status`"],
    );
    let devices = fs::read_dir("/sys/bus/pci/devices")
        .into_iter()
        .flatten()
        .flatten();
    let is_vfio = |path: &Path| {
        fs::read_link(path.join("driver")).is_ok_and(|link| link.to_string_lossy().contains("vfio"))
    };
    let Some(device) = devices.map(|entry| entry.path()).find(|path| !is_vfio(path)) else {
        return skip(
            name,
            "the part about the IOMMU needs a PCI device that is not VFIO's",
        );
    };
    let bdf = device.file_name().unwrap_or_default().to_string_lossy();
    let says = if !device.join("iommu_group").exists() {
        "switch the IOMMU on"
    } else {
        // With an IOMMU it is the kernel's driver that is in the way, or that there is none.
        "`millrace-setup bind"
    };
    refuses(&format!("vfio:{bdf}"), &[&bdf, says]);
}

#[test]
fn a_start_that_fails_late_takes_its_interface_away_again() {
    let name = "a_start_that_fails_late_takes_its_interface_away_again";
    if let Err(reason) = netns::available() {
        return skip(name, &reason);
    }
    let rig = Rig::new();
    let config = rig.file("right.toml", RIGHT);
    let ns = Netns::new("bad").expect("a namespace");
    let inside = |program: &str, args: &[&str]| {
        let program = sibling(program).expect("the programs are built");
        rig.prepare(ns.command(&program.to_string_lossy()), args)
    };
    let interface = || ns.run(&["ip", "link", "show", "mrbad0"]).is_ok();
    let tap = [
        "--config",
        &config,
        "--no-pin",
        "--device",
        NULL,
        "--exception-tap",
        "mrbad0",
    ];
    let table: [(&[&str], &str); 3] = [
        (&["--engine", "rbpf"], "use `interp`"),
        (&["--name", "a/b"], "use letters"),
        (&["--tap-address", "ff02::1/64"], "ff02::1"),
    ];
    for (more, says) in table {
        let args = [&tap[..], more].concat();
        rig.refuses("millrace-l4lb", inside("millrace-l4lb", &args), &[says]);
        assert!(!interface(), "{more:?} leaves the interface behind");
    }
    // An interface that somebody else has: theirs stays.
    let socket = rig.path("nic.sock");
    let args = ["ixgbe", "--socket", &socket, "--wire", "tap:mrbad0"];
    let _model = rig.start("model", inside("nic-model", &args));
    until("the model is up", || Path::new(&socket).exists());
    rig.refuses(
        "millrace-l4lb",
        inside("millrace-l4lb", &tap),
        &["mrbad0", "in use by another program"],
    );
    let other = rig.path("other.sock");
    let args = ["ixgbe", "--socket", &other, "--wire", "tap:mrbad0"];
    rig.refuses(
        "nic-model",
        inside("nic-model", &args),
        &["mrbad0", "in use by another program"],
    );
    assert!(interface());
}
