//! One mapping of the address space, looked up once for many accesses.

use std::marker::PhantomData;

use super::prefetch;
use super::space::{DmaSpace, copy};

/// The mapping in which data was found last, if the device may read and write there. Mappings stay as they are while it is
/// borrowed. What lies elsewhere it does not reach, and then does nothing: [`DmaSpace::read`] and [`DmaSpace::write`] do.
#[derive(Debug)]
pub struct Window<'a> {
    start: u64,
    len: u64,
    /// Host address of `start`.
    host: *mut u8,
    space: PhantomData<&'a DmaSpace>,
}

impl Window<'_> {
    /// One that reaches nothing.
    pub(super) const NOWHERE: Self = Window {
        start: 0,
        len: 0,
        host: std::ptr::null_mut(),
        space: PhantomData,
    };

    /// # Safety
    /// `len` bytes are mapped from `host` on, for reading and writing, as long as the window's lifetime lasts, and they belong
    /// to a client's file.
    pub(super) unsafe fn new(start: u64, len: u64, host: *mut u8) -> Self {
        Window {
            start,
            len,
            host,
            space: PhantomData,
        }
    }

    /// Where `len` bytes at `iova` lie in this process.
    #[inline(always)]
    fn find(&self, iova: u64, len: usize) -> Option<*mut u8> {
        let into = iova.wrapping_sub(self.start);
        let inside = into < self.len && len as u64 <= self.len - into;
        inside.then(|| self.host.wrapping_add(into as usize))
    }

    /// Device reads memory; false, with nothing done, where that is not in this mapping.
    #[inline(always)]
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> bool {
        let Some(host) = self.find(iova, buf.len()) else {
            return false;
        };
        // SAFETY: `find` gave an address with that many mapped bytes behind it (see `new`); `buf` is ours and cannot overlap a
        // client's file mapping. The client may write at the same time; then the bytes are whatever was seen.
        unsafe { copy(host, buf.as_mut_ptr(), buf.len()) };
        true
    }

    /// Device writes memory; false, with nothing done, where that is not in this mapping.
    #[inline(always)]
    pub fn write(&self, iova: u64, data: &[u8]) -> bool {
        let Some(host) = self.find(iova, data.len()) else {
            return false;
        };
        // SAFETY: as in `read`.
        unsafe { copy(data.as_ptr(), host, data.len()) };
        true
    }

    /// Starts loading the cache line at `iova`, which the device is about to read: it was written on another processor, and with
    /// several on their way nobody waits long for any, as a DMA engine's reads overlap. Nothing else happens, nor anything at
    /// all where the window does not reach.
    #[inline(always)]
    pub fn prefetch(&self, iova: u64) {
        if let Some(host) = self.find(iova, 1) {
            prefetch::for_reading(host);
        }
    }

    /// The same for a line that the device is about to write: the other processors' copies go at once.
    #[inline(always)]
    pub fn prefetch_to_write(&self, iova: u64) {
        if let Some(host) = self.find(iova, 1) {
            prefetch::for_writing(host);
        }
    }
}
