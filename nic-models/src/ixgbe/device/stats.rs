//! Counting frames into the statistics registers (datasheet 8.2.3.23). Lengths include the 4 FCS bytes, except the byte
//! counts of received frames that passed the filters while the MAC strips the FCS: there Linux's and DPDK's drivers
//! find hardware that leaves it out.

use super::file::RegFile;
use crate::ixgbe::regs::{Id, hlreg0};

/// Bytes of an Ethernet FCS, which no frame here carries but every counter counts.
pub(super) const FCS: usize = 4;

const RX_SIZES: [Id; 6] = [
    Id::PRC64,
    Id::PRC127,
    Id::PRC255,
    Id::PRC511,
    Id::PRC1023,
    Id::PRC1522,
];
const TX_SIZES: [Id; 6] = [
    Id::PTC64,
    Id::PTC127,
    Id::PTC255,
    Id::PTC511,
    Id::PTC1023,
    Id::PTC1522,
];

/// Which of the six size counters a frame of `len` bytes with FCS is for.
#[inline]
fn size_class(len: usize) -> usize {
    match len {
        0..=64 => 0,
        // 65 to 127, and so on by powers of two.
        _ => (len.ilog2() as usize).min(10) - 5,
    }
}

/// Frames and their bytes, without FCS.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    frames: u32,
    bytes: u64,
}

impl Sum {
    #[inline]
    fn add(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }

    /// Bytes with so many more for each frame.
    fn bytes_with(self, each: usize) -> u64 {
        self.bytes + u64::from(self.frames) * each as u64
    }

    /// All of these but some of them.
    fn but(self, some: Sum) -> Sum {
        Sum {
            frames: self.frames - some.frames,
            bytes: self.bytes - some.bytes,
        }
    }
}

/// What frames of one direction are counted by.
#[derive(Debug, Default)]
struct Direction {
    sizes: [u32; 6],
    broadcast: u32,
    multicast: u32,
    /// By per-queue counter.
    queues: [Sum; QUEUE_COUNTERS],
    /// Counters in use, one bit each.
    used: u16,
}

/// Per-queue counters (QPRC and its relatives).
const QUEUE_COUNTERS: usize = 16;

impl Direction {
    #[inline]
    fn add(&mut self, frame: &[u8]) {
        self.sizes[size_class(frame.len() + FCS)] += 1;
        if frame.first().is_some_and(|b| b & 1 == 1) {
            self.add_group(frame);
        }
    }

    #[cold]
    fn add_group(&mut self, frame: &[u8]) {
        if frame.get(..6) == Some(&[0xff; 6]) {
            self.broadcast += 1;
        } else {
            self.multicast += 1;
        }
    }

    #[inline]
    fn add_queue(&mut self, len: usize, counter: u32) {
        let counter = counter as usize % QUEUE_COUNTERS;
        self.queues[counter].add(len);
        self.used |= 1 << counter;
    }

    /// Frames of all queues.
    fn all(&self) -> Sum {
        self.queues.iter().fold(Sum::default(), |all, queue| Sum {
            frames: all.frames + queue.frames,
            bytes: all.bytes + queue.bytes,
        })
    }
}

/// Frames of a round of work, counted into the registers at its end: software sees the registers only between rounds. Nearly
/// every frame gets as far as memory, so those that do not are counted, and the rest follows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Came off the wire, good or not.
    any: Sum,
    /// Of these, those that were not good.
    bad: Sum,
    /// Of the good ones, those that did not pass the filters.
    stopped: Sum,
    rx: Direction,
    tx: Direction,
    some: bool,
}

impl Tally {
    /// A frame came off the wire, good or not.
    #[inline]
    pub fn rx_any(&mut self, frame: &[u8]) {
        self.any.add(frame.len());
        self.some = true;
    }

    /// It was not a good frame.
    #[inline]
    pub fn rx_bad(&mut self, frame: &[u8]) {
        self.bad.add(frame.len());
    }

    /// It was a good frame, but ended in the MAC or did not pass the filters.
    #[inline]
    pub fn rx_stopped(&mut self, frame: &[u8]) {
        self.stopped.add(frame.len());
    }

    /// It passed the filters.
    #[inline]
    pub fn rx_passed(&mut self, frame: &[u8]) {
        self.rx.add(frame);
    }

    /// It reached host memory through a queue of per-queue counter `counter`.
    #[inline]
    pub fn rx_delivered(&mut self, len: usize, counter: u32) {
        self.rx.add_queue(len, counter);
        self.some = true;
    }

    /// A frame went out.
    #[inline]
    pub fn tx_sent(&mut self, frame: &[u8], counter: u32) {
        self.tx.add(frame);
        self.tx.add_queue(frame.len(), counter);
        self.some = true;
    }

    /// Counts everything into the registers.
    pub fn flush(&mut self, file: &mut RegFile) {
        if self.some {
            std::mem::take(self).count(file);
        }
    }

    fn count(self, file: &mut RegFile) {
        let Tally {
            any,
            bad,
            stopped,
            rx,
            tx,
            ..
        } = self;
        let good = any.but(bad);
        let (passed, delivered) = (good.but(stopped), rx.all());
        let all_sent = tx.all();
        // What the byte counters behind the filters see of an FCS.
        let fcs = if file.one(Id::HLREG0) & hlreg0::RXCRCSTRP != 0 {
            0
        } else {
            FCS
        };
        file.count(Id::TPR, 0, any.frames);
        file.count_wide(Id::TORL, Id::TORH, 0, any.bytes_with(FCS));
        file.count(Id::RXNFGPC, 0, good.frames);
        file.count_wide(Id::RXNFGBCL, Id::RXNFGBCH, 0, good.bytes_with(FCS));
        file.count(Id::GPRC, 0, passed.frames);
        file.count_wide(Id::GORCL, Id::GORCH, 0, passed.bytes_with(fcs));
        file.count(Id::BPRC, 0, rx.broadcast);
        file.count(Id::MPRC, 0, rx.multicast);
        file.count(Id::RXDGPC, 0, delivered.frames);
        file.count_wide(Id::RXDGBCL, Id::RXDGBCH, 0, delivered.bytes_with(fcs));
        let sent = all_sent.bytes_with(FCS);
        for id in [Id::TPT, Id::GPTC, Id::TXDGPC] {
            file.count(id, 0, all_sent.frames);
        }
        file.count_wide(Id::GOTCL, Id::GOTCH, 0, sent);
        file.count_wide(Id::TXDGBCL, Id::TXDGBCH, 0, sent);
        file.count(Id::BPTC, 0, tx.broadcast);
        file.count(Id::MPTC, 0, tx.multicast);
        let sizes = RX_SIZES
            .into_iter()
            .zip(rx.sizes)
            .chain(TX_SIZES.into_iter().zip(tx.sizes));
        sizes.for_each(|(id, frames)| file.count(id, 0, frames));
        for counter in (0..QUEUE_COUNTERS as u32).filter(|counter| (rx.used | tx.used) >> counter & 1 == 1) {
            let (got, went) = (rx.queues[counter as usize], tx.queues[counter as usize]);
            file.count(Id::QPRC, counter, got.frames);
            file.count_wide(Id::QBRCL, Id::QBRCH, counter, got.bytes_with(fcs));
            file.count(Id::QPTC, counter, went.frames);
            file.count_wide(Id::QBTCL, Id::QBTCH, counter, went.bytes_with(FCS));
        }
    }
}
