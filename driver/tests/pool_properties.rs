//! Whatever is done with handles, each buffer is in one place, and all come home.

use std::collections::HashSet;
use std::sync::Arc;

use millrace_driver::mem::{
    AllocOptions, Batch, BufferLayout, DmaMemory, Frame, FreeStack, Handle, MemError, Region, Shadow,
};
use millrace_driver::simd::CpuPath;
use proptest::prelude::*;

fn region(count: u32) -> Arc<Region> {
    region_of(BufferLayout::new(count))
}

fn region_of(layout: BufferLayout) -> Arc<Region> {
    let mem = DmaMemory::alloc(layout.bytes(), &AllocOptions::default()).unwrap();
    Region::new(Arc::new(mem), layout).unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Take(usize, usize),
    PushOne(usize),
    ToBatch,
    Release(usize),
    DropBatch,
    ToRing(u32),
    FromRing(u32),
    Frame(usize),
    DropFrame,
    DropOne,
    Flush(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..2usize, 0..100usize).prop_map(|(s, n)| Op::Take(s, n)),
        2 => (0..2usize).prop_map(Op::PushOne),
        4 => Just(Op::ToBatch),
        2 => (0..2usize).prop_map(Op::Release),
        1 => Just(Op::DropBatch),
        4 => any::<u32>().prop_map(Op::ToRing),
        3 => any::<u32>().prop_map(Op::FromRing),
        1 => (0..4usize).prop_map(Op::Frame),
        1 => Just(Op::DropFrame),
        1 => Just(Op::DropOne),
        1 => (0..2usize).prop_map(Op::Flush),
    ]
}

/// What lies in a slot: nothing, or a handle of one of two regions, with where its data begins, and where it ends as seen from the
/// end of the buffer or from its beginning; perhaps part of a longer frame.
#[derive(Clone, Debug)]
struct Lies {
    foreign: bool,
    off: u16,
    len: Result<u16, i32>,
    more: bool,
}

fn lies() -> impl Strategy<Value = Option<Lies>> {
    let off = prop_oneof![4 => 0..600u16, 1 => any::<u16>()];
    let len = prop_oneof![
        4 => (0..1500u16).prop_map(Ok),
        1 => any::<u16>().prop_map(Ok),
        3 => (-2..=2i32).prop_map(Err),
    ];
    let one = (prop::bool::weighted(0.02), off, len, prop::bool::weighted(0.02));
    prop_oneof![
        1 => Just(None),
        30 => one.prop_map(|(foreign, off, len, more)| Some(Lies { foreign, off, len, more })),
    ]
}

proptest! {
    #[test]
    fn every_path_finds_the_same_heads(
        stride in prop_oneof![Just(2368u32), Just(64 * 33), Just(64 * 1023), Just(64 * 1024)],
        slots in proptest::collection::vec(lies(), 0..70),
    ) {
        let layout = BufferLayout { count: 80, stride, headroom: 256 };
        let (region, other) = (region_of(layout), region_of(layout));
        let (mut ours, mut theirs) = (FreeStack::new(region.clone()), FreeStack::new(other));
        let mut slots: Vec<Option<Handle>> = slots
            .into_iter()
            .map(|lies| {
                let Lies { foreign, off, len, more } = lies?;
                let mut handle = if foreign { theirs.pop() } else { ours.pop() }?;
                let to_end = |by: i32| (stride as i32 - i32::from(off) + by).clamp(0, 0xffff) as u16;
                handle.set_data(off, len.unwrap_or_else(to_end));
                handle.set_more(more);
                Some(handle)
            })
            .collect();
        let whole = |handle: &&Handle| {
            region.owns(handle) && !handle.more() && u32::from(handle.off) + u32::from(handle.len) <= stride
        };
        let wanted: Vec<(usize, usize)> = slots
            .iter()
            .flatten()
            .filter(whole)
            .map(|handle| {
                let at = region.buffer(handle).as_ptr().addr() + usize::from(handle.off);
                (at, usize::from(handle.len))
            })
            .collect();
        for path in CpuPath::all() {
            let mut found: Vec<(usize, usize)> = Vec::new();
            region.for_each_head(&mut slots, path, |head| found.push((head.as_ptr().addr(), head.len())));
            prop_assert_eq!(&found, &wanted, "{:?}", path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_buffer_is_in_one_place_and_all_come_home(
        count in 1..700u32,
        ops in proptest::collection::vec(op(), 1..200),
    ) {
        let region = region(count);
        let mut stacks = [FreeStack::new(region.clone()), FreeStack::new(region.clone())];
        let mut hand: Vec<Handle> = Vec::new();
        let mut batch: Batch<32> = Batch::new();
        let mut ring = Shadow::new(16);
        let mut frames: Vec<Frame> = Vec::new();
        for op in ops {
            match op {
                Op::Take(s, n) => hand.extend(stacks[s].take(n)),
                Op::PushOne(s) => hand.pop().into_iter().for_each(|h| stacks[s].push(h)),
                Op::ToBatch => {
                    while let Some(handle) = hand.pop() {
                        if let Err(back) = batch.push(handle) {
                            hand.push(back);
                            break;
                        }
                    }
                }
                Op::Release(s) => batch.release(&mut stacks[s]),
                Op::DropBatch => batch = Batch::new(),
                Op::ToRing(slot) => {
                    let old = batch.pop().and_then(|h| ring.put(slot, h));
                    hand.extend(old);
                }
                Op::FromRing(slot) => hand.extend(ring.take(slot)),
                Op::Frame(n) => {
                    let run = hand.split_off(hand.len().saturating_sub(n));
                    frames.extend(Frame::new(region.clone(), run).ok());
                }
                Op::DropFrame => drop(frames.pop()),
                Op::DropOne => drop(hand.pop()),
                Op::Flush(s) => stacks[s].flush(),
            }
            let out: Vec<u32> = hand.iter()
                .chain(batch.as_slice())
                .chain(frames.iter().flat_map(|f| f.handles()))
                .map(Handle::index)
                .chain((0..16).filter_map(|s| ring.index(s)))
                .collect();
            prop_assert_eq!(out.iter().collect::<HashSet<_>>().len(), out.len(), "a buffer in two places");
            prop_assert!(out.iter().all(|i| *i < count));
            prop_assert_eq!(region.in_flight() as usize, out.len());
        }
        drop((hand, batch, ring, frames, stacks));
        prop_assert_eq!(region.free(), count);
        // Every single buffer is there to be taken again.
        let mut stack = FreeStack::new(region.clone());
        let all: HashSet<u32> = std::iter::from_fn(|| stack.pop()).map(|h| {
            let index = h.index();
            std::mem::forget(h);
            index
        }).collect();
        prop_assert_eq!(all.len(), count as usize);
    }
}

#[test]
fn another_regions_handle_shows_no_bytes_and_goes_home_to_its_own_region() {
    let (ours, theirs) = (region(8), region(8));
    let mut stack = FreeStack::new(ours.clone());
    let mut foreign = FreeStack::new(theirs.clone()).pop().unwrap();
    foreign.set_data(0, 64);
    assert!(!ours.owns(&foreign));
    assert_eq!(ours.buffer_mut(&mut foreign).len(), 0);
    assert_eq!(ours.data(&foreign).len(), 0);
    assert_eq!(theirs.data(&foreign).len(), 64);
    assert_eq!(theirs.in_flight(), 1);
    stack.push(foreign);
    assert_eq!(theirs.in_flight(), 0);
    assert_eq!((stack.len(), ours.free()), (0, 8));
}

#[test]
fn a_handle_that_outlives_its_region_never_reaches_another_regions_memory() {
    let first = region(4);
    let id = first.id();
    let mut stray = FreeStack::new(first.clone()).pop().unwrap();
    drop(first);
    let others: Vec<_> = (0..16).map(|_| region(4)).collect();
    assert!(
        others
            .iter()
            .all(|r| r.id() != id && r.buffer_mut(&mut stray).is_empty())
    );
    drop(stray);
}

#[test]
fn lengths_and_offsets_beyond_the_buffer_are_cut() {
    let region = region(4);
    let stride = region.layout().stride as usize;
    let mut handle = FreeStack::new(region.clone()).pop().unwrap();
    handle.set_data(256, u16::MAX);
    assert_eq!(region.data_mut(&mut handle).len(), stride - 256);
    handle.set_data(u16::MAX, 1);
    assert_eq!(region.data(&handle).len(), 0);
}

#[test]
fn buffers_do_not_overlap_and_start_on_cache_lines() {
    let region = region(100);
    let mut stack = FreeStack::new(region.clone());
    let mut handles: Vec<Handle> = stack.take(100).collect();
    assert_eq!(handles.len(), 100);
    assert!(stack.pop().is_none(), "only what there is");
    for handle in &mut handles {
        let byte = handle.index() as u8;
        region.buffer_mut(handle).fill(byte);
    }
    for handle in &handles {
        assert!(region.buffer(handle).iter().all(|b| *b == handle.index() as u8));
        assert_eq!(region.buffer(handle).as_ptr() as usize % 64, 0);
        let at = region.buffer(handle).as_ptr() as usize - region.memory().address();
        assert_eq!(region.offset(handle), at as u64);
    }
}

#[test]
fn a_handle_in_an_option_takes_eight_bytes() {
    assert_eq!(size_of::<Handle>(), 8);
    assert_eq!(size_of::<Option<Handle>>(), 8);
}

#[test]
fn layouts_that_cannot_be_are_refused_with_the_rule() {
    let mem = Arc::new(DmaMemory::alloc(8192, &AllocOptions::default()).unwrap());
    let refused = |layout: BufferLayout, says: &str| {
        let error = Region::new(mem.clone(), layout).unwrap_err();
        assert!(matches!(error, MemError::Layout { .. }));
        assert!(error.to_string().contains(says), "{error}");
    };
    let good = BufferLayout {
        count: 2,
        stride: 2368,
        headroom: 256,
    };
    refused(BufferLayout { count: 0, ..good }, "1 to 16777215");
    refused(
        BufferLayout {
            count: u32::MAX,
            ..good
        },
        "1 to 16777215",
    );
    refused(BufferLayout { stride: 2000, ..good }, "multiple of 64");
    refused(
        BufferLayout {
            stride: 1 << 17,
            ..good
        },
        "65536 at most",
    );
    refused(BufferLayout { stride: 256, ..good }, "room for data");
    refused(BufferLayout { count: 4, ..good }, "too small");
    assert!(Region::new(mem.clone(), good).is_ok());
}
