//! The two loops that run for every packet, on a descriptor ring and the record of its buffers together.
//!
//! They know no family: what a written-back quadword must say and what a descriptor to be sent must hold is passed in.

#[cfg(target_arch = "x86_64")]
use crate::simd::avx2;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handle::Tag;
use super::{FreeStack, Handle, Region, Ring, Shadow};
use crate::simd::{self, CpuPath, STEP};

/// A [`Ring`] and its [`Shadow`] for one loop: both have the same size, so a slot number is wrapped once for both, and
/// what stays the same during the loop is in registers.
pub struct Lane<'a, const Q: usize> {
    ring: NonNull<[AtomicU64; Q]>,
    tags: NonNull<Option<Tag>>,
    mask: u32,
    path: CpuPath,
    _borrowed: PhantomData<(&'a Ring<Q>, &'a mut Shadow)>,
}

/// Where buffers lie: their first byte's I/O address, the bytes from one to the next, and where in a buffer data begins.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// I/O address of buffer 0.
    pub base: u64,
    /// Bytes from one buffer to the next.
    pub stride: u32,
    /// Bytes in front of received data.
    pub headroom: u16,
}

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

/// What a queue's [`Lane::exchange`] needs to know each time.
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
            len: LEN,
            head: u64::from(place.headroom) << HEADROOM,
            first: first.bits(),
            stride: u64::from(place.stride),
            base: place.base + u64::from(place.headroom),
        };
        RxPlan(known, first)
    }

    #[inline(always)]
    fn accepts(&self, last: u64) -> bool {
        last.wrapping_sub(self.0.minus) & self.0.mask == self.0.want
    }
}

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

/// What a queue's [`Lane::send`] needs to know each time.
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

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Descriptors.
    pub count: u32,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Where the length lies in the last quadword and in a handle's eight bytes, and behind it in a handle the offset.
const LEN_AT: u32 = 32;
const LEN: u64 = 0xffff << LEN_AT;
const HEADROOM: u32 = 48;

impl<'a, const Q: usize> Lane<'a, Q> {
    /// Both for one loop; `None` if they differ in size.
    #[inline(always)]
    pub fn new(ring: &'a Ring<Q>, shadow: &'a mut Shadow, path: CpuPath) -> Option<Self> {
        let (base, mask) = ring.parts();
        let tags = shadow.tags();
        if tags.len() != mask as usize + 1 {
            return None;
        }
        Some(Lane {
            ring: base,
            tags: NonNull::from(tags).cast(),
            mask,
            path,
            _borrowed: PhantomData,
        })
    }

    /// Slots from `slot` to the end of the ring.
    #[inline(always)]
    fn to_end(&self, slot: u32) -> usize {
        (self.mask + 1 - (slot & self.mask)) as usize
    }

    /// Descriptor and record at a slot. The record is only to be touched through one of these at a time.
    #[inline(always)]
    fn at(&self, slot: u32) -> (*const [AtomicU64; Q], *mut Option<Tag>) {
        let at = (slot & self.mask) as usize;
        (
            self.ring.as_ptr().wrapping_add(at),
            self.tags.as_ptr().wrapping_add(at),
        )
    }

    /// The last quadword of a slot, with Acquire: as [`Ring::last_acquire`].
    #[inline(always)]
    fn last_acquire(&self, slot: u32) -> u64 {
        // SAFETY: the slot, wrapped, is below the size of the ring, which is borrowed for as long as the lane lives. The
        // device's side writes the descriptor too, hence atomics.
        let descriptor = unsafe { &*self.at(slot).0 };
        u64::from_le(descriptor[Q - 1].load(Ordering::Acquire))
    }

    /// Takes received frames of one buffer each, from slot `from` on, `most` of them at most, and puts a fresh buffer of
    /// `free` in the place of each. Stops at the end of the ring, when `free` or `slots` are used up, and at the first
    /// descriptor that is not as `plan` accepts or has no buffer. `slots` must be empty: what lies there is lost.
    #[inline(always)]
    pub fn exchange<const N: usize>(
        &mut self,
        from: u32,
        most: u32,
        free: &mut FreeStack,
        plan: &RxPlan,
        slots: &mut [Option<Handle>; N],
        raw: &mut [[u64; Q]; N],
    ) -> Moved {
        let n = N.min(most as usize).min(self.to_end(from));
        let fresh = free.top(n);
        let n = fresh.len();
        let (ring, tags) = self.at(from);
        let end = fresh.as_ptr_range().end;
        let (mut taken, mut lens) = (0, 0u64);
        #[cfg(target_arch = "x86_64")]
        if Q == 2
            && n >= STEP
            && self.path.has_avx2()
            && plan.accepts(self.last_acquire(from.wrapping_add(STEP as u32 - 1)))
        {
            // SAFETY: the path says that there is AVX2, and `Q` that descriptors are 16 bytes. The `n` slots lie in the ring and
            // in its record, which are borrowed for as long as the lane lives, the record mutably; `fresh` has `n` elements,
            // `slots` and `raw` no fewer, and the plan is for tags and handles as they are.
            (taken, lens) = unsafe {
                avx2::exchange(
                    n,
                    ring.cast_mut().cast(),
                    tags.cast(),
                    end,
                    slots.as_mut_ptr().cast(),
                    raw.as_mut_ptr().cast(),
                    &plan.0,
                )
            };
        }
        let RxPlan(k, first) = plan;
        while taken < n {
            // SAFETY: `taken` is below `n`; as above.
            let (descriptor, tag, index, slot, raw) = unsafe {
                (
                    &*ring.add(taken),
                    &mut *tags.add(taken),
                    *end.sub(taken + 1),
                    slots.get_unchecked_mut(taken),
                    raw.get_unchecked_mut(taken),
                )
            };
            let last = u64::from_le(descriptor[Q - 1].load(Ordering::Acquire));
            if !plan.accepts(last) {
                break;
            }
            let Some(buffer) = tag.take() else { break };
            *tag = Some(first.at(index));
            for (r, q) in raw.iter_mut().zip(descriptor).take(Q - 1) {
                *r = u64::from_le(q.load(Ordering::Relaxed));
            }
            raw[Q - 1] = last;
            let len = last & LEN;
            Handle::write(slot, buffer, k.head | len);
            let mut new = [0; Q];
            new[0] = k.base + u64::from(index) * k.stride;
            for (d, q) in descriptor.iter().zip(new) {
                d.store(q.to_le(), Ordering::Relaxed);
            }
            lens += len;
            taken += 1;
        }
        free.used(taken);
        Moved {
            count: taken as u32,
            bytes: lens >> LEN_AT,
        }
    }

    /// Puts frames of one buffer each into the ring from `tail` on, where there must be room: those of `slots` that
    /// `frames` numbers, in order. Stops at the end of the ring, and at the first frame that is not there or not as `plan`
    /// wants it.
    #[inline(always)]
    pub fn send<const N: usize>(
        &mut self,
        tail: u32,
        frames: &[u8],
        slots: &mut [Option<Handle>; N],
        plan: &TxPlan,
    ) -> Moved {
        let n = frames.len().min(self.to_end(tail));
        let (ring, tags) = self.at(tail);
        let (mut count, mut bytes) = (0, 0u64);
        #[cfg(target_arch = "x86_64")]
        if Q == 2 && n >= STEP && self.path.has_avx2() {
            // SAFETY: the path says that there is AVX2, and `Q` that descriptors are 16 bytes. The `n` slots lie in the ring and
            // in its record, which are borrowed for as long as the lane lives, the record mutably; `frames` is no shorter, and
            // there are `N` of `slots`.
            (count, bytes) = unsafe {
                avx2::send(
                    n,
                    ring.cast_mut().cast(),
                    tags.cast(),
                    frames.as_ptr(),
                    slots.as_mut_ptr().cast(),
                    N,
                    &plan.0,
                )
            };
        }
        let TxPlan(k, first) = plan;
        while count < n {
            // SAFETY: `count` is below `n`; as above.
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
            let mut new = [0; Q];
            new[0] = k.base + u64::from(index) * k.stride + off;
            new[Q - 1] = k.bits + len + (len << k.shift);
            for (d, q) in descriptor.iter().zip(new) {
                d.store(q.to_le(), Ordering::Relaxed);
            }
            // Its distance shows that it is a plain tag.
            *tag = slot.take().map(Handle::into_plain_tag);
            bytes += len;
            count += 1;
        }
        Moved {
            count: count as u32,
            bytes,
        }
    }
}
