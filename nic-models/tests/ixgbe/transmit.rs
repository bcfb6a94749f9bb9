//! Frames from memory to the wire: gathering, checksums, VLAN, segmentation, write-back, lying descriptors.

use millrace_nic_models::ixgbe::desc::rx::status;
use millrace_nic_models::ixgbe::desc::tx::{self, Context, Data, Legacy, cmd, popts, tucmd};
use millrace_nic_models::ixgbe::regs::{self, dmatxctl, hlreg0, tdwbal};
use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::packet::checksum::{self, Status};
use millrace_nic_models::packet::{self, L4};

use crate::rig::{MAC, PEER, Rig, SCRATCH, from_port};

fn data(addr: u64, len: usize, cmd: u8) -> Data {
    Data {
        addr,
        len: len as u16,
        cmd,
        paylen: len as u32,
        ..Data::default()
    }
}

const LAST: u8 = cmd::EOP | cmd::RS | cmd::IFCS;

fn is_done(rig: &Rig, i: u32) -> bool {
    rig.descriptor(Rig::tx_descriptor(0, i))[1] & tx::DD != 0
}

fn assert_good(frame: &[u8]) {
    let p = packet::parse(frame);
    assert!(
        matches!(checksum::verify_ip(frame, &p), Status::Good | Status::None),
        "IP checksum of {frame:02x?}"
    );
    assert_eq!(
        checksum::verify_l4(frame, &p),
        Status::Good,
        "L4 checksum of {frame:02x?}"
    );
}

#[test]
fn a_frame_goes_out_and_the_descriptor_is_done() {
    let mut rig = Rig::running(1, 8);
    let frame = from_port().udp(1, 2).payload(&[3; 80]).build();
    rig.store(SCRATCH, &frame);
    rig.transmit(0, 0, &[data(SCRATCH, frame.len(), LAST).encode()]);
    assert_eq!(rig.sent(), [frame]);
    assert!(is_done(&rig, 0));
    assert_eq!(rig.peek(regs::TDH, 0), 1);
}

#[test]
fn only_descriptors_that_ask_are_reported_done() {
    let mut rig = Rig::running(1, 8);
    let frame = from_port().udp(1, 2).payload(&[3; 80]).build();
    rig.store(SCRATCH, &frame);
    let quiet = data(SCRATCH, frame.len(), cmd::EOP).encode();
    rig.transmit(0, 0, &[quiet, quiet, data(SCRATCH, frame.len(), LAST).encode()]);
    assert_eq!(rig.sent().len(), 3);
    assert_eq!([0, 1, 2].map(|i| is_done(&rig, i)), [false, false, true]);
}

#[test]
fn a_frame_is_gathered_from_many_descriptors_even_across_doorbells() {
    let mut rig = Rig::running(1, 16);
    let payload: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
    let frame = from_port().udp(1, 2).payload(&payload).build();
    rig.store(SCRATCH, &frame);
    let cuts = [0, 14, 42, 43, 4000, frame.len()];
    let descriptors: Vec<_> = cuts
        .windows(2)
        .map(|cut| {
            let last = if cut[1] == frame.len() { LAST } else { 0 };
            data(SCRATCH + cut[0] as u64, cut[1] - cut[0], last).encode()
        })
        .collect();
    rig.transmit(0, 0, &descriptors[..2]);
    assert!(rig.sent().is_empty(), "not yet");
    rig.transmit(0, 2, &descriptors[2..]);
    assert_eq!(rig.sent(), [frame]);
}

#[test]
fn a_short_frame_is_padded_to_60_bytes() {
    let mut rig = Rig::running(1, 8);
    let frame = from_port().udp(1, 2).payload(b"x").build();
    rig.store(SCRATCH, &frame);
    rig.transmit(0, 0, &[data(SCRATCH, frame.len(), LAST).encode()]);
    let sent = rig.sent();
    assert_eq!(sent[0].len(), 60);
    assert_eq!(&sent[0][..frame.len()], &frame[..]);
}

#[test]
fn the_ring_wraps_many_times() {
    let mut rig = Rig::running(1, 8);
    for n in 0..100u32 {
        let frame = from_port().udp(1, 2).payload(&[n as u8; 64]).build();
        rig.store(SCRATCH, &frame);
        let at = n % 8;
        rig.set_descriptor(
            Rig::tx_descriptor(0, at),
            data(SCRATCH, frame.len(), LAST).encode(),
        );
        rig.write(regs::TDT, 0, (at + 1) % 8);
        rig.settle();
        assert!(is_done(&rig, at));
        assert_eq!(rig.sent(), [frame], "frame {n}");
    }
    assert_eq!(rig.read(regs::GPTC), 100);
}

#[test]
fn head_write_back_replaces_done_bits() {
    let mut rig = Rig::running(1, 8);
    let head = SCRATCH + 0x1_0000;
    rig.write(regs::TDWBAH, 0, 0);
    rig.write(regs::TDWBAL, 0, head as u32 | tdwbal::HEAD_WB_EN);
    let frame = from_port().udp(1, 2).payload(&[3; 80]).build();
    rig.store(SCRATCH, &frame);
    let descriptor = data(SCRATCH, frame.len(), LAST).encode();
    rig.transmit(0, 0, &[descriptor, descriptor]);
    assert_eq!(rig.load(head, 4), 2u32.to_le_bytes());
    assert!(!is_done(&rig, 1));
}

/// The L4 field holds the pseudo header's sum, as drivers leave it; `length` says whether the length is in it.
fn with_seed(frame: Frame, length: bool) -> Vec<u8> {
    frame.partial_l4_checksum(length).build()
}

#[test]
fn checksums_are_inserted_for_ipv4_and_ipv6_and_tcp_udp_and_sctp() {
    let v6 = || {
        Frame::new()
            .macs(MAC, PEER)
            .ipv6(std::net::Ipv6Addr::LOCALHOST, std::net::Ipv6Addr::LOCALHOST)
    };
    let payload = [0x31; 333];
    let cases = [
        (
            with_seed(from_port().tcp(1, 2).payload(&payload), true),
            20,
            tucmd::IPV4 | tucmd::L4T_TCP,
        ),
        (
            with_seed(from_port().udp(1, 2).payload(&payload), true),
            20,
            tucmd::IPV4 | tucmd::L4T_UDP,
        ),
        (
            from_port().sctp(1, 2).bad_l4_checksum().payload(&payload).build(),
            20,
            tucmd::IPV4 | tucmd::L4T_SCTP,
        ),
        (
            with_seed(v6().tcp(1, 2).payload(&payload), true),
            40,
            tucmd::L4T_TCP,
        ),
        (
            with_seed(v6().udp(1, 2).payload(&payload), true),
            40,
            tucmd::L4T_UDP,
        ),
    ];
    for (mut frame, ip_len, kind) in cases {
        let mut rig = Rig::running(1, 8);
        let v4 = kind & tucmd::IPV4 != 0;
        if v4 {
            frame[24..26].fill(0xee); // the field's old content does not matter
        }
        assert_ne!(checksum::verify_l4(&frame, &packet::parse(&frame)), Status::Good);
        rig.store(SCRATCH, &frame);
        let context = Context {
            mac_len: 14,
            ip_len,
            tucmd: kind,
            idx: 1,
            ..Context::default()
        };
        let options = popts::TXSM | if v4 { popts::IXSM } else { 0 };
        let descriptor = Data {
            popts: options,
            idx: 1,
            cc: true,
            ..data(SCRATCH, frame.len(), LAST)
        };
        rig.transmit(0, 0, &[context.encode(), descriptor.encode()]);
        let sent = rig.sent();
        assert_eq!(sent.len(), 1);
        assert_good(&sent[0]);
        assert_eq!(rig.counter("tx_checksummed"), 1);
    }
}

#[test]
fn vlan_tags_are_inserted_from_the_context_and_from_legacy_descriptors() {
    let mut rig = Rig::running(1, 8);
    let frame = from_port().udp(1, 2).payload(&[3; 80]).build();
    let tagged = from_port().vlan(0x6042).udp(1, 2).payload(&[3; 80]).build();
    rig.store(SCRATCH, &frame);
    let context = Context {
        vlan: 0x6042,
        mac_len: 14,
        ..Context::default()
    };
    let legacy = Legacy {
        addr: SCRATCH,
        len: frame.len() as u16,
        cmd: LAST | cmd::VLE,
        vlan: 0x6042,
        ..Legacy::default()
    };
    rig.transmit(
        0,
        0,
        &[
            context.encode(),
            data(SCRATCH, frame.len(), LAST | cmd::VLE).encode(),
            legacy.encode(),
        ],
    );
    assert_eq!(rig.sent(), [tagged.clone(), tagged]);
    assert_eq!((rig.counter("tx_tagged"), rig.counter("tx_checksummed")), (2, 0));
}

#[test]
fn legacy_descriptors_insert_one_checksum() {
    let mut rig = Rig::running(1, 8);
    let frame = with_seed(from_port().tcp(1, 2).payload(&[7; 99]), true);
    rig.store(SCRATCH, &frame);
    let legacy = Legacy {
        addr: SCRATCH,
        len: frame.len() as u16,
        cmd: LAST | cmd::IC,
        css: 34,
        cso: 50,
        ..Legacy::default()
    };
    rig.transmit(0, 0, &[legacy.encode()]);
    assert_good(&rig.sent()[0]);
    assert!(is_done(&rig, 0));
}

/// Sends `frame` as a segmentation request in three descriptors.
fn segment(rig: &mut Rig, frame: &[u8], ip_len: u16, kind: u16, l4_len: u8, mss: u16, vlan: Option<u16>) {
    rig.store(SCRATCH, frame);
    let headers = 14 + usize::from(ip_len) + usize::from(l4_len);
    let payload = frame.len() - headers;
    let context = Context {
        mac_len: 14,
        ip_len,
        tucmd: kind,
        l4_len,
        mss,
        vlan: vlan.unwrap_or(0),
        idx: 0,
    };
    let vle = if vlan.is_some() { cmd::VLE } else { 0 };
    let options = popts::TXSM | if kind & tucmd::IPV4 != 0 { popts::IXSM } else { 0 };
    let first = Data {
        popts: options,
        paylen: payload as u32,
        ..data(SCRATCH, headers, cmd::TSE | vle)
    };
    let mut descriptors = vec![context.encode(), first.encode()];
    let mut at = headers;
    while at < frame.len() {
        let n = (frame.len() - at).min(12_000);
        let last = if at + n == frame.len() { LAST } else { 0 };
        descriptors.push(data(SCRATCH + at as u64, n, last | cmd::TSE).encode());
        at += n;
    }
    rig.transmit(0, 0, &descriptors);
}

#[test]
fn tso_cuts_ipv4_into_segments_with_numbers_lengths_flags_and_checksums() {
    let mut rig = Rig::running(1, 64);
    let payload: Vec<u8> = (0..32_000u32).map(|n| (n % 251) as u8).collect();
    // FIN, PSH and ACK.
    let big = with_seed(
        from_port()
            .ip_id(100)
            .tcp(5, 6)
            .seq(1000, 7)
            .flags(0x019)
            .payload(&payload),
        false,
    );
    segment(&mut rig, &big, 20, tucmd::IPV4 | tucmd::L4T_TCP, 20, 1448, None);
    let sent = rig.sent();
    assert_eq!(sent.len(), 32_000usize.div_ceil(1448));
    let mut whole = Vec::new();
    for (n, frame) in sent.iter().enumerate() {
        assert_good(frame);
        let p = packet::parse(frame);
        let last = n + 1 == sent.len();
        assert_eq!(p.l4, L4::Tcp);
        assert_eq!(
            u16::from_be_bytes([frame[18], frame[19]]),
            100 + n as u16,
            "IP id"
        );
        let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert_eq!(seq, 1000 + whole.len() as u32);
        assert_eq!(
            frame[47],
            if last { 0x19 } else { 0x10 },
            "FIN and PSH on the last only"
        );
        whole.extend_from_slice(p.payload(frame));
    }
    assert_eq!(whole, payload);
}

#[test]
fn tso_cuts_ipv6_and_inserts_tags() {
    let mut rig = Rig::running(1, 64);
    let payload = vec![0x44; 10_000];
    let local = std::net::Ipv6Addr::LOCALHOST;
    let big = with_seed(
        Frame::new()
            .macs(MAC, PEER)
            .ipv6(local, local)
            .tcp(5, 6)
            .payload(&payload),
        false,
    );
    segment(&mut rig, &big, 40, tucmd::L4T_TCP, 20, 1000, Some(77));
    let sent = rig.sent();
    assert_eq!(sent.len(), 10);
    assert_eq!((rig.counter("tx_tagged"), rig.counter("tx_segmented")), (1, 1));
    for frame in &sent {
        let p = packet::parse(frame);
        assert_eq!(p.tags().first().map(|tag| tag.tci), Some(77));
        assert_eq!(p.payload(frame).len(), 1000);
        assert_good(frame);
    }
}

#[test]
fn udp_segmentation_gives_each_datagram_its_length() {
    let mut rig = Rig::running(1, 64);
    let big = with_seed(from_port().udp(5, 6).payload(&[9; 5000]), false);
    segment(&mut rig, &big, 20, tucmd::IPV4 | tucmd::L4T_UDP, 8, 1200, None);
    let sent = rig.sent();
    assert_eq!(sent.len(), 5);
    sent.iter().for_each(|frame| assert_good(frame));
    assert_eq!(packet::parse(&sent[4]).payload(&sent[4]).len(), 200);
}

#[test]
fn loopback_returns_frames_to_the_receiver_and_not_to_the_wire() {
    let mut rig = Rig::running(1, 8);
    let control = rig.read(regs::HLREG0);
    rig.write(regs::HLREG0, 0, control | hlreg0::LPBK);
    let frame = Frame::new()
        .macs(MAC, MAC)
        .ipv4([1, 1, 1, 1], [2, 2, 2, 2])
        .udp(1, 2)
        .payload(&[8; 70])
        .build();
    rig.store(SCRATCH, &frame);
    rig.transmit(0, 0, &[data(SCRATCH, frame.len(), LAST).encode()]);
    assert!(rig.sent().is_empty());
    let got = rig.received(0, 0);
    assert_eq!(got[0].0, frame);
    assert_ne!(got[0].1.status_error & status::LB, 0);
}

#[test]
fn nothing_goes_out_with_the_link_down_or_transmit_off() {
    let mut rig = Rig::running(1, 8);
    let frame = from_port().udp(1, 2).payload(&[3; 80]).build();
    rig.store(SCRATCH, &frame);
    let descriptor = data(SCRATCH, frame.len(), LAST).encode();
    let control = rig.read(regs::DMATXCTL);
    rig.write(regs::DMATXCTL, 0, control & !dmatxctl::TE);
    rig.transmit(0, 0, &[descriptor]);
    assert!(!is_done(&rig, 0));
    rig.write(regs::DMATXCTL, 0, control);
    rig.far.lock().unwrap().up = false;
    rig.settle();
    assert!(is_done(&rig, 0), "the ring moves on");
    assert!(rig.sent().is_empty());
    assert_eq!(rig.counter("tx_no_link"), 1);
    assert_eq!(rig.read(regs::GPTC), 0);
}

#[test]
fn transmit_statistics_count_and_clear() {
    let mut rig = Rig::running(1, 8);
    let frame = Frame::new()
        .macs(MAC, [0xff; 6])
        .ipv4([1, 1, 1, 1], [2, 2, 2, 2])
        .udp(1, 2)
        .payload(&[0; 158])
        .build();
    rig.store(SCRATCH, &frame);
    let descriptor = data(SCRATCH, frame.len(), LAST).encode();
    rig.transmit(0, 0, &[descriptor, descriptor]);
    let bytes = 2 * (frame.len() as u32 + 4);
    let counters = [
        regs::GPTC,
        regs::TPT,
        regs::PTC255,
        regs::BPTC,
        regs::MPTC,
        regs::TXDGPC,
    ];
    assert_eq!(counters.map(|reg| rig.read(reg)), [2, 2, 2, 2, 0, 2]);
    assert_eq!(counters.map(|reg| rig.read(reg)), [0; 6]);
    assert_eq!([rig.read(regs::GOTCL), rig.read(regs::GOTCH)], [bytes, 0]);
    assert_eq!([rig.peek(regs::QPTC, 0), rig.peek(regs::QBTCL, 0)], [2, bytes]);
}

#[test]
fn lying_descriptors_stop_their_queue_with_a_count_and_touch_nothing_else() {
    let frame = from_port().tcp(1, 2).payload(&[3; 3000]).build();
    let len = frame.len();
    let context = |ip_len, l4_len, mss| {
        Context {
            mac_len: 14,
            ip_len,
            l4_len,
            mss,
            tucmd: tucmd::IPV4 | tucmd::L4T_TCP,
            ..Context::default()
        }
        .encode()
    };
    let tso = |paylen| {
        Data {
            paylen,
            popts: popts::TXSM,
            ..data(SCRATCH, len, LAST | cmd::TSE)
        }
        .encode()
    };
    let csum = Data {
        popts: popts::TXSM | popts::IXSM,
        ..data(SCRATCH, 40, LAST)
    }
    .encode();
    let cases: Vec<(&str, Vec<[u64; 2]>)> = vec![
        ("a frame of 5 bytes", vec![data(SCRATCH, 5, LAST).encode()]),
        ("an empty frame", vec![data(SCRATCH, 0, LAST).encode()]),
        ("an unknown type", vec![[0, 7 << 20 | 1 << 29]]),
        ("zero segment size", vec![context(20, 20, 0), tso(3000)]),
        (
            "headers longer than the frame",
            vec![
                context(511, 255, 100),
                data(SCRATCH, 100, LAST | cmd::TSE).encode(),
            ],
        ),
        (
            "payload length that is not there",
            vec![context(20, 20, 1000), tso(5000)],
        ),
        ("checksum beyond the end", vec![context(300, 20, 0), csum]),
        (
            "legacy checksum beyond the end",
            vec![
                Legacy {
                    addr: SCRATCH,
                    len: 60,
                    cmd: LAST | cmd::IC,
                    css: 20,
                    cso: 250,
                    ..Legacy::default()
                }
                .encode(),
            ],
        ),
    ];
    for (what, descriptors) in cases {
        let mut rig = Rig::running(2, 16);
        rig.store(SCRATCH, &frame);
        rig.transmit(0, 0, &descriptors);
        assert!(rig.sent().is_empty(), "{what}");
        assert_eq!(rig.counter("tx_malformed"), 1, "{what}");
        // The other queue works, and this one after it was disabled and enabled.
        let good = data(SCRATCH, len, LAST).encode();
        rig.transmit(1, 0, &[good]);
        assert_eq!(rig.sent().len(), 1, "{what}");
        rig.transmit(0, descriptors.len() as u32, &[good]);
        assert!(rig.sent().is_empty(), "{what}: stopped");
        rig.write(regs::TXDCTL, 0, 0);
        rig.start_tx(0, 16);
        rig.transmit(0, 0, &[good]);
        assert_eq!(rig.sent().len(), 1, "{what}: works again");
    }
}

#[test]
fn a_frame_without_end_is_cut_off_at_256_kib() {
    let mut rig = Rig::running(1, 64);
    let descriptor = data(SCRATCH, 15_000, 0).encode();
    rig.transmit(0, 0, &[descriptor; 30]);
    assert_eq!(rig.counter("tx_malformed"), 1);
}

#[test]
fn an_unmapped_address_faults_and_does_nothing_else() {
    use millrace_nic_models::device::Model;
    let mut rig = Rig::running(1, 8);
    rig.transmit(0, 0, &[data(0xdead_0000_0000, 100, LAST).encode()]);
    assert_eq!(rig.counter("tx_dma_faults"), 1);
    assert!(rig.sent().is_empty());
    assert!(!is_done(&rig, 0));
    rig.write(regs::TXDCTL, 0, 0);
    rig.start_tx(0, 8);
    // A doorbell after everything was unmapped.
    rig.nic.dma().unmap_all();
    rig.write(regs::TDT, 0, 3);
    rig.settle();
    assert_eq!(rig.counter("tx_dma_faults"), 2);
    // And with bus mastering off nothing is even tried.
    rig.map_memory();
    rig.write(regs::TXDCTL, 0, 0);
    rig.start_tx(0, 8);
    rig.set_bus_master(false);
    rig.write(regs::TDT, 0, 3);
    rig.settle();
    assert_eq!(rig.counter("tx_dma_faults"), 2);
}

/// What is left of a transmission: frames, statistics, descriptors done, how far the queue got.
fn outcome(no_room: bool, frame: &[u8], descriptors: &[[u64; 2]]) -> (Vec<Vec<u8>>, Vec<u32>, Vec<bool>) {
    let mut rig = Rig::running(1, 16);
    rig.far.lock().unwrap().no_room = no_room;
    rig.store(SCRATCH, frame);
    rig.transmit(0, 0, descriptors);
    let done = (0..descriptors.len() as u32).map(|i| is_done(&rig, i)).collect();
    let registers = [
        regs::GPTC,
        regs::GOTCL,
        regs::TPT,
        regs::PTC64,
        regs::PTC127,
        regs::MPTC,
        regs::BPTC,
        regs::TDH,
    ];
    let mut counts: Vec<u32> = registers.iter().map(|reg| rig.read(*reg)).collect();
    let names = ["tx_frames", "tx_checksummed", "tx_malformed", "tx_dma_faults"];
    counts.extend(names.map(|name| rig.counter(name) as u32));
    (rig.sent(), counts, done)
}

#[test]
fn a_wire_with_room_of_its_own_gets_what_any_other_wire_gets() {
    let frame = from_port().udp(1, 2).no_udp_checksum().payload(&[3; 80]).build();
    let context = Context {
        mac_len: 14,
        ip_len: 20,
        tucmd: tucmd::IPV4 | tucmd::L4T_UDP,
        ..Context::default()
    };
    // Both checksum fields lie outside of so short a frame.
    let nowhere = Context {
        mac_len: 100,
        ..context
    };
    let all = popts::TXSM | popts::IXSM;
    let of = |len: usize, popts: u8, addr: u64| {
        Data {
            popts,
            cc: popts != 0,
            ..data(addr, len, LAST)
        }
        .encode()
    };
    let whole = of(frame.len(), 0, SCRATCH);
    let cases: [(&str, Vec<[u64; 2]>, usize); 9] = [
        ("plain", vec![whole, whole], 2),
        (
            "shorter than any frame on a wire",
            vec![of(20, 0, SCRATCH), whole],
            2,
        ),
        ("no frame at all", vec![whole, of(13, 0, SCRATCH), whole], 1),
        (
            "checksums",
            vec![context.encode(), of(frame.len(), all, SCRATCH)],
            1,
        ),
        (
            "one of them",
            vec![context.encode(), of(frame.len(), popts::IXSM, SCRATCH)],
            1,
        ),
        (
            "checksums nowhere",
            vec![nowhere.encode(), of(60, all, SCRATCH), whole],
            0,
        ),
        ("memory that is not there", vec![whole, of(60, 0, 0x10), whole], 1),
        (
            "gathered between plain ones",
            vec![
                whole,
                data(SCRATCH, 40, 0).encode(),
                of(60, 0, SCRATCH + 40),
                whole,
            ],
            3,
        ),
        ("to everybody", vec![of(60, 0, SCRATCH + 0x1000)], 1),
    ];
    for (name, descriptors, sent) in cases {
        let mut memory = frame.clone();
        memory.resize(0x1000, 0);
        memory.extend([0xff; 60]);
        let with = outcome(false, &memory, &descriptors);
        assert_eq!(with, outcome(true, &memory, &descriptors), "{name}");
        assert_eq!(with.0.len(), sent, "{name}");
    }
}
