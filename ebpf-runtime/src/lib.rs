//! Loads, verifies and runs unmodified XDP programs in userspace.
//!
//! How a program gets from a file to a verdict:
//!
//! ```text
//! Object::parse      ELF, BTF, map definitions, relocations: what the file says      (object)
//! Loader::load       maps made or reused, globals filled, programs linked, checked   (loader)
//! Program::instance  one worker's private engine state: stack, caches, counters      (instance)
//! Instance::run_batch  XdpBuff in, Verdict out, nothing allocated                    (interp, helpers)
//! ```
//!
//! The crate knows no NIC. What it meets a driver through is [`XdpBuff`], [`HintLayout`] and
//! [`Instance::run_batch`]. Nothing in an object is trusted: the interpreter checks every memory access against
//! the stack, the packet, the map values and the ring-buffer records that the program may reach.

mod chain;
mod check;
mod error;
#[cfg(all(feature = "rbpf", target_arch = "x86_64"))]
#[path = "jit/foreign/mod.rs"]
mod foreign;
#[cfg(not(all(feature = "rbpf", target_arch = "x86_64")))]
#[path = "no_foreign.rs"]
mod foreign;
mod frags;
mod helpers;
mod hint;
mod hook;
mod insn;
mod instance;
mod interp;
#[cfg(all(feature = "jit", target_arch = "x86_64"))]
mod jit;
#[cfg(not(all(feature = "jit", target_arch = "x86_64")))]
#[path = "no_jit.rs"]
mod jit;
mod kfunc;
mod link;
mod loader;
pub mod maps;
mod mem;
pub mod object;
mod program;
mod raw;
pub mod routes;
mod rx_meta;
pub mod trace;
pub mod verifier;
mod xdp;

pub use chain::RunConfig;
pub use error::{Errno, Fault, FaultReport, LoadError, SourceLine};
pub use frags::Frags;
pub use hint::{
    CSUM_IP_BAD, CSUM_IP_GOOD, CSUM_L4_BAD, CSUM_L4_GOOD, HINT_FLAGS, HintField, HintKind, HintLayout,
    HintSource, Loc, NO_FLAGS, Test,
};
pub use hook::{Hook, SkbInfo};
pub use instance::{Instance, InstanceStats};
pub use loader::{Loaded, Loader};
pub use maps::{Map, MapDef, MapFlags, MapType};
pub use object::Object;
pub use program::{Compiled, EngineKind, Program};
pub use routes::RouteFeed;
pub use rx_meta::{RxMeta, RxMetaField};
pub use verifier::{Refusal, Verified};
pub use xdp::{Redirect, RedirectKind, Verdict, XdpAction, XdpBuff};

/// The Linux kernel's own eBPF, to compare with.
pub mod kernel {
    pub use crate::mem::kernel::{KernelMaps, KernelProgram, compiles};
}

/// Bytes of memory that hold machine code of programs in this process now.
pub fn executable_bytes() -> usize {
    jit::executable_bytes()
}
