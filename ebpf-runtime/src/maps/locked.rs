//! Values that a program guards with a `struct bpf_spin_lock` in them.
//!
//! As in the kernel (`copy_map_value`, `copy_map_value_locked`, `check_and_init_map_value` in include/linux/bpf.h): the lock's
//! own four bytes are never written from outside, read as 0, and with `BPF_F_LOCK` they are taken while the rest is copied.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Errno;
use crate::mem::arena::Arena;

/// Turns at a lock before its holder is taken to be gone.
const TURNS: u32 = 1 << 20;

/// Where in a map's values the lock lies, once that is known.
#[derive(Debug, Default)]
pub(super) struct LockPlace(OnceLock<usize>);

impl LockPlace {
    /// Says where in values of `size` bytes it is; a place where none can be is not taken.
    pub fn set(&self, at: u32, size: usize) {
        let at = at as usize;
        if at.is_multiple_of(4) && at + 4 <= size {
            // The first word counts; who else has the map has the same type of value.
            let _ = self.0.set(at);
        }
    }

    /// `EINVAL` where values have no lock.
    pub fn get(&self) -> Result<usize, Errno> {
        self.0.get().copied().ok_or(Errno::INVAL)
    }

    /// Writes a value, of which the lock stays as it is.
    pub fn write(&self, arena: &Arena, off: usize, value: &[u8]) {
        let Some(&lock) = self.0.get() else {
            return arena.write(off, value);
        };
        let word = lock & !7;
        arena.write(off, &value[..word]);
        let end = value.len().min(word + 8);
        for at in (word..end).filter(|at| !(lock..lock + 4).contains(at)) {
            arena.write_byte(off + at, value[at]);
        }
        arena.write(off + end, &value[end..]);
    }

    /// Shows no lock in a value that was read.
    pub fn hide(&self, value: &mut [u8]) {
        if let Some(&lock) = self.0.get() {
            value[lock..lock + 4].fill(0);
        }
    }
}

/// Does `f` while the lock is held; `EBUSY` when it does not become free.
pub(super) fn hold<R>(lock: &AtomicU32, f: impl FnOnce() -> R) -> Result<R, Errno> {
    for _ in 0..TURNS {
        if lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            let result = f();
            lock.store(0, Ordering::Release);
            return Ok(result);
        }
        std::thread::yield_now();
    }
    Err(Errno::BUSY)
}
