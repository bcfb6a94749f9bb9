//! The parser of capture filters.

use super::{DEPTH, Expr, FilterError, Header, L3, L4, Primitive, Relation, Side, words};
use std::net::{IpAddr, Ipv4Addr};

/// The expression that all of these words are.
pub(super) fn expression(words: &[String]) -> Result<Expr, FilterError> {
    let mut parser = Parser { words, kind: None };
    let expr = parser.expression(DEPTH)?;
    match parser.words.first() {
        None => Ok(expr),
        Some(word) => Err(unexpected(word)),
    }
}

fn unexpected(word: &str) -> FilterError {
    FilterError(format!("{word:?} is not expected there"))
}

/// What the last address or port was named as, for those that stand alone behind it.
#[derive(Clone, Copy)]
enum Kind {
    Port(Option<L4>, Side),
    PortRange(Option<L4>, Side),
    Host(Option<L3>, Side),
    Net(Option<L3>, Side),
}

struct Parser<'a> {
    words: &'a [String],
    kind: Option<Kind>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.words.first().map_or("", String::as_str)
    }

    fn next(&mut self, what: &str) -> Result<&'a str, FilterError> {
        let (first, rest) = self
            .words
            .split_first()
            .ok_or_else(|| FilterError(format!("{what} is missing at the end")))?;
        self.words = rest;
        Ok(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.first().is_some_and(|first| first == word);
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
        if matches!(self.peek(), "src" | "dst") {
            return self.sided(None);
        }
        let word = self.next("a condition")?;
        if let Some(header) = header(word)
            && self.peek().starts_with('[')
        {
            return self.bytes(header);
        }
        let l3 = match word {
            "ip" => Some(L3::Ipv4),
            "ip6" => Some(L3::Ipv6),
            "arp" => Some(L3::Arp),
            _ => None,
        };
        if let Some(l3) = l3 {
            return self.of_family(l3);
        }
        let l4 = match word {
            "tcp" => Some(L4::Tcp),
            "udp" => Some(L4::Udp),
            "sctp" => Some(L4::Sctp),
            _ => None,
        };
        if let Some(l4) = l4 {
            if !matches!(self.peek(), "src" | "dst" | "port" | "portrange") {
                return Ok(Primitive::L4(l4));
            }
            let side = self.side()?;
            let word = self.next("port")?;
            let error = || FilterError(format!("{word:?} stands where port or portrange was expected"));
            return self.port(Some(l4), side, word)?.ok_or_else(error);
        }
        match word {
            "icmp" => Ok(Primitive::L4(L4::Icmp)),
            "icmp6" => Ok(Primitive::L4(L4::Icmpv6)),
            "igmp" | "vrrp" | "pim" | "esp" | "ah" => {
                let of = matches!(word, "igmp" | "vrrp").then_some(L3::Ipv4);
                let proto = words::protocol(word).ok_or_else(|| unexpected(word))?;
                Ok(Primitive::Proto(of, proto))
            }
            "proto" => Ok(Primitive::Proto(None, self.protocol()?)),
            "less" => Ok(Primitive::AtMost(self.number("a length")?)),
            "greater" => Ok(Primitive::AtLeast(self.number("a length")?)),
            "len" => {
                let relation = self.relation()?;
                Ok(Primitive::Length(relation, self.number("a length")?))
            }
            "vlan" => {
                let id = self.words.first().and_then(|word| words::number(word));
                if id.is_some() {
                    self.words = &self.words[1..];
                }
                let id = id.map(|id| {
                    let tag = u16::try_from(id).ok().filter(|id| *id < 4096);
                    tag.ok_or_else(|| FilterError(format!("{id} is no VLAN; they are 0 to 4095")))
                });
                Ok(Primitive::Vlan(id.transpose()?))
            }
            "broadcast" => Ok(Primitive::Ether(Side::Destination, [0xff; 6])),
            "multicast" => Ok(Primitive::EtherMulticast),
            "ether" => self.ether(),
            "port" | "portrange" | "host" | "net" => self.plain(None, Side::Either, word),
            other => self.alone(other),
        }
    }

    /// Behind `ip`, `ip6` or `arp`.
    fn of_family(&mut self, l3: L3) -> Result<Primitive, FilterError> {
        match self.peek() {
            "proto" if l3 != L3::Arp => {
                self.skip("proto");
                Ok(Primitive::Proto(Some(l3), self.protocol()?))
            }
            "multicast" if l3 != L3::Arp => {
                self.skip("multicast");
                Ok(Primitive::IpMulticast(l3))
            }
            "src" | "dst" | "host" | "net" => self.sided(Some(l3)),
            _ => Ok(Primitive::L3(l3)),
        }
    }

    fn ether(&mut self) -> Result<Primitive, FilterError> {
        if self.skip("proto") {
            let word = self.next("a protocol")?;
            let ethertype = match word {
                "ip" => Some(0x0800),
                "arp" => Some(0x0806),
                "ip6" => Some(0x86dd),
                other => words::number(other).and_then(|n| n.try_into().ok()),
            };
            return ethertype
                .map(Primitive::Ethertype)
                .ok_or_else(|| unexpected(word));
        }
        if self.skip("broadcast") {
            return Ok(Primitive::Ether(Side::Destination, [0xff; 6]));
        }
        if self.skip("multicast") {
            return Ok(Primitive::EtherMulticast);
        }
        let side = self.side()?;
        self.skip("host");
        Ok(Primitive::Ether(side, self.mac()?))
    }

    /// `src`, `dst`, `src or dst`, `src and dst`, or none of them.
    fn side(&mut self) -> Result<Side, FilterError> {
        let first = self.peek();
        if !matches!(first, "src" | "dst") {
            return Ok(Side::Either);
        }
        self.skip(first);
        let other = if first == "src" { "dst" } else { "src" };
        let both = self.words.get(1).is_some_and(|word| word == other);
        let side = match (self.peek(), first) {
            ("or", _) if both => Side::Either,
            ("and", _) if both => Side::Both,
            (_, "src") => return Ok(Side::Source),
            _ => return Ok(Side::Destination),
        };
        self.words = &self.words[2..];
        Ok(side)
    }

    fn sided(&mut self, family: Option<L3>) -> Result<Primitive, FilterError> {
        let side = self.side()?;
        let word = self.next("an address or a port")?;
        self.plain(family, side, word)
    }

    /// An address, a network or a port, `word` being its first word.
    fn plain(&mut self, family: Option<L3>, side: Side, word: &str) -> Result<Primitive, FilterError> {
        if family.is_none()
            && let Some(port) = self.port(None, side, word)?
        {
            return Ok(port);
        }
        match word {
            "net" => {
                self.kind = Some(Kind::Net(family, side));
                let word = self.next("a network")?;
                self.net(family, side, word)
            }
            word => {
                self.kind = Some(Kind::Host(family, side));
                let word = if word == "host" {
                    self.next("an address")?
                } else {
                    word
                };
                host(family, side, word)
            }
        }
    }

    /// A word without one that says what it is: an address, or of the kind of the one before.
    fn alone(&mut self, word: &str) -> Result<Primitive, FilterError> {
        match self.kind {
            Some(Kind::Port(l4, side)) if word.parse::<IpAddr>().is_err() => {
                let port = words::port(word).ok_or_else(|| unexpected(word))?;
                Ok(Primitive::Port(l4, side, port, port))
            }
            Some(Kind::PortRange(l4, side)) if word.parse::<IpAddr>().is_err() => range(l4, side, word),
            Some(Kind::Net(family, side)) => self.net(family, side, word),
            Some(Kind::Host(family, side)) => host(family, side, word),
            _ => {
                self.kind = Some(Kind::Host(None, Side::Either));
                host(None, Side::Either, word)
            }
        }
    }

    /// `10.0.0.0/8`, `10.1` for 10.1.0.0/16, or an address and `mask`.
    fn net(&mut self, family: Option<L3>, side: Side, word: &str) -> Result<Primitive, FilterError> {
        let wrong = || FilterError(format!("{word:?} is no network such as 10.0.0.0/8"));
        let (address, length) = match word.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (word, None),
        };
        let mut bytes = match address.parse() {
            Ok(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Ok(IpAddr::V6(v6)) => v6.octets().to_vec(),
            Err(_) => {
                let parts: Option<Vec<u8>> = address.split('.').map(|part| part.parse().ok()).collect();
                parts.filter(|parts| parts.len() < 4).ok_or_else(wrong)?
            }
        };
        let given = bytes.len() as u32 * 8;
        bytes.resize(bytes.len().max(4), 0);
        let bits = bytes.len() as u32 * 8;
        let length = match length {
            None if given == 32 && self.skip("mask") => {
                let mask = self.next("a mask")?;
                let parsed = mask.parse::<Ipv4Addr>().ok().map(u32::from);
                let ones = parsed.filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= 32);
                ones.ok_or_else(|| FilterError(format!("{mask:?} is no mask such as 255.255.0.0")))?
                    .leading_ones()
            }
            None => given,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= bits)
                .ok_or_else(|| FilterError(format!("/{length} is no prefix length of {address}")))?,
        };
        Ok(Primitive::Net(family, side, bytes, length))
    }

    fn port(&mut self, l4: Option<L4>, side: Side, word: &str) -> Result<Option<Primitive>, FilterError> {
        match word {
            "port" => {
                self.kind = Some(Kind::Port(l4, side));
                let word = self.next("a port")?;
                let port = words::port(word).ok_or_else(|| {
                    FilterError(format!(
                        "{word:?} is neither a port's number nor a name in /etc/services"
                    ))
                })?;
                Ok(Some(Primitive::Port(l4, side, port, port)))
            }
            "portrange" => {
                self.kind = Some(Kind::PortRange(l4, side));
                let word = self.next("a range of ports")?;
                range(l4, side, word).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Behind the name of a header: `[off:size] & mask relation number`.
    fn bytes(&mut self, header: Header) -> Result<Primitive, FilterError> {
        let word = self.next("an offset")?;
        let inner = word.strip_prefix('[').and_then(|word| word.strip_suffix(']'));
        let inner = inner.ok_or_else(|| FilterError(format!("the bracket of {word:?} is not closed")))?;
        let (off, size) = inner.split_once(':').unwrap_or((inner, "1"));
        let off = words::number(off)
            .filter(|off| *off <= 0xffff)
            .ok_or_else(|| FilterError(format!("{off:?} is no offset")))?;
        let size = match size {
            "1" => 1,
            "2" => 2,
            "4" => 4,
            other => {
                return Err(FilterError(format!(
                    "{other:?} bytes cannot be compared; take 1, 2 or 4"
                )));
            }
        };
        let mask = if self.skip("&") { self.flags()? } else { u64::MAX };
        let relation = self.relation()?;
        let value = self.flags()?;
        Ok(Primitive::Bytes(
            header,
            off as usize,
            size,
            mask,
            relation,
            value,
        ))
    }

    /// A number, or several in parentheses with `|` between them.
    fn flags(&mut self) -> Result<u64, FilterError> {
        if !self.skip("(") {
            return self.number("a number");
        }
        let mut all = self.number("a number")?;
        while self.skip("|") {
            all |= self.number::<u64>("a number")?;
        }
        match self.skip(")") {
            true => Ok(all),
            false => Err(FilterError("a parenthesis is not closed".into())),
        }
    }

    fn relation(&mut self) -> Result<Relation, FilterError> {
        let word = self.next("a comparison such as `!= 0`")?;
        Ok(match word {
            "=" => Relation::Equal,
            "!=" => Relation::Not,
            "<" => Relation::Less,
            "<=" => Relation::AtMost,
            ">" => Relation::Greater,
            ">=" => Relation::AtLeast,
            other => {
                return Err(FilterError(format!(
                    "{other:?} stands where a comparison was expected"
                )));
            }
        })
    }

    fn number<N: TryFrom<u64>>(&mut self, what: &str) -> Result<N, FilterError> {
        let word = self.next(what)?;
        words::number(word)
            .and_then(|n| n.try_into().ok())
            .ok_or_else(|| FilterError(format!("{word:?} is not {what} in numbers")))
    }

    fn protocol(&mut self) -> Result<u8, FilterError> {
        let word = self.next("a protocol")?;
        words::protocol(word).ok_or_else(|| FilterError(format!("{word:?} is no protocol")))
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

/// The header that a word before a bracket names.
fn header(word: &str) -> Option<Header> {
    Some(match word {
        "ether" => Header::Ether,
        "ip" => Header::L3(L3::Ipv4),
        "ip6" => Header::L3(L3::Ipv6),
        "arp" => Header::L3(L3::Arp),
        "tcp" => Header::L4(L4::Tcp),
        "udp" => Header::L4(L4::Udp),
        "sctp" => Header::L4(L4::Sctp),
        "icmp" => Header::L4(L4::Icmp),
        "icmp6" => Header::L4(L4::Icmpv6),
        _ => return None,
    })
}

fn host(family: Option<L3>, side: Side, word: &str) -> Result<Primitive, FilterError> {
    if word.contains('/') {
        return Err(FilterError(format!("{word:?} is a network; write net before it")));
    }
    let address: IpAddr = word
        .parse()
        .map_err(|_| FilterError(format!("{word:?} is neither a known word nor an address")))?;
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bits = bytes.len() as u32 * 8;
    Ok(Primitive::Net(family, side, bytes, bits))
}

fn range(l4: Option<L4>, side: Side, word: &str) -> Result<Primitive, FilterError> {
    let ends = word
        .split_once('-')
        .and_then(|(low, high)| Some((words::port(low)?, words::port(high)?)));
    let (low, high) = ends.ok_or_else(|| FilterError(format!("{word:?} is no range such as 8000-8080")))?;
    Ok(Primitive::Port(l4, side, low.min(high), low.max(high)))
}
