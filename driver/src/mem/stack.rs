//! A thread's own free buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::depot::BLOCK;
use super::handle::Tag;
use super::{Handle, Region, Shadow};

/// Blocks a stack keeps before it brings one back to the depot, and so fetches none while it has some.
const BLOCKS: usize = 8;
const CAPACITY: usize = BLOCK * BLOCKS;

/// One thread's free buffers of a region: last in, first out, so that the next buffer is likely still in the cache.
///
/// Fetches from and spills to the region's depot in blocks. Dropping it brings everything back to the depot.
pub struct FreeStack {
    region: Arc<Region>,
    /// Tag of the region's buffer 0.
    first: Tag,
    len: usize,
    /// So many more lie above `len`, and are being used or come back.
    reserved: usize,
    items: Box<[u32; CAPACITY]>,
    /// `len` as others see it, kept up to date once a burst.
    level: Arc<AtomicU32>,
}

impl FreeStack {
    /// An empty stack for buffers of `region`.
    pub fn new(region: Arc<Region>) -> Self {
        let level = Arc::new(AtomicU32::new(0));
        region.watch(&level);
        FreeStack {
            first: region.first_tag(),
            region,
            len: 0,
            reserved: 0,
            items: Box::new([0; CAPACITY]),
            level,
        }
    }

    /// The region whose buffers lie here.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Buffers on the stack now.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no buffer is on the stack (the depot may have some).
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

    /// Takes up to `want` buffers off the stack, fewer when stack and depot run dry; [`consume`](Self::consume) puts those
    /// back that were not used. Without it they are lost, but never given twice.
    #[inline]
    pub(super) fn reserve(&mut self, want: usize) -> Reserved<'_> {
        let want = want.min(Self::MAX_TAKE);
        if self.len < want {
            self.refill(want);
        }
        let end = self.len;
        self.reserved = want.min(end);
        self.len -= self.reserved;
        Reserved {
            first: self.first,
            indices: &self.items[self.len..end],
        }
    }

    /// The last `n` of what was reserved were used.
    #[inline]
    pub(super) fn consume(&mut self, n: usize) {
        self.len += self.reserved - n.min(self.reserved);
        self.reserved = 0;
        self.publish();
    }

    #[inline]
    pub(super) fn first_tag(&self) -> Tag {
        self.first
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

    /// Takes the buffers out of the slots `from..from + count` of a ring's record; gives how many there were.
    #[inline]
    pub fn recycle(&mut self, shadow: &mut Shadow, from: u32, count: u32) -> usize {
        let mut back = 0;
        for piece in shadow.pieces(from, count) {
            for chunk in piece.chunks_mut(CAPACITY / 2) {
                if CAPACITY - self.len < chunk.len() {
                    self.spill();
                }
                back += self.recycle_chunk(chunk);
            }
        }
        self.publish();
        back
    }

    #[inline]
    fn recycle_chunk(&mut self, chunk: &mut [Option<Tag>]) -> usize {
        let first = self.first;
        // Loops without a branch, which the compiler turns into vector code: all ours, or not?
        let bits = chunk.iter().fold(0, |bits, slot| bits | first.distance(*slot));
        match self.items.get_mut(self.len..self.len + chunk.len()) {
            Some(out) if bits <= Tag::MAX_INDEX => {
                out.iter_mut()
                    .zip(chunk.iter())
                    .for_each(|(o, slot)| *o = first.distance(*slot));
                chunk.fill(None);
                self.len += chunk.len();
                chunk.len()
            }
            _ => self.recycle_mixed(chunk),
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

/// Buffers that [`FreeStack::reserve`] gives.
pub(super) struct Reserved<'a> {
    pub first: Tag,
    pub indices: &'a [u32],
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
