//! The transmit ring: what runs for every packet sent.

use std::sync::Arc;

use millrace_nic_models::ixgbe::desc::tx::{self, cmd, dtyp, popts, tucmd};

use super::marks::Marks;
use crate::bus::Doorbell;
use crate::mem::{Describe, DescriptorRing16, FreeStack, Handle, Moved, Placement, Region, TxLane, TxPlan};
use crate::port::TxStats;
use crate::queue::{BATCH, MAX_TX_RUN, PortShared, RxBatch, TxFlags, TxMeta, TxRefused, checked_len};
use crate::simd::{CpuPath, Work};

const RS: u64 = (cmd::RS as u64) << 24;
const EOP: u64 = (cmd::EOP as u64) << 24;
const DATA: u64 = (dtyp::DATA as u64) << 20 | ((cmd::DEXT | cmd::IFCS) as u64) << 24;

/// Where PAYLEN begins; DTALEN lies at the bottom.
const PAYLEN: u32 = 46;

/// A status report is asked for at the end of the frame that makes so many descriptors since the last one.
pub(super) const REPORT: i32 = 32;
/// The hardware takes no shorter frame, even when it pads (Linux pads to this in software as well).
const MIN_FRAME: u32 = 17;
/// Longest frame without segmentation: MAXFRS ends at 15.5 KiB less FCS (datasheet 8.2.3.22.13).
const MAX_FRAME: u32 = 15872 - 4;
/// PAYLEN has 18 bits, TCP over IP has 16: the longest frame to segment, headers included.
const MAX_TSO: u32 = 65535 + 18;

/// What a TX queue is built from.
pub(crate) struct TxParts {
    pub id: u16,
    pub ring: DescriptorRing16,
    pub doorbell: Doorbell,
    pub region: Arc<Region>,
    /// I/O address of the region's memory.
    pub iova: u64,
    pub shared: Arc<PortShared>,
    pub path: CpuPath,
}

/// The driver's record of an 82599 transmit queue. `clean` and `rung` run freely, as the lane's `tail` does, and are taken
/// modulo the ring size; `clean..tail` is in use, `rung..tail` not yet shown to the device.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct TxRing {
    // What every burst touches comes first.
    rung: u32,
    /// Descriptors until the next one that is to report.
    until: i32,
    frames: u64,
    shared: Arc<PortShared>,
    lane: TxLane<2>,
    clean: u32,
    /// `submit` looks closer once `tail` has come here. While no report is under way, and once the device is dead, it has.
    look_at: u32,
    dead: bool,
    id: u16,
    path: CpuPath,
    marks: Marks,
    free: FreeStack,
    doorbell: Doorbell,
    stats: TxStats,
    place: Placement,
    /// Context the device holds in slot 0, if it holds any.
    context: Option<[u64; 2]>,
}

impl TxRing {
    /// A TX queue over a ring that the device does not use yet.
    pub(crate) fn new(parts: TxParts) -> TxRing {
        let TxParts {
            id,
            ring,
            doorbell,
            region,
            iova,
            shared,
            path,
        } = parts;
        ring.clear();
        let place = Placement {
            base: iova,
            stride: region.layout().stride,
            headroom: region.layout().headroom,
        };
        // What is too short, too long or not inside its buffer gets a closer look by `push`.
        let describe = Describe {
            bits: DATA | EOP,
            shift: PAYLEN,
            least: MIN_FRAME as u16,
            limit: place.stride.min(MAX_FRAME),
        };
        TxRing {
            lane: TxLane::new(ring, TxPlan::new(&region, place, describe), path),
            marks: Marks::new(),
            clean: 0,
            look_at: 0,
            rung: 0,
            until: REPORT,
            place,
            id,
            dead: false,
            free: FreeStack::new(region),
            doorbell,
            context: None,
            frames: 0,
            stats: TxStats::default(),
            shared,
            path,
        }
    }

    /// Moves frames of a batch to the ring, in order; gives how many were taken before the first refusal.
    #[inline]
    pub(crate) fn push_frames(&mut self, batch: &mut RxBatch, frames: &[u8], meta: &TxMeta) -> usize {
        if meta.flags.is_empty() {
            self.push_plain(batch, frames)
        } else {
            batch.trade(&mut self.free);
            self.push_each(batch, frames, 0, meta)
        }
    }

    /// The shortest way for the common case: frames of one buffer each, without requests, and there is room for them. This
    /// only chooses: so it saves no registers, and what it calls saves them once.
    #[inline(never)]
    fn push_plain(&mut self, batch: &mut RxBatch, frames: &[u8]) -> usize {
        if frames.len() > self.lane.ready() as usize || !batch.is_simple() || batch.wants(&self.free) {
            return self.push_anew(batch, frames);
        }
        self.push_ready(batch, frames)
    }

    /// As [`push_plain`](Self::push_plain), when all of that is so.
    #[inline(always)]
    fn push_ready(&mut self, batch: &mut RxBatch, frames: &[u8]) -> usize {
        if let [frame] = frames {
            return self.push_one(batch, *frame);
        }
        let (Some(path), [first, .., last]) = (self.lane.steps(frames.len()), frames) else {
            return self.push_few(batch, frames);
        };
        // Side by side? This only chooses: either way looks at each.
        match usize::from(*first) + frames.len() == usize::from(*last) + 1 {
            true => path.run::<PushSteps<false>, _, _, _>(self, batch, frames),
            false => path.run::<PushSteps<true>, _, _, _>(self, batch, frames),
        }
    }

    /// As [`push_few`](Self::push_few), for one.
    #[inline(never)]
    fn push_one(&mut self, batch: &mut RxBatch, frame: u8) -> usize {
        let Some(bytes) = self.lane.send_one(frame, batch.simple_slots()) else {
            return self.push_one_anew(batch, frame, 0);
        };
        if self.pushed(batch, Moved { count: 1, bytes }) {
            return self.push_one_anew(batch, frame, 1);
        }
        1
    }

    /// As [`push_rest`](Self::push_rest).
    #[inline(never)]
    fn push_one_anew(&mut self, batch: &mut RxBatch, frame: u8, done: usize) -> usize {
        self.push_rest(batch, &[frame], done)
    }

    /// As [`PushSteps`], one after the other.
    #[inline(never)]
    fn push_few(&mut self, batch: &mut RxBatch, frames: &[u8]) -> usize {
        self.push_on(batch, frames, 0)
    }

    /// Goes on one after the other, when `done` of `frames` are in the ring.
    #[inline(never)]
    fn push_on(&mut self, batch: &mut RxBatch, frames: &[u8], mut done: usize) -> usize {
        let left = frames.get(done..).unwrap_or_default();
        let moved = self.lane.send_few(left, batch.simple_slots());
        self.pushed(batch, moved);
        done += moved.count as usize;
        if self.until <= 0 || done != frames.len() {
            return self.push_rest(batch, frames, done);
        }
        done
    }

    /// So many more frames are in the ring; gives whether a report is due.
    #[inline(always)]
    fn pushed(&mut self, batch: &mut RxBatch, moved: Moved) -> bool {
        self.stats.bytes += moved.bytes;
        self.frames += u64::from(moved.count);
        batch.taken(moved.count as usize);
        let due = self.until <= moved.count as i32;
        self.until -= moved.count as i32;
        due
    }

    /// Asks for the reports that are due, and takes a closer look at the frames that are left.
    #[inline(never)]
    fn push_rest(&mut self, batch: &mut RxBatch, frames: &[u8], done: usize) -> usize {
        self.ask_for_due();
        if done == frames.len() {
            return done;
        }
        self.push_each(batch, frames, done, &TxMeta::NONE)
    }

    /// Asks for the reports that are due once all `done` frames are in the ring.
    #[inline(never)]
    fn pushed_all(&mut self, done: usize) -> usize {
        self.ask_for_due();
        done
    }

    /// Nothing of what was just pushed has been shown to the device yet, so reports may still be asked for.
    #[inline]
    fn ask_for_due(&mut self) {
        while self.until <= 0 {
            self.ask(self.lane.tail().wrapping_add_signed(self.until).wrapping_sub(1));
            self.until += REPORT;
        }
    }

    /// Takes over free buffers, makes room, and goes round the end of the ring.
    #[inline(never)]
    fn push_anew(&mut self, batch: &mut RxBatch, frames: &[u8]) -> usize {
        batch.trade(&mut self.free);
        let mut done = 0;
        while batch.is_simple() && done < frames.len() {
            let left = &frames[done..];
            if self.room() as usize <= left.len() {
                self.reclaim();
            }
            let most = self.lane.look(self.room().saturating_sub(1)) as usize;
            // The rest lies behind the end of the ring.
            let now = &left[..left.len().min(most)];
            let taken = if now.is_empty() {
                0
            } else {
                self.push_ready(batch, now)
            };
            done += taken;
            if taken < now.len() {
                return done;
            }
            if taken == 0 {
                break;
            }
        }
        self.push_each(batch, frames, done, &TxMeta::NONE)
    }

    /// Takes a closer look at each of `frames` from `done` on.
    #[inline(never)]
    fn push_each(&mut self, batch: &mut RxBatch, frames: &[u8], mut done: usize, meta: &TxMeta) -> usize {
        for frame in frames.get(done..).unwrap_or_default() {
            if self.push(batch.slots_of(usize::from(*frame)), meta).is_err() {
                break;
            }
            done += 1;
        }
        done
    }

    /// Asks for a report on a descriptor that the device has not been shown yet.
    #[inline]
    fn ask(&mut self, at: u32) {
        let ring = self.lane.ring();
        ring.put_quad(at, 1, ring.quad(at, 1) | RS);
        self.marks.push(at);
    }

    /// Moves a run of handles to the ring; on refusal they stay in `slots`.
    #[inline]
    pub(crate) fn push(&mut self, slots: &mut [Option<Handle>], meta: &TxMeta) -> Result<(), TxRefused> {
        let Some(mut total) = checked_len(slots, self.free.region().id(), self.place.stride) else {
            return self.invalid();
        };
        let need = slots.len() as u32 + 1;
        if self.room() < need && !self.make_room(need) {
            self.stats.full += 1;
            return Err(TxRefused::Full);
        }
        if !(MIN_FRAME..=MAX_FRAME).contains(&total) || slots.len() > MAX_TX_RUN {
            total = self.unusual(slots, total, meta)?;
        }
        let mut q1 = DATA | u64::from(total) << PAYLEN;
        if !meta.flags.is_empty() {
            q1 = self.offloads(total, meta)?;
        }
        let count = slots.len();
        for (i, slot) in slots.iter_mut().enumerate() {
            let Some(handle) = slot.take() else { continue };
            let addr = self.place.base
                + u64::from(handle.index()) * u64::from(self.place.stride)
                + u64::from(handle.off);
            let mut bits = q1 | u64::from(handle.len);
            self.until -= 1;
            if i + 1 == count {
                bits |= EOP;
                if self.until <= 0 {
                    bits |= RS;
                    self.marks.push(self.lane.tail());
                    self.until = REPORT;
                }
            }
            self.lane.put([addr, bits], Some(handle));
        }
        self.frames += 1;
        self.stats.bytes += u64::from(total);
        Ok(())
    }

    #[cold]
    fn invalid<T>(&mut self) -> Result<T, TxRefused> {
        self.stats.invalid += 1;
        Err(TxRefused::Invalid)
    }

    #[cold]
    fn make_room(&mut self, need: u32) -> bool {
        self.reclaim();
        self.room() >= need
    }

    /// A frame of unusual length: padded if it is short, refused unless it is to be segmented if it is long.
    #[cold]
    fn unusual(&mut self, slots: &mut [Option<Handle>], total: u32, meta: &TxMeta) -> Result<u32, TxRefused> {
        if total > MAX_TSO || slots.len() > MAX_TX_RUN {
            return self.invalid();
        }
        if total > MAX_FRAME {
            return if meta.flags.contains(TxFlags::TSO) {
                Ok(total)
            } else {
                self.invalid()
            };
        }
        let region = self.free.region().clone();
        let [Some(handle)] = slots else {
            return self.invalid();
        };
        let (off, len) = (usize::from(handle.off), usize::from(handle.len));
        match region
            .buffer_mut(handle)
            .get_mut(off + len..off + MIN_FRAME as usize)
        {
            Some(padding) => padding.fill(0),
            None => return self.invalid(),
        }
        handle.len = MIN_FRAME as u16;
        Ok(MIN_FRAME)
    }

    /// Quadword 1 of the data descriptors of a frame with requests, and the context in front if it changed.
    /// Layout: datasheet 7.2.3.2.3 (context) and 7.2.3.2.4 (data).
    fn offloads(&mut self, total: u32, meta: &TxMeta) -> Result<u64, TxRefused> {
        let flags = meta.flags;
        let tso = flags.contains(TxFlags::TSO);
        let headers = u32::from(meta.l2_len) + u32::from(meta.l3_len) + u32::from(meta.l4_len);
        let vlan_only = flags == TxFlags::VLAN;
        if meta.l2_len > 127
            || meta.l3_len > 511
            || (!vlan_only && meta.l2_len < 14)
            || (tso && (meta.mss == 0 || meta.l4_len < 20 || headers >= total))
        {
            return self.invalid();
        }
        let l4t = if tso || flags.contains(TxFlags::TCP_CHECKSUM) {
            tucmd::L4T_TCP
        } else if flags.contains(TxFlags::SCTP_CHECKSUM) {
            tucmd::L4T_SCTP
        } else {
            tucmd::L4T_UDP
        };
        let context = tx::Context {
            ip_len: meta.l3_len,
            mac_len: if vlan_only { 14 } else { meta.l2_len },
            vlan: if flags.contains(TxFlags::VLAN) {
                meta.vlan_tci
            } else {
                0
            },
            tucmd: l4t
                | if flags.contains(TxFlags::IPV4) {
                    tucmd::IPV4
                } else {
                    0
                },
            l4_len: if tso { meta.l4_len } else { 0 },
            mss: if tso { meta.mss } else { 0 },
            idx: 0,
        }
        .encode();
        if self.context != Some(context) {
            self.lane.put(context, None);
            self.until -= 1;
            self.stats.contexts += 1;
            self.context = Some(context);
        }
        let mut options = 0;
        if flags.contains(TxFlags::IP_CHECKSUM) || (tso && flags.contains(TxFlags::IPV4)) {
            options |= popts::IXSM;
        }
        let l4 = TxFlags::TCP_CHECKSUM | TxFlags::UDP_CHECKSUM | TxFlags::SCTP_CHECKSUM | TxFlags::TSO;
        if flags.intersects(l4) {
            options |= popts::TXSM;
        }
        let mut command = 0;
        if flags.contains(TxFlags::VLAN) {
            command |= cmd::VLE;
        }
        if tso {
            command |= cmd::TSE;
        }
        let payload = if tso { total - headers } else { total };
        Ok(DATA | u64::from(command) << 24 | u64::from(options) << 40 | u64::from(payload) << PAYLEN)
    }

    /// Fills `batch` with up to `n` fresh buffers of `len` bytes of data, whatever lies in them.
    pub(crate) fn allocate(&mut self, batch: &mut RxBatch, n: usize, len: u16) -> usize {
        batch.begin_sending(&mut self.free, self.path);
        for mut handle in self.free.take(n.min(batch.room())) {
            handle.set_data(self.place.headroom, len);
            batch.put16(handle, [0, 0]);
        }
        batch.count_simple();
        batch.len()
    }

    /// Copies a frame into as many buffers as it needs and queues it.
    pub(crate) fn push_copy(&mut self, frame: &[u8], meta: &TxMeta) -> Result<(), TxRefused> {
        let region = self.free.region().clone();
        let headroom = region.layout().headroom;
        let room = (region.layout().data_len() as usize).min(usize::from(u16::MAX));
        let mut slots: arrayvec::ArrayVec<Option<Handle>, MAX_TX_RUN> = arrayvec::ArrayVec::new();
        let mut outcome = if frame.len() > room * MAX_TX_RUN || frame.is_empty() {
            self.invalid()
        } else {
            Ok(())
        };
        if outcome.is_ok() {
            for chunk in frame.chunks(room) {
                let Some(mut handle) = self.free.pop() else {
                    outcome = Err(TxRefused::NoBuffers);
                    break;
                };
                handle.off = headroom;
                handle.len = chunk.len() as u16;
                region.data_mut(&mut handle).copy_from_slice(chunk);
                slots.push(Some(handle));
            }
        }
        let outcome = outcome.and_then(|()| self.push(&mut slots, meta));
        self.free.push_all(slots.into_iter().flatten());
        outcome
    }

    #[inline]
    pub(crate) fn submit(&mut self) -> usize {
        let tail = self.lane.tail();
        if (tail.wrapping_sub(self.look_at) as i32 >= 0 || tail == self.rung || self.shared.is_closed())
            && !self.look_closer()
        {
            return 0;
        }
        let told = tail & (self.ring_size() - 1);
        if !self.doorbell.ring_mapped(told) {
            self.ring_by_call(told);
        }
        self.rung = tail;
        self.stats.doorbells += 1;
        self.stats.frames += self.frames;
        std::mem::take(&mut self.frames) as usize
    }

    /// The doorbell of a device whose registers are not mapped.
    #[cold]
    fn ring_by_call(&mut self, told: u32) {
        if self.doorbell.ring(told).is_err() {
            self.dead = true;
            self.look_at = self.lane.tail();
        }
    }

    /// Looks for what has been sent, which pays once in as many descriptors as one report covers. Gives whether there is something
    /// to be sent, and someone to send it.
    #[inline(never)]
    fn look_closer(&mut self) -> bool {
        if self.dead || self.shared.is_closed() {
            return false;
        }
        self.reclaim();
        let tail = self.lane.tail();
        if tail == self.rung {
            return false;
        }
        // Nothing would ever report these few frames: ask for a report on the last one. The device has not been
        // shown that descriptor yet, so it may still be changed.
        if self.marks.is_empty() {
            self.ask(tail.wrapping_sub(1));
            self.until = REPORT;
        }
        self.look_at = tail.wrapping_add_signed(REPORT);
        true
    }

    /// One look at the oldest reporting descriptor; when it is done, everything up to it comes back.
    pub(crate) fn reclaim(&mut self) -> usize {
        let mut end = self.clean;
        while let Some(mark) = self.marks.first() {
            if self.lane.ring().quad_acquire(mark, 1) & tx::DD == 0 {
                break;
            }
            end = mark.wrapping_add(1);
            self.marks.pop();
        }
        let count = end.wrapping_sub(self.clean);
        if count == 0 {
            return 0;
        }
        if self.marks.is_empty() {
            self.look_at = end;
        }
        let back = self.lane.recycle(&mut self.free, self.clean, count);
        self.clean = end;
        self.stats.completed += back as u64;
        back
    }

    #[inline]
    fn room(&self) -> u32 {
        self.ring_size() - 1 - self.lane.tail().wrapping_sub(self.clean)
    }

    #[inline]
    pub(crate) fn space(&self) -> usize {
        self.room() as usize
    }

    /// Reads what sending uses and no device writes: see [`harness::recall`](crate::harness::recall).
    #[cfg(feature = "models")]
    pub(crate) fn recall(&self) -> u64 {
        let own = self.stats.frames ^ u64::from(self.rung) ^ u64::from(self.place.stride);
        let marks = self.marks.sum();
        own.wrapping_add(marks)
            .wrapping_add(self.lane.read_record())
            .wrapping_add(self.free.read())
    }

    /// Everything that sending writes, as addresses, for the layout's test.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn written(&mut self) -> Vec<(&'static str, std::ops::Range<usize>)> {
        let at = std::ptr::from_ref(self) as usize;
        let mut written = vec![
            ("tx queue", at..at + size_of::<TxRing>()),
            ("tx descriptors", self.lane.ring().addresses()),
            ("tx record", self.lane.record_addresses()),
            ("tx doorbell", self.doorbell.addresses()),
        ];
        written.extend(self.free.addresses().map(|range| ("tx free stack", range)));
        written
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn stats(&self) -> TxStats {
        self.stats
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        self.free.region()
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

/// Frames of one buffer each, for which there is room; `LISTED` as in [`TxLane::send`].
struct PushSteps<const LISTED: bool>;

impl<const LISTED: bool> Work<&mut TxRing, &mut RxBatch, &[u8]> for PushSteps<LISTED> {
    type Out = usize;

    #[inline(always)]
    fn work(path: CpuPath, ring: &mut TxRing, batch: &mut RxBatch, frames: &[u8]) -> usize {
        let moved = ring
            .lane
            .send::<LISTED, BATCH>(path, frames, batch.simple_slots());
        let due = ring.pushed(batch, moved);
        let done = moved.count as usize;
        if done != frames.len() {
            return ring.push_on(batch, frames, done);
        }
        if due {
            return ring.pushed_all(done);
        }
        done
    }
}

/// Queues of two threads share no cache line, wherever they are moved.
const _: () = assert!(align_of::<TxRing>() >= 64 && size_of::<TxRing>().is_multiple_of(64));

impl Drop for TxRing {
    fn drop(&mut self) {
        // The device may still read the buffers; only the port knows when it has let go of them.
        self.shared.orphan(self.id, self.lane.take_record());
    }
}
