//! Asking for cache lines before they are needed.

use std::sync::atomic::AtomicU64;

/// Starts taking a descriptor's line away from other processors: it is about to be written back.
#[inline(always)]
pub fn prefetch_slot(slot: &[AtomicU64; 2]) {
    for_writing(slot.as_ptr().cast());
}

/// Starts loading the line at `at`, whatever lies there.
#[inline(always)]
pub(super) fn for_reading(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and changes nothing, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Starts taking the line at `at` away from other processors.
#[inline(always)]
pub(super) fn for_writing(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // The intrinsic becomes a prefetch for reading unless everything is built for processors that have this; those without
    // it do nothing here (Intel SDM, PREFETCHW).
    // SAFETY: it never faults and changes nothing, whatever the address.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
