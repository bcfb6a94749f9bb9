//! The receive ring: what runs for every packet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_nic_models::ixgbe::desc::rx::{error, status};
use millrace_nic_models::ixgbe::regs;

use crate::bus::{BusError, Doorbell, Registers};
use crate::hint::HintLayout;
use crate::mem::{Accept, DescriptorRing16, FreeStack, Handle, Moved, Placement, Region, RxLane, RxPlan};
use crate::port::RxStats;
use crate::queue::{BATCH, KEY_STEP, MAX_RUN, PortShared, RxBatch};
use crate::simd::{CpuPath, Work};

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
    pub path: CpuPath,
}

/// The queue's interrupt mask bit.
#[derive(Debug)]
pub(crate) struct RxIrq {
    pub registers: Registers,
    pub vector: u32,
}

/// The device's view of an 82599 receive queue and the driver's record beside it. `rung` runs freely, as the lane's `next`
/// does, and is taken modulo the ring size; slots `next..next + size - missing` hold buffers, and the device owns
/// `next..rung`.
///
/// As a rule every slot holds a buffer: a frame that is taken leaves a fresh one in its place, in the same cache lines. The
/// device is shown all but one of them, since head equal to tail means an empty ring to it (datasheet 7.1.9).
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct RxRing {
    // What a poll touches comes first.
    /// The batch that was last filled here knows this number, which no other queue of the process has.
    key: u64,
    /// What `stats` does not count yet of frames and bytes. Apart from each other: as neighbours they are added in a vector
    /// register, by more instructions than it takes to add them one by one.
    frames: u64,
    shared: Arc<PortShared>,
    bytes: u64,
    /// Nothing is [ready](RxLane::ready) in it while `careful` is set.
    lane: RxLane<2>,
    /// The tail that the device was told.
    rung: u32,
    /// The device is shown new buffers when it has fewer than this,
    low: u32,
    /// which is once the next frame's slot is this one or one behind it.
    due: u32,
    /// Slots without a buffer.
    missing: u32,
    id: u16,
    /// The next poll must look closer: slots without buffers, a frame of several buffers under way, or a dead device.
    careful: bool,
    dead: bool,
    path: CpuPath,
    place: Placement,
    doorbell: Doorbell,
    stats: RxStats,
    buffer_len: u16,
    run: Run,
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
            path,
        } = parts;
        ring.clear();
        let size = ring.size();
        let layout = *region.layout();
        let buffer_len = buffer_len.min(layout.data_len().min(u32::from(u16::MAX)) as u16);
        let place = Placement {
            base: iova,
            stride: layout.stride,
            headroom: layout.headroom,
        };
        // One comparison for everything: done, whole, undamaged, and a length from 1 to the buffer's. The length less one has
        // no bit at or above the buffer's (a power of two, or the next lower one); a length of 0 sets them all.
        let accept = Accept {
            minus: 1 << 32,
            mask: wrong_len(buffer_len) | DD | EOP | DAMAGED,
            want: DD | EOP,
        };
        static KEYS: AtomicU64 = AtomicU64::new(KEY_STEP);
        let plan = RxPlan::new(&region, place, accept);
        RxRing {
            key: KEYS.fetch_add(KEY_STEP, Ordering::Relaxed),
            frames: 0,
            bytes: 0,
            lane: RxLane::new(ring, FreeStack::new(region), plan, path),
            missing: size,
            rung: 0,
            due: 0,
            careful: true,
            place,
            buffer_len,
            low: size - REFILL.min(size / 4),
            id,
            dead: false,
            doorbell,
            stats: RxStats::default(),
            run: Run::default(),
            shared,
            irq,
            hints,
            path,
        }
    }

    /// Puts a buffer in every slot, as far as there are buffers, and rings the doorbell. Gives the number posted.
    pub(crate) fn fill(&mut self) -> Result<u32, BusError> {
        while self.post(REFILL.min(self.missing)) > 0 {}
        self.careful = self.missing > 0;
        let before = self.rung;
        self.show()?;
        Ok(self.rung.wrapping_sub(before))
    }

    /// Descriptors of the ring that hold a buffer.
    #[inline]
    fn held(&self) -> u32 {
        self.ring_size() - self.missing
    }

    /// Shows the device every buffer but one.
    #[inline]
    fn show(&mut self) -> Result<(), BusError> {
        let most = self.ring_size() - 1;
        self.rung = self.lane.next().wrapping_add(self.held().min(most));
        self.due = self.rung.wrapping_sub(self.low).wrapping_add(1);
        self.doorbell.ring(self.rung & most)
    }

    /// Writes up to `want` descriptors with fresh buffers, without telling the device.
    #[inline]
    fn post(&mut self, want: u32) -> u32 {
        let start = self.lane.next().wrapping_add(self.held());
        let mut tail = start;
        let (ring, shadow, free) = self.lane.open();
        for handle in free.take(want as usize) {
            let data =
                u64::from(handle.index()) * u64::from(self.place.stride) + u64::from(self.place.headroom);
            let addr = self.place.base + data;
            // The header address is 0: its bit 0 is where DD will appear (datasheet 7.1.6.1).
            ring.put(tail, [addr, 0]);
            shadow.set(tail, handle);
            tail = tail.wrapping_add(1);
        }
        let posted = tail.wrapping_sub(start);
        self.missing -= posted;
        posted
    }

    /// The shortest way for the common case: the batch is one that was filled here before and has been emptied, and there
    /// are enough slots and fresh buffers for a whole burst. This only chooses: so it saves no registers, and what it calls
    /// saves them once.
    #[inline(never)]
    pub(crate) fn poll(&mut self, batch: &mut RxBatch) -> usize {
        if batch.limit() > self.lane.ready() || self.shared.is_closed() {
            return self.poll_anew(batch);
        }
        if !batch.is_spent_for(self.key) {
            return self.poll_again(batch);
        }
        self.poll_ready(batch)
    }

    #[inline(always)]
    fn poll_ready(&mut self, batch: &mut RxBatch) -> usize {
        let most = batch.limit();
        if let Some(path) = self.lane.steps(most) {
            return path.run::<PollSteps, _, _, _>(self, batch, most);
        }
        if most == 1 {
            return self.poll_one(batch);
        }
        self.poll_few(batch, most)
    }

    /// As [`poll_few`](Self::poll_few), when there is one frame at most.
    #[inline(never)]
    fn poll_one(&mut self, batch: &mut RxBatch) -> usize {
        let (slots, raw) = batch.places16();
        match self.lane.exchange_one(&mut slots[0], &mut raw[0]) {
            Some(bytes) => self.settle(batch, 1, Moved { count: 1, bytes }),
            None => self.poll_none(batch),
        }
    }

    /// There was no simple frame.
    #[inline(never)]
    fn poll_none(&mut self, batch: &mut RxBatch) -> usize {
        self.settle(batch, 1, Moved::default())
    }

    /// As [`PollSteps`], one after the other.
    #[inline(never)]
    fn poll_few(&mut self, batch: &mut RxBatch, most: u32) -> usize {
        if !self.lane.has_second(DD) {
            return self.poll_one(batch);
        }
        let (slots, raw) = batch.places16();
        let moved = self.lane.exchange_few(most, slots, raw);
        self.settle(batch, most, moved)
    }

    /// Goes on one after the other, when `moved` of `most` frames are in the batch.
    #[inline(never)]
    fn poll_rest(&mut self, batch: &mut RxBatch, most: u32, mut moved: Moved) -> usize {
        let (slots, raw) = batch.places16();
        let done = moved.count as usize;
        if let (Some(slots), Some(raw)) = (slots.get_mut(done..), raw.get_mut(done..)) {
            let more = self.lane.exchange_few(most - moved.count, slots, raw);
            moved.count += more.count;
            moved.bytes += more.bytes;
        }
        self.settle(batch, most, moved)
    }

    /// As [`poll`](Self::poll), for a batch whose frames were dropped: their buffers are the next fresh ones. Or it is none that
    /// was last filled here.
    #[inline(never)]
    fn poll_again(&mut self, batch: &mut RxBatch) -> usize {
        if !batch.is_for(self.key) {
            return self.poll_anew(batch);
        }
        let kept = match batch.spend() {
            [slot] => self.lane.keep_one(slot),
            _ => false,
        };
        if !kept {
            return self.poll_again_many(batch);
        }
        if batch.limit() > self.lane.ready() {
            return self.poll_anew(batch);
        }
        self.poll_ready(batch)
    }

    /// As [`poll_again`](Self::poll_again), for all that are left.
    #[inline(never)]
    fn poll_again_many(&mut self, batch: &mut RxBatch) -> usize {
        self.lane.keep(batch.spend());
        if batch.limit() > self.lane.ready() {
            return self.poll_anew(batch);
        }
        self.poll_ready(batch)
    }

    /// Empties the batch and makes it this queue's, and looks how many frames can be taken in the simple way.
    #[inline(never)]
    fn poll_anew(&mut self, batch: &mut RxBatch) -> usize {
        let (_, _, free) = self.lane.open();
        batch.begin(free, self.key, self.id, 1, self.path);
        if self.shared.is_closed() {
            return 0;
        }
        let shown = self.rung.wrapping_sub(self.lane.next());
        if self.careful || self.lane.look(shown) == 0 {
            return self.poll_carefully(batch, 0);
        }
        let most = shown.min(batch.limit());
        self.path.run::<PollSteps, _, _, _>(self, batch, most)
    }

    /// `moved` frames of `most` that might have come are in the batch.
    #[inline(always)]
    fn settle(&mut self, batch: &mut RxBatch, most: u32, moved: Moved) -> usize {
        batch.filled(moved.count as usize);
        if moved.count < most && (moved.count == 0 || self.has_odd()) {
            return self.poll_odd(batch, moved);
        }
        self.frames += u64::from(moved.count);
        self.bytes += moved.bytes;
        self.stats.bursts += 1;
        if self.lane.next().wrapping_sub(self.due) as i32 >= 0 {
            return self.ring_for(moved.count);
        }
        moved.count as usize
    }

    /// Whether the next frame has come, but is not as simple, or there are no fresh buffers. What lies behind the end of the
    /// ring comes with the next poll.
    #[inline(always)]
    fn has_odd(&self) -> bool {
        let next = self.lane.next();
        self.lane.ring().last_acquire(next) & DD != 0 && next & (self.ring_size() - 1) != 0
    }

    /// Nothing has come, or nothing simple.
    #[inline(never)]
    fn poll_odd(&mut self, batch: &mut RxBatch, moved: Moved) -> usize {
        if self.lane.ring().last_acquire(self.lane.next()) & DD != 0 {
            return self.poll_carefully(batch, moved.bytes);
        }
        0
    }

    /// Goes on descriptor by descriptor, and posts what is missing at the end. `bytes` are those of the frames that the batch
    /// holds.
    #[cold]
    fn poll_carefully(&mut self, batch: &mut RxBatch, mut bytes: u64) -> usize {
        if self.dead {
            return 0;
        }
        if self.run.complete {
            self.deliver_run(batch);
        }
        bytes += self.poll_any(batch);
        let frames = batch.len();
        if frames > 0 {
            self.stats.frames += frames as u64;
            self.stats.bytes += bytes;
            self.stats.bursts += 1;
        }
        self.refill();
        self.careful = self.dead || self.run.pending || self.run.complete || self.missing > 0;
        frames
    }

    /// Every case: also frames of several buffers, damaged ones and lies. Gives the bytes of single-buffer frames.
    #[inline]
    fn poll_any(&mut self, batch: &mut RxBatch) -> u64 {
        let mut left = self.rung.wrapping_sub(self.lane.next()).min(batch.room() as u32);
        let mut bytes = 0u64;
        while left > 0 && !self.run.complete {
            let q1 = self.lane.ring().last_acquire(self.lane.next());
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
        let slot = self.lane.next();
        let raw = [self.lane.ring().quad(slot, 0), q1];
        let len = (q1 >> 32) as u16;
        let (_, shadow, _) = self.lane.open();
        let taken = shadow.take(slot);
        self.lane.skip();
        self.missing += 1;
        let Some(mut handle) = taken else {
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

    /// Posts what is missing, and shows the device what is new: when it is a block, or when the device may soon have
    /// nothing left.
    fn refill(&mut self) {
        if self.missing > 0 && self.post(self.missing) == 0 {
            self.stats.no_buffers += 1;
        }
        let size = self.ring_size();
        let held = self.held().min(size - 1);
        let shown = self.rung.wrapping_sub(self.lane.next());
        let new = held.saturating_sub(shown);
        if new >= size - self.low || (new > 0 && shown < size / 2) {
            self.ring_doorbell();
        }
    }

    /// Rings the doorbell, and gives the number of frames that a poll has brought.
    #[inline(never)]
    fn ring_for(&mut self, frames: u32) -> usize {
        self.ring_doorbell();
        frames as usize
    }

    #[inline]
    fn ring_doorbell(&mut self) {
        if self.show().is_err() {
            self.dead = true;
            self.careful = true;
            self.lane.open();
        }
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
            self.lane.open().2.push(handle);
        } else {
            handle.len = (raw[1] >> 32) as u16;
            handle.off = self.place.headroom;
            handle.set_more(!last);
            if let Err(full) = self.run.parts.try_push((handle, raw)) {
                self.stats.oversize += 1;
                self.run.poisoned = true;
                self.lane.open().2.push(full.element().0);
            }
        }
        if self.run.poisoned {
            let (_, _, free) = self.lane.open();
            free.push_all(self.run.parts.drain(..).map(|(handle, _)| handle));
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

    /// Reads what receiving uses and no device writes: see [`harness::recall`](crate::harness::recall).
    #[cfg(feature = "models")]
    pub(crate) fn recall(&self) -> u64 {
        let own = self.stats.frames ^ u64::from(self.rung) ^ u64::from(self.place.stride);
        own.wrapping_add(self.lane.read_record())
            .wrapping_add(self.lane.free().read())
    }

    /// Everything that receiving writes, as addresses, for the layout's test.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn written(&mut self) -> Vec<(&'static str, std::ops::Range<usize>)> {
        let at = std::ptr::from_ref(self) as usize;
        let mut written = vec![
            ("rx queue", at..at + size_of::<RxRing>()),
            ("rx descriptors", self.lane.ring().addresses()),
            ("rx record", self.lane.open().1.addresses()),
            ("rx doorbell", self.doorbell.addresses()),
        ];
        written.extend(self.lane.free().addresses().map(|range| ("rx free stack", range)));
        written
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn stats(&self) -> RxStats {
        RxStats {
            frames: self.stats.frames + self.frames,
            bytes: self.stats.bytes + self.bytes,
            ..self.stats
        }
    }

    pub(crate) fn hint_layout(&self) -> &HintLayout {
        &self.hints
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        self.lane.free().region()
    }

    #[inline]
    pub(crate) fn ring_size(&self) -> u32 {
        self.lane.ring().size()
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.dead && !self.shared.is_closed() && self.shared.device().is_alive()
    }

    pub(crate) fn belongs_to(&self, shared: &Arc<PortShared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

/// Frames of one buffer, for each of which a fresh buffer is posted at once.
struct PollSteps;

impl Work<&mut RxRing, &mut RxBatch, u32> for PollSteps {
    type Out = usize;

    #[inline(always)]
    fn work(path: CpuPath, ring: &mut RxRing, batch: &mut RxBatch, most: u32) -> usize {
        let fetch = batch.prefetches();
        let (slots, raw) = batch.places16();
        let moved = match fetch {
            true => ring.lane.exchange::<true, BATCH>(path, most, slots, raw),
            false => ring.lane.exchange::<false, BATCH>(path, most, slots, raw),
        };
        if moved.count == most {
            return ring.settle(batch, most, moved);
        }
        ring.poll_rest(batch, most, moved)
    }
}

/// Queues of two threads share no cache line, wherever they are moved.
const _: () = assert!(align_of::<RxRing>() >= 64 && size_of::<RxRing>().is_multiple_of(64));

impl Drop for RxRing {
    fn drop(&mut self) {
        // The device may still hold the posted buffers; only the port knows when it has let go of them.
        self.shared.orphan(self.id, self.lane.take_record());
    }
}
