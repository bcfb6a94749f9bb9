//! A snapshot of the host's routes, for `bpf_fib_lookup` and `bpf_check_mtu`.
//!
//! Somebody who can ask the kernel builds a [`Routes`] out of plain [`Link`]s, [`Route`]s, [`Rule`]s, [`Neighbour`]s and
//! [`Address`]es, and publishes it on a [`RouteFeed`]; each worker's instance reads the newest one without a lock
//! ([`feed`]). [`lookup`] is what the helpers do with it, step by step as net/core/filter.c of the kernel does.

mod feed;
mod lookup;
mod table;

use std::collections::HashMap;
use std::net::IpAddr;

pub use feed::RouteFeed;
pub(crate) use feed::RouteReader;
pub(crate) use lookup::PARAMS;
use table::Tables;

/// `RT_TABLE_DEFAULT`, `_MAIN` and `_LOCAL` (linux/rtnetlink.h).
const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name; rules name interfaces by it.
    pub name: String,
    /// MTU, and that of IPv6 (`net.ipv6.conf.NAME.mtu`).
    pub mtu: u32,
    /// See `mtu`.
    pub mtu6: u32,
    /// Bytes of its link-layer header (`hard_header_len`): 14 for Ethernet.
    pub header_len: u32,
    /// Its own address.
    pub mac: [u8; 6],
    /// Whether IPv4 is forwarded (`net.ipv4.conf.NAME.forwarding`).
    pub forward4: bool,
    /// Whether IPv6 is forwarded (`net.ipv6.conf.NAME.forwarding`).
    pub forward6: bool,
    /// Loopback and point-to-point links have one neighbour for all addresses.
    pub one_neighbour: bool,
    /// The table of the VRF that it is or belongs to.
    pub vrf: Option<u32>,
}

/// What a route does with a packet (`RTN_*` of linux/rtnetlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteKind {
    /// Send it on.
    #[default]
    Unicast,
    /// Drop it.
    Blackhole,
    /// Drop it and say that there is no way.
    Unreachable,
    /// Drop it and say that it is forbidden.
    Prohibit,
    /// Go on with the next rule.
    Throw,
    /// Local, broadcast, multicast, anycast: for this host, never forwarded.
    NotForwarded,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Interface.
    pub ifindex: u32,
    /// Router; `None` on a link that has the destination itself.
    pub gateway: Option<IpAddr>,
    /// Its share of the flows, from 1.
    pub weight: u32,
    /// Whether it cannot be used now (`RTNH_F_DEAD`, or `RTNH_F_LINKDOWN` where such hops are ignored).
    pub down: bool,
    /// Whether it wraps packets (MPLS, SRv6, ...), which no helper does.
    pub encapsulates: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub to: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// What it does.
    pub kind: RouteKind,
    /// TOS that a packet must have, 0 for any (IPv4).
    pub tos: u8,
    /// Priority; the lowest wins.
    pub metric: u32,
    /// `RT_SCOPE_*`, 0 is universe.
    pub scope: u8,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// MTU metric, and whether it is locked.
    pub mtu: Option<u32>,
    /// See `mtu`.
    pub mtu_locked: bool,
    /// Where to; several share the flows by weight.
    pub hops: Vec<Hop>,
}

/// What a rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// A look into a table.
    Table(u32),
    /// A look into the table of the packet's VRF.
    Vrf,
    /// On with the rules of this priority.
    Goto(u32),
    /// On with the next rule.
    Nop,
    /// Drop.
    Blackhole,
    /// Drop and say that there is no way.
    Unreachable,
    /// Drop and say that it is forbidden.
    Prohibit,
}

/// A rule of the policy database (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is about IPv6.
    pub v6: bool,
    /// Order.
    pub priority: u32,
    /// Whether it is for packets that do not match.
    pub invert: bool,
    /// Source prefix.
    pub from: Option<(IpAddr, u8)>,
    /// Destination prefix.
    pub to: Option<(IpAddr, u8)>,
    /// Interface the packet came in by, by name.
    pub iif: Option<String>,
    /// Interface the packet is to leave by, by name.
    pub oif: Option<String>,
    /// Mark and the bits of it that count.
    pub mark: Option<(u32, u32)>,
    /// TOS, 0 for any.
    pub tos: u8,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Source ports, both ends included.
    pub sport: Option<(u16, u16)>,
    /// Destination ports.
    pub dport: Option<(u16, u16)>,
    /// Ignore routes with a prefix of at most this length.
    pub suppress: Option<u8>,
    /// What it leads to.
    pub action: RuleAction,
}

/// A neighbour whose address may be used (`NUD_VALID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: [u8; 6],
}

/// An address of the host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// Whether it may be a packet's source: not secondary (IPv4), not tentative or deprecated (IPv6).
    pub source: bool,
}

/// A snapshot; empty unless filled, and then every lookup says that there is no such device.
#[derive(Debug, Default)]
pub struct Routes {
    links: HashMap<u32, Link>,
    v4: Tables,
    v6: Tables,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    addresses: Vec<Address>,
}

impl Routes {
    /// A snapshot with these interfaces and no routes yet.
    pub fn new(links: impl IntoIterator<Item = Link>) -> Routes {
        Routes {
            links: links.into_iter().map(|l| (l.index, l)).collect(),
            ..Routes::default()
        }
    }

    /// Adds routes.
    pub fn with_routes(mut self, routes: impl IntoIterator<Item = Route>) -> Routes {
        for route in routes {
            match route.to {
                IpAddr::V4(_) => self.v4.add(route),
                IpAddr::V6(_) => self.v6.add(route),
            }
        }
        self
    }

    /// Replaces the rules. Without rules there are the kernel's own: local, main, default.
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Routes {
        let (six, four) = rules.into_iter().partition(|r| r.v6);
        let index = |name: &str| self.links.values().find(|l| l.name == name).map(|l| l.index);
        self.v4.set_rules(four, index);
        self.v6.set_rules(six, index);
        self
    }

    /// Adds neighbours.
    pub fn with_neighbours(mut self, neighbours: impl IntoIterator<Item = Neighbour>) -> Routes {
        self.neighbours
            .extend(neighbours.into_iter().map(|n| ((n.ifindex, n.address), n.mac)));
        self
    }

    /// Adds addresses of the host's own.
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = Address>) -> Routes {
        self.addresses.extend(addresses);
        self
    }
}
