//! One frame outside a batch.

use std::sync::Arc;

use super::{Handle, Region};

/// A frame that has left its batch, to be kept, sent to another thread or passed to the host. It owns its buffers, gives
/// them back when dropped, and keeps their region alive.
#[derive(Debug)]
pub struct Frame {
    first: Handle,
    rest: Vec<Handle>,
    region: Arc<Region>,
}

impl Frame {
    /// Makes a frame of a run of handles of one region; gives the run back if it is empty or mixed.
    pub fn new(region: Arc<Region>, run: impl IntoIterator<Item = Handle>) -> Result<Self, Vec<Handle>> {
        let mut run = run.into_iter();
        let Some(first) = run.next() else {
            return Err(Vec::new());
        };
        let rest: Vec<Handle> = run.collect();
        if region.owns(&first) && rest.iter().all(|h| region.owns(h)) {
            Ok(Frame { first, rest, region })
        } else {
            Err(std::iter::once(first).chain(rest).collect())
        }
    }

    /// The region of the frame's buffers.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Bytes in all buffers.
    pub fn len(&self) -> usize {
        self.handles().map(|h| usize::from(h.len)).sum()
    }

    /// True if the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handles in order.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The bytes buffer by buffer.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.handles().map(|h| self.region.data(h))
    }

    /// The bytes of the first buffer, for writing: headers lie here.
    pub fn head_mut(&mut self) -> &mut [u8] {
        self.region.data_mut(&mut self.first)
    }

    /// Copies the whole frame to the end of `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        self.chunks().for_each(|c| out.extend_from_slice(c));
    }

    /// Takes the frame apart.
    pub fn into_handles(self) -> (Arc<Region>, impl Iterator<Item = Handle>) {
        (self.region, std::iter::once(self.first).chain(self.rest))
    }
}
