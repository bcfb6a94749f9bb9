//! The memory a device can reach: client memory mapped into this process, addressed by IOVA.
//!
//! [`DmaSpace`] is what a model does DMA with. Each access is looked up and bounds-checked; whatever is
//! not mapped faults and does nothing else, as behind an IOMMU. The client writes the same memory at any
//! time, so no references into it exist: bytes are copied, words are accessed atomically.
#![allow(unsafe_code)]

mod backing;
mod prefetch;
mod ring;
mod shared_bar;
mod space;
mod window;

pub use backing::{DmaError, Trust};
pub use prefetch::prefetch_slot;
pub use ring::RingPlace;
pub use shared_bar::SharedBar;
pub use space::{DmaSpace, MAX_REGIONS};
pub use window::Window;

/// What the device may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prot {
    pub read: bool,
    pub write: bool,
}

impl Prot {
    pub const READ: Prot = Prot {
        read: true,
        write: false,
    };
    pub const READ_WRITE: Prot = Prot {
        read: true,
        write: true,
    };
}

/// Why a DMA access did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA of {len} bytes at IOVA {iova:#x}: {kind}")]
pub struct Fault {
    pub iova: u64,
    pub len: usize,
    pub kind: FaultKind,
}

/// What was wrong with a DMA access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    #[error("not mapped")]
    NotMapped,
    #[error("mapped without that permission")]
    Permission,
    #[error("mapped without memory behind it")]
    NoMemory,
    #[error("not naturally aligned")]
    Misaligned,
    #[error("bus mastering is off")]
    Disabled,
}
