//! What kernel functions do.

use crate::interp::{Core, errno};
use crate::kfunc::Kfunc;
use crate::mem::packet;
use crate::mem::space::{CTX_ADDR, Space};
use crate::{Errno, Fault, HintKind, HintLayout, XdpBuff};

/// Calls a kfunc.
pub(crate) fn call(id: i64, core: &mut Core, a: &[u64; 5], buf: &mut XdpBuff<'_>) -> Result<u64, Fault> {
    let kind = match Kfunc::by_id(id) {
        Kfunc::RxHash => return rx_hash(core, a, buf),
        Kfunc::RxVlanTag => return rx_vlan_tag(core, a, buf),
        Kfunc::RxTimestamp => HintKind::RxTimestamp,
        Kfunc::RxPtype => HintKind::PacketType,
        Kfunc::RxMark => HintKind::Mark,
        Kfunc::RxCsum => HintKind::CsumStatus,
        Kfunc::RxHeaderLen => HintKind::HeaderLen,
        Kfunc::RxExtracted => HintKind::Extracted,
        hashing @ (Kfunc::HashToeplitz | Kfunc::HashCrc | Kfunc::HashXor) => {
            return hash(hashing, core, a, buf);
        }
        Kfunc::Missing => return Err(Fault::HelperArgument),
    };
    metadata(kind, core, a, buf)
}

/// Those that give one thing.
#[inline(never)]
fn metadata(kind: HintKind, core: &mut Core, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<u64, Fault> {
    let Core { hints, space, .. } = core;
    let Some(value) = asked(hints, kind, a, buf)? else {
        return missing(hints, kind);
    };
    match kind {
        HintKind::RxTimestamp => space.store::<8>(buf, a[1], value)?,
        _ => space.store::<4>(buf, a[1], value)?,
    }
    Ok(0)
}

/// The hash and what it covers. What comes along has a meaning even where the queue does not deliver it.
#[inline(never)]
fn rx_hash(core: &mut Core, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<u64, Fault> {
    let done = at_once(
        core,
        a,
        buf,
        [HintKind::RxHash, HintKind::RxHashType],
        |space, to, [hash, covers]| space.near_store_two::<4>(to, [hash?, covers.unwrap_or(0)]),
    );
    match done {
        Some(()) => Ok(0),
        None => rx_hash_far(core, a, buf),
    }
}

#[inline(never)]
fn rx_hash_far(core: &mut Core, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<u64, Fault> {
    let Core { hints, space, .. } = core;
    let Some(hash) = asked(hints, HintKind::RxHash, a, buf)? else {
        return missing(hints, HintKind::RxHash);
    };
    let covers = hints.read(HintKind::RxHashType, packet::hints(buf));
    space.store::<4>(buf, a[1], hash)?;
    space.store::<4>(buf, a[2], covers.unwrap_or(0))?;
    Ok(0)
}

/// The VLAN tag's ethertype, 802.1Q's where the queue does not tell, and its TCI.
#[inline(never)]
fn rx_vlan_tag(core: &mut Core, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<u64, Fault> {
    let done = at_once(
        core,
        a,
        buf,
        [HintKind::VlanProto, HintKind::VlanTci],
        |space, to, [proto, tci]| space.near_store_two::<2>(to, [wire(proto), tci?]),
    );
    match done {
        Some(()) => Ok(0),
        None => rx_vlan_tag_far(core, a, buf),
    }
}

#[inline(never)]
fn rx_vlan_tag_far(core: &mut Core, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<u64, Fault> {
    let Core { hints, space, .. } = core;
    let Some(tci) = asked(hints, HintKind::VlanTci, a, buf)? else {
        return missing(hints, HintKind::VlanTci);
    };
    let proto = hints.read(HintKind::VlanProto, packet::hints(buf));
    space.store::<2>(buf, a[1], wire(proto))?;
    space.store::<2>(buf, a[2], tci)?;
    Ok(0)
}

/// An ethertype as frames have it.
#[inline(always)]
fn wire(proto: Option<u64>) -> u64 {
    u64::from((proto.unwrap_or(0x8100) as u16).to_be())
}

/// The usual case of those that give two things: fields made ready, variables on the stack. `None` where nothing was done.
#[inline(always)]
fn at_once(
    core: &mut Core,
    a: &[u64; 5],
    buf: &XdpBuff<'_>,
    kinds: [HintKind; 2],
    store: impl Fn(&mut Space, [u64; 2], [Option<u64>; 2]) -> Option<()>,
) -> Option<()> {
    let raw = packet::hints(buf).first_chunk()?;
    if a[0] != CTX_ADDR {
        return None;
    }
    let read = |kind| core.hints.read_ready(kind, raw);
    let values = [read(kinds[0])?, read(kinds[1])?];
    store(&mut core.space, [a[1], a[2]], values)
}

/// What the write-back says, asked for with the context as the first argument.
#[inline(always)]
fn asked(hints: &HintLayout, kind: HintKind, a: &[u64; 5], buf: &XdpBuff<'_>) -> Result<Option<u64>, Fault> {
    if a[0] != CTX_ADDR {
        return Err(Fault::HelperArgument);
    }
    Ok(hints.read(kind, packet::hints(buf)))
}

/// Metadata that the queue does not deliver is `-ENODATA`; a layout that has no such field at all is `-EOPNOTSUPP`
/// (net/core/xdp.c, "XDP RX metadata").
#[cold]
fn missing(hints: &HintLayout, kind: HintKind) -> Result<u64, Fault> {
    Ok(errno(match hints.field(kind) {
        None => Errno::OPNOTSUPP,
        Some(_) => Errno::NODATA,
    }))
}

/// Hashes that choose queues. Of data or keys longer than this nothing is hashed, and the hash is 0.
const HASHED: usize = 4096;

#[inline(never)]
fn hash(kfunc: Kfunc, core: &mut Core, a: &[u64; 5], buf: &mut XdpBuff<'_>) -> Result<u64, Fault> {
    let size = |register: u64| register as u32 as usize;
    let keyed = kfunc == Kfunc::HashToeplitz;
    let (data_len, key_len) = (size(a[1]), if keyed { size(a[3]) } else { 0 });
    if data_len > HASHED || key_len > HASHED {
        return Ok(0);
    }
    let Core { space, bytes, .. } = core;
    let (data, rest) = bytes
        .split_at_mut_checked(data_len)
        .ok_or(Fault::HelperArgument)?;
    let key = rest.get_mut(..key_len).ok_or(Fault::HelperArgument)?;
    space.read(buf, a[0], data)?;
    if keyed {
        space.read(buf, a[2], key)?;
    }
    Ok(u64::from(match kfunc {
        Kfunc::HashToeplitz => toeplitz(data, key),
        Kfunc::HashCrc => crc32c(data, a[2] as u32),
        _ => xor(data),
    }))
}

/// The Toeplitz hash that NICs use for RSS (82599 datasheet section 7.1.2.8.1): for each bit of the data that is set, from
/// the first byte's highest on, the 32 bits of the key that begin there are XORed. A key that ends before is followed by
/// zeroes.
fn toeplitz(data: &[u8], key: &[u8]) -> u32 {
    let at = |i: usize| u64::from(key.get(i).copied().unwrap_or(0));
    let mut window = (0..8).fold(0, |w, i| w << 8 | at(i));
    let mut hash = 0;
    for (i, byte) in data.iter().enumerate() {
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= (window >> (25 + bit)) as u32;
            }
        }
        window = window << 8 | at(i + 8);
    }
    hash
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), as x86's `crc32` instruction computes it step by step: neither
/// the seed nor the result is inverted.
fn crc32c(data: &[u8], seed: u32) -> u32 {
    data.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// The XOR of all 32-bit words in network order, the last one filled up with zeroes.
fn xor(data: &[u8]) -> u32 {
    data.chunks(4).fold(0, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash ^ u32::from_be_bytes(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the examples of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn toeplitz_gives_the_published_examples() {
        // 66.9.149.187:2794 -> 161.142.100.80:1766
        let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&addresses, &KEY), 0x323e_8fc2);
        let ports = [2794u16.to_be_bytes(), 1766u16.to_be_bytes()].concat();
        assert_eq!(toeplitz(&[&addresses[..], &ports].concat(), &KEY), 0x51cc_c178);
        assert_eq!(toeplitz(&addresses, &[]), 0);
    }

    #[test]
    fn crc_and_xor_give_known_values() {
        // The check value of CRC-32C is about "123456789", inverted before and after.
        assert_eq!(!crc32c(b"123456789", !0), 0xe306_9283);
        assert_eq!(xor(&[1, 2, 3, 4, 0xff]), 0xfe02_0304);
    }
}
