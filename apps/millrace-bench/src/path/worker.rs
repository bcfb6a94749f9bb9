//! A whole worker of the framework on the rings that [`super::rig`] plays the NIC of: what [`super::chain`] does by hand, done by
//! what an application runs.

use super::case::Case;
use super::chain::{TX_QUEUES, program, receive_flows};
use super::rig::{Stage, Watch, harness};
use crate::BenchError;
use millrace::HandWorker;
use millrace_driver::harness::{Harness, recall};
use std::hint::black_box;

/// The played NIC, and a worker with two queue pairs of one port. All frames come in on the first.
pub struct ByWorker {
    nics: Vec<Harness>,
    worker: HandWorker,
}

impl ByWorker {
    /// Empty rings.
    pub fn new(case: &Case) -> Result<ByWorker, BenchError> {
        let (mut nics, mut pairs) = (Vec::new(), Vec::new());
        for (nic, rx, tx) in Harness::several(&harness(case), TX_QUEUES)? {
            nics.push(nic);
            pairs.push((rx, tx));
        }
        let mut worker = HandWorker::new(pairs, Some(program()?), None).map_err(BenchError::balancer)?;
        let queues: Vec<u16> = (0..TX_QUEUES).collect();
        worker.set_rxq(0, &queues).map_err(BenchError::balancer)?;
        worker.set_burst(case.burst as usize);
        Ok(ByWorker { nics, worker })
    }

    /// Bytes of a page of the packet buffers.
    pub fn page_bytes(&self) -> usize {
        let region = self.nics.first().map(Harness::region);
        region.map_or(0, |region| region.memory().page_size())
    }

    /// The NIC's turn: takes everything that was sent, then receives `frames`. Fails if the worker had not sent all of the
    /// `before` frames it was given the last time, or has not posted buffers enough.
    pub fn supply(&mut self, before: u32, frames: u32) -> Result<(), BenchError> {
        let sent = self.nics.iter_mut().map(|nic| nic.tx.transmit_all()).sum();
        let received = match self.nics.first_mut() {
            Some(nic) => receive_flows(nic, frames)?,
            None => 0,
        };
        if (sent, received) == (before, frames) {
            return Ok(());
        }
        Err(BenchError::WrongOutcome {
            case: "path",
            outcome: format!(
                "a worker sent {sent} of {before} frames, and room was for {received} of {frames} more"
            ),
        })
    }

    /// Brings back what driver and worker keep for themselves, after all caches of this core were emptied.
    pub fn recall(&self) {
        for (rx, tx, batch) in self.worker.queues() {
            black_box(recall(rx, tx, batch));
        }
    }

    /// The worker's turn, and what is measured: `frames` of them, or until a round finds nothing.
    #[inline(always)]
    pub fn drain_with(&mut self, frames: usize, watch: &mut impl Watch) {
        let mut left = frames;
        while left > 0 {
            match watch.stage(Stage::Round, || self.worker.round()) {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
    }
}

impl Drop for ByWorker {
    fn drop(&mut self) {
        // The played NIC lets go of its buffers, so that the queues can give them back.
        self.nics.iter().for_each(Harness::close);
    }
}
