//! A worker stepped by hand on rings whose other end is the test: what one round does to a batch.

use millrace::{HandWorker, PassAction, PassHandler};
use millrace_driver::harness::{Harness, HarnessConfig, Sent, good};
use millrace_ebpf::{EngineKind, Instance, Program};
use millrace_nic_models::ixgbe::desc::rx::WriteBack;

const LEN: u16 = 64;

/// A program that says what byte 16 of the frame says, and turns byte 17 over if that is XDP_TX or XDP_PASS.
fn says() -> Instance {
    let mut code = Vec::new();
    let mut insn = |op: u8, regs: u8, off: i16, imm: i32| {
        code.extend([op, regs]);
        code.extend(off.to_le_bytes());
        code.extend(imm.to_le_bytes());
    };
    insn(0x61, 0x12, 0, 0); // r2 = data
    insn(0x61, 0x13, 4, 0); // r3 = data_end
    insn(0xbf, 0x24, 0, 0); // r4 = r2
    insn(0x07, 0x04, 0, 32); // r4 += 32
    insn(0xb7, 0x00, 0, 0); // r0 = XDP_ABORTED
    insn(0x2d, 0x34, 5, 0); // if r4 > r3 exit
    insn(0x71, 0x20, 16, 0); // r0 = *(u8 *)(r2 + 16)
    insn(0xa5, 0x00, 3, 2); // if r0 < 2 exit
    insn(0x71, 0x25, 17, 0); // r5 = *(u8 *)(r2 + 17)
    insn(0xa7, 0x05, 0, 0xff); // r5 ^= 0xff
    insn(0x73, 0x52, 17, 0); // *(u8 *)(r2 + 17) = r5
    insn(0x95, 0, 0, 0);
    Program::from_bytecode("says", &code, &[], 1)
        .expect("a program")
        .instance(EngineKind::Interp, 0)
        .expect("accepted")
}

fn rig(tx_ring: u32, on_pass: Option<PassHandler>) -> (Harness, HandWorker) {
    let config = HarnessConfig {
        rx_ring: 256,
        tx_ring,
        buffers: 1024,
        ..HarnessConfig::default()
    };
    let (nic, rx, tx) = Harness::new(&config).expect("rings");
    let worker = HandWorker::new([(rx, tx)], Some(says()), on_pass).expect("a worker");
    (nic, worker)
}

/// Frames with these verdicts, numbered in byte 17, come in; the worker goes on until it finds nothing.
fn deal(nic: &mut Harness, worker: &mut HandWorker, verdicts: &[u8]) -> usize {
    for (number, verdict) in verdicts.iter().enumerate() {
        let mut frame = [0u8; LEN as usize];
        frame[16] = *verdict;
        frame[17] = number as u8;
        assert_eq!(
            nic.rx.receive_frame(&frame, good(LEN)),
            Ok(true),
            "frame {number}"
        );
    }
    std::iter::from_fn(|| Some(worker.round()))
        .take_while(|n| *n > 0)
        .sum()
}

/// Byte 17 of everything that was sent, in order.
fn sent(nic: &mut Harness) -> Vec<u8> {
    let mut data = Vec::new();
    nic.tx
        .transmit(u32::MAX, |sent| {
            if let Sent::Data(one) = sent {
                data.push(one);
            }
        })
        .expect("right descriptors");
    data.iter()
        .map(|one| nic.tx.sent(one).expect("in a buffer")[17])
        .collect()
}

#[test]
fn frames_of_a_batch_leave_in_their_order_whoever_wanted_them_sent() {
    // A callback sends back every second of those that pass.
    let mut turn = 0;
    let on_pass: PassHandler = Box::new(move |_| {
        turn += 1;
        match turn % 2 {
            1 => PassAction::Transmit,
            _ => PassAction::Taken,
        }
    });
    let (mut nic, mut worker) = rig(256, Some(on_pass));
    let verdicts: Vec<u8> = (0..150u32)
        .map(|n| [3, 1, 2, 3, 0, 2, 9][n as usize % 7])
        .collect();
    assert_eq!(deal(&mut nic, &mut worker, &verdicts), 150);
    let (mut wanted, mut turn) = (Vec::new(), 0);
    for (number, verdict) in verdicts.iter().enumerate() {
        turn += usize::from(*verdict == 2);
        if *verdict == 3 || *verdict == 2 && turn % 2 == 1 {
            wanted.push(!(number as u8));
        }
    }
    assert_eq!(sent(&mut nic), wanted, "each as the program left it");
    let of = |verdict: u8| verdicts.iter().filter(|v| **v == verdict).count() as u64;
    for (name, frames) in [
        ("rx_frames", 150),
        ("rx_bytes", 150 * u64::from(LEN)),
        ("xdp_tx", of(3)),
        ("xdp_pass", of(2)),
        ("xdp_drop", of(1)),
        ("xdp_aborted", of(0) + of(9)),
        ("pass_callback", of(2)),
        ("tx_frames", wanted.len() as u64),
        ("steer_rxq_map", wanted.len() as u64),
        ("tx_full", 0),
    ] {
        assert_eq!(worker.counter(name), frames, "{name}");
    }
    nic.close();
}

#[test]
fn what_a_full_ring_has_no_room_for_is_counted_and_its_buffers_come_home() {
    let (mut nic, mut worker) = rig(64, None);
    for round in 1..=4u64 {
        assert_eq!(deal(&mut nic, &mut worker, &[3; 200]), 200);
        let (out, full) = (worker.counter("tx_frames"), worker.counter("tx_full"));
        assert_eq!(out + full, 200 * round, "every frame is one or the other");
        assert!(full > 0 && out >= 32 * round, "{out} sent, {full} not");
        let went = sent(&mut nic);
        assert!(went.windows(2).all(|two| two[0] > two[1]), "in order: {went:?}");
    }
    assert_eq!(worker.counter("xdp_tx"), 800);
    nic.close();
    assert_eq!(worker.into_queues().len(), 1);
}

#[test]
fn flows_are_spread_over_the_worker_s_queues_by_the_hash_that_the_nic_gave() {
    let config = HarnessConfig {
        rx_ring: 256,
        tx_ring: 256,
        buffers: 1024,
        ..HarnessConfig::default()
    };
    let (mut nics, mut pairs) = (Vec::new(), Vec::new());
    for (nic, rx, tx) in Harness::several(&config, 3).expect("rings") {
        nics.push(nic);
        pairs.push((rx, tx));
    }
    let mut worker = HandWorker::new(pairs, Some(says()), None).expect("a worker");
    worker.set_rxq(0, &[0, 1, 2]).expect("queues");
    // The hash's upper bits choose; the frames themselves are all the same flow.
    let hash = |n: u32| n.wrapping_mul(0x9e37_79b9);
    for n in 0..150u8 {
        let mut frame = [0u8; LEN as usize];
        (frame[16], frame[17]) = (3, n);
        let told = WriteBack {
            hash: hash(n.into()),
            rss_type: 1,
            ..good(LEN)
        };
        assert_eq!(nics[0].rx.receive_frame(&frame, told), Ok(true));
    }
    while worker.round() > 0 {}
    for (queue, nic) in nics.iter_mut().enumerate() {
        let here = |n: &u8| (u64::from(hash((*n).into())) * 3) >> 32 == queue as u64;
        let wanted: Vec<u8> = (0..150).filter(here).map(|n| !n).collect();
        assert!(wanted.len() > 30, "{wanted:?}");
        assert_eq!(sent(nic), wanted, "queue {queue}, in order");
    }
    assert_eq!(
        (worker.counter("tx_frames"), worker.counter("steer_rxq_map")),
        (150, 150)
    );
    // Without a hash from the NIC it is computed from the frame: one flow, one queue.
    for n in 0..30u8 {
        let mut frame = [0u8; LEN as usize];
        (frame[16], frame[17]) = (3, n);
        assert_eq!(nics[0].rx.receive_frame(&frame, good(LEN)), Ok(true));
    }
    while worker.round() > 0 {}
    let went: Vec<usize> = nics.iter_mut().map(|nic| sent(nic).len()).collect();
    assert_eq!(went, [30, 0, 0]);
    for nic in nics {
        nic.close();
    }
    assert_eq!(worker.into_queues().len(), 3);
}
