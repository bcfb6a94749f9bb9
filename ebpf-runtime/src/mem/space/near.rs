//! Accesses to the usual places: the running function's frame, the packet, the value that was used last. Each is tried first, in line;
//! what is not there is for [`Space::load`] and [`Space::store`], which search.

use super::{STACK, Space, load_shared, store_shared, within};
use crate::XdpBuff;
use crate::mem::window::{Window, peek, poke};

impl Space {
    /// Loads from the frame of the function that runs; `off` counts from its lowest byte, below [`FRAME`].
    #[inline(always)]
    pub fn frame_load<const N: usize>(&self, off: i32) -> u64 {
        let at = self.low.wrapping_add(off as usize) & (STACK - 1);
        // SAFETY: the stack has room for 8 bytes behind the highest `at` there can be, and is ours.
        unsafe { peek::<N>(self.stack.0.as_ptr().add(at)) }
    }

    /// Stores into the frame of the function that runs, as [`Space::frame_load`] loads from it.
    #[inline(always)]
    pub fn frame_store<const N: usize>(&mut self, off: i32, value: u64) {
        let at = self.low.wrapping_add(off as usize) & (STACK - 1);
        // SAFETY: as in `frame_load`.
        unsafe { poke::<N>(self.stack.0.as_mut_ptr().add(at), value) };
    }

    /// A load from the usual places: the frame, the value used last. `None` is for [`Space::load`].
    #[inline(always)]
    pub fn near_load<'b, const N: usize>(
        &self,
        window: &Window<'b>,
        buf: &XdpBuff<'b>,
        addr: u64,
    ) -> Option<u64> {
        if let Some(value) = window.load::<N>(buf, addr) {
            return Some(value);
        }
        let ptr = within(&self.hot, addr, N).filter(|ptr| ptr.addr().is_multiple_of(N))?;
        // SAFETY: `hot` is a live range of a map, and `ptr` lies in it, aligned.
        Some(unsafe { load_shared::<N>(ptr) })
    }

    /// A load from a value used before the last, which becomes the last. `None` is for [`Space::load`].
    #[inline(always)]
    pub fn recent_load<const N: usize>(&mut self, addr: u64) -> Option<u64> {
        for range in &mut self.cache {
            if let Some(ptr) = within(range, addr, N) {
                if !ptr.addr().is_multiple_of(N) {
                    return None;
                }
                std::mem::swap(&mut self.hot, range);
                // SAFETY: as in `near_load`; the cache, too, has live ranges of maps only.
                return Some(unsafe { load_shared::<N>(ptr) });
            }
        }
        None
    }

    /// A store to the usual places; false is for [`Space::far_store`].
    #[inline(always)]
    pub fn near_store<'b, const N: usize>(
        &mut self,
        window: &Window<'b>,
        buf: &mut XdpBuff<'b>,
        addr: u64,
        value: u64,
    ) -> bool {
        if window.store::<N>(buf, addr, value) {
            return true;
        }
        match within(&self.hot, addr, N) {
            Some(ptr) if self.hot.writable && ptr.addr().is_multiple_of(N) => {
                // SAFETY: as in `near_load`; the range may be written.
                unsafe { store_shared::<N>(ptr, value) };
                true
            }
            _ => false,
        }
    }

    /// Adds to the 8 bytes at `addr`, which lie in the value used last; gives what they were. `None` where they do not.
    #[inline(always)]
    pub fn near_add(&mut self, addr: u64, delta: u64) -> Option<u64> {
        let ptr =
            within(&self.hot, addr, 8).filter(|ptr| self.hot.writable && ptr.addr().is_multiple_of(8))?;
        // SAFETY: as in `near_load` and `near_store`. A load and a store, as the program has them: not one step for others.
        unsafe {
            let old = load_shared::<8>(ptr);
            store_shared::<8>(ptr, old.wrapping_add(delta));
            Some(old)
        }
    }

    /// Two stores to the stack. `None` where one of them is not, and then nothing is stored.
    #[inline(always)]
    pub fn near_store_two<const N: usize>(&mut self, to: [u64; 2], values: [u64; 2]) -> Option<()> {
        let bottom = self.stack.0.as_mut_ptr().wrapping_add(self.low);
        let room = (self.high - self.low).saturating_sub(N - 1);
        let within = |addr: u64| (addr as usize).wrapping_sub(bottom.addr());
        let (a, b) = (within(to[0]), within(to[1]));
        if a >= room || b >= room {
            return None;
        }
        // SAFETY: both lie, with all their bytes, in the frames in use, which begin at `bottom`; the stack is ours.
        unsafe {
            poke::<N>(bottom.add(a), values[0]);
            poke::<N>(bottom.add(b), values[1]);
        }
        Some(())
    }
}
