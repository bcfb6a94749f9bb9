//! Building well-formed frames, for tests and for the traffic generator.
//!
//! ```
//! # use millrace_nic_models::packet::{build::Frame, checksum, parse, ChecksumStatus};
//! let frame = Frame::new()
//!     .macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]) // source, destination
//!     .vlan(42)
//!     .ipv4([10, 0, 0, 1], [10, 0, 0, 2])
//!     .udp(1234, 53)
//!     .payload(b"hello")
//!     .build();
//! assert_eq!(checksum::verify_l4(&frame, &parse(&frame)), ChecksumStatus::Good);
//! ```

use super::vlan::Tag;
use super::{Fragment, L4, checksum, ethertype, ipproto, parse, put16, segment::tcp_flags};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame being put together, layer by layer from the outside in. Lengths, protocol numbers and checksums are filled in
/// by [`Frame::build`]. Calling an L3 method twice makes a tunnel (IPIP, IP6IP6 and the mixed ones).
#[derive(Clone, Debug)]
pub struct Frame {
    src: [u8; 6],
    dst: [u8; 6],
    tags: Vec<Tag>,
    ethertype: Option<u16>,
    ip: Vec<Ip>,
    l4: Transport,
    payload: Vec<u8>,
    min_len: usize,
    checksums: Checksums,
}

#[derive(Clone, Debug)]
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    tos: u8,
    id: u16,
    /// Flags and fragment offset in IPv4's layout, also for IPv6 (offset in 8-byte units).
    fragment: u16,
    /// IPv4 options, padded to 4 bytes; for IPv6 the body of a destination options header.
    options: Vec<u8>,
    proto: Option<u8>,
}

#[derive(Clone, Debug)]
enum Transport {
    None,
    Tcp {
        ports: [u16; 2],
        seq: u32,
        ack: u32,
        flags: u16,
        window: u16,
        options: Vec<u8>,
    },
    Udp {
        ports: [u16; 2],
        no_checksum: bool,
    },
    Sctp {
        ports: [u16; 2],
    },
    Icmp {
        kind: u8,
        code: u8,
        rest: [u8; 4],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksums {
    Good,
    BadIp,
    BadL4,
    /// L4 field holds the pseudo header's sum, as virtio-net and NICs want it for checksum offload.
    Partial {
        with_length: bool,
    },
}

impl Default for Frame {
    fn default() -> Frame {
        Frame {
            src: [0x02, 0, 0, 0, 0, 0x01],
            dst: [0x02, 0, 0, 0, 0, 0x02],
            tags: Vec::new(),
            ethertype: None,
            ip: Vec::new(),
            l4: Transport::None,
            payload: Vec::new(),
            min_len: 0,
            checksums: Checksums::Good,
        }
    }
}

impl Frame {
    /// An empty frame from 02:00:00:00:00:01 to 02:00:00:00:00:02.
    pub fn new() -> Frame {
        Frame::default()
    }

    /// MAC addresses: source, destination.
    pub fn macs(mut self, src: [u8; 6], dst: [u8; 6]) -> Frame {
        (self.src, self.dst) = (src, dst);
        self
    }

    /// Adds an 802.1Q tag inside those already there. The value is the whole TCI: a VLAN id with priority 0.
    pub fn vlan(self, tci: u16) -> Frame {
        self.tag(Tag::new(tci))
    }

    /// Adds a tag with a TPID of its own.
    pub fn tag(mut self, tag: Tag) -> Frame {
        self.tags.push(tag);
        self
    }

    /// Sets the EtherType; needed only for frames without IP.
    pub fn ethertype(mut self, value: u16) -> Frame {
        self.ethertype = Some(value);
        self
    }

    /// Adds an IPv4 header: source, destination.
    pub fn ipv4(self, src: impl Into<Ipv4Addr>, dst: impl Into<Ipv4Addr>) -> Frame {
        self.push_ip(IpAddr::V4(src.into()), IpAddr::V4(dst.into()))
    }

    /// Adds an IPv6 header: source, destination.
    pub fn ipv6(self, src: impl Into<Ipv6Addr>, dst: impl Into<Ipv6Addr>) -> Frame {
        self.push_ip(IpAddr::V6(src.into()), IpAddr::V6(dst.into()))
    }

    /// Adds an IP header of the addresses' family; where they differ, both become IPv6 (mapped).
    pub fn ip(self, src: IpAddr, dst: IpAddr) -> Frame {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(src, dst),
            (IpAddr::V4(src), IpAddr::V6(dst)) => self.ipv6(src.to_ipv6_mapped(), dst),
            (IpAddr::V6(src), IpAddr::V4(dst)) => self.ipv6(src, dst.to_ipv6_mapped()),
        }
    }

    fn push_ip(mut self, src: IpAddr, dst: IpAddr) -> Frame {
        self.ip.push(Ip {
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 0,
            fragment: 0,
            options: Vec::new(),
            proto: None,
        });
        self
    }

    fn with_ip(mut self, set: impl FnOnce(&mut Ip)) -> Frame {
        if let Some(ip) = self.ip.last_mut() {
            set(ip);
        }
        self
    }

    /// TTL or hop limit of the innermost IP header so far.
    pub fn ttl(self, ttl: u8) -> Frame {
        self.with_ip(|ip| ip.ttl = ttl)
    }

    /// Type of service or traffic class of the innermost IP header so far.
    pub fn tos(self, tos: u8) -> Frame {
        self.with_ip(|ip| ip.tos = tos)
    }

    /// IPv4 identification, or that of an IPv6 fragment header.
    pub fn ip_id(self, id: u16) -> Frame {
        self.with_ip(|ip| ip.id = id)
    }

    /// Sets IPv4's "don't fragment".
    pub fn dont_fragment(self) -> Frame {
        self.with_ip(|ip| ip.fragment |= 0x4000)
    }

    /// Makes the packet a fragment: offset in bytes (a multiple of 8), more to come. An IPv6 packet gets a fragment header.
    pub fn fragment(self, offset: u16, more: bool) -> Frame {
        self.with_ip(|ip| ip.fragment = (offset / 8) | if more { 0x2000 } else { 0 })
    }

    /// IPv4 options (padded with zeros to 4 bytes, at most 40), or the options in an IPv6 destination options header.
    pub fn options(self, options: &[u8]) -> Frame {
        self.with_ip(|ip| ip.options = options.to_vec())
    }

    /// Protocol number of the innermost IP header where no L4 method fits.
    pub fn proto(self, proto: u8) -> Frame {
        self.with_ip(|ip| ip.proto = Some(proto))
    }

    /// A TCP header (ACK set, window 65535): source port, destination port.
    pub fn tcp(mut self, src: u16, dst: u16) -> Frame {
        self.l4 = Transport::Tcp {
            ports: [src, dst],
            seq: 1,
            ack: 1,
            flags: tcp_flags::ACK,
            window: 0xffff,
            options: Vec::new(),
        };
        self
    }

    /// TCP flags, see [`tcp_flags`].
    pub fn flags(mut self, value: u16) -> Frame {
        if let Transport::Tcp { flags, .. } = &mut self.l4 {
            *flags = value;
        }
        self
    }

    /// TCP sequence and acknowledgement numbers.
    pub fn seq(mut self, seq_no: u32, ack_no: u32) -> Frame {
        if let Transport::Tcp { seq, ack, .. } = &mut self.l4 {
            (*seq, *ack) = (seq_no, ack_no);
        }
        self
    }

    /// TCP options, padded with zeros to 4 bytes, at most 40.
    pub fn tcp_options(mut self, value: &[u8]) -> Frame {
        if let Transport::Tcp { options, .. } = &mut self.l4 {
            *options = value.to_vec();
        }
        self
    }

    /// A UDP header: source port, destination port.
    pub fn udp(mut self, src: u16, dst: u16) -> Frame {
        self.l4 = Transport::Udp {
            ports: [src, dst],
            no_checksum: false,
        };
        self
    }

    /// UDP without a checksum (field 0).
    pub fn no_udp_checksum(mut self) -> Frame {
        if let Transport::Udp { no_checksum, .. } = &mut self.l4 {
            *no_checksum = true;
        }
        self
    }

    /// An SCTP common header (the payload is its chunks): source port, destination port.
    pub fn sctp(mut self, src: u16, dst: u16) -> Frame {
        self.l4 = Transport::Sctp { ports: [src, dst] };
        self
    }

    /// An ICMP or ICMPv6 header, by the IP version: type, code, the four bytes after the checksum.
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Frame {
        self.l4 = Transport::Icmp { kind, code, rest };
        self
    }

    /// An echo request of the IP version's ICMP: identifier, sequence number.
    pub fn ping(self, id: u16, seq: u16) -> Frame {
        let v6 = self.ip.last().is_some_and(|ip| ip.dst.is_ipv6());
        let ([a, b], [c, d]) = (id.to_be_bytes(), seq.to_be_bytes());
        self.icmp(if v6 { 128 } else { 8 }, 0, [a, b, c, d])
    }

    /// What follows the last header.
    pub fn payload(mut self, payload: &[u8]) -> Frame {
        self.payload = payload.to_vec();
        self
    }

    /// Pads the frame with zeros behind the packet up to `len` bytes (60 is Ethernet's shortest).
    pub fn pad_to(mut self, len: usize) -> Frame {
        self.min_len = len;
        self
    }

    /// Makes the innermost IPv4 header checksum wrong.
    pub fn bad_ip_checksum(mut self) -> Frame {
        self.checksums = Checksums::BadIp;
        self
    }

    /// Makes the L4 checksum wrong.
    pub fn bad_l4_checksum(mut self) -> Frame {
        self.checksums = Checksums::BadL4;
        self
    }

    /// Leaves the pseudo header's sum in the L4 checksum field for an offload to finish; `with_length` as for plain
    /// checksum offload, without as NICs want it for TSO.
    pub fn partial_l4_checksum(mut self, with_length: bool) -> Frame {
        self.checksums = Checksums::Partial { with_length };
        self
    }

    /// An ARP packet: operation (1 request, 2 reply), sender MAC and address, target MAC and address.
    pub fn arp(
        op: u16,
        sender: ([u8; 6], impl Into<Ipv4Addr>),
        target: ([u8; 6], impl Into<Ipv4Addr>),
    ) -> Frame {
        let mut body = vec![0, 1, 8, 0, 6, 4];
        body.extend_from_slice(&op.to_be_bytes());
        body.extend_from_slice(&sender.0);
        body.extend_from_slice(&sender.1.into().octets());
        body.extend_from_slice(&target.0);
        body.extend_from_slice(&target.1.into().octets());
        let to = if op == 1 { [0xff; 6] } else { target.0 };
        Frame::new()
            .macs(sender.0, to)
            .ethertype(ethertype::ARP)
            .payload(&body)
    }

    /// The bytes, without FCS.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128 + self.payload.len());
        frame.extend_from_slice(&self.dst);
        frame.extend_from_slice(&self.src);
        for tag in &self.tags {
            frame.extend_from_slice(&tag.tpid.to_be_bytes());
            frame.extend_from_slice(&tag.tci.to_be_bytes());
        }
        let by_ip = self.ip.first().map(|ip| {
            if ip.src.is_ipv4() {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            }
        });
        frame.extend_from_slice(&self.ethertype.or(by_ip).unwrap_or(0).to_be_bytes());

        let mut starts = Vec::with_capacity(self.ip.len());
        for (i, ip) in self.ip.iter().enumerate() {
            starts.push(frame.len());
            let inner = match self.ip.get(i + 1) {
                Some(inner) if inner.src.is_ipv4() => ipproto::IPIP,
                Some(_) => ipproto::IPV6,
                None => ip.proto.unwrap_or_else(|| self.l4.proto(ip.src.is_ipv6())),
            };
            ip.push_header(&mut frame, inner);
        }
        let l4_off = frame.len();
        let later = self.ip.last().is_some_and(|ip| ip.fragment & 0x1fff != 0);
        if !later {
            self.l4.push_header(&mut frame);
        }
        frame.extend_from_slice(&self.payload);

        let l4_len = frame.len() - l4_off;
        if matches!(self.l4, Transport::Udp { .. }) && !later {
            put16(&mut frame, l4_off + 4, l4_len as u16);
        }
        for (i, ip) in self.ip.iter().enumerate().rev() {
            ip.finish(
                &mut frame,
                starts[i],
                self.checksums == Checksums::BadIp && i + 1 == self.ip.len(),
            );
        }
        if let Some(at) = starts.last() {
            self.finish_l4(&mut frame, *at, l4_off);
        }
        if frame.len() < self.min_len {
            frame.resize(self.min_len, 0);
        }
        frame
    }

    /// Fills the L4 checksum of the innermost packet, by looking at it as a frame of its own.
    fn finish_l4(&self, frame: &mut [u8], ip_at: usize, l4_off: usize) {
        if matches!(
            self.l4,
            Transport::None
                | Transport::Udp {
                    no_checksum: true,
                    ..
                }
        ) {
            return;
        }
        let v4 = self.ip.last().is_some_and(|ip| ip.src.is_ipv4());
        let mut copy = vec![0; 12];
        copy.extend_from_slice(&(if v4 { ethertype::IPV4 } else { ethertype::IPV6 }).to_be_bytes());
        copy.extend_from_slice(&frame[ip_at..]);
        let p = parse(&copy);
        if p.fragment == Fragment::Later || p.l4 == L4::None {
            return;
        }
        let Some(field) = checksum::l4_field(p.l4) else {
            return;
        };
        let at = l4_off + field;
        match self.checksums {
            Checksums::Partial { with_length } if p.l4 != L4::Sctp => {
                let len = if with_length { p.ip_end - p.l4_off } else { 0 };
                let sum = checksum::pseudo(&copy, &p, len).unwrap_or(0);
                put16(frame, at, checksum::fold(sum));
                return;
            }
            _ => checksum::fill_l4(&mut copy, &p),
        };
        let field_len = if p.l4 == L4::Sctp { 4 } else { 2 };
        frame[at..at + field_len].copy_from_slice(&copy[p.l4_off + field..p.l4_off + field + field_len]);
        if self.checksums == Checksums::BadL4 {
            frame[at] ^= 0x55;
        }
    }
}

impl Ip {
    fn push_header(&self, frame: &mut Vec<u8>, proto: u8) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let options = padded(&self.options, 4);
                frame.extend_from_slice(&[0x45 + (options.len() / 4) as u8, self.tos, 0, 0]);
                frame.extend_from_slice(&self.id.to_be_bytes());
                frame.extend_from_slice(&self.fragment.to_be_bytes());
                frame.extend_from_slice(&[self.ttl, proto, 0, 0]);
                frame.extend_from_slice(&src.octets());
                frame.extend_from_slice(&dst.octets());
                frame.extend_from_slice(&options);
            }
            (src, dst) => {
                let is_fragment = self.fragment & 0x3fff != 0;
                let after_options = if is_fragment { ipproto::FRAGMENT } else { proto };
                let first = if self.options.is_empty() {
                    after_options
                } else {
                    ipproto::DSTOPTS
                };
                frame.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0, 0, 0, first, self.ttl]);
                for address in [src, dst] {
                    if let IpAddr::V6(address) = address {
                        frame.extend_from_slice(&address.octets());
                    }
                }
                if !self.options.is_empty() {
                    let mut header = vec![after_options, 0];
                    header.extend_from_slice(&self.options);
                    header.resize(header.len().next_multiple_of(8), 0);
                    header[1] = (header.len() / 8 - 1) as u8;
                    frame.extend_from_slice(&header);
                }
                if is_fragment {
                    let word = self.fragment << 3 | (self.fragment >> 13 & 1);
                    frame.extend_from_slice(&[proto, 0]);
                    frame.extend_from_slice(&word.to_be_bytes());
                    frame.extend_from_slice(&[0, 0]);
                    frame.extend_from_slice(&self.id.to_be_bytes());
                }
            }
        }
    }

    /// Length and header checksum, once what it carries is there.
    fn finish(&self, frame: &mut [u8], at: usize, spoil: bool) {
        let len = frame.len() - at;
        if self.src.is_ipv6() {
            put16(frame, at + 4, (len - 40) as u16);
            return;
        }
        put16(frame, at + 2, len as u16);
        let header = usize::from(frame[at] & 0x0f) * 4;
        let value = checksum::checksum(&frame[at..at + header]);
        put16(frame, at + 10, if spoil { value ^ 0x5500 } else { value });
    }
}

impl Transport {
    fn proto(&self, v6: bool) -> u8 {
        match self {
            Transport::None => ipproto::NONE,
            Transport::Tcp { .. } => ipproto::TCP,
            Transport::Udp { .. } => ipproto::UDP,
            Transport::Sctp { .. } => ipproto::SCTP,
            Transport::Icmp { .. } if v6 => ipproto::ICMPV6,
            Transport::Icmp { .. } => ipproto::ICMP,
        }
    }

    fn push_header(&self, frame: &mut Vec<u8>) {
        match self {
            Transport::None => {}
            Transport::Tcp {
                ports,
                seq,
                ack,
                flags,
                window,
                options,
            } => {
                let options = padded(options, 4);
                push_ports(frame, ports);
                frame.extend_from_slice(&seq.to_be_bytes());
                frame.extend_from_slice(&ack.to_be_bytes());
                let words = (5 + options.len() / 4) as u16;
                frame.extend_from_slice(&(words << 12 | flags & 0x0fff).to_be_bytes());
                frame.extend_from_slice(&window.to_be_bytes());
                frame.extend_from_slice(&[0; 4]);
                frame.extend_from_slice(&options);
            }
            Transport::Udp { ports, .. } => {
                push_ports(frame, ports);
                frame.extend_from_slice(&[0; 4]);
            }
            Transport::Sctp { ports } => {
                push_ports(frame, ports);
                frame.extend_from_slice(&[0; 8]);
            }
            Transport::Icmp { kind, code, rest } => {
                frame.extend_from_slice(&[*kind, *code, 0, 0]);
                frame.extend_from_slice(rest);
            }
        }
    }
}

fn push_ports(frame: &mut Vec<u8>, ports: &[u16; 2]) {
    for port in ports {
        frame.extend_from_slice(&port.to_be_bytes());
    }
}

/// Options cut to 40 bytes and padded with zeros.
fn padded(options: &[u8], to: usize) -> Vec<u8> {
    let mut options = options[..options.len().min(40)].to_vec();
    options.resize(options.len().next_multiple_of(to), 0);
    options
}
