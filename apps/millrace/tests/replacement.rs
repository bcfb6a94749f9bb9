//! A thousand new programs under traffic: no frame is lost, and neither code nor heap grows.
//!
//! The only test of this file, because it looks at the memory of the whole process.

#![allow(unsafe_code)]

mod common;

use common::*;
use millrace::{EngineKind, QueueSel};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};

static LIVE: AtomicI64 = AtomicI64::new(0);

struct Live;

// SAFETY: every call goes on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Live {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Live = Live;

fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}

#[test]
fn a_thousand_new_programs_under_traffic_lose_no_frame_and_leave_no_memory_behind() {
    let test = "a_thousand_new_programs_under_traffic_lose_no_frame_and_leave_no_memory_behind";
    let Some(elf) = object("verdict") else {
        return skip(test, "needs clang");
    };
    let engine = EngineKind::default();
    let app = builder("gen:udp4,flows=100,rate=500", 2).build().expect("app");
    let mut current = attach_on(&app, &elf, engine);
    let running = app.start().expect("start");
    until("traffic", || running.stats().total("rx_frames") > 0);
    let mut met = 0;
    let mut replace = |current: &mut millrace_ebpf::Loaded| {
        let next = load(&running, &elf, &[("verdict", 1)]);
        let program = next.program(None).expect("program");
        running
            .replace("eth0", QueueSel::All, &program, engine)
            .expect("replace");
        // Whoever is replaced runs no more, so its count is final.
        met += sum(std::mem::replace(current, next).map("seen").expect("map"));
    };
    // What is made once and kept, such as buffers of channels, is made by now.
    for _ in 0..100 {
        replace(&mut current);
    }
    let (code, heap) = (millrace_ebpf::executable_bytes(), live());
    for _ in 0..1000 {
        replace(&mut current);
    }
    let (code_after, heap_after) = (millrace_ebpf::executable_bytes(), live());
    assert_eq!(code_after, code, "bytes of machine code");
    // Both numbers are taken while two workers and a model run; a program with its map is some 100 KiB.
    let grown = heap_after - heap;
    assert!(grown.abs() < 64 << 10, "the heap grew by {grown} bytes");

    let report = running.stop().expect("clean end");
    let stats = &report.stats;
    met += sum(current.map("seen").expect("map"));
    assert_eq!(
        met,
        stats.total("rx_frames"),
        "each frame met exactly one program"
    );
    assert_eq!(stats.total("no_program"), 0, "there was always one");
    assert_eq!(stats.total("xdp_drop"), stats.total("rx_frames"));
    assert_eq!(stats.total("program_swaps"), 2 * 1101);
    assert_eq!(report.buffers_missing, 0);
    drop(current);
    assert_eq!(millrace_ebpf::executable_bytes(), 0, "no machine code is left");
    println!(
        "1000 replacements on {}: {met} frames met one program each, {} missed by the device; heap {grown:+} bytes, code +0",
        engine.name(),
        missed(stats)
    );
}
