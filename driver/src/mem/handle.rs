//! The right to use one packet buffer.

use std::fmt;
use std::mem::ManuallyDrop;
use std::num::{NonZeroU8, NonZeroU32};

use super::region;

/// A buffer's name in this process: region in bits 30:24 (never 0, so that "none" costs no room), index in its region in
/// the low 24. Whoever holds a tag taken from a [`Handle`] owns the buffer, as the handle did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Tag(NonZeroU32);

/// Indices have so many bits; a region has fewer buffers.
const INDEX_BITS: u32 = 24;
const INDEX: u32 = (1 << INDEX_BITS) - 1;
/// In a handle only: the frame goes on in the next handle of its run.
const MORE: u32 = 1 << 31;

/// Regions a process can have at a time; their ids count from 1.
pub(super) const MAX_REGION: u8 = 127;

impl Tag {
    /// The tag of buffer 0 of a region.
    #[inline]
    pub(super) fn first(region: NonZeroU8) -> Tag {
        let bits = NonZeroU32::from(region).get() << INDEX_BITS;
        // The region's byte survives the shift, so the fallback is never taken.
        Tag(NonZeroU32::new(bits).unwrap_or(NonZeroU32::MAX))
    }

    /// The tag of buffer `index` (one of the region's) of the same region, seen from [`Tag::first`].
    #[inline]
    pub(super) fn at(self, index: u32) -> Tag {
        Tag(self.0 | index)
    }

    /// The index of what a slot holds, seen from [`Tag::first`] of its region: more than [`Tag::MAX_INDEX`] if that is
    /// nothing, a buffer of another region, or part of a longer frame.
    #[inline]
    pub(super) fn distance(self, other: Option<Tag>) -> u32 {
        self.0.get() ^ other.map_or(0, |tag| tag.0.get())
    }

    /// The highest index.
    pub(super) const MAX_INDEX: u32 = INDEX;

    #[inline]
    pub(super) fn index(self) -> u32 {
        self.0.get() & INDEX
    }

    /// As it lies in memory, where 0 is no tag.
    #[inline]
    pub(super) fn bits(self) -> u32 {
        self.0.get()
    }

    #[inline]
    pub(super) fn region(self) -> u8 {
        (self.0.get() >> INDEX_BITS) as u8 & MAX_REGION
    }

    #[inline]
    fn plain(self) -> Tag {
        // A region's id is never 0, so something is left.
        Tag(NonZeroU32::new(self.0.get() & !MORE).unwrap_or(self.0))
    }
}

/// The right to use one packet buffer of a [`Region`](super::Region): there is one handle a buffer, and only the region
/// makes it. A handle is not `Copy` and not `Clone`; a handle that is dropped gives its buffer back to its region.
/// Workers move handles between rings, batches and free stacks instead of dropping them.
#[repr(C, align(8))]
pub struct Handle {
    tag: Tag,
    /// Bytes of frame in the buffer.
    pub len: u16,
    /// Offset of the frame's first byte from the start of the buffer, headroom included.
    pub off: u16,
}

impl Handle {
    /// Makes the handle of the buffer that `tag` names.
    ///
    /// Only for the pool: the caller owns the buffer and gives this ownership away.
    #[inline]
    pub(super) fn of(tag: Tag) -> Self {
        Handle { tag, len: 0, off: 0 }
    }

    /// Puts the handle of the buffer that `tag` names into an empty slot, with where its data lies in the upper half of
    /// `range`: bytes in bits 47:32, offset in bits 63:48. What lay in the slot is not dropped.
    ///
    /// Only for the pool, as [`Handle::of`].
    #[inline(always)]
    pub(super) fn write(slot: &mut Option<Handle>, tag: Tag, range: u64) {
        let bits = range | u64::from(tag.0.get());
        // SAFETY: a handle is eight bytes, aligned to eight: tag, length, offset, with no padding. A tag is never 0, and 0
        // there is what `None` looks like, so a handle's bytes are those of `Some` of it.
        unsafe { std::ptr::from_mut(slot).cast::<u64>().write(bits.to_le()) };
    }

    #[inline]
    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// Takes the handle apart. The caller now owns the buffer.
    #[inline]
    pub(super) fn into_tag(self) -> Tag {
        ManuallyDrop::new(self).tag.plain()
    }

    /// As [`Handle::into_tag`], for a handle that is known not to go on in another.
    #[inline]
    pub(super) fn into_plain_tag(self) -> Tag {
        ManuallyDrop::new(self).tag
    }

    /// Index of the buffer in its region.
    #[inline]
    pub fn index(&self) -> u32 {
        self.tag.index()
    }

    /// Id of the region the buffer belongs to.
    #[inline]
    pub fn region(&self) -> u8 {
        self.tag.region()
    }

    /// Says where the frame's bytes lie in the buffer: `off` bytes from its start, `len` bytes.
    #[inline]
    pub fn set_data(&mut self, off: u16, len: u16) {
        self.off = off;
        self.len = len;
    }

    /// True if the frame goes on in the next handle.
    #[inline]
    pub fn more(&self) -> bool {
        self.tag.0.get() & MORE != 0
    }

    /// Says whether the frame goes on in the next handle.
    #[inline]
    pub fn set_more(&mut self, more: bool) {
        self.tag = self.tag.plain();
        if more {
            self.tag.0 |= MORE;
        }
    }
}

/// What [`Handle::write`] and the loops over many handles at once rely on.
const _: () = {
    assert!(size_of::<Option<Handle>>() == 8 && align_of::<Option<Handle>>() == 8);
    assert!(std::mem::offset_of!(Handle, len) == 4 && std::mem::offset_of!(Handle, off) == 6);
};

impl Drop for Handle {
    #[inline]
    fn drop(&mut self) {
        region::return_stray(self.tag.region(), self.tag.index());
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Handle({}:{} {}+{}{})",
            self.region(),
            self.index(),
            self.off,
            self.len,
            if self.more() { " more" } else { "" }
        )
    }
}
