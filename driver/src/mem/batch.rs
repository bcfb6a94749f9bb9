//! Handles on their way through a worker.

use std::mem::MaybeUninit;

use super::{FreeStack, Handle};

/// Up to `N` handles in order. Dropping a batch gives what it still holds back to the regions; a worker gives leftovers
/// to its free stack with [`Batch::release`] instead, which costs no lock.
pub struct Batch<const N: usize = 64> {
    len: usize,
    items: [MaybeUninit<Handle>; N],
}

impl<const N: usize> Batch<N> {
    /// An empty batch.
    pub const fn new() -> Self {
        Batch {
            len: 0,
            items: [const { MaybeUninit::uninit() }; N],
        }
    }

    /// Handles in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no handle is in the batch.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room for further handles.
    #[inline]
    pub fn room(&self) -> usize {
        N - self.len
    }

    /// Appends a handle, or gives it back when the batch is full.
    #[inline]
    pub fn push(&mut self, handle: Handle) -> Result<(), Handle> {
        match self.items.get_mut(self.len) {
            Some(slot) => {
                slot.write(handle);
                self.len += 1;
                Ok(())
            }
            None => Err(handle),
        }
    }

    /// Takes the last handle.
    #[inline]
    pub fn pop(&mut self) -> Option<Handle> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: slots below the old `len` hold handles, and the new `len` leaves this one out.
        Some(unsafe { self.items[self.len].assume_init_read() })
    }

    /// The handles in order.
    #[inline]
    pub fn as_slice(&self) -> &[Handle] {
        // SAFETY: the first `len` slots hold handles.
        unsafe { self.items[..self.len].assume_init_ref() }
    }

    /// The handles in order, for writing.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Handle] {
        // SAFETY: the first `len` slots hold handles.
        unsafe { self.items[..self.len].assume_init_mut() }
    }

    /// Takes all handles, in order. What the iterator still holds when dropped goes back to the regions.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, N> {
        let end = std::mem::take(&mut self.len);
        Drain {
            batch: self,
            at: 0,
            end,
        }
    }

    /// Puts everything on a free stack.
    #[inline]
    pub fn release(&mut self, stack: &mut FreeStack) {
        stack.push_all(self.drain());
    }
}

impl<const N: usize> Default for Batch<N> {
    fn default() -> Self {
        Batch::new()
    }
}

impl<const N: usize> Drop for Batch<N> {
    fn drop(&mut self) {
        self.drain().for_each(drop);
    }
}

impl<const N: usize> std::fmt::Debug for Batch<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The handles of a batch being taken out.
pub struct Drain<'a, const N: usize> {
    batch: &'a mut Batch<N>,
    at: usize,
    end: usize,
}

impl<const N: usize> Iterator for Drain<'_, N> {
    type Item = Handle;

    #[inline]
    fn next(&mut self) -> Option<Handle> {
        if self.at == self.end {
            return None;
        }
        let slot = &self.batch.items[self.at];
        self.at += 1;
        // SAFETY: slots `at..end` hold handles that the batch no longer counts, and `at` moves on past this one.
        Some(unsafe { slot.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.end - self.at, Some(self.end - self.at))
    }
}

impl<const N: usize> ExactSizeIterator for Drain<'_, N> {}

impl<const N: usize> Drop for Drain<'_, N> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}
