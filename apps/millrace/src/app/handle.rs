//! What can be asked of an application while it runs, from any thread: programs, queues, ports, numbers.

use super::ports::PortThread;
use super::registry::{Maps, Programs};
use super::stats::{AppStats, PortInfo, PortReport, QueueReport, WorkerReport};
use crate::config::QueueSel;
use crate::control::ControlRegistry;
use crate::error::AppError;
use crate::exception::TapPort;
use crate::hints;
use crate::worker::batch::{Attached, QueuePair};
use crate::worker::counters::SharedCounters;
use crate::worker::mailbox::Mailbox;
use crate::worker::route::Routes;
use crate::worker::run::{Command, Reply, WorkerStats};
use crossbeam::channel::Sender;
use millrace_driver::port::Port;
use millrace_driver::steering::TxSteering;
use millrace_ebpf::{EngineKind, Program};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker may take to answer: it looks into its mailbox every round.
const WORKER: Duration = Duration::from_secs(5);

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
    pub(crate) program: Option<AttachedInfo>,
}

#[derive(Clone)]
pub(crate) struct AttachedInfo {
    pub(crate) name: String,
    pub(crate) engine: EngineKind,
}

pub(crate) struct PortCtl {
    pub(crate) info: Mutex<PortInfo>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppHandle {
    /// Puts `program` in front of queues that have none. All of them or, on an error, none.
    pub fn attach(
        &self,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.attach_as(program.name(), port, queues, program, engine)
    }

    /// As [`attach`](Self::attach), with the name that control shows.
    pub fn attach_as(
        &self,
        name: &str,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.change(
            name,
            port,
            queues,
            Some((program, engine)),
            |state, queue| match &state.program {
                Some(old) => Err(AppError::Attached {
                    port: port.to_string(),
                    queue,
                    program: old.name.clone(),
                }),
                None => Ok(()),
            },
        )
    }

    /// Puts `program` in the place of whatever runs; no packet is lost and none sees half of each.
    pub fn replace(
        &self,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.replace_as(program.name(), port, queues, program, engine)
    }

    /// As [`replace`](Self::replace), with the name that control shows.
    pub fn replace_as(
        &self,
        name: &str,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.change(name, port, queues, Some((program, engine)), |_, _| Ok(()))
    }

    /// Takes the programs of these queues away; their frames are passed from then on.
    pub fn detach(&self, port: &str, queues: QueueSel) -> Result<(), AppError> {
        self.change("", port, queues, None, |state, queue| match state.program {
            Some(_) => Ok(()),
            None => Err(AppError::NotAttached {
                port: port.to_string(),
                queue,
            }),
        })
    }

    fn change(
        &self,
        name: &str,
        port: &str,
        queues: QueueSel,
        program: Option<(&Arc<Program>, EngineKind)>,
        allowed: impl Fn(&QueueState, u16) -> Result<(), AppError>,
    ) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        let selected = self.select(ctl, port, queues)?;
        let fail = |source| AppError::Program {
            program: name.to_string(),
            source: Box::new(source),
        };
        if let Some((program, _)) = program {
            let mtu = lock(&ctl.info).mtu;
            if !program.frags() && usize::from(mtu) > ctl.single_buffer_mtu {
                let (program, port) = (name.to_string(), port.to_string());
                return Err(AppError::NeedsFrags {
                    program,
                    port,
                    mtu,
                    largest: ctl.single_buffer_mtu,
                });
            }
        }
        // Everything that can be refused is refused before the first queue changes.
        let layout = ctl.thread.call(|port| hints::translate(port.hint_layout()))?;
        let mut ready = Vec::new();
        for queue in selected {
            let queue_ctl = &ctl.queues[usize::from(queue)];
            allowed(&lock(&queue_ctl.state), queue)?;
            let attached = match program {
                None => None,
                Some((program, engine)) => {
                    let mut instance = program.instance(engine, queue_ctl.worker as u32).map_err(fail)?;
                    instance.set_hints(&layout);
                    Some(Box::new(Attached {
                        engine,
                        instance,
                        name: name.to_string(),
                    }))
                }
            };
            ready.push((queue_ctl, attached));
        }
        let mut done: Vec<(&QueueCtl, Option<Box<Attached>>)> = Vec::new();
        for (queue_ctl, attached) in ready {
            match self.set_program(queue_ctl, attached) {
                Ok(old) => done.push((queue_ctl, old)),
                Err(error) => {
                    for (queue_ctl, old) in done {
                        let _ = self.set_program(queue_ctl, old);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The old program comes back and is freed by the caller, on this thread.
    fn set_program(
        &self,
        queue: &QueueCtl,
        program: Option<Box<Attached>>,
    ) -> Result<Option<Box<Attached>>, AppError> {
        let info = program.as_ref().map(|p| AttachedInfo {
            name: p.name.clone(),
            engine: p.engine,
        });
        let reply = self.ask(
            queue.worker,
            Command::SetProgram {
                slot: queue.slot,
                program,
            },
        )?;
        lock(&queue.state).program = info;
        match reply {
            Reply::Program(old) => Ok(old),
            _ => Ok(None),
        }
    }

    /// Changes the maps and the program slot that choose the TX queue of frames which `queue` of `port` received. Returns
    /// those that did so before.
    pub fn set_steering(
        &self,
        port: &str,
        queue: u16,
        steering: TxSteering,
    ) -> Result<Option<TxSteering>, AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        self.select(ctl, port, QueueSel::N(queue))?;
        let queue = &ctl.queues[usize::from(queue)];
        let steering = Box::new(steering);
        match self.ask(
            queue.worker,
            Command::SetSteering {
                slot: queue.slot,
                steering,
            },
        )? {
            Reply::Steering(old) => Ok(old.map(|old| *old)),
            _ => Ok(None),
        }
    }

    /// Stops one queue pair while the rest of the port runs; frames hashed to it are dropped by the device meanwhile.
    pub fn stop_queue(&self, port: &str, queue: u16) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        self.select(ctl, port, QueueSel::N(queue))?;
        let queue_ctl = &ctl.queues[usize::from(queue)];
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
        self.select(ctl, port, QueueSel::N(queue))?;
        let queue_ctl = &ctl.queues[usize::from(queue)];
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
            Ok(Box::new(QueuePair {
                rx,
                tx,
                irq: irq_of(port, queue),
            }))
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
                program: state.program.map(|program| program.name),
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

    /// Programs in front of queues: port, queue, name, engine.
    pub fn attached(&self) -> Vec<(String, u16, String, EngineKind)> {
        let mut all = Vec::new();
        for port in &self.0.ports {
            for (queue, ctl) in (0u16..).zip(&port.queues) {
                if let Some(program) = lock(&ctl.state).program.clone() {
                    all.push((lock(&port.info).name.clone(), queue, program.name, program.engine));
                }
            }
        }
        all
    }

    pub(crate) fn name_of(&self, port: &PortCtl) -> String {
        lock(&port.info).name.clone()
    }

    pub(crate) fn ask(&self, worker: usize, command: Command) -> Result<Reply, AppError> {
        let fail = |source| AppError::Mailbox { worker, source };
        self.0.workers[worker].mailbox.call(command, WORKER).map_err(fail)
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

    fn select(&self, ctl: &PortCtl, port: &str, queues: QueueSel) -> Result<Vec<u16>, AppError> {
        let count = ctl.queues.len() as u16;
        match queues {
            QueueSel::All => Ok((0..count).collect()),
            QueueSel::N(queue) if queue < count => Ok(vec![queue]),
            QueueSel::N(queue) => Err(AppError::NoQueue {
                port: port.to_string(),
                queue,
                last: count.saturating_sub(1),
            }),
        }
    }
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
