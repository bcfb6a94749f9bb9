//! The memory order of a descriptor ring that two sides share.
//!
//! - Whoever writes a descriptor stores its last quadword, the one that holds DD, last and with Release
//!   ([`publish`]); whoever reads it loads that quadword first and with Acquire ([`collect`]). So DD never shows
//!   before the rest of the descriptor, nor before the data written ahead of it.
//! - A doorbell is a Release fence and then a store; the other side loads the tail with Acquire. So no descriptor
//!   below the tail is seen in an older state. Descriptors themselves may then be stored and loaded Relaxed.
//!
//! Both sides, driver and models, use these functions, over [`std`]'s atomics; a loom test runs them over loom's.

use std::sync::atomic::{AtomicU64, Ordering};

/// A quadword of a ring.
pub trait Quadword {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

impl Quadword for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
}

/// Stores a descriptor that the other side polls: the last quadword last, with Release. Quadwords are little-endian
/// in memory.
#[inline(always)]
pub fn publish<W: Quadword, const Q: usize>(slot: &[W; Q], descriptor: [u64; Q]) {
    for i in 0..Q - 1 {
        slot[i].store(descriptor[i].to_le(), Ordering::Relaxed);
    }
    slot[Q - 1].store(descriptor[Q - 1].to_le(), Ordering::Release);
}

/// Loads a descriptor that the other side publishes: the last quadword first, with Acquire.
#[inline(always)]
pub fn collect<W: Quadword, const Q: usize>(slot: &[W; Q]) -> [u64; Q] {
    let mut out = [0; Q];
    out[Q - 1] = u64::from_le(slot[Q - 1].load(Ordering::Acquire));
    for i in 0..Q - 1 {
        out[i] = u64::from_le(slot[i].load(Ordering::Relaxed));
    }
    out
}

/// Stores a descriptor that a doorbell will announce.
#[inline(always)]
pub fn prepare<W: Quadword, const Q: usize>(slot: &[W; Q], descriptor: [u64; Q]) {
    for i in 0..Q {
        slot[i].store(descriptor[i].to_le(), Ordering::Relaxed);
    }
}

/// Loads a descriptor that a doorbell has announced: the tail was loaded with Acquire before.
#[inline(always)]
pub fn fetch<W: Quadword, const Q: usize>(slot: &[W; Q]) -> [u64; Q] {
    let mut out = [0; Q];
    for i in 0..Q {
        out[i] = u64::from_le(slot[i].load(Ordering::Relaxed));
    }
    out
}
