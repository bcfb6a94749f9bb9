//! vfio-user: the protocol by which a device in one process serves a VFIO client in another.
//!
//! `wire` holds the message layouts and is always compiled; the server needs feature `device`.

pub mod wire;
