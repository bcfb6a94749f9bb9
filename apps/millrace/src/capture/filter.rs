//! Which frames a capture wants: a subset of tcpdump's expressions (pcap-filter(7)), parsed here, because libpcap's compiler
//! is a C library with a parser of its own, and a few primitives cover what people type.
//!
//! ```text
//! expression  = term (("and" | "&&" | "or" | "||") term)*      from left to right, as tcpdump has it
//! term        = ("not" | "!") term | "(" expression ")" | primitive
//! primitive   = ip | ip6 | arp | tcp | udp | icmp | icmp6 | sctp
//!             | vlan [ID] | less N | greater N | [ip | ip6] proto N
//!             | [tcp | udp | sctp] [src | dst] port N | ... portrange A-B
//!             | [src | dst] [host] ADDRESS | [src | dst] net ADDRESS/LENGTH | ether [src | dst] [host] MAC
//! ```
//!
//! Addresses are IPv4 or IPv6. Unlike tcpdump's, what stands behind `vlan` needs no such word: headers are found behind up
//! to two tags in any case.

use millrace_nic_models::packet::{L3, L4, Parsed, parse};
use std::net::IpAddr;

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
    /// Address in network order and how many of its bits count.
    Net(Side, Vec<u8>, u32),
    Ether(Side, [u8; 6]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

impl Side {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Side::Source => source,
            Side::Destination => destination,
            Side::Either => source || destination,
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
        let spaced = text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace("&&", " and ")
            .replace("||", " or ")
            .replace('!', " not ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        if words.len() > WORDS {
            return Err(FilterError(format!("more than {WORDS} words")));
        }
        if words.is_empty() {
            return Ok(Filter::default());
        }
        let mut parser = Parser { words: &words };
        let expr = parser.expression(DEPTH)?;
        match parser.words.first() {
            None => Ok(Filter(Some(expr))),
            Some(word) => Err(FilterError(format!("{word:?} is not expected there"))),
        }
    }

    /// Whether it wants this frame, of `len` bytes as a whole, of which `data` is what lies in its first buffer.
    pub(crate) fn wants(&self, data: &[u8], len: usize) -> bool {
        match &self.0 {
            None => true,
            Some(expr) => holds(expr, data, len, &parse(data)),
        }
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, FilterError> {
        let (first, rest) = self
            .words
            .split_first()
            .ok_or_else(|| FilterError(format!("{what} is missing at the end")))?;
        self.words = rest;
        Ok(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let mut left = self.term(depth)?;
        loop {
            // Of equal rank, from left to right.
            if self.skip("and") {
                left = Expr::All(vec![left, self.term(depth)?]);
            } else if self.skip("or") {
                left = Expr::Any(vec![left, self.term(depth)?]);
            } else {
                return Ok(left);
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(FilterError(format!("nested deeper than {DEPTH}")));
        };
        if self.skip("not") {
            return Ok(Expr::Not(Box::new(self.term(depth)?)));
        }
        if self.skip("(") {
            let inner = self.expression(depth)?;
            return if self.skip(")") {
                Ok(inner)
            } else {
                Err(FilterError("a parenthesis is not closed".into()))
            };
        }
        self.primitive().map(Expr::Is)
    }

    fn primitive(&mut self) -> Result<Primitive, FilterError> {
        let word = self.next("a condition")?;
        let family = match word {
            "ip" => Some(L3::Ipv4),
            "ip6" => Some(L3::Ipv6),
            _ => None,
        };
        if let Some(family) = family {
            return if self.skip("proto") {
                Ok(Primitive::Proto(Some(family), self.number("a protocol")?))
            } else {
                Ok(Primitive::L3(family))
            };
        }
        let l4 = match word {
            "tcp" => Some(L4::Tcp),
            "udp" => Some(L4::Udp),
            "sctp" => Some(L4::Sctp),
            _ => None,
        };
        if let Some(l4) = l4 {
            let wants_port = |word: &&str| matches!(*word, "src" | "dst" | "port" | "portrange");
            if self.words.first().is_some_and(wants_port) {
                let side = self.side();
                let word = self.next("port")?;
                return self.port(Some(l4), side, word)?.ok_or_else(|| {
                    FilterError(format!("{word:?} stands where port or portrange was expected"))
                });
            }
            return Ok(Primitive::L4(l4));
        }
        match word {
            "arp" => Ok(Primitive::L3(L3::Arp)),
            "icmp" => Ok(Primitive::L4(L4::Icmp)),
            "icmp6" => Ok(Primitive::L4(L4::Icmpv6)),
            "proto" => Ok(Primitive::Proto(None, self.number("a protocol")?)),
            "less" => Ok(Primitive::AtMost(self.number("a length")?)),
            "greater" => Ok(Primitive::AtLeast(self.number("a length")?)),
            "vlan" => {
                let id = self.words.first().and_then(|word| word.parse().ok());
                if id.is_some() {
                    self.words = &self.words[1..];
                }
                Ok(Primitive::Vlan(id))
            }
            "ether" => {
                let side = self.side();
                self.skip("host");
                Ok(Primitive::Ether(side, self.mac()?))
            }
            "src" => self.sided(Side::Source),
            "dst" => self.sided(Side::Destination),
            other => self.plain(Side::Either, other),
        }
    }

    fn side(&mut self) -> Side {
        if self.skip("src") {
            Side::Source
        } else if self.skip("dst") {
            Side::Destination
        } else {
            Side::Either
        }
    }

    fn sided(&mut self, side: Side) -> Result<Primitive, FilterError> {
        let word = self.next("an address or a port")?;
        self.plain(side, word)
    }

    fn plain(&mut self, side: Side, word: &str) -> Result<Primitive, FilterError> {
        if let Some(port) = self.port(None, side, word)? {
            return Ok(port);
        }
        let (address, is_net) = match word {
            "host" => (self.next("an address")?, false),
            "net" => (self.next("a network")?, true),
            other => (other, false),
        };
        let (address, length) = match address.split_once('/') {
            Some((address, length)) if is_net => (address, Some(length)),
            Some(_) => {
                return Err(FilterError(format!(
                    "{address:?} is a network; write net before it"
                )));
            }
            None => (address, None),
        };
        let parsed: IpAddr = address
            .parse()
            .map_err(|_| FilterError(format!("{address:?} is neither a known word nor an address")))?;
        let bytes = match parsed {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bits = bytes.len() as u32 * 8;
        let length = match length {
            None => bits,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or_else(|| FilterError(format!("/{length} is no prefix length of {address}")))?,
        };
        Ok(Primitive::Net(side, bytes, length))
    }

    fn port(&mut self, l4: Option<L4>, side: Side, word: &str) -> Result<Option<Primitive>, FilterError> {
        match word {
            "port" => {
                let port = self.number("a port")?;
                Ok(Some(Primitive::Port(l4, side, port, port)))
            }
            "portrange" => {
                let range = self.next("a range of ports")?;
                let ends = range.split_once('-');
                let ends = ends.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                let (low, high) =
                    ends.ok_or_else(|| FilterError(format!("{range:?} is no range such as 8000-8080")))?;
                Ok(Some(Primitive::Port(l4, side, low, high)))
            }
            _ => Ok(None),
        }
    }

    fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, FilterError> {
        let word = self.next(what)?;
        word.parse()
            .map_err(|_| FilterError(format!("{word:?} is not {what} in numbers")))
    }

    fn mac(&mut self) -> Result<[u8; 6], FilterError> {
        let word = self.next("a MAC address")?;
        let bytes: Option<Vec<u8>> = word
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok())
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| FilterError(format!("{word:?} is no MAC address")))
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
        Primitive::Net(side, net, bits) => {
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
            ("port http", "\"http\""),
            ("(tcp", "not closed"),
            ("tcp)", "\")\""),
            ("host nowhere.example", "nowhere.example"),
            ("10.0.0.0/8", "write net"),
            ("net 10.0.0.0/33", "/33"),
            ("tcp src 10.0.0.1", "10.0.0.1"),
            ("udp and", "missing"),
            ("ether host 1:2:3", "1:2:3"),
            ("portrange 5", "\"5\""),
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
