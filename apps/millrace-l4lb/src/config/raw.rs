//! The file as it is written. Unknown keys are refused here; meaning is checked one level up.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Fragments, Mode, Protocol};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[balancer]`.
    #[serde(default)]
    pub balancer: Balancer,
    /// `[[vip]]`.
    #[serde(default)]
    pub vip: Vec<Spanned<Vip>>,
}

/// `[balancer]`: what holds for all VIPs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Balancer {
    /// See [`super::Limits`].
    pub max_vips: Spanned<i64>,
    /// See [`super::Limits`].
    pub max_backends: Spanned<i64>,
    /// See [`super::Limits`].
    pub connection_table: Spanned<i64>,
    /// See [`super::Config`].
    pub hash_seed: u64,
    /// See [`super::Config`].
    pub mtu: Spanned<i64>,
    /// See [`super::Config`].
    pub udp_idle: Span,
    /// See [`super::Config`].
    pub too_big_per_second: u32,
    /// An address, or a prefix whose host bits come from the flow hash.
    pub tunnel_source4: Option<Spanned<String>>,
    /// See `tunnel_source4`.
    pub tunnel_source6: Option<Spanned<String>>,
    /// See [`super::Config`].
    pub check_source4: Option<Spanned<IpAddr>>,
    /// See [`super::Config`].
    pub check_source6: Option<Spanned<IpAddr>>,
}

impl Default for Balancer {
    fn default() -> Balancer {
        Balancer {
            max_vips: Spanned::new(0..0, 64),
            max_backends: Spanned::new(0..0, 1023),
            connection_table: Spanned::new(0..0, 1_000_000),
            hash_seed: 0,
            mtu: Spanned::new(0..0, 1500),
            udp_idle: Span(Duration::from_secs(30)),
            too_big_per_second: 1000,
            tunnel_source4: None,
            tunnel_source6: None,
            check_source4: None,
            check_source6: None,
        }
    }
}

/// `[[vip]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// `address:port/protocol` by default.
    pub name: Option<Spanned<String>>,
    /// Where clients connect.
    pub address: Spanned<IpAddr>,
    /// Where clients connect.
    pub port: Spanned<i64>,
    /// "tcp" or "udp".
    pub protocol: Protocol,
    /// "l2" or "ipip".
    pub mode: Mode,
    /// On by default.
    #[serde(default = "yes")]
    pub connection_table: bool,
    /// "drop" or "hash3".
    #[serde(default)]
    pub fragments: Fragments,
    /// TCP connect by default for TCP, nothing for UDP.
    pub health: Option<Spanned<Health>>,
    /// `[[vip.backend]]`.
    #[serde(default)]
    pub backend: Vec<Spanned<Backend>>,
}

impl Vip {
    /// Where to point when the VIP as such is wrong.
    pub fn name_span(&self, whole: Range<usize>) -> Range<usize> {
        self.name.as_ref().map_or(whole, Spanned::span)
    }
}

fn yes() -> bool {
    true
}

/// `[[vip.backend]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Its own address, not the VIP's.
    pub address: Spanned<IpAddr>,
    /// 1 by default.
    #[serde(default = "one")]
    pub weight: Spanned<i64>,
    /// Takes no new flows.
    #[serde(default)]
    pub drain: bool,
}

fn one() -> Spanned<i64> {
    Spanned::new(0..0, 1)
}

/// `type` of a health check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthKind {
    /// Always up.
    None,
    /// Connect.
    #[default]
    Tcp,
    /// GET.
    Http,
}

/// `health = { ... }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// "tcp", "http" or "none".
    #[serde(rename = "type")]
    pub kind: HealthKind,
    /// The VIP's by default.
    pub port: Option<Spanned<i64>>,
    /// "2s" by default.
    pub interval: Span,
    /// "1s" by default.
    pub timeout: Span,
    /// 2 by default.
    pub rise: u32,
    /// 3 by default.
    pub fall: u32,
    /// Of HTTP: "/" by default.
    pub path: Option<String>,
    /// Of HTTP: the VIP's address by default.
    pub host: Option<String>,
    /// Of HTTP: ["200-399"] by default.
    pub status: Option<Vec<Status>>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            kind: HealthKind::Tcp,
            port: None,
            interval: Span(Duration::from_secs(2)),
            timeout: Span(Duration::from_secs(1)),
            rise: 2,
            fall: 3,
            path: None,
            host: None,
            status: None,
        }
    }
}

/// One accepted status: 200 or "200-299".
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Status {
    /// 200.
    Number(u16),
    /// "200-299".
    Text(String),
}

/// A time such as "500ms", "2s" or "1m".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: Option<u64> = text[..digits]
            .parse()
            .ok()
            .filter(|number| (1..=86_400_000).contains(number));
        let unit = match text[digits..].trim() {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        number
            .zip(unit)
            .map(|(number, unit)| Span(Duration::from_millis(number * unit)))
            .ok_or_else(|| {
                serde::de::Error::custom(format!(
                    "\"{text}\" is no time: write \"500ms\", \"2s\" or \"1m\""
                ))
            })
    }
}
