//! The configuration: one TOML file, checked as a whole before any of it is in force.
//!
//! [`Config::parse`] is two steps: [`raw`] is the file as written, with unknown keys refused; the rest of this module turns it
//! into types in which nothing is left to check. Each error is one line that names file, line and what to do.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

pub mod raw;
mod source;

pub use source::SourceAddress;

/// Bytes of the largest outer header.
const LARGEST_OUTER: u16 = 40;
/// RFC 8200, 5: every IPv6 link carries this much.
const IPV6_MIN_MTU: u16 = 1280;
/// RFC 1122, 3.3.2: every IPv4 host takes this much.
const IPV4_MIN_MTU: u16 = 576;
const MAX_WEIGHT: u32 = 1000;

/// What is wrong with a configuration.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {why}")]
    Read {
        /// The file.
        file: String,
        /// The system's words.
        why: String,
    },
    /// A line says something that cannot be.
    #[error("{file}:{line}: {what}")]
    At {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong and what to do.
        what: String,
    },
}

/// Layer 4 protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => crate::layout::IPPROTO_TCP,
            Protocol::Udp => crate::layout::IPPROTO_UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Protocol::Tcp { "tcp" } else { "udp" })
    }
}

/// How a frame reaches its backend; the answer goes to the client directly in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The destination MAC becomes the backend's; it must be on the link.
    L2,
    /// An outer IP header addressed to the backend: IPIP to an IPv4 backend, IP6IP6 to an IPv6 one.
    Ipip,
}

/// What happens to fragments for a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fragments {
    /// Dropped and counted.
    #[default]
    Drop,
    /// All fragments of a client go to one backend, chosen by addresses and protocol. It is not the backend of the client's
    /// unfragmented packets, so this is for datagram services whose backends need no more than the datagram.
    Hash3,
}

/// How a backend proves that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// It is taken at its word.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` is answered with one of `statuses`.
    Http {
        /// Path of the request.
        path: String,
        /// `Host` header; the VIP's address by default.
        host: Option<String>,
        /// Accepted statuses.
        statuses: Vec<(u16, u16)>,
    },
}

/// A VIP's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub kind: CheckKind,
    /// Port asked; the VIP's by default.
    pub port: u16,
    /// From one check to the next.
    pub interval: Duration,
    /// A check without an answer for so long has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up again.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// A backend of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is: neighbour (l2) or tunnel endpoint (ipip), and where it is checked.
    pub address: IpAddr,
    /// Share of the flows.
    pub weight: u32,
    /// Takes no new flows.
    pub drain: bool,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// How control and logs call it.
    pub name: String,
    /// Where clients connect.
    pub address: IpAddr,
    /// Where clients connect.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How frames reach backends.
    pub mode: Mode,
    /// Whether established flows stay put by the connection table.
    pub flow_table: bool,
    /// What happens to fragments.
    pub fragments: Fragments,
    /// Whether backends serve.
    pub health: Health,
    /// At least one.
    pub backends: Vec<Backend>,
}

/// Sizes of the tables, fixed while the balancer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// VIPs.
    pub vips: u32,
    /// Backends of all VIPs together.
    pub backends: u32,
    /// Entries of the connection table.
    pub flows: u32,
}

/// A configuration in which nothing is left to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Table sizes.
    pub limits: Limits,
    /// Seed of the flow hash; the same on all balancers of a group.
    pub hash_seed: u64,
    /// MTU towards the backends.
    pub mtu: u16,
    /// A UDP flow silent for longer starts anew.
    pub udp_idle: Duration,
    /// Too-big answers a worker and second.
    pub icmp_per_second: u32,
    /// Outer source of IPIP.
    pub source4: Option<SourceAddress>,
    /// Outer source of IP6IP6.
    pub source6: Option<SourceAddress>,
    /// Source address of health checks, by family.
    pub check_source4: Option<IpAddr>,
    /// See `check_source4`.
    pub check_source6: Option<IpAddr>,
    /// The services.
    pub vips: Vec<Vip>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(&file, &text),
            Err(error) => Err(ConfigError::Read {
                file,
                why: format!("{error}; give the file with --config FILE"),
            }),
        }
    }

    /// Checks a file's text. `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
        let at = |span: Range<usize>, what: String| {
            let line = text.as_bytes()[..span.start.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            ConfigError::At {
                file: file.into(),
                line,
                what,
            }
        };
        let raw: raw::File = toml::from_str(text).map_err(|error| {
            let what = error.message().split('\n').collect::<Vec<_>>().join(" ");
            at(error.span().unwrap_or(0..0), what)
        })?;
        check(&raw).map_err(|(span, what)| at(span, what))
    }
}

/// Where in the text, and what is wrong there.
type Complaint = (Range<usize>, String);

fn complain<T>(span: Range<usize>, what: impl Into<String>) -> Result<T, Complaint> {
    Err((span, what.into()))
}

fn check(raw: &raw::File) -> Result<Config, Complaint> {
    let b = &raw.balancer;
    let mut config = Config {
        limits: Limits {
            vips: within(&b.max_vips, 1..=4096, "max_vips")?,
            backends: within(&b.max_backends, 1..=65_534, "max_backends")?,
            flows: within(&b.connection_table, 1024..=64_000_000, "connection_table")?,
        },
        hash_seed: b.hash_seed,
        mtu: within(&b.mtu, IPV4_MIN_MTU..=9728, "mtu")?,
        udp_idle: b.udp_idle.0,
        icmp_per_second: b.too_big_per_second,
        source4: b
            .tunnel_source4
            .as_ref()
            .map(|text| source::parse(text, true))
            .transpose()?,
        source6: b
            .tunnel_source6
            .as_ref()
            .map(|text| source::parse(text, false))
            .transpose()?,
        check_source4: family_of(&b.check_source4, true, "check_source4")?,
        check_source6: family_of(&b.check_source6, false, "check_source6")?,
        vips: Vec::new(),
    };
    let mut names = HashMap::new();
    let mut services = HashMap::new();
    let mut hash3 = HashMap::new();
    for entry in &raw.vip {
        let vip = check_vip(entry)?;
        if names.insert(vip.name.clone(), ()).is_some() {
            return complain(
                entry.get_ref().name_span(entry.span()),
                format!("two VIPs are called \"{}\"", vip.name),
            );
        }
        let service = (vip.address, vip.port, vip.protocol);
        if let Some(other) = services.insert(service, vip.name.clone()) {
            let what = format!(
                "{} port {}/{} is already VIP \"{other}\"",
                vip.address, vip.port, vip.protocol
            );
            return complain(entry.get_ref().address.span(), what);
        }
        if vip.fragments == Fragments::Hash3
            && let Some(other) = hash3.insert((vip.address, vip.protocol), vip.name.clone())
        {
            let what = format!(
                "fragments carry no port: only one VIP of {} may hash them, \"{other}\" does",
                vip.address
            );
            return complain(entry.get_ref().name_span(entry.span()), what);
        }
        check_tunnels(&config, &vip, entry)?;
        config.vips.push(vip);
    }
    check_totals(raw, &config)?;
    Ok(config)
}

fn check_totals(raw: &raw::File, config: &Config) -> Result<(), Complaint> {
    if config.vips.is_empty() {
        return complain(0..0, "no [[vip]]: a balancer needs at least one");
    }
    if config.vips.len() > config.limits.vips as usize {
        let what = format!(
            "{} VIPs, but max_vips = {}",
            config.vips.len(),
            config.limits.vips
        );
        return complain(raw.vip[config.limits.vips as usize].span(), what);
    }
    let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
    if backends > config.limits.backends as usize {
        let what = format!(
            "{backends} backends in all, but max_backends = {}",
            config.limits.backends
        );
        return complain(raw.balancer.max_backends.span(), what);
    }
    for entry in &raw.vip {
        for backend in entry
            .get_ref()
            .backend
            .iter()
            .map(|backend| &backend.get_ref().address)
        {
            if let Some(vip) = config.vips.iter().find(|vip| vip.address == *backend.get_ref()) {
                let what = format!(
                    "backend {} is the address of VIP \"{}\": its frames would come back",
                    vip.address, vip.name
                );
                return complain(backend.span(), what);
            }
        }
    }
    Ok(())
}

fn check_vip(entry: &Spanned<raw::Vip>) -> Result<Vip, Complaint> {
    let vip = entry.get_ref();
    let address = usable(&vip.address)?;
    let port = within(&vip.port, 1..=65535, "port")?;
    let name = match &vip.name {
        Some(name) if name.get_ref().is_empty() => {
            return complain(name.span(), "a VIP's name cannot be empty");
        }
        Some(name) => name.get_ref().clone(),
        None => format!("{address}:{port}/{}", vip.protocol),
    };
    if vip.backend.is_empty() {
        return complain(
            entry.span(),
            format!("VIP \"{name}\" has no backends: add a [[vip.backend]] with an address"),
        );
    }
    let mut backends: Vec<Backend> = Vec::new();
    for backend in vip.backend.iter().map(Spanned::get_ref) {
        let at = usable(&backend.address)?;
        if backends.iter().any(|other| other.address == at) {
            return complain(
                backend.address.span(),
                format!("backend {at} is listed twice in VIP \"{name}\""),
            );
        }
        if vip.mode == Mode::L2 && at.is_ipv4() != address.is_ipv4() {
            let what = format!(
                "backend {at} and VIP {address} are of different families; mode = \"l2\" needs the same one"
            );
            return complain(backend.address.span(), what);
        }
        let weight = within(&backend.weight, 1..=MAX_WEIGHT, "weight")?;
        backends.push(Backend {
            address: at,
            weight,
            drain: backend.drain,
        });
    }
    let health = check_health(vip, port)?;
    let (protocol, mode, flow_table, fragments) =
        (vip.protocol, vip.mode, vip.connection_table, vip.fragments);
    Ok(Vip {
        name,
        address,
        port,
        protocol,
        mode,
        flow_table,
        fragments,
        health,
        backends,
    })
}

fn check_health(vip: &raw::Vip, port: u16) -> Result<Health, Complaint> {
    let Some(entry) = &vip.health else {
        // A UDP service has no TCP port to ask.
        let kind = if vip.protocol == Protocol::Tcp {
            CheckKind::Tcp
        } else {
            CheckKind::None
        };
        let default = raw::Health::default();
        return Ok(Health {
            kind,
            port,
            interval: default.interval.0,
            timeout: default.timeout.0,
            rise: default.rise,
            fall: default.fall,
        });
    };
    let health = entry.get_ref();
    if health.rise == 0 || health.fall == 0 {
        return complain(entry.span(), "rise and fall count checks: 1 or more");
    }
    if health.timeout > health.interval {
        return complain(
            entry.span(),
            "a check's timeout cannot be longer than its interval",
        );
    }
    let http_only = health.path.is_some() || health.host.is_some() || health.status.is_some();
    if health.kind != raw::HealthKind::Http && http_only {
        return complain(entry.span(), "path, host and status belong to type = \"http\"");
    }
    let kind = match health.kind {
        raw::HealthKind::None => CheckKind::None,
        raw::HealthKind::Tcp => CheckKind::Tcp,
        raw::HealthKind::Http => http_check(entry)?,
    };
    let port = match &health.port {
        Some(port) => within(port, 1..=65535, "port")?,
        None => port,
    };
    Ok(Health {
        kind,
        port,
        interval: health.interval.0,
        timeout: health.timeout.0,
        rise: health.rise,
        fall: health.fall,
    })
}

fn http_check(entry: &Spanned<raw::Health>) -> Result<CheckKind, Complaint> {
    let health = entry.get_ref();
    let path = health.path.clone().unwrap_or_else(|| "/".into());
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !clean(&path) {
        return complain(entry.span(), "path starts with / and has no spaces");
    }
    if health
        .host
        .as_ref()
        .is_some_and(|host| host.is_empty() || !clean(host))
    {
        return complain(entry.span(), "host is a name or an address without spaces");
    }
    let mut statuses = Vec::new();
    for text in health
        .status
        .as_ref()
        .unwrap_or(&vec![raw::Status::Text("200-399".into())])
    {
        let range = match text {
            raw::Status::Number(status) => Some((*status, *status)),
            raw::Status::Text(text) => {
                let (from, to) = text.split_once('-').unwrap_or((text, text));
                from.trim().parse().ok().zip(to.trim().parse().ok())
            }
        };
        match range {
            Some((from, to)) if (100..=599).contains(&from) && (from..=599).contains(&to) => {
                statuses.push((from, to))
            }
            _ => {
                return complain(
                    entry.span(),
                    "status is a list such as [200, \"300-399\"], each within 100 to 599",
                );
            }
        }
    }
    Ok(CheckKind::Http {
        path,
        host: health.host.clone(),
        statuses,
    })
}

fn check_tunnels(config: &Config, vip: &Vip, entry: &Spanned<raw::Vip>) -> Result<(), Complaint> {
    if vip.mode != Mode::Ipip {
        return Ok(());
    }
    for (v4, set, key) in [
        (true, config.source4.is_some(), "tunnel_source4"),
        (false, config.source6.is_some(), "tunnel_source6"),
    ] {
        if let Some(backend) = vip
            .backends
            .iter()
            .find(|backend| backend.address.is_ipv4() == v4)
            && !set
        {
            let what = format!(
                "tunnels to {} need an outer source address: set {key} in [balancer]",
                backend.address
            );
            return complain(entry.get_ref().name_span(entry.span()), what);
        }
    }
    let least = if vip.address.is_ipv6() {
        IPV6_MIN_MTU
    } else {
        IPV4_MIN_MTU
    } + LARGEST_OUTER;
    if config.mtu < least {
        let what = format!(
            "mtu = {} leaves too little inside the tunnels of VIP \"{}\": at least {least}",
            config.mtu, vip.name
        );
        return complain(entry.get_ref().name_span(entry.span()), what);
    }
    Ok(())
}

/// An address that one host can have.
fn usable(address: &Spanned<IpAddr>) -> Result<IpAddr, Complaint> {
    let ip = *address.get_ref();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast {
        return complain(
            address.span(),
            format!("{ip} is not the address of a host on a network"),
        );
    }
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return complain(address.span(), format!("write {ip} as an IPv4 address"));
    }
    Ok(ip)
}

fn family_of(address: &Option<Spanned<IpAddr>>, v4: bool, key: &str) -> Result<Option<IpAddr>, Complaint> {
    match address {
        Some(ip) if ip.get_ref().is_ipv4() != v4 => complain(
            ip.span(),
            format!("{key} is an IPv{} address", if v4 { 4 } else { 6 }),
        ),
        Some(ip) => usable(ip).map(Some),
        None => Ok(None),
    }
}

fn within<T>(value: &Spanned<i64>, range: std::ops::RangeInclusive<T>, key: &str) -> Result<T, Complaint>
where
    T: TryFrom<i64> + PartialOrd + fmt::Display,
{
    match T::try_from(*value.get_ref()) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let what = format!(
                "{key} = {} is out of range: {} to {}",
                value.get_ref(),
                range.start(),
                range.end()
            );
            complain(value.span(), what)
        }
    }
}
