//! Client memory files mapped into this process: one mapping a file, however many DMA maps name it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::Prot;

/// How far a client's memory files are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Only files that can no longer shrink (memfds sealed with `F_SEAL_SHRINK`): truncating a mapped
    /// file would kill this process with SIGBUS.
    Sealed,
    /// Any file; for clients such as a virtual machine monitor whose memory is not sealed.
    Any,
}

/// Why a DMA mapping was refused.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    #[error("DMA map of {len:#x} bytes at IOVA {iova:#x}, file offset {offset:#x}: not in whole 4 KiB pages")]
    NotPages { iova: u64, len: u64, offset: u64 },
    #[error("DMA map of {len:#x} bytes at IOVA {iova:#x} wraps around the end of the address space")]
    Wraps { iova: u64, len: u64 },
    #[error("DMA map of {len:#x} bytes at IOVA {iova:#x} overlaps a mapping that is there; unmap that first")]
    Overlap { iova: u64, len: u64 },
    #[error(
        "DMA map at IOVA {iova:#x}: the memory file can shrink; seal it (F_SEAL_SHRINK) or start the server with --trust-client-memory"
    )]
    NotSealed { iova: u64 },
    #[error(
        "DMA map at IOVA {iova:#x}: bytes {offset:#x} to {end:#x} of a memory file that has only {size:#x}"
    )]
    PastFileEnd {
        iova: u64,
        offset: u64,
        end: u64,
        size: u64,
    },
    #[error("DMA map at IOVA {iova:#x}: {limit} mappings are there already; use larger pages")]
    TooMany { iova: u64, limit: usize },
    #[error("DMA map at IOVA {iova:#x}: cannot {what} the memory file: {source}")]
    Io {
        iova: u64,
        what: &'static str,
        source: io::Error,
    },
}

impl DmaError {
    /// The errno that tells a client what happened.
    pub fn errno(&self) -> i32 {
        match self {
            DmaError::NotPages { .. } | DmaError::Wraps { .. } | DmaError::PastFileEnd { .. } => libc::EINVAL,
            DmaError::Overlap { .. } => libc::EEXIST,
            DmaError::NotSealed { .. } => libc::EPERM,
            DmaError::TooMany { .. } => libc::ENOSPC,
            DmaError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// Identity of a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    dev: u64,
    ino: u64,
}

/// One file, mapped whole.
#[derive(Debug)]
pub(super) struct Backing {
    id: FileId,
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    /// DMA regions that lie in it.
    pub(super) users: usize,
}

// SAFETY: the pointer is to a shared mapping that this value owns alone; no thread-local state is involved.
unsafe impl Send for Backing {}

impl Backing {
    /// Address of a byte of the file; the caller has checked that `offset` lies inside.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.len as u64);
        self.base.as_ptr().wrapping_add(offset as usize)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: base and len are those of a mapping made in `Backings::get` and unmapped only here; the
        // owner drops a backing after the last region that points into it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What a checked file offers.
pub(super) struct Checked {
    id: FileId,
    size: u64,
}

/// Checks that `offset + len` of the file can be mapped without danger.
pub(super) fn check(
    fd: &OwnedFd,
    iova: u64,
    offset: u64,
    len: u64,
    trust: Trust,
) -> Result<Checked, DmaError> {
    // Seals first: a size read before the seal was seen proves nothing.
    if trust == Trust::Sealed && !rustix::fs::fcntl_get_seals(fd).is_ok_and(|s| s.contains(SealFlags::SHRINK))
    {
        return Err(DmaError::NotSealed { iova });
    }
    let stat = rustix::fs::fstat(fd).map_err(|e| DmaError::Io {
        iova,
        what: "stat",
        source: e.into(),
    })?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let end = offset.checked_add(len).ok_or(DmaError::Wraps { iova, len })?;
    if end > size {
        return Err(DmaError::PastFileEnd {
            iova,
            offset,
            end,
            size,
        });
    }
    Ok(Checked {
        id: FileId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        size,
    })
}

/// Finds the mapping of a checked file among those there, or makes it. `end` is how much of it is needed.
pub(super) fn find(backings: &[Option<Backing>], file: &Checked, end: u64, prot: Prot) -> Option<usize> {
    backings.iter().position(|b| {
        b.as_ref()
            .is_some_and(|b| b.id == file.id && b.len as u64 >= end && (b.writable || !prot.write))
    })
}

/// Maps a checked file whole.
pub(super) fn map(fd: &OwnedFd, file: &Checked, prot: Prot, iova: u64) -> Result<Backing, DmaError> {
    let io = |e: rustix::io::Errno| DmaError::Io {
        iova,
        what: "map",
        source: e.into(),
    };
    let len = usize::try_from(file.size).map_err(|_| io(rustix::io::Errno::OVERFLOW))?;
    let protection = |write| {
        if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        }
    };
    let try_map = |write| {
        // SAFETY: a new mapping at an address the kernel chooses; nothing of ours is replaced.
        unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection(write),
                MapFlags::SHARED,
                fd.as_fd(),
                0,
            )
        }
    };
    // Writable if it can be, so that later maps of the same file share it.
    let (base, writable) = match try_map(true) {
        Ok(base) => (base, true),
        Err(_) if !prot.write => (try_map(false).map_err(io)?, false),
        Err(e) => return Err(io(e)),
    };
    let base = NonNull::new(base.cast()).ok_or_else(|| io(rustix::io::Errno::NOMEM))?;
    Ok(Backing {
        id: file.id,
        base,
        len,
        writable,
        users: 0,
    })
}
