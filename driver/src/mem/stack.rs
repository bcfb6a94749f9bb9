//! A thread's own free buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use super::depot::BLOCK;
use super::handle::Tag;
use super::{Handle, Region, Shadow};
use crate::simd::CpuPath;
#[cfg(target_arch = "x86_64")]
use crate::simd::{STEP, avx2};

/// Blocks a stack keeps before it brings one back to the depot, and so fetches none while it has some.
const BLOCKS: usize = 8;
const CAPACITY: usize = BLOCK * BLOCKS;

/// How many buffers a stack holds, for others to read: alone in its cache lines, since its owner writes it every burst.
pub(super) type Level = CachePadded<AtomicU32>;

/// One thread's free buffers of a region: last in, first out, so that the next buffer is likely still in the cache.
///
/// Fetches from and spills to the region's depot in blocks. Dropping it brings everything back to the depot.
pub struct FreeStack {
    region: Arc<Region>,
    /// Tag of the region's buffer 0.
    first: Tag,
    len: usize,
    items: Box<CachePadded<[u32; CAPACITY]>>,
    /// `len` as others see it, kept up to date once a burst.
    level: Arc<Level>,
}

impl FreeStack {
    /// An empty stack for buffers of `region`.
    pub fn new(region: Arc<Region>) -> Self {
        let level = Arc::new(Level::new(AtomicU32::new(0)));
        region.watch(&level);
        FreeStack {
            first: region.first_tag(),
            region,
            len: 0,
            items: Box::new(CachePadded::new([0; CAPACITY])),
            level,
        }
    }

    /// The region whose buffers lie here.
    #[inline]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Buffers on the stack now.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no buffer is on the stack (the depot may have some).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes one buffer; `None` when stack and depot are empty.
    #[inline]
    pub fn pop(&mut self) -> Option<Handle> {
        self.take(1).next()
    }

    /// Takes up to `want` buffers (at most [`FreeStack::MAX_TAKE`]), fewer when stack and depot run dry. What the
    /// iterator still holds when dropped stays on the stack.
    #[inline]
    pub fn take(&mut self, want: usize) -> Taken<'_> {
        let want = want.min(Self::MAX_TAKE);
        if self.len < want {
            self.refill(want);
        }
        let end = self.len;
        // All of it is off the stack until the iterator gives the rest back, so that an iterator that is forgotten loses
        // buffers, but never gives one twice.
        self.len -= want.min(end);
        Taken {
            items: self.items[self.len..end].iter(),
            first: self.first,
            len: &mut self.len,
            level: &self.level,
        }
    }

    /// Behind the topmost buffer: in front of it lie [`len`](Self::len) indices, the topmost last. They stay on the stack until
    /// [`used`](Self::used) takes those off that have gone.
    #[inline(always)]
    pub(super) fn end(&self) -> *const u32 {
        self.items.as_ptr().wrapping_add(self.len)
    }

    /// Takes the index of the topmost buffer off the stack.
    ///
    /// # Safety
    /// The stack [is not empty](Self::is_empty).
    #[inline(always)]
    pub(super) unsafe fn take_top(&mut self) -> u32 {
        let len = self.len.wrapping_sub(1);
        // SAFETY: a stack holds `CAPACITY` buffers at most, and it was not empty.
        let index = unsafe { *self.items.get_unchecked(len) };
        self.len = len;
        self.publish();
        index
    }

    /// The topmost `n` buffers, of which there are no fewer, have gone elsewhere.
    #[inline(always)]
    pub(super) fn used(&mut self, n: usize) {
        debug_assert!(n <= self.len);
        self.len = self.len.wrapping_sub(n);
        self.publish();
    }

    /// True if at least `want` buffers (at most [`FreeStack::MAX_TAKE`]) can be taken now; fetches from the depot.
    #[inline]
    pub fn has(&mut self, want: usize) -> bool {
        if self.len < want {
            self.refill(want.min(Self::MAX_TAKE));
        }
        self.len >= want
    }

    /// Most buffers that one [`FreeStack::take`] gives.
    pub const MAX_TAKE: usize = CAPACITY - BLOCK;

    #[cold]
    fn refill(&mut self, want: usize) {
        let mut block = [0; BLOCK];
        while self.len < want {
            let n = self.region.depot().take(&mut block);
            if n == 0 {
                break;
            }
            self.items[self.len..self.len + n].copy_from_slice(&block[..n]);
            self.len += n;
        }
        self.publish();
    }

    /// Puts a buffer back. Another region's handle goes home to its own depot.
    #[inline]
    pub fn push(&mut self, handle: Handle) {
        self.keep(handle);
        self.publish();
    }

    /// Puts many buffers back.
    #[inline]
    pub fn push_all(&mut self, handles: impl IntoIterator<Item = Handle>) {
        for handle in handles {
            self.keep(handle);
        }
        self.publish();
    }

    /// Puts everything back that lies in `slots`.
    #[inline]
    pub(crate) fn keep_all(&mut self, slots: &mut [Option<Handle>], path: CpuPath) {
        if CAPACITY - self.len < slots.len() {
            self.spill();
        }
        let first = self.first;
        let (mut at, slots_len) = (0, slots.len());
        #[cfg(target_arch = "x86_64")]
        if path.has_avx2()
            && slots_len >= 2 * STEP
            && let Some(out) = self.items.get_mut(self.len..self.len + slots.len())
        {
            // SAFETY: the path says that there is AVX2; both slices are as long as `slots`, and borrowed mutably.
            at = unsafe {
                let (slots, out) = (slots.as_mut_ptr().cast(), out.as_mut_ptr());
                avx2::keep(slots_len, slots, out, first.bits(), Tag::MAX_INDEX)
            };
            self.len += at;
        }
        for slot in &mut slots[at..] {
            let index = first.distance(slot.as_ref().map(Handle::tag));
            match self.items.get_mut(self.len) {
                Some(item) if index <= Tag::MAX_INDEX => {
                    *item = index;
                    std::mem::forget(slot.take());
                    self.len += 1;
                }
                _ => self.keep_odd(slot),
            }
        }
        self.publish();
    }

    /// As [`keep_all`](Self::keep_all), for one slot. Does nothing and gives `false` if that is not as simple: with a full stack, an
    /// empty slot, part of a longer frame, or another region's buffer.
    #[inline(always)]
    pub(super) fn keep_one(&mut self, slot: &mut Option<Handle>) -> bool {
        let index = self.first.distance(slot.as_ref().map(Handle::tag));
        match self.items.get_mut(self.len) {
            Some(item) if index <= Tag::MAX_INDEX => {
                *item = index;
                std::mem::forget(slot.take());
                self.len += 1;
                self.publish();
                true
            }
            _ => false,
        }
    }

    /// An empty slot, part of a longer frame, or another region's buffer.
    #[cold]
    fn keep_odd(&mut self, slot: &mut Option<Handle>) {
        slot.take().into_iter().for_each(|handle| self.keep(handle));
    }

    /// Takes the buffers out of the slots `from..from + count` of a ring's record; gives how many there were.
    #[inline]
    pub fn recycle(&mut self, shadow: &mut Shadow, from: u32, count: u32, path: CpuPath) -> usize {
        let back = match shadow.piece(from, count) {
            Some(piece) if piece.len() <= CAPACITY - self.len => self.recycle_chunk(piece, path),
            _ => self.recycle_many(shadow, from, count, path),
        };
        self.publish();
        back
    }

    /// What wraps, and what does not fit on the stack: that makes room by the way of the depot.
    #[cold]
    fn recycle_many(&mut self, shadow: &mut Shadow, from: u32, count: u32, path: CpuPath) -> usize {
        let mut back = 0;
        for piece in shadow.pieces(from, count) {
            for chunk in piece.chunks_mut(CAPACITY / 2) {
                if CAPACITY - self.len < chunk.len() {
                    self.spill();
                }
                back += self.recycle_chunk(chunk, path);
            }
        }
        back
    }

    #[inline]
    fn recycle_chunk(&mut self, mut chunk: &mut [Option<Tag>], path: CpuPath) -> usize {
        let first = self.first;
        let mut quick = 0;
        #[cfg(target_arch = "x86_64")]
        if path.has_avx2()
            && chunk.len() >= 2 * STEP
            && let Some(out) = self.items.get_mut(self.len..self.len + chunk.len())
        {
            // SAFETY: the path says that there is AVX2; both slices are as long as `chunk`, and borrowed mutably.
            quick = unsafe {
                let (tags, out) = (chunk.as_mut_ptr().cast(), out.as_mut_ptr());
                avx2::recycle(chunk.len(), tags, out, first.bits(), Tag::MAX_INDEX)
            };
            self.len += quick;
            chunk = &mut chunk[quick..];
        }
        if chunk.is_empty() {
            return quick;
        }
        // Loops without a branch, which the compiler turns into vector code: all ours, or not?
        let bits = chunk.iter().fold(0, |bits, slot| bits | first.distance(*slot));
        match self.items.get_mut(self.len..self.len + chunk.len()) {
            Some(out) if bits <= Tag::MAX_INDEX => {
                out.iter_mut()
                    .zip(chunk.iter())
                    .for_each(|(o, slot)| *o = first.distance(*slot));
                chunk.fill(None);
                self.len += chunk.len();
                quick + chunk.len()
            }
            _ => quick + self.recycle_mixed(chunk),
        }
    }

    /// Some slots are empty, or hold another region's buffer.
    #[cold]
    fn recycle_mixed(&mut self, chunk: &mut [Option<Tag>]) -> usize {
        let before = chunk.iter().flatten().count();
        chunk
            .iter_mut()
            .filter_map(Option::take)
            .for_each(|tag| self.keep(Handle::of(tag)));
        before
    }

    #[inline]
    fn keep(&mut self, handle: Handle) {
        if !self.region.owns(&handle) {
            return stranger(handle);
        }
        if self.len >= CAPACITY {
            self.spill();
        }
        if let Some(slot) = self.items.get_mut(self.len) {
            *slot = handle.into_tag().index();
            self.len += 1;
        }
    }

    /// The oldest buffers go to the depot, half of the stack at once: a stack that only ever gets buffers spills once in
    /// `CAPACITY / 2` frames.
    #[cold]
    fn spill(&mut self) {
        let half = CAPACITY / 2;
        for block in self.items[..half].chunks_exact(BLOCK) {
            self.region.depot().put(block);
        }
        self.items.copy_within(half..self.len, 0);
        self.len -= half;
        self.publish();
    }

    /// Brings everything back to the depot.
    pub fn flush(&mut self) {
        for block in self.items[..self.len].chunks(BLOCK) {
            self.region.depot().put(block);
        }
        self.len = 0;
        self.publish();
    }

    /// Reads all of the stack, so that it lies in the caches; gives a number that depends on it.
    #[cfg(feature = "models")]
    pub(crate) fn read(&self) -> u64 {
        self.items
            .iter()
            .fold(self.len as u64, |sum, index| sum.wrapping_add(u64::from(*index)))
    }

    /// Where buffers and level lie, for tests of the layout.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn addresses(&self) -> [std::ops::Range<usize>; 2] {
        let (items, level) = (
            std::ptr::from_ref(&*self.items) as usize,
            std::ptr::from_ref(&*self.level) as usize,
        );
        [
            items..items + size_of::<[u32; CAPACITY]>(),
            level..level + size_of::<Level>(),
        ]
    }

    #[inline]
    fn publish(&self) {
        self.level.store(self.len as u32, Ordering::Relaxed);
    }
}

/// Another region's buffer goes home to its own depot.
#[cold]
fn stranger(handle: Handle) {
    drop(handle);
}

impl Drop for FreeStack {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for FreeStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FreeStack(region {}, {} buffers)", self.region.id(), self.len)
    }
}

/// Buffers being taken from a [`FreeStack`].
pub struct Taken<'a> {
    items: std::slice::Iter<'a, u32>,
    first: Tag,
    len: &'a mut usize,
    level: &'a AtomicU32,
}

impl Iterator for Taken<'_> {
    type Item = Handle;

    #[inline]
    fn next(&mut self) -> Option<Handle> {
        let index = self.items.next_back()?;
        Some(Handle::of(self.first.at(*index)))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl ExactSizeIterator for Taken<'_> {}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.len += self.items.len();
        self.level.store(*self.len as u32, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{AllocOptions, BufferLayout, DmaMemory, PageSize};

    /// The cache lines from one address to another.
    fn lines<T>(what: &T) -> std::ops::RangeInclusive<usize> {
        let at = std::ptr::from_ref(what) as usize;
        at / 64..=(at + size_of::<T>() - 1) / 64
    }

    #[test]
    fn what_two_stacks_and_their_rings_records_touch_lies_in_cache_lines_of_their_own() {
        let layout = BufferLayout::new(64);
        let options = AllocOptions {
            page: PageSize::Small,
            numa: None,
            name: "stack-layout".to_owned(),
        };
        let memory = DmaMemory::alloc(layout.bytes(), &options).unwrap();
        let region = Region::new(Arc::new(memory), layout).unwrap();
        let mut owned = Vec::new();
        for owner in 0..8 {
            let stack = FreeStack::new(region.clone());
            let mut shadow = Shadow::new(64);
            for range in [
                lines(&*stack.level),
                lines(&*stack.items),
                lines(shadow.tags().first_chunk::<64>().unwrap()),
            ] {
                owned.push((owner, range));
            }
            // Both stay where they are until the end, so that the next ones lie elsewhere.
            Box::leak(Box::new(shadow));
            std::mem::forget(stack);
        }
        for (i, (a, first)) in owned.iter().enumerate() {
            for (b, second) in &owned[..i] {
                assert!(
                    first.end() < second.start() || second.end() < first.start(),
                    "owners {a} and {b} share a line"
                );
            }
        }
    }
}
