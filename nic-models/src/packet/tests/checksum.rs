use super::super::checksum::*;
use super::super::{ChecksumStatus, L4, parse};
use super::*;

/// RFC 1071 as it reads, a word at a time.
fn reference(data: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn rfc_1071_example() {
    // Section 3: the sum of 00 01 f2 03 f4 f5 f6 f7 is ddf2.
    assert_eq!(
        checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
}

#[test]
fn a_known_ipv4_header() {
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];
    assert_eq!(checksum(&header), 0);
}

#[test]
fn a_wrong_checksum_is_reported_as_wrong() {
    for v6 in [false, true] {
        let ip = |frame: Frame| {
            if v6 {
                frame.ipv6(A6, B6)
            } else {
                frame.ipv4([1; 4], [2; 4])
            }
        };
        for l4 in [L4::Tcp, L4::Udp, L4::Sctp] {
            let frame = match l4 {
                L4::Tcp => ip(Frame::new()).tcp(1, 2),
                L4::Udp => ip(Frame::new()).udp(1, 2),
                _ => ip(Frame::new()).sctp(1, 2),
            };
            let frame = frame.payload(b"payload");
            let (good, bad) = (frame.build(), frame.clone().bad_l4_checksum().build());
            assert_eq!(
                verify_l4(&good, &parse(&good)),
                ChecksumStatus::Good,
                "{l4:?} v6 {v6}"
            );
            assert_eq!(
                verify_l4(&bad, &parse(&bad)),
                ChecksumStatus::Bad,
                "{l4:?} v6 {v6}"
            );
        }
        let ping = ip(Frame::new()).ping(1, 2).payload(b"x");
        let (good, bad) = (ping.build(), ping.clone().bad_l4_checksum().build());
        assert_eq!(verify_icmp(&good, &parse(&good)), ChecksumStatus::Good);
        assert_eq!(verify_icmp(&bad, &parse(&bad)), ChecksumStatus::Bad);
        assert_eq!(verify_l4(&good, &parse(&good)), ChecksumStatus::None);
    }
    let bad = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(1, 2)
        .bad_ip_checksum()
        .build();
    assert_eq!(verify_ip(&bad, &parse(&bad)), ChecksumStatus::Bad);
}

#[test]
fn udp_without_a_checksum_is_fine_in_ipv4_only() {
    let v4 = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(1, 2)
        .no_udp_checksum()
        .build();
    assert_eq!(verify_l4(&v4, &parse(&v4)), ChecksumStatus::None);
    let v6 = Frame::new().ipv6(A6, B6).udp(1, 2).no_udp_checksum().build();
    assert_eq!(verify_l4(&v6, &parse(&v6)), ChecksumStatus::Bad);
}

#[test]
fn fragments_have_no_checksum_to_check() {
    let frame = Frame::new()
        .ipv4([1; 4], [2; 4])
        .fragment(0, true)
        .udp(1, 2)
        .payload(&[0; 8])
        .build();
    assert_eq!(verify_l4(&frame, &parse(&frame)), ChecksumStatus::None);
}

#[test]
fn a_udp_length_beyond_the_packet_is_bad() {
    let mut frame = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(1, 2)
        .payload(&[0; 8])
        .build();
    frame[39] += 1;
    assert_eq!(verify_l4(&frame, &parse(&frame)), ChecksumStatus::Bad);
    frame[39] = 7;
    assert_eq!(verify_l4(&frame, &parse(&frame)), ChecksumStatus::Bad);
}

#[test]
fn a_partial_checksum_outside_the_frame_is_an_error() {
    let mut frame = Frame::new().ipv4([1; 4], [2; 4]).udp(1, 2).build();
    let before = frame.clone();
    for (start, offset) in [(34, 7), (41, 0), (43, 0), (usize::MAX, 1), (0, usize::MAX)] {
        let error = finish_checksum(&mut frame, start, offset).unwrap_err();
        assert_eq!((error.start, error.offset), (start, offset));
    }
    assert_eq!(frame, before);
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    // Search a payload whose checksum comes out as zero; one word of payload reaches every value.
    let found = (0..=0xffffu16).find_map(|word| {
        let frame = Frame::new()
            .ipv4([1; 4], [2; 4])
            .udp(1, 2)
            .payload(&word.to_be_bytes())
            .build();
        (frame[40..42] == [0xff, 0xff]).then_some(frame)
    });
    let frame = found.unwrap();
    assert_eq!(verify_l4(&frame, &parse(&frame)), ChecksumStatus::Good);
}

proptest! {
    #[test]
    fn the_fast_sum_agrees_with_the_rfc(data in proptest::collection::vec(any::<u8>(), 0..400), ones: bool) {
        let data = if ones { vec![0xff; data.len()] } else { data };
        prop_assert_eq!(checksum(&data), reference(&data));
    }

    #[test]
    fn sums_of_pieces_add_up(data in proptest::collection::vec(any::<u8>(), 0..400), at in 0..200usize) {
        let at = (at * 2).min(data.len() & !1);
        prop_assert_eq!(finish(sum(&data[..at]) + sum(&data[at..])), reference(&data));
    }

    #[test]
    fn built_checksums_verify(frame in any_frame()) {
        let bytes = frame.build();
        let p = parse(&bytes);
        prop_assert_ne!(verify_ip(&bytes, &p), ChecksumStatus::Bad);
        prop_assert_eq!(verify_l4(&bytes, &p), ChecksumStatus::Good);
    }

    #[test]
    fn finishing_a_partial_checksum_gives_what_computing_it_gives(frame in any_frame()) {
        let good = frame.clone().build();
        let p = parse(&good);
        prop_assume!(p.l4 != L4::Sctp);
        let mut partial = frame.partial_l4_checksum(true).build();
        finish_checksum(&mut partial, p.l4_off, l4_field(p.l4).unwrap()).unwrap();
        prop_assert_eq!(verify_l4(&partial, &p), ChecksumStatus::Good);
        if p.l4 == L4::Udp {
            prop_assert_eq!(partial, good);
        }
    }

    #[test]
    fn filling_repairs_any_checksum(frame in any_frame(), junk: u16) {
        let mut bytes = frame.build();
        let p = parse(&bytes);
        let at = p.l4_off + l4_field(p.l4).unwrap();
        bytes[at..at + 2].copy_from_slice(&junk.to_be_bytes());
        prop_assert!(fill_l4(&mut bytes, &p));
        prop_assert_eq!(verify_l4(&bytes, &p), ChecksumStatus::Good);
    }
}
