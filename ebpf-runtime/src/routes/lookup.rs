//! `bpf_fib_lookup` and `bpf_check_mtu` over a snapshot, in the order of steps of net/core/filter.c
//! (`bpf_ipv4_fib_lookup`, `bpf_ipv6_fib_lookup`, `bpf_xdp_check_mtu`).
//!
//! Not followed: path MTU exceptions, and which of several hops of equal standing the kernel's own hash would take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::table::{Flow, Found, Miss, bits};
use super::{Hop, Link, Route, RouteKind, Routes, TABLE_MAIN};
use crate::Errno;

/// Bytes of `struct bpf_fib_lookup`.
pub(crate) const PARAMS: usize = 64;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

// Flags of bpf_fib_lookup.
const DIRECT: u32 = 1;
const OUTPUT: u32 = 2;
const SKIP_NEIGH: u32 = 4;
const TBID: u32 = 8;
const SRC: u32 = 16;
const MARK: u32 = 32;
const FLAGS: u32 = 63;

/// The loopback device, which packets of the host's own come from.
const LOOPBACK: u32 = 1;
/// `IP_MAX_MTU` (include/net/ip.h); that of IPv6 adds a header (include/net/ip6_route.h).
const IP_MAX_MTU: u32 = 0xffff;
const IP6_MAX_MTU: u32 = 0xffff + 40;
/// What every link must carry (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;
/// `INET_DSCP_MASK`: the low bits of TOS belong to ECN.
const DSCP: u8 = 0xfc;

/// `BPF_FIB_LKUP_RET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
enum Answer {
    Success = 0,
    Blackhole,
    Unreachable,
    Prohibit,
    NotForwarded,
    ForwardingDisabled,
    Encapsulates,
    NoNeighbour,
    FragmentationNeeded,
    NoSourceAddress,
}

/// `struct bpf_fib_lookup`, field by field (linux/bpf.h).
struct Params<'a>(&'a mut [u8; PARAMS]);

impl Params<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn family(&self) -> u8 {
        self.0[0]
    }

    /// Length of the packet, or 0.
    fn tot_len(&self) -> u32 {
        self.u16(6).into()
    }

    fn set_mtu(&mut self, mtu: u32) {
        self.put(6, &(mtu as u16).to_ne_bytes());
    }

    fn ifindex(&self) -> u32 {
        self.u32(8)
    }

    /// Source (0) or destination (16 further).
    fn address(&self, at: usize) -> u128 {
        let (four, six) = (self.0[at..].first_chunk::<4>(), self.0[at..].first_chunk::<16>());
        match (self.family(), four, six) {
            (AF_INET, Some(b), _) => u32::from_be_bytes(*b).into(),
            (_, _, Some(b)) => u128::from_be_bytes(*b),
            _ => 0,
        }
    }

    fn set_address(&mut self, at: usize, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.put(at, &v4.octets()),
            IpAddr::V6(v6) => self.put(at, &v6.octets()),
        }
    }
}

const SOURCE: usize = 16;
const DESTINATION: usize = 32;
const TABLE: usize = 48;
const MARK_AT: usize = 52;
const SMAC: usize = 52;
const DMAC: usize = 58;

impl Routes {
    /// `bpf_fib_lookup(ctx, params, plen, flags)`: a `BPF_FIB_LKUP_RET_*` or an error.
    pub(crate) fn fib_lookup(&self, params: &mut [u8; PARAMS], flags: u32) -> Result<i64, Errno> {
        if flags & !FLAGS != 0 {
            return Err(Errno::INVAL);
        }
        let mut params = Params(params);
        let v6 = match params.family() {
            AF_INET => false,
            AF_INET6 => true,
            _ => return Err(Errno::AFNOSUPPORT),
        };
        if v6
            && [SOURCE, DESTINATION]
                .iter()
                .any(|at| stays_on_link(params.address(*at)))
        {
            return Ok(Answer::NotForwarded as i64);
        }
        let link = self.links.get(&params.ifindex()).ok_or(Errno::NODEV)?;
        let forwards = if v6 { link.forward6 } else { link.forward4 };
        if !forwards {
            return Ok(Answer::ForwardingDisabled as i64);
        }
        let answer = match self.route(&mut params, link, v6, flags) {
            Ok((found, flow)) => self.answer(&mut params, found, &flow, flags),
            Err(Miss::None) => Answer::NotForwarded,
            Err(Miss::Refused(kind)) => refusal(kind),
        };
        Ok(answer as i64)
    }

    fn route(
        &self,
        params: &mut Params<'_>,
        link: &Link,
        v6: bool,
        flags: u32,
    ) -> Result<(Found<'_>, Flow), Miss> {
        let output = flags & OUTPUT != 0;
        let mut flow = Flow {
            v6,
            by_source: !v6 || !output,
            src: params.address(SOURCE),
            dst: params.address(DESTINATION),
            iif: if output { LOOPBACK } else { link.index },
            oif: if output { link.index } else { 0 },
            prefer: link.index,
            tos: if v6 { 0 } else { params.0[12] & DSCP },
            protocol: params.0[1],
            sport: u16::from_be(params.u16(2)),
            dport: u16::from_be(params.u16(4)),
            mark: 0,
            vrf: link.vrf,
        };
        let tables = if v6 { &self.v6 } else { &self.v4 };
        let found = if flags & DIRECT != 0 {
            let mut table = link.vrf.unwrap_or(TABLE_MAIN);
            if flags & TBID != 0 {
                table = params.u32(TABLE);
                params.put(TABLE, &[0; 4]);
            }
            // 0 stands for the main table (fib_get_table, fib6_get_table).
            let table = if table == 0 { TABLE_MAIN } else { table };
            if !tables.has(table) {
                return Err(Miss::None);
            }
            tables.in_table(table, &flow)?
        } else {
            if flags & MARK != 0 {
                flow.mark = params.u32(MARK_AT);
            }
            tables.by_rules(&flow)?
        };
        Ok((found, flow))
    }

    fn answer(&self, params: &mut Params<'_>, found: Found<'_>, flow: &Flow, flags: u32) -> Answer {
        let route = found.route;
        match route.kind {
            RouteKind::Unicast => {}
            other => return refusal(other),
        }
        let hop = path(found, flow);
        let Some(link) = self.links.get(&hop.ifindex) else {
            return Answer::NotForwarded;
        };
        let locked = route.mtu.filter(|_| route.mtu_locked);
        let mtu = locked.unwrap_or(if flow.v6 {
            link.mtu6.clamp(IPV6_MIN_MTU, IP6_MAX_MTU)
        } else {
            link.mtu.min(IP_MAX_MTU)
        });
        if params.tot_len() > mtu {
            params.set_mtu(mtu);
            return Answer::FragmentationNeeded;
        }
        if hop.encapsulates {
            return Answer::Encapsulates;
        }
        params.put(12, &route.metric.to_ne_bytes());
        params.put(8, &link.index.to_ne_bytes());
        if flow.v6 {
            if let Some(gateway) = hop.gateway {
                params.set_address(DESTINATION, gateway);
            }
            if flags & SRC != 0 {
                match route.source.or_else(|| self.source6(link, flow.dst)) {
                    Some(source) => params.set_address(SOURCE, source),
                    None => return Answer::NoSourceAddress,
                }
            }
        } else {
            if flags & SRC != 0 {
                let source = route.source.or_else(|| self.source4(route, hop));
                params.set_address(SOURCE, source.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
            }
            match hop.gateway {
                Some(v6 @ IpAddr::V6(_)) => {
                    params.0[0] = AF_INET6;
                    params.set_address(DESTINATION, v6);
                }
                Some(v4) => params.set_address(DESTINATION, v4),
                None => {}
            }
        }
        if flags & SKIP_NEIGH == 0 {
            let address = params.address(DESTINATION);
            let key = match params.family() {
                AF_INET if link.one_neighbour => Ipv4Addr::UNSPECIFIED.into(),
                AF_INET => IpAddr::V4(Ipv4Addr::from(address as u32)),
                _ => IpAddr::V6(Ipv6Addr::from(address)),
            };
            let Some(mac) = self.neighbours.get(&(link.index, key)) else {
                return Answer::NoNeighbour;
            };
            params.put(DMAC, mac);
            params.put(SMAC, &link.mac);
        }
        params.put(TABLE, &[0; 4]);
        params.set_mtu(mtu);
        Answer::Success
    }

    /// The address that packets by an IPv4 route come from (`fib_info_update_nhc_saddr`, `inet_select_addr`).
    fn source4(&self, route: &Route, hop: &Hop) -> Option<IpAddr> {
        let usable = || {
            let of_v4 = self.addresses.iter().filter(|a| a.address.is_ipv4() && a.source);
            of_v4.filter(|a| a.scope <= route.scope.min(SCOPE_LINK))
        };
        let here = || usable().filter(|a| a.ifindex == hop.ifindex);
        let reaches = |a: &&super::Address| match hop.gateway {
            Some(IpAddr::V4(gateway)) => alike(bits(a.address), u32::from(gateway).into(), 32) >= a.prefix,
            _ => true,
        };
        let chosen = here().find(reaches).or_else(|| here().next());
        chosen.or_else(|| usable().next()).map(|a| a.address)
    }

    /// The address that packets to `dst` come from: one of the link's, in the order of RFC 6724 section 5, rules 2 and 8.
    fn source6(&self, link: &Link, dst: u128) -> Option<IpAddr> {
        let of_v6 = self.addresses.iter().filter(|a| a.address.is_ipv6() && a.source);
        let on_link = of_v6.filter(|a| a.ifindex == link.index);
        let rank = |a: &&super::Address| {
            let own = bits(a.address);
            let narrow = stays_on_link(own) && !stays_on_link(dst);
            (!narrow, alike(own, dst, 128).min(a.prefix))
        };
        // Of equals the first: the kernel keeps the one it met first, too.
        let mut best: Option<(&super::Address, _)> = None;
        for address in on_link {
            let rank = rank(&address);
            if best.is_none_or(|(_, r)| rank > r) {
                best = Some((address, rank));
            }
        }
        best.map(|(a, _)| a.address)
    }

    /// `bpf_check_mtu(ctx, ifindex, mtu_len, len_diff, flags)` for a frame of `len` bytes: the answer
    /// (`BPF_MTU_CHK_RET_*`) and the MTU.
    pub(crate) fn check_mtu(
        &self,
        len: usize,
        ifindex: u32,
        mtu_len: u32,
        len_diff: i32,
        flags: u64,
    ) -> Result<(i64, u32), Errno> {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let link = self.links.get(&ifindex).ok_or(Errno::NODEV)?;
        let length = match mtu_len {
            0 => len as i64,
            l3 => i64::from(l3) + i64::from(link.header_len),
        };
        let most = i64::from(link.mtu) + i64::from(link.header_len);
        let needs = length + i64::from(len_diff) > most;
        Ok((needs.into(), link.mtu))
    }
}

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

fn refusal(kind: RouteKind) -> Answer {
    match kind {
        RouteKind::Blackhole => Answer::Blackhole,
        RouteKind::Unreachable => Answer::Unreachable,
        RouteKind::Prohibit => Answer::Prohibit,
        _ => Answer::NotForwarded,
    }
}

/// Multicast, link-local and loopback addresses of IPv6 (`rt6_need_strict`).
fn stays_on_link(address: u128) -> bool {
    address >> 120 == 0xff || address >> 118 == 0x3fa || address == 1
}

/// How many leading bits two addresses share.
fn alike(a: u128, b: u128, width: u32) -> u8 {
    let same = (a ^ b).leading_zeros() - (128 - width);
    same.min(width) as u8
}

/// The hop of a flow: its route's only one, or one of several by a hash of both addresses and the hops' weights.
fn path<'a>(found: Found<'a>, flow: &Flow) -> &'a Hop {
    let hops = &found.route.hops;
    if hops.len() <= 1 || (flow.oif != 0 && !flow.v6) {
        return found.hop;
    }
    let usable = || hops.iter().filter(|h| !h.down);
    let total: u64 = usable().map(|h| u64::from(h.weight.max(1))).sum();
    if total == 0 {
        return found.hop;
    }
    let mut hash = flow.src ^ flow.dst.rotate_left(64);
    hash ^= hash >> 64;
    let mut left = (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    left %= total;
    for hop in usable() {
        let weight = u64::from(hop.weight.max(1));
        if left < weight {
            return hop;
        }
        left -= weight;
    }
    found.hop
}
