//! The running control plane: a [`Balancer`] fed by health checks, the host's neighbour table, the file and the control socket.
//!
//! Locks: `balancer` is held for as long as it takes to change tables, never while anything waits; `feeders` is held by a
//! reload as a whole, so that two of them do not mix.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::balancer::{Balancer, BalancerError};
use crate::config::{Config, ConfigError};
use crate::health::Checker;
use crate::neigh::{NextHops, Resolver};
use crate::netlink::{Netlink, NetlinkError, bits, interface_index};

pub mod verbs;

/// Between two looks at the file and the clock.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the file.
const FILE_TICKS: u32 = 5;

/// Why the control plane cannot start, or a reload was not taken.
#[derive(Debug, Error)]
pub enum ControlPlaneError {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file is right, but cannot be followed now.
    #[error(transparent)]
    Balancer(#[from] BalancerError),
    /// The host's stack refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The host's stack refused an address on the exception tap.
    #[error(
        "the host does not take {address}/{prefix} as the exception tap's address: {source}; --tap-address wants one that a host can have, such as 10.0.0.2/24"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// The kernel's words.
        source: NetlinkError,
    },
    /// No thread.
    #[error("cannot start a thread: {0}; is the limit on processes (ulimit -u) reached?")]
    Thread(io::Error),
}

/// What the control plane stands on in the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Routes to backends must leave by this interface, and the VIPs become its addresses, so that the host answers
    /// ARP, neighbour discovery and echo for them.
    pub interface: Option<String>,
    /// The host's own addresses on it.
    pub addresses: Vec<(IpAddr, u8)>,
}

struct Feeders {
    checker: Checker,
    resolver: Resolver,
    netlink: Netlink,
    interface: Option<u32>,
    /// VIPs that are addresses of the interface.
    answering: BTreeSet<IpAddr>,
}

/// A configuration file and the version of it that is followed from.
#[derive(Clone, Debug)]
pub struct Watched {
    file: PathBuf,
    version: Option<Version>,
}

impl Watched {
    /// The file as it is now. Made before the file is read, so that no later change goes unnoticed.
    pub fn new(file: &Path) -> Watched {
        let version = version(file);
        let file = file.to_owned();
        Watched { file, version }
    }
}

struct Shared {
    balancer: Mutex<Balancer>,
    feeders: Mutex<Option<Feeders>>,
    file: PathBuf,
    /// The version of the file that was read at the start.
    first: Option<Version>,
    /// Why the file as it is now is not in force.
    refusal: Mutex<Option<String>>,
    reload: AtomicBool,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running control plane; stops when dropped.
pub struct Control {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Asks a running control plane; does not keep it alive.
#[derive(Clone)]
pub struct ControlHandle(Weak<Shared>);

impl Control {
    /// Can be asked, but does nothing by itself yet. `balancer` has been given the file's content.
    pub fn new(balancer: Balancer, watched: Watched) -> Control {
        let shared = Arc::new(Shared {
            balancer: Mutex::new(balancer),
            feeders: Mutex::new(None),
            file: watched.file,
            first: watched.version,
            refusal: Mutex::new(None),
            reload: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        Control { shared, thread: None }
    }

    /// Starts health checks, neighbour resolution and the watch over the file; frames can leave and arrive by now.
    pub fn start(&mut self, host: &Host) -> Result<(), ControlPlaneError> {
        let netlink = Netlink::open()?;
        let interface = host.interface.as_deref().map(interface_index).transpose()?;
        if let Some(index) = interface {
            for (address, prefix) in &host.addresses {
                let added = netlink.add_address(index, *address, *prefix, false);
                added.map_err(|source| ControlPlaneError::Address {
                    address: *address,
                    prefix: *prefix,
                    source,
                })?;
            }
        }
        let to = Arc::downgrade(&self.shared);
        let checker = Checker::new(move |plan, outcome| {
            let Some(shared) = to.upgrade() else { return };
            let taken = lock(&shared.balancer).take_check(&plan.key, outcome);
            if let Err(error) = taken {
                tracing::error!("a check's outcome is lost: {error}");
            }
        });
        let to = Arc::downgrade(&self.shared);
        let resolver = Resolver::start(
            NextHops::open(host.interface.as_deref())?,
            move |wanted, answer| {
                let Some(shared) = to.upgrade() else { return };
                if let Err(why) = &answer {
                    tracing::warn!("backend {}: {why}", wanted.0);
                }
                let taken = lock(&shared.balancer).take_neighbour(wanted, &answer);
                if let Err(error) = taken {
                    tracing::error!("a neighbour is lost: {error}");
                }
            },
        )
        .map_err(ControlPlaneError::Thread)?;
        let answering = BTreeSet::new();
        *lock(&self.shared.feeders) = Some(Feeders {
            checker,
            resolver,
            netlink,
            interface,
            answering,
        });
        self.shared.instruct();

        let watched = self.shared.clone();
        let body = move || watch(&watched);
        let thread = std::thread::Builder::new().name("control".into()).spawn(body);
        self.thread = Some(thread.map_err(ControlPlaneError::Thread)?);
        Ok(())
    }

    /// For verbs and signals.
    pub fn handle(&self) -> ControlHandle {
        ControlHandle(Arc::downgrade(&self.shared))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Their threads report into `shared`, so they end before it does, and not under its lock.
        let feeders = lock(&self.shared.feeders).take();
        drop(feeders);
    }
}

impl Shared {
    /// Tells checks, neighbours and the host's interface what the configuration in force wants.
    fn instruct(&self) {
        let (plans, wanted, vips) = {
            let balancer = lock(&self.balancer);
            let vips = balancer
                .config()
                .map(|config| config.vips.iter().map(|vip| vip.address).collect());
            (balancer.plans(), balancer.wanted(), vips.unwrap_or_default())
        };
        if let Some(feeders) = &mut *lock(&self.feeders) {
            feeders.answer(vips);
            feeders.resolver.set_wanted(wanted);
            feeders.checker.set_plans(plans);
        }
    }

    fn reload(&self) -> Result<(), ControlPlaneError> {
        let config = Config::load(&self.file).map_err(ControlPlaneError::from);
        // Held meanwhile, so that nobody finds the new configuration in force beside the refusal of the one before.
        let mut refusal = lock(&self.refusal);
        let outcome = config.and_then(|config| Ok(lock(&self.balancer).apply(config)?));
        *refusal = outcome.as_ref().err().map(ToString::to_string);
        drop(refusal);
        match &outcome {
            Ok(()) => {
                tracing::info!("{} is in force", self.file.display());
                self.instruct();
            }
            Err(why) => tracing::error!("{why}; the configuration before it stays in force"),
        }
        outcome
    }
}

impl Feeders {
    /// Makes the VIPs addresses of the interface, so that the host answers for them.
    fn answer(&mut self, vips: BTreeSet<IpAddr>) {
        let Some(interface) = self.interface else { return };
        for gone in self.answering.difference(&vips) {
            if let Err(why) = self.netlink.remove_address(interface, *gone, bits(*gone)) {
                tracing::warn!("the host still answers for {gone}: {why}");
            }
        }
        for new in vips.difference(&self.answering) {
            if let Err(why) = self.netlink.add_address(interface, *new, bits(*new), true) {
                tracing::warn!("the host does not answer ARP or neighbour discovery for {new}: {why}");
            }
        }
        self.answering = vips;
    }
}

/// What tells one version of a file from the next: time of change, length, inode.
type Version = (SystemTime, u64, u64);

/// Editors replace files, so the name is looked up anew.
fn version(file: &Path) -> Option<Version> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn watch(shared: &Shared) {
    let mut seen = shared.first;
    let mut ticks = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        if let Err(error) = lock(&shared.balancer).tick() {
            tracing::error!("{error}");
        }
        ticks += 1;
        let asked = shared.reload.swap(false, Ordering::Relaxed);
        if !asked && ticks % FILE_TICKS != 0 {
            continue;
        }
        let now = version(&shared.file);
        // A file that is gone for a moment is being replaced.
        if asked || (now.is_some() && now != seen) {
            // The outcome is logged, and `lb.stats` shows it.
            let _ = shared.reload();
        }
        if now.is_some() {
            seen = now;
        }
    }
}

impl ControlHandle {
    /// Has the file read again soon; for signal handlers' threads.
    pub fn request_reload(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.reload.store(true, Ordering::Relaxed);
        }
    }

    fn shared(&self) -> Option<Arc<Shared>> {
        self.0.upgrade()
    }
}
