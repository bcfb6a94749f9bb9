//! Which buffer lies in which slot of a ring.

use super::Handle;
use super::handle::Tag;

/// The driver's own record beside a descriptor ring: a buffer a slot, so that what a device writes back is never asked
/// whose buffer it was. It keeps the buffer only, not where its data lies. Slot numbers wrap at the ring's size (a power
/// of two). Dropping it gives all buffers back.
pub struct Shadow {
    slots: Box<[Option<Tag>]>,
    mask: usize,
}

impl Shadow {
    /// An empty record for a ring of `size` slots, rounded up to a power of two.
    pub fn new(size: usize) -> Self {
        let size = size.max(1).next_power_of_two();
        Shadow {
            slots: vec![None; size].into(),
            mask: size - 1,
        }
    }

    /// Number of slots.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// Puts a buffer into a slot; gives what lay there.
    #[inline]
    pub fn put(&mut self, slot: u32, handle: Handle) -> Option<Handle> {
        self.at(slot).replace(handle.into_tag()).map(Handle::of)
    }

    /// Takes the buffer out of a slot; its data range is empty.
    #[inline]
    pub fn take(&mut self, slot: u32) -> Option<Handle> {
        self.at(slot).take().map(Handle::of)
    }

    /// Puts a buffer into a slot that is empty. Were it not, the buffer that lay there would never come home.
    #[inline]
    pub fn set(&mut self, slot: u32, handle: Handle) {
        *self.at(slot) = Some(handle.into_tag());
    }

    /// Index of the buffer in a slot.
    #[inline]
    pub fn index(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot as usize & self.mask)?.map(Tag::index)
    }

    /// The slots `from..from + count`, wrapped, as at most two pieces; `count` is at most the size.
    #[inline]
    pub(super) fn pieces(&mut self, from: u32, count: u32) -> [&mut [Option<Tag>]; 2] {
        let start = from as usize & self.mask;
        let count = (count as usize).min(self.slots.len());
        let (low, high) = self.slots.split_at_mut(start);
        let first = count.min(high.len());
        let second = (count - first).min(low.len());
        [&mut high[..first], &mut low[..second]]
    }

    /// All slots, for [`Lane`](super::Lane).
    #[inline]
    pub(super) fn tags(&mut self) -> &mut [Option<Tag>] {
        &mut self.slots
    }

    #[inline]
    fn at(&mut self, slot: u32) -> &mut Option<Tag> {
        // SAFETY: `mask` is the number of slots minus one, and that number is a power of two.
        unsafe { self.slots.get_unchecked_mut(slot as usize & self.mask) }
    }

    /// Takes every buffer out.
    pub fn drain(&mut self) -> impl Iterator<Item = Handle> + '_ {
        self.slots.iter_mut().filter_map(Option::take).map(Handle::of)
    }

    /// Slots that hold a buffer.
    pub fn occupied(&self) -> usize {
        self.slots.iter().filter(|s| s.is_some()).count()
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.drain().for_each(drop);
    }
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shadow({} of {} slots)", self.occupied(), self.size())
    }
}
