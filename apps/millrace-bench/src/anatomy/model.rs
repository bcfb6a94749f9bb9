//! A lean copy of the driver's forward loops, from which parts can be left out.
//!
//! Everything lies as it does in the driver: rings of 16-byte descriptors, a record of each ring's buffers, handles of eight
//! bytes and raw write-backs in a batch, stacks of free buffers that go from the TX side to the RX side whole, frames 37 cache
//! lines apart. The same is read, checked and written for every frame, in the same four loops, one frame a step: so it stands for the driver's
//! scalar loops. What it does not have is what the driver does once a call (is the queue alive, does the batch belong to it,
//! counters).

use crate::BenchError;
use crate::path::rig::{FRAME, swap_addresses};
use memmap2::{MmapMut, MmapOptions};
use std::hint::black_box;
use std::mem::swap;

/// What can be left out, one bit each.
pub const RAW: u32 = 1;
pub const RX_RECORD: u32 = 2;
pub const RX_RING: u32 = 4;
pub const TX_RING: u32 = 8;
pub const TX_RECORD: u32 = 16;
/// Frames: writing to them; loading them, too; finding where they lie, too.
pub const WRITING: u32 = 32;
pub const LOADING: u32 = 64 | WRITING;
pub const FINDING: u32 = 128 | LOADING;
/// The distance from one frame to the next: 64 bytes instead.
pub const APART: u32 = 256;
/// All frames but those of the first [`FEW`] buffers: theirs are touched instead, so that all lines stay in the L1 cache.
pub const MANY: u32 = 512;

/// Whether a part is not left out.
pub const fn has(left_out: u32, part: u32) -> bool {
    left_out & part != part
}

/// Most frames of a poll, and with fewer free buffers than that the RX side asks for more.
const BATCH: usize = 64;
/// The TX side gives its free buffers away when it has so many.
const TRADE: usize = 4 * BATCH;
/// One descriptor in so many is reported.
const REPORT: usize = 32;
const FEW: u32 = 64;
/// From one buffer to the next, and where its data begins.
const STRIDE: usize = 37 * 64;
const HEADROOM: u64 = 256;
/// The I/O address of buffer 0, and its tag.
const BASE: u64 = 1 << 32;
const FIRST: u32 = 1 << 24;
/// Bits of a write-back's last quadword: done, whole, undamaged, a length from 1 to 1024 (datasheet 7.1.6.2).
const DONE: u64 = 1;
const MASK: u64 = 0xfc00 << 32 | 0x3b00_0003;
const WANT: u64 = 3;
const LEN: u64 = 0xffff << 32;
/// A data descriptor's last quadword without lengths and report (datasheet 7.2.3.2.4), and the request for a report.
const COMMAND: u64 = 0x2330_0000;
const RS: u64 = 8 << 24;

/// Plain memory: the NIC that plays has its turns in the same thread.
type Descriptor = [u64; 2];

/// A ring that begins at a cache line.
struct Ring {
    all: Box<[Descriptor]>,
    first: usize,
    size: usize,
}

impl Ring {
    fn new(size: usize) -> Ring {
        let all: Box<[Descriptor]> = (0..size + 4).map(|_| Descriptor::default()).collect();
        let first = all.as_ptr().align_offset(64).min(4);
        Ring { all, first, size }
    }

    #[inline(always)]
    fn piece(&mut self, from: usize, n: usize) -> &mut [Descriptor] {
        &mut self.all[self.first + from..][..n]
    }

    #[inline(always)]
    fn at(&mut self, slot: usize) -> &mut Descriptor {
        &mut self.all[self.first + (slot & (self.size - 1))]
    }
}

#[inline(always)]
fn address_of(index: u32) -> u64 {
    BASE + HEADROOM + u64::from(index) * STRIDE as u64
}

/// Free buffers, last in, first out.
struct Stack {
    items: Box<[u32]>,
    len: usize,
}

impl Stack {
    fn new(room: usize) -> Stack {
        Stack {
            items: vec![0; room].into(),
            len: 0,
        }
    }
}

/// Queues, batch, buffers, and a NIC that plays.
pub struct Model {
    /// Parts that are left out; what the loops leave out they know when they are compiled.
    left_out: u32,
    burst: usize,
    size: usize,
    /// Slots run freely and are taken modulo the ring size: next to receive, next to send, next to be taken back.
    next: usize,
    tail: usize,
    clean: usize,
    rx: Ring,
    tx: Ring,
    rx_record: Box<[u32]>,
    tx_record: Box<[u32]>,
    /// Free buffers of the RX side, of the TX side, and on their way from there.
    fresh: Stack,
    back: Stack,
    spare: Stack,
    /// Buffers that nobody has had yet begin here.
    unused: usize,
    slots: [u64; BATCH],
    raw: [[u64; 2]; BATCH],
    starts: [usize; BATCH],
    frames: MmapMut,
    /// The NIC's places: behind what it has received, behind what it has sent.
    received: usize,
    sent: usize,
}

impl Model {
    /// Rings of `size` descriptors, all of the first posted, with buffers on pages of `page_bytes`, as far as the system has some.
    pub fn new(left_out: u32, burst: u32, size: u32, page_bytes: usize) -> Result<Box<Model>, BenchError> {
        let size = size as usize;
        // What both rings hold, and what the stacks may hold back.
        let buffers = 2 * size + 2 * TRADE;
        let mut frames = MmapOptions::new();
        frames.len((buffers * STRIDE).next_multiple_of(page_bytes));
        if page_bytes > rustix::param::page_size() {
            frames.huge(Some(page_bytes.ilog2() as u8));
        }
        let mut frames = frames.map_anon().map_err(BenchError::Memory)?;
        frames.fill(1);
        let mut rx = Ring::new(size);
        for slot in 0..size {
            rx.at(slot)[0] = address_of(slot as u32);
        }
        Ok(Box::new(Model {
            left_out,
            burst: (burst as usize).min(BATCH),
            size,
            next: 0,
            tail: 0,
            clean: 0,
            rx,
            tx: Ring::new(size),
            rx_record: (0..size as u32).map(|index| index | FIRST).collect(),
            tx_record: vec![0; size].into(),
            // In the order in which a stack would give them, should they be a list.
            fresh: Stack {
                items: (0..buffers as u32).map(|index| index ^ 31).collect(),
                len: 0,
            },
            back: Stack::new(buffers),
            spare: Stack::new(buffers),
            unused: size,
            slots: [0; BATCH],
            raw: [[0; 2]; BATCH],
            starts: [0; BATCH],
            frames,
            received: 0,
            sent: 0,
        }))
    }

    /// The NIC's turn: takes what was sent, and receives `frames`. Fails if not all that it had received was sent.
    pub fn supply(&mut self, frames: usize) -> Result<(), BenchError> {
        if (self.next, self.tail) != (self.received, self.received) {
            let outcome = format!(
                "{} of {} frames were taken, {} sent",
                self.next, self.received, self.tail
            );
            return Err(BenchError::WrongOutcome {
                case: "anatomy",
                outcome,
            });
        }
        for slot in self.sent..self.tail {
            let [_, last] = self.tx.at(slot);
            if *last & RS != 0 {
                *last |= DONE << 32;
            }
        }
        self.sent = self.tail;
        for slot in self.received..self.received + frames {
            let descriptor = self.rx.at(slot);
            // This NIC tells the buffer in the place of the hash, so that a driver without a record can go on.
            let tag = match has(self.left_out, RX_RING) {
                true => u64::from(FIRST) + (descriptor[0] - BASE) / STRIDE as u64,
                false => u64::from(self.rx_record[slot & (self.size - 1)]),
            };
            *descriptor = [tag << 32, WANT | u64::from(FRAME) << 32];
        }
        self.received += frames;
        Ok(())
    }

    /// The driver's turn, without what `LEFT_OUT` says, which is what [`new`](Self::new) was told.
    #[inline(never)]
    pub fn forward<const LEFT_OUT: u32>(&mut self, frames: usize) {
        let mut left = frames;
        while left > 0 {
            let n = self.receive::<LEFT_OUT>(left.min(self.burst));
            if n == 0 {
                break;
            }
            self.work::<LEFT_OUT>(n);
            self.send::<LEFT_OUT>(n);
            left -= n;
        }
    }

    /// A poll: up to `most` frames into the batch, a fresh buffer into the place of each.
    #[inline(never)]
    fn receive<const LEFT_OUT: u32>(&mut self, most: usize) -> usize {
        let from = self.next & (self.size - 1);
        let n = most.min(BATCH).min(self.size - from);
        let end = self.fresh_buffers::<LEFT_OUT>(n);
        let n = n.min(end);
        let record = &mut self.rx_record[from..from + n];
        let fresh = &self.fresh.items[end - n..end];
        let (slots, raws) = (&mut self.slots[..n], &mut self.raw[..n]);
        let ring = self.rx.piece(from, n);
        let mut taken = 0;
        // By index, since many slices at once by iterators stay calls in a build that does not optimise at link time.
        while taken < n {
            let [first, last] = ring[taken];
            let buffer = match has(LEFT_OUT, RX_RECORD) {
                true => record[taken],
                false => (first >> 32) as u32,
            };
            if last.wrapping_sub(1 << 32) & MASK != WANT || buffer == 0 {
                break;
            }
            slots[taken] = u64::from(buffer) | HEADROOM << 48 | last & LEN;
            if has(LEFT_OUT, RAW) {
                raws[taken] = [first, last];
            }
            if has(LEFT_OUT, RX_RECORD) {
                record[taken] = fresh[taken] | FIRST;
            }
            if has(LEFT_OUT, RX_RING) {
                ring[taken] = [address_of(fresh[taken]), 0];
            }
            taken += 1;
        }
        if has(LEFT_OUT, TX_RECORD) {
            self.fresh.len -= taken;
        } else {
            self.unused += taken;
        }
        self.next += taken;
        taken
    }

    /// Sees to it that there are `n` fresh buffers on the stack: the TX side's stack, or some that nobody has had yet. Gives
    /// where the stack ends.
    #[inline(always)]
    fn fresh_buffers<const LEFT_OUT: u32>(&mut self, n: usize) -> usize {
        if !has(LEFT_OUT, TX_RECORD) {
            // Nothing comes back: a list of all buffers is read round and round, as many as are in use otherwise.
            let round = self.size + self.size / 2 + 2 * BATCH;
            if self.unused + n > round {
                self.unused = 0;
            }
            return self.unused + n;
        }
        if self.fresh.len < BATCH {
            if self.spare.len > self.fresh.len {
                swap(&mut self.spare, &mut self.fresh);
            }
            while self.fresh.len < BATCH && self.unused < self.fresh.items.len() {
                self.fresh.items[self.fresh.len] = self.unused as u32;
                (self.fresh.len, self.unused) = (self.fresh.len + 1, self.unused + 1);
            }
        }
        self.fresh.len
    }

    /// The application: finds all frames of the batch, then swaps the addresses of each.
    #[inline(never)]
    fn work<const LEFT_OUT: u32>(&mut self, n: usize) {
        if !has(LEFT_OUT, FINDING) {
            return;
        }
        let apart = if has(LEFT_OUT, APART) { STRIDE } else { 64 };
        for (slot, start) in self.slots[..n].iter().zip(&mut self.starts) {
            let (index, len, off) = parts(*slot);
            if index >= FIRST || off + len > STRIDE as u64 {
                return;
            }
            let index = if has(LEFT_OUT, MANY) { index } else { index % FEW };
            *start = index as usize * apart + off as usize;
        }
        let starts = &self.starts[..n];
        if !has(LEFT_OUT, LOADING) {
            black_box(starts);
            return;
        }
        let mut sum = 0;
        for start in starts {
            let Some(frame) = self.frames.get_mut(*start..*start + usize::from(FRAME)) else {
                return;
            };
            if has(LEFT_OUT, WRITING) {
                swap_addresses(frame);
            } else if let Some(head) = frame.first_chunk() {
                sum ^= u64::from_le_bytes(*head);
            }
        }
        black_box(sum);
    }

    /// Puts the frames of the batch into the ring, and takes back what was sent when a report is due.
    #[inline(never)]
    fn send<const LEFT_OUT: u32>(&mut self, n: usize) {
        let mut done = 0;
        while done < n {
            let from = self.tail & (self.size - 1);
            // Up to the next descriptor that reports: the last of its 32, and so never past the ring's end.
            let some = (n - done).min(REPORT - from % REPORT);
            let slots = &mut self.slots[done..done + some];
            let record = &mut self.tx_record[from..from + some];
            let ring = self.tx.piece(from, some);
            for i in 0..some {
                let (index, len, off) = parts(slots[i]);
                if index >= FIRST || off + len > STRIDE as u64 || len < 17 {
                    return;
                }
                if has(LEFT_OUT, TX_RING) {
                    let address = BASE + u64::from(index) * STRIDE as u64 + off;
                    ring[i] = [address, COMMAND | len << 46 | len];
                }
                if has(LEFT_OUT, TX_RECORD) {
                    record[i] = slots[i] as u32;
                }
                slots[i] = 0;
            }
            done += some;
            self.tail += some;
            if self.tail.is_multiple_of(REPORT) {
                let [_, last] = self.tx.at(self.tail - 1);
                *last = if has(LEFT_OUT, TX_RING) { *last | RS } else { RS };
                self.take_back::<LEFT_OUT>();
            }
        }
    }

    /// Looks at the oldest descriptors that report; the buffers of what was sent are free.
    #[inline(always)]
    fn take_back<const LEFT_OUT: u32>(&mut self) {
        while self.tail - self.clean > REPORT {
            let [_, last] = self.tx.at(self.clean + REPORT - 1);
            if *last & DONE << 32 == 0 {
                break;
            }
            let from = self.clean & (self.size - 1);
            self.clean += REPORT;
            if !has(LEFT_OUT, TX_RECORD) {
                continue;
            }
            let Stack { items, len } = &mut self.back;
            let tags = &mut self.tx_record[from..from + REPORT];
            for (tag, item) in tags.iter_mut().zip(&mut items[*len..]) {
                *item = *tag ^ FIRST;
                *tag = 0;
            }
            *len += REPORT;
        }
        if self.back.len >= TRADE && self.spare.len < self.back.len {
            swap(&mut self.back, &mut self.spare);
        }
    }
}

/// A handle's index, length and offset.
#[inline(always)]
fn parts(handle: u64) -> (u32, u64, u64) {
    (handle as u32 ^ FIRST, handle >> 32 & 0xffff, handle >> 48)
}

#[cfg(test)]
impl Model {
    /// Writes other addresses into each frame; gives all memory as it then is.
    pub fn mark_frames(&mut self) -> Vec<u8> {
        for (i, byte) in self.frames.iter_mut().enumerate() {
            *byte = (i / 7 + i / 4096) as u8;
        }
        self.frames.to_vec()
    }

    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Where the frames lie that the NIC has received and the driver has not taken.
    pub fn waiting(&mut self) -> Vec<usize> {
        let apart = if has(self.left_out, APART) { STRIDE } else { 64 };
        let slots = self.next..self.received;
        let place = |slot: usize| {
            let tag = self.rx.at(slot)[0] >> 32;
            let index = tag as u32 ^ FIRST;
            let index = if has(self.left_out, MANY) {
                index
            } else {
                index % FEW
            };
            index as usize * apart + HEADROOM as usize
        };
        slots.map(place).collect()
    }

    /// The last `n` descriptors name as many different buffers, as far as descriptors are written.
    pub fn check_sent(&mut self, n: usize, what: &str) {
        if !has(self.left_out, TX_RING) {
            return;
        }
        let sent = (self.tail - n..self.tail).map(|slot| {
            let [address, last] = *self.tx.at(slot);
            assert_eq!(
                last & !RS,
                COMMAND | u64::from(FRAME) << 46 | u64::from(FRAME),
                "{what}"
            );
            address
        });
        let mut sent: Vec<u64> = sent.collect();
        sent.sort_unstable();
        sent.dedup();
        assert_eq!(sent.len(), n, "{what}: a buffer was sent twice");
        for address in sent {
            let at = address - BASE - HEADROOM;
            assert!(
                at.is_multiple_of(STRIDE as u64) && at < self.frames.len() as u64,
                "{what}"
            );
        }
    }

    /// The buffers of both records and all stacks, and those that nobody has had.
    pub fn buffers(&self) -> Vec<u32> {
        let tags = self.rx_record.iter().chain(&self.tx_record);
        let held = tags.filter(|tag| **tag != 0).map(|tag| tag ^ FIRST);
        let stacks = [&self.fresh, &self.back, &self.spare];
        let free = stacks
            .into_iter()
            .flat_map(|stack| stack.items[..stack.len].to_vec());
        let unused = self.unused as u32..self.fresh.items.len() as u32;
        held.chain(free).chain(unused).collect()
    }
}
