//! Millrace's userspace driver for Intel Ethernet: device access, DMA memory, rings, ports, queues and steering.
//!
//! - [`bus`] reaches a device: kernel VFIO, a vfio-user socket, or a model in this process, all behind [`bus::Device`].
//! - [`mem`] is DMA memory: sealed hugepage memfds, descriptor rings, packet buffers and the handles that own them.
//!
//! The driver knows no eBPF; what programs see of a packet is described to them by data, never by calls.

pub mod bus;
pub mod mem;
