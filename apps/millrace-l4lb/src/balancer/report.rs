//! What control shows: plain values, ready for JSON.

use std::net::IpAddr;

use serde::Serialize;

use super::{Balancer, BalancerError, Member, VipEntry};
use crate::config::{Mode, Protocol};
use crate::events::{Event, Moment};
use crate::layout::{BackendStats, FLOW_CLOSED, FLOW_SYN, FlowKey, VipStats};
use crate::state::State;

/// A VIP.
#[derive(Clone, Debug, Serialize)]
pub struct VipReport {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Way to the backends.
    pub mode: Mode,
    /// Whether the first answers of its backends are awaited.
    pub settling: bool,
    /// Counters.
    #[serde(flatten)]
    pub stats: VipStats,
    /// Its backends.
    pub backends: Vec<BackendReport>,
}

/// A backend of a VIP.
#[derive(Clone, Debug, Serialize)]
pub struct BackendReport {
    /// VIP.
    pub vip: String,
    /// Address.
    pub address: IpAddr,
    /// Weight.
    pub weight: u32,
    /// State.
    pub state: State,
    /// Whether its checks succeed; unknown at first.
    pub healthy: Option<bool>,
    /// Whether it drains.
    pub drained: bool,
    /// In this state since.
    pub since: Moment,
    /// Why.
    pub why: String,
    /// Next hop.
    pub mac: Option<String>,
    /// Counters.
    #[serde(flatten)]
    pub stats: BackendStats,
}

/// What is known about a flow.
#[derive(Clone, Debug, Serialize)]
pub struct FlowReport {
    /// VIP of the flow.
    pub vip: String,
    /// Whether the connection table has it.
    pub found: bool,
    /// Whom it belongs to; without an entry, who would get it now.
    pub backend: Option<IpAddr>,
    /// State of that backend.
    pub state: Option<State>,
    /// With this backend since.
    pub since_ms: Option<u64>,
    /// The same on the connection table's clock.
    pub since_ns: Option<u64>,
    /// First packet.
    pub created_ms: Option<u64>,
    /// Last SYN (TCP) or datagram (UDP).
    pub seen_ms: Option<u64>,
    /// Whom a dead backend's flow belonged to before.
    pub previous: Option<IpAddr>,
    /// Times it had to leave a dead backend.
    pub moves: u32,
    /// Nothing but SYNs came so far.
    pub only_syn: bool,
    /// The client sent FIN or RST.
    pub closed: bool,
    /// What happened to the two backends named here, oldest first.
    pub events: Vec<Event>,
}

impl Balancer {
    /// All VIPs, or the one of that name.
    pub fn vips(&self, name: Option<&str>) -> Result<Vec<VipReport>, BalancerError> {
        let chosen = self
            .vips
            .iter()
            .filter(|entry| name.is_none_or(|name| entry.config.name == name));
        let reports = chosen
            .map(|entry| self.vip_report(entry))
            .collect::<Result<Vec<_>, _>>()?;
        match name {
            Some(name) if reports.is_empty() => Err(BalancerError::NoVip(name.into())),
            _ => Ok(reports),
        }
    }

    fn vip_report(&self, entry: &VipEntry) -> Result<VipReport, BalancerError> {
        let config = &entry.config;
        let backends = entry
            .members
            .iter()
            .map(|member| self.backend_report(entry, member));
        Ok(VipReport {
            name: config.name.clone(),
            address: config.address,
            port: config.port,
            protocol: config.protocol,
            mode: config.mode,
            settling: entry.settling.is_some(),
            stats: self.plane.vip_stats(entry.index)?.since(entry.base),
            backends: backends.collect::<Result<_, BalancerError>>()?,
        })
    }

    fn backend_report(&self, entry: &VipEntry, member: &Member) -> Result<BackendReport, BalancerError> {
        Ok(BackendReport {
            vip: entry.config.name.clone(),
            address: member.config.address,
            weight: member.config.weight,
            state: member.standing.state(),
            healthy: member.standing.pulse.serving(),
            drained: member.standing.drain,
            since: member.since,
            why: member.why.clone(),
            mac: member.standing.mac.map(mac_text),
            stats: self.plane.backend_stats(member.id)?.since(member.base),
        })
    }

    /// What is known about the flow from a client to a VIP.
    pub fn flow(
        &self,
        protocol: Protocol,
        client: (IpAddr, u16),
        vip: (IpAddr, u16),
    ) -> Result<FlowReport, BalancerError> {
        let none = || BalancerError::NoVip(format!("{} port {}/{protocol}", vip.0, vip.1));
        let service = (vip.0, vip.1, protocol);
        let entry = self
            .vips
            .iter()
            .find(|entry| entry.service() == service)
            .ok_or_else(none)?;
        let key = FlowKey::new(client, vip, protocol).ok_or_else(none)?;
        let mut report = FlowReport {
            vip: entry.config.name.clone(),
            found: false,
            backend: None,
            state: None,
            since_ms: None,
            since_ns: None,
            created_ms: None,
            seen_ms: None,
            previous: None,
            moves: 0,
            only_syn: false,
            closed: false,
            events: Vec::new(),
        };
        match self.plane.flow(&key)? {
            Some(flow) => {
                report.found = true;
                report.backend = self.who(flow.backend, Some(flow.incarnation));
                report.since_ms = Some(Moment::at(flow.since_ns).at_ms);
                report.since_ns = Some(flow.since_ns);
                report.created_ms = Some(Moment::at(flow.created_ns).at_ms);
                report.seen_ms = Some(Moment::at(flow.seen_ns).at_ms);
                report.previous = (flow.previous != 0)
                    .then(|| self.who(flow.previous, None))
                    .flatten();
                report.moves = flow.moves;
                report.only_syn = flow.flags & FLOW_SYN != 0;
                report.closed = flow.flags & FLOW_CLOSED != 0;
            }
            None => {
                let seed = self.config.as_ref().map_or(0, |config| config.hash_seed);
                let id = self.plane.ring_choice(entry.index, key.hash(seed))?;
                report.backend = self.who(id, None);
            }
        }
        let member = entry
            .members
            .iter()
            .find(|member| Some(member.config.address) == report.backend);
        report.state = member.map(|member| member.standing.state());
        let named = |event: &&Event| {
            event.vip == report.vip
                && (Some(event.backend) == report.backend || Some(event.backend) == report.previous)
        };
        report.events = self.log.iter().filter(named).cloned().collect();
        Ok(report)
    }

    /// The backend behind an id, also one that was removed.
    fn who(&self, id: u16, incarnation: Option<u32>) -> Option<IpAddr> {
        let right = |i: u16, n: u32| i == id && incarnation.is_none_or(|wanted| wanted == n);
        let mut living = self.vips.iter().flat_map(|entry| &entry.members);
        let living = living
            .find(|member| right(member.id, member.incarnation))
            .map(|member| member.config.address);
        let dead = || {
            self.graves
                .iter()
                .rev()
                .find(|grave| right(grave.id, grave.incarnation))
                .map(|grave| grave.address)
        };
        living.or_else(dead)
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
