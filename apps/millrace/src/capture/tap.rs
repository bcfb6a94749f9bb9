//! The worker's side of a capture.

use super::Point;
use super::filter::Filter;
use crossbeam::queue::ArrayQueue;
use millrace_driver::queue::{BATCH, RxBatch};
use millrace_ebpf::{HintKind, HintLayout, RedirectKind, Verdict, XdpAction};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Hints that a record carries, with the names people see.
pub(crate) const HINTS: [(HintKind, &str); 7] = [
    (HintKind::RxHash, "rx_hash"),
    (HintKind::RxHashType, "rx_hash_type"),
    (HintKind::VlanTci, "vlan_tci"),
    (HintKind::RxTimestamp, "rx_timestamp"),
    (HintKind::PacketType, "packet_type"),
    (HintKind::Mark, "mark"),
    (HintKind::CsumStatus, "csum_status"),
];

/// One frame. The vector keeps its room when the record is used again.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) time: u64,
    pub(crate) queue: u16,
    pub(crate) len: u32,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) hints: [Option<u64>; HINTS.len()],
    pub(crate) data: Vec<u8>,
}

/// What worker and control share: records on their way, records to be filled.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) full: ArrayQueue<Record>,
    pub(crate) empty: ArrayQueue<Record>,
    /// Frames wanted.
    pub(crate) matched: AtomicU64,
    /// Those of them that were not captured because no record was free.
    pub(crate) dropped: AtomicU64,
}

impl Ring {
    pub(crate) fn new(records: usize, snap: usize) -> Arc<Ring> {
        let ring = Ring {
            full: ArrayQueue::new(records),
            empty: ArrayQueue::new(records),
            matched: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        };
        for _ in 0..records {
            let _ = ring.empty.push(Record {
                time: 0,
                queue: 0,
                len: 0,
                verdict: None,
                hints: [None; HINTS.len()],
                data: Vec::with_capacity(snap),
            });
        }
        Arc::new(ring)
    }
}

/// What a program made of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) verdicts: &'a [Verdict],
    /// Where each frame now lies in its first buffer: offset and length.
    pub(crate) extents: &'a [(usize, usize)],
}

/// A capture in front of or behind one queue's program.
pub(crate) struct Tap {
    pub(crate) point: Point,
    pub(crate) snap: usize,
    pub(crate) filter: Filter,
    pub(crate) hints: HintLayout,
    pub(crate) ring: Arc<Ring>,
    /// Frames of the batch in work, captured on entry and waiting for their verdicts.
    waiting: [Option<Record>; BATCH],
}

impl Tap {
    pub(crate) fn new(point: Point, snap: usize, filter: Filter, hints: HintLayout, ring: Arc<Ring>) -> Tap {
        Tap {
            point,
            snap,
            filter,
            hints,
            ring,
            waiting: [const { None }; BATCH],
        }
    }

    /// The batch as it came.
    pub(crate) fn entry(&mut self, batch: &RxBatch, n: usize, queue: u16) {
        if self.point == Point::Entry {
            let time = now();
            for i in 0..n.min(BATCH) {
                let first = batch.data(i);
                self.waiting[i] = self.copy(batch, i, first, queue, time);
            }
        }
    }

    /// The batch as the program left it; nothing was said without a program.
    pub(crate) fn exit(&mut self, batch: &mut RxBatch, n: usize, queue: u16, said: Option<Said<'_>>) {
        let time = now();
        for i in 0..n.min(BATCH) {
            let verdict = said.map(|said| said.verdicts[i]);
            let record = match self.point {
                Point::Entry => self.waiting[i].take(),
                Point::Exit => {
                    if let Some(said) = said {
                        let (off, len) = said.extents[i];
                        batch.set_data(i, off, len);
                    }
                    let first = batch.data(i);
                    self.copy(batch, i, first, queue, time)
                }
            };
            if let Some(mut record) = record {
                record.verdict = verdict;
                // There is a place for every record.
                let _ = self.ring.full.push(record);
            }
        }
    }

    fn copy(&self, batch: &RxBatch, i: usize, first: &[u8], queue: u16, time: u64) -> Option<Record> {
        let len = batch.frame_len(i);
        if !self.filter.wants(first, len) {
            return None;
        }
        self.ring.matched.fetch_add(1, Ordering::Relaxed);
        let Some(mut record) = self.ring.empty.pop() else {
            self.ring.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        (record.time, record.queue, record.len) = (time, queue, len as u32);
        record.data.clear();
        for k in 0..batch.frame_buffers(i) {
            let chunk = batch.chunk(i, k);
            let room = self.snap.saturating_sub(record.data.len());
            record.data.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        let raw = batch.raw(i);
        record.hints = HINTS.map(|(kind, _)| self.hints.read(kind, raw));
        Some(record)
    }
}

impl Record {
    /// Where a redirect goes.
    pub(crate) fn redirect(&self) -> Option<u32> {
        let verdict = self.verdict.filter(|v| v.action() == XdpAction::Redirect)?;
        (verdict.redirect.kind != RedirectKind::Broadcast).then_some(verdict.redirect.target)
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
