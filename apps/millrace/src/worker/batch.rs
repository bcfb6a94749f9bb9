//! What happens to the frames of one poll: the program runs over all of them, then each goes where its verdict says.

use super::chain::Attached;
use super::counters::{Counter, LocalCounters};
use super::execute::{count_several, run_on_several, run_program};
use super::mask::{Others, bits, first};
use super::pair::{QueuePair, push_copy, sent_as};
use crate::capture::tap::{Said, Tap};
use crate::exception::TapPort;
use arrayvec::ArrayVec;
use millrace_driver::mem::Frame;
use millrace_driver::queue::{BATCH, RxBatch, TxMeta, TxRefused};
use millrace_driver::steering::{TxFrame, TxSteering};
use millrace_ebpf::{Frags, RedirectKind, Verdict};
use std::sync::Arc;

/// One queue of a worker, with all that its frames need.
pub(crate) struct Slot {
    pub(crate) port: usize,
    pub(crate) queue: u16,
    /// What programs see as `ingress_ifindex` and name in a redirect: the port's index plus one.
    pub(crate) ifindex: u32,
    /// `None` while the queue is stopped.
    pub(crate) pair: Option<QueuePair>,
    pub(crate) batch: Box<RxBatch>,
    /// Stays while the queue is stopped and started.
    pub(crate) program: Option<Box<Attached>>,
    /// A capture in front of or behind the program.
    pub(crate) tapped: Option<Box<Tap>>,
    pub(crate) steering: TxSteering,
    /// Toeplitz key for the flow hash of frames that the NIC gave none.
    pub(crate) key: [u8; 40],
    pub(crate) tap: Option<Arc<TapPort>>,
    pub(crate) counters: LocalCounters,
}

/// What a callback wants done with a passed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassAction {
    /// The callback has dealt with it; its buffer goes home.
    Taken,
    /// Write it to the exception tap.
    ToTap,
    /// Send it out of the port it came in on, as `XDP_TX` would.
    Transmit,
}

/// A passed frame as a callback sees it.
#[derive(Debug)]
pub struct PassedFrame<'a> {
    /// Index of the port it came in on, in the order of the builder.
    pub port: usize,
    /// RX queue it came in on.
    pub queue: u16,
    /// The bytes; of a frame that took several buffers, those in the first one.
    pub data: &'a mut [u8],
    /// Length of the whole frame in bytes.
    pub len: usize,
}

/// Called on the worker for each passed frame; must not block.
pub type PassHandler = Box<dyn FnMut(PassedFrame<'_>) -> PassAction + Send>;

/// A frame that must leave through a queue other than the one it came in on.
pub(crate) struct Away {
    pub(crate) port: usize,
    /// `None`: the worker's own choice on that port.
    pub(crate) queue: Option<u16>,
    pub(crate) frame: Frame,
}

/// A worker's reused space; nothing is allocated per batch.
pub(crate) struct Scratch {
    pub(crate) cpu: u16,
    pub(crate) ports: usize,
    pub(crate) handler: Option<PassHandler>,
    pub(crate) away: ArrayVec<Away, BATCH>,
    /// Frames of the batch that other queues of the port shall send.
    pub(crate) others: Others,
    /// Frames of several buffers are joined here before they are written to the tap or copied to another port.
    pub(crate) joined: Vec<u8>,
    pub(crate) verdicts: [Verdict; BATCH],
    /// Where the program left each frame's data: offset in its first buffer, and length.
    pub(crate) extents: [(usize, usize); BATCH],
    /// Frames whose data the program moved, one bit each.
    pub(crate) moved: u64,
    /// Frames to be sent out of the port they came in on, one bit each.
    out: u64,
    /// The later buffers of the frame in work.
    pub(crate) frags: Frags,
}

impl Scratch {
    pub(crate) fn new(cpu: u16, ports: usize, handler: Option<PassHandler>) -> Scratch {
        Scratch {
            cpu,
            ports,
            handler,
            away: ArrayVec::new(),
            others: Others::default(),
            joined: Vec::with_capacity(64 << 10),
            verdicts: [Verdict::default(); BATCH],
            extents: [(0, 0); BATCH],
            moved: 0,
            out: 0,
            frags: Frags::default(),
        }
    }
}

impl Slot {
    /// Polls once and deals with what came; frames for other queues are left in `scratch.others`, those for other ports in
    /// `scratch.away`. Returns how many came.
    ///
    /// What the frames have in common is done once for all of them: counting, the program's entry, the choice of a TX queue
    /// where maps say the same for each, and the push into the ring.
    pub(crate) fn receive(&mut self, scratch: &mut Scratch) -> usize {
        let Some(pair) = &mut self.pair else { return 0 };
        let n = pair.rx.poll(&mut self.batch).min(BATCH);
        if n == 0 {
            return 0;
        }
        if let Some(tap) = &mut self.tapped {
            tap.entry(&self.batch, n, self.queue);
        }
        let whole = self.batch.buffers() == n;
        let bytes = match &mut self.program {
            Some(attached) if whole => {
                run_program(attached, &mut self.batch, self.queue, self.ifindex, scratch)
            }
            Some(attached) => {
                let bytes = count_several(&self.batch, &mut self.counters, n);
                run_on_several(attached, &mut self.batch, self.queue, self.ifindex, scratch);
                bytes
            }
            None if whole => self.batch.split_frames_mut().map(|view| view.len).sum(),
            None => count_several(&self.batch, &mut self.counters, n),
        };
        self.counters.add(Counter::RxFrames, n as u64);
        self.counters.add(Counter::RxBytes, bytes as u64);
        if let Some(tap) = &mut self.tapped {
            let said = Said {
                verdicts: &scratch.verdicts,
                extents: &scratch.extents,
            };
            let said = self.program.is_some().then_some(said);
            tap.exit(&mut self.batch, n, self.queue, said);
        }
        if self.program.is_some() {
            self.settle(n, scratch);
        } else {
            self.counters.add(Counter::NoProgram, n as u64);
            self.pass(first(n), scratch);
        }
        self.transmit(scratch);
        n
    }

    /// Each frame goes where its verdict says; what is not moved out goes home with the next poll.
    fn settle(&mut self, n: usize, scratch: &mut Scratch) {
        // By verdict, in the order of the numbers that actions have; one bit a frame.
        let mut said = [0u64; 5];
        for (i, verdict) in scratch.verdicts.iter().enumerate().take(n) {
            said[verdict.action() as usize] |= 1 << i;
        }
        let [aborted, drop, pass, tx, redirect] = said;
        for (counter, frames) in [
            (Counter::Aborted, aborted),
            (Counter::Drop, drop),
            (Counter::Pass, pass),
            (Counter::Tx, tx),
            (Counter::Redirect, redirect),
        ] {
            self.counters.add(counter, u64::from(frames.count_ones()));
        }
        for i in bits(scratch.moved & (pass | tx | redirect)) {
            let (off, len) = scratch.extents[i];
            self.batch.set_data(i, off, len);
        }
        scratch.out = tx;
        if pass != 0 {
            self.pass(pass, scratch);
        }
        for i in bits(redirect) {
            self.redirect(i, scratch.verdicts[i], scratch);
        }
    }

    /// Frames for the application: its callback first, then the exception tap.
    fn pass(&mut self, frames: u64, scratch: &mut Scratch) {
        let Scratch {
            handler, out, joined, ..
        } = scratch;
        let mut to_tap = frames;
        if let Some(handler) = handler {
            to_tap = 0;
            let (port, queue) = (self.port, self.queue);
            let mut call = |i: usize, data: &mut [u8], len| match handler(PassedFrame {
                port,
                queue,
                data,
                len,
            }) {
                PassAction::Taken => {}
                PassAction::Transmit => *out |= 1 << i,
                PassAction::ToTap => to_tap |= 1 << i,
            };
            if self.batch.buffers() == self.batch.len() {
                let views = self.batch.split_frames_mut();
                for view in views.filter(|view| frames >> view.frame & 1 == 1) {
                    let data = view.buffer.get_mut(view.off..view.off + view.len);
                    call(view.frame, data.unwrap_or_default(), view.len);
                }
            } else {
                for i in bits(frames) {
                    let len = self.batch.frame_len(i);
                    call(i, self.batch.data_mut(i), len);
                }
            }
            let taken = (frames & !to_tap).count_ones();
            self.counters.add(Counter::PassCallback, u64::from(taken));
        }
        let Some(tap) = &self.tap else {
            return self
                .counters
                .add(Counter::PassNowhere, u64::from(to_tap.count_ones()));
        };
        for i in bits(to_tap) {
            let written = if self.batch.frame_buffers(i) == 1 {
                tap.write(self.batch.data(i))
            } else {
                joined.clear();
                for k in 0..self.batch.frame_buffers(i) {
                    joined.extend_from_slice(self.batch.chunk(i, k));
                }
                tap.write(joined)
            };
            let counter = if written {
                Counter::PassTap
            } else {
                Counter::PassTapFull
            };
            self.counters.add(counter, 1);
        }
    }

    /// Sends the frames of `scratch.out` out of this port, each on the queue that steering chooses: those for this queue at
    /// once, the others are left in `scratch.others`.
    fn transmit(&mut self, scratch: &mut Scratch) {
        let frames = std::mem::take(&mut scratch.out);
        let Some(pair) = self.pair.as_mut().filter(|_| frames != 0) else {
            return;
        };
        let (mut own, mut count) = ([0u8; BATCH], 0);
        let mut put = |queue, i: usize| {
            if queue == self.queue {
                // There are no more bits than places.
                own[count % BATCH] = i as u8;
                count += 1;
            } else {
                scratch.others.put(queue, i);
            }
        };
        let rxq = Some(self.queue);
        if self.steering.has_program() {
            for i in bits(frames) {
                let opinion = opinion(&mut self.steering, &mut self.batch, i, self.queue);
                let hash = || pair.flow(&self.batch, i, &self.key);
                put(self.steering.choose_with(rxq, scratch.cpu, hash, opinion), i);
            }
        } else {
            let hash = |i: &usize| pair.flow(&self.batch, *i, &self.key);
            self.steering.spread(rxq, scratch.cpu, bits(frames), hash, put);
        }
        let mut own = &mut own[..count.min(BATCH)];
        if self.batch.buffers() != self.batch.len() {
            let whole = part_whole(&self.batch, own, self.queue, &mut scratch.others);
            own = &mut own[..whole];
        }
        pair.push(&mut self.batch, own, &mut self.counters);
    }

    /// Puts frames of another queue's batch into this queue's ring, in order.
    pub(crate) fn push_from(&mut self, batch: &mut RxBatch, frames: &[u8]) {
        match &mut self.pair {
            Some(pair) => pair.push(batch, frames, &mut self.counters),
            None => self.counters.add(Counter::TxNoQueue, frames.len() as u64),
        }
    }

    /// Whether frames of `batch` can be put into this queue's ring as they are.
    pub(crate) fn shares_memory(&self, batch: &RxBatch) -> bool {
        let region = batch.region().zip(self.pair.as_ref());
        region.is_some_and(|(region, pair)| Arc::ptr_eq(region, pair.tx.region()))
    }

    fn redirect(&mut self, i: usize, verdict: Verdict, scratch: &mut Scratch) {
        let target = verdict.redirect.target;
        if verdict.redirect.kind != RedirectKind::Ifindex || target == 0 || target as usize > scratch.ports {
            return self.counters.add(Counter::RedirectUnsupported, 1);
        }
        self.counters.add(Counter::RedirectPort, 1);
        if target == self.ifindex {
            scratch.out |= 1 << i;
        } else {
            self.send_away(i, target as usize - 1, None, scratch);
        }
    }

    pub(crate) fn send_away(&mut self, i: usize, port: usize, queue: Option<u16>, scratch: &mut Scratch) {
        match self.batch.take(i) {
            // There is room for a whole batch and the worker empties it after each.
            Some(frame) => {
                if scratch.away.try_push(Away { port, queue, frame }).is_err() {
                    self.counters.add(Counter::TxHandoverFull, 1);
                }
            }
            None => self.counters.add(Counter::TxRefused, 1),
        }
    }

    /// Puts a frame of this or another port into this queue's ring.
    pub(crate) fn send_frame(&mut self, frame: Frame, joined: &mut Vec<u8>) {
        let Some(pair) = &mut self.pair else {
            return self.counters.add(Counter::TxNoQueue, 1);
        };
        let counter = if Arc::ptr_eq(frame.region(), pair.tx.region()) {
            let mut outcome = pair.tx.push(frame, &TxMeta::NONE);
            if let Err((frame, TxRefused::Full)) = outcome {
                pair.tx.submit();
                pair.tx.reclaim();
                outcome = pair.tx.push(frame, &TxMeta::NONE);
            }
            sent_as(&outcome.map_err(|(_, refused)| refused))
        } else {
            joined.clear();
            frame.copy_to(joined);
            sent_as(&push_copy(&mut pair.tx, joined))
        };
        self.counters.add(counter, 1);
    }

    /// Puts bytes from outside into this queue's ring.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let Some(pair) = &mut self.pair else {
            return self.counters.add(Counter::TxNoQueue, 1);
        };
        let counter = sent_as(&push_copy(&mut pair.tx, bytes));
        if counter == Counter::TxFrames {
            self.counters.add(Counter::TapToPort, 1);
        }
        self.counters.add(counter, 1);
    }

    /// Rings the doorbell for what was put into the TX ring, once a round.
    pub(crate) fn submit(&mut self) {
        if let Some(pair) = &mut self.pair {
            pair.tx.submit();
        }
    }

    /// Makes the counters visible to other threads.
    pub(crate) fn publish(&mut self) {
        let steering = self.steering.stats();
        self.counters.set(Counter::SteerProgram, steering.program);
        self.counters.set(Counter::SteerOutOfRange, steering.out_of_range);
        self.counters.set(Counter::SteerNoOpinion, steering.no_opinion);
        self.counters.set(Counter::SteerAborted, steering.aborted);
        self.counters.set(Counter::SteerRxq, steering.rxq_map);
        self.counters.set(Counter::SteerCpu, steering.cpu_map);
        self.counters.set(Counter::SteerHash, steering.fallback);
        self.counters.publish();
    }
}

/// Brings those of `frames` to the front that have all their buffers; the others go the long way, on which what is left of them
/// becomes a frame. Gives how many are whole.
#[cold]
fn part_whole(batch: &RxBatch, frames: &mut [u8], queue: u16, others: &mut Others) -> usize {
    let mut whole = 0;
    for at in 0..frames.len() {
        let i = frames[at];
        if batch.is_whole(usize::from(i)) {
            frames[whole] = i;
            whole += 1;
        } else {
            others.put(queue, usize::from(i));
        }
    }
    whole
}

/// What a steering program says about the TX queue of frame `i`.
fn opinion(steering: &mut TxSteering, batch: &mut RxBatch, i: usize, queue: u16) -> Option<i32> {
    let mut raw = [0u8; 32];
    let given = batch.raw(i);
    let len = given.len().min(raw.len());
    raw[..len].copy_from_slice(&given[..len]);
    let whole = batch.frame_len(i);
    steering.run_program(TxFrame {
        data: batch.data_mut(i),
        len: whole,
        raw: &raw[..len],
        rxq: Some(queue),
    })
}
