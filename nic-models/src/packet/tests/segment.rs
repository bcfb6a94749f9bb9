use super::super::segment::{tcp_flags::*, *};
use super::super::{ChecksumStatus, be16, checksum, parse};
use super::*;

/// Segments of a frame, each already checked for its checksums and lengths.
fn cut(frame: &[u8], gso: &Gso) -> Vec<Vec<u8>> {
    let (mut buf, mut all) = (Vec::new(), Vec::new());
    let count = segment(frame, gso, &mut buf, |segment| all.push(segment.to_vec())).unwrap();
    assert_eq!(count, all.len());
    for segment in &all {
        let p = parse(segment);
        assert!(!p.truncated);
        assert_eq!(p.ip_end, segment.len());
        assert_ne!(checksum::verify_ip(segment, &p), ChecksumStatus::Bad);
        assert_eq!(checksum::verify_l4(segment, &p), ChecksumStatus::Good);
    }
    all
}

fn tcp_word(frame: &[u8]) -> u16 {
    be16(frame, parse(frame).l4_off + 12).unwrap() & 0xfff
}

fn tcp_seq(frame: &[u8]) -> u32 {
    let at = parse(frame).l4_off + 4;
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

#[test]
fn fin_and_psh_stay_on_the_last_segment_and_cwr_on_the_first() {
    let flags = ACK | PSH | FIN | CWR | ECE;
    let big = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .flags(flags)
        .payload(&[9; 2500])
        .build();
    let segments = cut(&big, &Gso::of_frame(&big, 1000).unwrap());
    let words: Vec<u16> = segments.iter().map(|segment| tcp_word(segment)).collect();
    assert_eq!(words, [ACK | CWR | ECE, ACK | ECE, ACK | PSH | FIN | ECE]);
}

#[test]
fn flag_masks_of_the_82599_are_obeyed() {
    let big = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .flags(0xfff)
        .payload(&[9; 300])
        .build();
    let mut gso = Gso::of_frame(&big, 100).unwrap();
    gso.flags = TcpFlagMasks {
        first: 0xff6,
        middle: 0xf76,
        last: 0xf7f,
    };
    let words: Vec<u16> = cut(&big, &gso).iter().map(|segment| tcp_word(segment)).collect();
    assert_eq!(words, [0xff6, 0xf76, 0xf7f]);
}

#[test]
fn ip_identification_counts_up_and_wraps() {
    let big = Frame::new()
        .ipv4([1; 4], [2; 4])
        .ip_id(0xffff)
        .tcp(1, 2)
        .payload(&[9; 300])
        .build();
    let ids: Vec<u16> = cut(&big, &Gso::of_frame(&big, 100).unwrap())
        .iter()
        .map(|s| be16(s, 18).unwrap())
        .collect();
    assert_eq!(ids, [0xffff, 0, 1]);
}

#[test]
fn tcp_sequence_numbers_advance_and_wrap() {
    let big = Frame::new()
        .ipv6(A6, B6)
        .tcp(1, 2)
        .seq(u32::MAX - 50, 3)
        .payload(&[9; 250])
        .build();
    let segments = cut(&big, &Gso::of_frame(&big, 100).unwrap());
    assert_eq!(
        segments.iter().map(|s| tcp_seq(s)).collect::<Vec<_>>(),
        [u32::MAX - 50, 49, 149]
    );
}

#[test]
fn a_packet_that_fits_comes_out_whole_with_its_checksum_finished() {
    let frame = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .flags(ACK | FIN | PSH | CWR)
        .payload(&[5; 100]);
    let partial = frame.clone().partial_l4_checksum(true).build();
    let segments = cut(&partial, &Gso::of_frame(&partial, 1448).unwrap());
    assert_eq!(segments, [frame.build()]);
}

#[test]
fn headers_alone_make_one_segment() {
    let frame = Frame::new().ipv4([1; 4], [2; 4]).tcp(1, 2).build();
    assert_eq!(cut(&frame, &Gso::of_frame(&frame, 1448).unwrap()), [frame]);
}

#[test]
fn a_seeded_checksum_uses_what_the_sender_put_into_the_field() {
    let frame = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .payload(&[9; 250])
        .partial_l4_checksum(false)
        .build();
    let mut gso = Gso::of_frame(&frame, 100).unwrap();
    gso.l4_checksum = L4Checksum::SeedWithoutLength;
    assert_eq!(cut(&frame, &gso).len(), 3);
    let mut wrong = frame.clone();
    wrong[50] ^= 1;
    let (mut buf, mut bad) = (Vec::new(), 0);
    segment(&wrong, &gso, &mut buf, |s| {
        bad += usize::from(checksum::verify_l4(s, &parse(s)) == ChecksumStatus::Bad);
    })
    .unwrap();
    assert_eq!(bad, 3, "a driver's wrong pseudo header sum must show on the wire");
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let tcp = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .payload(&[0; 9])
        .build();
    assert_eq!(Gso::of_frame(&tcp, 0), Err(SegmentError::ZeroMss));
    let ping = Frame::new().ipv4([1; 4], [2; 4]).ping(1, 1).build();
    assert_eq!(Gso::of_frame(&ping, 9), Err(SegmentError::Protocol));
    let good = Gso::of_frame(&tcp, 9).unwrap();
    for gso in [
        Gso { l4_off: 33, ..good },
        Gso {
            payload_off: 53,
            ..good
        },
        Gso {
            payload_off: 64,
            ..good
        },
        Gso {
            l3_off: usize::MAX,
            ..good
        },
        Gso { ipv6: true, ..good },
    ] {
        assert!(
            matches!(Segments::new(gso, &tcp), Err(SegmentError::Headers { .. })),
            "{gso:?}"
        );
    }
    let huge = [&tcp[..], &[0; 70_000]].concat();
    let gso = Gso { mss: 69_000, ..good };
    assert_eq!(
        Segments::new(gso, &huge).unwrap_err(),
        SegmentError::TooBig { mss: 69_000 }
    );
}

proptest! {
    #[test]
    fn segments_put_together_are_what_was_cut(
        payload in proptest::collection::vec(any::<u8>(), 0..5000),
        mss in 1..1500usize, v6: bool, udp: bool, tagged: bool, options in 0..12usize, seq: u32,
    ) {
        let mut frame = Frame::new();
        if tagged { frame = frame.vlan(100); }
        frame = if v6 { frame.ipv6(A6, B6) } else { frame.ipv4([10, 0, 0, 1], [10, 0, 0, 2]) };
        frame = frame.options(&vec![1; options]);
        frame = if udp { frame.udp(5, 6) } else { frame.tcp(5, 6).tcp_options(&vec![1; options]).seq(seq, 1) };
        let mss = mss.max(payload.len() / 200);
        let big = frame.payload(&payload).build();
        let segments = cut(&big, &Gso::of_frame(&big, mss).unwrap());
        let mut whole = Vec::new();
        for (i, one) in segments.iter().enumerate() {
            let p = parse(one);
            let data = p.payload(one);
            prop_assert!(data.len() == mss || i + 1 == segments.len());
            if !udp {
                prop_assert_eq!(tcp_seq(one), seq.wrapping_add(whole.len() as u32));
            }
            prop_assert_eq!(&one[..p.l2_len], &big[..p.l2_len]);
            whole.extend_from_slice(data);
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn noise_never_panics(
        frame in proptest::collection::vec(any::<u8>(), 0..300),
        l3_off in 0..100usize, l4_off in 0..100usize, payload_off in 0..150usize, ipv6: bool, udp: bool, mss in 0..300usize,
    ) {
        let flags = TcpFlagMasks::default();
        let gso = Gso { l3_off, l4_off, payload_off, ipv6, udp, mss, flags, l4_checksum: L4Checksum::Compute };
        let mut total = 0;
        if segment(&frame, &gso, &mut Vec::new(), |s| total += s.len() - payload_off).is_ok() {
            prop_assert_eq!(total, frame.len() - payload_off);
        }
    }
}
