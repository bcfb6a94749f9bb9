//! Frames through the port: wrap, empty rings, jumbo frames, statistics.

use millrace_driver::mem::Frame;
use millrace_driver::port::PortConfig;
use millrace_driver::queue::{RxBatch, TxMeta};

use crate::rig::*;

#[test]
fn frames_go_both_ways_unchanged() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    let frames: Vec<Vec<u8>> = (0..10).map(|n| udp(n).pad_to(60).build()).collect();
    frames.iter().for_each(|f| rig.peer.send(f.clone()));
    let got: Vec<Vec<u8>> = receive(&rig, &mut rx)
        .into_iter()
        .map(|(bytes, _)| bytes)
        .collect();
    assert_eq!(got, frames);
    for frame in &frames {
        tx.push_copy(frame, &TxMeta::NONE).unwrap();
    }
    assert_eq!(tx.submit(), 10);
    rig.settle();
    assert_eq!(rig.peer.received(), frames);
    all_home(port, [(rx, tx)]);
}

#[test]
fn rings_wrap_while_frames_are_forwarded() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        rx_ring: 64,
        tx_ring: 64,
        ..config(1)
    });
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    let mut batch = RxBatch::new();
    let mut out = 0u16;
    for round in 0..64u16 {
        for n in 0..31 {
            rig.peer.send(udp(round * 31 + n).build());
        }
        rig.settle();
        loop {
            let n = rx.poll(&mut batch);
            if n == 0 {
                break;
            }
            let all: Vec<u8> = (0..n as u8).collect();
            assert_eq!(tx.push_frames(&mut batch, &all, &TxMeta::NONE), n);
            tx.submit();
            rig.settle();
            for frame in rig.peer.received() {
                assert_eq!(frame, udp(out).pad_to(60).build());
                out += 1;
            }
        }
    }
    assert_eq!(out, 64 * 31);
    all_home(port, [(rx, tx)]);
}

#[test]
fn an_empty_ring_drops_frames_and_the_device_counts_them() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        rx_ring: 64,
        ..config(1)
    });
    let (mut rx, tx) = port.take_queue(0).unwrap();
    for n in 0..100 {
        rig.peer.send(udp(n).build());
    }
    rig.settle();
    // 63 descriptors are posted; a poll without the device in between brings exactly these.
    let mut batch = RxBatch::new();
    assert_eq!(rx.poll(&mut batch), 63);
    assert_eq!(rx.poll(&mut batch), 0);
    let stats = port.stats().unwrap();
    assert_eq!(
        (stats.rx_packets, stats.rx_no_descriptors + stats.rx_missed),
        (63, 37)
    );
    rig.peer.send(udp(7).build());
    assert_eq!(receive(&rig, &mut rx).len(), 1, "the ring has recovered");
    all_home(port, [(rx, tx)]);
}

#[test]
fn a_jumbo_frame_arrives_as_a_run_and_leaves_as_one() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        mtu: 9000,
        ..config(1)
    });
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    assert_eq!(port.single_buffer_max(), 2048);
    let sizes = [60, 1514, 2047, 2048, 2049, 4096, 4097, 9014];
    let frames: Vec<Vec<u8>> = sizes
        .iter()
        .map(|n| udp(*n as u16).payload(&vec![*n as u8; n - 42]).build())
        .collect();
    frames.iter().for_each(|f| rig.peer.send(f.clone()));
    rig.settle();
    let mut batch = RxBatch::new();
    assert_eq!(rx.poll(&mut batch), sizes.len());
    for (i, size) in sizes.iter().enumerate() {
        assert_eq!(batch.frame_len(i), *size);
        assert_eq!(batch.frame_buffers(i), size.div_ceil(2048));
    }
    let taken: Vec<Frame> = (0..sizes.len()).filter_map(|i| batch.take(i)).collect();
    for frame in taken {
        tx.push(frame, &TxMeta::NONE).expect("room");
    }
    assert_eq!(tx.submit(), sizes.len());
    rig.settle();
    assert!(rig.peer.received() == frames);
    all_home(port, [(rx, tx)]);
}

#[test]
fn a_frame_longer_than_the_mtu_allows_is_dropped_by_the_mac_until_the_mtu_grows() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, tx) = port.take_queue(0).unwrap();
    let long = udp(1).payload(&[0; 3000]).build();
    rig.peer.send(long.clone());
    assert_eq!(receive(&rig, &mut rx).len(), 0);
    assert_eq!(port.stats().unwrap().rx_length_errors, 1);
    port.set_mtu(9000).unwrap();
    rig.peer.send(long.clone());
    assert_eq!(receive(&rig, &mut rx)[0].0, long);
    assert!(port.set_mtu(20).is_err());
    assert_eq!(port.mtu(), 9000);
    all_home(port, [(rx, tx)]);
}

#[test]
fn statistics_add_up_over_reads_and_resets() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    let frame = udp(1).payload(&[0; 58]).build();
    assert_eq!(frame.len(), 100);
    for _ in 0..3 {
        for _ in 0..10 {
            rig.peer.send(frame.clone());
            tx.push_copy(&frame, &TxMeta::NONE).unwrap();
        }
        tx.submit();
        assert_eq!(receive(&rig, &mut rx).len(), 10);
        port.stats().unwrap();
    }
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.rx_bytes), (30, 3000));
    assert_eq!((stats.tx_packets, stats.tx_bytes), (30, 3000));
    assert_eq!(
        port.stats().unwrap(),
        stats,
        "reading clears the device's counters, not ours"
    );
    let xstats = port.xstats().unwrap();
    let named = |name| xstats.iter().find(|(n, _)| *n == name).unwrap().1;
    assert_eq!((named("gptc"), named("qprc"), named("prc127")), (30, 30, 30));
    assert_eq!((rx.stats().frames, tx.stats().frames), (30, 30));
    port.give_back(rx, tx).unwrap();
    port.reset().unwrap();
    assert_eq!(
        port.stats().unwrap().rx_packets,
        30,
        "counters never go backwards"
    );
    all_home(port, []);
}

#[test]
fn only_frames_for_the_port_come_in_unless_it_is_promiscuous() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        all_multicast: false,
        ..config(1)
    });
    let (mut rx, tx) = port.take_queue(0).unwrap();
    let to = |dst: [u8; 6]| udp(1).macs(PEER, dst).pad_to(60).build();
    let (stranger, multicast, broadcast) = ([2, 9, 9, 9, 9, 9], [0x33, 0x33, 0, 0, 0, 1], [0xff; 6]);
    let mut arrives = |dst| {
        rig.peer.send(to(dst));
        !receive(&rig, &mut rx).is_empty()
    };
    assert_eq!(
        [MAC, broadcast, stranger, multicast].map(&mut arrives),
        [true, true, false, false]
    );
    port.add_mac(stranger).unwrap();
    port.set_all_multicast(true).unwrap();
    assert_eq!([stranger, multicast].map(&mut arrives), [true, true]);
    port.remove_mac(stranger).unwrap();
    port.set_all_multicast(false).unwrap();
    assert_eq!([stranger, multicast, MAC].map(&mut arrives), [false, false, true]);
    port.set_promiscuous(true).unwrap();
    assert!(arrives(stranger));
    port.set_promiscuous(false).unwrap();
    assert!(!arrives(stranger));
    for n in 0..127 {
        port.add_mac([2, 1, 0, 0, 0, n]).unwrap();
    }
    assert!(port.add_mac([2, 1, 0, 0, 0, 200]).is_err(), "the table is full");
    all_home(port, [(rx, tx)]);
}
