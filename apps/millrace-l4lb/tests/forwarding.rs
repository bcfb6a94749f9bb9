//! What the program does with single frames: where they go and what is changed in them, byte by byte.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{DROP, Engine, OURS, PASS, ROUTER, TX, balancer, everywhere, mac_of, reason, sent_to, tshark};
use millrace_nic_models::packet::build::Frame;

const VIP4: &str = "10.9.0.100";
const VIP6: &str = "fd09::100";
const CLIENT4: &str = "192.0.2.7";
const CLIENT6: &str = "2001:db8::7";
const SYN: u16 = 0x02;
const ACK: u16 = 0x10;

const FILE: &str = r#"
[balancer]
tunnel_source4 = "172.16.0.0/16"
tunnel_source6 = "fd00:feed::/64"
max_vips = 16
connection_table = 4096

[[vip]]
name = "l2-4"
address = "10.9.0.100"
port = 80
protocol = "tcp"
mode = "l2"
backend = [{ address = "10.9.0.11" }, { address = "10.9.0.12" }, { address = "10.9.0.13" }]

[[vip]]
name = "l2-6"
address = "fd09::100"
port = 80
protocol = "tcp"
mode = "l2"
backend = [{ address = "fd09::11" }, { address = "fd09::12" }]

[[vip]]
name = "udp-4"
address = "10.9.0.100"
port = 7777
protocol = "udp"
mode = "l2"
fragments = "hash3"
backend = [{ address = "10.9.0.11" }, { address = "10.9.0.12" }, { address = "10.9.0.13" }]

[[vip]]
name = "udp-6"
address = "fd09::100"
port = 7777
protocol = "udp"
mode = "l2"
backend = [{ address = "fd09::11" }]

[[vip]]
name = "ipip"
address = "10.9.0.101"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "10.8.0.11" }]

[[vip]]
name = "ip6ip6"
address = "fd09::101"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "fd08::11" }]

[[vip]]
name = "4in6"
address = "10.9.0.102"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "fd08::11" }]

[[vip]]
name = "6in4"
address = "fd09::102"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "10.8.0.11" }]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A frame from a client to a VIP.
fn to(vip: &str) -> Frame {
    let client = if ip(vip).is_ipv4() { CLIENT4 } else { CLIENT6 };
    Frame::new().macs(ROUTER, OURS).ip(ip(client), ip(vip))
}

fn tcp(vip: &str, sport: u16, flags: u16, len: usize) -> Vec<u8> {
    to(vip)
        .tcp(sport, 80)
        .flags(flags)
        .payload(&vec![0x5a; len])
        .build()
}

#[test]
fn mac_rewrite_changes_the_macs_and_nothing_else() {
    everywhere("mac_rewrite_changes_the_macs_and_nothing_else", |engine| {
        let balancer = balancer(engine, FILE);
        let frames = [
            tcp(VIP4, 1000, SYN, 0),
            tcp(VIP6, 1000, SYN, 0),
            to(VIP4).udp(1000, 7777).payload(b"question").build(),
            to(VIP6).udp(1000, 7777).payload(b"question").build(),
            to(VIP4).options(&[1, 1, 1, 1]).tcp(1001, 80).flags(SYN).build(),
            to(VIP4).tos(0xb8).ttl(1).tcp(1002, 80).flags(SYN).build(),
            to(VIP4).tcp(1003, 80).flags(SYN).pad_to(60).build(),
        ];
        let mut sent = Vec::new();
        for frame in &frames {
            let (verdict, out) = engine.run(frame);
            assert_eq!(verdict, TX);
            assert_eq!(out[12..], frame[12..]);
            assert_eq!(out[6..12], OURS);
            let backends = ["10.9.0.11", "10.9.0.12", "10.9.0.13", "fd09::11", "fd09::12"];
            assert!(
                backends
                    .iter()
                    .any(|backend| mac_of(ip(backend)) == sent_to(&out))
            );
            sent.push(out);
        }
        assert_eq!(reason(&balancer, "forwarded"), frames.len() as u64);
        tshark::accepts("mac_rewrite_changes_the_macs_and_nothing_else", &sent);
    });
}

#[test]
fn a_flow_stays_with_its_backend_and_flows_spread() {
    everywhere("a_flow_stays_with_its_backend_and_flows_spread", |engine| {
        let _balancer = balancer(engine, FILE);
        let mut seen = std::collections::BTreeSet::new();
        for sport in 1000..1100 {
            let (_, syn) = engine.run(&tcp(VIP4, sport, SYN, 0));
            let (_, ack) = engine.run(&tcp(VIP4, sport, ACK, 10));
            assert_eq!(sent_to(&syn), sent_to(&ack));
            seen.insert(sent_to(&syn));
        }
        assert_eq!(seen.len(), 3);
    });
}

/// The outer IPv4 header that must be there, its hashed source aside.
fn check_outer4(out: &[u8], inner: &[u8], proto: u8) {
    let header = &out[14..34];
    assert_eq!(out[12..14], [8, 0]);
    assert_eq!(header[0], 0x45);
    assert_eq!(
        u16::from_be_bytes([header[2], header[3]]) as usize,
        inner.len() + 20
    );
    assert_eq!(header[6..8], [0x40, 0], "DF, no fragment");
    assert_eq!((header[8], header[9]), (64, proto));
    assert_eq!(header[12..14], [172, 16]);
    assert_eq!(header[16..20], [10, 8, 0, 11]);
    assert_eq!(&out[34..], inner);
}

fn check_outer6(out: &[u8], inner: &[u8], proto: u8) {
    let header = &out[14..54];
    assert_eq!(out[12..14], [0x86, 0xdd]);
    assert_eq!(header[0], 0x60);
    assert_eq!(u16::from_be_bytes([header[4], header[5]]) as usize, inner.len());
    assert_eq!((header[6], header[7]), (proto, 64));
    assert_eq!(
        header[8..16],
        "fd00:feed::".parse::<Ipv6Addr>().expect("an address").octets()[..8]
    );
    assert_eq!(
        header[24..40],
        "fd08::11".parse::<Ipv6Addr>().expect("an address").octets()
    );
    assert_eq!(&out[54..], inner);
}

#[test]
fn tunnels_carry_the_datagram_unchanged_in_all_four_mixes_of_families() {
    everywhere(
        "tunnels_carry_the_datagram_unchanged_in_all_four_mixes_of_families",
        |engine| {
            let _balancer = balancer(engine, FILE);
            let mut sent = Vec::new();
            for len in [0, 1, 1000] {
                for (vip, proto, check) in [
                    ("10.9.0.101", 4, check_outer4 as fn(&[u8], &[u8], u8)),
                    ("fd09::101", 41, check_outer6),
                    ("10.9.0.102", 4, check_outer6),
                    ("fd09::102", 41, check_outer4),
                ] {
                    let frame = tcp(vip, 4000, ACK, len);
                    let (verdict, out) = engine.run(&frame);
                    assert_eq!(verdict, TX, "{vip}");
                    check(&out, &frame[14..], proto);
                    assert_eq!(out[6..12], OURS);
                    sent.push(out);
                }
            }
            tshark::accepts(
                "tunnels_carry_the_datagram_unchanged_in_all_four_mixes_of_families",
                &sent,
            );
        },
    );
}

#[test]
fn tunnels_copy_the_traffic_class_and_spread_their_source() {
    everywhere(
        "tunnels_copy_the_traffic_class_and_spread_their_source",
        |engine| {
            let _balancer = balancer(engine, FILE);
            let (_, out) = engine.run(&to("10.9.0.101").tos(0xb9).tcp(1, 80).flags(SYN).build());
            assert_eq!(out[15], 0xb9);
            let (_, out) = engine.run(&to("fd09::101").tos(0xb9).tcp(1, 80).flags(SYN).build());
            assert_eq!((out[14], out[15] >> 4), (0x6b, 9));
            let source = |sport, at: std::ops::Range<usize>, vip: &str, engine: &mut dyn Engine| {
                engine.run(&tcp(vip, sport, SYN, 0)).1[at].to_vec()
            };
            for (vip, at) in [("10.9.0.101", 26..30), ("fd09::101", 22..38)] {
                let sources: std::collections::BTreeSet<_> = (1000..1100)
                    .map(|sport| source(sport, at.clone(), vip, engine))
                    .collect();
                assert!(sources.len() > 90, "{vip}: {} sources", sources.len());
                assert_eq!(
                    source(1000, at.clone(), vip, engine),
                    source(1000, at, vip, engine)
                );
            }
        },
    );
}

#[test]
fn what_is_not_for_a_vip_passes_untouched() {
    everywhere("what_is_not_for_a_vip_passes_untouched", |engine| {
        let balancer = balancer(engine, FILE);
        let nobody = Ipv4Addr::new(192, 0, 2, 7);
        let arp = Frame::arp(1, (ROUTER, nobody), ([0; 6], Ipv4Addr::new(10, 9, 0, 100)));
        let cases = [
            ("not_ip", arp.build()),
            ("vlan", to(VIP4).vlan(5).tcp(1, 80).flags(SYN).build()),
            (
                "other_mac",
                to(VIP4)
                    .macs(ROUTER, [2, 9, 9, 9, 9, 9])
                    .tcp(1, 80)
                    .flags(SYN)
                    .build(),
            ),
            ("not_for_vip", to(VIP4).tcp(1, 81).flags(SYN).build()),
            ("not_for_vip", to(VIP4).tcp(1, 0).flags(SYN).build()),
            ("not_for_vip", to("10.9.0.99").tcp(1, 80).flags(SYN).build()),
            (
                "not_for_vip",
                to("10.9.0.99").fragment(0, true).tcp(1, 80).flags(SYN).build(),
            ),
            ("not_for_vip", to("fd09::99").udp(1, 7777).build()),
            ("not_for_vip", to("10.9.0.99").ping(1, 1).build()),
            ("not_for_vip", to(VIP4).sctp(1, 80).build()),
            ("vip_icmp", to(VIP4).ping(1, 1).payload(b"hello").build()),
            ("vip_icmp", to(VIP6).ping(1, 1).payload(b"hello").build()),
        ];
        for (why, frame) in cases {
            let before = reason(&balancer, why);
            let (verdict, out) = engine.run(&frame);
            assert_eq!((verdict, out), (PASS, frame), "{why}");
            assert_eq!(reason(&balancer, why), before + 1, "{why}");
        }
    });
}

#[test]
fn lengths_that_contradict_each_other_are_dropped() {
    everywhere("lengths_that_contradict_each_other_are_dropped", |engine| {
        let balancer = balancer(engine, FILE);
        let whole4 = tcp(VIP4, 1, SYN, 0);
        let whole6 = tcp(VIP6, 1, SYN, 0);
        let mut bad: Vec<Vec<u8>> = Vec::new();
        bad.extend([33, 34, 40, 53].map(|len| whole4[..len].to_vec()));
        bad.extend([53, 54, 60, 73].map(|len| whole6[..len].to_vec()));
        for (at, value) in [(14, 0x44), (14, 0x55), (16, 0x40), (17, 19)] {
            let mut frame = whole4.clone();
            frame[at] = value;
            bad.push(frame);
        }
        for frame in &bad {
            assert_eq!(engine.run(frame).0, DROP, "{frame:02x?}");
        }
        assert_eq!(reason(&balancer, "malformed"), bad.len() as u64);
    });
}

#[test]
fn ipv6_extension_headers_are_walked() {
    everywhere("ipv6_extension_headers_are_walked", |engine| {
        let _balancer = balancer(engine, FILE);
        let plain = tcp(VIP6, 77, SYN, 4);
        let (_, out) = engine.run(&plain);
        let backend = sent_to(&out);
        // Hop-by-hop and destination options of 8 and 16 bytes (PadN), then TCP; an atomic fragment before it (RFC 6946).
        let padding = |next: u8, units: u8| {
            let mut header = vec![next, units, 1, units * 8 + 4];
            header.resize(8 + usize::from(units) * 8, 0);
            header
        };
        let chains = [
            (0, [padding(60, 0), padding(6, 1)].concat()),
            (0, [padding(44, 0), vec![6, 0, 0, 0, 1, 2, 3, 4]].concat()),
        ];
        let mut sent = Vec::new();
        for (first, chain) in chains {
            let mut frame = plain[..54].to_vec();
            frame[20] = first;
            frame.extend(&chain);
            frame.extend(&plain[54..]);
            let len = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
            let (verdict, out) = engine.run(&frame);
            assert_eq!((verdict, sent_to(&out)), (TX, backend));
            sent.push(out);
        }
        tshark::accepts("ipv6_extension_headers_are_walked", &sent);
    });
}

#[test]
fn fragments_are_dropped_unless_the_vip_hashes_them() {
    everywhere("fragments_are_dropped_unless_the_vip_hashes_them", |engine| {
        let balancer = balancer(engine, FILE);
        let tcp_first = to(VIP4)
            .fragment(0, true)
            .tcp(1, 80)
            .flags(SYN)
            .payload(&[0; 40])
            .build();
        assert_eq!(engine.run(&tcp_first).0, DROP);
        assert_eq!(reason(&balancer, "fragment_dropped"), 1);

        let first = to(VIP4).fragment(0, true).udp(9, 7777).payload(&[1; 40]).build();
        let (verdict, out) = engine.run(&first);
        assert_eq!(verdict, TX);
        for offset in [6, 100, 8000] {
            let rest = to(VIP4)
                .fragment(offset, offset < 8000)
                .proto(17)
                .payload(&[2; 40])
                .build();
            let (verdict, other) = engine.run(&rest);
            assert_eq!((verdict, sent_to(&other)), (TX, sent_to(&out)), "offset {offset}");
            assert_eq!(other[12..], rest[12..]);
        }
        assert_eq!(reason(&balancer, "fragment_hashed"), 4);

        // Each client has a backend of its own for them.
        let spread: std::collections::BTreeSet<_> = (1..50u8)
            .map(|host| {
                let frame = Frame::new()
                    .macs(ROUTER, OURS)
                    .ip(IpAddr::from([198, 51, 100, host]), ip(VIP4));
                sent_to(
                    &engine
                        .run(&frame.fragment(8, false).proto(17).payload(&[0; 8]).build())
                        .1,
                )
            })
            .collect();
        assert_eq!(spread.len(), 3);
    });
}

#[test]
fn a_vip_without_backends_drops_and_counts() {
    everywhere("a_vip_without_backends_drops_and_counts", |engine| {
        let mut balancer = balancer(engine, FILE);
        common::kill(&mut balancer, ip("10.8.0.11"));
        assert_eq!(engine.run(&tcp("10.9.0.101", 1, SYN, 0)).0, DROP);
        assert_eq!(reason(&balancer, "no_backend"), 1);
        let report = &balancer.vips(Some("ipip")).expect("the VIP is there")[0];
        assert_eq!((report.stats.packets, report.stats.no_backend), (1, 1));
    });
}
