//! Ethernet frames as bytes: parsing, checksums, segmentation, VLAN tags, and builders.
//!
//! Everything here is a pure function over slices: no I/O, no allocation on the paths a frame takes, no panic on any
//! input. A frame is a complete Ethernet frame without its FCS. [`parse`] is run once and its [`Parsed`] offsets are
//! handed to the other functions, which check them against the slice again, so a stale `Parsed` gives a wrong
//! answer but never a read outside the frame.
//!
//! The device models use it to classify, verify, insert and segment as the silicon does; the wires use it to finish
//! what the kernel left undone (partial checksums, GSO); tests and the traffic generator build frames with [`build`].

pub mod build;
pub mod checksum;
mod crc32c;
mod parse;
pub mod segment;
pub mod vlan;

pub use checksum::Status as ChecksumStatus;
pub use parse::{Fragment, L3, L4, Parsed, parse};
pub use vlan::Tag;

/// Bytes of an untagged Ethernet header (IEEE 802.3 clause 3).
pub const ETH_HLEN: usize = 14;
/// Bytes of one 802.1Q tag.
pub const VLAN_HLEN: usize = 4;
/// The shortest Ethernet frame without FCS.
pub const ETH_ZLEN: usize = 60;

/// EtherTypes (IEEE registration authority; names as in `linux/if_ether.h`).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service VLAN tag.
    pub const QINQ: u16 = 0x88a8;
    /// The tag type that some switches used for QinQ before 802.1ad.
    pub const QINQ_LEGACY: u16 = 0x9100;
}

/// IP protocol numbers (IANA).
pub mod ipproto {
    /// IPv6 hop-by-hop options (RFC 8200).
    pub const HOPOPTS: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE (RFC 2784).
    pub const GRE: u8 = 47;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DSTOPTS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// The big-endian 16-bit word at `off`; `None` where the frame ends before it.
#[inline]
pub(crate) fn be16(frame: &[u8], off: usize) -> Option<u16> {
    let bytes = frame.get(off..off.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Stores a big-endian 16-bit word at `off`; `false` (nothing written) where the frame ends before it.
#[inline]
pub(crate) fn put16(frame: &mut [u8], off: usize, value: u16) -> bool {
    match frame.get_mut(off..off + 2) {
        Some(slot) => {
            slot.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
