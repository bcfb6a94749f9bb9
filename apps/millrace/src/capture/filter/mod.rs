//! Which frames a capture wants: a subset of tcpdump's expressions (pcap-filter(7)), parsed here, because libpcap's compiler
//! is a C library with a parser of its own, and some primitives cover what people type.
//!
//! ```text
//! expression  = term (("and" | "&&" | "or" | "||") term)*      from left to right, as tcpdump has it
//! term        = ("not" | "!") term | "(" expression ")" | primitive
//! primitive   = ip | ip6 | arp | tcp | udp | icmp | icmp6 | igmp | sctp | esp | ah | vrrp | pim
//!             | vlan [ID] | less N | greater N | len OP N | [ip | ip6] proto PROTOCOL | ether proto N|ip|ip6|arp
//!             | [tcp | udp | sctp] [DIR] port PORT | ... portrange A-B
//!             | [ip | ip6 | arp] [DIR] [host] ADDRESS
//!             | [ip | ip6 | arp] [DIR] net ADDRESS/LENGTH | net 10.1 | net ADDRESS mask MASK
//!             | ether [DIR] [host] MAC | [ether] broadcast | [ether | ip | ip6] multicast
//!             | HEADER "[" OFFSET [":" SIZE] "]" ["&" N] OP N
//! DIR         = src | dst | src or dst | src and dst
//! HEADER      = ether | ip | ip6 | arp | tcp | udp | sctp | icmp | icmp6
//! OP          = "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
//! ```
//!
//! An address or port that stands alone behind `and` or `or` is of the kind named before it: `port 80 or 443`. Ports may be
//! names of /etc/services, and what is behind `[` and `&` names as `tcpflags`, `tcp-syn`, `icmptype`. Addresses are IPv4 or IPv6.
//!
//! Unlike tcpdump's, what stands behind `vlan` needs no such word: headers are found behind up to two tags in any case, and
//! so are those behind IPv6 extension headers. `tcp[...]` looks into IPv6 as well.

mod parse;
#[cfg(test)]
mod tcpdump_tests;
mod words;

use millrace_nic_models::packet::{L3, L4, Parsed, parse};

/// Deepest nesting of parentheses and `not`.
const DEPTH: usize = 32;
/// Most words of an expression.
const WORDS: usize = 1024;

/// A parsed expression. The empty one wants every frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter(Option<Expr>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Is(Primitive),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Primitive {
    L3(L3),
    L4(L4),
    Proto(Option<L3>, u8),
    Vlan(Option<u16>),
    AtMost(usize),
    AtLeast(usize),
    Port(Option<L4>, Side, u16, u16),
    /// Address in network order and how many of its bits count; of which packets.
    Net(Option<L3>, Side, Vec<u8>, u32),
    Ether(Side, [u8; 6]),
    /// EtherType behind tags.
    Ethertype(u16),
    /// The low bit of the destination's first byte.
    EtherMulticast,
    /// 224.0.0.0/4 and ff00::/8.
    IpMulticast(L3),
    Length(Relation, u64),
    /// A number at an offset of a header, of 1, 2 or 4 bytes; its bits that count.
    Bytes(Header, usize, usize, u64, Relation, u64),
}

/// Where bytes are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Ether,
    L3(L3),
    L4(L4),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    Not,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Relation {
    fn holds(self, a: u64, b: u64) -> bool {
        match self {
            Relation::Equal => a == b,
            Relation::Not => a != b,
            Relation::Less => a < b,
            Relation::AtMost => a <= b,
            Relation::Greater => a > b,
            Relation::AtLeast => a >= b,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
    Both,
}

impl Side {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Side::Source => source,
            Side::Destination => destination,
            Side::Either => source || destination,
            Side::Both => source && destination,
        }
    }
}

/// An expression that is none, with what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "filter: {0}; write such as `udp port 53 and not src net 10.0.0.0/8`, or see `millrace capture --help` for what is understood"
)]
pub(crate) struct FilterError(String);

impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Filter, FilterError> {
        let words = words::split(text);
        if words.len() > WORDS {
            return Err(FilterError(format!("more than {WORDS} words")));
        }
        if words.is_empty() {
            return Ok(Filter::default());
        }
        Ok(Filter(Some(parse::expression(&words)?)))
    }

    /// Whether it wants this frame, of `len` bytes as a whole, of which `data` is what lies in its first buffer.
    pub(crate) fn wants(&self, data: &[u8], len: usize) -> bool {
        match &self.0 {
            None => true,
            Some(expr) => holds(expr, data, len, &parse(data)),
        }
    }
}

fn holds(expr: &Expr, frame: &[u8], len: usize, parsed: &Parsed) -> bool {
    match expr {
        Expr::All(all) => all.iter().all(|e| holds(e, frame, len, parsed)),
        Expr::Any(any) => any.iter().any(|e| holds(e, frame, len, parsed)),
        Expr::Not(not) => !holds(not, frame, len, parsed),
        Expr::Is(primitive) => is(primitive, frame, len, parsed),
    }
}

fn is(primitive: &Primitive, frame: &[u8], len: usize, parsed: &Parsed) -> bool {
    match primitive {
        Primitive::L3(l3) => parsed.l3 == *l3,
        // Of a later fragment the protocol is known, the header is not there.
        Primitive::L4(l4) => parsed.l4 == *l4 || (parsed.is_ip() && protocol(*l4) == Some(parsed.proto)),
        Primitive::Proto(family, proto) => {
            parsed.is_ip() && parsed.proto == *proto && family.is_none_or(|family| family == parsed.l3)
        }
        Primitive::Vlan(id) => (parsed.tags().iter()).any(|tag| id.is_none_or(|id| tag.tci & 0xfff == id)),
        Primitive::AtMost(most) => len <= *most,
        Primitive::AtLeast(least) => len >= *least,
        Primitive::Port(l4, side, low, high) => {
            let within = |port: Option<u16>| port.is_some_and(|port| (*low..=*high).contains(&port));
            l4.is_none_or(|l4| parsed.l4 == l4)
                && side.holds(within(parsed.src_port(frame)), within(parsed.dst_port(frame)))
        }
        Primitive::Net(family, side, net, bits) => {
            if family.is_some_and(|family| family != parsed.l3) {
                return false;
            }
            let (source, destination) = if parsed.is_ip() {
                (parsed.src_addr(frame), parsed.dst_addr(frame))
            } else if parsed.l3 == L3::Arp {
                // ARP's sender and target, as tcpdump has it.
                let at = |off: usize| {
                    frame
                        .get(parsed.l3_off() + off..parsed.l3_off() + off + 4)
                        .unwrap_or_default()
                };
                (at(14), at(24))
            } else {
                return false;
            };
            side.holds(same(source, net, *bits), same(destination, net, *bits))
        }
        Primitive::Ether(side, mac) => {
            let at = |from: usize| frame.get(from..from + 6) == Some(&mac[..]);
            side.holds(at(6), at(0))
        }
        Primitive::Ethertype(ethertype) => parsed.ethertype == *ethertype,
        Primitive::EtherMulticast => frame.first().is_some_and(|byte| byte & 1 != 0),
        Primitive::IpMulticast(family) => {
            let first = parsed.dst_addr(frame).first();
            parsed.l3 == *family
                && match family {
                    L3::Ipv4 => first.is_some_and(|byte| byte >> 4 == 0xe),
                    _ => first == Some(&0xff),
                }
        }
        Primitive::Length(relation, n) => relation.holds(len as u64, *n),
        Primitive::Bytes(header, off, size, mask, relation, n) => {
            let from = match header {
                Header::Ether => Some(0),
                Header::L3(l3) => (parsed.l3 == *l3).then(|| parsed.l3_off()),
                Header::L4(l4) => (parsed.l4 == *l4).then_some(parsed.l4_off),
            };
            let bytes = from.and_then(|from| frame.get(from + off..from + off + size));
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
            bytes.is_some_and(|bytes| relation.holds(number(bytes) & mask, *n))
        }
    }
}

fn protocol(l4: L4) -> Option<u8> {
    match l4 {
        L4::Tcp => Some(6),
        L4::Udp => Some(17),
        L4::Sctp => Some(132),
        L4::Icmp => Some(1),
        L4::Icmpv6 => Some(58),
        _ => None,
    }
}

fn same(address: &[u8], net: &[u8], bits: u32) -> bool {
    let whole = bits as usize / 8;
    let rest = bits % 8;
    address.len() == net.len()
        && address[..whole] == net[..whole]
        && (rest == 0 || (address[whole] ^ net[whole]) >> (8 - rest) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: [u8; 4], destination: [u8; 4], sport: u16, dport: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(sport.to_be_bytes());
        frame.extend(dport.to_be_bytes());
        frame.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    fn tagged(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
        frame
    }

    fn wants(text: &str, frame: &[u8]) -> bool {
        Filter::parse(text).expect(text).wants(frame, frame.len())
    }

    #[test]
    fn conditions_hold_for_the_frames_they_name() {
        let frame = udp([10, 1, 2, 3], [192, 0, 2, 9], 1234, 53);
        for text in [
            "",
            "ip",
            "udp",
            "udp port 53",
            "port 1234",
            "src port 1234 and dst port 53",
            "udp dst portrange 50-60",
            "host 10.1.2.3",
            "10.1.2.3",
            "src 10.1.2.3",
            "dst host 192.0.2.9",
            "src net 10.0.0.0/8",
            "net 10.1.2.0/23",
            "ether src 02:00:00:00:00:01",
            "ether host 02:00:00:00:00:02",
            "ip proto 17",
            "proto 17",
            "less 100 && greater 46",
            "not tcp",
            "!(tcp or arp)",
            "tcp or udp and port 53",
            "port 80 or 53",
            "host 10.9.9.9 or 10.1.2.3",
            "src or dst port 53",
            "src net 10 and dst net 192.0.2",
            "net 10.1.0.0 mask 255.255.0.0",
            "ip src 10.1.2.3 and ip[9] == 17 and ip[0] & 0x0f = 5",
            "udp[2:2]=53 and len>=46 and len != 47",
            "ether proto 0x0800 and ether[12:2] == 0x0800",
            "ip proto \\udp",
            "not multicast and not broadcast",
        ] {
            assert!(wants(text, &frame), "{text:?}");
            assert!(
                text.is_empty() || !wants(&format!("not ({text})"), &frame),
                "{text:?}"
            );
        }
        for text in [
            "ip6",
            "arp",
            "tcp",
            "tcp port 53",
            "src port 53",
            "dst 10.1.2.3",
            "net 10.1.0.0/23",
            "host 2001:db8::1",
            "ip6 proto 17",
            "vlan",
            "greater 1000",
            "ether dst 02:00:00:00:00:01",
            "src and dst net 10.0.0.0/8",
            "ip6 host 10.1.2.3 or arp host 10.1.2.3",
            "tcp[tcpflags] & tcp-syn != 0",
            "udp[40:4] >= 0",
            // From left to right: (udp or tcp) and port 80.
            "udp or tcp and port 80",
        ] {
            assert!(!wants(text, &frame), "{text:?}");
        }
        let frame = tagged(frame, 42);
        assert!(
            wants("vlan", &frame) && wants("vlan 42 and udp port 53", &frame) && !wants("vlan 43", &frame)
        );
    }

    #[test]
    fn what_is_no_expression_is_refused_by_the_word_that_is_wrong() {
        for (text, word) in [
            ("tcp port", "missing"),
            ("port no-such-service", "no-such-service"),
            ("(tcp", "not closed"),
            ("tcp)", "\")\""),
            ("host nowhere.example", "nowhere.example"),
            ("10.0.0.0/8", "write net"),
            ("net 10.0.0.0/33", "/33"),
            ("tcp src 10.0.0.1", "10.0.0.1"),
            ("udp and", "missing"),
            ("ether host 1:2:3", "1:2:3"),
            ("portrange 5", "\"5\""),
            ("tcp[1:3] = 0", "1, 2 or 4"),
            ("tcp[tcpflags = 2", "not closed"),
            ("ip[0]", "comparison"),
            ("tcp or 80", "\"80\""),
            ("net 1.2.3.4.5", "1.2.3.4.5"),
        ] {
            let error = Filter::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(Filter::parse(&"not ".repeat(40)).is_err());
        assert!(Filter::parse(&"(".repeat(500)).is_err());
        assert!(Filter::parse(&"tcp or ".repeat(600)).is_err());
    }

    #[test]
    fn frames_that_are_cut_short_are_judged_by_what_is_there() {
        let whole = udp([10, 1, 2, 3], [192, 0, 2, 9], 1234, 53);
        for len in 0..whole.len() {
            for text in [
                "port 53",
                "host 10.1.2.3",
                "ether src 02:00:00:00:00:01",
                "arp or vlan 3",
                "less 5",
            ] {
                let _ = wants(text, &whole[..len]);
            }
        }
    }
}
