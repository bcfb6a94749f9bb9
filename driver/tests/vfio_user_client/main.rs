//! The vfio-user client: against our own server, against the `vfio_user` crate's, and against servers that lie.
#![cfg(feature = "models")]

mod foreign;
mod lying;
mod ours;
