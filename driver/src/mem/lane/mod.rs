//! The two loops that run for every packet, each on a descriptor ring and the record of its buffers together.
//!
//! They know no family: what a written-back quadword must say and what a descriptor to be sent must hold is passed in. A lane
//! owns what its loop runs on, and remembers for how many slots everything has been looked at: that far a burst needs no
//! check of its own for the ring's end and for free buffers. Whoever opens a lane to use its parts otherwise makes it
//! forget.

mod receive;
mod send;

pub use receive::{Accept, RxLane, RxPlan};
pub use send::{Describe, TxLane, TxPlan};

/// Where buffers lie: their first byte's I/O address, the bytes from one to the next, and where in a buffer data begins.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// I/O address of buffer 0.
    pub base: u64,
    /// Bytes from one buffer to the next.
    pub stride: u32,
    /// Bytes in front of received data.
    pub headroom: u16,
}

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Descriptors.
    pub count: u32,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Where the length lies in the last quadword and in a handle's eight bytes, and behind it in a handle the offset.
const LEN_AT: u32 = 32;
const LEN: u64 = 0xffff << LEN_AT;
const HEADROOM: u32 = 48;
