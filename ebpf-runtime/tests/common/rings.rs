//! The consumer's side of the kernel's ring buffers and perf events: what programs sent, record by record.
#![allow(unsafe_code, dead_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PAGE: usize = 4096;

/// Memory shared with the kernel.
struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(fd: i32, len: usize, writable: bool, offset: usize) -> io::Result<Mapping> {
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                fd,
                offset as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { at: at.cast(), len })
    }

    fn u64(&self, off: usize) -> &AtomicU64 {
        assert!(off.is_multiple_of(8) && off + 8 <= self.len);
        // SAFETY: within the mapping, aligned, and only accessed with atomics.
        unsafe { AtomicU64::from_ptr(self.at.add(off).cast()) }
    }

    fn u32(&self, off: usize) -> u32 {
        assert!(off.is_multiple_of(4) && off + 4 <= self.len);
        // SAFETY: as in `u64`.
        unsafe { AtomicU32::from_ptr(self.at.add(off).cast()) }.load(Ordering::Acquire)
    }

    fn byte(&self, off: usize) -> u8 {
        assert!(off < self.len);
        // SAFETY: within the mapping; the kernel does not write records that nobody has consumed.
        unsafe { self.at.add(off).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// A `BPF_MAP_TYPE_RINGBUF`: a page with the consumer's position, one with the producer's, then the records, mapped twice
/// (kernel/bpf/ringbuf.c).
pub struct RingReader {
    consumer: Mapping,
    records: Mapping,
    size: usize,
}

impl RingReader {
    /// Of the map `fd` with `size` bytes of records.
    pub fn open(fd: i32, size: usize) -> io::Result<RingReader> {
        Ok(RingReader {
            consumer: Mapping::new(fd, PAGE, true, 0)?,
            records: Mapping::new(fd, PAGE + 2 * size, false, PAGE)?,
            size,
        })
    }

    /// Takes what is there, without what was discarded.
    pub fn take(&self) -> Vec<Vec<u8>> {
        const BUSY: u32 = 1 << 31;
        const DISCARDED: u32 = 1 << 30;
        let mut out = Vec::new();
        let mut at = self.consumer.u64(0).load(Ordering::Relaxed) as usize;
        let end = self.records.u64(0).load(Ordering::Acquire) as usize;
        while at < end {
            let off = PAGE + at % self.size;
            let head = self.records.u32(off);
            if head & BUSY != 0 {
                break;
            }
            let len = (head & !(BUSY | DISCARDED)) as usize;
            if head & DISCARDED == 0 {
                out.push((0..len).map(|i| self.records.byte(off + 8 + i)).collect());
            }
            at += (len + 8).next_multiple_of(8);
        }
        self.consumer.u64(0).store(at as u64, Ordering::Release);
        out
    }
}

/// A `PERF_COUNT_SW_BPF_OUTPUT` event of one processor (perf_event_open(2)).
pub struct PerfReader {
    event: OwnedFd,
    memory: Mapping,
}

impl PerfReader {
    const RECORDS: usize = 16 * PAGE;

    pub fn open(cpu: u32) -> io::Result<PerfReader> {
        const SOFTWARE: u32 = 1;
        const BPF_OUTPUT: u64 = 10;
        const SAMPLE_RAW: u64 = 1 << 10;
        const ENABLE: libc::c_ulong = 0x2400;
        // struct perf_event_attr: type and size, config, sample_period, sample_type, and no more that matters.
        let mut attr = [0u64; 8];
        attr[0] = u64::from(SOFTWARE) | 64 << 32;
        attr[1] = BPF_OUTPUT;
        attr[2] = 1;
        attr[3] = SAMPLE_RAW;
        // SAFETY: `attr` is a perf_event_attr of the size that it states; the call reads it and no more.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), -1, cpu, -1, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor to us.
        let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let memory = Mapping::new(event.as_raw_fd(), PAGE + PerfReader::RECORDS, true, 0)?;
        // SAFETY: takes no argument but the descriptor.
        match unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) } {
            0 => Ok(PerfReader { event, memory }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn fd(&self) -> i32 {
        self.event.as_raw_fd()
    }

    /// Takes the samples that are there. Each is padded so that it ends, with the 4 bytes of its length, on 8 bytes.
    pub fn take(&self) -> Vec<Vec<u8>> {
        const HEAD: usize = 1024;
        const TAIL: usize = 1032;
        const SAMPLE: u32 = 9;
        let mut out = Vec::new();
        let mut at = self.memory.u64(TAIL).load(Ordering::Relaxed) as usize;
        let end = self.memory.u64(HEAD).load(Ordering::Acquire) as usize;
        let byte = |at: usize| self.memory.byte(PAGE + at % PerfReader::RECORDS);
        let word = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        while at < end {
            let (kind, size) = (word(at), word(at + 4) >> 16);
            if kind == SAMPLE {
                let len = word(at + 8) as usize;
                out.push((0..len).map(|i| byte(at + 12 + i)).collect());
            }
            at += size as usize;
        }
        self.memory.u64(TAIL).store(at as u64, Ordering::Release);
        out
    }
}

/// Either of them.
pub enum Reader {
    Ring(RingReader),
    Perf(PerfReader),
}

impl Reader {
    /// Takes what is there.
    pub fn take(&self) -> Vec<Vec<u8>> {
        match self {
            Reader::Ring(ring) => ring.take(),
            Reader::Perf(perf) => perf.take(),
        }
    }

    /// Whether what the kernel's consumer sees are these records; samples are padded with zeros.
    pub fn same(&self, theirs: &[Vec<u8>], ours: &[Vec<u8>]) -> bool {
        let padded = |(theirs, ours): (&Vec<u8>, &Vec<u8>)| {
            theirs.len() == (ours.len() + 4).next_multiple_of(8) - 4
                && theirs.starts_with(ours)
                && theirs[ours.len()..].iter().all(|b| *b == 0)
        };
        match self {
            Reader::Ring(_) => theirs == ours,
            Reader::Perf(_) => theirs.len() == ours.len() && theirs.iter().zip(ours).all(padded),
        }
    }
}
