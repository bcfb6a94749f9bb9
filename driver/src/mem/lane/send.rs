//! Sending: frames out of a batch go into descriptors, and their buffers into the record.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Moved, Placement};
use crate::mem::handle::Tag;
use crate::mem::{FreeStack, Handle, Region, Ring, Shadow};
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2;
use crate::simd::{self, CpuPath, STEP};

/// How a descriptor to be sent looks, and which frames fit one.
#[derive(Clone, Copy, Debug)]
pub struct Describe {
    /// The last quadword: this, plus the length, plus the length shifted left by `shift`.
    pub bits: u64,
    /// As `bits` says; 32 at least.
    pub shift: u32,
    /// Least length.
    pub least: u16,
    /// Most bytes from the start of the buffer to the end of the frame.
    pub limit: u32,
}

/// What a queue's [`TxLane`] needs to know each time.
#[derive(Clone, Copy, Debug)]
pub struct TxPlan(simd::Transmit, Tag);

impl TxPlan {
    /// For buffers of `region`, placed as `place` says, and descriptors as `describe` says.
    pub fn new(region: &Region, place: Placement, describe: Describe) -> TxPlan {
        assert!(
            (32..64).contains(&describe.shift),
            "a length is shifted by 32 to 63"
        );
        let first = region.first_tag();
        let known = simd::Transmit {
            first: u64::from(first.bits()),
            fits: simd::fits(Tag::MAX_INDEX, describe.limit),
            stride: u64::from(place.stride),
            base: place.base,
            least: u64::from(describe.least),
            limit: u64::from(describe.limit),
            bits: describe.bits,
            shift: u64::from(describe.shift),
            times: 1 + (1 << describe.shift),
        };
        TxPlan(known, first)
    }

    /// Index, offset and length of what lies in `slot`, if that is a frame as it should be: of one buffer, which is one of ours.
    #[inline(always)]
    fn wants(&self, slot: &Option<Handle>) -> Option<(u32, u64, u64)> {
        let TxPlan(k, first) = self;
        let index = first.distance(slot.as_ref().map(Handle::tag));
        if index > Tag::MAX_INDEX {
            return None;
        }
        // SAFETY: an empty slot's distance is the region's own bits, and those are above the highest index.
        let handle = unsafe { slot.as_ref().unwrap_unchecked() };
        let (off, len) = (u64::from(handle.off), u64::from(handle.len));
        (len >= k.least && off + len <= k.limit).then_some((index, off, len))
    }

    /// Writes the descriptor of a frame.
    #[inline(always)]
    fn describe<const Q: usize>(&self, descriptor: &[AtomicU64; Q], index: u32, off: u64, len: u64) {
        let TxPlan(k, _) = self;
        let address = k.base + u64::from(index) * k.stride + off;
        let last = k.bits + len * k.times;
        descriptor[0].store(address.to_le(), Ordering::Relaxed);
        for quad in &descriptor[1..Q - 1] {
            quad.store(0, Ordering::Relaxed);
        }
        descriptor[Q - 1].store(last.to_le(), Ordering::Relaxed);
    }
}

/// A transmit ring and the record of its buffers.
#[derive(Debug)]
pub struct TxLane<const Q: usize> {
    /// The slot of the next descriptor; runs freely, and is taken modulo the ring size.
    tail: u32,
    /// From `tail` on so many slots lie in one piece and are free.
    ready: u32,
    path: CpuPath,
    plan: TxPlan,
    ring: Ring<Q>,
    shadow: Shadow,
}

impl<const Q: usize> TxLane<Q> {
    /// A lane on `ring`, with an empty record.
    pub fn new(ring: Ring<Q>, plan: TxPlan, path: CpuPath) -> Self {
        TxLane {
            tail: 0,
            ready: 0,
            path,
            plan,
            shadow: Shadow::new(ring.size() as usize),
            ring,
        }
    }

    /// The slot of the next descriptor, modulo the ring size.
    #[inline(always)]
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// So many frames can be sent without another [`look`](Self::look).
    #[inline(always)]
    pub fn ready(&self) -> u32 {
        self.ready
    }

    /// `room` slots are free: looks how many of them lie in one piece.
    #[inline]
    pub fn look(&mut self, room: u32) -> u32 {
        let to_end = self.ring.size() - (self.tail & (self.ring.size() - 1));
        // The record may have been replaced by a smaller one.
        self.ready = match self.shadow.size() == self.ring.size() as usize {
            true => room.min(to_end),
            false => 0,
        };
        self.ready
    }

    /// Reads all of the record, so that it lies in the caches; gives the number of buffers in it.
    #[cfg(feature = "models")]
    pub(crate) fn read_record(&self) -> u64 {
        self.shadow.occupied() as u64
    }

    /// Where the record lies, for tests of the layout.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn record_addresses(&self) -> std::ops::Range<usize> {
        self.shadow.addresses()
    }

    /// Writes the next descriptor, whatever it says, and remembers its buffer, if it has one.
    #[inline]
    pub fn put(&mut self, descriptor: [u64; Q], buffer: Option<Handle>) {
        self.ready = self.ready.saturating_sub(1);
        self.ring.put(self.tail, descriptor);
        if let Some(handle) = buffer {
            self.shadow.set(self.tail, handle);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// The ring.
    #[inline(always)]
    pub fn ring(&self) -> &Ring<Q> {
        &self.ring
    }

    /// Puts the buffers of the slots `from..from + count` on `free`; gives how many there were.
    #[inline]
    pub fn recycle(&mut self, free: &mut FreeStack, from: u32, count: u32) -> usize {
        free.recycle(&mut self.shadow, from, count, self.path)
    }

    /// The record, of which an empty one takes the place.
    pub fn take_record(&mut self) -> Shadow {
        self.ready = 0;
        std::mem::replace(&mut self.shadow, Shadow::new(1))
    }

    /// The path, if [`send`](Self::send) of `n` frames would begin with four at once on it.
    #[inline(always)]
    pub(crate) fn steps(&self, n: usize) -> Option<CpuPath> {
        (Q == 2 && n >= STEP && self.path.has_avx2()).then_some(self.path)
    }

    /// Puts frames of one buffer each into the ring: those of `slots` that `frames` numbers, in order. Stops when nothing
    /// more is [`ready`](Self::ready), and at the first frame that is not there or not as the plan wants it. Only whole steps on a
    /// `path` that has them, and nothing on one that has not: [`send_few`](Self::send_few) goes on. `LISTED` is for numbers with
    /// gaps, where it gets further.
    #[inline(always)]
    pub(crate) fn send<const LISTED: bool, const N: usize>(
        &mut self,
        path: CpuPath,
        frames: &[u8],
        slots: &mut [Option<Handle>; N],
    ) -> Moved {
        #[cfg(target_arch = "x86_64")]
        if Q == 2 && path.has_avx2() && !frames.is_empty() {
            let n = frames.len().min(self.ready as usize);
            let (ring, tags) = self.places();
            let (ring, tags) = (ring.cast_mut().cast(), tags.cast());
            let (frames, slots, places) = (frames.as_ptr(), slots.as_mut_ptr().cast(), N.min(256));
            let k = &self.plan.0;
            // SAFETY: the path says that there is AVX2, and `Q` that descriptors are 16 bytes. The `n` slots, ready as they are,
            // lie in the ring and in its record, which the lane owns and has borrowed mutably; `frames` is no shorter, and not
            // empty, and there are `N` of `slots`.
            let (count, bytes) = unsafe {
                match LISTED {
                    false => avx2::send(n, ring, tags, frames, slots, places, k),
                    true => avx2::send_listed(n, ring, tags, frames, slots, places, k),
                }
            };
            self.moved(count as u32);
            return Moved {
                count: count as u32,
                bytes,
            };
        }
        Moved::default()
    }

    /// As [`send`](Self::send), one after the other: what is best for few.
    #[inline(always)]
    pub fn send_few(&mut self, frames: &[u8], slots: &mut [Option<Handle>]) -> Moved {
        let n = frames.len().min(self.ready as usize);
        let (ring, tags) = self.places();
        let (mut count, mut bytes) = (0, 0);
        while count < n {
            // SAFETY: `count` is below `n`, and so many slots are ready: they lie in the ring and in its record, which the lane
            // owns and has borrowed mutably; `frames` is no shorter.
            let (descriptor, tag, frame) = unsafe {
                (
                    &*ring.add(count),
                    &mut *tags.add(count),
                    *frames.get_unchecked(count),
                )
            };
            let Some(slot) = slots.get_mut(usize::from(frame)) else {
                break;
            };
            let Some((index, off, len)) = self.plan.wants(slot) else {
                break;
            };
            // What is wanted has a plain tag.
            *tag = slot.take().map(Handle::into_plain_tag);
            self.plan.describe(descriptor, index, off, len);
            bytes += len;
            count += 1;
        }
        self.moved(count as u32);
        Moved {
            count: count as u32,
            bytes,
        }
    }

    /// As [`send`](Self::send), for one frame; gives its bytes if that was possible.
    #[inline(always)]
    pub fn send_one<const N: usize>(&mut self, frame: u8, slots: &mut [Option<Handle>; N]) -> Option<u64> {
        if self.ready == 0 {
            return None;
        }
        let (ring, tags) = self.places();
        // SAFETY: one slot is ready: it lies in the ring and in its record, which the lane owns and has borrowed mutably.
        let (descriptor, tag) = unsafe { (&*ring, &mut *tags) };
        let slot = slots.get_mut(usize::from(frame))?;
        let (index, off, len) = self.plan.wants(slot)?;
        *tag = slot.take().map(Handle::into_plain_tag);
        self.moved(1);
        self.plan.describe(descriptor, index, off, len);
        Some(len)
    }

    /// Descriptor and record of the next frame.
    #[inline(always)]
    fn places(&mut self) -> (*const [AtomicU64; Q], *mut Option<Tag>) {
        let (base, mask) = self.ring.parts();
        let at = (self.tail & mask) as usize;
        (
            base.as_ptr().wrapping_add(at),
            self.shadow.tags().as_mut_ptr().wrapping_add(at),
        )
    }

    /// `n` frames have been put into slots that were ready.
    #[inline(always)]
    fn moved(&mut self, n: u32) {
        self.tail = self.tail.wrapping_add(n);
        self.ready -= n;
    }
}
