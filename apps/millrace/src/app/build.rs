//! From wishes to an application: devices opened, ports brought up, taps made, workers placed and started.

use super::App;
use super::handle::{AppHandle, Core, Event, PortCtl, QueueCtl, WorkerCtl};
use super::ports::{PortEvent, PortThread};
use super::running::{Parts, Running, WorkerThread};
use super::stats::PortInfo;
use crate::config::PortSpec;
use crate::control::{ControlRegistry, default_run_dir, server::Server, verbs};
use crate::error::AppError;
use crate::exception::{TapPort, TapThread};
use crate::topology;
use crate::worker::batch::{PassHandler, Scratch, Slot};
use crate::worker::counters::{LocalCounters, SharedCounters};
use crate::worker::idle::{Backoff, IdlePolicy};
use crate::worker::mailbox::mailbox;
use crate::worker::route::{Doorstep, QueueRoute, Routes};
use crate::worker::run::{Worker, WorkerStats};
use crate::worker::wake::Waker;
use crossbeam::channel::{Sender, unbounded};
use millrace_driver::bus;
use millrace_driver::port::Port;
use millrace_driver::queue::RxBatch;
use millrace_driver::steering::TxSteering;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

type HandlerFactory = Box<dyn Fn(usize) -> PassHandler + Send>;

/// Bytes around the IP packet in the largest frame of an MTU: Ethernet header and two VLAN tags.
const AROUND: usize = 14 + 8;

/// What an application shall be.
pub struct AppBuilder {
    ports: Vec<PortSpec>,
    workers: Option<usize>,
    cores: Option<Vec<u32>>,
    pin: bool,
    idle: IdlePolicy,
    control: Option<String>,
    run_dir: Option<PathBuf>,
    tap: Option<String>,
    on_pass: Option<HandlerFactory>,
}

impl Default for AppBuilder {
    fn default() -> AppBuilder {
        AppBuilder {
            ports: Vec::new(),
            workers: None,
            cores: None,
            pin: true,
            idle: IdlePolicy::default(),
            control: None,
            run_dir: None,
            tap: None,
            on_pass: None,
        }
    }
}

impl std::fmt::Debug for AppBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppBuilder")
            .field("ports", &self.ports)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl AppBuilder {
    /// Adds a port.
    pub fn port(mut self, spec: PortSpec) -> AppBuilder {
        self.ports.push(spec);
        self
    }

    /// Number of worker threads; queue `q` of each port goes to worker `q % workers`. Default: as many as the port with
    /// most queues has.
    pub fn workers(mut self, workers: usize) -> AppBuilder {
        self.workers = Some(workers);
        self
    }

    /// CPUs to pin the workers to, in order, instead of those the machine's topology suggests.
    pub fn cores(mut self, cores: Vec<u32>) -> AppBuilder {
        self.cores = Some(cores);
        self
    }

    /// Whether workers are pinned to CPUs at all; they are by default.
    pub fn pin(mut self, pin: bool) -> AppBuilder {
        self.pin = pin;
        self
    }

    /// How patient idle workers are.
    pub fn idle(mut self, policy: IdlePolicy) -> AppBuilder {
        self.idle = policy;
        self
    }

    /// Opens a control socket of this name in the run folder.
    pub fn control(mut self, name: impl Into<String>) -> AppBuilder {
        self.control = Some(name.into());
        self
    }

    /// Folder of the control socket instead of `MILLRACE_RUN_DIR` or `/run/millrace`.
    pub fn run_dir(mut self, dir: impl Into<PathBuf>) -> AppBuilder {
        self.run_dir = Some(dir.into());
        self
    }

    /// Exception interface of the first port; further ports have theirs in [`PortSpec`].
    pub fn exception_tap<N: Into<String>>(mut self, name: Option<N>) -> AppBuilder {
        self.tap = name.map(Into::into);
        self
    }

    /// Has passed frames looked at on the worker; `make` is called once for each worker, with its number.
    pub fn on_pass(mut self, make: impl Fn(usize) -> PassHandler + Send + 'static) -> AppBuilder {
        self.on_pass = Some(Box::new(make));
        self
    }

    /// Opens everything. What was opened is closed again when a later step fails.
    pub fn build(mut self) -> Result<App, AppError> {
        self.check()?;
        if let (Some(tap), Some(first)) = (self.tap.take(), self.ports.first_mut()) {
            first.exception_tap = Some(tap);
        }
        let most = self
            .ports
            .iter()
            .map(|p| usize::from(p.config.queues))
            .max()
            .unwrap_or(1);
        let workers = self.workers.unwrap_or(most);
        let cpus = self.place(workers)?;
        let wakers: Vec<Waker> = (0..workers)
            .map(|_| {
                Waker::new().map_err(|source| AppError::Io {
                    what: "eventfd",
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
        let routes = Arc::new(self.routes(&wakers));
        let (events, inbox) = unbounded();
        let weak: Arc<OnceLock<std::sync::Weak<Core>>> = Arc::default();

        let mut ports = Vec::new();
        let mut slots: Vec<Vec<Slot>> = (0..workers).map(|_| Vec::new()).collect();
        let mut taps = Vec::new();
        for (index, spec) in self.ports.iter().enumerate() {
            let (ctl, mut port_slots) = open_port(index, spec, &routes, &events, weak.clone())?;
            for (route, slot) in routes.ports[index].iter().zip(port_slots.drain(..)) {
                slots[route.worker].push(slot);
            }
            if let Some(tap) = &ctl.tap {
                taps.push(TapThread::start(tap.clone(), index, routes.clone())?);
            }
            ports.push(ctl);
        }

        let mut worker_ctls = Vec::new();
        let mut threads = Vec::new();
        for (id, (slots, waker)) in slots.into_iter().zip(wakers).enumerate() {
            let (mailbox, inbox) = mailbox(waker);
            let stats = Arc::new(WorkerStats::default());
            let handler = self.on_pass.as_ref().map(|make| make(id));
            let cpu = cpus[id];
            let worker = Worker {
                id,
                slots,
                open: false,
                inbox,
                doorstep: routes.doorsteps[id].clone(),
                routes: routes.clone(),
                scratch: Scratch::new(cpu.unwrap_or(id as u32) as u16, ports.len(), handler),
                backoff: Backoff::new(self.idle),
                policy: self.idle,
                stats: stats.clone(),
            };
            threads.push(WorkerThread::start(worker, cpu, events.clone())?);
            worker_ctls.push(WorkerCtl { mailbox, stats, cpu });
        }

        let core = Arc::new(Core {
            started: Instant::now(),
            ports,
            workers: worker_ctls,
            routes,
            programs: Default::default(),
            maps: Default::default(),
            captures: Default::default(),
            control: ControlRegistry::new(),
            events,
            changes: Mutex::new(()),
        });
        let _ = weak.set(Arc::downgrade(&core));
        let handle = AppHandle(core);
        verbs::register_all(&handle);
        let mut running = Running::new(
            handle,
            Parts {
                server: None,
                taps,
                threads,
                events: inbox,
            },
        );
        if let Some(name) = &self.control {
            let dir = self.run_dir.unwrap_or_else(default_run_dir);
            let server = Server::bind(&dir, name)?;
            tracing::info!("control socket {}", server.path().display());
            running.keep_control(server);
        }
        Ok(App { running })
    }

    fn check(&self) -> Result<(), AppError> {
        let config = |text: String| Err(AppError::Config(text));
        if self.ports.is_empty() {
            return config(
                "an application needs a port; give it a device such as model:ixgbe?wire=null".into(),
            );
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.name.is_empty() || port.name.len() > 64 || port.name.contains(char::is_whitespace) {
                return config(format!("port name {:?} is not usable; use one word", port.name));
            }
            if self.ports[..i].iter().any(|other| other.name == port.name) {
                return config(format!(
                    "two ports are named {}; give each its own name",
                    port.name
                ));
            }
            if self.ports[..i]
                .iter()
                .any(|other| other.device == port.device && !port.device.starts_with("model:"))
            {
                return config(format!(
                    "device {} is given twice; a device makes one port",
                    port.device
                ));
            }
            if port.config.queues == 0 {
                return config(format!("port {} needs at least one queue", port.name));
            }
        }
        let most = self
            .ports
            .iter()
            .map(|p| usize::from(p.config.queues))
            .max()
            .unwrap_or(0);
        match self.workers {
            Some(0) => config("an application needs at least one worker".into()),
            Some(n) if n > most => config(format!(
                "{n} workers cannot share {most} queues; ask for {n} queues or fewer workers"
            )),
            _ => Ok(()),
        }
    }

    /// A CPU for each worker.
    fn place(&self, workers: usize) -> Result<Vec<Option<u32>>, AppError> {
        if !self.pin {
            return Ok(vec![None; workers]);
        }
        if let Some(cores) = &self.cores {
            return Ok((0..workers).map(|i| cores.get(i).copied()).collect());
        }
        let node = self
            .ports
            .first()
            .and_then(|port| topology::device_node(&port.device));
        let cpus = topology::cpus()?;
        let chosen = topology::plan(&cpus, workers, node);
        if workers > cpus.len() {
            tracing::warn!(
                "{workers} workers on {} CPUs: the rest is left to the scheduler",
                cpus.len()
            );
        }
        Ok(chosen)
    }

    fn routes(&self, wakers: &[Waker]) -> Routes {
        let mut next_slot = vec![0; wakers.len()];
        let ports = self.ports.iter().map(|port| {
            let queues = (0..usize::from(port.config.queues)).map(|queue| {
                let worker = queue % wakers.len();
                let slot = next_slot[worker];
                next_slot[worker] += 1;
                QueueRoute::new(worker, slot)
            });
            queues.collect()
        });
        Routes {
            ports: ports.collect(),
            doorsteps: wakers.iter().map(|w| Doorstep::new(w.clone())).collect(),
        }
    }
}

fn open_port(
    index: usize,
    spec: &PortSpec,
    routes: &Routes,
    events: &Sender<Event>,
    core: Arc<OnceLock<std::sync::Weak<Core>>>,
) -> Result<(PortCtl, Vec<Slot>), AppError> {
    let name = &spec.name;
    let device = bus::open(&spec.device).map_err(|source| AppError::Device {
        port: name.clone(),
        source: Box::new(source),
    })?;
    let fail = |source| AppError::Port {
        port: name.clone(),
        source: Box::new(source),
    };
    let mut port = Port::open(device.clone(), spec.config.clone()).map_err(fail)?;
    let driver = port.driver_info();
    let link = port.link().map_err(fail)?;
    let info = PortInfo {
        name: name.clone(),
        device: spec.device.clone(),
        driver: driver.driver.to_string(),
        model: driver.device_name.to_string(),
        ifindex: index as u32 + 1,
        mac: port.mac(),
        mtu: port.mtu(),
        queues: port.queues(),
        link_up: link.up,
        speed: link.speed_mbps,
        numa_node: device.numa_node(),
        exception_tap: spec.exception_tap.clone(),
    };
    let tap = match &spec.exception_tap {
        Some(tap) => Some(Arc::new(TapPort::open(tap, info.mac, info.mtu)?)),
        None => None,
    };
    let mut slots = Vec::new();
    let mut queues = Vec::new();
    for (queue, route) in (0u16..).zip(&routes.ports[index]) {
        let counters = SharedCounters::new();
        let fail = |source| AppError::Steering {
            port: name.clone(),
            source,
        };
        let mut steering = TxSteering::new(info.queues).map_err(fail)?;
        // What came in on a queue goes out on its twin, which the same worker owns.
        for twin in 0..info.queues {
            steering.set_rxq(twin, &[twin]).map_err(fail)?;
        }
        slots.push(Slot {
            port: index,
            queue,
            ifindex: info.ifindex,
            pair: None,
            batch: Box::new(RxBatch::new()),
            program: None,
            tapped: None,
            steering,
            key: spec.config.rss.key,
            tap: tap.clone(),
            counters: LocalCounters::new(counters.clone()),
        });
        queues.push(QueueCtl {
            worker: route.worker,
            slot: route.slot,
            counters,
            state: Default::default(),
        });
    }
    let single_buffer_mtu = port.single_buffer_max().saturating_sub(AROUND);
    let (events, port_name) = (events.clone(), name.clone());
    let thread = PortThread::start(name, port, device, move |event| match event {
        PortEvent::Gone(reason) => {
            let _ = events.send(Event::PortDown {
                port: port_name.clone(),
                reason,
            });
        }
        PortEvent::Link(link) => {
            tracing::info!("port {port_name}: link {}", if link.up { "up" } else { "down" });
            if let Some(core) = core.get().and_then(std::sync::Weak::upgrade)
                && let Some(port) = core.ports.get(index)
            {
                let mut info = port.info.lock().unwrap_or_else(PoisonError::into_inner);
                (info.link_up, info.speed) = (link.up, link.speed_mbps);
            }
        }
    })?;
    Ok((
        PortCtl {
            info: Mutex::new(info),
            key: spec.config.rss.key,
            single_buffer_mtu,
            thread,
            queues,
            tap,
        },
        slots,
    ))
}
