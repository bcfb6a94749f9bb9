//! What an application tells about itself: plain numbers by name, for the control socket, for tests and for tables.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything `millrace stats` shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AppStats {
    /// Seconds since the application started.
    pub uptime: f64,
    pub ports: Vec<PortReport>,
    pub workers: Vec<WorkerReport>,
}

impl AppStats {
    /// Sum of a queue counter over all queues of all ports.
    pub fn total(&self, counter: &str) -> u64 {
        self.ports
            .iter()
            .flat_map(|port| &port.queues)
            .map(|queue| queue.counter(counter))
            .sum()
    }

    pub fn port(&self, name: &str) -> Option<&PortReport> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// One port.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PortReport {
    pub name: String,
    /// The device's statistics registers; empty once the device has gone.
    pub device: BTreeMap<String, u64>,
    /// The exception tap's counters; empty without one.
    pub tap: BTreeMap<String, u64>,
    /// Packet buffers: `total`, `home`, `in_flight`.
    pub buffers: BTreeMap<String, u64>,
    pub queues: Vec<QueueReport>,
}

/// One queue pair.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueReport {
    pub queue: u16,
    pub worker: usize,
    /// False while stopped.
    pub running: bool,
    /// Name of the program in front of it; of a chain, all names in the order in which they run, with commas.
    pub program: Option<String>,
    /// Name of the program that chooses TX queues.
    #[serde(default)]
    pub steering: Option<String>,
    /// By the names of [`COUNTERS`](crate::worker::counters::COUNTERS).
    pub counters: BTreeMap<String, u64>,
}

impl QueueReport {
    /// A counter's value; 0 for a name that does not exist.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }
}

/// One worker thread.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerReport {
    pub worker: usize,
    /// The CPU it is pinned to.
    pub cpu: Option<u32>,
    /// Rounds of its loop that found work.
    pub busy_rounds: u64,
    /// Rounds that found none.
    pub idle_rounds: u64,
    /// Times it slept.
    pub sleeps: u64,
}

/// What a port is; does not change while the application runs, but for the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortInfo {
    pub name: String,
    /// Device string.
    pub device: String,
    /// Driver family.
    pub driver: String,
    /// Marketing name of the device.
    pub model: String,
    /// Number by which programs name the port in a redirect.
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u16,
    pub queues: u16,
    pub link_up: bool,
    /// Mbit/s, 0 while the link is down.
    pub speed: u32,
    pub numa_node: Option<u32>,
    pub exception_tap: Option<String>,
}
