//! One family's routing tables and rules.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Hop, Route, RouteKind, Rule, RuleAction, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};

/// What a lookup is about. Addresses are numbers; those of IPv4 have 32 bits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flow {
    pub v6: bool,
    /// Whether rules about sources are asked; IPv6 does not for the host's own packets (`RT6_LOOKUP_F_HAS_SADDR`).
    pub by_source: bool,
    pub src: u128,
    pub dst: u128,
    pub iif: u32,
    pub oif: u32,
    /// The interface that IPv6 prefers among equals.
    pub prefer: u32,
    pub tos: u8,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    pub mark: u32,
    /// The table of the VRF that `iif` or `oif` belongs to.
    pub vrf: Option<u32>,
}

/// A route and the hop in it that was found first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub route: &'a Route,
    pub hop: &'a Hop,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// Nothing matches, or a rule further on may.
    None,
    /// What matches refuses.
    Refused(RouteKind),
}

/// Bits of an address.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn prefix_of(bits: u128, width: u8, len: u8) -> u128 {
    let host = u32::from(width.saturating_sub(len));
    bits.checked_shr(host).unwrap_or(0)
}

/// Routes by prefix length, then prefix.
#[derive(Debug, Default)]
struct Table(HashMap<u8, HashMap<u128, Vec<Route>>>);

/// A rule with interfaces as indices; 0 is an interface that is not there.
#[derive(Debug)]
struct Resolved {
    rule: Rule,
    iif: Option<u32>,
    oif: Option<u32>,
}

/// All tables and rules of a family.
#[derive(Debug, Default)]
pub(super) struct Tables {
    tables: HashMap<u32, Table>,
    rules: Vec<Resolved>,
    /// Whether the rules are more than the kernel's own three.
    custom: bool,
}

impl Tables {
    pub fn add(&mut self, route: Route) {
        let width = if route.to.is_ipv4() { 32 } else { 128 };
        let len = route.prefix.min(width);
        let key = prefix_of(bits(route.to), width, len);
        let table = self.tables.entry(route.table).or_default();
        let routes = table.0.entry(len).or_default().entry(key).or_default();
        // The order in which fib_table_lookup and fib6_table_lookup try them; equals stay as they came.
        let rank = |r: &Route| (u8::MAX - r.tos, r.metric);
        let at = routes.partition_point(|r| rank(r) <= rank(&route));
        routes.insert(at, route);
    }

    pub fn set_rules(&mut self, mut rules: Vec<Rule>, index: impl Fn(&str) -> Option<u32>) {
        rules.sort_by_key(|r| r.priority);
        let builtin = |r: &Rule| {
            let plain = Rule {
                priority: r.priority,
                action: r.action,
                ..everything(r.v6)
            };
            let at = match r.action {
                RuleAction::Table(TABLE_LOCAL) => 0,
                RuleAction::Table(TABLE_MAIN) => 32766,
                RuleAction::Table(TABLE_DEFAULT) => 32767,
                _ => return false,
            };
            *r == plain && r.priority == at
        };
        let own = |table| rules.iter().any(|r| r.action == RuleAction::Table(table));
        self.custom = !rules.iter().all(builtin) || !own(TABLE_LOCAL) || !own(TABLE_MAIN);
        let find = |name: &Option<String>| name.as_ref().map(|n| index(n).unwrap_or(0));
        self.rules = rules
            .into_iter()
            .map(|rule| Resolved {
                iif: find(&rule.iif),
                oif: find(&rule.oif),
                rule,
            })
            .collect();
    }

    /// Whether there is such a table.
    pub fn has(&self, table: u32) -> bool {
        matches!(table, TABLE_LOCAL | TABLE_MAIN) || self.tables.contains_key(&table)
    }

    /// A lookup in one table. Without rules of somebody's own, IPv4 keeps `local` and `main` in one.
    pub fn in_table(&self, table: u32, flow: &Flow) -> Result<Found<'_>, Miss> {
        let merged = !flow.v6 && !self.custom && matches!(table, TABLE_LOCAL | TABLE_MAIN);
        if merged {
            self.search(&[TABLE_LOCAL, TABLE_MAIN], flow)
        } else {
            self.search(&[table], flow)
        }
    }

    /// A lookup as the rules say.
    pub fn by_rules(&self, flow: &Flow) -> Result<Found<'_>, Miss> {
        if !self.custom {
            let first = if flow.v6 { TABLE_LOCAL } else { TABLE_MAIN };
            let second = if flow.v6 { TABLE_MAIN } else { TABLE_DEFAULT };
            return match self.in_table(first, flow) {
                // What the first table says does not count any more (fib_lookup, fib6_lookup).
                Err(_) if flow.v6 || self.tables.contains_key(&second) => self.in_table(second, flow),
                result => result,
            };
        }
        let mut at = 0;
        // A jump goes forward only, so this ends.
        while let Some(resolved) = self.rules.get(at) {
            at += 1;
            let rule = &resolved.rule;
            if resolved.matches(flow) == rule.invert {
                continue;
            }
            let table = match rule.action {
                RuleAction::Table(table) => table,
                RuleAction::Vrf => match flow.vrf {
                    Some(table) => table,
                    None => continue,
                },
                RuleAction::Goto(priority) => {
                    at = at.max(self.rules.partition_point(|r| r.rule.priority < priority));
                    continue;
                }
                RuleAction::Nop => continue,
                RuleAction::Blackhole => return Err(Miss::Refused(RouteKind::Blackhole)),
                // fib4_rule_action answers "network unreachable", which is no route's answer.
                RuleAction::Unreachable => return Err(Miss::Refused(RouteKind::NotForwarded)),
                RuleAction::Prohibit => return Err(Miss::Refused(RouteKind::Prohibit)),
            };
            match self.in_table(table, flow) {
                Ok(found) if rule.suppress.is_some_and(|most| found.route.prefix <= most) => {}
                Err(Miss::None) => {}
                result => return result,
            }
        }
        Err(Miss::None)
    }

    fn search(&self, tables: &[u32], flow: &Flow) -> Result<Found<'_>, Miss> {
        let width: u8 = if flow.v6 { 128 } else { 32 };
        for len in (0..=width).rev() {
            for table in tables {
                let here = self.tables.get(table).and_then(|t| t.0.get(&len));
                let Some(routes) = here.and_then(|h| h.get(&prefix_of(flow.dst, width, len))) else {
                    continue;
                };
                if let Some(result) = choose(routes, flow) {
                    return result;
                }
            }
        }
        Err(Miss::None)
    }
}

/// The route of a prefix that takes the flow.
fn choose<'a>(routes: &'a [Route], flow: &Flow) -> Option<Result<Found<'a>, Miss>> {
    let usable = |route: &&Route| flow.v6 || route.tos == 0 || route.tos == flow.tos;
    let mut best: Option<Found<'a>> = None;
    for route in routes.iter().filter(usable) {
        match route.kind {
            RouteKind::Throw => return Some(Err(Miss::None)),
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit if best.is_none() => {
                return Some(Err(Miss::Refused(route.kind)));
            }
            _ => {}
        }
        if best.is_some_and(|b| b.route.metric != route.metric) {
            break;
        }
        let fits = |hop: &&Hop| !hop.down && (flow.oif == 0 || flow.v6 || hop.ifindex == flow.oif);
        let Some(hop) = route.hops.iter().find(fits) else {
            continue;
        };
        let found = Found { route, hop };
        if !flow.v6 || hop.ifindex == flow.prefer {
            return Some(Ok(found));
        }
        // IPv6 prefers, among routes of one metric, one by the interface that was asked about.
        best.get_or_insert(found);
    }
    best.map(Ok)
}

/// A rule without conditions.
fn everything(v6: bool) -> Rule {
    Rule {
        v6,
        priority: 0,
        invert: false,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        tos: 0,
        protocol: None,
        sport: None,
        dport: None,
        suppress: None,
        action: RuleAction::Nop,
    }
}

impl Resolved {
    fn matches(&self, flow: &Flow) -> bool {
        let rule = &self.rule;
        let width = if rule.v6 { 128 } else { 32 };
        let inside = |prefix: Option<(IpAddr, u8)>, address: u128| {
            prefix.is_none_or(|(of, len)| prefix_of(bits(of), width, len) == prefix_of(address, width, len))
        };
        let between =
            |range: Option<(u16, u16)>, port: u16| range.is_none_or(|(lo, hi)| (lo..=hi).contains(&port));
        (flow.by_source || rule.from.is_none())
            && inside(rule.from, flow.src)
            && inside(rule.to, flow.dst)
            && self.iif.is_none_or(|i| i == flow.iif)
            && self.oif.is_none_or(|i| i == flow.oif)
            && rule
                .mark
                .is_none_or(|(mark, mask)| flow.mark & mask == mark & mask)
            && (rule.tos == 0 || rule.tos == flow.tos)
            && rule.protocol.is_none_or(|p| p == flow.protocol)
            && between(rule.sport, flow.sport)
            && between(rule.dport, flow.dport)
    }
}
