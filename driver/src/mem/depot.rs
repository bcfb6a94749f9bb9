//! Free buffers that no thread holds.
//!
//! Threads bring and fetch them in blocks of [`BLOCK`]. Two lock-free stacks (Treiber) share one array of blocks: those
//! full of indices and those empty. A stack's head carries a tag that every change raises, so that a block that left and
//! came back in between is noticed (the ABA problem). What does not fill a block, such as a dropped handle, goes to a
//! locked list that is looked at only when no full block is left.

#[cfg(loom)]
use loom::sync::atomic::Ordering;
#[cfg(not(loom))]
use std::sync::atomic::Ordering;

use super::sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex};

/// Buffers that move between a thread and the depot at a time.
#[cfg(not(loom))]
pub const BLOCK: usize = 64;
/// Buffers that move between a thread and the depot at a time (small, so that the model checker can exhaust it).
#[cfg(loom)]
pub const BLOCK: usize = 2;

const NIL: u32 = u32::MAX;

/// A region's free buffers.
pub struct Depot {
    blocks: Box<[Block]>,
    full: Head,
    empty: Head,
    strays: Mutex<Vec<u32>>,
    stray_count: AtomicUsize,
    full_count: AtomicUsize,
}

struct Block {
    next: AtomicU32,
    /// Plain data handed over by the stacks' Release and Acquire; atomic only so that no unsafe code is needed.
    items: [AtomicU32; BLOCK],
}

/// Top of a stack: tag in the high half, index of the block or [`NIL`] in the low half.
struct Head(AtomicU64);

impl Head {
    fn new() -> Self {
        Head(AtomicU64::new(u64::from(NIL)))
    }

    fn push(&self, blocks: &[Block], block: u32) {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            blocks[block as usize].next.store(head as u32, Ordering::Relaxed);
            let new = next_tag(head) | u64::from(block);
            // Release: the block's items and `next` are visible to whoever pops it.
            match self
                .0
                .compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self, blocks: &[Block]) -> Option<u32> {
        // Acquire: what the pusher wrote into the block is read below.
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let block = head as u32;
            if block == NIL {
                return None;
            }
            // May be stale if another thread pops the block meanwhile; the tag then makes the exchange fail.
            let next = blocks[block as usize].next.load(Ordering::Relaxed);
            let new = next_tag(head) | u64::from(next);
            match self
                .0
                .compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(block),
                Err(now) => head = now,
            }
        }
    }
}

fn next_tag(head: u64) -> u64 {
    (head >> 32).wrapping_add(1) << 32
}

impl Depot {
    /// A depot that holds the buffers `0..count`, all free.
    pub fn full(count: u32) -> Self {
        let depot = Depot::empty(count);
        let mut indices: Vec<u32> = (0..count).rev().collect();
        while indices.len() >= BLOCK {
            depot.put(&indices.split_off(indices.len() - BLOCK));
        }
        indices.into_iter().for_each(|index| depot.put_stray(index));
        depot
    }

    /// A depot for at most `count` buffers that holds none.
    pub fn empty(count: u32) -> Self {
        let blocks: Box<[Block]> = (0..count as usize / BLOCK)
            .map(|_| Block {
                next: AtomicU32::new(NIL),
                items: std::array::from_fn(|_| AtomicU32::new(0)),
            })
            .collect();
        let empty = Head::new();
        (0..blocks.len() as u32)
            .rev()
            .for_each(|b| empty.push(&blocks, b));
        Depot {
            blocks,
            full: Head::new(),
            empty,
            strays: Mutex::new(Vec::with_capacity(count as usize)),
            stray_count: AtomicUsize::new(0),
            full_count: AtomicUsize::new(0),
        }
    }

    /// Takes [`BLOCK`] indices, or a single-digit rest when no full block is left: appends to `out[..]`, gives how many.
    pub(super) fn take(&self, out: &mut [u32; BLOCK]) -> usize {
        if let Some(block) = self.full.pop(&self.blocks) {
            self.full_count.fetch_sub(1, Ordering::Relaxed);
            let items = &self.blocks[block as usize].items;
            out.iter_mut()
                .zip(items)
                .for_each(|(o, i)| *o = i.load(Ordering::Relaxed));
            self.empty.push(&self.blocks, block);
            return BLOCK;
        }
        if self.stray_count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut strays = lock(&self.strays);
        let n = strays.len().min(BLOCK);
        let rest = strays.len() - n;
        out[..n].copy_from_slice(&strays[rest..]);
        strays.truncate(rest);
        self.stray_count.store(rest, Ordering::Relaxed);
        n
    }

    /// Brings free indices: a whole block goes to the stacks, anything else to the list.
    pub(super) fn put(&self, indices: &[u32]) {
        if indices.len() == BLOCK
            && let Some(block) = self.empty.pop(&self.blocks)
        {
            let items = &self.blocks[block as usize].items;
            items
                .iter()
                .zip(indices)
                .for_each(|(i, index)| i.store(*index, Ordering::Relaxed));
            self.full_count.fetch_add(1, Ordering::Relaxed);
            self.full.push(&self.blocks, block);
            return;
        }
        let mut strays = lock(&self.strays);
        strays.extend_from_slice(indices);
        self.stray_count.store(strays.len(), Ordering::Relaxed);
    }

    /// Brings one free index.
    pub(super) fn put_stray(&self, index: u32) {
        self.put(&[index]);
    }

    /// Free buffers in the depot. Exact when no thread is at work.
    pub fn free(&self) -> u32 {
        let blocks = self.full_count.load(Ordering::Relaxed);
        (blocks * BLOCK + self.stray_count.load(Ordering::Relaxed)) as u32
    }
}

#[cfg(not(loom))]
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(loom)]
fn lock<T>(mutex: &Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `make loom` runs these.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Takes up to a block, `times` times, and brings back what `keep` does not want. Gives what it keeps.
    fn worker(depot: &Depot, times: usize, keep: bool) -> Vec<u32> {
        let mut kept = Vec::new();
        for _ in 0..times {
            let mut block = [0; BLOCK];
            let n = depot.take(&mut block);
            if keep {
                kept.extend_from_slice(&block[..n]);
            } else {
                depot.put(&block[..n]);
            }
        }
        kept
    }

    fn all(depot: &Depot, kept: Vec<u32>) -> Vec<u32> {
        let mut all = kept;
        loop {
            let more = worker(depot, 1, true);
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn no_buffer_is_lost_or_doubled_when_one_thread_keeps_and_one_gives_back() {
        loom::model(|| {
            let depot = Arc::new(Depot::full(4));
            let other = depot.clone();
            let thread = thread::spawn(move || worker(&other, 1, true));
            worker(&depot, 1, false);
            let kept = thread.join().unwrap();
            assert_eq!(all(&depot, kept), [0, 1, 2, 3]);
        });
    }

    #[test]
    fn a_block_that_leaves_and_comes_back_in_between_is_noticed() {
        // Three blocks: while one thread stands between reading the head and exchanging it, the other takes two blocks
        // and brings the first one back.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let depot = Arc::new(Depot::full(6));
            let other = depot.clone();
            let thread = thread::spawn(move || {
                let first = worker(&other, 1, true);
                let second = worker(&other, 1, true);
                other.put(&first);
                second
            });
            let mut kept = worker(&depot, 1, true);
            kept.extend(thread.join().unwrap());
            assert_eq!(all(&depot, kept), [0, 1, 2, 3, 4, 5]);
        });
    }

    #[test]
    fn what_is_written_into_a_block_is_seen_by_who_takes_it() {
        loom::model(|| {
            let depot = Arc::new(Depot::empty(4));
            let other = depot.clone();
            let thread = thread::spawn(move || other.put(&[2, 3]));
            depot.put_stray(1);
            let mut kept = worker(&depot, 1, true);
            thread.join().unwrap();
            kept.extend(all(&depot, Vec::new()));
            kept.sort_unstable();
            assert_eq!(kept, [1, 2, 3]);
        });
    }
}
