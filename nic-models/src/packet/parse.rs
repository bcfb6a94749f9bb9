//! Where each header of a frame is.

use super::vlan::{MAX_TAGS, Tag};
use super::{ETH_HLEN, VLAN_HLEN, be16, ethertype, ipproto};

/// What the frame carries after its Ethernet header and tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum L3 {
    /// Something else, or an IP header that is cut short or makes no sense.
    #[default]
    None,
    /// A whole IPv4 header.
    Ipv4,
    /// A whole IPv6 header.
    Ipv6,
    /// ARP.
    Arp,
}

/// What the IP packet carries. Set only when the whole fixed header is there: a later fragment has [`L4::None`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum L4 {
    /// Unknown, cut short, malformed, or not the first fragment.
    #[default]
    None,
    /// TCP with a data offset that fits.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP in IPv4.
    Icmp,
    /// ICMPv6 in IPv6.
    Icmpv6,
    /// An IPv4 packet (RFC 2003).
    Ipip,
    /// An IPv6 packet (RFC 2473).
    Ip6inIp,
    /// GRE.
    Gre,
    /// IPsec ESP.
    Esp,
}

/// Whether the packet is a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// A whole packet.
    #[default]
    No,
    /// Offset 0 with more to come: the L4 header is here, its checksum covers bytes that are not.
    First,
    /// Offset above 0: no L4 header.
    Later,
}

/// The result of [`parse`]: offsets and lengths in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Ethernet header with its VLAN tags; where L3 starts. 0 for a frame shorter than an Ethernet header.
    pub l2_len: usize,
    /// The EtherType after all tags (a length below 0x600 in an 802.3 frame).
    pub ethertype: u16,
    /// VLAN tags, outermost first; only the first [`Parsed::vlan_count`] are meaningful.
    pub vlans: [Tag; MAX_TAGS],
    /// How many VLAN tags were found.
    pub vlan_count: usize,
    /// L3 kind; its header starts at [`Parsed::l2_len`].
    pub l3: L3,
    /// IP header with options or extension headers; 0 where [`Parsed::l3`] is `None` or `Arp`.
    pub l3_len: usize,
    /// IPv6 extension headers are present.
    pub ipv6_ext: bool,
    /// An IPv6 routing header with segments left: the destination in the header is not the one the checksum covers.
    pub routing_pending: bool,
    /// Fragmentation.
    pub fragment: Fragment,
    /// The last protocol number of the header chain, also where [`Parsed::l4`] is `None`.
    pub proto: u8,
    /// L4 kind.
    pub l4: L4,
    /// Where the L4 header starts (or would start).
    pub l4_off: usize,
    /// L4 header length (TCP with options); 0 where [`Parsed::l4`] is `None` or a tunnel.
    pub l4_len: usize,
    /// Where the IP packet ends by its own length field, at most the frame's length; what follows is padding.
    pub ip_end: usize,
    /// The IP length field says more than the frame holds, or a header is cut short.
    pub truncated: bool,
}

impl Parsed {
    /// The VLAN tags found, outermost first.
    #[inline]
    pub fn tags(&self) -> &[Tag] {
        &self.vlans[..self.vlan_count.min(MAX_TAGS)]
    }

    /// Where L3 starts.
    #[inline]
    pub fn l3_off(&self) -> usize {
        self.l2_len
    }

    /// Whether L3 is a whole IPv4 or IPv6 header.
    #[inline]
    pub fn is_ip(&self) -> bool {
        matches!(self.l3, L3::Ipv4 | L3::Ipv6)
    }

    /// Whether an IPv4 header carries options.
    #[inline]
    pub fn ipv4_options(&self) -> bool {
        self.l3 == L3::Ipv4 && self.l3_len > 20
    }

    /// All headers up to the payload.
    #[inline]
    pub fn header_len(&self) -> usize {
        if self.l4_off == 0 {
            self.l2_len
        } else {
            self.l4_off + self.l4_len
        }
    }

    /// What the IP packet carries after the L4 header; empty without one.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if self.l4 == L4::None {
            return &[];
        }
        frame.get(self.l4_off + self.l4_len..self.ip_end).unwrap_or(&[])
    }

    /// Source and destination address, which stand next to each other: 8 or 32 bytes; empty without an IP header.
    #[inline]
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (at, len) = match self.l3 {
            L3::Ipv4 => (12, 8),
            L3::Ipv6 => (8, 32),
            _ => return &[],
        };
        frame.get(self.l2_len + at..self.l2_len + at + len).unwrap_or(&[])
    }

    /// Source address, 4 or 16 bytes; empty without an IP header.
    pub fn src_addr<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (at, len) = match self.l3 {
            L3::Ipv4 => (12, 4),
            L3::Ipv6 => (8, 16),
            _ => return &[],
        };
        frame.get(self.l2_len + at..self.l2_len + at + len).unwrap_or(&[])
    }

    /// Destination address, 4 or 16 bytes; empty without an IP header.
    pub fn dst_addr<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (at, len) = match self.l3 {
            L3::Ipv4 => (16, 4),
            L3::Ipv6 => (24, 16),
            _ => return &[],
        };
        frame.get(self.l2_len + at..self.l2_len + at + len).unwrap_or(&[])
    }

    /// Source port of TCP, UDP or SCTP.
    #[inline]
    pub fn src_port(&self, frame: &[u8]) -> Option<u16> {
        if self.has_ports() {
            be16(frame, self.l4_off)
        } else {
            None
        }
    }

    /// Destination port of TCP, UDP or SCTP.
    #[inline]
    pub fn dst_port(&self, frame: &[u8]) -> Option<u16> {
        if self.has_ports() {
            be16(frame, self.l4_off + 2)
        } else {
            None
        }
    }

    /// Whether L4 starts with two ports.
    #[inline]
    pub fn has_ports(&self) -> bool {
        matches!(self.l4, L4::Tcp | L4::Udp | L4::Sctp)
    }

    /// Whether this looks like VXLAN (UDP to port 4789, RFC 7348).
    pub fn is_vxlan(&self, frame: &[u8]) -> bool {
        self.l4 == L4::Udp && self.dst_port(frame) == Some(4789)
    }
}

/// Finds the headers of an Ethernet frame. Never fails: what it does not understand stays `None` in the result.
pub fn parse(frame: &[u8]) -> Parsed {
    let mut p = Parsed::default();
    let Some(mut kind) = be16(frame, 12) else {
        p.truncated = true;
        return p;
    };
    p.l2_len = ETH_HLEN;
    while matches!(kind, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_LEGACY)
        && p.vlan_count < MAX_TAGS
    {
        let (Some(tci), Some(inner)) = (be16(frame, p.l2_len), be16(frame, p.l2_len + 2)) else {
            p.truncated = true;
            break;
        };
        p.vlans[p.vlan_count] = Tag { tpid: kind, tci };
        p.vlan_count += 1;
        p.l2_len += VLAN_HLEN;
        kind = inner;
    }
    p.ethertype = kind;
    p.ip_end = frame.len();
    match kind {
        ethertype::IPV4 => ipv4(frame, &mut p),
        ethertype::IPV6 => ipv6(frame, &mut p),
        ethertype::ARP => {
            p.l3 = L3::Arp;
            p.truncated |= frame.len() < p.l2_len + 28;
        }
        _ => {}
    }
    p
}

/// RFC 791.
#[inline]
fn ipv4(frame: &[u8], p: &mut Parsed) {
    let Some(packet) = frame.get(p.l2_len..).filter(|packet| packet.len() >= 20) else {
        p.truncated = true;
        return;
    };
    let header = usize::from(packet[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if packet[0] >> 4 != 4 || header < 20 || total < header {
        return;
    }
    if header > packet.len() {
        p.truncated = true;
        return;
    }
    p.truncated |= total > packet.len();
    p.l3 = L3::Ipv4;
    p.l3_len = header;
    p.ip_end = p.l2_len + total.min(packet.len());
    p.proto = packet[9];
    p.l4_off = p.l2_len + header;
    let flags = u16::from_be_bytes([packet[6], packet[7]]);
    p.fragment = fragment(flags & 0x1fff, flags & 0x2000 != 0);
    l4(frame, p);
}

/// RFC 8200; the chain of extension headers ends at the first header that is not one, or at the packet's end.
fn ipv6(frame: &[u8], p: &mut Parsed) {
    let Some(packet) = frame.get(p.l2_len..).filter(|packet| packet.len() >= 40) else {
        p.truncated = true;
        return;
    };
    if packet[0] >> 4 != 6 {
        return;
    }
    let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    p.truncated |= total > packet.len();
    let packet = &packet[..total.min(packet.len())];
    p.l3 = L3::Ipv6;
    p.ip_end = p.l2_len + packet.len();
    let mut next = packet[6];
    let mut at = 40;
    loop {
        let len = match next {
            ipproto::HOPOPTS
            | ipproto::ROUTING
            | ipproto::DSTOPTS
            | ipproto::MOBILITY
            | ipproto::HIP
            | ipproto::SHIM6 => packet.get(at + 1).map(|units| 8 + usize::from(*units) * 8),
            ipproto::AH => packet.get(at + 1).map(|units| 8 + usize::from(*units) * 4),
            ipproto::FRAGMENT => Some(8),
            _ => break,
        };
        let Some(header) = len.and_then(|len| packet.get(at..at + len)) else {
            p.truncated = true;
            p.l3_len = at;
            p.proto = next;
            p.l4_off = p.l2_len + at;
            return;
        };
        if next == ipproto::ROUTING {
            p.routing_pending |= header[3] != 0;
        }
        if next == ipproto::FRAGMENT && p.fragment == Fragment::No {
            let word = u16::from_be_bytes([header[2], header[3]]);
            p.fragment = fragment(word >> 3, word & 1 != 0);
        }
        p.ipv6_ext = true;
        next = header[0];
        at += header.len();
        if p.fragment == Fragment::Later {
            break; // what follows belongs to the first fragment's chain
        }
    }
    p.l3_len = at;
    p.proto = next;
    p.l4_off = p.l2_len + at;
    l4(frame, p);
}

#[inline]
fn fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::No,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

#[inline]
fn l4(frame: &[u8], p: &mut Parsed) {
    if p.fragment == Fragment::Later {
        return;
    }
    let Some(data) = frame.get(p.l4_off..p.ip_end) else {
        p.truncated = true;
        return;
    };
    let v4 = p.l3 == L3::Ipv4;
    let (kind, len) = match p.proto {
        ipproto::TCP => (L4::Tcp, data.get(12).map_or(20, |b| usize::from(b >> 4) * 4)),
        ipproto::UDP => (L4::Udp, 8),
        ipproto::SCTP => (L4::Sctp, 12),
        ipproto::ICMP if v4 => (L4::Icmp, 8),
        ipproto::ICMPV6 if !v4 => (L4::Icmpv6, 8),
        ipproto::IPIP => (L4::Ipip, 0),
        ipproto::IPV6 => (L4::Ip6inIp, 0),
        ipproto::GRE => (L4::Gre, 0),
        ipproto::ESP => (L4::Esp, 0),
        _ => return,
    };
    if kind == L4::Tcp && len < 20 {
        return;
    }
    if len > data.len() {
        p.truncated = true;
        return;
    }
    p.l4 = kind;
    p.l4_len = len;
}
