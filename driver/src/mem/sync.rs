//! `std` primitives, or loom's when its model checker runs (`RUSTFLAGS="--cfg loom"`).

#[cfg(not(loom))]
pub(super) use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64, AtomicUsize},
};

#[cfg(loom)]
pub(super) use loom::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64, AtomicUsize},
};
