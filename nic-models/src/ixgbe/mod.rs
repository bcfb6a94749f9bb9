//! The 82599: register file, descriptors and, with feature `device`, a behaving model.

pub mod desc;
#[cfg(feature = "device")]
pub mod device;
pub mod regs;
