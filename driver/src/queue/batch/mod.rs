//! What one poll brings: up to 64 buffers with their raw write-backs.
//!
//! Here is what a batch holds and how queues fill and empty it; [`frames`] looks at one frame of it, [`views`] at all.

use std::sync::Arc;

use crate::mem::{FreeStack, Handle, Region};
use crate::simd::CpuPath;

mod frames;
mod views;

pub use views::{BufferView, FramesMut};

/// Buffers a batch holds.
pub const BATCH: usize = 64;
const SLOT: usize = BATCH - 1;
/// The bits of a batch's mark that count.
const HELD: u64 = 0x7f;
/// The keys of queues are multiples of this.
pub(crate) const KEY_STEP: u64 = HELD + 1;
const _: () = assert!(BATCH as u64 <= HELD);
/// Free buffers go from the TX queue to the RX queue so many at a time, which is seldom.
const TRADE: usize = 4 * BATCH;

/// The most buffers that one received frame may take; longer runs are dropped and counted.
pub const MAX_RUN: usize = 16;

/// Frames from one poll. The batch owns their buffers; what it still holds goes back to the free stack of the
/// queue that polls into it next, or to the region when it is cleared or dropped.
///
/// A frame is a run of buffers, all but the last flagged `MORE`; nearly always it is one. Make one batch per
/// worker and use it again and again: it is large and nothing in it is allocated per poll. It shares cache lines with nothing.
#[repr(align(64))]
pub struct RxBatch {
    /// The key of the queue that this batch is ready to be filled by again, once it is empty: everything else that a poll sets is
    /// as that queue wants it, and `listed` is not set. 0 for none. In the low bits ([`HELD`]) at most so many slots still hold
    /// their buffer; 0 spares looking. Both in one word, since a poll asks for both.
    mark: u64,
    region: Option<Arc<Region>>,
    /// Free buffers on their way from the TX queue to the RX queue of the same worker.
    spare: Option<FreeStack>,
    /// A TX queue with so many free buffers gives them to `spare`.
    trade_at: usize,
    /// The code that runs for every frame.
    path: CpuPath,
    /// Buffers in use: slots `0..used`.
    used: usize,
    /// Frames in use.
    frames: usize,
    /// 16-byte units of raw write-back per buffer: 1 or 2.
    units: u8,
    rx_queue: u16,
    /// Most frames of one buffer that a poll brings.
    limit: u32,
    /// A poll starts loading each frame's first line.
    prefetch: bool,
    slots: [Option<Handle>; BATCH],
    /// Frames begin where `first` says. Until then each is one buffer, frame `i` in slot `i`.
    listed: bool,
    /// First slot of each frame, and one past the last at `frames`.
    first: [u8; BATCH + 1],
    /// 16 bytes a buffer in the first half, or 32 in both.
    raw: [[[u64; 2]; BATCH]; 2],
}

impl RxBatch {
    /// An empty batch.
    pub fn new() -> RxBatch {
        RxBatch {
            mark: 0,
            region: None,
            spare: None,
            trade_at: usize::MAX,
            path: CpuPath::SCALAR,
            used: 0,
            frames: 0,
            units: 1,
            rx_queue: 0,
            limit: BATCH as u32,
            prefetch: true,
            slots: [const { None }; BATCH],
            listed: false,
            first: [0; BATCH + 1],
            raw: [[[0; 2]; BATCH]; 2],
        }
    }

    /// Lets a poll bring at most `buffers` of them, 1 to [`BATCH`], to this batch. A frame that needs more than that stays
    /// where it is, so this is for those who know that theirs do not.
    pub fn set_limit(&mut self, buffers: usize) {
        self.limit = buffers.clamp(1, BATCH) as u32;
    }

    /// Whether a poll that brings more than a few frames starts loading the first line of each, as it does unless told
    /// otherwise: so they are all under way before the first is looked at. Who looks at no frame saves a few cycles without.
    pub fn set_prefetch(&mut self, prefetch: bool) {
        self.prefetch = prefetch;
    }

    /// See [`set_prefetch`](Self::set_prefetch).
    #[inline(always)]
    pub(crate) fn prefetches(&self) -> bool {
        self.prefetch
    }

    /// Most buffers that a poll brings: see [`set_limit`](Self::set_limit).
    #[inline]
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// The 16-byte raw write-backs of a batch in which every frame is one buffer; empty for any other.
    #[inline]
    pub fn raws16(&self) -> &[[u64; 2]] {
        if self.listed || self.units != 1 {
            return &[];
        }
        &self.raw[0][..self.used]
    }

    /// Frames in the batch.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames
    }

    /// No frame in the batch.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Buffers in the batch, also those that were taken out.
    #[inline]
    pub fn buffers(&self) -> usize {
        self.used
    }

    /// The RX queue that filled the batch.
    #[inline]
    pub fn rx_queue(&self) -> u16 {
        self.rx_queue
    }

    /// The region of the buffers; `None` before the first poll.
    pub fn region(&self) -> Option<&Arc<Region>> {
        self.region.as_ref()
    }

    /// Slots of frame `i`; empty if there is no such frame.
    #[inline]
    fn run(&self, i: usize) -> std::ops::Range<usize> {
        if i >= self.frames {
            return 0..0;
        }
        if !self.listed {
            return i..i + 1;
        }
        let (start, end) = (usize::from(self.first[i]), usize::from(self.first[i + 1]));
        start..end.min(BATCH)
    }

    /// Gives every buffer that is left back to its region. Polling does the same, cheaper.
    pub fn clear(&mut self) {
        self.slots[..self.used].iter_mut().for_each(|s| drop(s.take()));
        self.reset();
    }

    /// Puts every buffer that is left on `stack`.
    #[inline]
    pub(crate) fn clear_to(&mut self, stack: &mut FreeStack, path: CpuPath) {
        if self.held() > 0 {
            stack.keep_all(&mut self.slots[..self.used], path);
        }
        self.reset();
    }

    #[inline]
    fn reset(&mut self) {
        self.used = 0;
        self.mark &= !HELD;
        self.frames = 0;
        self.listed = false;
    }

    /// Whether the batch needs no [`begin`](Self::begin) by the queue of this key once it is empty: that was the last to begin.
    #[inline(always)]
    pub(crate) fn is_for(&self, key: u64) -> bool {
        self.mark & !HELD == key
    }

    /// Whether it [is for](Self::is_for) that queue, and nothing is left of what a poll brought.
    #[inline(always)]
    pub(crate) fn is_spent_for(&self, key: u64) -> bool {
        self.mark == key
    }

    /// At most so many slots still hold their buffer.
    #[inline(always)]
    fn held(&self) -> usize {
        (self.mark & HELD) as usize
    }

    /// The slots in use, for their buffers to be taken out of all of them.
    #[inline(always)]
    pub(crate) fn spend(&mut self) -> &mut [Option<Handle>] {
        self.mark &= !HELD;
        &mut self.slots[..self.used]
    }

    /// Makes the batch ready for a queue's poll: leftovers go to `stack`, and that gets buffers for a poll if it can. `key` is
    /// the queue's own in this process.
    pub(crate) fn begin(&mut self, stack: &mut FreeStack, key: u64, rx_queue: u16, units: u8, path: CpuPath) {
        self.clear_to(stack, path);
        self.mark = key;
        self.rx_queue = rx_queue;
        self.units = units;
        self.path = path;
        let known = self
            .region
            .as_ref()
            .is_some_and(|region| Arc::ptr_eq(region, stack.region()));
        if !known || stack.len() < BATCH {
            self.begin_low(stack);
        }
    }

    /// Makes the batch ready to be filled by a sender: leftovers go to `stack`. It gets no stack of its own for that, since a
    /// sender may have many batches.
    pub(crate) fn begin_sending(&mut self, stack: &mut FreeStack, path: CpuPath) {
        self.clear_to(stack, path);
        self.mark = 0;
        self.units = 1;
        self.path = path;
        if !self
            .region
            .as_ref()
            .is_some_and(|region| Arc::ptr_eq(region, stack.region()))
        {
            self.region = Some(stack.region().clone());
            self.spare = None;
        }
    }

    /// The stack needs buffers: those on the batch's own stack, if it has any, or the depot's.
    #[cold]
    fn begin_low(&mut self, stack: &mut FreeStack) {
        match &mut self.spare {
            Some(spare) if Arc::ptr_eq(spare.region(), stack.region()) => {
                if spare.len() > stack.len() {
                    std::mem::swap(stack, spare);
                }
            }
            _ => self.adopt(stack.region()),
        }
        // A pool that is dry is noticed by who needs a buffer. Until it is not, whatever a TX queue gets back helps.
        self.trade_at = if stack.has(BATCH) { TRADE } else { 1 };
    }

    /// From now on the batch holds buffers of `region`.
    #[cold]
    fn adopt(&mut self, region: &Arc<Region>) {
        self.region = Some(region.clone());
        self.spare = Some(FreeStack::new(region.clone()));
    }

    /// Takes over a TX queue's free buffers, for the RX queue that polls next, in exchange for an emptier stack: so a worker
    /// that receives and sends never goes to the depot.
    #[inline]
    pub(crate) fn trade(&mut self, stack: &mut FreeStack) {
        if self.wants(stack) {
            self.trade_full(stack);
        }
    }

    /// Whether [`trade`](Self::trade) would take them over.
    #[inline(always)]
    pub(crate) fn wants(&self, stack: &FreeStack) -> bool {
        stack.len() >= self.trade_at
    }

    #[cold]
    fn trade_full(&mut self, stack: &mut FreeStack) {
        if let Some(spare) = &mut self.spare
            && spare.len() < stack.len()
            && Arc::ptr_eq(spare.region(), stack.region())
        {
            std::mem::swap(stack, spare);
        }
        // Enough for the RX queue until it has taken these.
        self.trade_at = usize::MAX;
    }

    /// Reads all of the batch: see [`harness::recall`](crate::harness::recall).
    #[cfg(feature = "models")]
    pub(crate) fn recall(&self) -> u64 {
        let held = self.slots.iter().flatten().count() as u64;
        let raw = self.raw.as_flattened().as_flattened();
        raw.iter()
            .fold(held ^ self.mark, |sum, quad| sum.wrapping_add(*quad))
    }

    /// Buffers that still fit.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        (self.limit as usize).saturating_sub(self.used)
    }

    /// Adds a buffer with a 16-byte write-back. The caller has checked [`room`](Self::room).
    #[inline]
    pub(crate) fn put16(&mut self, handle: Handle, raw: [u64; 2]) {
        let slot = self.used & SLOT;
        // The slot is empty: a poll begins with a batch that was cleared, and fills each slot once.
        std::mem::forget(self.slots[slot].replace(handle));
        self.raw[0][slot] = raw;
        self.used = slot + 1;
        // Once for each slot of an empty batch, so it stays among its bits.
        self.mark += 1;
    }

    /// The places of a batch that has just [begun](Self::begin), all empty, for frames of one buffer with 16-byte
    /// write-backs. The caller fills some, from the first on, and says how many with [`filled`](Self::filled).
    #[inline]
    pub(crate) fn places16(&mut self) -> (&mut [Option<Handle>; BATCH], &mut [[u64; 2]; BATCH]) {
        debug_assert_eq!(
            self.held(),
            0,
            "only a batch without buffers has all its places empty"
        );
        (&mut self.slots, &mut self.raw[0])
    }

    /// The first `n` places, at most [`BATCH`], were filled, each with a frame.
    #[inline]
    pub(crate) fn filled(&mut self, n: usize) {
        self.used = n;
        self.frames = n;
        debug_assert!(self.held() == 0 && n <= BATCH);
        self.mark = self.mark.wrapping_add(n as u64);
    }

    /// The buffer just added to a [simple](Self::is_simple) batch is a frame.
    #[inline]
    pub(crate) fn count_simple(&mut self) {
        self.frames = self.used;
    }

    /// The buffers added since the last call are one frame. From here on the batch lists where frames begin.
    pub(crate) fn end_frame(&mut self) {
        if !self.listed {
            self.first
                .iter_mut()
                .enumerate()
                .take(self.frames + 1)
                .for_each(|(i, f)| *f = i as u8);
            self.listed = true;
            self.mark &= HELD;
        }
        self.frames = (self.frames & SLOT) + 1;
        self.first[self.frames] = self.used as u8;
    }

    /// Every frame is one buffer, so that frame `i` lies in slot `i`.
    #[inline]
    pub(crate) fn is_simple(&self) -> bool {
        !self.listed
    }

    /// The slots of a [simple](Self::is_simple) batch.
    #[inline]
    pub(crate) fn simple_slots(&mut self) -> &mut [Option<Handle>; BATCH] {
        &mut self.slots
    }

    /// `n` buffers were taken out of the slots that [`simple_slots`](Self::simple_slots) gave.
    #[inline]
    pub(crate) fn taken(&mut self, n: usize) {
        debug_assert!(n <= self.held());
        self.mark = self.mark.wrapping_sub(n as u64);
    }

    pub(crate) fn slots_of(&mut self, i: usize) -> &mut [Option<Handle>] {
        let run = self.run(i);
        &mut self.slots[run]
    }
}

impl Default for RxBatch {
    fn default() -> Self {
        RxBatch::new()
    }
}

impl std::fmt::Debug for RxBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxBatch")
            .field("rx_queue", &self.rx_queue)
            .field("frames", &self.frames)
            .field("buffers", &self.used)
            .finish_non_exhaustive()
    }
}
