//! The program over the frames of a poll.

use super::batch::Scratch;
use super::chain::Attached;
use super::counters::{Counter, LocalCounters};
use arrayvec::ArrayVec;
use millrace_driver::queue::{BATCH, BufferView, RxBatch};
use millrace_ebpf::XdpBuff;

/// A batch of frames of one buffer each. Gives the bytes that came.
pub(crate) fn run_program(
    attached: &mut Attached,
    batch: &mut RxBatch,
    queue: u16,
    ifindex: u32,
    scratch: &mut Scratch,
) -> usize {
    let mut bytes = 0;
    // Extended, each is written where it stays; collected, all the room for 64 would be copied.
    let views = batch.split_frames_mut().take(BATCH).zip(&mut scratch.extents);
    let buffs = views.map(|(view, extent)| {
        *extent = (view.off, view.len);
        bytes += view.len;
        let buff = XdpBuff::new(view.buffer, view.off, view.len, u32::from(queue), view.raw);
        buff.with_ingress_ifindex(ifindex)
    });
    let mut list = ArrayVec::<XdpBuff<'_>, BATCH>::new();
    list.extend(buffs);
    attached.run(&mut list, &mut scratch.verdicts);
    scratch.moved = 0;
    if attached.moves_edges() {
        for (i, (extent, buff)) in scratch.extents.iter_mut().zip(&list).enumerate() {
            let now = (buff.data_offset(), buff.len());
            scratch.moved |= u64::from(*extent != now) << i;
            *extent = now;
        }
    }
    bytes
}

/// Bytes of a batch in which some frame takes several buffers; counts those frames.
#[cold]
pub(crate) fn count_several(batch: &RxBatch, counters: &mut LocalCounters, n: usize) -> usize {
    let several = (0..n).filter(|i| batch.frame_buffers(*i) > 1).count();
    counters.add(Counter::RxMulti, several as u64);
    (0..n).map(|i| batch.frame_len(i)).sum()
}

/// A batch in which some frame takes several buffers: frame by frame, each with its later buffers beside it.
#[cold]
pub(crate) fn run_on_several(
    attached: &mut Attached,
    batch: &mut RxBatch,
    queue: u16,
    ifindex: u32,
    scratch: &mut Scratch,
) {
    /// Buffer of a frame, and its new length.
    type Cut = (usize, usize, usize);
    let mut cuts = ArrayVec::<Cut, BATCH>::new();
    scratch.moved = u64::MAX;
    let mut views = batch.split_buffers_mut();
    let mut i = 0;
    while let Some(first) = views.next() {
        let mut rest = ArrayVec::<BufferView<'_>, BATCH>::new();
        let (mut raw, mut more) = (first.raw, first.more);
        while more && let Some(view) = views.next() {
            (raw, more) = (view.raw, view.more);
            rest.push(view);
        }
        let frags = &mut scratch.frags;
        frags.clear();
        for view in &rest {
            let end = (view.off + view.len).min(view.buffer.len());
            frags.push(&view.buffer[view.off.min(end)..end], view.buffer.len() - end);
        }
        let buff = XdpBuff::new(first.buffer, first.off, first.len, u32::from(queue), raw);
        let mut buff = buff.with_ingress_ifindex(ifindex);
        scratch.verdicts[i] = attached.run_frags(&mut buff, frags);
        scratch.extents[i] = (buff.data_offset(), buff.len());
        if frags.written() {
            for (k, view) in rest.iter_mut().enumerate() {
                let part = frags.part(k);
                if let Some(to) = view.buffer.get_mut(view.off..view.off + part.len()) {
                    to.copy_from_slice(part);
                }
                if part.len() != view.len {
                    cuts.push((i, k + 1, part.len()));
                }
            }
        }
        i += 1;
    }
    drop(views);
    // From the last buffer to the first, so that each that goes leaves the one before it the last.
    for (i, k, len) in cuts.into_iter().rev() {
        batch.set_chunk_len(i, k, len);
    }
}
