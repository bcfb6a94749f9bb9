//! Prepares a host for userspace NIC drivers, and undoes it: hugepages, VFIO binding, limits.
//!
//! - [`status`] looks and changes nothing.
//! - [`hugepages`] and [`bind`] turn a wish into [`change::Change`]s.
//! - [`change`] prints each step of a change before taking it, and [`journal`] remembers what was there before, so that
//!   `undo` can bring it back.
//! - [`host`] is the one way to the system: all paths start at its root, all changes go through its [`host::Kernel`].

pub mod bind;
pub mod change;
pub mod cli;
pub mod error;
pub mod host;
pub mod hugepages;
pub mod journal;
pub mod nics;
pub mod routes;
pub mod status;

pub use error::SetupError;
