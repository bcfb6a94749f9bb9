//! The datasheets as code: registers, descriptors and behaving models of Intel NICs.
//!
//! Without features this crate is definitions only: register tables, descriptor and message layouts.
//! With feature `device` it also holds the behaving models, the wires they plug into and the
//! vfio-user server that hands a model to a virtual machine or to the driver.

#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "device")]
pub mod dma;
pub mod family;
pub mod ixgbe;
pub mod packet;
pub mod regs;
pub mod ring_order;
pub mod toeplitz;
pub mod vfio_user;
#[cfg(feature = "device")]
pub mod wire;
