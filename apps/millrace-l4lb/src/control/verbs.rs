//! What the control socket answers beyond the framework's own verbs.
//!
//! | verb | arguments | answer |
//! |---|---|---|
//! | `lb.vips` | `name`? | `vips`: states, counters, backends |
//! | `lb.flow` | `protocol`, `source`, `destination` | whose the flow is, since when |
//! | `lb.events` | `since_ms`? | `events`: changes of backends' states |
//! | `lb.drain`, `lb.undrain` | `backend`, `vip`? | `backends`: how many |
//! | `lb.reload` | | nothing, or why not |
//! | `lb.stats` | | `reasons`: what became of packets; `file`, `refusal` |

use std::net::{IpAddr, SocketAddr};

use millrace::control::{ControlError, ControlRegistry, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ControlHandle, lock};
use crate::balancer::{Balancer, BalancerError};
use crate::config::Protocol;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vips {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flow {
    #[serde(default = "tcp")]
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    #[serde(default)]
    since_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    vip: Option<String>,
    backend: IpAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Adds the verbs.
pub fn register(registry: &ControlRegistry, control: &ControlHandle) {
    add(registry, control, "lb.vips", |balancer, args: Vips| {
        Ok(json!({ "vips": to_json(balancer.vips(args.name.as_deref())?)? }))
    });
    add(registry, control, "lb.flow", |balancer, args: Flow| {
        let (source, destination) = (args.source, args.destination);
        let client = (source.ip(), source.port());
        to_json(balancer.flow(args.protocol, client, (destination.ip(), destination.port()))?)
    });
    add(registry, control, "lb.events", |balancer, args: Events| {
        let events: Vec<_> = balancer
            .events()
            .filter(|event| event.when.at_ms >= args.since_ms)
            .collect();
        Ok(json!({ "events": to_json(events)? }))
    });
    for (verb, drain) in [("lb.drain", true), ("lb.undrain", false)] {
        add(registry, control, verb, move |balancer, args: Drain| {
            Ok(json!({ "backends": balancer.drain(args.vip.as_deref(), args.backend, drain)? }))
        });
    }
    let handle = control.clone();
    registry.register("lb.reload", move |args| {
        let Nothing {} = parse(args)?;
        let shared = handle.shared().ok_or_else(ended)?;
        shared.reload().map_err(|why| {
            ControlError::failed(format!("{why}; the configuration before it stays in force"))
        })?;
        Ok(json!({}))
    });
    let handle = control.clone();
    registry.register("lb.stats", move |args| {
        let Nothing {} = parse(args)?;
        let shared = handle.shared().ok_or_else(ended)?;
        let reasons = lock(&shared.balancer)
            .plane()
            .reasons()
            .map_err(BalancerError::from)
            .map_err(refused)?;
        let reasons: serde_json::Map<String, Value> = reasons
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect();
        let refusal = lock(&shared.refusal).clone();
        Ok(json!({ "reasons": reasons, "file": shared.file, "refusal": refusal }))
    });
}

fn add<A: for<'a> Deserialize<'a>>(
    registry: &ControlRegistry,
    control: &ControlHandle,
    verb: &str,
    answer: impl Fn(&mut Balancer, A) -> Result<Value, VerbError> + Send + Sync + 'static,
) {
    let handle = control.clone();
    registry.register(verb, move |args| {
        let args = parse(args)?;
        let shared = handle.shared().ok_or_else(ended)?;
        let mut balancer = lock(&shared.balancer);
        answer(&mut balancer, args).map_err(|VerbError(error)| error)
    });
}

struct VerbError(ControlError);

impl From<BalancerError> for VerbError {
    fn from(error: BalancerError) -> VerbError {
        VerbError(refused(error))
    }
}

fn refused(error: BalancerError) -> ControlError {
    let code = match &error {
        BalancerError::NoVip(_) | BalancerError::NoBackend(_) => ErrorCode::NotFound,
        BalancerError::Limits | BalancerError::Table(_) => ErrorCode::Failed,
    };
    ControlError::new(code, error.to_string())
}

fn ended() -> ControlError {
    ControlError::failed("the balancer is going down")
}

fn parse<A: for<'a> Deserialize<'a>>(args: &Value) -> Result<A, ControlError> {
    let args = if args.is_null() { &json!({}) } else { args };
    A::deserialize(args).map_err(|error| ControlError::invalid(error.to_string()))
}

fn to_json(value: impl Serialize) -> Result<Value, VerbError> {
    serde_json::to_value(value).map_err(|error| VerbError(ControlError::failed(error.to_string())))
}
