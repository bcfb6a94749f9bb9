//! A worker's queue pair, and how frames get into its ring.

use super::counters::{Counter, LocalCounters};
use millrace_driver::hint::{HintKind, HintReader};
use millrace_driver::queue::{RxBatch, RxQueue, TxMeta, TxQueue, TxRefused};
use millrace_driver::steering::flow_hash;
use std::os::fd::OwnedFd;

/// A queue pair as a worker holds it.
pub(crate) struct QueuePair {
    pub(crate) rx: RxQueue,
    pub(crate) tx: TxQueue,
    /// The RX queue's interrupt, when the port was opened with interrupts.
    pub(crate) irq: Option<OwnedFd>,
    /// The RSS hash in this RX queue's write-backs, if they have it where it is quickly read.
    hash: Option<HintReader>,
}

impl QueuePair {
    pub(crate) fn new(rx: RxQueue, tx: TxQueue, irq: Option<OwnedFd>) -> QueuePair {
        let hash = rx.hint_layout().reader(HintKind::RssHash);
        QueuePair { rx, tx, irq, hash }
    }

    /// The flow hash of frame `i`: the NIC's where its write-back has one, else computed from the frame.
    #[inline(always)]
    pub(crate) fn flow(&self, batch: &RxBatch, i: usize, key: &[u8; 40]) -> u32 {
        if let (Some(hash), Some(raw)) = (&self.hash, batch.raws16().get(i))
            && let Some(hash) = hash.read(raw)
        {
            return hash as u32;
        }
        self.flow_slowly(batch, i, key)
    }

    #[cold]
    #[inline(never)]
    fn flow_slowly(&self, batch: &RxBatch, i: usize, key: &[u8; 40]) -> u32 {
        let given = self.rx.hint_layout().get(HintKind::RssHash, batch.raw(i));
        given.map_or_else(|| flow_hash(key, batch.data(i)).unwrap_or(0), |hash| hash as u32)
    }

    /// Puts frames of a batch into the ring, in order.
    pub(crate) fn push(&mut self, batch: &mut RxBatch, frames: &[u8], counters: &mut LocalCounters) {
        let (mut left, mut sent) = (frames, 0);
        loop {
            let taken = self.tx.push_frames(batch, left, &TxMeta::NONE);
            sent += taken as u64;
            let Some((refused, rest)) = left.get(taken..).and_then(<[u8]>::split_first) else {
                break;
            };
            // Once more with what the device has sent taken back; that tells, too, what is wrong with it.
            self.tx.submit();
            self.tx.reclaim();
            let outcome = batch.move_to(usize::from(*refused), &mut self.tx, &TxMeta::NONE);
            counters.add(sent_as(&outcome), 1);
            left = rest;
        }
        counters.add(Counter::TxFrames, sent);
    }
}

/// Puts a copy of `bytes` into a ring.
pub(crate) fn push_copy(tx: &mut TxQueue, bytes: &[u8]) -> Result<(), TxRefused> {
    match tx.push_copy(bytes, &TxMeta::NONE) {
        Err(TxRefused::Full) => {
            tx.submit();
            tx.reclaim();
            tx.push_copy(bytes, &TxMeta::NONE)
        }
        outcome => outcome,
    }
}

/// What an outcome is counted as.
pub(crate) fn sent_as(outcome: &Result<(), TxRefused>) -> Counter {
    match outcome {
        Ok(()) => Counter::TxFrames,
        Err(TxRefused::Full) => Counter::TxFull,
        Err(_) => Counter::TxRefused,
    }
}
