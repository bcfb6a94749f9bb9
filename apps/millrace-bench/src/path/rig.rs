//! The driver's queue pair on hand-built rings, with the bench as the NIC.

use super::case::{Case, Metadata, Scenario};
use super::chain::{self, Chain, TX_QUEUES};
use crate::BenchError;
use millrace_driver::harness::{Harness, HarnessConfig, good, recall};
use millrace_driver::mem::PageSize;
use millrace_driver::queue::{BATCH, RxBatch, RxQueue, TxMeta, TxQueue};
use std::hint::black_box;

/// Length of every frame; the bench touches the first line of each.
pub const FRAME: u16 = 60;

/// All frames of a batch, by their numbers.
const ALL: [u8; BATCH] = {
    let mut all = [0; BATCH];
    let mut i = 0;
    while i < BATCH {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// How many parts a turn may have.
pub const STAGES: usize = 7;

/// A part of the driver's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `RxQueue::poll`.
    Receive,
    /// The program on every frame.
    Program,
    /// Verdicts sorted, and a TX queue chosen for each frame.
    Sort,
    /// Looking at the frames.
    Work,
    /// `TxQueue::push_frames`.
    Push,
    /// `TxQueue::submit`: the doorbell, and taking back what was sent.
    Submit,
    /// All of it, by a worker of the framework.
    Round,
}

impl Stage {
    /// In the order in which they run.
    pub const ALL: [Stage; STAGES] = [
        Stage::Receive,
        Stage::Program,
        Stage::Sort,
        Stage::Work,
        Stage::Push,
        Stage::Submit,
        Stage::Round,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Program => "program",
            Stage::Sort => "sort",
            Stage::Work => "work",
            Stage::Push => "push",
            Stage::Submit => "submit",
            Stage::Round => "round",
        }
    }
}

/// What is done round each stage.
pub trait Watch {
    /// Runs `part`, which is `stage` of one burst.
    fn stage<T>(&mut self, stage: Stage, part: impl FnOnce() -> T) -> T;
}

/// Does nothing.
pub struct Unwatched;

impl Watch for Unwatched {
    #[inline(always)]
    fn stage<T>(&mut self, _stage: Stage, part: impl FnOnce() -> T) -> T {
        part()
    }
}

/// How the rings of a case are built.
pub fn harness(case: &Case) -> HarnessConfig {
    HarnessConfig {
        rx_ring: case.ring,
        tx_ring: case.ring,
        buffers: 4 * case.ring,
        page: PageSize::Best,
        path: case.path,
        frame: chain::frame(FRAME),
        ..HarnessConfig::default()
    }
}

/// The played NIC, and the driver's queue pair with something to do.
pub struct Rig {
    case: Case,
    nic: Harness,
    rx: RxQueue,
    tx: TxQueue,
    /// One for every burst of a turn that only sends, else one.
    batches: Vec<RxBatch>,
    /// What follows a poll, if that is the whole chain.
    chain: Option<Box<Chain>>,
}

impl Rig {
    /// Empty rings.
    pub fn new(case: &Case) -> Result<Rig, BenchError> {
        if case.scenario != Scenario::Chain {
            return Ok(Rig::on(case, Harness::new(&harness(case))?));
        }
        let mut pairs = Harness::several(&harness(case), TX_QUEUES)?.into_iter();
        let (Some(first), Some(second)) = (pairs.next(), pairs.next()) else {
            return Err(BenchError::QueuesGone);
        };
        let mut rig = Rig::on(case, first);
        rig.chain = Some(Box::new(Chain::new(second)?));
        Ok(rig)
    }

    /// A rig of a case of forwarding on a harness of one's own, whose polls prefetch frames or do not.
    pub fn forwarding(case: &Case, config: &HarnessConfig, prefetch: bool) -> Result<Rig, BenchError> {
        let mut rig = Rig::on(case, Harness::new(config)?);
        for batch in &mut rig.batches {
            batch.set_prefetch(prefetch);
        }
        Ok(rig)
    }

    /// As [`new`](Self::new), `n` times, on queue pairs of one port.
    pub fn several(case: &Case, n: u16) -> Result<Vec<Rig>, BenchError> {
        let pairs = Harness::several(&harness(case), n)?;
        Ok(pairs.into_iter().map(|pair| Rig::on(case, pair)).collect())
    }

    fn on(case: &Case, (nic, rx, tx): (Harness, RxQueue, TxQueue)) -> Rig {
        let batches = match case.scenario {
            Scenario::Tx => case.ring.div_ceil(case.burst.min(BATCH as u32)),
            _ => 1,
        };
        let mut batches: Vec<RxBatch> = (0..batches).map(|_| RxBatch::new()).collect();
        for batch in &mut batches {
            batch.set_limit(case.burst as usize);
            // Nothing is read of frames that are dropped.
            batch.set_prefetch(case.scenario != Scenario::RxDrop);
        }
        Rig {
            case: *case,
            nic,
            rx,
            tx,
            batches,
            chain: None,
        }
    }

    /// Bytes of a page of the packet buffers.
    pub fn page_bytes(&self) -> usize {
        self.nic.region().memory().page_size()
    }

    /// The NIC's turn: takes everything that was sent, then receives `frames`, or lays them ready to be sent. Fails if the
    /// driver had not sent all of the `before` frames it was given the last time, or has not posted buffers enough.
    pub fn supply(&mut self, before: u32, frames: u32) -> Result<(), BenchError> {
        let mut sent = self.nic.tx.transmit_all();
        if let Some(chain) = &mut self.chain {
            sent += chain.transmit_all();
        }
        let should = match self.case.scenario {
            Scenario::RxDrop => 0,
            _ => before,
        };
        let received = match self.case.scenario {
            Scenario::Tx => self.lay_ready(frames),
            Scenario::Chain | Scenario::Worker => chain::receive_flows(&mut self.nic, frames)?,
            _ => self.nic.rx.receive_same(frames, good(FRAME).encode()),
        };
        if (sent, received) == (should, frames) {
            return Ok(());
        }
        Err(BenchError::WrongOutcome {
            case: "path",
            outcome: format!(
                "{sent} of {should} frames were sent, and room was for {received} of {frames} more"
            ),
        })
    }

    /// Brings back what the driver keeps for itself, after all caches of this core were emptied: a NIC would have left it.
    pub fn recall(&self) {
        for batch in &self.batches {
            black_box(recall(&self.rx, &self.tx, batch));
        }
        if let Some(chain) = &self.chain {
            chain.recall();
        }
    }

    fn lay_ready(&mut self, frames: u32) -> u32 {
        let mut ready = 0;
        for batch in &mut self.batches {
            let n = (self.case.burst.min(BATCH as u32)).min(frames - ready);
            ready += self.tx.allocate(batch, n as usize, FRAME) as u32;
        }
        ready
    }

    /// The driver's turn, and what is measured: `frames` of them, or until a poll brings nothing.
    #[inline(never)]
    pub fn drain(&mut self, frames: usize) {
        self.drain_with(frames, &mut Unwatched);
    }

    /// As [`drain`](Self::drain), with something round each stage.
    #[inline(always)]
    pub fn drain_with(&mut self, frames: usize, watch: &mut impl Watch) {
        match (self.case.scenario, self.case.metadata) {
            (Scenario::Tx, _) => self.send(watch),
            (Scenario::Chain | Scenario::Worker, _) => self.chain(frames, watch),
            (Scenario::RxDrop, Metadata::Plain) => self.poll(frames, watch, |_| (), false),
            (Scenario::RxDrop, Metadata::Full) => self.poll(frames, watch, look_at_all, false),
            (Scenario::Forward, Metadata::Plain) => {
                self.poll(frames, watch, |batch| batch.for_each_head(swap_addresses), true);
            }
            (Scenario::Forward, Metadata::Full) => {
                let work = |batch: &mut RxBatch| {
                    look_at_all(batch);
                    batch.for_each_head(swap_addresses);
                };
                self.poll(frames, watch, work, true);
            }
        }
    }

    /// As [`drain`](Self::drain) of forwarding, with something else done with the frames.
    #[inline(never)]
    pub fn forward_with(&mut self, frames: usize, work: impl FnMut(&mut RxBatch)) {
        self.poll(frames, &mut Unwatched, work, true);
    }

    #[inline(always)]
    fn poll(
        &mut self,
        frames: usize,
        watch: &mut impl Watch,
        mut work: impl FnMut(&mut RxBatch),
        forward: bool,
    ) {
        let [batch, ..] = &mut self.batches[..] else {
            return;
        };
        let (mut left, mut unsent) = (frames, 0);
        while left > 0 {
            let n = watch.stage(Stage::Receive, || self.rx.poll(batch)).min(BATCH);
            if n == 0 {
                break;
            }
            watch.stage(Stage::Work, || work(batch));
            left = left.saturating_sub(n);
            if forward {
                watch.stage(Stage::Push, || {
                    self.tx.push_frames(batch, &ALL[..n], &TxMeta::NONE)
                });
                unsent += n;
                // A burst of more than a batch is several polls and one doorbell.
                if unsent >= self.case.burst as usize || left == 0 {
                    watch.stage(Stage::Submit, || self.tx.submit());
                    unsent = 0;
                }
            }
        }
    }

    #[inline(always)]
    fn chain(&mut self, frames: usize, watch: &mut impl Watch) {
        let (Some(chain), [batch, ..]) = (&mut self.chain, &mut self.batches[..]) else {
            return;
        };
        let (mut left, mut unsent) = (frames, 0);
        while left > 0 {
            let n = watch.stage(Stage::Receive, || self.rx.poll(batch)).min(BATCH);
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
            chain.deal(batch, n, &mut self.tx, watch);
            unsent += n;
            if unsent >= self.case.burst as usize || left == 0 {
                chain.submit(&mut self.tx, watch);
                unsent = 0;
            }
        }
    }

    #[inline(always)]
    fn send(&mut self, watch: &mut impl Watch) {
        let mut unsent = 0;
        for batch in &mut self.batches {
            let n = batch.len().min(BATCH);
            if n == 0 {
                break;
            }
            watch.stage(Stage::Push, || {
                self.tx.push_frames(batch, &ALL[..n], &TxMeta::NONE)
            });
            unsent += n;
            if unsent >= self.case.burst as usize {
                watch.stage(Stage::Submit, || self.tx.submit());
                unsent = 0;
            }
        }
        if unsent > 0 {
            self.tx.submit();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The played NIC lets go of its buffers, so that the queues can give them back.
        self.nic.close();
    }
}

/// Destination and source of an Ethernet frame change places.
#[inline(always)]
pub fn swap_addresses(frame: &mut [u8]) {
    // Two loads and two stores: bytes put in order one by one become four and three. Nothing of the library's but what is known to be
    // inlined: its ways of copying and swapping slices stay calls in a build that does not optimise at link time.
    if let Some(macs) = frame.first_chunk_mut::<12>()
        && let (Some(front), Some(back)) = (macs.first_chunk(), macs.last_chunk())
    {
        let (front, back) = (u64::from_le_bytes(*front), u64::from_le_bytes(*back));
        if let Some((first, rest)) = macs.split_first_chunk_mut::<8>()
            && let Some(last) = rest.first_chunk_mut::<4>()
        {
            *first = (back >> 16 | front << 48).to_le_bytes();
            *last = ((front >> 16) as u32).to_le_bytes();
        }
    }
}

#[inline(always)]
fn look_at_all(batch: &mut RxBatch) {
    let sum = batch.raws16().iter().fold(0, |sum, raw| look_at(sum, *raw));
    black_box(sum);
}

/// Reads every field of an 82599 write-back (datasheet 7.1.6.2) and mixes them into `sum`.
#[inline(always)]
pub fn look_at(sum: u64, [low, high]: [u64; 2]) -> u64 {
    let (rss_type, ptype, hash) = (low & 0xf, low >> 4 & 0x1fff, low >> 32);
    let (l4_checked, ip_checked, tagged) = (high >> 5 & 1, high >> 6 & 1, high >> 3 & 1);
    let (l4_bad, ip_bad, tci) = (high >> 30 & 1, high >> 31 & 1, high >> 48);
    let hash = if rss_type != 0 { hash } else { 0 };
    let tci = if tagged != 0 { tci } else { 0 };
    let verdicts = l4_checked << 1 | ip_checked << 2 | l4_bad << 3 | ip_bad << 4;
    sum.wrapping_add(hash)
        .wrapping_add(ptype)
        .wrapping_add(tci)
        .wrapping_add(verdicts)
}

#[cfg(test)]
mod tests {
    use super::super::case::State;
    use super::*;
    use millrace_driver::harness::Sent;
    use millrace_driver::simd::CpuPath;

    fn case(scenario: Scenario, burst: u32) -> Case {
        Case {
            scenario,
            burst,
            ring: 256,
            state: State::Warm,
            metadata: Metadata::Full,
            path: CpuPath::best(),
        }
    }

    #[test]
    fn every_frame_goes_back_out_with_its_addresses_swapped() {
        let case = case(Scenario::Forward, 32);
        let config = HarnessConfig {
            // A memfd on large pages cannot be written like a file.
            page: PageSize::Small,
            ..harness(&case)
        };
        let mut rig = Rig::on(&case, Harness::new(&config).unwrap());
        let mut frame: Vec<u8> = (0..60).collect();
        for _ in 0..100 {
            assert!(rig.nic.rx.receive_frame(&frame, good(0)).unwrap());
        }
        rig.drain(100);
        let mut sent = Vec::new();
        assert_eq!(rig.nic.tx.transmit(256, |one| sent.push(one)).unwrap(), 100);
        frame[..12].rotate_left(6);
        for one in &sent {
            let Sent::Data(data) = one else { panic!("{one:?}") };
            assert_eq!(rig.nic.tx.sent(data).unwrap(), frame);
        }
    }

    #[test]
    fn each_scenario_deals_with_all_its_frames_at_every_burst() {
        for scenario in [Scenario::RxDrop, Scenario::Forward, Scenario::Tx, Scenario::Chain] {
            for burst in [1, 3, 32, 64, 128] {
                let mut rig = Rig::new(&case(scenario, burst)).unwrap();
                let mut before = 0;
                for _ in 0..20 {
                    rig.supply(before, 128).unwrap();
                    rig.drain(128);
                    before = 128;
                }
            }
        }
    }

    #[test]
    fn a_round_that_did_not_send_everything_is_noticed() {
        let mut rig = Rig::new(&case(Scenario::Forward, 32)).unwrap();
        rig.supply(0, 32).unwrap();
        assert!(matches!(rig.supply(32, 32), Err(BenchError::WrongOutcome { .. })));
    }
}
