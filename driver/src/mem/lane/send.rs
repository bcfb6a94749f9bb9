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
    /// As `bits` says.
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
        let first = region.first_tag();
        let known = simd::Transmit {
            first: u64::from(first.bits()),
            foreign: u64::from(!Tag::MAX_INDEX),
            stride: u64::from(place.stride),
            base: place.base,
            least: u64::from(describe.least),
            limit: u64::from(describe.limit),
            bits: describe.bits,
            shift: describe.shift,
        };
        TxPlan(known, first)
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

    /// Whether [`send`](Self::send) of `n` frames would begin with four at once.
    #[inline(always)]
    pub fn has_step(&self, n: usize) -> bool {
        Q == 2 && n >= STEP && self.path.has_avx2()
    }

    /// Puts frames of one buffer each into the ring: those of `slots` that `frames` numbers, in order. Stops when nothing
    /// more is [`ready`](Self::ready), and at the first frame that is not there or not as the plan wants it.
    #[inline(always)]
    pub fn send<const N: usize>(&mut self, frames: &[u8], slots: &mut [Option<Handle>; N]) -> Moved {
        let n = frames.len().min(self.ready as usize);
        let mut moved = Moved::default();
        #[cfg(target_arch = "x86_64")]
        if Q == 2 && self.path.has_avx2() {
            let (ring, tags) = self.places();
            // SAFETY: the path says that there is AVX2, and `Q` that descriptors are 16 bytes. The `n` slots, ready as they are,
            // lie in the ring and in its record, which the lane owns and has borrowed mutably; `frames` is no shorter, and there
            // are `N` of `slots`.
            let (count, bytes) = unsafe {
                avx2::send(
                    n,
                    ring.cast_mut().cast(),
                    tags.cast(),
                    frames.as_ptr(),
                    slots.as_mut_ptr().cast(),
                    N,
                    &self.plan.0,
                )
            };
            moved = Moved {
                count: count as u32,
                bytes,
            };
            if count == n {
                self.moved(moved.count);
                return moved;
            }
        }
        self.one_by_one(moved, n, frames, slots)
    }

    /// As [`send`](Self::send), one after the other: what is best for few.
    #[inline(always)]
    pub fn send_few<const N: usize>(&mut self, frames: &[u8], slots: &mut [Option<Handle>; N]) -> Moved {
        let n = frames.len().min(self.ready as usize);
        self.one_by_one(Moved::default(), n, frames, slots)
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

    /// Goes on until `n` are moved. `n` is at most what is ready, and at most the length of `frames`.
    #[inline(always)]
    fn one_by_one<const N: usize>(
        &mut self,
        before: Moved,
        n: usize,
        frames: &[u8],
        slots: &mut [Option<Handle>; N],
    ) -> Moved {
        let (ring, tags) = self.places();
        let TxPlan(k, first) = &self.plan;
        let (mut count, mut bytes) = (before.count as usize, before.bytes);
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
            let index = first.distance(slot.as_ref().map(Handle::tag));
            if index > Tag::MAX_INDEX {
                break;
            }
            // SAFETY: an empty slot's distance is the region's own bits, and those are above the highest index.
            let handle = unsafe { slot.as_ref().unwrap_unchecked() };
            let (off, len) = (u64::from(handle.off), u64::from(handle.len));
            if len < k.least || off + len > k.limit {
                break;
            }
            let address = k.base + u64::from(index) * k.stride + off;
            let last = k.bits + len + (len << k.shift);
            descriptor[0].store(address.to_le(), Ordering::Relaxed);
            for quad in &descriptor[1..Q - 1] {
                quad.store(0, Ordering::Relaxed);
            }
            descriptor[Q - 1].store(last.to_le(), Ordering::Relaxed);
            // Its distance shows that it is a plain tag.
            *tag = slot.take().map(Handle::into_plain_tag);
            bytes += len;
            count += 1;
        }
        self.moved(count as u32);
        Moved {
            count: count as u32,
            bytes,
        }
    }
}
