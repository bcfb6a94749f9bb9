//! The XPS hook: a program chooses the TX queue of real traffic, in a network namespace of its own.

mod common;

use common::*;
use millrace::{AppStats, EngineKind, Running};
use serde_json::Value;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Addresses of the host that talk, so that both RX queues have something to do.
const HOSTS: u8 = 8;
/// Datagrams each of them sends to a port.
const EACH: u64 = 5;
const SENT: u64 = HOSTS as u64 * EACH;

fn millrace(dir: &Path, line: &str) -> Value {
    let output = Command::new(binary())
        .args(["--json", "--run-dir"])
        .arg(dir)
        .args(line.split_whitespace())
        .output()
        .expect("millrace runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "millrace {line}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Sends datagrams to a port from each address and waits for all of them to come back.
fn talk(port: u16) {
    let sockets: Vec<_> = (1..=HOSTS)
        .map(|n| UdpSocket::bind((format!("10.7.0.{n}"), port)).expect("bind"))
        .collect();
    for socket in &sockets {
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        for i in 0..EACH {
            let payload = [i as u8; 100];
            socket.send_to(&payload, ("10.7.0.100", port)).expect("send");
            let mut answer = [0; 200];
            let (len, from) = socket.recv_from(&mut answer).expect("the datagram comes back");
            assert_eq!(answer[..len], payload);
            assert_eq!(from.to_string(), format!("10.7.0.100:{port}"));
        }
    }
}

fn of(stats: &AppStats, counter: &str) -> [u64; 2] {
    [0, 1].map(|queue| stats.ports[0].queues[queue].counter(counter))
}

/// What each of the two queues counted while `work` ran.
fn during(running: &Running, counters: &[&str], work: impl FnOnce()) -> Vec<[u64; 2]> {
    let before = running.stats();
    work();
    running.barrier().expect("workers have published");
    let after = running.stats();
    let difference = |name: &&str| {
        let (a, b) = (of(&before, name), of(&after, name));
        [b[0] - a[0], b[1] - a[1]]
    };
    counters.iter().map(difference).collect()
}

#[test]
fn a_program_chooses_the_tx_queue_of_real_traffic_and_leaves_the_choice_to_the_maps() {
    let name = "a_program_chooses_the_tx_queue_of_real_traffic_and_leaves_the_choice_to_the_maps";
    if !inside_namespace(name) {
        return;
    }
    let (Some(steer), Some(bounce)) = (object("steer"), object("bounce")) else {
        return skip(name, "needs clang");
    };
    if !Path::new("/dev/net/tun").exists() {
        return skip(name, "needs /dev/net/tun");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str, elf: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, elf).expect("write");
        path.display().to_string()
    };
    // Nothing but the test talks on the interface.
    for which in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    let (steer, bounce) = (file("steer.o", &steer), file("bounce.o", &bounce));
    let app = builder("tap:mrsteer0", 2)
        .control("steer")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let mac = app
        .port("eth0")
        .expect("port")
        .mac
        .map(|b| format!("{b:02x}"))
        .join(":");
    let running = app.start().expect("start");
    ip("link set mrsteer0 up");
    for n in 1..=HOSTS {
        ip(&format!("addr add 10.7.0.{n}/24 dev mrsteer0"));
    }
    ip(&format!(
        "neigh replace 10.7.0.100 lladdr {mac} dev mrsteer0 nud permanent"
    ));
    let run = |line: &str| millrace(dir.path(), line);
    run(&format!("prog load {bounce} bounce"));
    run("prog attach xdp bounce port eth0");
    let counters = [
        "xdp_tx",
        "tx_frames",
        "steer_program",
        "steer_out_of_range",
        "steer_no_opinion",
        "steer_rxq_map",
    ];
    let total = |pair: [u64; 2]| pair[0] + pair[1];

    for engine in EngineKind::available() {
        let loaded = run(&format!("prog load {steer} steer"));
        assert_eq!(
            (&loaded["type"], &loaded["section"]),
            (&"xps".into(), &"xps".into())
        );
        run(&format!(
            "prog attach xps steer port eth0 engine {}",
            engine.name()
        ));
        // The program's answer, the queue that all leave through, and how many were out of range.
        for (port, queue, out_of_range) in [(7000, 0, 0), (7001, 1, 0), (7002, 0, SENT), (7003, 1, SENT)] {
            let seen = during(&running, &counters, || talk(port));
            let mut wanted = [0, 0];
            wanted[queue] = SENT;
            println!(
                "{}: program returns {}: queue {queue}, TX frames by queue {:?}, out of range {}",
                engine.name(),
                port - 7000,
                seen[1],
                total(seen[3])
            );
            assert_eq!(seen[1], wanted, "port {port}");
            assert!(
                seen[0][0] > 0 && seen[0][1] > 0,
                "both RX queues receive: {seen:?}"
            );
            assert_eq!([total(seen[2]), total(seen[3])], [SENT, out_of_range]);
            assert_eq!([total(seen[4]), total(seen[5])], [0, 0]);
        }
        // -1: the rxq map sends what came in on a queue out of its twin.
        let seen = during(&running, &counters, || talk(7900));
        println!(
            "{}: program returns -1: RX {:?}, TX {:?}",
            engine.name(),
            seen[0],
            seen[1]
        );
        assert_eq!(seen[1], seen[0], "the maps' choice");
        assert_eq!([total(seen[2]), total(seen[4]), total(seen[5])], [0, SENT, SENT]);

        let entry = run("map lookup name seen key 00 00 00 00");
        let value = entry["value"].as_str().expect("hex");
        let words: Vec<u32> = (0..8)
            .map(|i| {
                u32::from_str_radix(&value[8 * i..8 * i + 8], 16)
                    .expect("hex")
                    .swap_bytes()
            })
            .collect();
        let [len, mapping, protocol, ingress, egress, hash, copied, cb] = words[..] else {
            panic!("{value}");
        };
        assert_eq!((len, protocol), (142, u32::from(0x0800u16.to_be())));
        assert!((1..=2).contains(&mapping), "RX queue plus one, not {mapping}");
        assert_eq!((ingress, egress, hash, copied, cb), (1, 1, 1, 7900, 77));

        let queues = run("queue show eth0");
        assert_eq!(
            (&queues[0]["steering"], &queues[0]["program"]),
            (&"steer".into(), &"bounce".into())
        );
        run("prog detach xps port eth0");
        run("prog unload steer");
        assert!(run("queue show eth0")[1]["steering"].is_null());
        let programs = run("prog list");
        assert_eq!(programs.as_array().map(Vec::len), Some(1), "{programs}");
        let seen = during(&running, &counters, || talk(7001));
        assert_eq!(seen[1], seen[0], "the maps choose again");
        assert_eq!([total(seen[2]), total(seen[4]), total(seen[5])], [0, 0, SENT]);
    }
    let stats = running.stats();
    assert_eq!(stats.total("steer_aborted"), 0);
    assert_eq!(running.stop().expect("clean end").buffers_missing, 0);
}

#[test]
fn a_program_of_one_hook_is_refused_at_the_other_and_an_unknown_section_is_either_by_choice() {
    let name = "a_program_of_one_hook_is_refused_at_the_other_and_an_unknown_section_is_either_by_choice";
    let (Some(steer), Some(unknown)) = (object("steer"), object("refused_unknown")) else {
        return skip(name, "needs clang");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let app = builder("null", 2)
        .control("hooks")
        .run_dir(dir.path())
        .build()
        .expect("app");
    let running = app.start().expect("start");
    let write = |name: &str, elf: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, elf).expect("write");
        path.display().to_string()
    };
    let run = |line: &str| {
        let output = Command::new(binary())
            .arg("--run-dir")
            .arg(dir.path())
            .args(line.split_whitespace())
            .output()
            .expect("millrace runs");
        let text = String::from_utf8_lossy(if output.status.success() {
            &output.stdout
        } else {
            &output.stderr
        });
        (output.status.success(), text.into_owned())
    };
    let (steer, unknown) = (write("steer.o", &steer), write("unknown.o", &unknown));
    let (ok, text) = run(&format!("prog load {steer} steer"));
    assert!(ok && text.contains("type xps"), "{text}");
    let (ok, text) = run("prog attach xdp steer port eth0");
    assert!(!ok && text.contains("is an xps program"), "{text}");
    // As an XDP program it reads fields that struct xdp_md does not have, or calls what XDP programs may not.
    let (ok, text) = run(&format!("prog load {steer} wrong type xdp"));
    assert!(!ok && text.contains("skb_load_bytes"), "{text}");
    let (ok, text) = run(&format!("prog load {unknown} hash function by_hash"));
    assert!(!ok && text.contains("offset 68 of the context"), "{text}");
    for kind in ["xps", "tc", "socket", "classifier"] {
        let (ok, text) = run(&format!(
            "prog load {unknown} hash-{kind} function by_hash type {kind}"
        ));
        assert!(ok && text.contains("section mystery type xps"), "{text}");
    }
    let (ok, text) = run("prog attach tc name hash-tc dev eth0 queue 1");
    assert!(ok, "{text}");
    let (ok, text) = run(&format!("prog load {unknown} wrong function scribbles type tc"));
    assert!(!ok && text.contains("a steering program may only read"), "{text}");
    let (ok, text) = run(&format!("prog load {unknown} wrong type fancy"));
    assert!(!ok && text.contains("unknown program type"), "{text}");
    let (ok, text) = run("prog detach xps port eth0");
    assert!(
        !ok && text.contains("queue 0 of port eth0 has no program"),
        "{text}"
    );
    let (ok, text) = run("prog detach xps port eth0 queue 1");
    assert!(ok, "{text}");
    running.stop().expect("clean end");
}
