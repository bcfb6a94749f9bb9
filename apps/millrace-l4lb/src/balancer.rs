//! The control plane's mind: takes a configuration, the outcomes of checks and resolved neighbours, and keeps the data plane's
//! tables in step. It waits for nothing and starts nothing; [`crate::control`] feeds it.
//!
//! Tables change in an order that leaves no packet between two truths: who gains flows is announced before a ring names him, and
//! who loses them is silenced after no ring names him any more.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{self, CheckKind, Config, Limits, Mode};
use crate::dataplane::{DataPlane, TableError};
use crate::events::{Event, Log, Moment};
use crate::health::{CheckKey, Outcome, Plan, Service};
use crate::layout::{self, BackendStats, Link, VipKey, VipStats};
use crate::maglev;
use crate::neigh::{Answer, Wanted};
use crate::state::{Standing, State};

mod apply;
mod report;

pub use report::{BackendReport, FlowReport, VipReport};

/// Longest time that a new VIP waits for its backends' first answers beyond a check's timeout.
const SETTLE: Duration = Duration::from_secs(3);
/// Removed backends whose names are remembered.
const GRAVES: usize = 4096;

/// A configuration or an order that cannot be followed.
#[derive(Debug, Error)]
pub enum BalancerError {
    /// Table sizes are fixed.
    #[error("max_vips, max_backends and connection_table need a restart to change")]
    Limits,
    /// Not there.
    #[error("there is no VIP \"{0}\"; `millrace-l4lb status` lists those there are")]
    NoVip(String),
    /// Not there.
    #[error("no VIP has a backend {0}; `millrace-l4lb status` lists those there are")]
    NoBackend(IpAddr),
    /// The data plane refused.
    #[error(transparent)]
    Table(#[from] TableError),
}

struct Member {
    id: u16,
    incarnation: u32,
    config: config::Backend,
    standing: Standing,
    since: Moment,
    why: String,
    /// What the counters of its id showed when it got the id.
    base: BackendStats,
    /// As the data plane has it.
    written: layout::Backend,
}

struct VipEntry {
    index: u32,
    config: config::Vip,
    members: Vec<Member>,
    /// Until then nobody gets flows unless all have answered.
    settling: Option<Instant>,
    base: VipStats,
    /// Ids in the ring, with weight and whether they take new flows.
    ring: Vec<(u16, u32, bool)>,
}

impl VipEntry {
    fn service(&self) -> Service {
        service(&self.config)
    }

    fn link(&self) -> Link {
        link(self.config.mode)
    }
}

fn link(mode: Mode) -> Link {
    if mode == Mode::L2 { Link::L2 } else { Link::Tunnel }
}

fn service(vip: &config::Vip) -> Service {
    (vip.address, vip.port, vip.protocol)
}

/// Backend ids: the one that is free for longest is used next, under a new incarnation.
struct Ids {
    free: VecDeque<u16>,
    incarnations: HashMap<u16, u32>,
}

impl Ids {
    fn take(&mut self) -> Option<(u16, u32)> {
        let id = self.free.pop_front()?;
        let incarnation = self.incarnations.entry(id).or_insert(0);
        *incarnation = incarnation.wrapping_add(1);
        Some((id, *incarnation))
    }
}

/// A removed backend that flows may still name.
struct Grave {
    id: u16,
    incarnation: u32,
    address: IpAddr,
}

/// See the module.
pub struct Balancer {
    plane: DataPlane,
    mac: [u8; 6],
    config: Option<Config>,
    limits: Limits,
    vips: Vec<VipEntry>,
    free_vips: BTreeSet<u32>,
    ids: Ids,
    written_vips: HashMap<VipKey, layout::Vip>,
    graves: VecDeque<Grave>,
    log: Log,
}

impl Balancer {
    /// A balancer without VIPs over empty tables of these sizes. `mac` is the port's; zero: any destination MAC is ours.
    pub fn new(plane: DataPlane, limits: Limits, mac: [u8; 6]) -> Balancer {
        let last = u16::try_from(limits.backends).unwrap_or(u16::MAX - 1);
        Balancer {
            plane,
            mac,
            config: None,
            limits,
            vips: Vec::new(),
            free_vips: (0..limits.vips).collect(),
            ids: Ids {
                free: (1..=last).collect(),
                incarnations: HashMap::new(),
            },
            written_vips: HashMap::new(),
            graves: VecDeque::new(),
            log: Log::default(),
        }
    }

    /// Works on a VIP and on everything else at once.
    fn with_entry<T>(&mut self, at: usize, work: impl FnOnce(&mut Balancer, &mut VipEntry) -> T) -> T {
        let mut entry = self.vips.swap_remove(at);
        let done = work(self, &mut entry);
        self.vips.push(entry);
        let last = self.vips.len() - 1;
        self.vips.swap(at, last);
        done
    }

    /// A check's outcome. True when a backend's state changed.
    pub fn take_check(&mut self, key: &CheckKey, outcome: Outcome) -> Result<bool, BalancerError> {
        let Some(at) = self.vips.iter().position(|entry| entry.service() == key.0) else {
            return Ok(false);
        };
        let entry = &mut self.vips[at];
        let health = entry.config.health.clone();
        let (success, why) = match outcome {
            Outcome::Serves => (true, "checks succeed".to_owned()),
            Outcome::Fails(why) => (false, why),
            Outcome::CannotAsk(why) => {
                let unknown = |member: &&mut Member| {
                    member.config.address == key.1 && member.standing.pulse.serving().is_none()
                };
                if let Some(member) = entry.members.iter_mut().find(unknown) {
                    member.why = why;
                }
                return Ok(false);
            }
        };
        self.change(
            at,
            |address| address == key.1,
            &why,
            |standing| standing.pulse.take(success, &health),
        )
    }

    /// What the host's stack says about a next hop. A MAC once known is kept when the neighbour falls silent: whether it
    /// serves is for the checks to say.
    pub fn take_neighbour(&mut self, wanted: Wanted, answer: &Answer) -> Result<(), BalancerError> {
        for at in 0..self.vips.len() {
            if (self.vips[at].config.mode == Mode::L2) != wanted.1 {
                continue;
            }
            match answer {
                Ok(mac) => {
                    let new = |standing: &mut Standing| standing.mac.replace(*mac) != Some(*mac);
                    self.change(at, |address| address == wanted.0, "next hop resolved", new)?;
                }
                Err(error) => {
                    let unresolved = |member: &&mut Member| {
                        member.config.address == wanted.0 && member.standing.mac.is_none()
                    };
                    if let Some(member) = self.vips[at].members.iter_mut().find(unresolved) {
                        member.why = error.to_string();
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts or ends draining a backend, in one VIP or in all that have it. Returns in how many.
    pub fn drain(&mut self, vip: Option<&str>, backend: IpAddr, drain: bool) -> Result<usize, BalancerError> {
        if let Some(name) = vip
            && !self.vips.iter().any(|entry| entry.config.name == name)
        {
            return Err(BalancerError::NoVip(name.into()));
        }
        let mut found = 0;
        for at in 0..self.vips.len() {
            let entry = &self.vips[at];
            let has = entry
                .members
                .iter()
                .any(|member| member.config.address == backend);
            if !has || vip.is_some_and(|name| entry.config.name != name) {
                continue;
            }
            found += 1;
            let why = if drain {
                "drain asked for"
            } else {
                "undrain asked for"
            };
            self.change(
                at,
                |address| address == backend,
                why,
                |standing| std::mem::replace(&mut standing.drain, drain) != drain,
            )?;
        }
        if found == 0 {
            Err(BalancerError::NoBackend(backend))
        } else {
            Ok(found)
        }
    }

    /// Ends waits that took too long.
    pub fn tick(&mut self) -> Result<(), BalancerError> {
        for at in 0..self.vips.len() {
            if self.vips[at].settling.is_some() {
                self.publish(at)?;
            }
        }
        Ok(())
    }

    /// Changes what is known of a backend and tells the data plane if anything follows.
    fn change(
        &mut self,
        at: usize,
        who: impl Fn(IpAddr) -> bool,
        why: &str,
        change: impl FnOnce(&mut Standing) -> bool,
    ) -> Result<bool, BalancerError> {
        let entry = &mut self.vips[at];
        let Some(member) = entry.members.iter_mut().find(|member| who(member.config.address)) else {
            return Ok(false);
        };
        let from = member.standing.state();
        if !change(&mut member.standing) {
            return Ok(false);
        }
        let to = member.standing.state();
        let backend = member.config.address;
        let published = self.publish(at);
        if from != to {
            // The moment from which the data plane follows: a flow placed before it was placed in good faith.
            let when = Moment::now();
            let entry = &mut self.vips[at];
            if let Some(member) = entry
                .members
                .iter_mut()
                .find(|member| member.config.address == backend)
            {
                (member.since, member.why) = (when, why.to_owned());
            }
            self.log.push(Event {
                when,
                vip: entry.config.name.clone(),
                backend,
                from: Some(from),
                to: Some(to),
                why: why.into(),
            });
        }
        published?;
        Ok(from != to)
    }

    /// Writes what changed about a VIP's backends and its ring.
    fn publish(&mut self, at: usize) -> Result<(), BalancerError> {
        self.with_entry(at, |balancer, entry| balancer.publish_entry(entry))
    }

    fn publish_entry(&mut self, entry: &mut VipEntry) -> Result<(), BalancerError> {
        if let Some(deadline) = entry.settling {
            if Instant::now() < deadline && !entry.members.iter().all(|member| member.standing.settled()) {
                return Ok(());
            }
            entry.settling = None;
        }
        let link = entry.link();
        for gaining in [true, false] {
            for member in &mut entry.members {
                let flags = flags(member.standing.state());
                let mac = member.standing.mac.unwrap_or_default();
                let wanted =
                    layout::Backend::new(member.config.address, link, mac, flags, member.incarnation);
                let gains = flags & !member.written.flags() != 0 || flags == member.written.flags();
                if member.written != wanted && gains == gaining {
                    self.plane.put_backend(member.id, &wanted)?;
                    member.written = wanted;
                }
            }
            if gaining {
                self.write_ring(entry)?;
            }
        }
        Ok(())
    }

    fn write_ring(&mut self, entry: &mut VipEntry) -> Result<(), BalancerError> {
        let takes = |member: &Member| member.standing.state() == State::Up;
        let ring: Vec<_> = entry
            .members
            .iter()
            .map(|member| (member.id, member.config.weight, takes(member)))
            .collect();
        if entry.settling.is_some() || ring == entry.ring {
            return Ok(());
        }
        let members: Vec<_> = entry
            .members
            .iter()
            .map(|member| maglev::Member {
                identity: maglev::identity(member.config.address),
                weight: member.config.weight,
                usable: takes(member),
            })
            .collect();
        let ids: Vec<u16> = entry.members.iter().map(|member| member.id).collect();
        self.plane
            .write_ring(entry.index, &maglev::table(&members), &ids)?;
        entry.ring = ring;
        Ok(())
    }

    /// The checks that should run.
    pub fn plans(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        let Some(config) = &self.config else { return plans };
        for vip in config
            .vips
            .iter()
            .filter(|vip| vip.health.kind != CheckKind::None)
        {
            let host = match &vip.health.kind {
                CheckKind::Http { host: Some(host), .. } => host.clone(),
                _ => SocketAddr::new(vip.address, vip.port).to_string(),
            };
            for backend in &vip.backends {
                plans.push(Plan {
                    key: (service(vip), backend.address),
                    address: SocketAddr::new(backend.address, vip.health.port),
                    source: if backend.address.is_ipv4() {
                        config.check_source4
                    } else {
                        config.check_source6
                    },
                    host: host.clone(),
                    health: vip.health.clone(),
                });
            }
        }
        plans
    }

    /// The next hops that should be known.
    pub fn wanted(&self) -> BTreeSet<Wanted> {
        let of = |entry: &VipEntry| {
            let on_link = entry.config.mode == Mode::L2;
            entry
                .members
                .iter()
                .map(move |member| (member.config.address, on_link))
                .collect::<Vec<_>>()
        };
        self.vips.iter().flat_map(of).collect()
    }

    /// What happened to backends, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.log.iter()
    }

    /// The configuration in force.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The tables.
    pub fn plane(&self) -> &DataPlane {
        &self.plane
    }
}

fn flags(state: State) -> u32 {
    match state {
        State::Up => layout::BACKEND_UP | layout::BACKEND_NEW,
        State::Drained => layout::BACKEND_UP,
        State::Checking | State::Down | State::Unresolved => 0,
    }
}
