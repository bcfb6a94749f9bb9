//! `bpf_csum_diff`: how a ones' complement sum (RFC 1071) changes when some words of what it covers change.

use crate::interp::{Core, SCRATCH, errno};
use crate::{Errno, Fault, XdpBuff};

/// `bpf_csum_diff(from, from_size, to, to_size, seed)`. The result is folded to 16 bits, as kernels since 6.13 do.
pub(super) fn diff(core: &mut Core, buf: &mut XdpBuff<'_>, a: [u64; 5]) -> Result<u64, Fault> {
    let [from, from_size, to, to_size, seed] = a;
    let (from_size, to_size) = (from_size as u32 as usize, to_size as u32 as usize);
    if !from_size.is_multiple_of(4) || !to_size.is_multiple_of(4) || from_size > SCRATCH || to_size > SCRATCH
    {
        return Ok(errno(Errno::INVAL));
    }
    let seed = seed as u32;
    let Core { space, bytes, .. } = core;
    let mut of = |addr, size: usize, seed| {
        space.read(buf, addr, &mut bytes[..size])?;
        Ok(partial(&bytes[..size], seed))
    };
    let sum = match (from_size, to_size) {
        (0, 0) => return Ok(u64::from(fold(seed))),
        (_, 0) => !of(from, from_size, !seed)?,
        (0, _) => of(to, to_size, seed)?,
        (_, _) => add(of(to, to_size, seed)?, !of(from, from_size, 0)?),
    };
    Ok(u64::from(fold(sum)))
}

/// Sum of 32-bit words with end-around carry, in memory order.
fn partial(bytes: &[u8], seed: u32) -> u32 {
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|w| u64::from(u32::from_ne_bytes(*w)));
    let mut sum = u64::from(seed) + words.sum::<u64>();
    while sum >> 32 != 0 {
        sum = (sum & 0xffff_ffff) + (sum >> 32);
    }
    sum as u32
}

fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

fn fold(sum: u32) -> u32 {
    sum.wrapping_add(sum.rotate_left(16)) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_wrap_round() {
        assert_eq!(partial(&[0xff; 8], 0), 0xffff_ffff);
        assert_eq!(partial(&[1, 0, 0, 0, 2, 0, 0, 0], 3), 6);
        assert_eq!(add(0xffff_ffff, 2), 2);
        assert_eq!(fold(0x0001_fffe), 0xffff);
        assert_eq!(fold(0x1234_5678), 0x68ac);
    }
}
