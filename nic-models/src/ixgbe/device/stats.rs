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
pub(super) struct Sum {
    pub frames: u32,
    bytes: u64,
}

impl Sum {
    #[inline]
    pub fn add(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }

    #[inline]
    fn add_all(&mut self, more: Sum) {
        self.frames += more.frames;
        self.bytes += more.bytes;
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
    fn add_queue(&mut self, frames: Sum, counter: u32) {
        let counter = counter as usize % QUEUE_COUNTERS;
        self.queues[counter].add_all(frames);
        self.used |= 1 << counter;
    }

    /// The counters in use, with what they count.
    fn in_use(&self) -> impl Iterator<Item = (u32, Sum)> {
        let mut left = self.used;
        std::iter::from_fn(move || {
            let counter = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some((counter, self.queues[counter as usize]))
        })
    }

    /// Starts anew with the counters in use.
    fn clear_queues(&mut self) {
        let mut left = std::mem::take(&mut self.used);
        while left != 0 {
            self.queues[left.trailing_zeros() as usize] = Sum::default();
            left &= left - 1;
        }
    }

    /// Frames of all queues.
    fn all(&self) -> Sum {
        let mut all = Sum::default();
        self.in_use().for_each(|(_, queue)| all.add_all(queue));
        all
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
}

impl Tally {
    /// A frame came off the wire, good or not.
    #[inline]
    pub fn rx_any(&mut self, frame: &[u8]) {
        self.any.add(frame.len());
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
        let one = Sum {
            frames: 1,
            bytes: len as u64,
        };
        self.rx.add_queue(one, counter);
    }

    /// All of that of a frame to the port's own address that went the whole way.
    #[inline]
    pub fn rx_straight(&mut self, frame: &[u8], counter: u32) {
        self.rx_any(frame);
        self.rx_passed(frame);
        self.rx_delivered(frame.len(), counter);
    }

    /// A frame went out.
    #[inline]
    pub fn tx_sent(&mut self, frame: &[u8], counter: u32) {
        let one = Sum {
            frames: 1,
            bytes: frame.len() as u64,
        };
        self.tx_sent_one(frame);
        self.tx_sent_by(one, counter);
    }

    /// The same in two: of each frame this, and ...
    #[inline]
    pub fn tx_sent_one(&mut self, frame: &[u8]) {
        self.tx.add(frame);
    }

    /// ... of all frames of a queue that.
    #[inline]
    pub fn tx_sent_by(&mut self, frames: Sum, counter: u32) {
        self.tx.add_queue(frames, counter);
    }

    /// Counts everything into the registers.
    pub fn flush(&mut self, file: &mut RegFile) {
        // What the byte counters behind the filters see of an FCS.
        let fcs = if file.one(Id::HLREG0) & hlreg0::RXCRCSTRP != 0 {
            0
        } else {
            FCS
        };
        if self.any.frames != 0 {
            self.count_arrived(file, fcs);
        }
        // Frames that have waited are delivered in a later round than they arrived.
        if self.rx.used != 0 {
            self.count_delivered(file, fcs);
        }
        if self.tx.used != 0 {
            self.count_sent(file);
        }
    }

    fn count_arrived(&mut self, file: &mut RegFile, fcs: usize) {
        let any = std::mem::take(&mut self.any);
        let good = any.but(std::mem::take(&mut self.bad));
        let passed = good.but(std::mem::take(&mut self.stopped));
        file.count(Id::TPR, 0, any.frames);
        file.count_wide(Id::TORL, Id::TORH, 0, any.bytes_with(FCS));
        file.count(Id::RXNFGPC, 0, good.frames);
        file.count_wide(Id::RXNFGBCL, Id::RXNFGBCH, 0, good.bytes_with(FCS));
        file.count(Id::GPRC, 0, passed.frames);
        file.count_wide(Id::GORCL, Id::GORCH, 0, passed.bytes_with(fcs));
        file.count(Id::BPRC, 0, std::mem::take(&mut self.rx.broadcast));
        file.count(Id::MPRC, 0, std::mem::take(&mut self.rx.multicast));
        let sizes = RX_SIZES.into_iter().zip(std::mem::take(&mut self.rx.sizes));
        sizes.for_each(|(id, frames)| file.count(id, 0, frames));
    }

    fn count_delivered(&mut self, file: &mut RegFile, fcs: usize) {
        let all = self.rx.all();
        file.count(Id::RXDGPC, 0, all.frames);
        file.count_wide(Id::RXDGBCL, Id::RXDGBCH, 0, all.bytes_with(fcs));
        for (counter, got) in self.rx.in_use() {
            file.count(Id::QPRC, counter, got.frames);
            file.count_wide(Id::QBRCL, Id::QBRCH, counter, got.bytes_with(fcs));
        }
        self.rx.clear_queues();
    }

    fn count_sent(&mut self, file: &mut RegFile) {
        let all = self.tx.all();
        let bytes = all.bytes_with(FCS);
        for id in [Id::TPT, Id::GPTC, Id::TXDGPC] {
            file.count(id, 0, all.frames);
        }
        file.count_wide(Id::GOTCL, Id::GOTCH, 0, bytes);
        file.count_wide(Id::TXDGBCL, Id::TXDGBCH, 0, bytes);
        file.count(Id::BPTC, 0, std::mem::take(&mut self.tx.broadcast));
        file.count(Id::MPTC, 0, std::mem::take(&mut self.tx.multicast));
        let sizes = TX_SIZES.into_iter().zip(std::mem::take(&mut self.tx.sizes));
        sizes.for_each(|(id, frames)| file.count(id, 0, frames));
        for (counter, went) in self.tx.in_use() {
            file.count(Id::QPTC, counter, went.frames);
            file.count_wide(Id::QBTCL, Id::QBTCH, counter, went.bytes_with(FCS));
        }
        self.tx.clear_queues();
    }
}
