//! The room for raw memory: everything the crate dereferences, it dereferences here.
//!
//! [`arena::Arena`] is memory that maps keep their entries in; [`space::Space`] is the set of regions a running
//! program may touch and does each of its accesses, checked, with [`window`] as the shortest way to the frame and
//! [`values`] as that to the values of arrays; [`packet`] moves the edges of a frame. The rest of the
//! crate is safe code over these. [`kernel`] talks to the kernel's own eBPF, to compare with.
#![allow(unsafe_code)]

pub(crate) mod arena;
mod bpf;
pub(crate) mod kernel;
pub(crate) mod packet;
pub(crate) mod space;
mod values;
pub(crate) mod window;
