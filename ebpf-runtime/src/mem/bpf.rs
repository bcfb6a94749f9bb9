//! bpf(2) itself. Attribute layouts are those of `union bpf_attr` in linux/bpf.h. The tests' oracle is built on it too.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `union bpf_attr`.
#[repr(C, align(8))]
pub struct Attr([u8; 152]);

impl Attr {
    /// All zero.
    pub fn new() -> Attr {
        Attr([0; 152])
    }

    /// With a number at an offset.
    pub fn u32(mut self, at: usize, value: u32) -> Attr {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// With a descriptor.
    pub fn fd(self, at: usize, fd: &OwnedFd) -> Attr {
        self.u32(at, fd.as_raw_fd() as u32)
    }

    /// With an address.
    pub fn addr(mut self, at: usize, addr: usize) -> Attr {
        self.0[at..at + 8].copy_from_slice(&(addr as u64).to_ne_bytes());
        self
    }

    /// With the address of what the kernel reads.
    pub fn input<T>(self, at: usize, slice: &[T]) -> Attr {
        self.addr(at, slice.as_ptr().expose_provenance())
    }

    /// With the address of what the kernel writes.
    pub fn output<T>(self, at: usize, slice: &mut [T]) -> Attr {
        self.addr(at, slice.as_mut_ptr().expose_provenance())
    }

    /// A number at an offset: what the kernel answered.
    pub fn get(&self, at: usize) -> u32 {
        self.0[at..]
            .first_chunk::<4>()
            .map_or(0, |b| u32::from_ne_bytes(*b))
    }
}

/// One call.
///
/// # Safety
/// Each pointer in `attr` is valid for as many bytes as the command reads or writes there.
pub unsafe fn bpf(cmd: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: `attr` is a `union bpf_attr` of the size given; the caller answers for the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr.0.as_mut_ptr(), attr.0.len()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The descriptor that a call returned.
///
/// # Safety
/// `fd` was just returned by bpf(2).
pub unsafe fn owned(fd: i64) -> OwnedFd {
    // SAFETY: as the caller promises, nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// CPUs that a per-CPU value in the kernel has room for: `/sys/devices/system/cpu/possible`, such as `0-3`.
pub fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text
        .trim()
        .rsplit(['-', ','])
        .next()
        .and_then(|n| n.parse::<usize>().ok());
    last.map_or(1, |n| n + 1)
}
