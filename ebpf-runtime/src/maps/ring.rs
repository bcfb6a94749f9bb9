//! `RINGBUF` and `PERF_EVENT_ARRAY`: records from programs to a consumer.
//!
//! A ring works as kernel/bpf/ringbuf.c documents: producers reserve under a short lock, write, and commit in any order;
//! the consumer takes records in order and stops at the first that is still being written. The data area is mapped
//! twice in a row, so every record is contiguous.

use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::MapDef;
use super::hash::Wait;
use crate::Errno;
use crate::mem::arena::{Arena, Range};

/// Bytes of a record's header.
const HEADER: u64 = 8;
/// `BPF_RINGBUF_BUSY_BIT`.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`.
const DISCARD: u32 = 1 << 30;

#[derive(Debug)]
pub(super) struct Ring {
    arena: Arena,
    size: u64,
    reserving: AtomicBool,
    producer: AtomicU64,
    consumer: AtomicU64,
    /// Records that found no room.
    lost: AtomicU64,
    /// One consumer at a time.
    consuming: Mutex<Vec<u8>>,
}

impl Ring {
    /// A ring of `size` bytes, a power of two of pages.
    pub fn new(size: u32) -> io::Result<Ring> {
        Ok(Ring {
            arena: Arena::ring(size as usize)?,
            size: size.into(),
            reserving: AtomicBool::new(false),
            producer: AtomicU64::new(0),
            consumer: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            consuming: Mutex::default(),
        })
    }

    fn at(&self, position: u64) -> usize {
        (position & (self.size - 1)) as usize
    }

    /// Room for a record of `len` bytes, not yet visible to the consumer.
    pub fn reserve(&self, len: u64) -> Option<Range> {
        let total = len.checked_add(HEADER)?.checked_next_multiple_of(8)?;
        let mut wait = Wait::default();
        while self.reserving.swap(true, Acquire) {
            wait.turn();
        }
        let start = self.producer.load(Relaxed);
        let fits = len < u64::from(DISCARD)
            && total <= self.size
            && start + total - self.consumer.load(Acquire) < self.size;
        if fits {
            self.arena.u32(self.at(start)).store(len as u32 | BUSY, Relaxed);
            self.producer.store(start + total, Release);
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
        self.reserving.store(false, Release);
        fits.then(|| {
            self.arena
                .range(self.at(start) + HEADER as usize, len as usize, true)
        })
    }

    /// Makes a reserved record visible, or lets the consumer pass over it.
    pub fn commit(&self, record: &Range, discard: bool) {
        let Some(at) = self
            .arena
            .offset_of(record.addr())
            .and_then(|at| at.checked_sub(HEADER as usize))
        else {
            return;
        };
        let header = record.len() as u32 | if discard { DISCARD } else { 0 };
        self.arena.u32(at).store(header, Release);
    }

    /// Reserves, copies and commits.
    pub fn output(&self, parts: [&[u8]; 2]) -> Result<(), Errno> {
        let len = parts[0].len() + parts[1].len();
        let record = self.reserve(len as u64).ok_or(Errno::AGAIN)?;
        let mut at = self.arena.offset_of(record.addr()).ok_or(Errno::FAULT)?;
        match parts {
            [one, []] | [[], one] => self.arena.write(at, one),
            parts => {
                for byte in parts.into_iter().flatten() {
                    self.arena.write_byte(at, *byte);
                    at += 1;
                }
            }
        }
        self.commit(&record, false);
        Ok(())
    }

    /// Hands up to `max` finished records to `f`; gives their number.
    pub fn consume(&self, max: usize, mut f: impl FnMut(&[u8])) -> usize {
        let mut bytes = self.consuming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut position = self.consumer.load(Relaxed);
        let mut count = 0;
        while count < max && position < self.producer.load(Acquire) {
            let header = self.arena.u32(self.at(position)).load(Acquire);
            if header & BUSY != 0 {
                break;
            }
            let len = header & !DISCARD;
            if header & DISCARD == 0 {
                bytes.resize(len as usize, 0);
                self.arena.read(self.at(position) + HEADER as usize, &mut bytes);
                f(&bytes);
                count += 1;
            }
            position += (u64::from(len) + HEADER).next_multiple_of(8);
            self.consumer.store(position, Release);
        }
        count
    }

    /// `bpf_ringbuf_query`.
    pub fn query(&self, what: u64) -> u64 {
        let (producer, consumer) = (self.producer.load(Acquire), self.consumer.load(Acquire));
        match what {
            0 => producer - consumer,
            1 => self.size,
            2 => consumer,
            3 => producer,
            _ => 0,
        }
    }

    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// `PERF_EVENT_ARRAY`: a ring a worker, made when somebody opens it.
#[derive(Debug)]
pub(super) struct Perf {
    rings: Vec<OnceLock<Ring>>,
    open: AtomicU64,
}

impl Perf {
    pub fn new(def: &MapDef, cpus: u32) -> Perf {
        // Rings above the number of workers could only be written by naming their index.
        let n = def.max_entries.min(cpus.max(1024));
        Perf {
            rings: (0..n).map(|_| OnceLock::new()).collect(),
            open: AtomicU64::new(0),
        }
    }

    pub fn len(&self) -> u32 {
        self.open.load(Relaxed) as u32
    }

    pub fn open(&self, index: u32, bytes: u32) -> Result<(), Errno> {
        let slot = self.rings.get(index as usize).ok_or(Errno::TOOBIG)?;
        let bytes = bytes.max(4096).checked_next_power_of_two().ok_or(Errno::INVAL)?;
        let ring = Ring::new(bytes).map_err(|_| Errno::NOMEM)?;
        slot.set(ring).map_err(|_| Errno::BUSY)?;
        self.open.fetch_add(1, AcqRel);
        Ok(())
    }

    pub fn ring(&self, index: u32) -> Result<&Ring, Errno> {
        let slot = self.rings.get(index as usize).ok_or(Errno::TOOBIG)?;
        slot.get().ok_or(Errno::NOENT)
    }
}
