//! Who takes turns: the driver, its copy, and the floor, each with something left out or nothing.

use super::model::{
    APART, FINDING, LOADING, MANY, Model, RAW, RX_RECORD, RX_RING, TX_RECORD, TX_RING, WRITING,
};
use crate::BenchError;
use crate::path::case::{Case, Metadata, Scenario, State};
use crate::path::floor::Floor;
use crate::path::rig::{Rig, harness, swap_addresses};
use millrace_driver::harness::HarnessConfig;
use millrace_driver::mem::PageSize;
use millrace_driver::queue::RxBatch;
use millrace_driver::simd::CpuPath;
use serde::Serialize;
use std::hint::black_box;

/// Whose loops run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The driver's own queues.
    Driver,
    /// The copy of their loops.
    Copy,
    /// The loop that only touches descriptors and frames.
    Floor,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::Driver => "driver",
            Code::Copy => "copy",
            Code::Floor => "floor",
        }
    }
}

/// Rings with someone who empties them.
trait Rings {
    /// The NIC's turn.
    fn supply(&mut self, frames: u32) -> Result<(), BenchError>;
    /// The other's.
    fn drain(&mut self, frames: u32);
}

/// One of those that take turns.
pub struct Player {
    pub code: Code,
    /// In a few words; empty for nothing.
    pub left_out: &'static str,
    /// Frames of a turn: half a ring.
    pub frames: u32,
    rings: Box<dyn Rings>,
}

impl Player {
    /// The NIC's turn; fails if not all frames of the last turn were sent.
    pub fn supply(&mut self) -> Result<(), BenchError> {
        self.rings.supply(self.frames)
    }

    /// The turn that is measured.
    #[inline]
    pub fn drain(&mut self) {
        self.rings.drain(self.frames);
    }
}

type Work = fn(&mut RxBatch);

struct Driven {
    rig: Rig,
    work: Work,
    last: u32,
}

impl Rings for Driven {
    fn supply(&mut self, frames: u32) -> Result<(), BenchError> {
        self.rig.supply(self.last, frames)?;
        self.last = frames;
        Ok(())
    }

    fn drain(&mut self, frames: u32) {
        self.rig.forward_with(frames as usize, self.work);
    }
}

struct Copied {
    model: Box<Model>,
    forward: fn(&mut Model, usize),
}

impl Rings for Copied {
    fn supply(&mut self, frames: u32) -> Result<(), BenchError> {
        self.model.supply(frames as usize)
    }

    fn drain(&mut self, frames: u32) {
        (self.forward)(&mut self.model, frames as usize);
    }
}

impl Rings for Floor {
    fn supply(&mut self, frames: u32) -> Result<(), BenchError> {
        Floor::supply(self, frames as usize);
        Ok(())
    }

    fn drain(&mut self, frames: u32) {
        Floor::drain(self, frames as usize);
    }
}

fn swap_all(batch: &mut RxBatch) {
    batch.for_each_head(swap_addresses);
}

fn load_all(batch: &mut RxBatch) {
    let mut sum = 0;
    batch.for_each_head(|frame| sum ^= frame.first_chunk().map_or(0, |head| u64::from_le_bytes(*head)));
    black_box(sum);
}

fn find_all(batch: &mut RxBatch) {
    batch.for_each_head(|frame| {
        black_box(frame.as_ptr());
    });
}

fn no_work(_: &mut RxBatch) {}

/// A copy that leaves something out.
pub struct Variant {
    pub left_out: &'static str,
    pub parts: u32,
    pub forward: fn(&mut Model, usize),
}

macro_rules! variants {
    ($($left_out:literal: $parts:expr;)*) => {
        [$(Variant { left_out: $left_out, parts: $parts, forward: Model::forward::<{ $parts }> }),*]
    };
}

/// What is left out of the copy, one row each.
pub const VARIANTS: [Variant; 13] = variants! {
    "": 0;
    "raw write-backs in the batch": RAW;
    "RX record": RX_RECORD;
    "RX descriptors posted": RX_RING;
    "TX descriptors written": TX_RING;
    "TX record, taking back": TX_RECORD;
    "both records, write-backs": RAW | RX_RECORD | TX_RECORD;
    "distance of frames: 64 bytes": APART;
    "all frames but 64": MANY;
    "writing to frames": WRITING;
    "loading frames": LOADING;
    "finding frames": FINDING;
    "all but the descriptors": RAW | RX_RECORD | TX_RECORD | FINDING;
};

/// The driver's scalar loops, and the same without prefetching, which is what the copy stands for.
const FOUR_A_STEP: &str = "four packets a step";
pub const LIKE_THE_COPY: &str = "four a step, prefetching";

/// The rows of the driver's own queues.
const DRIVEN: [(&str, bool, Work); 5] = [
    ("", true, swap_all),
    ("prefetching", false, swap_all),
    ("prefetching, writing to frames", false, load_all),
    ("prefetching, loading frames", false, find_all),
    ("prefetching, finding frames", false, no_work),
];

/// Everybody, the floor first, and the bytes of a page of the driver's buffers.
pub fn all(burst: u32, ring: u32) -> Result<(Vec<Player>, usize), BenchError> {
    let case = Case {
        scenario: Scenario::Forward,
        burst,
        ring,
        state: State::Warm,
        metadata: Metadata::Plain,
        path: CpuPath::best(),
    };
    let driven = |left_out, case: &Case, page, prefetch, work| -> Result<(Player, usize), BenchError> {
        let rig = Rig::forwarding(
            case,
            &HarnessConfig {
                page,
                ..harness(case)
            },
            prefetch,
        )?;
        let page_bytes = rig.page_bytes();
        let rings = Box::new(Driven { rig, work, last: 0 });
        let (code, frames) = (Code::Driver, case.ring / 2);
        Ok((
            Player {
                code,
                left_out,
                frames,
                rings,
            },
            page_bytes,
        ))
    };
    let mut players = Vec::new();
    let mut page_bytes = 0;
    for (left_out, prefetch, work) in DRIVEN {
        let (player, bytes) = driven(left_out, &case, PageSize::Best, prefetch, work)?;
        page_bytes = page_bytes.max(bytes);
        players.push(player);
    }
    let mut more = vec![];
    if page_bytes > rustix::param::page_size() {
        more.push(driven("large pages", &case, PageSize::Small, true, swap_all)?.0);
    }
    if ring > 256 {
        let small = Case { ring: 256, ..case };
        more.push(driven("buffers: ring of 256", &small, PageSize::Best, true, swap_all)?.0);
    }
    if case.path != CpuPath::SCALAR {
        let scalar = Case {
            path: CpuPath::SCALAR,
            ..case
        };
        more.push(driven(FOUR_A_STEP, &scalar, PageSize::Best, true, swap_all)?.0);
        more.push(driven(LIKE_THE_COPY, &scalar, PageSize::Best, false, swap_all)?.0);
    }
    players.extend(more);
    for variant in VARIANTS {
        players.push(Player {
            code: Code::Copy,
            left_out: variant.left_out,
            frames: ring / 2,
            rings: Box::new(Copied {
                model: Model::new(variant.parts, burst, ring, page_bytes)?,
                forward: variant.forward,
            }),
        });
    }
    let floor = Player {
        code: Code::Floor,
        left_out: "",
        frames: ring / 2,
        rings: Box::new(Floor::new(&case, page_bytes)?),
    };
    players.insert(0, floor);
    Ok((players, page_bytes))
}
