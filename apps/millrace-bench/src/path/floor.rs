//! The floor: a scalar loop that touches nothing but descriptors and the first line of each frame.
//!
//! It keeps no record of buffers, checks no length, owns nothing and could serve nobody; it is what the memory traffic of
//! the job costs, measured in the same process and interleaved with the driver.

use super::case::{Case, Metadata, Scenario};
use super::rig::{FRAME, look_at, swap_addresses};
use crate::BenchError;
use memmap2::{MmapMut, MmapOptions};
use millrace_driver::harness::good;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

const DD: u64 = 1;
/// A data descriptor's last quadword without its lengths: end of packet, insert FCS, advanced data (datasheet 7.2.3.2.4).
const COMMAND: u64 = 0x2330_0000 | (FRAME as u64) << 46 | FRAME as u64;
/// Bytes from one frame to the next, as in the driver's buffers.
const STRIDE: usize = 37 * 64;

type Descriptor = [AtomicU64; 2];

/// Rings and frames of its own.
pub struct Floor {
    case: Case,
    rx: Box<[Descriptor]>,
    tx: Box<[Descriptor]>,
    /// On pages of the same size as the driver's buffers, since finding a page costs time too.
    frames: MmapMut,
    next: usize,
}

impl Floor {
    pub fn new(case: &Case, page_bytes: usize) -> Result<Floor, BenchError> {
        let mut frames = MmapOptions::new();
        frames.len((case.ring as usize * STRIDE).next_multiple_of(page_bytes));
        if page_bytes > rustix::param::page_size() {
            frames.huge(Some(page_bytes.ilog2() as u8));
        }
        let mut frames = frames.map_anon().map_err(BenchError::Memory)?;
        frames.fill(1);
        let ring = || {
            (0..case.ring)
                .map(|_| [AtomicU64::new(0), AtomicU64::new(0)])
                .collect()
        };
        Ok(Floor {
            case: *case,
            rx: ring(),
            tx: ring(),
            frames,
            next: 0,
        })
    }

    /// The NIC's turn: `frames` more have come, as many as were dealt with.
    pub fn supply(&mut self, frames: usize) {
        let bits = good(FRAME).encode();
        let ring = self.rx.len();
        for i in self.next..self.next + frames {
            let [low, high] = &self.rx[i % ring];
            low.store(bits[0], Ordering::Relaxed);
            high.store(bits[1], Ordering::Release);
        }
    }

    /// The driver's turn, and what is measured.
    #[inline(never)]
    pub fn drain(&mut self, frames: usize) {
        let burst = self.case.burst as usize;
        let mut left = frames;
        while left > 0 {
            let n = burst.min(left).min(self.rx.len() - self.next);
            let range = self.next..self.next + n;
            let (rx, tx) = (&self.rx[range.clone()], &self.tx[range.clone()]);
            let (frames, _) = self.frames.as_chunks_mut::<STRIDE>();
            let frames = &mut frames[range];
            match (self.case.scenario, self.case.metadata) {
                (Scenario::RxDrop, _) => receive(rx),
                (Scenario::Tx, _) => send(tx),
                (Scenario::Chain | Scenario::Worker, _) | (Scenario::Forward, Metadata::Plain) => {
                    forward(rx, tx, frames, |_| ())
                }
                (Scenario::Forward, Metadata::Full) => {
                    let mut sum = 0;
                    forward(rx, tx, frames, |raw| sum = look_at(sum, raw));
                    black_box(sum);
                }
            }
            self.next = (self.next + n) & (self.rx.len() - 1);
            left -= n;
        }
    }
}

#[inline(always)]
fn forward(
    rx: &[Descriptor],
    tx: &[Descriptor],
    frames: &mut [[u8; STRIDE]],
    mut look: impl FnMut([u64; 2]),
) {
    for ((rx, tx), frame) in rx.iter().zip(tx).zip(frames) {
        let high = rx[1].load(Ordering::Acquire);
        if high & DD == 0 {
            break;
        }
        let low = rx[0].load(Ordering::Relaxed);
        look([low, high]);
        swap_addresses(frame);
        rx[0].store(low, Ordering::Relaxed);
        rx[1].store(0, Ordering::Relaxed);
        tx[0].store(low, Ordering::Relaxed);
        tx[1].store(COMMAND, Ordering::Relaxed);
    }
}

#[inline(always)]
fn receive(rx: &[Descriptor]) {
    for rx in rx {
        if rx[1].load(Ordering::Acquire) & DD == 0 {
            break;
        }
        let low = rx[0].load(Ordering::Relaxed);
        rx[0].store(low, Ordering::Relaxed);
        rx[1].store(0, Ordering::Relaxed);
    }
}

#[inline(always)]
fn send(tx: &[Descriptor]) {
    for tx in tx {
        let low = tx[0].load(Ordering::Relaxed);
        tx[0].store(low.wrapping_add(64), Ordering::Relaxed);
        tx[1].store(COMMAND, Ordering::Relaxed);
    }
}
