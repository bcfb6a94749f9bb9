//! Loops over several packets at once, and which of them this processor can run.
//!
//! Everything here works on pieces in which nothing wraps, of rings of 16-byte descriptors and of the records beside them;
//! [`mem::RxLane`](crate::mem::RxLane) and [`mem::TxLane`](crate::mem::TxLane) cut the pieces and know what lies in them. What a loop here leaves, because it was
//! fewer than [`STEP`] or something about it was unusual, the scalar loops take.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;

use std::fmt;

/// Packets that a loop takes at once.
pub const STEP: usize = 4;

/// The code that runs for every packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuPath(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    /// Made only where the processor and the system have AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl CpuPath {
    /// One packet after the other: runs everywhere.
    pub const SCALAR: CpuPath = CpuPath(Kind::Scalar);

    /// Four packets at once with AVX2, if this processor has it.
    pub fn avx2() -> Option<CpuPath> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Some(CpuPath(Kind::Avx2));
        }
        None
    }

    /// The fastest that runs here.
    pub fn best() -> CpuPath {
        CpuPath::avx2().unwrap_or(CpuPath::SCALAR)
    }

    /// All that run here.
    pub fn all() -> impl Iterator<Item = CpuPath> {
        std::iter::once(CpuPath::SCALAR).chain(CpuPath::avx2())
    }

    /// `scalar` or `avx2`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
        }
    }

    /// Whether AVX2 may be used: proof that it is there.
    #[inline(always)]
    pub(crate) fn has_avx2(self) -> bool {
        match self.0 {
            Kind::Scalar => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => true,
        }
    }

    /// Does `W`'s work in a function of its own that is compiled for this path: what is inlined there may use all that the path
    /// has, so that a vector loop need not be a call with a frame and a dozen arguments of its own.
    #[inline(always)]
    pub(crate) fn run<W: Work<A, B, C>, A, B, C>(self, a: A, b: B, c: C) -> W::Out {
        match self.0 {
            Kind::Scalar => run_scalar::<W, A, B, C>(a, b, c),
            // SAFETY: there is AVX2 where such a path is made.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::run::<W, A, B, C>(a, b, c) },
        }
    }
}

/// What is done for a whole burst: see [`CpuPath::run`]. A trait because a closure cannot insist on being inlined, as this must
/// be, and three arguments because so many travel in registers.
pub(crate) trait Work<A, B, C> {
    /// What comes of it.
    type Out;

    /// Does it, on a path that is known where this is compiled. To be `#[inline(always)]`.
    fn work(path: CpuPath, a: A, b: B, c: C) -> Self::Out;
}

/// As [`avx2::run`], so that neither way swells who chooses between them.
#[inline(never)]
fn run_scalar<W: Work<A, B, C>, A, B, C>(a: A, b: B, c: C) -> W::Out {
    W::work(CpuPath::SCALAR, a, b, c)
}

/// Starts loading the cache line at an address of this process, whatever lies there.
#[inline(always)]
pub(crate) fn prefetch(address: u64) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address as usize)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

impl fmt::Debug for CpuPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stays the same for every received frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receive {
    /// The test of a last quadword: less `minus`, it has under `mask` the bits of `want`.
    pub minus: u64,
    pub mask: u64,
    pub want: u64,
    /// A handle's offset, in place.
    pub head: u64,
    /// Tag of the region's buffer 0.
    pub first: u32,
    /// Bytes from one buffer to the next.
    pub stride: u64,
    /// I/O address of the data in buffer 0.
    pub base: u64,
    /// Where the data of a buffer lies in this process, less the product of its tag and `stride`.
    pub here: u64,
}

/// The most that may be in a handle with its region's bits away: an index up to `index`, and a length that ends within `limit` bytes
/// of the buffer. More than 65,534 is left to the scalar loops: sums of 16 bits say no more.
#[inline(always)]
pub(crate) const fn fits(index: u32, limit: u32) -> u64 {
    // The index is looked at by its upper half.
    assert!(index & 0xffff == 0xffff);
    let limit = if limit < 0xfffe { limit } else { 0xfffe };
    0xffff << 48 | (limit as u64) << 32 | index as u64
}

/// What stays the same for every frame to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transmit {
    /// Tag of the region's buffer 0.
    pub first: u64,
    /// The most that is right of index, length and offset, as [`fits`] makes it for `limit`.
    pub fits: u64,
    /// Bytes from one buffer to the next.
    pub stride: u64,
    /// I/O address of buffer 0.
    pub base: u64,
    /// Least length, and most bytes from the start of the buffer to the end of the frame.
    pub least: u64,
    pub limit: u64,
    /// A descriptor's last quadword: `bits`, plus the length, plus the length shifted left by `shift`, which is 32 at least.
    pub bits: u64,
    pub shift: u64,
    /// One more than two to the power of `shift`: times the length that is both together.
    pub times: u64,
}
