//! Mapped pages of a BAR.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// A mapped part of a region: volatile 32-bit accesses, nothing else. Cheap to clone; unmapped with the last clone.
#[derive(Clone)]
pub struct MappedArea {
    map: Arc<MmapRaw>,
    offset: u64,
}

impl MappedArea {
    /// Maps `len` bytes of `fd` from `fd_offset` on, as the part of a region that starts at `region_offset`.
    ///
    /// `fd_offset` must be a multiple of the page size. Whoever passes an fd from another process checks first that it
    /// cannot be truncated ([`crate::mem::require_sealed`]).
    pub fn map(fd: BorrowedFd<'_>, fd_offset: u64, region_offset: u64, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let map = MmapOptions::new().offset(fd_offset).len(len).map_raw(&fd)?;
        Ok(MappedArea {
            map: Arc::new(map),
            offset: region_offset,
        })
    }

    /// Offset of the area in its region.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// True when the area has no bytes.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Pointer to the 32-bit register at `offset` of the region, if it lies inside this area and is aligned.
    pub(super) fn register(&self, offset: u64) -> Option<NonNull<u32>> {
        let at = offset.checked_sub(self.offset)?;
        if !at.is_multiple_of(4) || at.checked_add(4)? > self.len() {
            return None;
        }
        // SAFETY: `at + 4 <= len`, so the pointer stays inside the mapping.
        NonNull::new(unsafe { self.map.as_mut_ptr().add(at as usize) }.cast())
    }

    /// Volatile read of the register at `offset` of the region; `None` outside the area.
    pub fn read32(&self, offset: u64) -> Option<u32> {
        // SAFETY: `register` checked bounds and alignment; the mapping lives as long as `self`.
        self.register(offset)
            .map(|p| u32::from_le(unsafe { p.read_volatile() }))
    }

    /// Volatile write of the register at `offset` of the region; `None` outside the area.
    pub fn write32(&self, offset: u64, value: u32) -> Option<()> {
        // SAFETY: as in `read32`.
        self.register(offset)
            .map(|p| unsafe { p.write_volatile(value.to_le()) })
    }
}

impl fmt::Debug for MappedArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedArea({:#x}+{:#x})", self.offset, self.len())
    }
}
