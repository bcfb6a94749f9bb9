//! One frame of a batch: its bytes, where they lie, its write-back, and its way out of the batch.

use zerocopy::IntoBytes;

use crate::mem::Frame;

use super::RxBatch;
use crate::queue::meta::{TxMeta, TxRefused};
use crate::queue::tx::TxQueue;

impl RxBatch {
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

    /// Moves the data of all frames, from the first on, to what `extents` says, offset and length, after a program has run on
    /// them. As [`set_data`](Self::set_data) for each, but that a frame whose extent does not lie inside its buffer is left as
    /// it is without a word.
    #[inline]
    pub fn set_all_data(&mut self, extents: impl IntoIterator<Item = (usize, usize)>) {
        if self.listed {
            return extents.into_iter().enumerate().for_each(|(i, (off, len))| {
                self.set_data(i, off, len);
            });
        }
        let Some(region) = &self.region else { return };
        let stride = (region.layout().stride as usize).min(usize::from(u16::MAX));
        let mut slots = self.slots[..self.used].iter_mut();
        extents.into_iter().for_each(|(off, len)| {
            if let Some(Some(handle)) = slots.next()
                && off <= stride
                && len <= stride - off
            {
                handle.off = off as u16;
                handle.len = len as u16;
            }
        });
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
                self.mark -= u64::from(self.held() > 0);
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
}
