//! All frames of a batch at once.

use zerocopy::IntoBytes;

use crate::mem::{Handle, Region};

use super::{BATCH, RxBatch};

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
            self.for_each_listed_head(f);
        } else if let (Some(region), Some(slots)) = (&self.region, self.slots.get_mut(..self.used)) {
            region.for_each_head(slots, self.path, f);
        }
    }

    /// As [`for_each_head`](Self::for_each_head), when some frames have several buffers.
    #[cold]
    fn for_each_listed_head(&mut self, f: impl FnMut(&mut [u8])) {
        self.split_frames_mut()
            .filter_map(|v| v.buffer.get_mut(v.off..v.off + v.len))
            .for_each(f);
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
