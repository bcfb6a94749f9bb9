//! Millrace's userspace driver for Intel Ethernet: device access, DMA memory, rings, ports, queues and steering.
//!
//! - [`bus`] reaches a device: kernel VFIO, a vfio-user socket, or a model in this process, all behind [`bus::Device`].
//! - [`mem`] is DMA memory: sealed hugepage memfds, descriptor rings, packet buffers and the handles that own them.
//! - [`port`] brings a NIC up and keeps it: link, statistics, filters, the life of each queue.
//! - [`queue`] is what a worker holds: receive and transmit queues, and the batch that a poll fills.
//! - [`simd`] knows which of the loops over several packets at once this processor can run.
//! - [`hint`] describes the metadata in a queue's raw write-backs; [`steering`] picks the queue a frame leaves through.
//!
//! The driver knows no eBPF; what programs see of a packet is described to them by data, never by calls.

pub mod bus;
#[cfg(feature = "models")]
pub mod harness;
pub mod hint;
mod ixgbe;
pub mod mem;
pub mod port;
pub mod queue;
pub mod simd;
pub mod steering;
