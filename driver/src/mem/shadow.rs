//! Which buffer lies in which slot of a ring.

use super::Handle;
use super::handle::Tag;

/// The driver's own record beside a descriptor ring: a buffer a slot, so that what a device writes back is never asked
/// whose buffer it was. It keeps the buffer only, not where its data lies. Slot numbers wrap at the ring's size (a power
/// of two). Dropping it gives all buffers back.
pub struct Shadow {
    lines: Box<[Line]>,
    mask: usize,
}

/// A piece of a record that shares no cache line (and no pair of lines, which are fetched together) with anything else.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([Option<Tag>; LINE]);
const LINE: usize = 32;

impl Shadow {
    /// An empty record for a ring of `size` slots, rounded up to a power of two.
    pub fn new(size: usize) -> Self {
        let size = size.max(1).next_power_of_two();
        Shadow {
            lines: vec![Line([None; LINE]); size.div_ceil(LINE)].into(),
            mask: size - 1,
        }
    }

    /// Number of slots.
    #[inline]
    pub fn size(&self) -> usize {
        self.mask + 1
    }

    #[inline(always)]
    fn slots(&self) -> &[Option<Tag>] {
        // SAFETY: a line is 32 tags without padding, and there are lines for at least `mask + 1` tags.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.mask + 1) }
    }

    #[inline(always)]
    fn slots_mut(&mut self) -> &mut [Option<Tag>] {
        // SAFETY: as in `slots`; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.mask + 1) }
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
        self.slots().get(slot as usize & self.mask)?.map(Tag::index)
    }

    /// The slots `from..from + count`, if they do not wrap.
    #[inline]
    pub(super) fn piece(&mut self, from: u32, count: u32) -> Option<&mut [Option<Tag>]> {
        let start = from as usize & self.mask;
        self.slots_mut().get_mut(start..start + count as usize)
    }

    /// The slots `from..from + count`, wrapped, as at most two pieces; `count` is at most the size.
    #[inline]
    pub(super) fn pieces(&mut self, from: u32, count: u32) -> [&mut [Option<Tag>]; 2] {
        let start = from as usize & self.mask;
        let count = (count as usize).min(self.size());
        let (low, high) = self.slots_mut().split_at_mut(start);
        let first = count.min(high.len());
        let second = (count - first).min(low.len());
        [&mut high[..first], &mut low[..second]]
    }

    /// All slots, for [`RxLane`](super::RxLane) and [`TxLane`](super::TxLane).
    #[inline(always)]
    pub(super) fn tags(&mut self) -> &mut [Option<Tag>] {
        self.slots_mut()
    }

    #[inline]
    fn at(&mut self, slot: u32) -> &mut Option<Tag> {
        // SAFETY: `mask` is the number of slots minus one, and that number is a power of two.
        unsafe {
            let slot = slot as usize & self.mask;
            self.slots_mut().get_unchecked_mut(slot)
        }
    }

    /// Where the record lies, for tests of the layout.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn addresses(&self) -> std::ops::Range<usize> {
        let range = self.slots().as_ptr_range();
        range.start as usize..range.end as usize
    }

    /// Takes every buffer out.
    pub fn drain(&mut self) -> impl Iterator<Item = Handle> + '_ {
        self.slots_mut()
            .iter_mut()
            .filter_map(Option::take)
            .map(Handle::of)
    }

    /// Slots that hold a buffer.
    pub fn occupied(&self) -> usize {
        self.slots().iter().filter(|s| s.is_some()).count()
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
