//! The frame as the interpreter sees it between two calls: one comparison tells whether an access lies within.

use std::marker::PhantomData;

use crate::XdpBuff;

/// `data_meta` to `data_end` of one frame. Made anew after whatever may have moved the frame's edges; one that is out of date
/// shows the old edges, which lie in the same buffer.
pub(crate) struct Window<'a> {
    base: *mut u8,
    /// Where accesses of 1, 2, 4 and 8 bytes can begin: below this offset.
    ends: [usize; 4],
    _buffer: PhantomData<&'a mut [u8]>,
}

impl<'a> Window<'a> {
    /// What programs may touch of `buf` now.
    #[inline(always)]
    pub fn of(buf: &XdpBuff<'a>) -> Window<'a> {
        let room = buf.data_end.addr() - buf.data_meta.addr();
        Window {
            base: buf.data_meta,
            ends: [
                room,
                room.saturating_sub(1),
                room.saturating_sub(3),
                room.saturating_sub(7),
            ],
            _buffer: PhantomData,
        }
    }

    #[inline(always)]
    fn at<const N: usize>(&self, addr: u64) -> Option<*mut u8> {
        let off = (addr as usize).wrapping_sub(self.base.addr());
        (off < self.ends[N.trailing_zeros() as usize]).then(|| self.base.wrapping_add(off))
    }

    /// Loads 1, 2, 4 or 8 bytes, zero extended, if they lie within. `buf` is the frame, of which nobody holds a slice.
    #[inline(always)]
    pub fn load<const N: usize>(&self, _buf: &XdpBuff<'a>, addr: u64) -> Option<u64> {
        let at = self.at::<N>(addr)?;
        // SAFETY: `at` lies, with N bytes, between two positions that were the frame's edges, in the buffer that is borrowed
        // mutably for 'a; the borrow of `_buf` says that no mutable slice of it is held.
        Some(unsafe { peek::<N>(at) })
    }

    /// Stores the low 1, 2, 4 or 8 bytes; false if they do not lie within.
    #[inline(always)]
    pub fn store<const N: usize>(&self, _buf: &mut XdpBuff<'a>, addr: u64, value: u64) -> bool {
        let Some(at) = self.at::<N>(addr) else {
            return false;
        };
        // SAFETY: as in `load`; the mutable borrow of `_buf` says that no slice of the frame is held at all.
        unsafe { poke::<N>(at, value) };
        true
    }
}

/// Loads N (1, 2, 4 or 8) little-endian bytes, zero extended.
///
/// # Safety
/// They can be read, and nobody writes them meanwhile.
#[inline(always)]
pub(super) unsafe fn peek<const N: usize>(at: *const u8) -> u64 {
    // SAFETY: the caller's promise; no alignment is asked for.
    unsafe {
        match N {
            1 => at.read().into(),
            2 => u16::from_le(at.cast::<u16>().read_unaligned()).into(),
            4 => u32::from_le(at.cast::<u32>().read_unaligned()).into(),
            _ => u64::from_le(at.cast::<u64>().read_unaligned()),
        }
    }
}

/// Stores the low N (1, 2, 4 or 8) bytes of `value`, little-endian.
///
/// # Safety
/// They can be written, and nobody else accesses them meanwhile.
#[inline(always)]
pub(super) unsafe fn poke<const N: usize>(at: *mut u8, value: u64) {
    // SAFETY: the caller's promise; no alignment is asked for.
    unsafe {
        match N {
            1 => at.write(value as u8),
            2 => at.cast::<u16>().write_unaligned((value as u16).to_le()),
            4 => at.cast::<u32>().write_unaligned((value as u32).to_le()),
            _ => at.cast::<u64>().write_unaligned(value.to_le()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_reaches_the_frame_and_its_metadata_to_the_last_byte_for_every_width() {
        let mut bytes = [7u8; 64];
        for len in [0usize, 1, 3, 7, 8, 20] {
            let mut buf = XdpBuff::new(&mut bytes, 16, len, 0, &[]);
            let window = Window::of(&buf);
            let data = buf.data.addr() as u64;
            let end = data + len as u64;
            let mut probe = |addr: u64| {
                let inside = |n: u64| addr >= data && addr.checked_add(n).is_some_and(|last| last <= end);
                assert_eq!(window.load::<1>(&buf, addr).is_some(), inside(1));
                assert_eq!(window.load::<2>(&buf, addr).is_some(), inside(2));
                assert_eq!(window.load::<4>(&buf, addr).is_some(), inside(4));
                assert_eq!(window.load::<8>(&buf, addr).is_some(), inside(8));
                assert_eq!(window.store::<8>(&mut buf, addr, 1), inside(8));
            };
            (data - 9..end + 2).for_each(&mut probe);
            [0, u64::MAX, u64::MAX - 7].into_iter().for_each(probe);
        }
    }
}
