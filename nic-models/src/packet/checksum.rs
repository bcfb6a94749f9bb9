//! Internet checksums (RFC 1071, RFC 1624) of IP, TCP, UDP and ICMP, and SCTP's CRC.
//!
//! A *sum* is a `u32` holding a ones-complement sum of big-endian 16-bit words, not yet folded or inverted; sums of
//! pieces are added up with `+` (at most some 60,000 of them) and end in [`finish`].

use super::{Fragment, L3, L4, Parsed, be16, crc32c, put16};
use thiserror::Error;

/// What a checksum in a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Present and right.
    Good,
    /// Present and wrong, or the length it covers cannot be right.
    Bad,
    /// There is none to check: no such header, a fragment, UDP without checksum, or an address it needs is unknown.
    None,
}

impl Status {
    fn from_ok(ok: bool) -> Status {
        if ok { Status::Good } else { Status::Bad }
    }
}

/// A partial checksum that does not fit the frame it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "partial checksum at {start}+{offset} lies outside a frame of {len} bytes; the sender's virtio-net header is wrong"
)]
pub struct PartialChecksumError {
    /// `csum_start`.
    pub start: usize,
    /// `csum_offset`.
    pub offset: usize,
    /// Length of the frame.
    pub len: usize,
}

/// Bytes from which on many are summed up at a time.
const BULK: usize = 96;

/// The sum of `data`; an odd last byte counts as the high half of a word.
#[inline]
pub fn sum(data: &[u8]) -> u32 {
    u32::from(u16::from_be_bytes(fold64(words(data)).to_ne_bytes()))
}

/// Whether `data` and the 16-bit word `more` sum up to all ones, as what carries a right checksum does. Ones keep in any byte
/// order, so nothing is swapped for it.
#[inline(always)]
pub(crate) fn is_whole(data: &[u8], more: u16) -> bool {
    fold64(add(words(data), u64::from(more.to_be()))) == 0xffff
}

/// The sum of `data` in native-endian words of any size, with carries brought round: RFC 1071 section 2(A) and (B) let both
/// wait until the end.
#[inline(always)]
fn words(data: &[u8]) -> u64 {
    let (mut total, mut rest) = if data.len() < BULK { (0, data) } else { bulk(data) };
    while let Some((words, more)) = rest.split_first_chunk::<16>() {
        let words = u128::from_ne_bytes(*words);
        total = add(add(total, words as u64), (words >> 64) as u64);
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<8>() {
        total = add(total, u64::from_ne_bytes(*word));
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<4>() {
        total = add(total, u64::from(u32::from_ne_bytes(*word)));
        rest = more;
    }
    if let Some((word, more)) = rest.split_first_chunk::<2>() {
        total = add(total, u64::from(u16::from_ne_bytes(*word)));
        rest = more;
    }
    if let [last] = rest {
        total = add(total, u64::from(u16::from_ne_bytes([*last, 0])));
    }
    total
}

/// Sums up what is whole blocks of `data`, and gives the rest.
fn bulk(data: &[u8]) -> (u64, &[u8]) {
    // Each lane collects its carries in its upper half: two additions a word, and no lane waits for another.
    let mut lanes = [0u128; 4];
    let (blocks, rest) = data.as_chunks::<64>();
    for block in blocks {
        for (at, word) in block.as_chunks::<8>().0.iter().enumerate() {
            lanes[at % 4] += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let total = lanes
        .into_iter()
        .fold(0, |total, lane| add(add(total, lane as u64), (lane >> 64) as u64));
    (total, rest)
}

/// Adds with the carry brought round to the lowest bit.
#[inline]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

#[inline]
fn fold64(total: u64) -> u16 {
    let (half, carry) = (total as u32).overflowing_add((total >> 32) as u32);
    let half = half + u32::from(carry);
    let (word, carry) = (half as u16).overflowing_add((half >> 16) as u16);
    word + u16::from(carry)
}

/// Folds a sum to 16 bits without inverting it.
#[inline]
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// Folds and inverts: the value to store.
#[inline]
pub fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum of `data` alone, as an IPv4 header with a zeroed checksum field has it.
pub fn checksum(data: &[u8]) -> u16 {
    finish(sum(data))
}

/// Sum of the IPv4 pseudo header (RFC 9293 section 3.1).
pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], proto: u8, l4_len: usize) -> u32 {
    sum(&src) + sum(&dst) + u32::from(proto) + length_sum(l4_len)
}

/// Sum of the IPv6 pseudo header (RFC 8200 section 8.1).
pub fn pseudo_v6(src: &[u8; 16], dst: &[u8; 16], proto: u8, l4_len: usize) -> u32 {
    sum(src) + sum(dst) + u32::from(proto) + length_sum(l4_len)
}

/// The upper-layer length as the two words it fills in the IPv6 pseudo header.
#[inline]
fn length_sum(len: usize) -> u32 {
    (len as u32 & 0xffff) + (len as u32 >> 16)
}

/// Pseudo header sum of the packet `p` describes, for `l4_len` bytes of L4 header and data; `None` without IP.
pub fn pseudo(frame: &[u8], p: &Parsed, l4_len: usize) -> Option<u32> {
    if !p.is_ip() {
        return None;
    }
    Some(sum(p.addresses(frame)) + u32::from(p.proto) + length_sum(l4_len))
}

/// The pseudo header's sum and that of the `l4_len` bytes from the L4 header on.
#[inline]
fn sum_with_pseudo(frame: &[u8], p: &Parsed, l4_len: usize) -> Option<u32> {
    let addresses_at = match (p.l3, p.l3_len) {
        (L3::Ipv4, 20) => p.l2_len + 12,
        (L3::Ipv6, 40) => p.l2_len + 8,
        _ => {
            let data = frame.get(p.l4_off..p.l4_off + l4_len)?;
            return Some(pseudo(frame, p, l4_len)? + sum(data));
        }
    };
    // Without options the L4 header follows the addresses.
    let data = frame.get(addresses_at..p.l4_off + l4_len)?;
    Some(sum(data) + u32::from(p.proto) + length_sum(l4_len))
}

/// Checks the IPv4 header checksum; [`Status::None`] for anything but IPv4.
#[inline]
pub fn verify_ip(frame: &[u8], p: &Parsed) -> Status {
    match ipv4_header(frame, p) {
        Some(header) => Status::from_ok(fold(sum(header)) == 0xffff),
        None => Status::None,
    }
}

/// Stores the IPv4 header checksum; `false` for anything but IPv4.
pub fn fill_ip(frame: &mut [u8], p: &Parsed) -> bool {
    if ipv4_header(frame, p).is_none() {
        return false;
    }
    put16(frame, p.l2_len + 10, 0);
    let value = ipv4_header(frame, p).map_or(0, checksum);
    put16(frame, p.l2_len + 10, value)
}

#[inline]
fn ipv4_header<'a>(frame: &'a [u8], p: &Parsed) -> Option<&'a [u8]> {
    if p.l3 != L3::Ipv4 {
        return None;
    }
    frame.get(p.l2_len..p.l2_len + p.l3_len)
}

/// The bytes an L4 checksum covers beside the pseudo header. `Err(None)`: no checksum to speak of. `Err(Bad)`: the
/// lengths contradict each other.
#[inline]
fn covered<'a>(frame: &'a [u8], p: &Parsed) -> Result<&'a [u8], Status> {
    if p.fragment != Fragment::No || p.l4 == L4::None || p.routing_pending {
        return Err(Status::None);
    }
    let data = frame.get(p.l4_off..p.ip_end).ok_or(Status::None)?;
    if p.truncated {
        return Err(Status::Bad);
    }
    if p.l4 != L4::Udp {
        return Ok(data);
    }
    let len = usize::from(be16(data, 4).ok_or(Status::None)?);
    if len < 8 {
        return Err(Status::Bad);
    }
    data.get(..len).ok_or(Status::Bad)
}

/// Checks the checksum of TCP, UDP or SCTP. UDP over IPv4 with checksum 0 has none; over IPv6 that is bad (RFC 8200).
#[inline]
pub fn verify_l4(frame: &[u8], p: &Parsed) -> Status {
    let data = match covered(frame, p) {
        Ok(data) => data,
        Err(status) => return status,
    };
    match p.l4 {
        L4::Udp if be16(data, 6) == Some(0) => {
            if p.l3 == L3::Ipv4 {
                Status::None
            } else {
                Status::Bad
            }
        }
        L4::Tcp | L4::Udp => match sum_with_pseudo(frame, p, data.len()) {
            Some(sum) => Status::from_ok(fold(sum) == 0xffff),
            None => Status::None,
        },
        L4::Sctp => Status::from_ok(data.get(8..12) == Some(&sctp_crc(data).to_le_bytes()[..])),
        _ => Status::None,
    }
}

/// Checks the checksum of ICMP or ICMPv6, which no NIC offloads on its own.
pub fn verify_icmp(frame: &[u8], p: &Parsed) -> Status {
    let data = match covered(frame, p) {
        Ok(data) => data,
        Err(status) => return status,
    };
    let start = match p.l4 {
        L4::Icmp => Some(0),
        L4::Icmpv6 => pseudo(frame, p, data.len()),
        _ => None,
    };
    start.map_or(Status::None, |start| {
        Status::from_ok(fold(start + sum(data)) == 0xffff)
    })
}

/// RFC 9260 appendix A: over the whole packet with the checksum field taken as zero.
fn sctp_crc(packet: &[u8]) -> u32 {
    let (head, tail) = packet.split_at(packet.len().min(12));
    let crc = crc32c::update(!0, head.get(..8).unwrap_or(head));
    !crc32c::update(crc32c::update(crc, &[0; 4]), tail)
}

/// Where the checksum field of an L4 header stands, from the start of that header.
pub fn l4_field(l4: L4) -> Option<usize> {
    match l4 {
        L4::Tcp => Some(16),
        L4::Udp => Some(6),
        L4::Sctp => Some(8),
        L4::Icmp | L4::Icmpv6 => Some(2),
        _ => None,
    }
}

/// Computes and stores the checksum of TCP, UDP, SCTP, ICMP or ICMPv6; `false` (nothing changed) where there is none
/// to compute: see [`Status::None`] and [`Status::Bad`].
pub fn fill_l4(frame: &mut [u8], p: &Parsed) -> bool {
    let (Some(field), Ok(len)) = (l4_field(p.l4), covered(frame, p).map(<[u8]>::len)) else {
        return false;
    };
    let range = p.l4_off..p.l4_off + len;
    if p.l4 == L4::Sctp {
        let crc = sctp_crc(&frame[range.clone()]);
        let slot = frame.get_mut(p.l4_off + field..p.l4_off + field + 4);
        return slot
            .map(|slot| slot.copy_from_slice(&crc.to_le_bytes()))
            .is_some();
    }
    let start = if p.l4 == L4::Icmp {
        0
    } else {
        pseudo(frame, p, len).unwrap_or(0)
    };
    put16(frame, p.l4_off + field, 0);
    let value = finish(start + sum(&frame[range]));
    // RFC 768: a UDP checksum that comes out as zero is sent as all ones.
    let value = if p.l4 == L4::Udp && value == 0 {
        0xffff
    } else {
        value
    };
    put16(frame, p.l4_off + field, value)
}

/// Finishes the partial checksum of a virtio-net header: the field at `start + offset` holds the pseudo header's sum
/// (not inverted), and the checksum covers everything from `start` to the frame's end (virtio 1.2 section 5.1.6.2).
/// Zero becomes all ones, which is the same number to a receiver and, in UDP, not "no checksum".
pub fn finish_checksum(frame: &mut [u8], start: usize, offset: usize) -> Result<(), PartialChecksumError> {
    finish_checksum_to(frame, start, offset, frame.len())
}

/// [`finish_checksum`] over `start..end`, for frames that carry padding behind the packet.
pub fn finish_checksum_to(
    frame: &mut [u8],
    start: usize,
    offset: usize,
    end: usize,
) -> Result<(), PartialChecksumError> {
    let error = PartialChecksumError {
        start,
        offset,
        len: frame.len(),
    };
    let data = frame.get(start..end).ok_or(error)?;
    if offset.checked_add(2).is_none_or(|stop| stop > data.len()) {
        return Err(error);
    }
    let value = match finish(sum(data)) {
        0 => 0xffff,
        value => value,
    };
    put16(frame, start + offset, value);
    Ok(())
}
