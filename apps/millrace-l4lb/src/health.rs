//! Health checks through the host's stack: a few threads take the check that is due, run it, report it.
//!
//! [`probe`] is one check. [`Checker`] keeps the timetable: a backend is asked every `interval`, never twice at once, and
//! no more than [`THREADS`] checks run at the same time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Health, Protocol};

pub mod probe;

/// Checks that may be under way at once.
pub const THREADS: usize = 32;

/// Address, port and protocol of a VIP.
pub type Service = (IpAddr, u16, Protocol);

/// Whom a check is about: a backend of a VIP.
pub type CheckKey = (Service, IpAddr);

/// A check to run again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whom it is about.
    pub key: CheckKey,
    /// Where to connect.
    pub address: SocketAddr,
    /// Where from, if not the host's choice.
    pub source: Option<IpAddr>,
    /// What a `GET` names as host.
    pub host: String,
    /// What is asked, how often.
    pub health: Health,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend serves.
    Serves,
    /// It does not.
    Fails(String),
    /// This host could not ask: it has no route or no address for it yet.
    CannotAsk(String),
}

struct Entry {
    plan: Plan,
    due: Instant,
    running: bool,
}

#[derive(Default)]
struct Timetable {
    entries: HashMap<CheckKey, Entry>,
    stop: bool,
}

type Report = Box<dyn Fn(&Plan, Outcome) + Send + Sync>;

struct Shared {
    table: Mutex<Timetable>,
    change: Condvar,
    report: Report,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Timetable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs checks until it is dropped.
pub struct Checker {
    shared: Arc<Shared>,
    threads: Mutex<usize>,
}

impl Checker {
    /// A checker without checks; `report` gets each outcome on one of its threads.
    pub fn new(report: impl Fn(&Plan, Outcome) + Send + Sync + 'static) -> Checker {
        let shared = Shared {
            table: Mutex::default(),
            change: Condvar::new(),
            report: Box::new(report),
        };
        Checker {
            shared: Arc::new(shared),
            threads: Mutex::default(),
        }
    }

    /// Replaces the list of checks. A check that stays as it is keeps its timetable; a new one is due at once.
    pub fn set_plans(&self, plans: Vec<Plan>) {
        let wanted = plans.len().min(THREADS);
        let mut table = self.shared.table();
        let mut old = std::mem::take(&mut table.entries);
        for plan in plans {
            let entry = match old.remove(&plan.key) {
                Some(entry) if entry.plan == plan => entry,
                _ => Entry {
                    plan,
                    due: Instant::now(),
                    running: false,
                },
            };
            table.entries.insert(entry.plan.key, entry);
        }
        drop(table);
        self.shared.change.notify_all();

        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while *threads < wanted {
            let shared = self.shared.clone();
            let name = format!("check-{threads}");
            match std::thread::Builder::new().name(name).spawn(move || run(&shared)) {
                Ok(_) => *threads += 1,
                Err(error) => {
                    tracing::error!("health checks have {threads} threads, no more: {error}");
                    break;
                }
            }
        }
    }
}

impl Drop for Checker {
    /// Threads end after the check that they are in; nobody waits for them.
    fn drop(&mut self) {
        self.shared.table().stop = true;
        self.shared.change.notify_all();
    }
}

fn run(shared: &Shared) {
    while let Some(plan) = next(shared) {
        let began = Instant::now();
        let outcome = match probe::probe(&plan) {
            Ok(()) => Outcome::Serves,
            Err(error) if error.is_ours() => Outcome::CannotAsk(error.to_string()),
            Err(error) => Outcome::Fails(error.to_string()),
        };
        let mut table = shared.table();
        match table.entries.get_mut(&plan.key) {
            Some(entry) if entry.plan == plan => {
                entry.running = false;
                entry.due = began + plan.health.interval;
            }
            // Replaced or removed meanwhile: nobody asked for this outcome.
            _ => continue,
        }
        drop(table);
        (shared.report)(&plan, outcome);
    }
}

/// Waits for the next check that is due. None: stop.
fn next(shared: &Shared) -> Option<Plan> {
    let mut table = shared.table();
    loop {
        if table.stop {
            return None;
        }
        let now = Instant::now();
        let first = table
            .entries
            .values_mut()
            .filter(|entry| !entry.running)
            .min_by_key(|entry| entry.due);
        let wait = match first {
            Some(entry) if entry.due <= now => {
                entry.running = true;
                return Some(entry.plan.clone());
            }
            Some(entry) => entry.due - now,
            None => Duration::from_secs(3600),
        };
        table = shared
            .change
            .wait_timeout(table, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
