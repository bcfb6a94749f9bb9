use super::super::{Fragment, L3, L4, Tag, ethertype, ipproto, parse};
use super::*;

#[test]
fn plain_tcp_over_ipv4() {
    let frame = Frame::new()
        .ipv4([1, 2, 3, 4], [5, 6, 7, 8])
        .tcp(80, 4000)
        .payload(b"abc")
        .pad_to(60)
        .build();
    let p = parse(&frame);
    assert_eq!(
        (p.l2_len, p.l3, p.l3_len, p.l4, p.l4_off, p.l4_len),
        (14, L3::Ipv4, 20, L4::Tcp, 34, 20)
    );
    assert_eq!(
        (p.src_addr(&frame), p.dst_addr(&frame)),
        (&[1, 2, 3, 4][..], &[5, 6, 7, 8][..])
    );
    assert_eq!((p.src_port(&frame), p.dst_port(&frame)), (Some(80), Some(4000)));
    assert_eq!((p.ip_end, frame.len()), (57, 60));
    assert_eq!(p.payload(&frame), b"abc", "padding is not payload");
    assert!(!p.truncated && p.fragment == Fragment::No && !p.ipv4_options());
}

#[test]
fn two_vlan_tags_and_ipv4_options() {
    let service = Tag {
        tpid: ethertype::QINQ,
        tci: 0xe064,
    };
    let frame = Frame::new()
        .tag(service)
        .vlan(7)
        .ipv4([1; 4], [2; 4])
        .options(&[7, 3, 4])
        .udp(1, 2)
        .build();
    let p = parse(&frame);
    assert_eq!(p.tags(), [service, Tag::new(7)]);
    assert_eq!((service.vid(), service.pcp()), (100, 7));
    assert_eq!((p.l2_len, p.l3_len, p.l4), (22, 24, L4::Udp));
    assert!(p.ipv4_options());
}

#[test]
fn a_third_vlan_tag_is_left_as_an_unknown_ethertype() {
    let p = parse(
        &Frame::new()
            .vlan(1)
            .vlan(2)
            .vlan(3)
            .ipv4([1; 4], [2; 4])
            .udp(1, 2)
            .build(),
    );
    assert_eq!((p.vlan_count, p.ethertype, p.l3), (2, ethertype::VLAN, L3::None));
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let frame = Frame::new()
        .ipv6(A6, B6)
        .options(&[1, 4, 0, 0, 0, 0, 1, 0])
        .tcp(1, 2)
        .build();
    let p = parse(&frame);
    assert_eq!((p.l3, p.l3_len, p.l4, p.l4_off), (L3::Ipv6, 56, L4::Tcp, 70));
    assert!(p.ipv6_ext && !p.truncated);
}

#[test]
fn fragments_are_told_apart_in_both_families() {
    for v6 in [false, true] {
        let start = |frame: Frame| {
            if v6 {
                frame.ipv6(A6, B6)
            } else {
                frame.ipv4([1; 4], [2; 4])
            }
        };
        let first = parse(
            &start(Frame::new())
                .fragment(0, true)
                .udp(1, 2)
                .payload(&[0; 16])
                .build(),
        );
        assert_eq!((first.fragment, first.l4), (Fragment::First, L4::Udp));
        for more in [true, false] {
            let frame = start(Frame::new())
                .fragment(64, more)
                .udp(1, 2)
                .payload(&[0; 16])
                .build();
            let later = parse(&frame);
            assert_eq!(
                (later.fragment, later.l4, later.proto),
                (Fragment::Later, L4::None, ipproto::UDP)
            );
            assert_eq!(later.src_port(&frame), None);
        }
    }
}

#[test]
fn tunnels_are_recognised_by_their_outer_header() {
    let kinds = [
        (Frame::new().ipv4([1; 4], [2; 4]).ipv4([3; 4], [4; 4]), L4::Ipip),
        (Frame::new().ipv4([1; 4], [2; 4]).ipv6(A6, B6), L4::Ip6inIp),
        (Frame::new().ipv6(A6, B6).ipv6(B6, A6), L4::Ip6inIp),
        (Frame::new().ipv6(A6, B6).ipv4([3; 4], [4; 4]), L4::Ipip),
    ];
    for (frame, kind) in kinds {
        assert_eq!(parse(&frame.tcp(1, 2).build()).l4, kind);
    }
    let gre = Frame::new()
        .ipv4([1; 4], [2; 4])
        .proto(ipproto::GRE)
        .payload(&[0; 8])
        .build();
    assert_eq!(parse(&gre).l4, L4::Gre);
    let vxlan = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(5555, 4789)
        .payload(&[0; 8])
        .build();
    assert!(parse(&vxlan).is_vxlan(&vxlan));
}

#[test]
fn arp_icmp_and_unknown_ethertypes() {
    let arp = Frame::arp(1, ([2; 6], [10, 0, 0, 1]), ([0; 6], [10, 0, 0, 2])).build();
    assert_eq!(
        (parse(&arp).l3, arp.len(), &arp[..6]),
        (L3::Arp, 42, &[0xff; 6][..])
    );
    assert_eq!(
        parse(&Frame::new().ipv4([1; 4], [2; 4]).ping(1, 1).build()).l4,
        L4::Icmp
    );
    assert_eq!(
        parse(&Frame::new().ipv6(A6, B6).ping(1, 1).build()).l4,
        L4::Icmpv6
    );
    assert_eq!(
        parse(&Frame::new().ethertype(0x88cc).payload(&[0; 50]).build()).l3,
        L3::None
    );
}

#[test]
fn headers_that_lie_are_not_believed() {
    let good = Frame::new().ipv4([1; 4], [2; 4]).tcp(1, 2).build();
    let spoil = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        parse(&frame)
    };
    assert_eq!(spoil(14, 0x65).l3, L3::None, "version 6 in an IPv4 frame");
    assert_eq!(spoil(14, 0x44).l3, L3::None, "a header of 16 bytes");
    assert_eq!(
        spoil(17, 19).l3,
        L3::None,
        "a total length shorter than the header"
    );
    assert!(spoil(17, 200).truncated, "a total length beyond the frame");
    assert_eq!(spoil(46, 0x40).l4, L4::None, "a TCP header of 16 bytes");
    assert_eq!(spoil(46, 0xf0).l4, L4::None, "a TCP header beyond the packet");
}

proptest! {
    #[test]
    fn noise_never_panics_and_offsets_stay_inside(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4u8,
    ) {
        if frame.len() > 40 {
            match kind {
                0 => frame[12..15].copy_from_slice(&[8, 0, 0x45]),
                1 => frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                2 => frame[12..19].copy_from_slice(&[0x81, 0, 0, 1, 8, 0, 0x46]),
                _ => {}
            }
        }
        let p = parse(&frame);
        prop_assert!(p.l2_len <= frame.len() && p.ip_end <= frame.len());
        prop_assert!(p.l2_len + p.l3_len <= frame.len());
        prop_assert!(p.l4 == L4::None || p.l4_off + p.l4_len <= p.ip_end);
        let _ = (p.payload(&frame), p.src_addr(&frame), p.dst_port(&frame), p.header_len());
        let _ = super::super::checksum::verify_ip(&frame, &p);
        let _ = super::super::checksum::verify_l4(&frame, &p);
        let _ = super::super::checksum::verify_icmp(&frame, &p);
        super::super::checksum::fill_l4(&mut frame, &p);
        super::super::checksum::fill_ip(&mut frame, &p);
    }

    #[test]
    fn every_truncation_is_survived_and_noticed(frame in any_frame(), cut: prop::sample::Index) {
        let frame = frame.build();
        let whole = parse(&frame);
        prop_assert!(!whole.truncated);
        let cut = &frame[..cut.index(frame.len())];
        let p = parse(cut);
        prop_assert!(p.truncated, "cut to {} of {}", cut.len(), frame.len());
        prop_assert_ne!(super::super::checksum::verify_l4(cut, &p), super::super::ChecksumStatus::Good);
    }

    #[test]
    fn built_frames_are_parsed_as_built(frame in any_frame()) {
        let bytes = frame.build();
        let p = parse(&bytes);
        prop_assert!(p.has_ports() && p.is_ip());
        prop_assert_eq!(p.ip_end, bytes.len());
    }
}
