//! The exception tap, in a network namespace of its own: passed frames reach the host, the host's frames reach the wire.

mod common;

use common::*;
use std::process::Command;

fn rx_packets(name: &str) -> u64 {
    let stats: serde_json::Value =
        serde_json::from_str(&ip(&format!("-j -s link show {name}"))).expect("ip's JSON");
    stats[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

#[test]
fn passed_frames_reach_the_host_and_the_hosts_frames_reach_the_wire() {
    let name = "passed_frames_reach_the_host_and_the_hosts_frames_reach_the_wire";
    if !inside_namespace(name) {
        return;
    }
    if Command::new("ip").arg("-V").output().is_err() || Command::new("ping").arg("-V").output().is_err() {
        return skip(name, "needs ip and ping");
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let (input, output) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let frames: Vec<_> = (0..100u16).map(|i| udp(i as u8, i, b"for the host")).collect();
    write_pcap(&input, &frames);
    let wire = format!("pcap:{},{}", input.display(), output.display());
    let app = builder(&wire, 2)
        .exception_tap(Some("mrexc0"))
        .build()
        .expect("app");
    let info = app.port("eth0").expect("port");
    let link = ip("-j link show mrexc0");
    let mac = info.mac.map(|byte| format!("{byte:02x}")).join(":");
    assert!(link.contains(&mac), "the tap has the port's MAC: {link}");
    assert!(link.contains("\"mtu\":1500") && link.contains("\"UP\""), "{link}");
    let before = rx_packets("mrexc0");
    let running = app.start().expect("start");
    until("passed frames", || running.stats().total("pass_tap") == 100);
    assert!(rx_packets("mrexc0") >= before + 100);

    // The other way: the host asks who has an address, and the question leaves on the port.
    ip("addr add 10.77.0.1/24 dev mrexc0");
    let ping = Command::new("ping")
        .args(["-c", "2", "-W", "1", "10.77.0.2"])
        .output()
        .expect("ping");
    assert!(!ping.status.success(), "nobody answers");
    until("frames from the host", || {
        running.stats().total("tap_to_port") > 0
    });
    let report = running.stop().expect("clean end");
    assert_eq!(report.buffers_missing, 0);
    let arp = read_pcap(&output)
        .into_iter()
        .filter(|f| f.get(12..14) == Some(&[0x08, 0x06]))
        .count();
    assert!(arp > 0, "an ARP request is on the wire");
    assert!(
        !ip("-j link").contains("mrexc0"),
        "the interface goes with the application"
    );
}

#[test]
fn a_tap_that_cannot_be_made_is_an_error_that_names_it() {
    let error = builder("null", 1)
        .exception_tap(Some("a-name-that-is-much-too-long-for-linux"))
        .build()
        .expect_err("no such interface name")
        .to_string();
    assert!(
        error.contains("a-name-that-is-much-too-long-for-linux"),
        "{error}"
    );
}
