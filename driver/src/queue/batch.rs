//! What one poll brings: up to 64 buffers with their raw write-backs.

use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::mem::{Frame, FreeStack, Handle, Region};
use crate::simd::CpuPath;

use super::meta::{TxMeta, TxRefused};
use super::tx::TxQueue;

/// Buffers a batch holds.
pub const BATCH: usize = 64;
const SLOT: usize = BATCH - 1;
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
    region: Option<Arc<Region>>,
    /// Free buffers on their way from the TX queue to the RX queue of the same worker.
    spare: Option<FreeStack>,
    /// A TX queue with so many free buffers gives them to `spare`.
    trade_at: usize,
    /// The code that runs for every frame.
    path: CpuPath,
    /// Buffers in use: slots `0..used`.
    used: usize,
    /// At most so many slots still hold their buffer; 0 spares looking.
    held: usize,
    /// Frames in use.
    frames: usize,
    /// 16-byte units of raw write-back per buffer: 1 or 2.
    units: u8,
    rx_queue: u16,
    /// Most frames of one buffer that a poll brings.
    limit: u32,
    slots: [Option<Handle>; BATCH],
    /// Frames begin where `first` says. Until then each is one buffer, frame `i` in slot `i`.
    listed: bool,
    /// First slot of each frame, and one past the last at `frames`.
    first: [u8; BATCH + 1],
    /// 16 bytes a buffer in the first half, or 32 in both.
    raw: [[[u64; 2]; BATCH]; 2],
}

/// One buffer of a batch, for a caller that looks at all of them at once.
#[derive(Debug)]
pub struct BufferView<'a> {
    /// Frame the buffer belongs to.
    pub frame: usize,
    /// The whole buffer, headroom included.
    pub buffer: &'a mut [u8],
    /// Offset of the data in it.
    pub off: usize,
    /// Bytes of data.
    pub len: usize,
    /// The raw write-back: this buffer's in [`RxBatch::split_buffers_mut`]; in
    /// [`RxBatch::split_frames_mut`] the frame's last, which carries the frame's metadata.
    pub raw: &'a [u8],
    /// The frame goes on in the next buffer.
    pub more: bool,
}

impl RxBatch {
    /// An empty batch.
    pub fn new() -> RxBatch {
        RxBatch {
            region: None,
            spare: None,
            trade_at: usize::MAX,
            path: CpuPath::SCALAR,
            used: 0,
            held: 0,
            frames: 0,
            units: 1,
            rx_queue: 0,
            limit: BATCH as u32,
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

    /// Buffers of frame `i`; 0 if it does not exist.
    pub fn frame_buffers(&self, i: usize) -> usize {
        self.run(i).len()
    }

    /// Bytes of frame `i` in all its buffers; 0 once it was taken out.
    pub fn frame_len(&self, i: usize) -> usize {
        self.slots[self.run(i)]
            .iter()
            .flatten()
            .map(|h| usize::from(h.len))
            .sum()
    }

    /// Whether frame `i` is still in the batch.
    #[inline]
    pub fn holds(&self, i: usize) -> bool {
        self.slots[self.run(i)].first().is_some_and(Option::is_some)
    }

    /// The bytes of frame `i` in its first buffer, where the headers are; empty once it was taken out.
    pub fn data(&self, i: usize) -> &[u8] {
        self.chunk(i, 0)
    }

    /// The bytes of frame `i` in its buffer `k`.
    pub fn chunk(&self, i: usize, k: usize) -> &[u8] {
        match (&self.region, self.slots[self.run(i)].get(k)) {
            (Some(region), Some(Some(handle))) => region.data(handle),
            _ => &[],
        }
    }

    /// The bytes of frame `i` in its first buffer, for writing.
    pub fn data_mut(&mut self, i: usize) -> &mut [u8] {
        let run = self.run(i);
        match (&self.region, self.slots[run].first_mut()) {
            (Some(region), Some(Some(handle))) => region.data_mut(handle),
            _ => &mut [],
        }
    }

    /// The whole first buffer of frame `i`, headroom included.
    pub fn buffer_mut(&mut self, i: usize) -> &mut [u8] {
        let run = self.run(i);
        match (&self.region, self.slots[run].first_mut()) {
            (Some(region), Some(Some(handle))) => region.buffer_mut(handle),
            _ => &mut [],
        }
    }

    /// Where the data of frame `i` lies in its first buffer: offset and length.
    pub fn data_range(&self, i: usize) -> Option<(usize, usize)> {
        let handle = self.slots[self.run(i)].first()?.as_ref()?;
        Some((usize::from(handle.off), usize::from(handle.len)))
    }

    /// Moves the data of frame `i` in its first buffer, after a program has adjusted head or tail. Returns
    /// `false`, and changes nothing, if that does not lie inside the buffer or the frame is gone.
    #[inline]
    pub fn set_data(&mut self, i: usize, off: usize, len: usize) -> bool {
        let run = self.run(i);
        let (Some(region), Some(Some(handle))) = (&self.region, self.slots[run].first_mut()) else {
            return false;
        };
        let stride = region.layout().stride as usize;
        if off > stride || len > stride - off || len > usize::from(u16::MAX) || off > usize::from(u16::MAX) {
            return false;
        }
        handle.off = off as u16;
        handle.len = len as u16;
        true
    }

    /// Changes the length of buffer `k` of frame `i`, which is not its first, after a program has moved the frame's tail; with
    /// 0 the buffer goes home. Returns `false`, and changes nothing, if the bytes do not lie inside the buffer.
    pub fn set_chunk_len(&mut self, i: usize, k: usize, len: usize) -> bool {
        let run = self.run(i);
        let Some(region) = &self.region else { return false };
        let stride = region.layout().stride as usize;
        let slots = &mut self.slots[run];
        let Some((before, slots)) = slots.split_at_mut_checked(k) else {
            return false;
        };
        let (Some(last), Some(slot)) = (before.last_mut(), slots.first_mut()) else {
            return false;
        };
        match slot {
            Some(handle)
                if len > 0 && usize::from(handle.off) + len <= stride && len <= usize::from(u16::MAX) =>
            {
                handle.len = len as u16;
                true
            }
            Some(_) if len == 0 => {
                *slot = None;
                if let Some(last) = last {
                    last.set_more(false);
                }
                self.held = self.held.saturating_sub(1);
                true
            }
            _ => false,
        }
    }

    /// Whether frame `i` has all the buffers it came with.
    pub fn is_whole(&self, i: usize) -> bool {
        self.slots[self.run(i)].iter().all(Option::is_some)
    }

    /// The raw write-back that carries the metadata of frame `i` (its last descriptor's): 16 or 32 bytes, to
    /// be read with the queue's [`HintLayout`](crate::hint::HintLayout).
    #[inline]
    pub fn raw(&self, i: usize) -> &[u8] {
        match self.run(i).last() {
            Some(slot) => self.raw.as_flattened()
                [slot * usize::from(self.units)..(slot + 1) * usize::from(self.units)]
                .as_bytes(),
            None => &[],
        }
    }

    /// All buffers still in the batch, at once and disjoint.
    pub fn split_buffers_mut(&mut self) -> impl Iterator<Item = BufferView<'_>> {
        let RxBatch {
            region,
            used,
            slots,
            first,
            raw,
            units,
            frames,
            ..
        } = self;
        let mut frame = 0;
        let (region, first, frames) = (region.as_deref(), &*first, *frames);
        slots[..*used]
            .iter_mut()
            .zip(raw.as_flattened().chunks_exact(usize::from(*units)))
            .enumerate()
            .filter_map(move |(i, (slot, raw))| {
                while frame + 1 < frames && usize::from(first[frame + 1]) <= i {
                    frame += 1;
                }
                Some(view(region?, slot.as_mut()?, raw.as_bytes(), frame))
            })
    }

    /// The first buffer of every frame still in the batch, at once and disjoint: what programs run over.
    #[inline]
    pub fn split_frames_mut(&mut self) -> FramesMut<'_> {
        FramesMut {
            region: self.region.as_deref(),
            slots: self.slots[..self.used].iter_mut(),
            raw: self.raw.as_bytes().chunks_exact(16 * usize::from(self.units)),
            first: &self.first,
            simple: !self.listed,
            frame: 0,
            at: 0,
        }
    }

    /// Calls `f` with the bytes of every frame still in the batch in its first buffer, in order.
    #[inline]
    pub fn for_each_head(&mut self, f: impl FnMut(&mut [u8])) {
        if self.listed {
            self.split_frames_mut()
                .filter_map(|v| v.buffer.get_mut(v.off..v.off + v.len))
                .for_each(f);
        } else if let Some(region) = &self.region {
            region.for_each_head(&mut self.slots[..self.used], self.path, f);
        }
    }

    /// Takes frame `i` out of the batch, to keep it or hand it to another thread.
    pub fn take(&mut self, i: usize) -> Option<Frame> {
        let region = self.region.clone()?;
        let run = self.run(i);
        Frame::new(region, self.slots[run].iter_mut().filter_map(Option::take)).ok()
    }

    /// Moves frame `i` to a TX queue. If the queue refuses it, the frame stays in the batch.
    #[inline]
    pub fn move_to(&mut self, i: usize, tx: &mut TxQueue, meta: &TxMeta) -> Result<(), TxRefused> {
        let run = self.run(i);
        tx.push_slots(&mut self.slots[run], meta)
    }

    /// Gives every buffer that is left back to its region. Polling does the same, cheaper.
    pub fn clear(&mut self) {
        self.slots[..self.used].iter_mut().for_each(|s| drop(s.take()));
        self.reset();
    }

    /// Puts every buffer that is left on `stack`.
    #[inline]
    pub(crate) fn clear_to(&mut self, stack: &mut FreeStack, path: CpuPath) {
        if self.held > 0 {
            stack.keep_all(&mut self.slots[..self.used], path);
        }
        self.reset();
    }

    #[inline]
    fn reset(&mut self) {
        self.used = 0;
        self.held = 0;
        self.frames = 0;
        self.listed = false;
    }

    /// Makes the batch ready for a queue's poll: leftovers go to `stack`, and that gets buffers for a poll if it can.
    #[inline]
    pub(crate) fn begin(&mut self, stack: &mut FreeStack, rx_queue: u16, units: u8, path: CpuPath) {
        self.clear_to(stack, path);
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
        if stack.len() >= self.trade_at {
            self.trade_full(stack);
        }
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
        self.held += 1;
    }

    /// The places of a batch that has just [begun](Self::begin), all empty, for frames of one buffer with 16-byte
    /// write-backs. The caller fills some, from the first on, and says how many with [`filled`](Self::filled).
    #[inline]
    pub(crate) fn places16(&mut self) -> (&mut [Option<Handle>; BATCH], &mut [[u64; 2]; BATCH]) {
        debug_assert_eq!(
            self.used, 0,
            "only a batch without buffers has all its places empty"
        );
        (&mut self.slots, &mut self.raw[0])
    }

    /// The first `n` places, at most [`BATCH`], were filled, each with a frame.
    #[inline]
    pub(crate) fn filled(&mut self, n: usize) {
        self.used = n;
        self.frames = n;
        self.held = n;
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
        self.held = self.held.saturating_sub(n);
    }

    pub(crate) fn slots_of(&mut self, i: usize) -> &mut [Option<Handle>] {
        let run = self.run(i);
        &mut self.slots[run]
    }
}

/// The first buffers of a batch's frames: see [`RxBatch::split_frames_mut`].
#[derive(Debug)]
pub struct FramesMut<'a> {
    region: Option<&'a Region>,
    slots: std::slice::IterMut<'a, Option<Handle>>,
    raw: std::slice::ChunksExact<'a, u8>,
    first: &'a [u8; BATCH + 1],
    /// Every frame is one buffer.
    simple: bool,
    frame: usize,
    at: usize,
}

impl<'a> Iterator for FramesMut<'a> {
    type Item = BufferView<'a>;

    #[inline]
    fn next(&mut self) -> Option<BufferView<'a>> {
        loop {
            let slot = self.slots.next()?;
            let mut raw = self.raw.next()?;
            let frame = self.frame;
            self.frame += 1;
            if !self.simple {
                raw = self.skip_rest(frame, raw);
            }
            if let Some(handle) = slot.as_mut() {
                return Some(view(self.region?, handle, raw, frame));
            }
        }
    }
}

impl<'a> FramesMut<'a> {
    /// Goes on to the next frame's first slot; gives the raw bytes of this frame's last.
    #[cold]
    fn skip_rest(&mut self, frame: usize, mut raw: &'a [u8]) -> &'a [u8] {
        self.at += 1;
        while self
            .first
            .get(frame + 1)
            .is_some_and(|next| usize::from(*next) > self.at)
        {
            self.slots.next();
            raw = self.raw.next().unwrap_or(raw);
            self.at += 1;
        }
        raw
    }
}

#[inline]
fn view<'a>(region: &'a Region, handle: &'a mut Handle, raw: &'a [u8], frame: usize) -> BufferView<'a> {
    let (off, len, more) = (usize::from(handle.off), usize::from(handle.len), handle.more());
    BufferView {
        frame,
        buffer: region.buffer_mut(handle),
        off,
        len,
        raw,
        more,
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
