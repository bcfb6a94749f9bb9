//! Receiving: a frame's buffer goes into the batch, and a fresh one into its place.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{HEADROOM, LEN, LEN_AT, Moved, Placement};
use crate::mem::handle::Tag;
use crate::mem::{FreeStack, Handle, Region, Ring, Shadow};
#[cfg(target_arch = "x86_64")]
use crate::simd::avx2;
use crate::simd::{self, CpuPath, STEP};

/// What the last quadword of a written-back descriptor says when all is well: it is so if, less `minus`, it has under
/// `mask` the bits of `want`. Its bits 47:32 are the length.
#[derive(Clone, Copy, Debug)]
pub struct Accept {
    /// Taken off first, so that a length of 0 borrows from the bits above it.
    pub minus: u64,
    /// The bits that matter.
    pub mask: u64,
    /// What they must be.
    pub want: u64,
}

/// What a queue's [`RxLane`] needs to know each time.
#[derive(Clone, Copy, Debug)]
pub struct RxPlan(simd::Receive, Tag);

impl RxPlan {
    /// For buffers of `region`, placed as `place` says, and write-backs as `accept` says.
    pub fn new(region: &Region, place: Placement, accept: Accept) -> RxPlan {
        let first = region.first_tag();
        let known = simd::Receive {
            minus: accept.minus,
            mask: accept.mask,
            want: accept.want,
            head: u64::from(place.headroom) << HEADROOM,
            first: first.bits(),
            stride: u64::from(place.stride),
            base: place.base + u64::from(place.headroom),
            here: region.data_by_tag(),
        };
        RxPlan(known, first)
    }

    #[inline(always)]
    fn accepts(&self, last: u64) -> bool {
        last.wrapping_sub(self.0.minus) & self.0.mask == self.0.want
    }

    /// The last quadword of a descriptor, if it is as it should be.
    #[inline(always)]
    fn accepted<const Q: usize>(&self, descriptor: &[AtomicU64; Q]) -> Option<u64> {
        let last = u64::from_le(descriptor[Q - 1].load(Ordering::Acquire));
        self.accepts(last).then_some(last)
    }

    /// Takes the frame of which `descriptor` tells, with its `last` quadword, into `slot` and `raw`; it lies in `buffer`. Gives its
    /// length, in the length's bits.
    #[inline(always)]
    fn receive<const Q: usize>(
        &self,
        descriptor: &[AtomicU64; Q],
        last: u64,
        buffer: Tag,
        slot: &mut Option<Handle>,
        raw: &mut [u64; Q],
    ) -> u64 {
        // By index: an iterator over two at once stays a call in a build that does not optimise at link time.
        let mut i = 0;
        while i < Q - 1 {
            raw[i] = u64::from_le(descriptor[i].load(Ordering::Relaxed));
            i += 1;
        }
        raw[Q - 1] = last;
        let len = last & LEN;
        Handle::write(slot, buffer, self.0.head | len);
        len
    }

    /// Puts fresh buffer `index` in the place of the one whose frame was taken.
    #[inline(always)]
    fn replace<const Q: usize>(&self, descriptor: &[AtomicU64; Q], tag: &mut Option<Tag>, index: u32) {
        let RxPlan(k, first) = self;
        *tag = Some(first.at(index));
        let address = k.base + u64::from(index) * k.stride;
        descriptor[0].store(address.to_le(), Ordering::Relaxed);
        for quad in &descriptor[1..] {
            quad.store(0, Ordering::Relaxed);
        }
    }
}

/// A receive ring, the record of its buffers, and the free buffers that replace them.
#[derive(Debug)]
pub struct RxLane<const Q: usize> {
    /// The slot of the next frame; runs freely, and is taken modulo the ring size.
    next: u32,
    /// From `next` on so many slots lie in one piece, and for each there is a fresh buffer on `free`.
    ready: u32,
    path: CpuPath,
    plan: RxPlan,
    ring: Ring<Q>,
    shadow: Shadow,
    free: FreeStack,
}

impl<const Q: usize> RxLane<Q> {
    /// A lane on `ring`, with an empty record and no free buffers but the depot's of `region`.
    pub fn new(ring: Ring<Q>, free: FreeStack, plan: RxPlan, path: CpuPath) -> Self {
        RxLane {
            next: 0,
            ready: 0,
            path,
            plan,
            shadow: Shadow::new(ring.size() as usize),
            ring,
            free,
        }
    }

    /// The slot of the next frame, modulo the ring size.
    #[inline(always)]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// So many frames can be exchanged without another [`look`](Self::look).
    #[inline(always)]
    pub fn ready(&self) -> u32 {
        self.ready
    }

    /// Looks how many of the next `shown` slots can be exchanged: up to the ring's end, and while there are fresh buffers on
    /// the stack.
    #[inline]
    pub fn look(&mut self, shown: u32) -> u32 {
        let to_end = self.ring.size() - (self.next & (self.ring.size() - 1));
        let fresh = self.free.len().min(to_end as usize) as u32;
        // The record may have been replaced by a smaller one.
        self.ready = match self.shadow.size() == self.ring.size() as usize {
            true => shown.min(fresh),
            false => 0,
        };
        self.ready
    }

    /// The parts, for everything that is not one frame in one buffer. Afterwards the lane has to [`look`](Self::look).
    #[inline]
    pub fn open(&mut self) -> (&Ring<Q>, &mut Shadow, &mut FreeStack) {
        self.ready = 0;
        (&self.ring, &mut self.shadow, &mut self.free)
    }

    /// Puts everything that lies in `slots` on the free buffers.
    #[inline(always)]
    pub fn keep(&mut self, slots: &mut [Option<Handle>]) {
        self.free.keep_all(slots, self.path);
        // Some of a full stack may have gone to the depot.
        self.ready = self.ready.min(self.free.len() as u32);
    }

    /// As [`keep`](Self::keep), for one slot; gives whether that was possible in the simple way.
    #[inline(always)]
    pub(crate) fn keep_one(&mut self, slot: &mut Option<Handle>) -> bool {
        self.free.keep_one(slot)
    }

    /// Leaves the next slot behind, whose buffer was taken out by way of [`open`](Self::open).
    #[inline]
    pub fn skip(&mut self) {
        self.ready = 0;
        self.next = self.next.wrapping_add(1);
    }

    /// The ring.
    #[inline(always)]
    pub fn ring(&self) -> &Ring<Q> {
        &self.ring
    }

    /// The free buffers.
    #[inline(always)]
    pub fn free(&self) -> &FreeStack {
        &self.free
    }

    /// Reads all of the record, so that it lies in the caches; gives the number of buffers in it.
    #[cfg(feature = "models")]
    pub(crate) fn read_record(&self) -> u64 {
        self.shadow.occupied() as u64
    }

    /// The record, of which an empty one takes the place.
    pub fn take_record(&mut self) -> Shadow {
        self.ready = 0;
        std::mem::replace(&mut self.shadow, Shadow::new(1))
    }

    /// The path, if [`exchange`](Self::exchange) of `most` would begin with four at once on it.
    #[inline(always)]
    pub(crate) fn steps(&self, most: u32) -> Option<CpuPath> {
        let path = self.path;
        let fourth = self.next.wrapping_add(STEP as u32 - 1);
        let steps = Q == 2
            && most >= STEP as u32
            && path.has_avx2()
            && self.plan.accepts(self.ring.last_acquire(fourth));
        steps.then_some(path)
    }

    /// Takes received frames of one buffer each, `most` of them at most, and puts a fresh buffer in the place of each. Stops when
    /// nothing more is [`ready`](Self::ready), when `slots` or `raw` are used up, and at the first descriptor that is not as the plan
    /// accepts or has no buffer. `slots` must be empty: what lies there is lost. Only whole steps on a `path` that has them,
    /// and nothing on one that has not: [`exchange_few`](Self::exchange_few) goes on. `FETCH` starts loading each frame's first line.
    #[inline(always)]
    pub(crate) fn exchange<const FETCH: bool, const N: usize>(
        &mut self,
        path: CpuPath,
        most: u32,
        slots: &mut [Option<Handle>; N],
        raw: &mut [[u64; Q]; N],
    ) -> Moved {
        #[cfg(target_arch = "x86_64")]
        if Q == 2 && path.has_avx2() {
            let n = self.ready.min(most).min(N as u32);
            let (ring, tags, end) = self.places();
            // SAFETY: the path says that there is AVX2, and `Q` that descriptors are 16 bytes. The `n` slots, ready as they are,
            // lie in the ring and in its record, which the lane owns and has borrowed mutably, and there are as many elements
            // in front of `end`; `slots` and `raw` have no fewer, and the plan is for tags and handles as they are.
            let (taken, lens) = unsafe {
                avx2::exchange::<FETCH>(
                    n as usize,
                    ring.cast_mut().cast(),
                    tags.cast(),
                    end,
                    slots.as_mut_ptr().cast(),
                    raw.as_mut_ptr().cast(),
                    &self.plan.0,
                )
            };
            self.moved(taken as u32);
            return Moved {
                count: taken as u32,
                bytes: lens >> LEN_AT,
            };
        }
        Moved::default()
    }

    /// As [`exchange`](Self::exchange), one after the other: what is best for few. They are looked at at once, so nothing is
    /// loaded in advance.
    #[inline(always)]
    pub fn exchange_few(&mut self, most: u32, slots: &mut [Option<Handle>], raw: &mut [[u64; Q]]) -> Moved {
        let n = slots.len().min(raw.len()).min(self.ready.min(most) as usize);
        let (ring, tags, end) = self.places();
        let (mut taken, mut lens) = (0, 0);
        while taken < n {
            // SAFETY: `taken` is below `n`, and so many slots are ready: they lie in the ring and in its record, which the lane
            // owns and has borrowed mutably, and as many fresh buffers in front of `end`; `slots` and `raw` have no fewer. The
            // device's side writes descriptors too, hence atomics.
            let (descriptor, tag, index, slot, raw) = unsafe {
                (
                    &*ring.add(taken),
                    &mut *tags.add(taken),
                    *end.sub(taken + 1),
                    slots.get_unchecked_mut(taken),
                    raw.get_unchecked_mut(taken),
                )
            };
            let Some(last) = self.plan.accepted(descriptor) else {
                break;
            };
            let Some(buffer) = *tag else { break };
            lens += self.plan.receive(descriptor, last, buffer, slot, raw);
            self.plan.replace(descriptor, tag, index);
            taken += 1;
        }
        self.moved(taken as u32);
        Moved {
            count: taken as u32,
            bytes: lens >> LEN_AT,
        }
    }

    /// As [`exchange_few`](Self::exchange_few), for one frame; gives its bytes if one was there.
    #[inline(always)]
    pub fn exchange_one(&mut self, slot: &mut Option<Handle>, raw: &mut [u64; Q]) -> Option<u64> {
        if self.ready == 0 {
            return None;
        }
        let (base, mask) = self.ring.parts();
        let at = (self.next & mask) as usize;
        // SAFETY: one slot is ready: it lies in the ring. The device's side writes descriptors too, hence atomics.
        let descriptor = unsafe { &*base.as_ptr().add(at) };
        let last = self.plan.accepted(descriptor)?;
        // SAFETY: one slot is ready: it lies in the record, too.
        let tag = unsafe { self.shadow.tags().get_unchecked_mut(at) };
        let buffer = (*tag)?;
        let len = self.plan.receive(descriptor, last, buffer, slot, raw);
        // SAFETY: one slot is ready, so there is a fresh buffer.
        let index = unsafe { self.free.take_top() };
        self.plan.replace(descriptor, tag, index);
        self.next = self.next.wrapping_add(1);
        self.ready -= 1;
        Some(len >> LEN_AT)
    }

    /// Whether the descriptor behind the next one says that something has come.
    #[inline(always)]
    pub fn has_second(&self, done: u64) -> bool {
        self.ring.last_acquire(self.next.wrapping_add(1)) & done != 0
    }

    /// Descriptor and record of the next frame, and the end of the fresh buffers.
    #[inline(always)]
    fn places(&mut self) -> (*const [AtomicU64; Q], *mut Option<Tag>, *const u32) {
        let (base, mask) = self.ring.parts();
        let at = (self.next & mask) as usize;
        (
            base.as_ptr().wrapping_add(at),
            self.shadow.tags().as_mut_ptr().wrapping_add(at),
            self.free.end(),
        )
    }

    /// `n` frames, which were ready, have been taken.
    #[inline(always)]
    fn moved(&mut self, n: u32) {
        self.free.used(n as usize);
        self.next = self.next.wrapping_add(n);
        self.ready -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{AllocOptions, BufferLayout, DmaMemory, PageSize};
    use std::sync::Arc;

    #[test]
    fn what_a_poll_prefetches_is_where_the_frame_lies() {
        let layout = BufferLayout::new(64);
        let options = AllocOptions {
            page: PageSize::Small,
            numa: None,
            name: "prefetch".to_owned(),
        };
        let memory = DmaMemory::alloc(layout.bytes(), &options).unwrap();
        let region = Region::new(Arc::new(memory), layout).unwrap();
        let place = Placement {
            base: 1 << 32,
            stride: layout.stride,
            headroom: layout.headroom,
        };
        let accept = Accept {
            minus: 0,
            mask: 0,
            want: 0,
        };
        let RxPlan(plan, _) = RxPlan::new(&region, place, accept);
        let mut stack = FreeStack::new(region.clone());
        for _ in 0..64 {
            let mut handle = stack.pop().unwrap();
            handle.set_data(layout.headroom, 60);
            let fetched = plan
                .here
                .wrapping_add(u64::from(handle.tag().bits()) * plan.stride);
            assert_eq!(fetched, region.data(&handle).as_ptr().addr() as u64);
        }
    }
}
