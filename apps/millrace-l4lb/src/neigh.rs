//! Next hops and their MACs, as the host's stack knows them: route, then neighbour.
//!
//! The host does the resolving (ARP, neighbour discovery, refresh). A datagram to the discard port of a backend makes it
//! start; the health checks keep it going.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::netlink::{Netlink, NetlinkError, Route, interface_index};

/// RFC 863: whatever arrives there is thrown away.
const DISCARD: u16 = 9;
/// Between two looks at the host's tables.
const PERIOD: Duration = Duration::from_secs(1);
/// The same in the first [`HASTE`] while somebody's MAC is missing.
const HURRY: Duration = Duration::from_millis(100);
/// How long a new list is worth hurrying for.
const HASTE: Duration = Duration::from_secs(10);

/// Why a next hop is not known.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NeighbourError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No way to it.
    #[error("the host has no route to {0}")]
    NoRoute(IpAddr),
    /// It is here.
    #[error("{0} is an address of this host")]
    Local(IpAddr),
    /// MAC rewrite cannot cross a router.
    #[error(
        "{address} is behind router {router}: mode = \"l2\" needs it on the link, or use mode = \"ipip\""
    )]
    NotOnLink {
        /// The backend.
        address: IpAddr,
        /// Its router.
        router: IpAddr,
    },
    /// The route does not leave by the port.
    #[error("the host's route to {address} leaves by interface {interface}, not by {wanted}")]
    OtherInterface {
        /// The backend.
        address: IpAddr,
        /// Its index.
        interface: u32,
        /// The exception tap.
        wanted: String,
    },
    /// The neighbour does not answer.
    #[error("{0} does not answer ARP or neighbour discovery")]
    Silent(IpAddr),
}

/// Whose next hop is wanted: an address, and whether it must be on the link.
pub type Wanted = (IpAddr, bool);

/// A MAC, or why there is none.
pub type Answer = Result<[u8; 6], NeighbourError>;

/// Finds next hops.
pub struct NextHops {
    netlink: Netlink,
    /// Routes must leave by it.
    interface: Option<(String, u32)>,
}

impl NextHops {
    /// In this thread's network namespace. With `interface`, routes must leave by it.
    pub fn open(interface: Option<&str>) -> Result<NextHops, NetlinkError> {
        let interface = match interface {
            Some(name) => Some((name.to_owned(), interface_index(name)?)),
            None => None,
        };
        Ok(NextHops {
            netlink: Netlink::open()?,
            interface,
        })
    }

    /// The MAC of the next hop towards a backend. Nudges the host when it does not know.
    pub fn resolve(&self, (address, on_link): Wanted) -> Answer {
        let (interface, router) = match self.netlink.route(address)? {
            Route::Out(interface, router) => (interface, router),
            Route::Local => return Err(NeighbourError::Local(address)),
            Route::None => return Err(NeighbourError::NoRoute(address)),
        };
        if let Some((wanted, index)) = &self.interface
            && *index != interface
        {
            return Err(NeighbourError::OtherInterface {
                address,
                interface,
                wanted: wanted.clone(),
            });
        }
        if let (Some(router), true) = (router, on_link) {
            return Err(NeighbourError::NotOnLink { address, router });
        }
        let hop = router.unwrap_or(address);
        let known = self.netlink.neighbour(hop, interface)?;
        if !matches!(known, Some((_, true))) {
            nudge(address);
        }
        known.map(|(mac, _)| mac).ok_or(NeighbourError::Silent(hop))
    }
}

/// Makes the host resolve an address by giving it something to send there.
fn nudge(address: IpAddr) {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    if let Ok(socket) = UdpSocket::bind((any, 0)) {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(&[], SocketAddr::new(address, DISCARD));
    }
}

#[derive(Default)]
struct Orders {
    wanted: BTreeSet<Wanted>,
    fresh: bool,
    stop: bool,
}

/// Keeps looking until it is dropped.
pub struct Resolver {
    orders: Arc<(Mutex<Orders>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Starts a thread that calls `report` with each answer that differs from the one before.
    pub fn start(hops: NextHops, report: impl Fn(Wanted, Answer) + Send + 'static) -> io::Result<Resolver> {
        let orders = Arc::new((Mutex::new(Orders::default()), Condvar::new()));
        let shared = orders.clone();
        let body = move || run(&hops, &shared, report);
        let thread = std::thread::Builder::new()
            .name("neighbours".into())
            .spawn(body)?;
        Ok(Resolver {
            orders,
            thread: Some(thread),
        })
    }

    /// Whose next hops are wanted from now on. Each is reported anew.
    pub fn set_wanted(&self, wanted: BTreeSet<Wanted>) {
        let mut orders = self.orders.0.lock().unwrap_or_else(PoisonError::into_inner);
        orders.wanted = wanted;
        orders.fresh = true;
        self.orders.1.notify_all();
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.orders.0.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.orders.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(hops: &NextHops, (orders, change): &(Mutex<Orders>, Condvar), report: impl Fn(Wanted, Answer)) {
    let mut known: BTreeMap<Wanted, Answer> = BTreeMap::new();
    let mut since = Instant::now();
    loop {
        let wanted = {
            let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
            if orders.stop {
                return;
            }
            if std::mem::take(&mut orders.fresh) {
                known.clear();
                since = Instant::now();
            }
            orders.wanted.clone()
        };
        for one in &wanted {
            let answer = hops.resolve(*one);
            if known.get(one) != Some(&answer) {
                report(*one, answer.clone());
                known.insert(*one, answer);
            }
        }
        let hurry = known.values().any(Result::is_err) && since.elapsed() < HASTE;
        let pause = if hurry { HURRY } else { PERIOD };
        let orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !orders.stop && !orders.fresh {
            drop(change.wait_timeout(orders, pause));
        }
    }
}
