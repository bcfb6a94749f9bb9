//! Memory cut into packet buffers.

use std::fmt;
use std::num::NonZeroU8;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;

use super::depot::Depot;
use super::handle::{MAX_REGION, Tag};
use super::stack::Level;
use super::{DmaMemory, Handle, MemError, MemoryProvider};
use crate::simd::{self, CpuPath, Work};
#[cfg(target_arch = "x86_64")]
use crate::simd::{STEP, avx2};

/// Handles of which the data is found at once: a whole batch.
#[cfg(target_arch = "x86_64")]
const HEADS: usize = 64;

/// How a region's buffers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferLayout {
    /// Number of buffers.
    pub count: u32,
    /// Bytes from one buffer to the next. An odd number of cache lines spreads headers over all cache sets.
    pub stride: u32,
    /// Bytes in front of a received frame.
    pub headroom: u16,
}

impl BufferLayout {
    /// Bytes in front of a received frame that programs may grow into (as in the kernel, XDP_PACKET_HEADROOM).
    pub const HEADROOM: u16 = 256;
    /// Bytes a device may write behind the headroom by default.
    pub const DATA: u32 = 2048;

    /// `count` buffers of the default size: 256 bytes of headroom, 2048 of data, and a stride of 37 cache lines.
    pub fn new(count: u32) -> Self {
        BufferLayout {
            count,
            stride: u32::from(Self::HEADROOM) + Self::DATA + 64,
            headroom: Self::HEADROOM,
        }
    }

    /// Bytes behind the headroom. What a device may write is less where its receive unit counts in KiB.
    pub fn data_len(&self) -> u32 {
        self.stride - u32::from(self.headroom)
    }

    /// Bytes that all buffers take.
    pub fn bytes(&self) -> usize {
        self.count as usize * self.stride as usize
    }

    fn check(&self) -> Result<(), MemError> {
        let bad = |what| Err(MemError::Layout { layout: *self, what });
        if self.count == 0 || self.count >= 1 << 24 {
            return bad("a region has 1 to 16777215 buffers");
        }
        if self.stride == 0 || self.stride > 1 << 16 || !self.stride.is_multiple_of(64) {
            return bad("the stride is a multiple of 64 bytes, 65536 at most");
        }
        if self.stride <= u32::from(self.headroom) || !self.headroom.is_multiple_of(2) {
            return bad("the headroom is even and leaves room for data");
        }
        Ok(())
    }
}

/// Packet buffers in one piece of DMA memory, and which of them are free.
///
/// Ids are unique in the process. An id is used again only after its region ended with every buffer at home, so a handle
/// always belongs to the region whose id it carries.
pub struct Region {
    id: NonZeroU8,
    /// Tag of buffer 0.
    first: Tag,
    layout: BufferLayout,
    base: NonNull<u8>,
    mem: Arc<DmaMemory>,
    depot: Depot,
    /// What each free stack holds.
    stacks: Mutex<Vec<Weak<Level>>>,
}

// SAFETY: `base` points into `mem`, which lives as long as the region. Buffers are reached only through `&mut Handle`,
// of which there is one a buffer, so no two threads touch the same bytes.
unsafe impl Send for Region {}
// SAFETY: as above; everything else in a region is atomic or locked.
unsafe impl Sync for Region {}

impl Region {
    /// Cuts `mem` into buffers; all of them are free and in the depot.
    pub fn new(mem: Arc<DmaMemory>, layout: BufferLayout) -> Result<Arc<Self>, MemError> {
        layout.check()?;
        if mem.len() < layout.bytes() {
            return Err(MemError::Layout {
                layout,
                what: "the memory is too small for the buffers",
            });
        }
        let base = mem.base();
        ids::register(|id| {
            Arc::new(Region {
                id,
                first: Tag::first(id),
                layout,
                base,
                mem: mem.clone(),
                depot: Depot::full(layout.count),
                stacks: Mutex::new(Vec::new()),
            })
        })
    }

    /// Asks `provider` for memory on NUMA node `numa` and cuts it into buffers.
    pub fn alloc(
        provider: &dyn MemoryProvider,
        layout: BufferLayout,
        numa: Option<u32>,
    ) -> Result<Arc<Self>, MemError> {
        layout.check()?;
        Region::new(Arc::new(provider.provide(layout.bytes(), numa)?), layout)
    }

    /// Id that the region's handles carry.
    #[inline]
    pub fn id(&self) -> u8 {
        self.id.get()
    }

    #[inline]
    pub(super) fn first_tag(&self) -> Tag {
        self.first
    }

    /// How the buffers look.
    #[inline]
    pub fn layout(&self) -> &BufferLayout {
        &self.layout
    }

    /// Where the data of a received frame lies in this process, less the product of its buffer's tag and the stride: to be
    /// added to such a product. Only for prefetches, so it is a number and not a pointer.
    #[inline]
    pub(super) fn data_by_tag(&self) -> u64 {
        let first = u64::from(self.first_tag().bits()) * u64::from(self.layout.stride);
        let data = self.base.as_ptr().addr() as u64 + u64::from(self.layout.headroom);
        data.wrapping_sub(first)
    }

    /// The memory behind the buffers, to be mapped for a device as a whole.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.mem
    }

    pub(super) fn depot(&self) -> &Depot {
        &self.depot
    }

    /// True if the handle is one of this region's.
    #[inline]
    pub fn owns(&self, handle: &Handle) -> bool {
        handle.region() == self.id.get()
    }

    /// Bytes from the start of the memory to the start of the handle's buffer.
    ///
    /// With the IOVA of the memory this is what goes into a descriptor. Meaningless for another region's handle.
    #[inline]
    pub fn offset(&self, handle: &Handle) -> u64 {
        u64::from(handle.index()) * u64::from(self.layout.stride)
    }

    /// The whole buffer, headroom included, of one of this region's handles; an empty slice for any other handle.
    #[inline]
    pub fn buffer_mut<'a>(&'a self, handle: &'a mut Handle) -> &'a mut [u8] {
        if !self.owns(handle) {
            return &mut [];
        }
        let stride = self.layout.stride as usize;
        // SAFETY: the handle was made by this region (ids are not shared), so its index is below `count` and the buffer
        // lies inside `mem`. There is one handle a buffer and it is borrowed mutably for as long as the slice lives. A
        // device that breaks the rules and writes to a buffer that is not posted changes bytes, not Rust's ownership:
        // nothing here relies on their values.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr().add(handle.index() as usize * stride), stride)
        }
    }

    /// The whole buffer for reading; an empty slice for another region's handle.
    #[inline]
    pub fn buffer<'a>(&'a self, handle: &'a Handle) -> &'a [u8] {
        if !self.owns(handle) {
            return &[];
        }
        let stride = self.layout.stride as usize;
        // SAFETY: as in `buffer_mut`; the shared borrow of the handle keeps `buffer_mut` away.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(handle.index() as usize * stride), stride)
        }
    }

    /// The frame's bytes in this buffer, as the handle's offset and length give them; cut to the buffer.
    #[inline]
    pub fn data<'a>(&'a self, handle: &'a Handle) -> &'a [u8] {
        let (off, len) = (usize::from(handle.off), usize::from(handle.len));
        let buffer = self.buffer(handle);
        let off = off.min(buffer.len());
        &buffer[off..off + len.min(buffer.len() - off)]
    }

    /// As [`Region::data`], for writing.
    #[inline]
    pub fn data_mut<'a>(&'a self, handle: &'a mut Handle) -> &'a mut [u8] {
        let (off, len) = (usize::from(handle.off), usize::from(handle.len));
        let buffer = self.buffer_mut(handle);
        let off = off.min(buffer.len());
        let len = len.min(buffer.len() - off);
        &mut buffer[off..off + len]
    }

    /// Calls `f` with the data of those of `slots` that hold a single-buffer frame of this region, in order.
    #[inline]
    pub fn for_each_head(&self, slots: &mut [Option<Handle>], path: CpuPath, mut f: impl FnMut(&mut [u8])) {
        match slots {
            [] => {}
            [slot] => {
                if let Some(head) = self.head(slot) {
                    f(head);
                }
            }
            // A function of its own, so that one frame need not save registers for it.
            _ => path.run::<ManyHeads, _, _, _>(self, slots, f),
        }
    }

    /// The data of a single-buffer frame of this region, if that is what lies in `slot`.
    #[inline(always)]
    fn head<'a>(&'a self, slot: &'a mut Option<Handle>) -> Option<&'a mut [u8]> {
        let index = self.first.distance(slot.as_ref().map(Handle::tag));
        if index > Tag::MAX_INDEX {
            return None;
        }
        // SAFETY: an empty slot's distance is the region's own bits, and those are above the highest index.
        let handle = unsafe { slot.as_ref().unwrap_unchecked() };
        let (off, len) = (usize::from(handle.off), usize::from(handle.len));
        let stride = self.layout.stride as usize;
        if off + len > stride {
            return None;
        }
        // SAFETY: as in `buffer_mut`: the handle is one of the region's, its data lies inside its buffer, and it is mutably
        // borrowed for as long as the slice lives.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr().add(index as usize * stride + off), len)
        })
    }

    /// Starts the load of the first line of a handle's frame.
    #[inline]
    pub fn prefetch(&self, handle: &Handle) {
        if !self.owns(handle) {
            return;
        }
        let at = self.offset(handle) as usize + usize::from(handle.off);
        simd::prefetch(self.base.as_ptr().wrapping_add(at).addr() as u64);
    }

    /// Number of buffers.
    pub fn count(&self) -> u32 {
        self.layout.count
    }

    /// Buffers that are free now, in the depot or on a free stack. Exact when no thread is at work.
    pub fn free(&self) -> u32 {
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        stacks.retain(|level| level.strong_count() > 0);
        let on_stacks: u32 = stacks
            .iter()
            .filter_map(Weak::upgrade)
            .map(|l| l.load(Ordering::Relaxed))
            .sum();
        self.depot.free() + on_stacks
    }

    /// Buffers in flight: in rings, batches and frames. Exact when no thread is at work.
    pub fn in_flight(&self) -> u32 {
        self.count().saturating_sub(self.free())
    }

    pub(super) fn watch(&self, level: &Arc<Level>) {
        self.stacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(level));
    }
}

/// As [`Region::for_each_head`], with what the path has.
struct ManyHeads;

impl<F: FnMut(&mut [u8])> Work<&Region, &mut [Option<Handle>], F> for ManyHeads {
    type Out = ();

    #[inline(always)]
    fn work(path: CpuPath, region: &Region, slots: &mut [Option<Handle>], mut f: F) {
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if path.has_avx2() {
            let mut starts = [const { MaybeUninit::<u64>::uninit() }; HEADS];
            // SAFETY: the path says that there is AVX2; `slots` is borrowed mutably, and `starts` is long enough.
            done = unsafe {
                avx2::heads(
                    slots.len().min(HEADS),
                    slots.as_ptr().cast(),
                    starts.as_mut_ptr().cast(),
                    region.first_tag().bits(),
                    region.layout.stride,
                    simd::fits(Tag::MAX_INDEX, region.layout.stride),
                )
            };
            let base = region.base.as_ptr();
            // SAFETY: to be called for the first `done` of them only. Those slots hold handles of this region whose data lies inside
            // their buffers, and `starts` says where, from the region's first byte on. As in `buffer_mut`, each is mutably
            // borrowed for as long as its slice lives.
            let head = |slot: *const Option<Handle>, start: *const MaybeUninit<u64>| unsafe {
                let len = usize::from((*slot).as_ref().unwrap_unchecked().len);
                std::slice::from_raw_parts_mut(base.add((*start).assume_init() as usize), len)
            };
            let (mut slot, mut start) = (slots.as_ptr(), starts.as_ptr());
            let end = start.wrapping_add(done);
            // `done` counts whole steps. By address: an iterator over two at once stays a call in a build that does not optimise at
            // link time, and one over the numbers of a step counts them.
            while start != end {
                f(head(slot, start));
                f(head(slot.wrapping_add(1), start.wrapping_add(1)));
                f(head(slot.wrapping_add(2), start.wrapping_add(2)));
                f(head(slot.wrapping_add(3), start.wrapping_add(3)));
                (slot, start) = (slot.wrapping_add(STEP), start.wrapping_add(STEP));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = path;
        while let Some(slot) = slots.get_mut(done) {
            if let Some(head) = region.head(slot) {
                f(head);
            }
            done += 1;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let in_flight = self.in_flight();
        if in_flight == 0 {
            ids::release(self.id());
        } else {
            // Handles are still out there. Their id must never name another region's buffers.
            tracing::error!(
                "region {} ended with {in_flight} of {} buffers in flight",
                self.id(),
                self.count()
            );
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("id", &self.id)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

/// Gives a dropped handle's buffer back.
#[cold]
pub(super) fn return_stray(region: u8, index: u32) {
    if let Some(region) = ids::lookup(region) {
        region.depot.put_stray(index);
    }
}

/// The process's regions by id.
mod ids {
    use super::*;

    enum Slot {
        Free,
        Used(Weak<Region>),
    }

    static SLOTS: Mutex<[Slot; 256]> = Mutex::new([const { Slot::Free }; 256]);

    pub(super) fn register(make: impl FnOnce(NonZeroU8) -> Arc<Region>) -> Result<Arc<Region>, MemError> {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |id: &NonZeroU8| matches!(slots[usize::from(id.get())], Slot::Free);
        let id = (1..=MAX_REGION)
            .filter_map(NonZeroU8::new)
            .find(free)
            .ok_or(MemError::TooManyRegions)?;
        let region = make(id);
        slots[usize::from(id.get())] = Slot::Used(Arc::downgrade(&region));
        Ok(region)
    }

    pub(super) fn release(id: u8) {
        SLOTS.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(id)] = Slot::Free;
    }

    pub(super) fn lookup(id: u8) -> Option<Arc<Region>> {
        match &SLOTS.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(id)] {
            Slot::Used(region) => region.upgrade(),
            Slot::Free => None,
        }
    }
}
