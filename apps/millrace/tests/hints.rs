//! What the NIC says of a frame reaches the program: device, driver, translation and kernel functions in one line.

mod common;

use common::*;
use millrace::{App, PortConfig};
use millrace_driver::port::{Offloads, RssConfig};
use millrace_ebpf::{CSUM_IP_BAD, CSUM_IP_GOOD, CSUM_L4_BAD, CSUM_L4_GOOD, Map};
use millrace_nic_models::toeplitz;
use std::path::Path;
use std::sync::Arc;

const NODATA: u32 = -61i32 as u32;
const OPNOTSUPP: u32 = -95i32 as u32;

/// `enum xdp_rss_hash_type` (include/net/xdp.h): L3_IPV4, L3_IPV6, then L4, L4_TCP, L4_UDP from bit 3.
const IPV4: u32 = 0b1;
const TCP4: u32 = 0b01_1001;
const UDP4: u32 = 0b10_1001;
const TCP6: u32 = 0b01_1010;

/// Microsoft, "Verifying the RSS hash calculation": source, destination, 2794 -> 1766.
const V4: [u8; 12] = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
const V4_HASH: u32 = 0x323e_8fc2;
const V4_PORTS_HASH: u32 = 0x51cc_c178;
const V6: [u8; 36] = [
    0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x07, // source
    0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03, 0, 0, 0, 0, 0, 0, 0, 0x01, // destination
    0x0a, 0xea, 0x06, 0xe6,
];
const V6_PORTS_HASH: u32 = 0x4020_7d3d;

/// What the program noted of one frame; the fields of `struct told`.
#[derive(Debug, PartialEq)]
struct Told {
    hash: Result<(u32, u32), u32>,
    vlan: Result<u32, u32>,
    ethertype: u32,
}

fn told(notes: &Map, id: u8) -> Told {
    let value = notes.lookup(&u32::from(id).to_ne_bytes()).expect("an entry");
    let word = |i: usize| u32::from_ne_bytes(value[4 * i..4 * i + 4].try_into().expect("four bytes"));
    assert_eq!(word(6), 1, "frames {id}");
    let result = |error, value| if error == 0 { Ok(value) } else { Err(error) };
    Told {
        hash: result(word(0), 0).map(|_| (word(1), word(2))),
        vlan: result(word(3), word(4)),
        ethertype: word(5),
    }
}

fn ethernet(id: u8, types: &[u16], body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, id];
    frame.extend(types.iter().flat_map(|word| word.to_be_bytes()));
    frame.extend(body);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn ipv4(protocol: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(V4);
    // The rest of a TCP header, which is enough for the others too.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    packet
}

fn ipv6_tcp() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    packet.extend(V6);
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    packet
}

fn frames() -> Vec<Vec<u8>> {
    let mut udp = ipv4(17);
    udp[24..26].copy_from_slice(&20u16.to_be_bytes());
    vec![
        ethernet(0, &[0x0800], &ipv4(6)),
        ethernet(1, &[0x0800], &ipv4(47)),
        ethernet(2, &[0x86dd], &ipv6_tcp()),
        ethernet(3, &[0x8100, 0x2064, 0x0800], &udp),
        ethernet(4, &[0x0806], &[0, 1, 8, 0, 6, 4, 0, 1]),
    ]
}

/// Runs [`frames`] through the program on a port with this key; gives its notes.
fn notes(test: &str, rss: RssConfig, vlan_strip: bool) -> Option<Arc<Map>> {
    let offloads = Offloads {
        vlan_strip,
        ..Offloads::default()
    };
    notes_of(test, &frames(), rss, offloads)
}

fn notes_of(test: &str, frames: &[Vec<u8>], rss: RssConfig, offloads: Offloads) -> Option<Arc<Map>> {
    let Some(elf) = object("hints") else {
        skip(test, "needs clang");
        return None;
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let input = dir.path().join("in.pcap");
    write_pcap(&input, frames);
    let app = app(&input, rss, offloads);
    let loaded = attach(&app, &elf, &[]);
    let running = app.start().expect("start");
    until("all frames", || {
        running.stats().total("rx_frames") == frames.len() as u64
    });
    let report = running.stop().expect("clean end");
    assert_eq!(
        report.stats.total("xdp_drop"),
        frames.len() as u64,
        "{:?}",
        report.stats
    );
    Some(loaded.map("notes").expect("map").clone())
}

fn app(input: &Path, rss: RssConfig, offloads: Offloads) -> App {
    let mut spec = port("eth0", &format!("pcap:{}", input.display()), 2);
    spec.config = PortConfig {
        rss,
        offloads,
        ..spec.config
    };
    App::builder()
        .port(spec)
        .pin(false)
        .idle(patient())
        .build()
        .expect("app")
}

#[test]
fn a_program_gets_the_published_hash_its_type_and_the_tag_and_nodata_where_there_is_none() {
    let test = "a_program_gets_the_published_hash_its_type_and_the_tag_and_nodata_where_there_is_none";
    let Some(notes) = notes(test, RssConfig::default(), true) else {
        return;
    };
    let untagged = |hash, ethertype| Told {
        hash,
        vlan: Err(NODATA),
        ethertype,
    };
    assert_eq!(told(&notes, 0), untagged(Ok((V4_PORTS_HASH, TCP4)), 0x0800));
    assert_eq!(
        told(&notes, 1),
        untagged(Ok((V4_HASH, IPV4)), 0x0800),
        "addresses only: GRE has no ports"
    );
    assert_eq!(told(&notes, 2), untagged(Ok((V6_PORTS_HASH, TCP6)), 0x86dd));
    let tagged = Told {
        hash: Ok((V4_PORTS_HASH, UDP4)),
        vlan: Ok(0x8100_2064),
        ethertype: 0x0800,
    };
    assert_eq!(told(&notes, 3), tagged);
    assert_eq!(told(&notes, 4), untagged(Err(NODATA), 0x0806), "ARP");
}

#[test]
fn the_hash_a_program_gets_is_that_of_the_port_s_own_key_and_a_tag_left_in_the_frame_is_no_hint() {
    let test = "the_hash_a_program_gets_is_that_of_the_port_s_own_key_and_a_tag_left_in_the_frame_is_no_hint";
    let mut rss = RssConfig::default();
    for (i, byte) in rss.key.iter_mut().enumerate() {
        *byte = (i as u8).wrapping_mul(37) ^ 0x5a;
    }
    let key = rss.key;
    let Some(notes) = notes(test, rss, false) else {
        return;
    };
    for (id, hash, ethertype) in [
        (0, Ok((toeplitz::hash(&key, &V4), TCP4)), 0x0800),
        (1, Ok((toeplitz::hash(&key, &V4[..8]), IPV4)), 0x0800),
        (2, Ok((toeplitz::hash(&key, &V6), TCP6)), 0x86dd),
        (3, Ok((toeplitz::hash(&key, &V4), UDP4)), 0x8100),
        (4, Err(NODATA), 0x0806),
    ] {
        let vlan = Err(OPNOTSUPP);
        assert_eq!(
            told(&notes, id),
            Told {
                hash,
                vlan,
                ethertype
            },
            "frame {id}"
        );
    }
    assert_ne!(toeplitz::hash(&key, &V4), V4_PORTS_HASH);
}

/// The complement of the one's complement sum (RFC 1071), to be put where the bytes have zeroes.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(folded as u16 + (folded >> 16) as u16)).to_be_bytes()
}

/// [`ipv4`] with TCP, both checksums right; then one bit of each where it is asked for.
fn checked(ip_wrong: bool, l4_wrong: bool) -> Vec<u8> {
    let mut packet = ipv4(6);
    let ip = checksum(&[&packet[..20]]);
    let tcp = checksum(&[&packet[12..20], &[0, 6, 0, 20], &packet[20..]]);
    packet[10..12].copy_from_slice(&ip);
    packet[36..38].copy_from_slice(&tcp);
    packet[10] ^= u8::from(ip_wrong);
    packet[36] ^= u8::from(l4_wrong);
    packet
}

#[test]
fn a_program_is_told_which_checksums_were_found_right_or_wrong() {
    let test = "a_program_is_told_which_checksums_were_found_right_or_wrong";
    let mut tcp6 = ipv6_tcp();
    let sum = checksum(&[&tcp6[8..40], &[0, 0, 0, 20, 0, 0, 0, 6], &tcp6[40..]]);
    tcp6[56..58].copy_from_slice(&sum);
    let frames = [
        ethernet(0, &[0x0800], &checked(false, false)),
        ethernet(1, &[0x0800], &checked(false, true)),
        ethernet(2, &[0x0800], &checked(true, false)),
        ethernet(3, &[0x86dd], &tcp6),
        ethernet(4, &[0x0806], &[0, 1, 8, 0, 6, 4, 0, 1]),
    ];
    let word = |notes: &Map, id: u32, at: usize| {
        let value = notes.lookup(&id.to_ne_bytes()).expect("an entry");
        u32::from_ne_bytes(value[4 * at..4 * at + 4].try_into().expect("four bytes"))
    };
    let Some(notes) = notes_of(test, &frames, RssConfig::default(), Offloads::default()) else {
        return;
    };
    let ip = CSUM_IP_GOOD | CSUM_IP_BAD;
    for (id, mask, wanted) in [
        (0, u32::MAX, CSUM_IP_GOOD | CSUM_L4_GOOD),
        (1, u32::MAX, CSUM_IP_GOOD | CSUM_L4_BAD),
        (2, ip, CSUM_IP_BAD),
        (3, u32::MAX, CSUM_L4_GOOD),
        (4, u32::MAX, 0),
    ] {
        assert_eq!(word(&notes, id, 7), 0, "frame {id}: no error");
        assert_eq!(word(&notes, id, 8) & mask, wanted, "frame {id}");
    }
    let off = Offloads {
        rx_checksum: false,
        ..Offloads::default()
    };
    let notes = notes_of(test, &frames, RssConfig::default(), off).expect("as before");
    assert_eq!(word(&notes, 0, 7), OPNOTSUPP, "the port does not look");
}
