//! DMA memory: where it comes from, how rings see it, and who owns which packet buffer.
//!
//! - [`DmaMemory`] is a sealed memfd on hugepages, mapped here and, by its fd, by the device's side.
//! - [`Ring`] is a descriptor ring in such memory: atomic quadwords, no references, device-written values read once.
//!   An [`RxLane`] or [`TxLane`] is a ring and the record of its buffers for one hot loop.
//! - [`Region`] cuts memory into packet buffers. A [`Handle`] is the right to use one of them: it cannot be copied, and
//!   dropping it gives the buffer back.
//! - Free buffers lie on a [`FreeStack`] a thread and in the region's [`Depot`] behind it, so that one thread may only
//!   receive and another only send. A [`Batch`] carries handles through a worker, a [`Shadow`] remembers which handle
//!   lies in which ring slot, a [`Frame`] is one frame outside a batch.
//!
//! Nothing here allocates after construction except [`Frame`]s of more than one buffer.

#![allow(unsafe_code)]

mod batch;
#[cfg(feature = "models")]
mod counting;
mod depot;
mod frame;
mod handle;
mod lane;
mod memfd;
mod region;
mod ring;
mod shadow;
mod stack;
mod sync;

/// Buffer ownership in one place: regions, handles and what holds them.
pub mod pool {
    pub use super::batch::Batch;
    pub use super::depot::{BLOCK, Depot};
    pub use super::frame::Frame;
    pub use super::handle::Handle;
    pub use super::region::{BufferLayout, Region};
    pub use super::shadow::Shadow;
    pub use super::stack::{FreeStack, Taken};
}

#[cfg(feature = "models")]
pub use counting::CountingAllocator;
pub use lane::{Accept, Describe, Moved, Placement, RxLane, RxPlan, TxLane, TxPlan};
pub use memfd::{AllocOptions, DmaMemory, Hugepages, MemError, MemoryProvider, PageSize, require_sealed};
pub use pool::*;
pub use ring::{DescriptorRing16, DescriptorRing32, Ring};
