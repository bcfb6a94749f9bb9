//! Each offload, with the frame at the other end of the wire as the judge.

use millrace_driver::hint::{HintKind, HintLayout};
use millrace_driver::port::{Offloads, PortConfig, RssConfig, RssFields};
use millrace_driver::queue::{TxFlags, TxMeta};
use millrace_driver::steering::{MICROSOFT_KEY, flow_hash};
use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::packet::checksum::{Status, verify_ip, verify_l4};
use millrace_nic_models::packet::parse;

use crate::rig::*;

fn v6() -> Frame {
    Frame::new()
        .macs(PEER, MAC)
        .ipv6([0xfd00, 0, 0, 0, 0, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 2])
}

/// Good and bad flags of a checksum hint: `(good, bad)`.
fn verdict(layout: &HintLayout, raw: &[u8], good: HintKind, bad: HintKind) -> (bool, bool) {
    (layout.get(good, raw).is_some(), layout.get(bad, raw).is_some())
}

#[test]
fn checksum_offload_reports_good_and_bad_checksums_as_such() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, tx) = port.take_queue(0).unwrap();
    let layout = rx.hint_layout().clone();
    let (good, bad, none) = ((true, false), (false, true), (false, false));
    let cases = [
        ("UDP over IPv4", udp(1), good, good),
        ("TCP over IPv4", tcp(1), good, good),
        ("bad IPv4 header", udp(1).bad_ip_checksum(), bad, good),
        ("bad UDP", udp(1).bad_l4_checksum(), good, bad),
        ("bad TCP", tcp(1).bad_l4_checksum(), good, bad),
        ("TCP over IPv6", v6().tcp(1, 2).payload(b"six"), none, good),
        (
            "bad TCP over IPv6",
            v6().tcp(1, 2).payload(b"six").bad_l4_checksum(),
            none,
            bad,
        ),
        ("UDP over IPv6", v6().udp(1, 2).payload(b"six"), none, good),
        (
            "ARP",
            Frame::new().macs(PEER, MAC).ethertype(0x0806).payload(&[0; 28]),
            none,
            none,
        ),
        (
            "ICMP",
            Frame::new()
                .macs(PEER, MAC)
                .ipv4([10, 0, 0, 1], [10, 1, 0, 1])
                .ping(1, 1),
            good,
            none,
        ),
    ];
    for (name, frame, ip, l4) in cases {
        rig.peer.send(frame.build());
        let got = receive(&rig, &mut rx);
        assert_eq!(
            got.len(),
            1,
            "{name}: a frame with a wrong checksum is delivered all the same"
        );
        let raw = &got[0].1;
        let ip_verdict = verdict(&layout, raw, HintKind::IpChecksumGood, HintKind::IpChecksumBad);
        let l4_verdict = verdict(&layout, raw, HintKind::L4ChecksumGood, HintKind::L4ChecksumBad);
        assert_eq!((ip_verdict, l4_verdict), (ip, l4), "{name}");
    }
    assert_eq!(port.stats().unwrap().rx_checksum_errors, 4);
    all_home(port, [(rx, tx)]);
}

#[test]
fn checksum_offload_inserts_checksums_into_ipv4_and_ipv6() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (rx, mut tx) = port.take_queue(0).unwrap();
    let out = |f: Frame| f.macs(MAC, PEER).partial_l4_checksum(true);
    let v4_tcp = TxFlags::IPV4 | TxFlags::IP_CHECKSUM | TxFlags::TCP_CHECKSUM;
    let v4_udp = TxFlags::IPV4 | TxFlags::IP_CHECKSUM | TxFlags::UDP_CHECKSUM;
    let cases = [
        ("TCP over IPv4", out(tcp(3)), v4_tcp, 14, 20),
        ("UDP over IPv4", out(udp(3)), v4_udp, 14, 20),
        ("TCP over tagged IPv4", out(tcp(3).vlan(5)), v4_tcp, 18, 20),
        (
            "TCP over IPv6",
            out(v6().tcp(7, 8).payload(b"hello")),
            TxFlags::TCP_CHECKSUM,
            14,
            40,
        ),
        (
            "UDP over IPv6",
            out(v6().udp(7, 8).payload(b"hello!")),
            TxFlags::UDP_CHECKSUM,
            14,
            40,
        ),
    ];
    for (name, frame, flags, l2_len, l3_len) in cases {
        let mut bytes = frame.build();
        if flags.contains(TxFlags::IP_CHECKSUM) {
            let at = usize::from(l2_len) + 10;
            bytes[at..at + 2].fill(0);
        }
        let meta = TxMeta {
            flags,
            l2_len,
            l3_len,
            ..TxMeta::NONE
        };
        tx.push_copy(&bytes, &meta).unwrap();
        tx.submit();
        rig.settle();
        let got = rig.peer.received();
        assert_eq!(got.len(), 1, "{name}");
        let parsed = parse(&got[0]);
        assert_eq!(verify_l4(&got[0], &parsed), Status::Good, "{name}");
        if flags.contains(TxFlags::IPV4) {
            assert_eq!(verify_ip(&got[0], &parsed), Status::Good, "{name}");
        }
    }
    all_home(port, [(rx, tx)]);
}

#[test]
fn without_checksum_offload_bytes_leave_as_they_are() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (rx, mut tx) = port.take_queue(0).unwrap();
    let bad = tcp(1).macs(MAC, PEER).bad_l4_checksum().build();
    tx.push_copy(&bad, &TxMeta::NONE).unwrap();
    tx.submit();
    rig.settle();
    assert_eq!(rig.peer.received(), [bad]);
    all_home(port, [(rx, tx)]);
}

#[test]
fn tso_cuts_a_large_frame_into_segments_with_finished_headers() {
    for (name, six) in [("IPv4", false), ("IPv6", true)] {
        let rig = rig();
        let mut port = rig.open(config(1));
        let (rx, mut tx) = port.take_queue(0).unwrap();
        let payload: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let base = if six {
            v6().tcp(80, 1000)
        } else {
            tcp(9).tcp(80, 1000)
        };
        let frame = base
            .macs(MAC, PEER)
            .seq(1000, 1)
            .payload(&payload)
            .partial_l4_checksum(false);
        let mut bytes = frame.build();
        let l3_len = if six { 40 } else { 20 };
        if !six {
            // Length and checksum of the big packet mean nothing: the device writes each segment's own.
            bytes[16..18].fill(0);
            bytes[24..26].fill(0);
        }
        let flags = if six {
            TxFlags::TSO
        } else {
            TxFlags::TSO | TxFlags::IPV4
        };
        let l4_len = (bytes.len() - payload.len() - 14 - l3_len) as u8;
        let meta = TxMeta {
            flags,
            mss: 1400,
            l2_len: 14,
            l3_len: l3_len as u16,
            l4_len,
            ..TxMeta::NONE
        };
        tx.push_copy(&bytes, &meta).unwrap();
        assert_eq!(tx.submit(), 1);
        rig.settle();
        let segments = rig.peer.received();
        assert_eq!(segments.len(), 20_000usize.div_ceil(1400), "{name}");
        let mut joined = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            let parsed = parse(segment);
            assert_eq!(verify_l4(segment, &parsed), Status::Good, "{name} segment {i}");
            if !six {
                assert_eq!(verify_ip(segment, &parsed), Status::Good, "{name} segment {i}");
            }
            let headers = 14 + l3_len + usize::from(l4_len);
            let seq = u32::from_be_bytes(segment[14 + l3_len + 4..14 + l3_len + 8].try_into().unwrap());
            assert_eq!(seq, 1000 + 1400 * i as u32, "{name}");
            joined.extend_from_slice(&segment[headers..]);
        }
        assert!(joined == payload, "{name}");
        assert_eq!(port.stats().unwrap().tx_packets, segments.len() as u64);
        all_home(port, [(rx, tx)]);
    }
}

#[test]
fn vlan_tags_are_stripped_and_reported_when_asked_for() {
    let rig = rig();
    let offloads = Offloads {
        vlan_strip: true,
        ..Offloads::default()
    };
    let mut port = rig.open(PortConfig {
        offloads,
        ..config(1)
    });
    let (mut rx, tx) = port.take_queue(0).unwrap();
    let layout = rx.hint_layout().clone();
    rig.peer.send(udp(1).vlan(0x6064).pad_to(64).build());
    rig.peer.send(udp(2).pad_to(60).build());
    let got = receive(&rig, &mut rx);
    assert_eq!(got[0].0, udp(1).pad_to(60).build(), "the tag is out of the frame");
    assert_eq!(layout.get(HintKind::VlanTci, &got[0].1), Some(0x6064));
    assert_eq!(layout.get(HintKind::VlanTci, &got[1].1), None);
    port.set_vlan_offload(false, false).unwrap();
    rig.peer.send(udp(1).vlan(0x6064).pad_to(64).build());
    assert_eq!(
        receive(&rig, &mut rx)[0].0,
        udp(1).vlan(0x6064).pad_to(64).build()
    );
    all_home(port, [(rx, tx)]);
}

#[test]
fn a_vlan_tag_is_inserted_when_asked_for() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (rx, mut tx) = port.take_queue(0).unwrap();
    let meta = TxMeta {
        flags: TxFlags::VLAN,
        vlan_tci: 0x2123,
        ..TxMeta::NONE
    };
    tx.push_copy(&udp(1).pad_to(60).build(), &meta).unwrap();
    tx.submit();
    rig.settle();
    assert_eq!(rig.peer.received(), [udp(1).vlan(0x2123).pad_to(64).build()]);
    all_home(port, [(rx, tx)]);
}

#[test]
fn the_vlan_filter_lets_only_added_vlans_in() {
    let rig = rig();
    let offloads = Offloads {
        vlan_filter: true,
        ..Offloads::default()
    };
    let mut port = rig.open(PortConfig {
        offloads,
        ..config(1)
    });
    let (mut rx, tx) = port.take_queue(0).unwrap();
    let mut arrives = |frame: Frame| {
        rig.peer.send(frame.build());
        !receive(&rig, &mut rx).is_empty()
    };
    assert!(arrives(udp(1)), "untagged frames are not filtered");
    assert!(!arrives(udp(1).vlan(100)));
    port.add_vlan(100).unwrap();
    port.add_vlan(4095).unwrap();
    assert!(arrives(udp(1).vlan(100)) && !arrives(udp(1).vlan(101)));
    port.remove_vlan(100).unwrap();
    assert!(!arrives(udp(1).vlan(100)));
    port.set_vlan_offload(false, false).unwrap();
    assert!(arrives(udp(1).vlan(100)));
    assert!(port.add_vlan(4096).is_err());
    all_home(port, [(rx, tx)]);
}

#[test]
fn rss_spreads_by_the_toeplitz_hash_and_reports_it() {
    let rig = rig();
    let mut port = rig.open(config(4));
    let mut queues: Vec<_> = (0..4).map(|q| port.take_queue(q).unwrap()).collect();
    let layout = port.hint_layout().clone();
    let frames = (0..200)
        .map(udp)
        .chain((0..200).map(tcp))
        .chain((0..50).map(|n| v6().tcp(n, 80)));
    let mut per_queue = [0; 4];
    for frame in frames {
        let bytes = frame.pad_to(60).build();
        let hash = flow_hash(&MICROSOFT_KEY, &bytes).expect("IP");
        let expected = hash as usize % 128 % 4;
        rig.peer.send(bytes.clone());
        rig.settle();
        for (q, (rx, _)) in queues.iter_mut().enumerate() {
            for (got, raw) in receive(&rig, rx) {
                assert_eq!((q, &got), (expected, &bytes));
                assert_eq!(layout.get(HintKind::RssHash, &raw), Some(u64::from(hash)));
                per_queue[q] += 1;
            }
        }
    }
    assert_eq!(per_queue.iter().sum::<u32>(), 450);
    assert!(per_queue.iter().all(|n| *n > 70), "{per_queue:?}");
    all_home(port, queues);
}

#[test]
fn rss_key_table_and_fields_can_be_changed_while_traffic_runs() {
    let rig = rig();
    let mut port = rig.open(config(2));
    let mut queues: Vec<_> = (0..2).map(|q| port.take_queue(q).unwrap()).collect();
    let layout = port.hint_layout().clone();
    let mut arrivals = |frame: &Frame| -> Vec<(usize, Option<u64>)> {
        rig.peer.send(frame.build());
        let seen = queues.iter_mut().enumerate().flat_map(|(q, (rx, _))| {
            receive(&rig, rx)
                .into_iter()
                .map(move |(_, raw)| (q, raw))
                .collect::<Vec<_>>()
        });
        seen.map(|(q, raw)| (q, layout.get(HintKind::RssHash, &raw)))
            .collect()
    };
    port.set_rss(RssConfig {
        reta: vec![1],
        ..RssConfig::default()
    })
    .unwrap();
    assert!(
        (0..20).all(|n| arrivals(&udp(n))[0].0 == 1),
        "the table says queue 1"
    );
    let mut key = MICROSOFT_KEY;
    key.rotate_left(3);
    port.set_rss(RssConfig {
        key,
        ..RssConfig::default()
    })
    .unwrap();
    let expected = flow_hash(&key, &udp(5).build()).map(u64::from);
    assert_eq!(arrivals(&udp(5))[0].1, expected);
    // Without UDP ports the hash is over the addresses, as of a fragment.
    let fields = RssFields {
        udp4: false,
        ..RssFields::ALL
    };
    port.set_rss(RssConfig {
        fields,
        ..RssConfig::default()
    })
    .unwrap();
    let addresses = flow_hash(&MICROSOFT_KEY, &udp(5).fragment(0, true).build()).map(u64::from);
    assert_eq!(arrivals(&udp(5))[0].1, addresses);
    port.set_rss(RssConfig {
        fields: RssFields::NONE,
        ..RssConfig::default()
    })
    .unwrap();
    assert_eq!(arrivals(&tcp(5)), [(0, None)], "no hash, queue 0");
    assert!(
        port.set_rss(RssConfig {
            reta: vec![2],
            ..RssConfig::default()
        })
        .is_err()
    );
    all_home(port, queues);
}
