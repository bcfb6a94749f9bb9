//! One thread only receives, another only sends: every buffer goes round through the depot.
//!
//! Allocations are counted on the two threads alone: the test harness's own thread allocates when a test takes long.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use millrace_driver::mem::{Batch, BufferLayout, FreeStack, Handle, Hugepages, Region, Shadow};

struct Counting;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FRAMES: u64 = 10_000_000;
const BUFFERS: u32 = 4096;

#[test]
fn ten_million_handles_from_rx_to_tx_thread_none_lost_none_doubled_no_allocation() {
    let region = Region::alloc(&Hugepages::default(), BufferLayout::new(BUFFERS), None).unwrap();
    let queue: ArrayQueue<Handle> = ArrayQueue::new(1024);
    // True while the buffer is between the two threads.
    let taken: Vec<AtomicBool> = (0..BUFFERS).map(|_| AtomicBool::new(false)).collect();
    let mut rx_stack = FreeStack::new(region.clone());
    let mut tx_stack = FreeStack::new(region.clone());
    let mut tx_ring = Shadow::new(512);

    let receive = |region: &Region, stack: &mut FreeStack, batch: &mut Batch| {
        let mut next = 0u64;
        while next < FRAMES {
            let want = (FRAMES - next).min(batch.room() as u64) as usize;
            for mut handle in stack.take(want) {
                assert!(
                    !taken[handle.index() as usize].swap(true, Ordering::Relaxed),
                    "handed out twice"
                );
                handle.set_data(256, 60);
                region.data_mut(&mut handle)[..8].copy_from_slice(&next.to_le_bytes());
                next += 1;
                batch.push(handle).unwrap();
            }
            for mut handle in batch.drain() {
                while let Err(back) = queue.push(handle) {
                    handle = back;
                    std::thread::yield_now();
                }
            }
        }
    };
    let send = |region: &Region, stack: &mut FreeStack, ring: &mut Shadow| {
        let (mut tail, mut idle) = (0u64, 0u32);
        while tail < FRAMES {
            let Some(mut handle) = queue.pop() else {
                idle += 1;
                if idle > 64 {
                    std::thread::yield_now();
                }
                continue;
            };
            idle = 0;
            let data: [u8; 8] = region.data_mut(&mut handle)[..8].try_into().unwrap();
            assert_eq!(u64::from_le_bytes(data), tail, "lost or overtaken");
            assert!(
                taken[handle.index() as usize].swap(false, Ordering::Relaxed),
                "sent without being received"
            );
            if let Some(sent) = ring.put(tail as u32, handle) {
                stack.push(sent);
            }
            tail += 1;
        }
        stack.push_all(ring.drain());
    };

    let gate = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let (region, gate) = (&region, &gate);
        scope.spawn(move || {
            gate.wait();
            COUNTED.set(true);
            send(region, &mut tx_stack, &mut tx_ring);
            COUNTED.set(false);
            gate.wait();
        });
        let mut batch = Batch::new();
        gate.wait();
        COUNTED.set(true);
        receive(region, &mut rx_stack, &mut batch);
        COUNTED.set(false);
        gate.wait();
    });

    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0, "allocations on the path");
    assert_eq!(region.in_flight(), 0);
    drop(rx_stack);
    assert_eq!(region.free(), BUFFERS);
}
