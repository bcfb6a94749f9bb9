//! The shared ring under loom: every order in which two sides can see each other's stores.
//!
//! `make loom` runs this.
#![cfg(loom)]

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::thread;
use millrace_nic_models::ring_order::{Quadword, collect, fetch, prepare, publish};

struct Word(AtomicU64);

impl Quadword for Word {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
}

fn slot() -> [Word; 2] {
    [Word(AtomicU64::new(0)), Word(AtomicU64::new(0))]
}

const DD: u64 = 1;

/// A receive ring of two slots, one buffer a slot, and its tail.
struct Ring {
    slots: [[Word; 2]; 2],
    buffers: [AtomicU64; 2],
    tail: AtomicU32,
}

impl Ring {
    fn new() -> Arc<Ring> {
        Arc::new(Ring {
            slots: [slot(), slot()],
            buffers: [AtomicU64::new(0), AtomicU64::new(0)],
            tail: AtomicU32::new(0),
        })
    }

    /// A release fence and a store, as `Doorbell` does on a mapped register.
    fn ring_doorbell(&self, tail: u32) {
        fence(Release);
        self.tail.store(tail, Relaxed);
    }

    /// What a model does with slot 0 once it knows the descriptor: writes the frame, writes back. (It fetches the
    /// descriptor elsewhere: loom explores nothing behind a thread's load of what it stores right after.)
    fn receive(&self, frame: u64) {
        self.buffers[0].store(frame, Relaxed);
        publish(&self.slots[0], [frame << 32, frame << 32 | DD]);
    }
}

#[test]
fn a_descriptor_with_dd_is_complete_and_so_is_its_frame() {
    loom::model(|| {
        let ring = Ring::new();
        let device = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.receive(7)
        });
        let [first, last] = collect(&ring.slots[0]);
        if last & DD != 0 {
            assert_eq!((first >> 32, last >> 32), (7, 7));
            assert_eq!(ring.buffers[0].load(Relaxed), 7);
        }
        device.join().unwrap();
    });
}

#[test]
fn what_a_doorbell_announces_is_there() {
    loom::model(|| {
        let ring = Ring::new();
        let driver = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                ring.buffers[0].store(11, Relaxed); // a frame to send
                prepare(&ring.slots[0], [0xaaaa, 0xbbb0]);
                ring.ring_doorbell(1);
                prepare(&ring.slots[1], [0xcccc, 0xddd0]);
                ring.ring_doorbell(2);
            }
        });
        let tail = ring.tail.load(Acquire);
        if tail >= 1 {
            assert_eq!(fetch(&ring.slots[0]), [0xaaaa, 0xbbb0]);
            assert_eq!(ring.buffers[0].load(Relaxed), 11);
        }
        if tail >= 2 {
            assert_eq!(fetch(&ring.slots[1]), [0xcccc, 0xddd0]);
        }
        driver.join().unwrap();
    });
}

#[test]
fn a_slot_that_is_used_again_never_shows_the_old_dd_or_the_old_frame() {
    loom::model(|| {
        let ring = Ring::new();
        prepare(&ring.slots[0], [100, 0]);
        ring.ring_doorbell(1);
        let device = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                // First round: the descriptor was there from the start.
                ring.receive(7);
                // Second round once the driver has given the slot back, if it has by now.
                if ring.tail.load(Acquire) == 2 {
                    let descriptor = fetch(&ring.slots[0]);
                    assert_eq!(descriptor, [200, 0], "a write-back was taken for a descriptor");
                    ring.receive(8);
                }
            }
        });
        if collect(&ring.slots[0])[1] & DD != 0 {
            assert_eq!(ring.buffers[0].load(Relaxed), 7);
            prepare(&ring.slots[0], [200, 0]);
            ring.ring_doorbell(2);
            let [first, last] = collect(&ring.slots[0]);
            if last & DD != 0 {
                assert_eq!((first >> 32, last >> 32), (8, 8));
                assert_eq!(ring.buffers[0].load(Relaxed), 8);
            }
        }
        device.join().unwrap();
    });
}
