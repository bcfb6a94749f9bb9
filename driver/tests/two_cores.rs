//! One thread only receives, another only sends: ten million frames, with every buffer accounted for and nothing
//! allocated on the way.

#![cfg(feature = "models")]

use std::thread;

use crossbeam::queue::ArrayQueue;
use millrace_driver::harness::{Harness, HarnessConfig, Sent, good};
use millrace_driver::mem::{CountingAllocator, Frame};
use millrace_driver::queue::{RxBatch, TxMeta};
use millrace_nic_models::ixgbe::desc::rx::WriteBack;

const FRAMES: u32 = 10_000_000;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn ten_million_frames_cross_from_a_receiving_to_a_sending_thread() {
    let config = HarnessConfig {
        buffers: 8192,
        forward_only: true,
        ..HarnessConfig::default()
    };
    let (harness, mut rx, mut tx) = Harness::new(&config).expect("a harness");
    let (mut rx_nic, mut tx_nic, closer) = harness.split();
    let lane: ArrayQueue<Frame> = ArrayQueue::new(512);

    let (received, sent) = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut batch = RxBatch::new();
            let mut next = 0;
            let mut taken = 0;
            rx.poll(&mut batch);
            let before = CountingAllocator::count();
            while taken < FRAMES {
                let n = 48.min(FRAMES - next);
                let base = next;
                let wb = |i| WriteBack {
                    hash: base + i,
                    ..good(60)
                };
                next += rx_nic.receive(n, wb).expect("no buffer is posted twice");
                let frames = rx.poll(&mut batch);
                for i in 0..frames {
                    assert_eq!(batch.raw(i)[4..8], taken.to_le_bytes(), "out of order");
                    let Some(mut frame) = batch.take(i) else {
                        panic!("frame {i} is gone")
                    };
                    taken += 1;
                    while let Err(back) = lane.push(frame) {
                        frame = back;
                        thread::yield_now();
                    }
                }
                if frames == 0 {
                    thread::yield_now();
                }
            }
            (CountingAllocator::count() - before, taken, rx)
        });
        let sender = scope.spawn(|| {
            let mut seen = 0;
            let before = CountingAllocator::count();
            while seen < FRAMES {
                for _ in 0..48 {
                    let Some(frame) = lane.pop() else { break };
                    if tx.push(frame, &TxMeta::NONE).is_err() {
                        panic!("the ring has room: the played NIC takes everything");
                    }
                }
                if tx.submit() == 0 {
                    thread::yield_now();
                }
                let counted = |s| seen += u32::from(matches!(s, Sent::Data(_)));
                tx_nic
                    .transmit(u32::MAX, counted)
                    .expect("no buffer is sent twice");
            }
            tx.reclaim();
            (CountingAllocator::count() - before, seen, tx)
        });
        (receiver.join().expect("receiver"), sender.join().expect("sender"))
    });

    let (rx_allocations, taken, rx) = received;
    let (tx_allocations, seen, tx) = sent;
    assert_eq!((taken, seen), (FRAMES, FRAMES));
    assert_eq!(
        (rx.stats().frames, tx.stats().frames),
        (u64::from(FRAMES), u64::from(FRAMES))
    );
    assert_eq!(
        (rx_allocations, tx_allocations),
        (0, 0),
        "allocations on the path of a packet"
    );
    let region = closer.region().clone();
    closer.close();
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0, "buffers are lost");
}
