//! vfio-user: the protocol by which a device in one process serves a VFIO client in another.
//!
//! `wire` holds the message layouts and is always compiled. `server` (feature `device`) puts a
//! [`Model`](crate::device::Model) behind a socket: a virtual machine monitor or our own driver connects and
//! uses it as it would a device under the kernel's VFIO.

pub mod wire;

#[cfg(feature = "device")]
pub mod server;
