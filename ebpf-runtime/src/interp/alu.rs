//! Arithmetic with edge cases (RFC 9669 section 4.1): division by zero gives 0, modulo by zero leaves the dividend, the
//! most negative number divided by -1 is itself.

#[inline(always)]
pub(super) fn div64(a: u64, b: u64, signed: bool) -> u64 {
    match (b, signed) {
        (0, _) => 0,
        (_, false) => a / b,
        (_, true) => (a as i64).wrapping_div(b as i64) as u64,
    }
}

#[inline(always)]
pub(super) fn div32(a: u32, b: u32, signed: bool) -> u32 {
    match (b, signed) {
        (0, _) => 0,
        (_, false) => a / b,
        (_, true) => (a as i32).wrapping_div(b as i32) as u32,
    }
}

#[inline(always)]
pub(super) fn mod64(a: u64, b: u64, signed: bool) -> u64 {
    match (b, signed) {
        (0, _) => a,
        (_, false) => a % b,
        (_, true) => (a as i64).wrapping_rem(b as i64) as u64,
    }
}

#[inline(always)]
pub(super) fn mod32(a: u32, b: u32, signed: bool) -> u32 {
    match (b, signed) {
        (0, _) => a,
        (_, false) => a % b,
        (_, true) => (a as i32).wrapping_rem(b as i32) as u32,
    }
}

/// Byte-order conversion of the low `bits`; the machine is little-endian as `swap` tells it.
#[inline(always)]
pub(super) fn swap(value: u64, bits: i32, swap: bool) -> u64 {
    match (bits, swap) {
        (16, true) => u64::from((value as u16).swap_bytes()),
        (32, true) => u64::from((value as u32).swap_bytes()),
        (_, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        (_, false) => value,
    }
}
