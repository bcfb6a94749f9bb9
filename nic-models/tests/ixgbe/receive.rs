//! Frames from the wire to memory: chaining, filters, RSS, checksums, VLAN, drops, statistics.

use millrace_nic_models::device::Work;
use millrace_nic_models::ixgbe::desc::rx::{RssType, error, ptype, status};
use millrace_nic_models::ixgbe::regs::{self, fctrl, mrqc, rxdctl, srrctl, vlnctrl};
use millrace_nic_models::packet::build::Frame;

use crate::rig::{MAC, PEER, Rig, to_port};

/// The key of Microsoft's RSS verification suite.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

fn rss_on(rig: &mut Rig, fields: u32) {
    for (i, word) in KEY.chunks_exact(4).enumerate() {
        rig.write(
            regs::RSSRK,
            i as u32,
            u32::from_le_bytes(word.try_into().unwrap()),
        );
    }
    // Entry n of RETA names queue n % 4.
    for i in 0..32 {
        rig.write(regs::RETA, i, 0x0302_0100);
    }
    rig.write(regs::MRQC, 0, mrqc::MRQE_RSS | fields);
}

#[test]
fn a_frame_lands_in_its_buffer_and_the_descriptor_tells() {
    let mut rig = Rig::running(1, 8);
    let frame = to_port().udp(1000, 2000).payload(&[0x5a; 100]).build();
    let (bytes, wb) = rig.arrive_alone(&frame);
    assert_eq!(bytes, frame);
    assert_eq!(usize::from(wb.len), frame.len());
    assert_eq!(wb.ptype, ptype::IPV4 | ptype::UDP);
    assert_eq!(
        wb.status_error,
        status::DD | status::EOP | status::IPCS | status::L4CS
    );
    assert_eq!(rig.peek(regs::RDH, 0), 1);
    assert_eq!(rig.step(), Work::Idle);
}

#[test]
fn a_short_frame_is_padded_as_its_senders_mac_would() {
    let mut rig = Rig::running(1, 8);
    let frame = to_port().udp(1, 2).payload(b"hi").build();
    let (bytes, wb) = rig.arrive_alone(&frame);
    assert_eq!(wb.len, 60);
    assert_eq!(&bytes[..frame.len()], &frame[..]);
    assert!(bytes[frame.len()..].iter().all(|&b| b == 0));
    assert_ne!(
        wb.status_error & status::L4CS,
        0,
        "padding is not part of the checksum"
    );
}

#[test]
fn a_jumbo_frame_takes_as_many_descriptors_as_it_needs() {
    let mut rig = Rig::running(1, 16);
    let payload: Vec<u8> = (0..9000u32).map(|n| n as u8).collect();
    let frame = to_port().udp(1, 2).payload(&payload).build();
    let (bytes, wb) = rig.arrive_alone(&frame);
    assert_eq!(bytes, frame);
    assert_ne!(wb.status_error & status::L4CS, 0);
    assert_eq!(rig.peek(regs::RDH, 0), 5, "9042 bytes in buffers of 2 KiB");
    for i in 0..4 {
        let qw = rig.descriptor(Rig::rx_descriptor(0, i))[1];
        assert_eq!(qw as u32, status::DD, "no EOP in descriptor {i}");
        assert_eq!(qw >> 32 & 0xffff, 2048);
    }
}

#[test]
fn a_frame_longer_than_maxfrs_is_counted_as_oversize() {
    let mut rig = Rig::running(1, 8);
    rig.write(regs::MAXFRS, 0, 1518 << 16);
    let frame = to_port().udp(1, 2).payload(&[0; 1514 - 42]).build();
    assert_eq!(frame.len(), 1514);
    rig.arrive(&frame);
    let longer = to_port().udp(1, 2).payload(&[0; 1515 - 42]).build();
    rig.arrive(&longer);
    let tagged = to_port().vlan(5).udp(1, 2).payload(&[0; 1514 - 42]).build();
    rig.arrive(&tagged);
    assert_eq!(rig.received(0, 0).len(), 2, "a tag comes on top of the limit");
    assert_eq!(rig.read(regs::ROC), 1);
    rig.write(regs::MAXFRS, 0, 9000 << 16);
    rig.write(regs::HLREG0, 0, 0);
    rig.arrive(&longer);
    assert_eq!(rig.read(regs::ROC), 1, "without JUMBOEN the limit is 1518");
    rig.arrive(&[0xff; 13]);
    assert_eq!(rig.read(regs::RUC), 1, "not even an Ethernet header");
}

#[test]
fn the_ring_wraps_many_times_without_losing_order() {
    let mut rig = Rig::running(1, 8);
    let mut next = 0u32;
    for n in 0..100u32 {
        let frame = to_port().udp(1, 2).payload(&n.to_be_bytes()).build();
        rig.arrive(&frame);
        let at = Rig::rx_descriptor(0, next);
        assert_eq!(rig.descriptor(at)[1] & 3, 3, "frame {n}");
        assert_eq!(rig.load(Rig::rx_buffer(0, next) + 42, 4), n.to_be_bytes());
        // Post it again.
        rig.set_descriptor(at, [Rig::rx_buffer(0, next), 0]);
        rig.write(regs::RDT, 0, next);
        next = (next + 1) % 8;
    }
    assert_eq!(rig.read(regs::GPRC), 100);
}

#[test]
fn an_empty_ring_drops_and_counts_per_queue() {
    let mut rig = Rig::running(1, 8);
    for _ in 0..10 {
        rig.arrive(&to_port().udp(1, 2).build());
    }
    assert_eq!(rig.received(0, 0).len(), 7, "one descriptor stays software's");
    assert_eq!(rig.peek(regs::QPRDC, 0), 3);
    assert_eq!(rig.peek(regs::QPRC, 0), 7);
    assert_eq!(rig.read(regs::RXMPC), 0);
    assert_eq!(rig.counter("rx_no_descriptor"), 3);
    // A frame that needs more descriptors than are free is dropped whole.
    rig.write(regs::RDT, 0, 1);
    rig.set_descriptor(Rig::rx_descriptor(0, 7), [Rig::rx_buffer(0, 7), 0]);
    rig.set_descriptor(Rig::rx_descriptor(0, 0), [Rig::rx_buffer(0, 0), 0]);
    rig.arrive(&to_port().udp(1, 2).payload(&[0; 5000]).build());
    assert_eq!(rig.peek(regs::QPRDC, 0), 1);
    assert_eq!(rig.descriptor(Rig::rx_descriptor(0, 7))[1], 0, "untouched");
}

#[test]
fn without_drop_enable_frames_wait_in_the_packet_buffer_until_it_is_full() {
    let mut rig = Rig::bare();
    rig.bring_up(1, 8);
    rig.write(regs::SRRCTL, 0, srrctl::DESCTYPE_ADV_ONE | 2);
    let frame = to_port().udp(1, 2).payload(&[7; 1400]).build();
    let fits = (512 << 10) / frame.len();
    for _ in 0..7 + fits + 5 {
        rig.arrive(&frame);
    }
    assert_eq!(rig.peek(regs::QPRDC, 0), 0);
    assert_eq!(rig.peek(regs::RXMPC, 0), 5);
    assert_ne!(rig.read(regs::EICS) & regs::eicr::RX_MISS, 0);
    // Posting two descriptors lets two frames out.
    for i in [7, 0] {
        rig.set_descriptor(Rig::rx_descriptor(0, i), [Rig::rx_buffer(0, i), 0]);
    }
    rig.write(regs::RDT, 0, 1);
    rig.settle();
    assert_eq!(rig.descriptor(Rig::rx_descriptor(0, 7))[1] & 3, 3);
    assert_eq!(rig.descriptor(Rig::rx_descriptor(0, 0))[1] & 3, 3);
    assert_eq!(rig.peek(regs::QPRC, 0), 9);
}

#[test]
fn rss_hashes_with_the_published_key_and_spreads_by_reta() {
    let mut rig = Rig::running(4, 16);
    rss_on(
        &mut rig,
        mrqc::TCP_IPV4 | mrqc::IPV4 | mrqc::UDP_IPV4 | mrqc::TCP_IPV6 | mrqc::IPV6,
    );
    let v4 = |src: [u8; 4], sport, dst: [u8; 4], dport| {
        Frame::new()
            .macs(PEER, MAC)
            .ipv4(src, dst)
            .tcp(sport, dport)
            .payload(&[1; 20])
            .build()
    };
    let cases = [
        (
            [66u8, 9, 149, 187],
            2794u16,
            [161u8, 142, 100, 80],
            1766u16,
            0x51ccc178u32,
        ),
        ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xc626b0ea),
        ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0x5c2b394a),
    ];
    let mut used = [0u32; 4];
    for (src, sport, dst, dport, hash) in cases {
        rig.arrive(&v4(src, sport, dst, dport));
        let q = hash & 0x7f & 3;
        let got = rig.received(q, used[q as usize]);
        used[q as usize] += 1;
        assert_eq!(got.len(), 1, "hash {hash:#x} goes to queue {q}");
        assert_eq!(got[0].1.hash, hash);
        assert_eq!(got[0].1.rss_type, RssType::TcpIpv4 as u8);
    }
    // ICMP between the same hosts hashes the addresses alone.
    rig.arrive(
        &Frame::new()
            .macs(PEER, MAC)
            .ipv4([66, 9, 149, 187], [161, 142, 100, 80])
            .ping(1, 1)
            .build(),
    );
    let q = 0x323e8fc2 & 3;
    let got = rig.received(q, used[q as usize]);
    assert_eq!(
        (got[0].1.hash, got[0].1.rss_type),
        (0x323e8fc2, RssType::Ipv4 as u8)
    );
    used[q as usize] += 1;
    // IPv6, TCP.
    let src: std::net::Ipv6Addr = "3ffe:2501:200:1fff::7".parse().unwrap();
    let dst: std::net::Ipv6Addr = "3ffe:2501:200:3::1".parse().unwrap();
    rig.arrive(
        &Frame::new()
            .macs(PEER, MAC)
            .ipv6(src, dst)
            .tcp(2794, 1766)
            .build(),
    );
    let q = 0x40207d3d & 3;
    let got = rig.received(q, used[q as usize]);
    assert_eq!(
        (got[0].1.hash, got[0].1.rss_type),
        (0x40207d3d, RssType::TcpIpv6 as u8)
    );
}

#[test]
fn rss_is_off_for_what_no_field_names() {
    let mut rig = Rig::running(4, 16);
    rss_on(&mut rig, mrqc::TCP_IPV4);
    let (_, wb) = rig.arrive_alone(&to_port().udp(9, 9).build());
    assert_eq!((wb.rss_type, wb.hash), (0, 0));
}

#[test]
fn fragments_hash_by_addresses_only() {
    let mut rig = Rig::running(4, 16);
    rss_on(&mut rig, mrqc::UDP_IPV4 | mrqc::IPV4);
    let frame = Frame::new()
        .macs(PEER, MAC)
        .ipv4([66, 9, 149, 187], [161, 142, 100, 80])
        .fragment(0, true)
        .udp(2794, 1766)
        .payload(&[0; 64])
        .build();
    rig.arrive(&frame);
    let q = 0x323e8fc2 & 3;
    let (_, wb) = &rig.received(q, 0)[0];
    assert_eq!((wb.hash, wb.rss_type), (0x323e8fc2, RssType::Ipv4 as u8));
    assert_eq!(wb.ptype, ptype::IPV4, "no L4 type for a fragment");
    assert_eq!(
        wb.status_error & status::L4CS,
        0,
        "its checksum cannot be checked"
    );
}

#[test]
fn a_wrong_checksum_is_reported_as_wrong_and_a_right_one_as_right() {
    type Build = fn() -> Frame;
    let cases: [(&str, Build, u32); 8] = [
        (
            "tcp",
            || to_port().tcp(1, 2).payload(b"data"),
            status::IPCS | status::L4CS,
        ),
        (
            "udp",
            || to_port().udp(1, 2).payload(b"data"),
            status::IPCS | status::L4CS,
        ),
        (
            "sctp",
            || to_port().sctp(1, 2).payload(b"data"),
            status::IPCS | status::L4CS,
        ),
        (
            "bad ip",
            || to_port().tcp(1, 2).bad_ip_checksum(),
            status::IPCS | status::L4CS | error::IPE,
        ),
        (
            "bad tcp",
            || to_port().tcp(1, 2).bad_l4_checksum(),
            status::IPCS | status::L4CS | error::L4E,
        ),
        (
            "bad udp",
            || to_port().udp(1, 2).bad_l4_checksum(),
            status::IPCS | status::L4CS | error::L4E,
        ),
        (
            "udp without",
            || to_port().udp(1, 2).no_udp_checksum(),
            status::IPCS,
        ),
        ("icmp", || to_port().ping(1, 2), status::IPCS),
    ];
    for (what, build, expected) in cases {
        let mut rig = Rig::running(1, 8);
        let (_, wb) = rig.arrive_alone(&build().build());
        let mask = status::IPCS | status::L4CS | error::IPE | error::L4E;
        assert_eq!(wb.status_error & mask, expected, "{what}");
        let bad = u32::from(expected & (error::IPE | error::L4E) != 0);
        assert_eq!(rig.read(regs::XEC), bad, "{what}");
    }
}

#[test]
fn vlan_tags_are_stripped_where_the_queue_says_so() {
    let mut rig = Rig::running(1, 8);
    let frame = to_port().vlan(0xa123).udp(1, 2).payload(&[9; 50]).build();
    let plain = to_port().udp(1, 2).payload(&[9; 50]).build();
    rig.arrive(&frame);
    rig.write(regs::RXDCTL, 0, rxdctl::ENABLE | rxdctl::VME);
    rig.arrive(&frame);
    rig.arrive(&plain);
    let got = rig.received(0, 0);
    assert_eq!(got[0].0, frame, "left in place");
    assert_eq!(got[1].0, plain, "stripped");
    assert_ne!(got[1].1.status_error & status::VP, 0);
    assert_eq!(got[1].1.vlan, 0xa123);
    assert_eq!(rig.counter("rx_stripped"), 1);
    assert_eq!(got[2].1.status_error & status::VP, 0);
    assert_ne!(got[1].1.status_error & status::L4CS, 0);
}

#[test]
fn the_vlan_filter_passes_what_the_table_holds_and_untagged_frames() {
    let mut rig = Rig::running(1, 8);
    rig.write(regs::VLNCTRL, 0, 0x8100 | vlnctrl::VFE);
    rig.write(regs::VFTA, 100 / 32, 1 << (100 % 32));
    rig.arrive(&to_port().vlan(100).udp(1, 1).build());
    rig.arrive(&to_port().vlan(101).udp(2, 2).build());
    rig.arrive(&to_port().udp(3, 3).build());
    assert_eq!(rig.received(0, 0).len(), 2);
    assert_eq!(rig.counter("rx_filtered"), 1);
    rig.write(regs::VLNCTRL, 0, 0x8100 | vlnctrl::VFE | vlnctrl::CFIEN);
    rig.arrive(&to_port().vlan(0x1000 | 100).udp(1, 1).build());
    assert_eq!(rig.counter("rx_filtered"), 2, "CFI is not what the filter wants");
}

#[test]
fn address_filters_pass_exactly_what_they_are_told() {
    let other = [2, 0, 0, 0, 0, 9];
    let group = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];
    let to = |dst| {
        Frame::new()
            .macs(PEER, dst)
            .ipv4([1, 1, 1, 1], [2, 2, 2, 2])
            .udp(1, 1)
            .build()
    };
    let mut rig = Rig::running(1, 64);
    let mut seen = 0;
    let mut passes = |rig: &mut Rig, dst| {
        rig.arrive(&to(dst));
        let got = rig.received(0, 0);
        let passed = got.len() > seen;
        seen = got.len();
        passed.then(|| got[seen - 1].1.status_error & status::PIF != 0)
    };
    assert_eq!(passes(&mut rig, MAC), Some(false));
    assert_eq!(passes(&mut rig, other), None);
    assert_eq!(passes(&mut rig, [0xff; 6]), Some(false));
    rig.write(regs::FCTRL, 0, 0);
    assert_eq!(passes(&mut rig, [0xff; 6]), None, "broadcast needs BAM");
    rig.write(regs::FCTRL, 0, fctrl::UPE);
    assert_eq!(passes(&mut rig, other), Some(true), "promiscuous");
    assert_eq!(passes(&mut rig, group), None);
    rig.write(regs::FCTRL, 0, fctrl::MPE);
    assert_eq!(passes(&mut rig, group), Some(true));
    rig.write(regs::FCTRL, 0, 0);
    // MTA by bits 47:36: the last byte 0x03 and the high half of 0x02 before it.
    let hash = 0x03u32 << 4;
    rig.write(regs::MTA, hash >> 5, 1 << (hash & 31));
    assert_eq!(passes(&mut rig, group), None, "the table needs MFE");
    rig.write(regs::MCSTCTRL, 0, regs::mcstctrl::MFE);
    assert_eq!(passes(&mut rig, group), Some(true));
    assert_eq!(passes(&mut rig, [0x01, 0, 0x5e, 0x01, 0x02, 0x04]), None);
    // A second exact address.
    rig.write(regs::RAL, 3, u32::from_le_bytes([2, 0, 0, 0]));
    rig.write(
        regs::RAH,
        3,
        u32::from(u16::from_le_bytes([0, 9])) | regs::rah::AV,
    );
    assert_eq!(passes(&mut rig, other), Some(false));
    rig.write(regs::RAH, 3, 0);
    assert_eq!(passes(&mut rig, other), None);
}

#[test]
fn ether_type_and_five_tuple_filters_choose_the_queue_before_rss() {
    let mut rig = Rig::running(4, 16);
    rig.write(regs::ETQF, 1, 0x88cc | regs::etqf::ENABLE);
    rig.write(
        regs::ETQS,
        1,
        regs::etqs::QUEUE_ENABLE | 3 << regs::etqs::QUEUE_SHIFT,
    );
    let mut lldp = Frame::new()
        .macs(PEER, MAC)
        .ethertype(0x88cc)
        .payload(&[0; 60])
        .build();
    lldp.truncate(64);
    rig.arrive(&lldp);
    assert_eq!(rig.received(3, 0)[0].1.ptype, ptype::ETQF | 1);
    // TCP to port 80 from anywhere goes to queue 2.
    rig.write(regs::SDPQF, 5, u32::from(80u16.swap_bytes()) << 16);
    rig.write(regs::L34TIMIR, 5, 2 << regs::l34timir::QUEUE_SHIFT);
    let ignore = 0b0_0111 << regs::ftqf::MASK_SHIFT | regs::ftqf::POOL_MASK;
    rig.write(regs::FTQF, 5, regs::ftqf::QUEUE_ENABLE | ignore);
    rig.arrive(&to_port().tcp(1234, 80).build());
    rig.arrive(&to_port().tcp(1234, 81).build());
    rig.arrive(&to_port().udp(1234, 80).build());
    assert_eq!(rig.received(2, 0).len(), 1);
    assert_eq!(rig.received(0, 0).len(), 2);
}

#[test]
fn flow_director_steers_and_drops_by_perfect_match() {
    use regs::{fdircmd, fdirctrl};
    let mut rig = Rig::running(4, 16);
    rig.write(
        regs::FDIRCTRL,
        0,
        1 | fdirctrl::PERFECT_MATCH | fdirctrl::REPORT_STATUS,
    );
    let free = rig.read(regs::FDIRFREE);
    rig.write(
        regs::FDIRM,
        0,
        regs::fdirm::VLANID | regs::fdirm::VLANP | regs::fdirm::FLEX | regs::fdirm::POOL,
    );
    // Source port does not matter: the mask's bits are reversed.
    rig.write(regs::FDIRTCPM, 0, 0x0000_ffff);
    let add = |rig: &mut Rig, index: u32, port: u32, command: u32| {
        rig.write(regs::FDIRIPSA, 0, u32::from_le_bytes([10, 0, 0, 1]));
        rig.write(regs::FDIRIPDA, 0, u32::from_le_bytes([10, 0, 0, 2]));
        rig.write(regs::FDIRPORT, 0, port << 16);
        rig.write(regs::FDIRHASH, 0, index << 16);
        rig.write(
            regs::FDIRCMD,
            0,
            fdircmd::CMD_ADD | fdircmd::FILTER_UPDATE | 2 << fdircmd::L4TYPE_SHIFT | command,
        );
        assert_eq!(rig.read(regs::FDIRCMD) & fdircmd::CMD, 0, "done");
    };
    add(&mut rig, 7, 443, fdircmd::QUEUE_EN | 3 << fdircmd::QUEUE_SHIFT);
    add(&mut rig, 8, 666, fdircmd::DROP);
    assert_eq!(rig.read(regs::FDIRFREE), free - 2);
    rig.arrive(&to_port().tcp(5, 443).build());
    rig.arrive(&to_port().tcp(5, 666).build());
    rig.arrive(&to_port().tcp(5, 444).build());
    let (_, wb) = &rig.received(3, 0)[0];
    assert_ne!(wb.status_error & status::FLM, 0);
    assert_eq!(wb.hash, 7);
    assert_eq!(rig.received(0, 0).len(), 1);
    assert_eq!((rig.read(regs::FDIRMATCH), rig.read(regs::FDIRMISS)), (2, 1));
    // Query, then remove.
    rig.write(regs::FDIRHASH, 0, 7 << 16);
    rig.write(regs::FDIRCMD, 0, fdircmd::CMD_QUERY);
    assert_ne!(rig.read(regs::FDIRCMD) & fdircmd::FILTER_VALID, 0);
    rig.write(regs::FDIRCMD, 0, fdircmd::CMD_REMOVE);
    rig.write(regs::FDIRCMD, 0, fdircmd::CMD_QUERY);
    assert_eq!(rig.read(regs::FDIRCMD) & fdircmd::FILTER_VALID, 0);
    rig.arrive(&to_port().tcp(5, 443).build());
    assert_eq!(rig.received(3, 0).len(), 1);
}

#[test]
fn statistics_count_by_size_and_kind_and_are_cleared_by_reading() {
    let mut rig = Rig::running(1, 32);
    let sized = |len: usize, dst| {
        Frame::new()
            .macs(PEER, dst)
            .ipv4([1, 1, 1, 1], [2, 2, 2, 2])
            .udp(1, 1)
            .payload(&vec![0; len - 42])
            .build()
    };
    rig.write(regs::FCTRL, 0, fctrl::BAM | fctrl::MPE);
    let group = [0x01, 0, 0x5e, 0, 0, 1];
    for (len, dst) in [
        (60, MAC),
        (61, MAC),
        (123, group),
        (124, [0xff; 6]),
        (252, MAC),
        (508, MAC),
        (1020, MAC),
    ] {
        rig.arrive(&sized(len, dst));
    }
    let sizes = [
        regs::PRC64,
        regs::PRC127,
        regs::PRC255,
        regs::PRC511,
        regs::PRC1023,
        regs::PRC1522,
    ];
    let counts = sizes.map(|reg| rig.read(reg));
    assert_eq!(counts, [1, 2, 1, 1, 1, 1]);
    assert_eq!(sizes.map(|reg| rig.read(reg)), [0; 6], "cleared");
    assert_eq!(
        [rig.read(regs::GPRC), rig.read(regs::BPRC), rig.read(regs::MPRC)],
        [7, 1, 1]
    );
    // With HLREG0.RXCRCSTRP set, as it is after a reset, good bytes do not include the FCS.
    let bytes = 60 + 61 + 123 + 124 + 252 + 508 + 1020;
    assert_eq!([rig.read(regs::GORCL), rig.read(regs::GORCH)], [bytes, 0]);
    assert_eq!([rig.read(regs::TORL), rig.read(regs::TPR)], [bytes + 7 * 4, 7]);
    assert_eq!([rig.peek(regs::QPRC, 0), rig.peek(regs::QBRCL, 0)], [7, bytes]);
    assert_eq!(
        [
            rig.read(regs::GORCL),
            rig.read(regs::GPRC),
            rig.peek(regs::QPRC, 0)
        ],
        [0; 3]
    );
}

#[test]
fn per_queue_counters_follow_their_map() {
    let mut rig = Rig::running(2, 16);
    rig.write(regs::RQSMR, 0, 0x0000_0500);
    rig.write(regs::FDIRCTRL, 0, 0);
    rig.write(regs::ETQF, 0, 0x0800 | regs::etqf::ENABLE);
    rig.write(
        regs::ETQS,
        0,
        regs::etqs::QUEUE_ENABLE | 1 << regs::etqs::QUEUE_SHIFT,
    );
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!([rig.peek(regs::QPRC, 0), rig.peek(regs::QPRC, 5)], [0, 1]);
}

#[test]
fn legacy_descriptors_are_written_back_in_their_format() {
    let mut rig = Rig::bare();
    rig.bring_up(1, 8);
    rig.write(regs::SRRCTL, 0, srrctl::DESCTYPE_LEGACY | srrctl::DROP_EN | 2);
    let frame = to_port().tcp(1, 2).bad_l4_checksum().build();
    rig.arrive(&frame);
    let [q0, q1] = rig.descriptor(Rig::rx_descriptor(0, 0));
    assert_eq!(q0, Rig::rx_buffer(0, 0), "the address stays");
    assert_eq!(q1 & 0xffff, 60);
    assert_eq!(q1 >> 32 & 0xff, 0x63, "DD, EOP, L4CS, IPCS");
    assert_eq!(q1 >> 40 & 0xff, 0x40, "TCPE");
}

#[test]
fn a_disabled_queue_or_receiver_takes_nothing() {
    let mut rig = Rig::running(1, 8);
    rig.write(regs::RXDCTL, 0, 0);
    assert_eq!(rig.peek(regs::RXDCTL, 0) & rxdctl::ENABLE, 0);
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.counter("rx_queue_off"), 1);
    rig.write(regs::RXCTRL, 0, 0);
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.counter("rx_while_off"), 1);
    assert!(rig.received(0, 0).is_empty());
}

#[test]
fn pause_frames_end_in_the_mac() {
    let mut rig = Rig::running(1, 8);
    rig.write(regs::FCTRL, 0, fctrl::MPE | fctrl::UPE);
    let mut pause = vec![
        0x01, 0x80, 0xc2, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x88, 0x08, 0, 1, 0xff, 0xff,
    ];
    pause.resize(60, 0);
    rig.arrive(&pause);
    pause[16..18].fill(0);
    rig.arrive(&pause);
    assert!(rig.received(0, 0).is_empty());
    assert_eq!([rig.read(regs::LXOFFRXCNT), rig.read(regs::LXONRXCNT)], [1, 1]);
}

#[test]
fn an_unmapped_buffer_or_ring_stops_the_queue_with_a_count_until_it_is_enabled_again() {
    let mut rig = Rig::running(1, 8);
    rig.set_descriptor(Rig::rx_descriptor(0, 0), [0x7fff_0000_0000, 0]);
    rig.arrive(&to_port().udp(1, 1).build());
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.counter("rx_dma_faults"), 1);
    assert!(rig.received(0, 0).is_empty());
    assert_ne!(rig.read(regs::EICS) & regs::eicr::PCI, 0);
    rig.write(regs::RXDCTL, 0, 0);
    rig.start_rx(0, 8, srrctl::DESCTYPE_ADV_ONE | 2);
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.received(0, 0).len(), 1);
    // All memory goes away under a running queue.
    use millrace_nic_models::device::Model;
    rig.nic.dma().unmap_all();
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.counter("rx_dma_faults"), 2);
    assert_eq!(rig.received(0, 0).len(), 1, "no write landed");
}

#[test]
fn a_descriptor_with_reserved_bits_set_is_just_an_address() {
    let mut rig = Rig::running(1, 8);
    rig.set_descriptor(Rig::rx_descriptor(0, 0), [Rig::rx_buffer(0, 0), !1]);
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.received(0, 0).len(), 1);
}
