//! Memory for machine code: written while nobody can run it, run while nobody can write it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

const PAGE: usize = 4096;

static EXECUTABLE: AtomicUsize = AtomicUsize::new(0);

/// Bytes of memory that hold machine code of programs in this process now.
pub(crate) fn executable_bytes() -> usize {
    EXECUTABLE.load(Ordering::Relaxed)
}

/// Machine code that can be run and not changed, unmapped when dropped.
pub(super) struct Text {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned and nobody writes to it after `new`.
unsafe impl Send for Text {}
// SAFETY: as above.
unsafe impl Sync for Text {}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Text({} bytes)", self.len)
    }
}

impl Text {
    /// Maps pages, copies the code, and swaps the right to write for the right to execute.
    pub fn new(code: &[u8]) -> io::Result<Text> {
        let len = code.len().max(1).next_multiple_of(PAGE);
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        EXECUTABLE.fetch_add(len, Ordering::Relaxed);
        let text = Text { base, len };
        // SAFETY: the mapping has at least `code.len()` bytes, is writable, and nobody else knows it yet.
        unsafe { base.as_ptr().copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        // SAFETY: changes the protection of exactly the mapping made above, to which no references exist.
        unsafe {
            rustix::mm::mprotect(
                base.as_ptr().cast(),
                len,
                MprotectFlags::READ | MprotectFlags::EXEC,
            )?;
        }
        Ok(text)
    }

    /// Address of a byte of the code.
    pub fn at(&self, offset: usize) -> *const u8 {
        assert!(offset < self.len, "code offset {offset} of {}", self.len);
        self.base.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        EXECUTABLE.fetch_sub(self.len, Ordering::Relaxed);
        // SAFETY: this is the mapping that `new` made. Whoever runs its code holds the `Code` that owns it.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "munmap of machine code");
        }
    }
}
