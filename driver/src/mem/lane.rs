//! The two loops that run for every packet, on a descriptor ring and the record of its buffers together.
//!
//! They know no family: what a written-back quadword must say and what a descriptor to be sent must hold is passed in.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::handle::Tag;
use super::{FreeStack, Handle, Ring, Shadow};

/// A [`Ring`] and its [`Shadow`] for one loop: both have the same size, so a slot number is wrapped once for both, and
/// what stays the same during the loop is in registers.
pub struct Lane<'a, const Q: usize> {
    ring: NonNull<[AtomicU64; Q]>,
    tags: NonNull<Option<Tag>>,
    mask: u32,
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

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Descriptors.
    pub count: u32,
    /// Bytes of frames.
    pub bytes: u64,
}

impl<'a, const Q: usize> Lane<'a, Q> {
    /// Both for one loop; `None` if they differ in size.
    #[inline]
    pub fn new(ring: &'a Ring<Q>, shadow: &'a mut Shadow) -> Option<Self> {
        let (base, mask) = ring.parts();
        let tags = shadow.tags();
        if tags.len() != mask as usize + 1 {
            return None;
        }
        Some(Lane {
            ring: base,
            tags: NonNull::from(tags).cast(),
            mask,
            _borrowed: PhantomData,
        })
    }

    /// Descriptor and record at a slot.
    ///
    /// The references must not be kept while another slot's are made of the same number modulo the size.
    #[inline]
    fn at(&mut self, slot: u32) -> (&[AtomicU64; Q], &mut Option<Tag>) {
        let at = (slot & self.mask) as usize;
        // SAFETY: `at` is below the size that ring and record share (checked in `new`); both are borrowed for as long as
        // the lane lives, the record mutably. The device's side writes the descriptor too, hence atomics.
        unsafe { (self.ring.add(at).as_ref(), self.tags.add(at).as_mut()) }
    }

    /// The last quadword of a slot, with Acquire: as [`Ring::last_acquire`].
    #[inline]
    pub fn last_acquire(&mut self, slot: u32) -> u64 {
        u64::from_le(self.at(slot).0[Q - 1].load(Ordering::Acquire))
    }

    /// Takes received frames of one buffer each, from slot `next` on, and posts a fresh buffer for each in the slot
    /// `posted` further on, which must be free. Stops at the first descriptor whose last quadword `accept` gives no length
    /// for, when there are no fresh buffers, or when `slots` and `raw` are full; they must be empty (what lies there is
    /// lost).
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a loop with everything in registers")]
    pub fn receive(
        &mut self,
        next: u32,
        posted: u32,
        free: &mut FreeStack,
        place: Placement,
        accept: impl Fn(u64) -> Option<u16>,
        slots: &mut [Option<Handle>],
        raw: &mut [[u64; Q]],
    ) -> Moved {
        let fresh = free.reserve(slots.len().min(raw.len()).min(posted as usize));
        let (first, fresh) = (fresh.first, fresh.indices);
        let base = place.base + u64::from(place.headroom);
        let (mut taken, mut bytes) = (0, 0u64);
        for (i, index) in fresh.iter().rev().enumerate() {
            let from = next.wrapping_add(i as u32);
            let (descriptor, tag) = self.at(from);
            let last = u64::from_le(descriptor[Q - 1].load(Ordering::Acquire));
            let Some(len) = accept(last) else { break };
            let Some(buffer) = tag.take() else { break };
            // SAFETY: `fresh` is no longer than `slots` and `raw` are.
            let (slot, raw) = unsafe { (slots.get_unchecked_mut(i), raw.get_unchecked_mut(i)) };
            for (r, q) in raw.iter_mut().zip(descriptor).take(Q - 1) {
                *r = u64::from_le(q.load(Ordering::Relaxed));
            }
            raw[Q - 1] = last;
            let handle = Handle::with_data(buffer, place.headroom, len);
            // SAFETY: a valid place to write to. What lies there is not dropped, because the caller says it is nothing.
            unsafe { std::ptr::from_mut(slot).write(Some(handle)) };
            let mut new = [0; Q];
            new[0] = base + u64::from(*index) * u64::from(place.stride);
            let (descriptor, tag) = self.at(from.wrapping_add(posted));
            for (d, q) in descriptor.iter().zip(new) {
                d.store(q.to_le(), Ordering::Relaxed);
            }
            *tag = Some(first.at(*index));
            bytes += u64::from(len);
            taken = i + 1;
        }
        free.consume(taken);
        Moved {
            count: taken as u32,
            bytes,
        }
    }

    /// Puts frames of one buffer each into the ring from `tail` on, where there must be room: those of `slots` that
    /// `frames` numbers, in order. `describe` makes the last quadword from a frame's length. Stops at the first frame that
    /// is not there, is of another region than `free`, is shorter than `least` or ends more than `limit` bytes into its
    /// buffer.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a loop with everything in registers")]
    pub fn send<const N: usize>(
        &mut self,
        tail: u32,
        frames: &[u8],
        slots: &mut [Option<Handle>; N],
        free: &FreeStack,
        place: Placement,
        least: u16,
        limit: u32,
        describe: impl Fn(u16) -> u64,
    ) -> Moved {
        let first = free.first_tag();
        let (mut count, mut bytes) = (0u32, 0u64);
        for frame in frames {
            let Some(slot) = slots.get_mut(usize::from(*frame)) else {
                break;
            };
            let index = first.distance(slot.as_ref().map(Handle::tag));
            if index > Tag::MAX_INDEX {
                break;
            }
            // SAFETY: an empty slot's distance is the region's own bits, and those are above the highest index.
            let handle = unsafe { slot.as_ref().unwrap_unchecked() };
            let (off, len) = (handle.off, handle.len);
            if len < least || u32::from(off) + u32::from(len) > limit {
                break;
            }
            let mut new = [0; Q];
            new[0] = place.base + u64::from(index) * u64::from(place.stride) + u64::from(off);
            new[Q - 1] = describe(len);
            let (descriptor, tag) = self.at(tail.wrapping_add(count));
            for (d, q) in descriptor.iter().zip(new) {
                d.store(q.to_le(), Ordering::Relaxed);
            }
            // Its distance shows that it is a plain tag.
            *tag = slot.take().map(Handle::into_plain_tag);
            count += 1;
            bytes += u64::from(len);
        }
        Moved { count, bytes }
    }
}
