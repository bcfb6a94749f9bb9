use super::super::segment::{Gso, segment};
use super::*;
use std::process::Command;

/// A capture file of Ethernet frames (the classic format, little endian, microseconds).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 0x0004_0000, 1] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    file
}

#[test]
fn wireshark_finds_every_checksum_good_and_nothing_malformed() {
    if Command::new("tshark").arg("--version").output().is_err() {
        println!("SKIP wireshark_finds_every_checksum_good_and_nothing_malformed: tshark is not installed");
        return;
    }
    let v4 = || Frame::new().ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let v6 = || Frame::new().ipv6(A6, B6);
    let mut frames = vec![
        v4().tcp(1000, 8081).payload(b"odd").build(),
        v6().tcp(1000, 8081).payload(b"even").build(),
        v4().options(&[1, 1, 1]).udp(1000, 2000).payload(b"x").build(),
        v6().options(&[1, 4, 0, 0, 0, 0])
            .udp(1000, 2000)
            .payload(b"xyz")
            .build(),
        Frame::new()
            .vlan(5)
            .ipv4([1, 2, 3, 4], [4, 3, 2, 1])
            .ping(1, 2)
            .payload(b"ping")
            .build(),
        v6().ping(1, 2).payload(b"ping").build(),
        v4().ipv4([3; 4], [4; 4])
            .tcp(1000, 8081)
            .payload(b"inner")
            .build(),
        v6().ipv6(B6, A6).udp(1000, 2000).payload(b"inner").build(),
        Frame::arp(2, ([2; 6], [10, 0, 0, 1]), ([4; 6], [10, 0, 0, 2])).build(),
    ];
    let good = frames.len();
    for big in [
        v4().tcp(1000, 8081).payload(&[7; 5000]).build(),
        v6().tcp(1000, 8081).payload(&[7; 5000]).build(),
        v4().udp(1000, 2000).payload(&[7; 5000]).build(),
        v6().udp(1000, 2000).payload(&[7; 5000]).build(),
    ] {
        segment(
            &big,
            &Gso::of_frame(&big, 1401).unwrap(),
            &mut Vec::new(),
            |one| frames.push(one.to_vec()),
        )
        .unwrap();
    }
    assert_eq!(frames.len(), good + 16);
    frames.push(v4().tcp(1000, 8081).bad_l4_checksum().build());
    frames.push(v4().udp(1000, 2000).bad_ip_checksum().build());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames.pcap");
    std::fs::write(&path, pcap(&frames)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&path);
    for layer in ["ip", "tcp", "udp"] {
        tshark.args(["-o", &format!("{layer}.check_checksum:TRUE")]);
    }
    tshark.args(["-T", "fields", "-E", "separator=;"]);
    for field in [
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "icmp.checksum.status",
    ] {
        tshark.args(["-e", field]);
    }
    tshark.args(["-e", "icmpv6.checksum.status", "-e", "_ws.malformed"]);
    let output = tshark.output().unwrap();
    let lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    assert_eq!(
        lines.len(),
        frames.len(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (good, bad) = lines.split_at(lines.len() - 2);
    for (i, line) in good.iter().enumerate() {
        let status: Vec<&str> = line.split([';', ',']).filter(|field| !field.is_empty()).collect();
        assert!(status.iter().all(|status| *status == "1"), "frame {i}: {line}");
        assert!(
            !status.is_empty() || frames[i][12..14] == [8, 6],
            "frame {i} has no checksum that tshark knows"
        );
    }
    assert_eq!(bad, ["1;0;;;;", "0;;1;;;"]);
}
