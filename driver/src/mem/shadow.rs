//! Which buffer lies in which slot of a ring.

use super::Handle;

/// The driver's own record beside a descriptor ring: a handle a slot, so that what a device writes back is never asked
/// whose buffer it was. Slot numbers wrap at the ring's size (a power of two). Dropping it gives all buffers back.
pub struct Shadow {
    slots: Box<[Option<Handle>]>,
    mask: usize,
}

impl Shadow {
    /// An empty record for a ring of `size` slots, rounded up to a power of two.
    pub fn new(size: usize) -> Self {
        let size = size.max(1).next_power_of_two();
        Shadow {
            slots: (0..size).map(|_| None).collect(),
            mask: size - 1,
        }
    }

    /// Number of slots.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// Puts a handle into a slot; gives what lay there.
    #[inline]
    pub fn put(&mut self, slot: u32, handle: Handle) -> Option<Handle> {
        self.at(slot).replace(handle)
    }

    /// Takes the handle out of a slot.
    #[inline]
    pub fn take(&mut self, slot: u32) -> Option<Handle> {
        self.at(slot).take()
    }

    /// The handle in a slot, without taking it.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&Handle> {
        // SAFETY: `mask` is the number of slots minus one, and that number is a power of two.
        unsafe { self.slots.get_unchecked(slot as usize & self.mask) }.as_ref()
    }

    #[inline]
    fn at(&mut self, slot: u32) -> &mut Option<Handle> {
        // SAFETY: as in `get`.
        unsafe { self.slots.get_unchecked_mut(slot as usize & self.mask) }
    }

    /// Takes every handle out.
    pub fn drain(&mut self) -> impl Iterator<Item = Handle> + '_ {
        self.slots.iter_mut().filter_map(Option::take)
    }

    /// Slots that hold a handle.
    pub fn occupied(&self) -> usize {
        self.slots.iter().filter(|s| s.is_some()).count()
    }
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shadow({} of {} slots)", self.occupied(), self.size())
    }
}
