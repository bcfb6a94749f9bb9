//! From rtnetlink's messages to a snapshot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_ebpf::routes::{self as ours, Routes};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, InfoVrf, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::dump::Everything;

/// `RTAX_MTU`'s bit in the mask of locked metrics (linux/rtnetlink.h).
const LOCKED_MTU: u32 = 1 << 2;

pub fn routes(all: &Everything) -> Routes {
    let found: Vec<Found> = all.links.iter().map(link).collect();
    let vrfs: HashMap<u32, u32> = found
        .iter()
        .filter_map(|f| Some((f.link.index, f.own_table?)))
        .collect();
    let ignore_down: HashMap<u32, [bool; 2]> = found.iter().map(|f| (f.link.index, f.ignore_down)).collect();
    let links = found.into_iter().map(|f| ours::Link {
        vrf: f.own_table.or_else(|| vrfs.get(&f.master?).copied()),
        ..f.link
    });
    Routes::new(links)
        .with_routes(all.routes.iter().filter_map(|r| route(r, &ignore_down)))
        .with_rules(all.rules.iter().filter_map(rule))
        .with_neighbours(all.neighbours.iter().filter_map(neighbour))
        .with_addresses(all.addresses.iter().filter_map(address))
}

struct Found {
    link: ours::Link,
    master: Option<u32>,
    /// The table that it is the VRF of.
    own_table: Option<u32>,
    /// Whether routes over it are ignored while it has no carrier: IPv4, IPv6.
    ignore_down: [bool; 2],
}

fn link(message: &LinkMessage) -> Found {
    let header = &message.header;
    let ethernet = matches!(
        header.link_layer_type,
        LinkLayerType::Ether | LinkLayerType::Loopback
    );
    let mut found = Found {
        link: ours::Link {
            index: header.index,
            header_len: if ethernet { 14 } else { 0 },
            one_neighbour: header
                .flags
                .intersects(LinkFlags::Loopback | LinkFlags::Pointopoint),
            ..ours::Link::default()
        },
        master: None,
        own_table: None,
        ignore_down: [false; 2],
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => found.link.mtu = *mtu,
            LinkAttribute::Controller(index) => found.master = Some(*index),
            LinkAttribute::Address(bytes) => {
                if let Some(mac) = bytes.first_chunk::<6>() {
                    found.link.mac = *mac;
                }
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vrf(vrf)) = info {
                        found.own_table = vrf.iter().find_map(|v| match v {
                            InfoVrf::TableId(table) => Some(*table),
                            _ => None,
                        });
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(specs) => specs.iter().for_each(|s| family(&mut found, s)),
            _ => {}
        }
    }
    if found.link.mtu6 == 0 {
        found.link.mtu6 = found.link.mtu;
    }
    found
}

/// Settings of one address family on an interface.
fn family(found: &mut Found, spec: &AfSpecUnspec) {
    match spec {
        AfSpecUnspec::Inet(parts) => {
            for part in parts {
                if let AfSpecInet::DevConf(conf) = part {
                    found.link.forward4 = conf.forwarding != 0;
                    found.ignore_down[0] = conf.ignore_routes_with_linkdown != 0;
                }
            }
        }
        AfSpecUnspec::Inet6(parts) => {
            for part in parts {
                if let AfSpecInet6::DevConf(conf) = part {
                    found.link.forward6 = conf.forwarding != 0 || conf.force_forwarding != 0;
                    found.link.mtu6 = u32::try_from(conf.mtu6).unwrap_or(0);
                    found.ignore_down[1] = conf.ignore_routes_with_linkdown != 0;
                }
            }
        }
        _ => {}
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn route(message: &RouteMessage, ignore_down: &HashMap<u32, [bool; 2]>) -> Option<ours::Route> {
    let header = &message.header;
    let v6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    // Routes learnt by a redirect or a path MTU, and those by source, which no longer exist for packets in transit.
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length != 0 {
        return None;
    }
    let mut out = ours::Route {
        table: header.table.into(),
        to: if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        },
        prefix: header.destination_prefix_length,
        kind: match header.kind {
            RouteType::Unicast => ours::RouteKind::Unicast,
            RouteType::BlackHole => ours::RouteKind::Blackhole,
            RouteType::Unreachable => ours::RouteKind::Unreachable,
            RouteType::Prohibit => ours::RouteKind::Prohibit,
            RouteType::Throw => ours::RouteKind::Throw,
            _ => ours::RouteKind::NotForwarded,
        },
        tos: header.tos,
        metric: 0,
        scope: header.scope.into(),
        source: None,
        mtu: None,
        mtu_locked: false,
        hops: Vec::new(),
    };
    let down = |index: u32, dead: bool, linkdown: bool| {
        let ignored = ignore_down.get(&index).is_some_and(|i| i[usize::from(v6)]);
        dead || (linkdown && ignored)
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => out.table = *table,
            RouteAttribute::Destination(to) => out.to = ip(to)?,
            RouteAttribute::Priority(metric) => out.metric = *metric,
            RouteAttribute::PrefSource(source) => out.source = ip(source),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => out.mtu = Some(*mtu),
                        RouteMetric::Lock(mask) => out.mtu_locked = mask & LOCKED_MTU != 0,
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                out.hops = hops
                    .iter()
                    .map(|h| {
                        let dead = h.flags.contains(RouteNextHopFlags::Dead);
                        let linkdown = h.flags.contains(RouteNextHopFlags::Linkdown);
                        one_of_several(h, down(h.interface_index, dead, linkdown))
                    })
                    .collect();
            }
            _ => {}
        }
    }
    if out.hops.is_empty() {
        let (ifindex, gateway, encapsulates) = way(&message.attributes);
        // Refusing routes lead nowhere, or to the loopback.
        let ifindex = ifindex.unwrap_or(0);
        let dead = header.flags.contains(RouteFlags::Dead);
        let linkdown = header.flags.contains(RouteFlags::Linkdown);
        out.hops.push(ours::Hop {
            ifindex,
            gateway,
            weight: 1,
            down: down(ifindex, dead, linkdown),
            encapsulates,
        });
    }
    Some(out)
}

/// Interface, router and whether packets are wrapped.
fn way(attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>, bool) {
    let (mut interface, mut gateway, mut encapsulates) = (None, None, false);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => encapsulates = true,
            _ => {}
        }
    }
    (interface, gateway, encapsulates)
}

fn one_of_several(hop: &RouteNextHop, down: bool) -> ours::Hop {
    let (_, gateway, encapsulates) = way(&hop.attributes);
    ours::Hop {
        ifindex: hop.interface_index,
        gateway,
        // `rtnh_hops` is the weight less one.
        weight: u32::from(hop.hops) + 1,
        down,
        encapsulates,
    }
}

fn rule(message: &RuleMessage) -> Option<ours::Rule> {
    let header = &message.header;
    let v6 = match header.family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let (mut goto, mut vrf) = (0, false);
    let (mut mark, mut mask) = (None, u32::MAX);
    let mut out = ours::Rule {
        v6,
        priority: 0,
        invert: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        tos: header.tos,
        protocol: None,
        sport: None,
        dport: None,
        suppress: None,
        action: ours::RuleAction::Nop,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Destination(to) => out.to = Some((*to, header.dst_len)),
            RuleAttribute::Source(from) => out.from = Some((*from, header.src_len)),
            RuleAttribute::Iifname(name) => out.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => out.oif = Some(name.clone()),
            RuleAttribute::Goto(priority) => goto = *priority,
            RuleAttribute::Priority(priority) => out.priority = *priority,
            RuleAttribute::FwMark(bits) => mark = Some(*bits),
            RuleAttribute::FwMask(bits) => mask = *bits,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::L3MDev(on) => vrf = *on,
            RuleAttribute::IpProtocol(protocol) => out.protocol = u8::try_from(i32::from(*protocol)).ok(),
            RuleAttribute::SourcePortRange(range) => out.sport = Some((range.start, range.end)),
            RuleAttribute::DestinationPortRange(range) => out.dport = Some((range.start, range.end)),
            // All ones says that there is none.
            RuleAttribute::SuppressPrefixLen(len) => out.suppress = u8::try_from(*len).ok(),
            _ => {}
        }
    }
    out.mark = mark.map(|mark| (mark, mask));
    out.action = match header.action {
        RuleAction::ToTable if vrf => ours::RuleAction::Vrf,
        RuleAction::ToTable => ours::RuleAction::Table(table),
        RuleAction::Goto => ours::RuleAction::Goto(goto),
        RuleAction::Blackhole => ours::RuleAction::Blackhole,
        RuleAction::Unreachable => ours::RuleAction::Unreachable,
        RuleAction::Prohibit => ours::RuleAction::Prohibit,
        _ => ours::RuleAction::Nop,
    };
    Some(out)
}

fn neighbour(message: &NeighbourMessage) -> Option<ours::Neighbour> {
    let valid = matches!(
        message.header.state,
        NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Reachable
            | NeighbourState::Probe
            | NeighbourState::Stale
            | NeighbourState::Delay
    );
    let mut out = ours::Neighbour {
        ifindex: message.header.ifindex,
        address: Ipv4Addr::UNSPECIFIED.into(),
        mac: [0; 6],
    };
    let mut addressed = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                (out.address, addressed) = ((*v4).into(), true);
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                (out.address, addressed) = ((*v6).into(), true);
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                if let Some(mac) = bytes.first_chunk::<6>() {
                    out.mac = *mac;
                }
            }
            _ => {}
        }
    }
    (valid && addressed).then_some(out)
}

fn address(message: &AddressMessage) -> Option<ours::Address> {
    let header = &message.header;
    let (mut own, mut other) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let address = own.or(other)?;
    let out_of_use = if address.is_ipv4() {
        AddressFlags::Secondary
    } else {
        AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated
    };
    Some(ours::Address {
        ifindex: header.index,
        address,
        prefix: header.prefix_len,
        scope: header.scope.into(),
        source: !flags.intersects(out_of_use),
    })
}
