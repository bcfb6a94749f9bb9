//! Many clients at once, on new and on kept-alive connections, with every lost request's 5-tuple kept.

use super::http::{Connection, enter};
use crate::netns::Netns;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Clients that keep one connection for as long as it lasts.
    pub keepers: usize,
    /// Clients that open a connection for every request.
    pub openers: usize,
    /// How long a client waits between two requests.
    pub pause: Duration,
    /// Requests in all; clients stop after that many.
    pub requests: u64,
    /// Where they connect from.
    pub from: IpAddr,
    /// Where they connect to.
    pub to: SocketAddr,
    /// When a request counts as lost.
    pub timeout: Duration,
}

/// A request that got no answer.
#[derive(Debug, Clone)]
pub struct Lost {
    /// The client's end of the connection.
    pub local: SocketAddr,
    /// When, since the load began.
    pub at: Duration,
    /// What the client saw.
    pub error: String,
    /// The backend that had served this connection before, if any had.
    pub backend: Option<String>,
    /// What the `attribute` callback made of it, right after the loss.
    pub verdict: Verdict,
}

/// Whose fault a lost request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The balancer's record shows it was on the killed backend before that was known to be down.
    OnKilled,
    /// Nobody else's: it counts as failed.
    Failed,
}

/// What the clients have seen so far; shared while they run.
#[derive(Debug)]
pub struct Tally {
    start: Instant,
    issued: AtomicU64,
    ok: AtomicU64,
    moved: AtomicU64,
    stop: AtomicBool,
    by_backend: Mutex<BTreeMap<String, u64>>,
    lost: Mutex<Vec<Lost>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            issued: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            by_backend: Mutex::default(),
            lost: Mutex::default(),
        }
    }
}

impl Tally {
    /// Requests answered.
    pub fn ok(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    /// Kept-alive connections whose later answers came from another backend than the first.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Answers by backend.
    pub fn by_backend(&self) -> BTreeMap<String, u64> {
        lock(&self.by_backend).clone()
    }

    /// The lost requests.
    pub fn lost(&self) -> Vec<Lost> {
        lock(&self.lost).clone()
    }

    /// Asks the clients to stop after the request they are at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Takes the right to make one more request.
    fn take(&self, plan: &Plan) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.issued.fetch_add(1, Ordering::Relaxed) < plan.requests
    }
}

/// A source port that no connection of this process has used yet (40,000 of them, then round again).
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 40_000
}

/// Runs the plan to its end in the clients' namespace. `attribute` judges each lost request as soon as it is lost.
pub fn run(
    plan: &Plan,
    ns: &Netns,
    tally: &Tally,
    attribute: &(dyn Fn(&Lost) -> Verdict + Sync),
) -> io::Result<()> {
    let link = std::fs::File::open(format!("/run/netns/{}", ns.name()))?;
    std::thread::scope(|scope| {
        for i in 0..plan.keepers + plan.openers {
            let link = link.try_clone()?;
            let keep = i < plan.keepers;
            scope.spawn(move || {
                if let Err(e) = enter(&link) {
                    eprintln!("client {i} could not enter the clients' namespace: {e}");
                    return;
                }
                client(plan, tally, keep, attribute);
            });
        }
        Ok(())
    })
}

fn client(plan: &Plan, tally: &Tally, keep: bool, attribute: &(dyn Fn(&Lost) -> Verdict + Sync)) {
    let mut open: Option<Connection> = None;
    while tally.take(plan) {
        let local = open
            .as_ref()
            .map_or_else(|| SocketAddr::new(plan.from, next_port()), |c| c.local);
        let known = open.as_ref().and_then(|c| c.backend.clone());
        match request(plan, &mut open, local, keep) {
            Ok(backend) => {
                tally.ok.fetch_add(1, Ordering::Relaxed);
                if known.as_ref().is_some_and(|k| *k != backend) {
                    tally.moved.fetch_add(1, Ordering::Relaxed);
                }
                *lock(&tally.by_backend).entry(backend).or_default() += 1;
            }
            Err(e) => {
                open = None;
                let mut lost = Lost {
                    local,
                    at: tally.start.elapsed(),
                    error: e.to_string(),
                    backend: known,
                    verdict: Verdict::Failed,
                };
                lost.verdict = attribute(&lost);
                lock(&tally.lost).push(lost);
            }
        }
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
}

fn request(plan: &Plan, open: &mut Option<Connection>, local: SocketAddr, keep: bool) -> io::Result<String> {
    let mut connection = match open.take() {
        Some(c) => c,
        None => Connection::open(local, plan.to, plan.timeout)?,
    };
    let backend = connection.get("/", keep)?;
    if keep {
        connection.backend.get_or_insert_with(|| backend.clone());
        *open = Some(connection);
    }
    Ok(backend)
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
