//! The host's routes for `bpf_fib_lookup` and `bpf_check_mtu`, kept fresh through rtnetlink.
//!
//! [`HostRoutes`] asks the kernel for everything once ([`dump`]), turns the answers into a snapshot ([`convert`]) and
//! publishes it on a [`RouteFeed`]. A thread then waits for the kernel's notices; whatever they are about, it asks anew,
//! after things have been quiet for a moment, so that a routing daemon's burst costs one more snapshot and not thousands.

mod convert;
mod dump;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_ebpf::RouteFeed;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Multicast groups of rtnetlink (`enum rtnetlink_groups`): links, neighbours, addresses, routes, rules and per-interface
/// settings of both families.
const GROUPS: [u32; 10] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25];
/// How long it must be quiet before the kernel is asked anew, and how long that is put off at most.
const QUIET: Duration = Duration::from_millis(10);
const AT_MOST: Duration = Duration::from_millis(200);
/// How long to wait before trying again after the kernel did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the host's routes cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the host's routes: {step}: {source}")]
pub struct RoutesError {
    step: &'static str,
    source: std::io::Error,
}

fn failed(step: &'static str) -> impl FnOnce(std::io::Error) -> RoutesError {
    move |source| RoutesError { step, source }
}

/// Follows the routes of the network namespace of the thread that made it, until dropped.
#[derive(Debug)]
pub struct HostRoutes {
    feed: RouteFeed,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl HostRoutes {
    /// Takes the first snapshot and begins to follow changes.
    pub fn follow() -> Result<HostRoutes, RoutesError> {
        let mut notices = Socket::new(NETLINK_ROUTE).map_err(failed("opening a netlink socket"))?;
        notices
            .bind(&SocketAddr::new(0, 0))
            .map_err(failed("binding a netlink socket"))?;
        for group in GROUPS {
            notices
                .add_membership(group)
                .map_err(failed("asking for notices of changes"))?;
        }
        notices
            .set_non_blocking(true)
            .map_err(failed("preparing a netlink socket"))?;
        let questions = dump::Questions::open().map_err(failed("opening a netlink socket"))?;
        let snapshot = || questions.everything().map(|all| convert::routes(&all));
        let feed = RouteFeed::new(snapshot().map_err(failed("asking the kernel"))?);
        let wake = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|e| failed("making an eventfd")(e.into()))?,
        );
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Follower {
            feed: feed.clone(),
            notices,
            questions,
            stop: stop.clone(),
            wake: wake.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("millrace-routes".into())
            .spawn(move || follower.run())
            .map_err(failed("starting a thread"))?;
        Ok(HostRoutes {
            feed,
            stop,
            wake,
            thread: Some(thread),
        })
    }

    /// Where instances find the newest snapshot ([`millrace_ebpf::Instance::set_routes`]).
    pub fn feed(&self) -> &RouteFeed {
        &self.feed
    }
}

/// The routes of this process's host, followed from the first time that a program asks for them; `None`, once told in the
/// log, where the kernel does not tell them.
pub(crate) fn host() -> Option<&'static RouteFeed> {
    static HOST: OnceLock<Option<HostRoutes>> = OnceLock::new();
    let followed = HOST.get_or_init(|| {
        let followed = HostRoutes::follow();
        followed
            .inspect_err(|error| tracing::warn!(%error, "bpf_fib_lookup will find no device"))
            .ok()
    });
    followed.as_ref().map(HostRoutes::feed)
}

impl Drop for HostRoutes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A full counter cannot be: nobody else writes.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    feed: RouteFeed,
    notices: Socket,
    questions: dump::Questions,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl Follower {
    fn run(self) {
        let mut waits: Option<Duration> = None;
        loop {
            self.wait(waits);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if !self.drain() && waits.is_none() {
                continue;
            }
            self.settle();
            match self.questions.everything() {
                Ok(all) => {
                    self.feed.publish(convert::routes(&all));
                    waits = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "the kernel does not tell the host's routes; programs see the last ones");
                    waits = Some(AGAIN);
                }
            }
        }
    }

    /// Waits for a notice, the end, or that long.
    fn wait(&self, at_most: Option<Duration>) {
        let mut fds = [
            PollFd::new(&self.notices, PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        let at_most = at_most.and_then(|d| Timespec::try_from(d).ok());
        // Interrupted is as good as woken: what there is to do is looked for anyway.
        let _ = poll(&mut fds, at_most.as_ref());
    }

    /// Takes all notices that are there; whether there were any. Lost ones (`ENOBUFS`) are notices, too.
    fn drain(&self) -> bool {
        let mut any = false;
        let mut room = Vec::with_capacity(1 << 16);
        loop {
            room.clear();
            match self.notices.recv(&mut room, 0) {
                Ok(_) => any = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return any,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }

    /// Waits until no notices come any more, for a while at most.
    fn settle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < AT_MOST && !self.stop.load(Ordering::Acquire) {
            self.wait(Some(QUIET));
            if !self.drain() {
                return;
            }
        }
    }
}
