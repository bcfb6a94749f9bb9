//! Register pages that a client maps: a memfd of dwords both sides access atomically.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

/// A register BAR's memory, shared with whoever maps its file. Nothing in it is trusted.
#[derive(Debug)]
pub struct SharedBar {
    map: memmap2::MmapRaw,
    fd: OwnedFd,
}

impl SharedBar {
    /// A zeroed BAR of `len` bytes, in a memfd whose size is sealed.
    pub fn new(name: &str, len: u64) -> std::io::Result<SharedBar> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = memmap2::MmapOptions::new().map_raw(&fd)?;
        Ok(SharedBar { map, fd })
    }

    /// The other side: maps a BAR's file. It must be sealed against shrinking, or touching it could kill us.
    pub fn attach(fd: OwnedFd) -> std::io::Result<SharedBar> {
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "register pages in a file that can shrink; the server must seal it (F_SEAL_SHRINK)",
            ));
        }
        let map = memmap2::MmapOptions::new().map_raw(&fd)?;
        Ok(SharedBar { map, fd })
    }

    /// The file behind it; offset 0 is the BAR's.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The dword at a byte offset, where there is one.
    #[inline]
    fn dword(&self, offset: u32) -> Option<&AtomicU32> {
        let offset = offset as usize;
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.map.len() {
            return None;
        }
        // SAFETY: the mapping lives as long as `self`, its file cannot shrink (sealed), the dword lies inside (checked)
        // and is aligned (a mapping is page aligned, the offset a multiple of 4). The other side accesses it as a
        // dword too; it is only ever accessed atomically here.
        Some(unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(offset).cast()) })
    }

    /// Loads a register with Acquire; outside of the BAR reads zero.
    #[inline]
    pub fn load(&self, offset: u32) -> u32 {
        self.dword(offset)
            .map_or(0, |dword| u32::from_le(dword.load(Ordering::Acquire)))
    }

    /// Stores a register with Release; outside of the BAR does nothing.
    #[inline]
    pub fn store(&self, offset: u32, value: u32) {
        if let Some(dword) = self.dword(offset) {
            dword.store(value.to_le(), Ordering::Release);
        }
    }

    /// Stores `new` if the register still holds `old`: an answer to a write that a newer write must not lose to.
    #[inline]
    pub fn answer(&self, offset: u32, old: u32, new: u32) -> bool {
        self.dword(offset).is_some_and(|dword| {
            dword
                .compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_mapping_sees_the_registers_and_the_edges_hold() {
        let bar = SharedBar::new("bar-test", 8192).expect("a memfd");
        bar.store(4096, 0x1234_5678);
        let other = SharedBar::attach(bar.fd.try_clone().expect("a descriptor")).expect("a mapping");
        assert_eq!(other.load(4096), 0x1234_5678);
        assert!(bar.answer(4096, 0x1234_5678, 1));
        assert!(!bar.answer(4096, 0x1234_5678, 2));
        assert_eq!(bar.load(4096), 1);
        bar.store(8192, 7);
        assert_eq!((bar.load(8192), bar.load(8190), bar.load(u32::MAX)), (0, 0, 0));
        assert!(rustix::fs::ftruncate(&bar.fd, 0).is_err(), "sealed");
    }
}
