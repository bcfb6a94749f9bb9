//! A thread's own free buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::depot::BLOCK;
use super::{Handle, Region};

/// Blocks a stack keeps before it brings one back to the depot, and so fetches none while it has some.
const BLOCKS: usize = 8;
const CAPACITY: usize = BLOCK * BLOCKS;

/// One thread's free buffers of a region: last in, first out, so that the next buffer is likely still in the cache.
///
/// Fetches from and spills to the region's depot in blocks. Dropping it brings everything back to the depot.
pub struct FreeStack {
    region: Arc<Region>,
    len: usize,
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
            region,
            len: 0,
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
        let left = want.min(self.len);
        Taken { stack: self, left }
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
        if !self.region.owns(&handle) {
            drop(handle);
            return;
        }
        if self.len == CAPACITY {
            self.spill();
        }
        self.items[self.len] = handle.into_index();
        self.len += 1;
        self.publish();
    }

    /// Puts many buffers back.
    #[inline]
    pub fn push_all(&mut self, handles: impl IntoIterator<Item = Handle>) {
        for handle in handles {
            self.push(handle);
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
    stack: &'a mut FreeStack,
    left: usize,
}

impl Iterator for Taken<'_> {
    type Item = Handle;

    #[inline]
    fn next(&mut self) -> Option<Handle> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.stack.len -= 1;
        // SAFETY: `left` was at most `len` when the iterator was made and both fall together, so the old `len` was at
        // least 1; `len` never exceeds the capacity.
        let index = unsafe { *self.stack.items.get_unchecked(self.stack.len) };
        Some(self.stack.region.handle(index))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Taken<'_> {}

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        self.stack.publish();
    }
}
