//! Zeroed memory that is shared by all threads and accessed with atomics only.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use rustix::mm::{MapFlags, ProtFlags};

/// Anonymous pages, touched lazily, mapped until the arena is dropped.
///
/// Programs and control threads read and write the same bytes at the same time, as in the kernel. All of it goes through
/// relaxed atomics here and in [`super::space`], so there are no data races, only values that may be torn when they are
/// longer than 8 bytes.
pub(crate) struct Arena {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the arena owns its mapping, and shared access to it is by atomic operations only.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes)", self.len)
    }
}

const PAGE: usize = 4096;

impl Arena {
    /// At least `len` zeroed bytes, page aligned.
    pub fn new(len: usize) -> io::Result<Arena> {
        let len = len
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arena { base, len })
    }

    /// A ring of `len` bytes (a multiple of the page size) mapped twice in a row, so that a record that wraps round is
    /// contiguous from where it begins.
    pub fn ring(len: usize) -> io::Result<Arena> {
        let total = len.checked_mul(2).ok_or(io::ErrorKind::OutOfMemory)?;
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fd = rustix::fs::memfd_create("millrace-ringbuf", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        let arena = Arena::new(total)?;
        for half in 0..2 {
            let at = arena.base.as_ptr().wrapping_add(half * len);
            // SAFETY: MAP_FIXED replaces pages inside the mapping that `arena` owns and that nobody else knows yet.
            unsafe {
                rustix::mm::mmap(
                    at.cast(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    &fd,
                    0,
                )?;
            }
        }
        Ok(arena)
    }

    /// Address of the first byte, as programs see it.
    pub fn addr(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// Where `addr` lies in the arena, if it does.
    pub fn offset_of(&self, addr: u64) -> Option<usize> {
        let off = usize::try_from(addr.checked_sub(self.addr())?).ok()?;
        (off < self.len).then_some(off)
    }

    /// A region that a program may be given. It must not be used after the arena is gone; [`super::space::Space`] sees
    /// to that.
    pub fn range(&self, off: usize, len: usize, writable: bool) -> Range {
        self.check(off, len, 1);
        Range {
            ptr: self.base.as_ptr().wrapping_add(off),
            len,
            writable,
        }
    }

    #[inline(always)]
    fn check(&self, off: usize, len: usize, align: usize) {
        let fits = off <= self.len && len <= self.len - off;
        assert!(
            fits && off.is_multiple_of(align),
            "arena offset {off}+{len} of {}",
            self.len
        );
    }

    /// The word at a 4-aligned offset.
    #[inline(always)]
    pub fn u32(&self, off: usize) -> &AtomicU32 {
        self.check(off, 4, 4);
        // SAFETY: in bounds and aligned (checked above, the base is page aligned), mapped while `self` lives, and only
        // accessed atomically.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(off).cast()) }
    }

    /// The word at an 8-aligned offset.
    #[inline(always)]
    pub fn u64(&self, off: usize) -> &AtomicU64 {
        self.check(off, 8, 8);
        // SAFETY: as for `u32`.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(off).cast()) }
    }

    #[inline(always)]
    fn u8(&self, off: usize) -> &AtomicU8 {
        self.check(off, 1, 1);
        // SAFETY: as for `u32`.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(off)) }
    }

    /// One byte.
    #[inline]
    pub fn read_byte(&self, off: usize) -> u8 {
        self.u8(off).load(Relaxed)
    }

    /// One byte.
    pub fn write_byte(&self, off: usize, byte: u8) {
        self.u8(off).store(byte, Relaxed);
    }

    /// Copies in, 8 bytes at a time; `off` is 8-aligned.
    pub fn write(&self, off: usize, data: &[u8]) {
        let (words, rest) = data.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            self.u64(off + i * 8).store(u64::from_ne_bytes(*word), Relaxed);
        }
        let tail = off + words.len() * 8;
        for (i, byte) in rest.iter().enumerate() {
            self.u8(tail + i).store(*byte, Relaxed);
        }
    }

    /// Copies out, 8 bytes at a time; `off` is 8-aligned.
    pub fn read(&self, off: usize, data: &mut [u8]) {
        let (words, rest) = data.as_chunks_mut::<8>();
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.u64(off + i * 8).load(Relaxed).to_ne_bytes();
        }
        let tail = off + words.len() * 8;
        for (i, byte) in rest.iter_mut().enumerate() {
            *byte = self.u8(tail + i).load(Relaxed);
        }
    }

    /// Whether the bytes at the 8-aligned `off` are `data`.
    #[inline]
    pub fn equals(&self, off: usize, data: &[u8]) -> bool {
        let (words, rest) = data.as_chunks::<8>();
        for (i, word) in words.iter().enumerate() {
            if self.u64(off + i * 8).load(Relaxed) != u64::from_ne_bytes(*word) {
                return false;
            }
        }
        let tail = off + words.len() * 8;
        rest.iter()
            .enumerate()
            .all(|(i, byte)| self.u8(tail + i).load(Relaxed) == *byte)
    }

    /// Zeroes `len` bytes at the 8-aligned `off`; `len` is a multiple of 8.
    pub fn zero(&self, off: usize, len: usize) {
        for at in (off..off + len).step_by(8) {
            self.u64(at).store(0, Relaxed);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it outlives `self`. Ranges handed to a
        // `Space` are kept there together with the `Arc` of the map that owns this arena.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "munmap of map memory");
        }
    }
}

/// Memory of an arena that a program may read and, if `writable`, write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(super) ptr: *mut u8,
    pub(super) len: usize,
    pub(super) writable: bool,
}

impl Range {
    /// Covers nothing.
    pub const EMPTY: Range = Range {
        ptr: std::ptr::null_mut(),
        len: 0,
        writable: false,
    };

    /// The `len` bytes below `top`, which are the stack of a program that another engine runs.
    ///
    /// # Safety
    /// They are there, and only this thread uses them, for as long as the range is used.
    #[cfg_attr(
        not(all(feature = "rbpf", target_arch = "x86_64")),
        expect(dead_code, reason = "for another engine")
    )]
    pub unsafe fn of_stack(top: u64, len: usize) -> Range {
        Range {
            ptr: std::ptr::with_exposed_provenance_mut(top as usize - len),
            len,
            writable: true,
        }
    }

    /// Address as the program sees it.
    pub fn addr(&self) -> u64 {
        self.ptr.addr() as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_gives_back_what_was_written() {
        let arena = Arena::new(100).unwrap();
        let data: Vec<u8> = (0..29).collect();
        arena.write(8, &data);
        let mut back = vec![0; 29];
        arena.read(8, &mut back);
        assert_eq!(back, data);
        assert!(arena.equals(8, &data));
        assert!(!arena.equals(16, &data));
        arena.zero(8, 32);
        arena.read(8, &mut back);
        assert_eq!(back, vec![0; 29]);
    }

    #[test]
    fn ring_shows_the_same_bytes_twice() {
        let arena = Arena::ring(4096).unwrap();
        arena.write(4088, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(arena.equals(0, &[9]));
        assert!(arena.equals(4096, &[9]));
        assert!(Arena::ring(100).is_err());
    }
}
