//! The IOVA space of a device.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::backing::{self, Backing};
use super::ring::{RingPlace, next_epoch};
use super::window::Window;
use super::{DmaError, Fault, FaultKind, Prot, Trust};
use crate::ring_order;

/// Mappings a client may have at once, as the kernel's VFIO limits them by default.
pub const MAX_REGIONS: usize = 65535;

const PAGE: u64 = 4096;

/// A contiguous piece of IOVA space.
#[derive(Debug, Clone, Copy)]
struct Region {
    start: u64,
    /// Last IOVA of the region.
    last: u64,
    /// Host address of `start`; null when no memory is behind it.
    host: *mut u8,
    backing: usize,
    prot: Prot,
}

/// The memory a device can reach.
#[derive(Debug)]
pub struct DmaSpace {
    /// Sorted by `start`, disjoint.
    regions: Vec<Region>,
    backings: Vec<Option<Backing>>,
    /// Where descriptors and words were found last, and where data was: a device goes to and fro between the two.
    last_word: Cell<usize>,
    last_data: Cell<usize>,
    enabled: bool,
    /// Which state of all this it is: see [`RingPlace`].
    epoch: u64,
}

// SAFETY: the raw pointers lead into mappings that `backings` of the same value owns; nothing is tied to a thread.
unsafe impl Send for DmaSpace {}

impl Default for DmaSpace {
    fn default() -> Self {
        DmaSpace::new()
    }
}

impl DmaSpace {
    /// Nothing mapped; bus mastering off.
    pub fn new() -> DmaSpace {
        DmaSpace {
            regions: Vec::new(),
            backings: Vec::new(),
            last_word: Cell::new(0),
            last_data: Cell::new(0),
            enabled: false,
            epoch: next_epoch(),
        }
    }

    /// The bus master enable gate: while off, every access faults.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.epoch = next_epoch();
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Number of mappings.
    pub fn mappings(&self) -> usize {
        self.regions.len()
    }

    /// Number of files mapped into this process for them.
    pub fn files(&self) -> usize {
        self.backings.iter().flatten().count()
    }

    /// Maps `len` bytes of a memory file at `iova`.
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        fd: OwnedFd,
        fd_offset: u64,
        prot: Prot,
        trust: Trust,
    ) -> Result<(), DmaError> {
        let (at, last) = self.place(iova, len, fd_offset)?;
        let file = backing::check(&fd, iova, fd_offset, len, trust)?;
        let index = match backing::find(&self.backings, &file, fd_offset + len, prot) {
            Some(index) => index,
            None => self.keep(backing::map(&fd, &file, prot, iova)?),
        };
        let Some(backing) = self.backings[index].as_mut() else {
            return Err(DmaError::Wraps { iova, len });
        };
        backing.users += 1;
        let host = backing.at(fd_offset);
        self.epoch = next_epoch();
        self.regions.insert(
            at,
            Region {
                start: iova,
                last,
                host,
                backing: index,
                prot,
            },
        );
        Ok(())
    }

    /// Records a mapping that has no memory behind it (a client may map ROM ranges so); accesses fault.
    pub fn map_without_memory(&mut self, iova: u64, len: u64, prot: Prot) -> Result<(), DmaError> {
        let (at, last) = self.place(iova, len, 0)?;
        let region = Region {
            start: iova,
            last,
            host: std::ptr::null_mut(),
            backing: usize::MAX,
            prot,
        };
        self.epoch = next_epoch();
        self.regions.insert(at, region);
        Ok(())
    }

    /// Unmaps every page that the range touches and returns how many bytes that was. A mapping that reaches
    /// into the range is cut: afterwards nothing in the range is reachable, and the pages outside still are.
    pub fn unmap(&mut self, iova: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        self.epoch = next_epoch();
        // Whole pages: a page that is touched is gone.
        let last = iova.saturating_add(len - 1) | (PAGE - 1);
        let iova = iova & !(PAGE - 1);
        let from = self.regions.partition_point(|r| r.last < iova);
        let to = self.regions.partition_point(|r| r.start <= last);
        let mut left = Vec::new();
        let mut bytes = 0u64;
        for r in &self.regions[from..to] {
            let (cut_from, cut_to) = (r.start.max(iova), r.last.min(last));
            bytes = bytes.saturating_add((cut_to - cut_from).saturating_add(1));
            if r.start < iova {
                left.push(Region { last: iova - 1, ..*r });
            }
            if r.last > last {
                let skip = last + 1 - r.start;
                let host = if r.host.is_null() {
                    r.host
                } else {
                    r.host.wrapping_add(skip as usize)
                };
                left.push(Region {
                    start: last + 1,
                    host,
                    ..*r
                });
            }
        }
        for r in &left {
            if let Some(Some(b)) = self.backings.get_mut(r.backing) {
                b.users += 1;
            }
        }
        let gone: Vec<usize> = self.regions.splice(from..to, left).map(|r| r.backing).collect();
        for index in gone {
            self.release(index);
        }
        self.last_word.set(0);
        self.last_data.set(0);
        bytes
    }

    /// Unmaps everything.
    pub fn unmap_all(&mut self) -> u64 {
        let bytes = self.regions.iter().fold(0u64, |n, r| {
            n.saturating_add((r.last - r.start).saturating_add(1))
        });
        self.epoch = next_epoch();
        self.regions.clear();
        self.backings.clear();
        self.last_word.set(0);
        self.last_data.set(0);
        bytes
    }

    /// Whether all of a range is mapped for that kind of access (bus mastering aside).
    pub fn is_mapped(&self, iova: u64, len: u64, prot: Prot) -> bool {
        let mut at = iova;
        let Some(last) = len.checked_sub(1).and_then(|n| iova.checked_add(n)) else {
            return len == 0;
        };
        loop {
            let Some(r) = self.find(at, &self.last_data) else {
                return false;
            };
            if r.host.is_null() || (prot.read && !r.prot.read) || (prot.write && !r.prot.write) {
                return false;
            }
            if r.last >= last {
                return true;
            }
            at = r.last + 1;
        }
    }

    /// The mapping in which data was found last, for many accesses that are likely to go there.
    #[inline]
    pub fn window(&self) -> Window<'_> {
        match self.regions.get(self.last_data.get()) {
            Some(r) if self.enabled && r.prot == Prot::READ_WRITE && !r.host.is_null() => {
                let len = (r.last - r.start).saturating_add(1);
                // SAFETY: a region with memory behind it is mapped from `host` on, for what `prot` says, and stays so as long
                // as `self` is borrowed, since unmapping takes `&mut self`.
                unsafe { Window::new(r.start, len, r.host) }
            }
            _ => Window::NOWHERE,
        }
    }

    /// Device reads memory. Nothing is promised about `buf` after a fault.
    #[inline]
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if buf.is_empty() {
            return Ok(());
        }
        let (host, room) = self.piece(iova, 0, buf.len(), Prot::READ, &self.last_data)?;
        if room >= buf.len() {
            // SAFETY: `piece` returned an address with `room` mapped bytes behind it, alive as long as &self; `buf`
            // is ours and cannot overlap a client's file mapping. The client may write at the same time; then the
            // bytes are whatever was seen, and are treated as untrusted.
            unsafe { copy(host, buf.as_mut_ptr(), buf.len()) };
            return Ok(());
        }
        self.read_pieces(iova, buf)
    }

    #[cold]
    fn read_pieces(&self, iova: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buf.len() {
            let (host, room) = self.piece(iova, done, buf.len(), Prot::READ, &self.last_data)?;
            let n = room.min(buf.len() - done);
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(host, buf.as_mut_ptr().add(done), n) };
            done += n;
        }
        Ok(())
    }

    /// Device writes memory. The whole range is checked first: a fault writes nothing.
    #[inline]
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        let (host, room) = self.piece(iova, 0, data.len(), WRITE, &self.last_data)?;
        if room >= data.len() {
            // SAFETY: as in `read`, with write permission checked.
            unsafe { copy(data.as_ptr(), host, data.len()) };
            return Ok(());
        }
        self.write_pieces(iova, data)
    }

    #[cold]
    fn write_pieces(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        for pass in 0..2 {
            let mut done = 0;
            while done < data.len() {
                let (host, room) = self.piece(iova, done, data.len(), WRITE, &self.last_data)?;
                let n = room.min(data.len() - done);
                if pass == 1 {
                    // SAFETY: as in `read`, with write permission checked.
                    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr().add(done), host, n) };
                }
                done += n;
            }
        }
        Ok(())
    }

    /// Loads a naturally aligned little-endian word.
    #[inline]
    pub fn load_u32(&self, iova: u64) -> Result<u32, Fault> {
        let host = self.word(iova, 4, Prot::READ)?;
        // SAFETY: `word` checked that four aligned bytes are mapped; both sides access them atomically.
        Ok(u32::from_le(
            unsafe { AtomicU32::from_ptr(host.cast()) }.load(Ordering::Acquire),
        ))
    }

    /// Stores a naturally aligned little-endian word with Release: what was written before is seen first.
    #[inline]
    pub fn store_u32(&self, iova: u64, v: u32) -> Result<(), Fault> {
        let host = self.word(iova, 4, WRITE)?;
        // SAFETY: as in `load_u32`.
        unsafe { AtomicU32::from_ptr(host.cast()) }.store(v.to_le(), Ordering::Release);
        Ok(())
    }

    /// Loads a naturally aligned quadword with Acquire: what was written before it is seen after.
    #[inline]
    pub fn load_u64_acquire(&self, iova: u64) -> Result<u64, Fault> {
        let host = self.word(iova, 8, Prot::READ)?;
        // SAFETY: `word` checked that eight aligned bytes are mapped.
        Ok(u64::from_le(
            unsafe { AtomicU64::from_ptr(host.cast()) }.load(Ordering::Acquire),
        ))
    }

    /// Stores a naturally aligned quadword with Release.
    #[inline]
    pub fn store_u64_release(&self, iova: u64, v: u64) -> Result<(), Fault> {
        let host = self.word(iova, 8, WRITE)?;
        // SAFETY: as in `load_u64_acquire`.
        unsafe { AtomicU64::from_ptr(host.cast()) }.store(v.to_le(), Ordering::Release);
        Ok(())
    }

    /// Reads a 16-byte descriptor, 16-byte aligned. The caller has loaded the tail with Acquire before.
    #[inline]
    pub fn read_desc16(&self, iova: u64) -> Result<[u64; 2], Fault> {
        Ok(ring_order::fetch(self.desc16(iova, Prot::READ)?))
    }

    /// Writes a 16-byte descriptor, 16-byte aligned. Quadword 1, which holds DD, is stored last with
    /// Release, so that whoever sees DD sees the rest and all data written before.
    #[inline]
    pub fn write_desc16(&self, iova: u64, qw: [u64; 2]) -> Result<(), Fault> {
        ring_order::publish(self.desc16(iova, WRITE)?, qw);
        Ok(())
    }

    #[inline]
    fn desc16(&self, iova: u64, want: Prot) -> Result<&[AtomicU64; 2], Fault> {
        let host: *const [AtomicU64; 2] = self.word(iova, 16, want)?.cast();
        // SAFETY: `word` checked that 16 aligned bytes are mapped; they stay so as long as `self` is borrowed, since
        // unmapping takes `&mut self`. Both sides access them atomically.
        Ok(unsafe { &*host })
    }

    /// The `count` descriptors of 16 bytes from `iova` on, where they can be read and written and lie in one piece. `None`
    /// says nothing more: the accesses to single descriptors tell what is wrong, if anything is. `place` remembers what was
    /// found.
    #[inline]
    pub fn ring(&self, place: &mut RingPlace, iova: u64, count: u32) -> Option<&[[AtomicU64; 2]]> {
        if (place.epoch, place.iova, place.count) != (self.epoch, iova, count) {
            *place = self.find_ring(iova, count)?;
        }
        // SAFETY: `find_ring` found `count` aligned descriptors mapped for reading and writing there, in this state of this
        // space: the epoch belongs to no other. They stay mapped as long as `self` is borrowed, since unmapping takes
        // `&mut self`. Both sides access them atomically.
        Some(unsafe { std::slice::from_raw_parts(place.host, count as usize) })
    }

    #[cold]
    fn find_ring(&self, iova: u64, count: u32) -> Option<RingPlace> {
        if count == 0 {
            return None;
        }
        let bytes = count as usize * 16;
        let (host, room) = self
            .piece(iova, 0, bytes, Prot::READ_WRITE, &self.last_word)
            .ok()?;
        if room < bytes || !iova.is_multiple_of(16) || !(host as usize).is_multiple_of(16) {
            return None;
        }
        Some(RingPlace {
            epoch: self.epoch,
            iova,
            count,
            host: host.cast_const().cast(),
        })
    }

    /// Checks a new mapping and finds its place among the regions.
    fn place(&self, iova: u64, len: u64, offset: u64) -> Result<(usize, u64), DmaError> {
        if len == 0 || !(iova | len | offset).is_multiple_of(PAGE) {
            return Err(DmaError::NotPages { iova, len, offset });
        }
        let last = iova.checked_add(len - 1).ok_or(DmaError::Wraps { iova, len })?;
        let at = self.regions.partition_point(|r| r.last < iova);
        if self.regions.get(at).is_some_and(|r| r.start <= last) {
            return Err(DmaError::Overlap { iova, len });
        }
        if self.regions.len() >= MAX_REGIONS {
            return Err(DmaError::TooMany {
                iova,
                limit: MAX_REGIONS,
            });
        }
        Ok((at, last))
    }

    fn keep(&mut self, backing: Backing) -> usize {
        match self.backings.iter().position(Option::is_none) {
            Some(index) => {
                self.backings[index] = Some(backing);
                index
            }
            None => {
                self.backings.push(Some(backing));
                self.backings.len() - 1
            }
        }
    }

    fn release(&mut self, index: usize) {
        if let Some(slot) = self.backings.get_mut(index)
            && let Some(b) = slot
        {
            b.users -= 1;
            if b.users == 0 {
                *slot = None;
            }
        }
    }

    #[inline]
    fn find(&self, iova: u64, last: &Cell<usize>) -> Option<&Region> {
        if let Some(r) = self.regions.get(last.get())
            && r.start <= iova
            && iova <= r.last
        {
            return Some(r);
        }
        let at = self.regions.partition_point(|r| r.last < iova);
        let r = self.regions.get(at).filter(|r| r.start <= iova)?;
        last.set(at);
        Some(r)
    }

    /// Host address of `iova + done` and how many bytes are mapped from there on.
    #[inline]
    fn piece(
        &self,
        iova: u64,
        done: usize,
        len: usize,
        want: Prot,
        last: &Cell<usize>,
    ) -> Result<(*mut u8, usize), Fault> {
        let fault = |kind| Fault { iova, len, kind };
        if !self.enabled {
            return Err(fault(FaultKind::Disabled));
        }
        let at = iova.checked_add(done as u64).ok_or(fault(FaultKind::NotMapped))?;
        let r = self.find(at, last).ok_or(fault(FaultKind::NotMapped))?;
        if (want.read && !r.prot.read) || (want.write && !r.prot.write) {
            return Err(fault(FaultKind::Permission));
        }
        if r.host.is_null() {
            return Err(fault(FaultKind::NoMemory));
        }
        // A region with memory is part of one mapping of this process, so its length fits usize.
        let into = (at - r.start) as usize;
        Ok((r.host.wrapping_add(into), (r.last - at) as usize + 1))
    }

    #[inline]
    fn word(&self, iova: u64, size: usize, want: Prot) -> Result<*mut u8, Fault> {
        let (host, room) = self.piece(iova, 0, size, want, &self.last_word)?;
        // Mappings are whole pages at page-aligned IOVAs of page-aligned host addresses, so an aligned word never
        // crosses the end of one and is aligned here too.
        if !iova.is_multiple_of(size as u64) || room < size || !(host as usize).is_multiple_of(size) {
            return Err(Fault {
                iova,
                len: size,
                kind: FaultKind::Misaligned,
            });
        }
        Ok(host)
    }
}

/// Copies `len` bytes. The shortest frames, of which there are the most, need no call.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    const HALF: usize = 32;
    if !(HALF..=2 * HALF).contains(&len) {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
        return;
    }
    // SAFETY: both halves lie within the `len` bytes that the caller vouches for. They may overlap each other, not the other
    // side.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, HALF);
        std::ptr::copy_nonoverlapping(from.add(len - HALF), to.add(len - HALF), HALF);
    }
}

const WRITE: Prot = Prot {
    read: false,
    write: true,
};
