use super::super::MAX_FRAME;
use super::super::inbox::{HEADROOM, Inbox};
use crate::packet::build::Frame;
use crate::packet::segment::tcp_flags::{ACK, CWR, FIN, PSH};
use crate::packet::{ChecksumStatus, Tag, checksum, parse};

const NEEDS_CSUM: u8 = 1;
const A6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];

/// A datagram as the kernel hands it over.
#[derive(Default)]
struct Datagram {
    frame: Vec<u8>,
    flags: u8,
    gso: (u8, u16),
    csum: (u16, u16),
    tag: Option<Tag>,
}

/// What the inbox makes of datagrams.
fn receive(datagrams: &[Datagram]) -> (Vec<Vec<u8>>, Inbox) {
    let mut inbox = Inbox::for_gso(datagrams.len());
    for (slot, datagram) in inbox.slots.iter_mut().zip(datagrams) {
        slot.header[0] = datagram.flags;
        slot.header[1] = datagram.gso.0;
        slot.header[4..6].copy_from_slice(&datagram.gso.1.to_ne_bytes());
        slot.header[6..8].copy_from_slice(&datagram.csum.0.to_ne_bytes());
        slot.header[8..10].copy_from_slice(&datagram.csum.1.to_ne_bytes());
        slot.bytes[HEADROOM..HEADROOM + datagram.frame.len()].copy_from_slice(&datagram.frame);
        slot.len = datagram.frame.len();
        slot.tag = datagram.tag;
    }
    inbox.filled(datagrams.len());
    let mut frames = Vec::new();
    while let Some(ready) = inbox.advance() {
        frames.push(inbox.frame(ready).to_vec());
    }
    (frames, inbox)
}

fn l4_status(frame: &[u8]) -> ChecksumStatus {
    checksum::verify_l4(frame, &parse(frame))
}

#[test]
fn a_partial_checksum_is_finished() {
    let frame = Frame::new().ipv4([1; 4], [2; 4]).tcp(1, 2).payload(b"data");
    let partial = Datagram {
        frame: frame.clone().partial_l4_checksum(true).build(),
        flags: NEEDS_CSUM,
        csum: (34, 16),
        ..Datagram::default()
    };
    let (frames, inbox) = receive(&[partial]);
    assert_eq!(frames, [frame.build()]);
    assert_eq!(inbox.counters.recv_checksums, 1);
}

#[test]
fn a_wrong_checksum_stays_wrong_and_is_reported_as_wrong() {
    let frame = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(1, 2)
        .payload(b"data")
        .bad_l4_checksum()
        .build();
    let (frames, _) = receive(&[Datagram {
        frame: frame.clone(),
        ..Datagram::default()
    }]);
    assert_eq!(frames, std::slice::from_ref(&frame));
    assert_eq!(l4_status(&frames[0]), ChecksumStatus::Bad);
}

#[test]
fn a_stripped_tag_goes_back_in_also_where_a_checksum_is_to_finish() {
    let tag = Tag {
        tpid: 0x88a8,
        tci: 0x2005,
    };
    let frame = Frame::new().ipv6(A6, A6).udp(1, 2).payload(b"data");
    let datagram = Datagram {
        frame: frame.clone().partial_l4_checksum(true).build(),
        flags: NEEDS_CSUM,
        csum: (54, 6),
        tag: Some(tag),
        ..Datagram::default()
    };
    let (frames, inbox) = receive(&[datagram]);
    assert_eq!(frames, [frame.tag(tag).build()]);
    assert_eq!(l4_status(&frames[0]), ChecksumStatus::Good);
    assert_eq!(inbox.counters.recv_tags, 1);
}

#[test]
fn gso_frames_come_out_as_segments_in_order_among_other_frames() {
    let small = Frame::new().ipv4([1; 4], [2; 4]).udp(9, 9).build();
    let payload: Vec<u8> = (0..64_000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
    let big = Frame::new()
        .ipv4([1; 4], [2; 4])
        .tcp(1, 2)
        .flags(ACK | PSH | FIN | CWR)
        .payload(&payload);
    let tag = Tag::new(77);
    let datagrams = [
        Datagram {
            frame: small.clone(),
            ..Datagram::default()
        },
        Datagram {
            frame: big.partial_l4_checksum(true).build(),
            flags: NEEDS_CSUM,
            gso: (0x81, 1448), // TCPv4 with ECN
            csum: (34, 16),
            tag: Some(tag),
        },
        Datagram {
            frame: small.clone(),
            ..Datagram::default()
        },
    ];
    let (frames, inbox) = receive(&datagrams);
    assert_eq!((&frames[0], frames.last()), (&small, Some(&small)));
    let segments = &frames[1..frames.len() - 1];
    assert_eq!(segments.len(), 64_000usize.div_ceil(1448));
    let mut whole = Vec::new();
    for segment in segments {
        let p = parse(segment);
        assert_eq!(p.tags(), [tag]);
        assert!(segment.len() <= 14 + 4 + 40 + 1448);
        assert_eq!(l4_status(segment), ChecksumStatus::Good);
        whole.extend_from_slice(p.payload(segment));
    }
    assert_eq!(whole, payload);
    assert_eq!(
        (inbox.counters.recv_gso, inbox.counters.recv_frames),
        (1, frames.len() as u64)
    );
}

#[test]
fn udp_gso_is_cut_in_both_families() {
    for v6 in [false, true] {
        let frame = if v6 {
            Frame::new().ipv6(A6, A6)
        } else {
            Frame::new().ipv4([1; 4], [2; 4])
        };
        let frame = frame
            .udp(1, 2)
            .payload(&[7; 3000])
            .partial_l4_checksum(true)
            .build();
        let l4 = if v6 { 54 } else { 34 };
        let datagram = Datagram {
            frame,
            flags: NEEDS_CSUM,
            gso: (5, 1200),
            csum: (l4, 6),
            ..Datagram::default()
        };
        let (frames, _) = receive(&[datagram]);
        let lens: Vec<usize> = frames
            .iter()
            .map(|frame| parse(frame).payload(frame).len())
            .collect();
        assert_eq!(lens, [1200, 1200, 600]);
        assert!(
            frames
                .iter()
                .all(|frame| l4_status(frame) == ChecksumStatus::Good)
        );
    }
}

#[test]
fn what_cannot_be_a_wire_frame_is_dropped_and_counted() {
    let udp = Frame::new()
        .ipv4([1; 4], [2; 4])
        .udp(1, 2)
        .payload(&[0; 3000])
        .build();
    let gso = |kind, size| Datagram {
        frame: udp.clone(),
        gso: (kind, size),
        ..Datagram::default()
    };
    let datagrams = [
        gso(1, 1000), // TCP said, UDP carried
        gso(5, 0),    // no segment size
        gso(3, 1000), // IP fragmentation offload, gone since Linux 4.14
        Datagram {
            frame: vec![0; 100],
            gso: (1, 10),
            ..Datagram::default()
        },
        gso(5, 16_000), // fits nothing to cut, but promises segments beyond the limit
        Datagram {
            frame: vec![0; MAX_FRAME + 1],
            ..Datagram::default()
        },
        Datagram {
            frame: vec![0; 13],
            ..Datagram::default()
        },
        Datagram {
            frame: udp.clone(),
            flags: NEEDS_CSUM,
            csum: (4000, 6),
            ..Datagram::default()
        },
    ];
    let (frames, inbox) = receive(&datagrams);
    assert_eq!(frames, Vec::<Vec<u8>>::new());
    let c = inbox.counters;
    assert_eq!(
        (c.drop_gso, c.drop_oversize, c.drop_runt, c.drop_checksum),
        (4, 2, 1, 1)
    );
}

#[test]
fn the_longest_frame_passes_with_and_without_a_tag() {
    let frame = Datagram {
        frame: vec![0; MAX_FRAME],
        ..Datagram::default()
    };
    let tagged = Datagram {
        frame: vec![0; MAX_FRAME - 4],
        tag: Some(Tag::new(1)),
        ..Datagram::default()
    };
    let (frames, _) = receive(&[frame, tagged]);
    assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_FRAME; 2]);
}
