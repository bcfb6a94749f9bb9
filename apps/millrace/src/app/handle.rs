//! What can be asked of an application while it runs, from any thread: programs, queues, ports, numbers.

use super::ports::PortThread;
use super::programs::AttachedInfo;
use super::registry::{Maps, Programs};
use super::stats::{AppStats, PortInfo, PortReport, QueueReport, WorkerReport};
use crate::capture::session::Captures;
use crate::control::ControlRegistry;
use crate::error::AppError;
use crate::exception::TapPort;
use crate::worker::counters::SharedCounters;
use crate::worker::mailbox::Mailbox;
use crate::worker::pair::QueuePair;
use crate::worker::route::Routes;
use crate::worker::run::{Command, Reply, WorkerStats};
use crossbeam::channel::Sender;
use millrace_driver::port::Port;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker may take to answer: it looks into its mailbox every round.
pub(super) const WORKER: Duration = Duration::from_secs(5);

/// What the parts tell the thread that waits for the end.
#[derive(Debug)]
pub(crate) enum Event {
    /// SIGINT, SIGTERM, or `stop` from control.
    Stop(String),
    PortDown {
        port: String,
        reason: String,
    },
    WorkerPanicked {
        worker: usize,
        message: String,
    },
}

pub(crate) struct QueueCtl {
    pub(crate) worker: usize,
    pub(crate) slot: usize,
    pub(crate) counters: Arc<SharedCounters>,
    pub(crate) state: Mutex<QueueState>,
}

#[derive(Clone, Default)]
pub(crate) struct QueueState {
    pub(crate) running: bool,
    /// What runs on received frames: none, a program alone, or a chain in the order in which it runs.
    pub(crate) programs: Vec<AttachedInfo>,
    /// What chooses TX queues: none or one.
    pub(crate) steering: Vec<AttachedInfo>,
    /// Whether a capture looks at it.
    pub(crate) tapped: bool,
}

pub(crate) struct PortCtl {
    pub(crate) info: Mutex<PortInfo>,
    /// Toeplitz key for the flow hash of last resort.
    pub(crate) key: [u8; 40],
    /// Most bytes of IP packet whose frame is sure to fit one buffer.
    pub(crate) single_buffer_mtu: usize,
    pub(crate) thread: PortThread,
    pub(crate) queues: Vec<QueueCtl>,
    pub(crate) tap: Option<Arc<TapPort>>,
}

pub(crate) struct WorkerCtl {
    pub(crate) mailbox: Mailbox<Command, Reply>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) cpu: Option<u32>,
}

pub(crate) struct Core {
    pub(crate) started: Instant,
    pub(crate) ports: Vec<PortCtl>,
    pub(crate) workers: Vec<WorkerCtl>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) programs: Programs,
    pub(crate) maps: Maps,
    pub(crate) control: ControlRegistry,
    pub(crate) captures: Captures,
    pub(crate) events: Sender<Event>,
    /// One change of programs or queues at a time.
    pub(crate) changes: Mutex<()>,
}

/// Handle to a running application. Cheap to clone.
#[derive(Clone)]
pub struct AppHandle(pub(crate) Arc<Core>);

impl std::fmt::Debug for AppHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppHandle")
            .field("ports", &self.ports())
            .finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppHandle {
    /// Stops one queue pair while the rest of the port runs; frames hashed to it are dropped by the device meanwhile.
    pub fn stop_queue(&self, port: &str, queue: u16) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        let queue_ctl = self.one_queue(ctl, port, queue)?;
        if !lock(&queue_ctl.state).running {
            return Err(AppError::QueueState {
                port: port.to_string(),
                queue,
                state: "stopped",
            });
        }
        self.set_active(port, queue, false);
        let reply = self.ask(queue_ctl.worker, Command::GiveQueues { slot: queue_ctl.slot })?;
        lock(&queue_ctl.state).running = false;
        let Reply::Queues(Some(pair)) = reply else {
            return Ok(());
        };
        let fail = |source| AppError::Port {
            port: port.to_string(),
            source: Box::new(source),
        };
        ctl.thread
            .call(move |port| port.stop_queue(pair.rx, pair.tx))?
            .map_err(fail)
    }

    /// Starts a queue pair that was stopped; its program is still in front of it.
    pub fn start_queue(&self, port: &str, queue: u16) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        let queue_ctl = self.one_queue(ctl, port, queue)?;
        if lock(&queue_ctl.state).running {
            return Err(AppError::QueueState {
                port: port.to_string(),
                queue,
                state: "running",
            });
        }
        let fail = |source| AppError::Port {
            port: port.to_string(),
            source: Box::new(source),
        };
        let pair = ctl.thread.call(move |port| {
            let (rx, tx) = port.start_queue(queue)?;
            Ok(Box::new(QueuePair::new(rx, tx, irq_of(port, queue))))
        })?;
        self.hand_over(port, queue, queue_ctl, pair.map_err(fail)?)
    }

    /// Gives a running queue pair to the worker that owns its slot.
    pub(crate) fn hand_over(
        &self,
        port: &str,
        queue: u16,
        ctl: &QueueCtl,
        pair: Box<QueuePair>,
    ) -> Result<(), AppError> {
        match self.ask(ctl.worker, Command::TakeQueues { slot: ctl.slot, pair })? {
            Reply::Done => {
                lock(&ctl.state).running = true;
                self.set_active(port, queue, true);
                Ok(())
            }
            _ => Err(AppError::QueueState {
                port: port.to_string(),
                queue,
                state: "running",
            }),
        }
    }

    fn set_active(&self, port: &str, queue: u16, active: bool) {
        let index = self.0.ports.iter().position(|p| lock(&p.info).name == port);
        if let Some(route) = index.and_then(|index| self.0.routes.get(index, queue)) {
            route.set_active(active);
        }
    }

    /// Runs `call` on the port's control thread: MAC filters, RSS, promiscuous mode, register dumps. Returns what it returns.
    pub fn with_port<R: Send + 'static>(
        &self,
        port: &str,
        call: impl FnOnce(&mut Port) -> R + Send + 'static,
    ) -> Result<R, AppError> {
        self.port_ctl(port)?.thread.call(call)
    }

    /// Waits until every worker has seen all that was posted before.
    pub fn barrier(&self) -> Result<(), AppError> {
        (0..self.0.workers.len()).try_for_each(|worker| self.ask(worker, Command::Barrier).map(drop))
    }

    /// All ports in the order of the builder.
    pub fn ports(&self) -> Vec<PortInfo> {
        self.0.ports.iter().map(|port| lock(&port.info).clone()).collect()
    }

    /// One port.
    pub fn port(&self, name: &str) -> Result<PortInfo, AppError> {
        Ok(lock(&self.port_ctl(name)?.info).clone())
    }

    /// Number of workers: what a loader of programs needs for per-CPU maps.
    pub fn workers(&self) -> usize {
        self.0.workers.len()
    }

    /// Maps that the control socket shows.
    pub fn maps(&self) -> &Maps {
        &self.0.maps
    }

    /// Programs that control can attach by name.
    pub fn programs(&self) -> &Programs {
        &self.0.programs
    }

    /// Verbs of the control socket.
    pub fn control(&self) -> &ControlRegistry {
        &self.0.control
    }

    /// Ends the application as SIGTERM would; `why` goes to the log.
    pub fn request_stop(&self, why: &str) {
        let _ = self.0.events.send(Event::Stop(why.to_string()));
    }

    /// All numbers, as they are now.
    pub fn stats(&self) -> AppStats {
        AppStats {
            uptime: self.0.started.elapsed().as_secs_f64(),
            ports: self.0.ports.iter().map(|port| self.report(port)).collect(),
            workers: (self.0.workers.iter().enumerate())
                .map(|(worker, ctl)| WorkerReport {
                    worker,
                    cpu: ctl.cpu,
                    busy_rounds: ctl.stats.busy.load(Ordering::Relaxed),
                    idle_rounds: ctl.stats.idle.load(Ordering::Relaxed),
                    sleeps: ctl.stats.sleeps.load(Ordering::Relaxed),
                })
                .collect(),
        }
    }

    fn report(&self, ctl: &PortCtl) -> PortReport {
        let (device, buffers) = ctl.thread.call(device_numbers).unwrap_or_default();
        let tap = ctl.tap.as_ref().map_or_else(BTreeMap::new, |tap| {
            let of = |name: &str, value: &std::sync::atomic::AtomicU64| {
                (name.to_string(), value.load(Ordering::Relaxed))
            };
            BTreeMap::from([of("from_host", &tap.taken), of("from_host_dropped", &tap.dropped)])
        });
        let queues = ctl.queues.iter().zip(0u16..).map(|(queue_ctl, queue)| {
            let state = lock(&queue_ctl.state).clone();
            QueueReport {
                queue,
                worker: queue_ctl.worker,
                running: state.running,
                program: names(&state.programs),
                steering: names(&state.steering),
                counters: named(queue_ctl.counters.snapshot()),
            }
        });
        PortReport {
            name: lock(&ctl.info).name.clone(),
            device,
            tap,
            buffers,
            queues: queues.collect(),
        }
    }

    pub(crate) fn name_of(&self, port: &PortCtl) -> String {
        lock(&port.info).name.clone()
    }

    pub(crate) fn port_ctl(&self, name: &str) -> Result<&PortCtl, AppError> {
        self.0
            .ports
            .iter()
            .find(|port| lock(&port.info).name == name)
            .ok_or_else(|| AppError::NoPort {
                wanted: name.to_string(),
                have: self
                    .ports()
                    .into_iter()
                    .map(|port| port.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    pub(super) fn one_queue<'a>(
        &self,
        ctl: &'a PortCtl,
        port: &str,
        queue: u16,
    ) -> Result<&'a QueueCtl, AppError> {
        ctl.queues
            .get(usize::from(queue))
            .ok_or_else(|| AppError::NoQueue {
                port: port.to_string(),
                queue,
                last: (ctl.queues.len() as u16).saturating_sub(1),
            })
    }
}

/// The names of what runs, in its order.
fn names(programs: &[AttachedInfo]) -> Option<String> {
    let names: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// A descriptor of the queue's interrupt for the worker to keep; without one it sleeps by the clock.
pub(crate) fn irq_of(port: &Port, queue: u16) -> Option<std::os::fd::OwnedFd> {
    port.irq(queue).and_then(|fd| fd.try_clone_to_owned().ok())
}

pub(crate) fn named<'a>(values: impl IntoIterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    values
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}

type Numbers = BTreeMap<String, u64>;

/// Registers and pool of a port as named numbers.
pub(crate) fn device_numbers(port: &mut Port) -> (Numbers, Numbers) {
    let buffers = port.buffers();
    let buffers = named([
        ("total", buffers.total as u64),
        ("home", buffers.home as u64),
        ("in_flight", buffers.in_flight as u64),
    ]);
    let Ok(s) = port.stats() else {
        return (Numbers::new(), buffers);
    };
    let device = named([
        ("rx_packets", s.rx_packets),
        ("rx_bytes", s.rx_bytes),
        ("tx_packets", s.tx_packets),
        ("tx_bytes", s.tx_bytes),
        ("rx_missed", s.rx_missed),
        ("rx_no_descriptors", s.rx_no_descriptors),
        ("rx_crc_errors", s.rx_crc_errors),
        ("rx_length_errors", s.rx_length_errors),
        ("rx_checksum_errors", s.rx_checksum_errors),
        ("rx_broadcast", s.rx_broadcast),
        ("rx_multicast", s.rx_multicast),
    ]);
    (device, buffers)
}
