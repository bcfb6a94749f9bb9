//! The same expressions on the same frames, here and in tcpdump (installed, else of Debian's package).

use super::Filter;
use crate::debian;
use millrace_nic_models::packet::build::Frame;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ONE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TWO: [u8; 6] = [2, 0, 0, 0, 0, 2];

const EXPRESSIONS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "igmp",
    "host 10.0.0.1",
    "host 10.0.0.1 or 10.0.1.7",
    "src 10.0.0.1",
    "src or dst host 10.0.0.2",
    "src and dst net 10.0.0.0/24",
    "src host 10.0.0.1 or 10.0.1.7",
    "dst net 10.0.1",
    "net 10 and not net 10.0.1.0/24",
    "net 10.0.0.0 mask 255.255.255.0",
    "ip host 10.0.0.1",
    "arp host 10.0.0.1",
    "ip6 host 2001:db8::1",
    "src net 2001:db8::/32",
    "port 53",
    "port 53 or 80",
    "port domain",
    "tcp port http",
    "src port 1000 and dst port 53",
    "src or dst port 80",
    "udp dst port 53",
    "portrange 50-60",
    "tcp src portrange 1000-2000",
    "sctp port 5000",
    "proto 17",
    "ip proto 6",
    "ip proto \\udp",
    "ip6 proto 17",
    "ether proto 0x86dd",
    "ether proto \\arp",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:02",
    "broadcast",
    "ether broadcast or ip6",
    "multicast",
    "ip multicast",
    "ip6 multicast",
    "less 60",
    "greater 100",
    "len >= 74",
    "len != 60 and len < 200",
    "tcp or udp and port 80",
    "tcp or (udp and port 53)",
    "not (tcp or udp)",
    "!arp && !ip6 || port 80",
    "ip and tcp[tcpflags] & tcp-syn != 0",
    "ip and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "ip and tcp[13] = 0x12",
    "icmp[icmptype] == icmp-echo",
    "ip[8] < 10",
    "ip[2:2] > 60",
    "ip[12:4] = 0x0a000001",
    "ip and udp[4:2] >= 20",
    "ether[0] & 1 = 0",
    "ether[12:2]=0x0806",
    "ip6[6] == 6",
    "arp[6:2] = 1",
];

fn frames() -> Vec<Vec<u8>> {
    let v4 = || Frame::new().macs(ONE, TWO).ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
    let back = || Frame::new().macs(TWO, ONE).ipv4([10, 0, 1, 7], [10, 0, 0, 1]);
    let v6 = || {
        let address = |last: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        Frame::new().macs(ONE, TWO).ipv6(address(1), address(2))
    };
    vec![
        v4().udp(1000, 53).payload(&[1; 20]).build(),
        back().udp(53, 1000).payload(&[1; 200]).build(),
        v4().tcp(1234, 80).flags(0x02).build(),
        back().tcp(80, 1234).flags(0x12).build(),
        v4().tcp(1234, 80).flags(0x10).ttl(3).payload(&[7; 100]).build(),
        v4().sctp(5000, 5001).build(),
        v4().ping(7, 1).build(),
        back().icmp(0, 0, [0, 7, 0, 1]).build(),
        v4().fragment(100, true).proto(17).payload(&[0; 40]).build(),
        Frame::new()
            .macs(ONE, [1, 0, 0x5e, 0, 0, 1])
            .ipv4([10, 0, 0, 1], [224, 0, 0, 1])
            .proto(2)
            .payload(&[0x11, 0, 0, 0])
            .build(),
        Frame::new()
            .macs(ONE, [0xff; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 255])
            .udp(68, 67)
            .build(),
        v6().tcp(4000, 80).build(),
        v6().udp(53, 55).build(),
        v6().ping(1, 1).build(),
        Frame::new()
            .macs(ONE, [0x33, 0x33, 0, 0, 0, 1])
            .ipv6(
                std::net::Ipv6Addr::LOCALHOST,
                std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            )
            .udp(5353, 5353)
            .build(),
        arp(1),
        arp(2),
        [&TWO[..], &ONE, &[0x88, 0xb5], &[0; 46]].concat(),
    ]
}

/// Who has 10.0.1.7? tells 10.0.0.1; or the answer.
fn arp(operation: u8) -> Vec<u8> {
    let (source, target) = ([10, 0, 0, 1], [10, 0, 1, 7]);
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    let body = [&head[..], &ONE, &source, &TWO, &target].concat();
    let mut frame = [&[0xff; 6][..], &ONE, &[8, 6], &body].concat();
    frame.resize(60, 0);
    frame
}

/// tcpdump on this machine, or why there is none.
fn tcpdump() -> Result<PathBuf, String> {
    let runs = |path: &Path| {
        let mut command = Command::new(path);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let installed = PathBuf::from("tcpdump");
    if runs(&installed) {
        return Ok(installed);
    }
    // Where the runtime's tests keep such things.
    let root = match std::env::var_os("MILLRACE_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/guest"),
    };
    let cache = root.join("ebpf");
    std::fs::create_dir_all(&cache).map_err(|e| format!("making {}: {e}", cache.display()))?;
    let _held = debian::lock(&cache)?;
    let path = debian::unpacked(&cache, "tcpdump")?.join("usr/bin/tcpdump");
    match runs(&path) {
        true => Ok(path),
        false => Err("the package's tcpdump does not run here (has it its libpcap?)".into()),
    }
}

fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out: Vec<u8> = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    // The time is the frame's number.
    for (n, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        out.extend([n as u32, 0, len, len].into_iter().flat_map(u32::to_le_bytes));
        out.extend(frame);
    }
    out
}

/// The numbers of the frames in a capture.
fn numbers(pcap: &[u8]) -> Vec<usize> {
    let word = |at: usize| {
        pcap.get(at..at + 4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let mut found = Vec::new();
    let mut at = 24;
    while let (Some(n), Some(len)) = (word(at), word(at + 8)) {
        found.push(n as usize);
        at += 16 + len as usize;
    }
    found
}

#[test]
fn filters_want_the_frames_that_tcpdump_wants() {
    let test = "filters_want_the_frames_that_tcpdump_wants";
    let tcpdump = match tcpdump() {
        Ok(path) => path,
        Err(why) => return println!("SKIP {test}: no tcpdump: {why}"),
    };
    let dir = std::env::temp_dir().join(format!("millrace-filter-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("in.pcap");
    let plain = frames();
    let tagged: Vec<Vec<u8>> = (plain.iter().zip([7u16, 42].into_iter().cycle()))
        .map(|(frame, id)| {
            let tag = [[0x81, 0], id.to_be_bytes()].concat();
            [&frame[..12], &tag, &frame[12..]].concat()
        })
        .collect();
    let behind = [
        "vlan",
        "vlan 42",
        "vlan 42 and udp",
        "vlan and host 10.0.0.1",
        "vlan 7 and tcp port 80",
    ];
    let mut wanted = 0;
    for (frames, expressions) in [(&plain, EXPRESSIONS), (&tagged, &behind[..])] {
        std::fs::write(&file, pcap(frames)).expect("write");
        for text in expressions {
            let mut command = Command::new(&tcpdump);
            // Of root it would become a user that only the installed package has.
            if rustix::process::geteuid().is_root() {
                command.args(["-Z", "root"]);
            }
            command.args(["-n", "-r"]).arg(&file).args(["-w", "-", text]);
            let output = command.output().expect("tcpdump runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}: {said}");
            let theirs = numbers(&output.stdout);
            let filter = Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let ours: Vec<usize> = (0..frames.len())
                .filter(|n| filter.wants(&frames[*n], frames[*n].len()))
                .collect();
            assert_eq!(ours, theirs, "{text}");
            wanted += theirs.len();
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
    println!(
        "{} expressions, {wanted} frames wanted",
        EXPRESSIONS.len() + behind.len()
    );
    assert!(wanted > 200);
}
