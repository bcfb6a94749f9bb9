//! The receive ring: what runs for every packet.

use std::sync::Arc;

use millrace_nic_models::ixgbe::desc::rx::{error, status};
use millrace_nic_models::ixgbe::regs;

use crate::bus::{BusError, Doorbell, Registers};
use crate::hint::HintLayout;
use crate::mem::{DescriptorRing16, FreeStack, Handle, Lane, Placement, Region, Shadow};
use crate::port::RxStats;
use crate::queue::{MAX_RUN, PortShared, RxBatch};

const DD: u64 = status::DD as u64;
const EOP: u64 = status::EOP as u64;
/// MAC errors: the frame is damaged. Datasheet 7.1.6.2 names RXE (bit 29) alone; Linux and DPDK also test the bits
/// that the 82598 had beside it (CE, LE, PE, OSE), which costs nothing here.
const DAMAGED: u64 = error::RXE as u64 | 0x1b00_0000;

/// For a buffer of `len` bytes: the bits of a write-back's length field (bits 47:32 of quadword 1) at and above the
/// highest power of two that fits.
fn wrong_len(len: u16) -> u64 {
    let fits = if len == 0 { 1 } else { 1u64 << len.ilog2() };
    (0xffff & !(fits - 1)) << 32
}

/// Buffers posted at a time, with one doorbell.
const REFILL: u32 = 32;

/// What an RX queue is built from.
pub(crate) struct RxParts {
    pub id: u16,
    pub ring: DescriptorRing16,
    pub doorbell: Doorbell,
    pub region: Arc<Region>,
    /// I/O address of the region's memory.
    pub iova: u64,
    /// Bytes that the device may write into one buffer (SRRCTL.BSIZEPACKET).
    pub buffer_len: u16,
    pub shared: Arc<PortShared>,
    pub irq: Option<RxIrq>,
    pub hints: HintLayout,
}

/// The queue's interrupt mask bit.
#[derive(Debug)]
pub(crate) struct RxIrq {
    pub registers: Registers,
    pub vector: u32,
}

/// The device's view of an 82599 receive queue and the driver's record beside it. `next`, `tail` and
/// `rung` run freely and are taken modulo the ring size; the device owns the descriptors `next..rung`, and `rung..tail`
/// are ready to be shown to it.
#[derive(Debug)]
pub(crate) struct RxRing {
    ring: DescriptorRing16,
    shadow: Shadow,
    next: u32,
    tail: u32,
    /// The tail that the device was told.
    rung: u32,
    place: Placement,
    buffer_len: u16,
    /// Bits of quadword 1 that a length less one may not have.
    wrong_len: u64,
    id: u16,
    dead: bool,
    free: FreeStack,
    doorbell: Doorbell,
    stats: RxStats,
    run: Run,
    shared: Arc<PortShared>,
    irq: Option<RxIrq>,
    hints: HintLayout,
}

/// A frame of which not all buffers have come yet, or for which the last batch had no room.
#[derive(Debug, Default)]
struct Run {
    parts: arrayvec::ArrayVec<(Handle, [u64; 2]), MAX_RUN>,
    /// Its last buffer has come.
    complete: bool,
    /// Something was wrong with it; the rest of it is dropped too.
    poisoned: bool,
    /// The next descriptor does not begin a frame.
    pending: bool,
}

impl RxRing {
    /// An RX queue over a ring that the device does not use yet; posts nothing before [`fill`](Self::fill).
    pub(crate) fn new(parts: RxParts) -> RxRing {
        let RxParts {
            id,
            ring,
            doorbell,
            region,
            iova,
            buffer_len,
            shared,
            irq,
            hints,
        } = parts;
        ring.clear();
        let layout = *region.layout();
        let buffer_len = buffer_len.min(layout.data_len().min(u32::from(u16::MAX)) as u16);
        RxRing {
            shadow: Shadow::new(ring.size() as usize),
            ring,
            next: 0,
            tail: 0,
            rung: 0,
            place: Placement {
                base: iova,
                stride: layout.stride,
                headroom: layout.headroom,
            },
            buffer_len,
            wrong_len: wrong_len(buffer_len),
            id,
            dead: false,
            free: FreeStack::new(region),
            doorbell,
            stats: RxStats::default(),
            run: Run::default(),
            shared,
            irq,
            hints,
        }
    }

    /// Posts as many buffers as the ring takes and rings the doorbell. Gives the number posted.
    pub(crate) fn fill(&mut self) -> Result<u32, BusError> {
        // One slot stays free: head equal to tail means an empty ring to the device (datasheet 7.1.9).
        let before = self.tail;
        while self.post(REFILL.min(self.missing())) > 0 {}
        self.doorbell.ring(self.tail & (self.ring.size() - 1))?;
        self.rung = self.tail;
        Ok(self.tail.wrapping_sub(before))
    }

    #[inline]
    fn missing(&self) -> u32 {
        self.ring.size() - 1 - self.tail.wrapping_sub(self.next)
    }

    /// Writes up to `want` descriptors with fresh buffers, without telling the device.
    #[inline]
    fn post(&mut self, want: u32) -> u32 {
        let start = self.tail;
        let mut tail = start;
        for handle in self.free.take(want as usize) {
            let data =
                u64::from(handle.index()) * u64::from(self.place.stride) + u64::from(self.place.headroom);
            let addr = self.place.base + data;
            // The header address is 0: its bit 0 is where DD will appear (datasheet 7.1.6.1).
            self.ring.put(tail, [addr, 0]);
            self.shadow.set(tail, handle);
            tail = tail.wrapping_add(1);
        }
        self.tail = tail;
        tail.wrapping_sub(start)
    }

    #[inline]
    pub(crate) fn poll(&mut self, batch: &mut RxBatch) -> usize {
        batch.begin(&mut self.free, self.id, 1);
        if self.dead || self.shared.is_closed() {
            return 0;
        }
        if self.run.complete {
            self.deliver_run(batch);
        }
        let mut bytes = 0u64;
        if !self.run.pending && batch.is_simple() {
            bytes = self.poll_simple(batch);
        }
        bytes += self.poll_any(batch);
        let frames = batch.len();
        if frames > 0 {
            self.stats.frames += frames as u64;
            self.stats.bytes += bytes;
            self.stats.bursts += 1;
        }
        self.refill();
        frames
    }

    /// The common case: frames of one buffer, for each of which a fresh buffer is posted at once. Stops at the first
    /// descriptor that is not done or not as simple, or when there are no fresh buffers. Gives the bytes.
    ///
    /// Not inlined: alone, its loop has registers enough.
    #[inline(never)]
    fn poll_simple(&mut self, batch: &mut RxBatch) -> u64 {
        let posted = self.tail.wrapping_sub(self.next);
        let Some(mut lane) = Lane::new(&self.ring, &mut self.shadow) else {
            return 0;
        };
        if posted == 0 || lane.last_acquire(self.next) & DD == 0 {
            return 0;
        }
        let wrong_len = self.wrong_len;
        // One comparison for everything: done, whole, undamaged, and a length from 1 to the buffer's. The length less one
        // has no bit at or above the buffer's (a power of two, or the next lower one); a length of 0 sets them all.
        let accept = |q1: u64| {
            let checked = q1.wrapping_sub(1 << 32) & (wrong_len | DD | EOP | DAMAGED);
            (checked == DD | EOP).then_some((q1 >> 32) as u16)
        };
        let (slots, raw) = batch.places16(posted as usize);
        let moved = lane.receive(self.next, posted, &mut self.free, self.place, accept, slots, raw);
        self.next = self.next.wrapping_add(moved.count);
        self.tail = self.tail.wrapping_add(moved.count);
        batch.filled(moved.count as usize);
        moved.bytes
    }

    /// Every case: also frames of several buffers, damaged ones and lies. Gives the bytes of single-buffer frames.
    #[inline]
    fn poll_any(&mut self, batch: &mut RxBatch) -> u64 {
        let mut left = self.tail.wrapping_sub(self.next).min(batch.room() as u32);
        let mut bytes = 0u64;
        while left > 0 && !self.run.complete {
            let q1 = self.ring.last_acquire(self.next);
            if q1 & DD == 0 {
                break;
            }
            bytes += self.take_any(batch, q1);
            left = left.saturating_sub(1).min(batch.room() as u32);
        }
        bytes
    }

    /// Takes the next descriptor, whatever it holds. `q1` was read from it.
    #[cold]
    fn take_any(&mut self, batch: &mut RxBatch, q1: u64) -> u64 {
        let raw = [self.ring.quad(self.next, 0), q1];
        let slot = self.next;
        self.next = self.next.wrapping_add(1);
        let len = (q1 >> 32) as u16;
        let Some(mut handle) = self.shadow.take(slot) else {
            return 0;
        };
        let sane = len.wrapping_sub(1) < self.buffer_len;
        if sane && q1 & (EOP | DAMAGED) == EOP && !self.run.pending {
            handle.len = len;
            handle.off = self.place.headroom;
            batch.put16(handle, raw);
            if batch.is_simple() {
                batch.count_simple();
            } else {
                batch.end_frame();
            }
            return u64::from(len);
        }
        self.odd(handle, raw, sane);
        if self.run.complete {
            self.deliver_run(batch);
        }
        0
    }

    /// Posts what is missing, in blocks, and shows the device what is new: when it is a block, or when the device may
    /// soon have nothing left.
    #[inline]
    fn refill(&mut self) {
        let block = REFILL.min(self.ring.size() / 4);
        let missing = self.missing();
        if missing >= block && self.post(missing) == 0 {
            self.stats.no_buffers += 1;
        }
        let new = self.tail.wrapping_sub(self.rung);
        let shown = self.rung.wrapping_sub(self.next);
        if new >= block || (new > 0 && shown < self.ring.size() / 2) {
            self.ring_doorbell();
        }
    }

    #[inline]
    fn ring_doorbell(&mut self) {
        if self.doorbell.ring(self.tail & (self.ring.size() - 1)).is_err() {
            self.dead = true;
        }
        self.rung = self.tail;
    }

    /// A descriptor that is not one good frame by itself: part of a longer frame, damaged, or a lie.
    #[cold]
    fn odd(&mut self, mut handle: Handle, raw: [u64; 2], sane: bool) {
        let last = raw[1] & EOP != 0;
        if !sane {
            self.stats.bad_length += 1;
            self.run.poisoned = true;
        } else if raw[1] & DAMAGED != 0 && last && !self.run.poisoned {
            self.stats.device_errors += 1;
            self.run.poisoned = true;
        }
        if self.run.poisoned {
            self.free.push(handle);
        } else {
            handle.len = (raw[1] >> 32) as u16;
            handle.off = self.place.headroom;
            handle.set_more(!last);
            if let Err(full) = self.run.parts.try_push((handle, raw)) {
                self.stats.oversize += 1;
                self.run.poisoned = true;
                self.free.push(full.element().0);
            }
        }
        if self.run.poisoned {
            self.free
                .push_all(self.run.parts.drain(..).map(|(handle, _)| handle));
            self.run.poisoned = !last;
        } else {
            self.run.complete = last;
        }
        self.run.pending = !last;
    }

    /// Moves the pending frame into the batch if it fits.
    #[cold]
    fn deliver_run(&mut self, batch: &mut RxBatch) {
        if self.run.parts.len() <= batch.room() {
            for (handle, raw) in self.run.parts.drain(..) {
                self.stats.bytes += u64::from(handle.len);
                batch.put16(handle, raw);
            }
            batch.end_frame();
            self.run.complete = false;
        }
    }

    pub(crate) fn arm(&mut self) -> Result<(), BusError> {
        match &self.irq {
            // A cause that came while the vector was masked is latched, so this write raises it (datasheet 7.3.1.4).
            Some(irq) => irq
                .registers
                .write32(regs::EIMS_EX.at(irq.vector / 32), 1 << (irq.vector % 32)),
            None => Ok(()),
        }
    }

    pub(crate) fn disarm(&mut self) -> Result<(), BusError> {
        match &self.irq {
            Some(irq) => irq
                .registers
                .write32(regs::EIMC_EX.at(irq.vector / 32), 1 << (irq.vector % 32)),
            None => Ok(()),
        }
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn stats(&self) -> RxStats {
        self.stats
    }

    pub(crate) fn hint_layout(&self) -> &HintLayout {
        &self.hints
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        self.free.region()
    }

    pub(crate) fn ring_size(&self) -> u32 {
        self.ring.size()
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.dead && !self.shared.is_closed() && self.shared.device().is_alive()
    }

    pub(crate) fn belongs_to(&self, shared: &Arc<PortShared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

impl Drop for RxRing {
    fn drop(&mut self) {
        // The device may still hold the posted buffers; only the port knows when it has let go of them.
        let shadow = std::mem::replace(&mut self.shadow, Shadow::new(1));
        self.shared.orphan(self.id, shadow);
    }
}
