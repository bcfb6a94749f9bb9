//! The right to use one packet buffer.

use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroU8;

use super::region;

/// What [`Handle::flags`] can say.
pub mod flags {
    /// The frame goes on in the next handle of its run.
    pub const MORE: u8 = 1 << 0;
}

/// The right to use one packet buffer of a [`Region`](super::Region): there is one handle a buffer, and only the region
/// makes it. A handle is not `Copy` and not `Clone`; a handle that is dropped gives its buffer back to its region.
/// Workers move handles between rings, batches and free stacks instead of dropping them.
pub struct Handle {
    index: u32,
    /// Bytes of frame in the buffer.
    pub len: u16,
    /// Offset of the frame's first byte from the start of the buffer, headroom included.
    pub off: u16,
    /// Never 0, so that an `Option<Handle>` is no larger than a handle.
    region: NonZeroU8,
    /// See [`flags`].
    pub flags: u8,
}

impl Handle {
    /// Makes the handle of buffer `index` of region `region`.
    ///
    /// Only for the pool: the caller owns the buffer and gives this ownership away.
    pub(super) fn new(region: NonZeroU8, index: u32) -> Self {
        Handle {
            index,
            len: 0,
            off: 0,
            region,
            flags: 0,
        }
    }

    /// Takes the handle apart. The caller now owns the buffer.
    pub(super) fn into_index(self) -> u32 {
        ManuallyDrop::new(self).index
    }

    /// Index of the buffer in its region.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Id of the region the buffer belongs to.
    #[inline]
    pub fn region(&self) -> u8 {
        self.region.get()
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
        self.flags & flags::MORE != 0
    }
}

impl Drop for Handle {
    #[cold]
    fn drop(&mut self) {
        region::return_stray(self.region.get(), self.index);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Handle({}:{} {}+{} {:#x})",
            self.region(),
            self.index,
            self.off,
            self.len,
            self.flags
        )
    }
}
