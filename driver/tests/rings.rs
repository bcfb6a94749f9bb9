//! The hot path on rings built by hand: the test plays the NIC.

#![cfg(feature = "models")]

use millrace_driver::harness::{Harness, HarnessConfig, Sent, good};
use millrace_driver::queue::{BATCH, MAX_RUN, RxBatch, RxQueue, TxFlags, TxMeta, TxQueue, TxRefused};
use millrace_nic_models::ixgbe::desc::rx::{WriteBack, error, status};
use millrace_nic_models::ixgbe::desc::tx::{cmd, popts, tucmd};

fn setup(rx_ring: u32, tx_ring: u32) -> (Harness, RxQueue, TxQueue) {
    Harness::new(&HarnessConfig {
        rx_ring,
        tx_ring,
        ..HarnessConfig::default()
    })
    .expect("a harness")
}

/// Everything the driver holds is dropped, then the device lets go, and every buffer is home.
fn all_home(harness: Harness, rx: RxQueue, tx: TxQueue, batch: RxBatch) {
    drop(batch);
    let region = harness.region().clone();
    harness.close();
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0, "buffers are lost");
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed))
        .collect()
}

#[test]
fn a_frame_arrives_with_its_bytes_and_its_raw_write_back() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    assert_eq!(rx.poll(&mut batch), 0);
    let bytes = frame(300, 1);
    let wb = WriteBack {
        hash: 0x1234_5678,
        rss_type: 1,
        vlan: 7,
        ..good(0)
    };
    assert!(nic.rx.receive_frame(&bytes, wb).unwrap());
    assert_eq!(rx.poll(&mut batch), 1);
    assert_eq!(batch.data(0), bytes);
    assert_eq!(batch.frame_len(0), 300);
    assert_eq!(batch.data_range(0), Some((256, 300)));
    let expected: Vec<u8> = WriteBack { len: 300, ..wb }
        .encode()
        .iter()
        .flat_map(|q| q.to_le_bytes())
        .collect();
    assert_eq!(batch.raw(0), expected);
    assert_eq!(
        (rx.stats().frames, rx.stats().bytes, rx.stats().bursts),
        (1, 300, 1)
    );
    all_home(nic, rx, tx, batch);
}

#[test]
fn the_ring_wraps_many_times_and_no_frame_is_lost_or_out_of_order() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    let (mut sent, mut seen) = (0u32, 0u32);
    while seen < 64 * 50 {
        for _ in 0..1 + sent % 40 {
            let wb = WriteBack {
                hash: sent,
                ..good(0)
            };
            if !nic.rx.receive_frame(&sent.to_le_bytes(), wb).unwrap() {
                break;
            }
            sent += 1;
        }
        for i in 0..rx.poll(&mut batch) {
            assert_eq!(batch.data(i), seen.to_le_bytes());
            seen += 1;
        }
    }
    assert_eq!(rx.stats().frames, u64::from(seen));
    all_home(nic, rx, tx, batch);
}

#[test]
fn an_empty_ring_gives_nothing_and_keeps_giving_nothing() {
    let (nic, mut rx, mut tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    for _ in 0..200 {
        assert_eq!(rx.poll(&mut batch), 0);
        assert_eq!(tx.submit(), 0);
        assert_eq!(tx.reclaim(), 0);
    }
    assert_eq!(rx.stats(), Default::default());
    assert_eq!(tx.stats(), Default::default());
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_poll_takes_at_most_a_batch() {
    let (mut nic, mut rx, tx) = setup(256, 64);
    let mut batch = RxBatch::new();
    assert_eq!(nic.rx.receive(200, |_| good(60)).unwrap(), 200);
    let polls: Vec<usize> = (0..5).map(|_| rx.poll(&mut batch)).collect();
    assert_eq!(polls, [BATCH, BATCH, BATCH, 200 - 3 * BATCH, 0]);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_frame_over_several_buffers_is_one_run_flagged_more() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    let bytes = frame(9000, 3);
    assert!(nic.rx.receive_frame(&[1; 60], good(0)).unwrap());
    assert!(
        nic.rx
            .receive_frame(&bytes, WriteBack { hash: 99, ..good(0) })
            .unwrap()
    );
    assert!(nic.rx.receive_frame(&[2; 60], good(0)).unwrap());
    assert_eq!(rx.poll(&mut batch), 3);
    assert_eq!(
        (
            batch.frame_buffers(0),
            batch.frame_buffers(1),
            batch.frame_buffers(2)
        ),
        (1, 5, 1)
    );
    assert_eq!(batch.frame_len(1), 9000);
    let whole: Vec<u8> = (0..5).flat_map(|k| batch.chunk(1, k).to_vec()).collect();
    assert!(whole == bytes);
    assert_eq!(batch.data(2), [2; 60]);
    let views: Vec<(usize, bool)> = batch.split_buffers_mut().map(|v| (v.frame, v.more)).collect();
    assert_eq!(
        views,
        [
            (0, false),
            (1, true),
            (1, true),
            (1, true),
            (1, true),
            (1, false),
            (2, false)
        ]
    );
    let heads: Vec<(usize, usize, u8)> = batch
        .split_frames_mut()
        .map(|v| (v.frame, v.len, v.raw[4]))
        .collect();
    assert_eq!(heads, [(0, 60, 0), (1, 2048, 99), (2, 60, 0)]);
    let taken = batch.take(1).expect("the frame");
    assert_eq!(taken.len(), 9000);
    assert!(taken.handles().take(4).all(|h| h.more()));
    assert!(!batch.holds(1));
    drop(taken);
    all_home(nic, rx, tx, batch);
}

#[test]
fn frames_of_several_buffers_arrive_from_every_slot_of_the_ring() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    for n in 0..130u8 {
        // Three slots a round, so that each slot once holds the first buffer, and some frames lie over the ring's end.
        let bytes = frame(4100, n);
        assert!(nic.rx.receive_frame(&bytes, good(0)).unwrap());
        assert_eq!(rx.poll(&mut batch), 1, "frame {n}");
        let whole: Vec<u8> = (0..3).flat_map(|k| batch.chunk(0, k).to_vec()).collect();
        assert!(whole == bytes, "frame {n}");
    }
    all_home(nic, rx, tx, batch);
}

#[test]
fn poll_never_returns_part_of_a_frame() {
    let (mut nic, mut rx, tx) = setup(128, 64);
    let mut batch = RxBatch::new();
    let part = WriteBack {
        status_error: status::DD,
        len: 2048,
        ..WriteBack::default()
    };
    nic.rx.write_back(part.encode()).unwrap();
    assert_eq!(rx.poll(&mut batch), 0);
    nic.rx.write_back(part.encode()).unwrap();
    assert_eq!(rx.poll(&mut batch), 0);
    nic.rx.write_back(good(5).encode()).unwrap();
    assert_eq!(rx.poll(&mut batch), 1);
    assert_eq!((batch.frame_buffers(0), batch.frame_len(0)), (3, 4101));
    // 62 small frames, then one of five buffers: it does not fit and comes whole with the next poll.
    nic.rx.receive(62, |_| good(60)).unwrap();
    nic.rx.receive_frame(&frame(9000, 1), good(0)).unwrap();
    nic.rx.receive(1, |_| good(61)).unwrap();
    assert_eq!(rx.poll(&mut batch), 62);
    assert_eq!(rx.poll(&mut batch), 2);
    assert_eq!((batch.frame_len(0), batch.frame_len(1)), (9000, 61));
    all_home(nic, rx, tx, batch);
}

#[test]
fn rx_ring_survives_a_zero_length_descriptor() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    nic.rx.receive(3, |i| good(if i == 1 { 0 } else { 60 })).unwrap();
    assert_eq!(rx.poll(&mut batch), 2);
    assert_eq!(rx.stats().bad_length, 1);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_descriptor_that_lies_about_its_length_costs_a_counter() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    nic.rx
        .receive(4, |i| good([60, 2049, 65535, 61][i as usize]))
        .unwrap();
    assert_eq!(rx.poll(&mut batch), 2);
    assert_eq!((batch.frame_len(0), batch.frame_len(1)), (60, 61));
    assert_eq!(rx.stats().bad_length, 2);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_lie_in_the_middle_of_a_run_drops_the_whole_frame_and_only_it() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    let part = |len| WriteBack {
        status_error: status::DD,
        len,
        ..WriteBack::default()
    };
    for wb in [part(2048), part(4000), part(2048), good(7), good(60)] {
        nic.rx.write_back(wb.encode()).unwrap();
    }
    assert_eq!(rx.poll(&mut batch), 1);
    assert_eq!(batch.frame_len(0), 60);
    assert_eq!(rx.stats().bad_length, 1);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_frame_that_never_ends_is_dropped_and_counted() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    let part = WriteBack {
        status_error: status::DD,
        len: 2048,
        ..WriteBack::default()
    };
    let mut left = 10 * MAX_RUN as u32;
    while left > 0 {
        left -= nic.rx.receive(left.min(20), |_| part).unwrap();
        assert_eq!(rx.poll(&mut batch), 0);
    }
    assert_eq!(rx.stats().oversize, 1);
    nic.rx.receive(2, |_| good(60)).unwrap();
    // The first of the two ends the endless frame.
    assert_eq!(rx.poll(&mut batch), 1);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_frame_that_the_mac_found_damaged_is_dropped_and_counted() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    let mut damaged = good(60);
    damaged.status_error |= error::RXE;
    nic.rx.write_back(damaged.encode()).unwrap();
    // A wrong checksum is no damage: the frame is delivered and its write-back tells.
    let mut wrong = good(61);
    wrong.status_error |= status::L4CS | error::L4E;
    nic.rx.write_back(wrong.encode()).unwrap();
    assert_eq!(rx.poll(&mut batch), 1);
    assert_eq!(batch.frame_len(0), 61);
    assert_eq!(rx.stats().device_errors, 1);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_device_that_completes_what_it_was_never_shown_is_not_believed() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    assert_eq!(nic.rx.receive(63, |_| good(60)).unwrap(), 63);
    // The 64th slot has a buffer, but the device was not told of it.
    assert_eq!(nic.rx.posted(), 0);
    nic.rx.write_back(good(60).encode()).unwrap();
    assert_eq!(rx.poll(&mut batch), 63);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_pool_that_runs_dry_is_counted_and_recovers() {
    let config = HarnessConfig {
        rx_ring: 64,
        tx_ring: 64,
        buffers: 80,
        ..HarnessConfig::default()
    };
    let (mut nic, mut rx, tx) = Harness::new(&config).unwrap();
    let mut batch = RxBatch::new();
    let mut kept = Vec::new();
    for _ in 0..80 {
        nic.rx.receive(8, |_| good(60)).unwrap();
        for i in 0..rx.poll(&mut batch) {
            kept.extend(batch.take(i));
        }
    }
    assert_eq!(kept.len(), 80);
    assert!(rx.stats().no_buffers > 0);
    assert_eq!(nic.rx.posted(), 0);
    kept.clear();
    rx.poll(&mut batch);
    assert!(nic.rx.posted() > 32);
    all_home(nic, rx, tx, batch);
}

#[test]
fn frames_are_forwarded_without_a_copy() {
    let (mut nic, mut rx, mut tx) = setup(64, 128);
    let mut batch = RxBatch::new();
    let bytes = frame(100, 9);
    nic.rx.receive_frame(&bytes, good(0)).unwrap();
    assert_eq!(rx.poll(&mut batch), 1);
    batch.data_mut(0)[..6].copy_from_slice(&[2; 6]);
    assert!(batch.set_data(0, 250, 106));
    batch.move_to(0, &mut tx, &TxMeta::NONE).unwrap();
    assert!(!batch.holds(0));
    assert_eq!(tx.submit(), 1);
    let mut data = Vec::new();
    nic.tx.transmit(10, |sent| data.push(sent)).unwrap();
    let [Sent::Data(sent)] = data[..] else {
        panic!("{data:?}")
    };
    let out = nic.tx.sent(&sent).unwrap();
    assert_eq!(out.len(), 106);
    assert_eq!(out[6..12], [2; 6]);
    assert_eq!(out[12..], bytes[6..]);
    assert_eq!((sent.paylen, sent.popts, sent.cc), (106, 0, false));
    assert_eq!(sent.cmd & (cmd::EOP | cmd::IFCS), cmd::EOP | cmd::IFCS);
    all_home(nic, rx, tx, batch);
}

#[test]
fn data_can_be_moved_inside_the_buffer_only() {
    let (mut nic, mut rx, tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    nic.rx.receive(1, |_| good(60)).unwrap();
    rx.poll(&mut batch);
    let stride = batch.buffer_mut(0).len();
    assert!(batch.set_data(0, 0, stride));
    assert!(!batch.set_data(0, 1, stride));
    assert!(!batch.set_data(0, stride + 1, 0));
    assert!(!batch.set_data(0, usize::MAX, 2));
    assert!(!batch.set_data(1, 0, 10));
    assert_eq!(batch.data_range(0), Some((0, stride)));
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_report_is_asked_for_every_32_descriptors_and_when_none_is_outstanding() {
    let (mut nic, mut rx, mut tx) = setup(256, 256);
    let mut batch = RxBatch::new();
    let all: Vec<u8> = (0..BATCH as u8).collect();
    let mut reports = Vec::new();
    for _ in 0..3 {
        nic.rx.receive(64, |_| good(60)).unwrap();
        let n = rx.poll(&mut batch);
        assert_eq!(tx.push_frames(&mut batch, &all[..n], &TxMeta::NONE), n);
        tx.submit();
        nic.tx
            .transmit(64, |sent| {
                if let Sent::Data(d) = sent {
                    reports.push(d.cmd & cmd::RS != 0);
                }
            })
            .unwrap();
    }
    let at: Vec<usize> = reports
        .iter()
        .enumerate()
        .filter(|(_, r)| **r)
        .map(|(i, _)| i)
        .collect();
    assert_eq!(at, [31, 63, 95, 127, 159, 191]);
    assert_eq!(tx.stats().doorbells, 3);
    tx.reclaim();
    assert_eq!(tx.stats().completed, 192);
    // A lone frame with nothing outstanding is reported too, so that its buffer comes back.
    tx.push_copy(&[0; 60], &TxMeta::NONE).unwrap();
    tx.submit();
    let mut last = None;
    nic.tx.transmit(1, |sent| last = Some(sent)).unwrap();
    assert!(matches!(last, Some(Sent::Data(d)) if d.cmd & cmd::RS != 0));
    assert_eq!(tx.reclaim(), 1);
    all_home(nic, rx, tx, batch);
}

#[test]
fn a_full_ring_refuses_and_the_frame_stays_in_the_batch() {
    let (mut nic, mut rx, mut tx) = setup(256, 64);
    let mut batch = RxBatch::new();
    nic.rx.receive(64, |_| good(60)).unwrap();
    assert_eq!(rx.poll(&mut batch), 64);
    let all: Vec<u8> = (0..64).collect();
    let taken = tx.push_frames(&mut batch, &all, &TxMeta::NONE);
    assert_eq!(taken, 62);
    assert_eq!(batch.move_to(62, &mut tx, &TxMeta::NONE), Err(TxRefused::Full));
    assert!(batch.holds(62) && batch.holds(63) && !batch.holds(61));
    assert_eq!(tx.stats().full, 2);
    tx.submit();
    nic.tx.transmit_all();
    assert_eq!(tx.push_frames(&mut batch, &[62, 63], &TxMeta::NONE), 2);
    assert_eq!(tx.submit(), 2);
    all_home(nic, rx, tx, batch);
}

#[test]
fn what_can_never_be_sent_is_refused_as_such() {
    let (mut nic, mut rx, mut tx) = setup(64, 64);
    let (other, mut other_rx, other_tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    nic.rx.receive(1, |_| good(60)).unwrap();
    rx.poll(&mut batch);
    assert!(batch.set_data(0, 256, 0));
    assert_eq!(batch.move_to(0, &mut tx, &TxMeta::NONE), Err(TxRefused::Invalid));
    assert_eq!(batch.move_to(5, &mut tx, &TxMeta::NONE), Err(TxRefused::Invalid));
    assert_eq!(tx.push_copy(&[], &TxMeta::NONE), Err(TxRefused::Invalid));
    assert_eq!(tx.push_copy(&[0; 20000], &TxMeta::NONE), Err(TxRefused::Invalid));
    let no_mss = TxMeta {
        flags: TxFlags::TSO | TxFlags::IPV4,
        l2_len: 14,
        l3_len: 20,
        l4_len: 20,
        ..TxMeta::NONE
    };
    assert_eq!(tx.push_copy(&[0; 200], &no_mss), Err(TxRefused::Invalid));
    // A buffer of another port's pool.
    assert!(batch.set_data(0, 256, 60));
    let mut stranger = other_tx;
    assert_eq!(
        batch.move_to(0, &mut stranger, &TxMeta::NONE),
        Err(TxRefused::Invalid)
    );
    assert!(batch.holds(0));
    assert_eq!(tx.stats().invalid, 5);
    assert_eq!(other_rx.poll(&mut RxBatch::new()), 0);
    all_home(nic, rx, tx, batch);
    all_home(other, other_rx, stranger, RxBatch::new());
}

#[test]
fn a_short_frame_is_padded_to_what_the_hardware_takes() {
    let (mut nic, rx, mut tx) = setup(64, 64);
    tx.push_copy(&[0xff; 14], &TxMeta::NONE).unwrap();
    tx.submit();
    let mut sent = Vec::new();
    nic.tx.transmit(1, |s| sent.push(s)).unwrap();
    let [Sent::Data(data)] = sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!((data.len, data.paylen), (17, 17));
    let bytes = nic.tx.sent(&data).unwrap();
    assert_eq!(bytes[..14], [0xff; 14]);
    assert_eq!(bytes[14..], [0; 3]);
    all_home(nic, rx, tx, RxBatch::new());
}

#[test]
fn a_copy_longer_than_a_buffer_becomes_a_run() {
    let (mut nic, rx, mut tx) = setup(64, 64);
    let bytes = frame(9014, 5);
    tx.push_copy(&bytes, &TxMeta::NONE).unwrap();
    assert_eq!(tx.submit(), 1);
    let mut sent = Vec::new();
    nic.tx.transmit(64, |s| sent.push(s)).unwrap();
    let mut whole = Vec::new();
    for (i, s) in sent.iter().enumerate() {
        let Sent::Data(data) = s else { panic!("{s:?}") };
        whole.extend(nic.tx.sent(data).unwrap());
        assert_eq!(data.cmd & cmd::EOP != 0, i + 1 == sent.len());
        assert_eq!(data.paylen, 9014);
    }
    assert!(whole == bytes);
    all_home(nic, rx, tx, RxBatch::new());
}

#[test]
fn a_context_is_written_only_when_the_requests_change() {
    let (mut nic, rx, mut tx) = setup(64, 64);
    let udp = TxMeta {
        flags: TxFlags::IP_CHECKSUM | TxFlags::UDP_CHECKSUM | TxFlags::IPV4,
        l2_len: 14,
        l3_len: 20,
        ..TxMeta::NONE
    };
    let tagged = TxMeta {
        flags: TxFlags::VLAN,
        vlan_tci: 0x2005,
        ..TxMeta::NONE
    };
    for meta in [&udp, &udp, &TxMeta::NONE, &udp, &tagged, &tagged] {
        tx.push_copy(&[0; 100], meta).unwrap();
    }
    tx.submit();
    let mut sent = Vec::new();
    nic.tx.transmit(64, |s| sent.push(s)).unwrap();
    let kinds: String = sent
        .iter()
        .map(|s| if matches!(s, Sent::Context(_)) { 'c' } else { 'd' })
        .collect();
    assert_eq!(kinds, "cddddcdd");
    assert_eq!(tx.stats().contexts, 2);
    let Sent::Context(first) = sent[0] else { panic!() };
    assert_eq!(
        (first.mac_len, first.ip_len, first.tucmd),
        (14, 20, tucmd::IPV4 | tucmd::L4T_UDP)
    );
    let Sent::Data(checked) = sent[1] else { panic!() };
    assert_eq!(checked.popts, popts::IXSM | popts::TXSM);
    let Sent::Data(plain) = sent[3] else { panic!() };
    assert_eq!((plain.popts, plain.cmd & cmd::VLE), (0, 0));
    let Sent::Context(vlan) = sent[5] else { panic!() };
    assert_eq!((vlan.vlan, vlan.mac_len), (0x2005, 14));
    let Sent::Data(with_tag) = sent[6] else { panic!() };
    assert_eq!((with_tag.popts, with_tag.cmd & cmd::VLE), (0, cmd::VLE));
    all_home(nic, rx, tx, RxBatch::new());
}

#[test]
fn a_segmentation_request_names_headers_mss_and_payload() {
    let (mut nic, rx, mut tx) = setup(64, 64);
    let meta = TxMeta {
        flags: TxFlags::TSO,
        mss: 1400,
        l2_len: 18,
        l3_len: 40,
        l4_len: 32,
        ..TxMeta::NONE
    };
    tx.push_copy(&frame(20_000, 1), &meta).unwrap();
    tx.submit();
    let mut sent = Vec::new();
    nic.tx.transmit(64, |s| sent.push(s)).unwrap();
    let Sent::Context(context) = sent[0] else {
        panic!("{sent:?}")
    };
    assert_eq!(
        (context.mac_len, context.ip_len, context.l4_len, context.mss),
        (18, 40, 32, 1400)
    );
    assert_eq!(context.tucmd, tucmd::L4T_TCP);
    for s in &sent[1..] {
        let Sent::Data(data) = s else { panic!("{s:?}") };
        assert_eq!(data.paylen, 20_000 - 90);
        assert_eq!((data.popts, data.cmd & cmd::TSE), (popts::TXSM, cmd::TSE));
    }
    all_home(nic, rx, tx, RxBatch::new());
}

#[test]
fn a_queue_dropped_with_the_device_running_keeps_its_posted_buffers_from_the_pool() {
    let (nic, rx, mut tx) = setup(64, 64);
    tx.push_copy(&[0; 60], &TxMeta::NONE).unwrap();
    tx.submit();
    let region = nic.region().clone();
    drop((rx, tx));
    assert_eq!(
        region.in_flight(),
        65,
        "64 in the receive ring and 1 sent, with the device still free to use them"
    );
    nic.close();
    assert_eq!(region.in_flight(), 0);
}

#[test]
fn a_closed_port_gives_and_takes_nothing() {
    let (mut nic, mut rx, mut tx) = setup(64, 64);
    let mut batch = RxBatch::new();
    nic.rx.receive(5, |_| good(60)).unwrap();
    nic.close();
    assert_eq!(rx.poll(&mut batch), 0);
    assert!(!rx.is_alive() && !tx.is_alive());
    tx.push_copy(&[0; 60], &TxMeta::NONE).unwrap();
    assert_eq!(tx.submit(), 0);
    assert_eq!(nic.tx.queued(), 0);
    all_home(nic, rx, tx, batch);
}
