//! The way up and the way down: queues to workers, the wait, and everything back in order, whatever ended it.

use super::handle::{AppHandle, Event, irq_of};
use super::stats::AppStats;
use crate::control::server::Server;
use crate::error::AppError;
use crate::exception::TapThread;
use crate::topology::pin_current_thread;
use crate::worker::batch::Slot;
use crate::worker::pair::QueuePair;
use crate::worker::run::{Command, Worker};
use crossbeam::channel::{Receiver, Sender};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};
use signal_hook::{SigId, flag};
use std::io::Read;
use std::net::Shutdown;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

/// What the main thread owns and takes apart in the end.
pub(super) struct Parts {
    pub(super) server: Option<Server>,
    pub(super) taps: Vec<TapThread>,
    pub(super) threads: Vec<WorkerThread>,
    pub(super) events: Receiver<Event>,
}

/// A worker's thread; it ends with the worker's slots, so that queues and buffers come home also after a panic.
pub(super) struct WorkerThread {
    id: usize,
    thread: JoinHandle<Vec<Slot>>,
}

impl WorkerThread {
    pub(super) fn start(
        mut worker: Worker,
        cpu: Option<u32>,
        events: Sender<Event>,
    ) -> Result<WorkerThread, AppError> {
        let id = worker.id;
        let thread = thread::Builder::new()
            .name(format!("mr-worker-{id}"))
            .spawn(move || {
                if let Some(Err(e)) = cpu.map(pin_current_thread) {
                    tracing::warn!("worker {id}: {e}");
                }
                // The worker is looked at again only to take its queues out, each of which keeps its own invariants.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) {
                    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
                    let message = text
                        .or_else(|| panic.downcast_ref::<String>().cloned())
                        .unwrap_or_default();
                    let _ = events.send(Event::WorkerPanicked { worker: id, message });
                }
                let Worker {
                    mut slots, doorstep, ..
                } = worker;
                while doorstep.handed.pop().is_some() || doorstep.injected.pop().is_some() {}
                for slot in &mut slots {
                    slot.batch.clear();
                    slot.publish();
                }
                slots
            });
        Ok(WorkerThread {
            id,
            thread: thread.map_err(AppError::Thread)?,
        })
    }
}

/// How an application ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All numbers after every queue was stopped.
    pub stats: AppStats,
    /// What ended it: a signal, a request.
    pub reason: String,
    /// Packet buffers that did not come home; anything but 0 is a bug.
    pub buffers_missing: u64,
}

/// An application with traffic. Derefs to [`AppHandle`]. Dropping it stops it.
pub struct Running {
    handle: AppHandle,
    parts: Option<Parts>,
}

impl Running {
    pub(super) fn new(handle: AppHandle, parts: Parts) -> Running {
        Running {
            handle,
            parts: Some(parts),
        }
    }

    pub(super) fn keep_control(&mut self, server: Server) {
        if let Some(parts) = &mut self.parts {
            parts.server = Some(server);
        }
    }

    /// Hands every queue to its worker, then answers on the control socket.
    pub(super) fn take_traffic(mut self) -> Result<Running, AppError> {
        for port in &self.handle.0.ports {
            let name = self.handle.name_of(port);
            for (queue, ctl) in (0u16..).zip(&port.queues) {
                let fail = |source| AppError::Port {
                    port: name.clone(),
                    source: Box::new(source),
                };
                let pair = port.thread.call(move |port| {
                    let (rx, tx) = port.take_queue(queue)?;
                    Ok(Box::new(QueuePair::new(rx, tx, irq_of(port, queue))))
                })?;
                self.handle.hand_over(&name, queue, ctl, pair.map_err(fail)?)?;
            }
        }
        (0..self.handle.workers()).try_for_each(|worker| self.handle.ask(worker, Command::Open).map(drop))?;
        if let Some(server) = self.parts.as_mut().and_then(|parts| parts.server.as_mut()) {
            server.serve(self.handle.control().clone())?;
        }
        Ok(self)
    }

    /// A handle that can be kept and cloned.
    pub fn handle(&self) -> AppHandle {
        self.handle.clone()
    }

    /// Waits for a request to stop or for something to break, then takes everything down in order.
    pub fn wait(mut self) -> Result<Report, AppError> {
        let Some(parts) = self.parts.take() else {
            return Ok(Report::default());
        };
        let event = parts.events.recv();
        finish(&self.handle, parts, event.ok())
    }

    /// Takes everything down now. An earlier failure is what it returns.
    pub fn stop(mut self) -> Result<Report, AppError> {
        let Some(parts) = self.parts.take() else {
            return Ok(Report::default());
        };
        let event = parts
            .events
            .try_recv()
            .unwrap_or_else(|_| Event::Stop("stop".into()));
        finish(&self.handle, parts, Some(event))
    }

    /// What went wrong so far, if anything did; the application should then be stopped.
    pub fn failed(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| !parts.events.is_empty())
    }
}

impl Deref for Running {
    type Target = AppHandle;

    fn deref(&self) -> &AppHandle {
        &self.handle
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take()
            && let Err(error) = finish(&self.handle, parts, None)
        {
            tracing::error!("{error}");
        }
    }
}

/// Workers stop first, then their queues, so that no buffer is under way when they are counted.
fn finish(handle: &AppHandle, parts: Parts, event: Option<Event>) -> Result<Report, AppError> {
    let Parts {
        server,
        taps,
        threads,
        events,
    } = parts;
    drop(server);
    drop(taps);
    let mut first = event;
    for (worker, ctl) in handle.0.workers.iter().enumerate() {
        // A worker that has panicked has no mailbox any more; its thread has ended all the same.
        let _ = ctl.mailbox.call(Command::Stop, std::time::Duration::from_secs(5));
        tracing::debug!("worker {worker} told to stop");
    }
    let mut slots = Vec::new();
    for WorkerThread { id, thread } in threads {
        match thread.join() {
            Ok(of_worker) => slots.extend(of_worker),
            Err(_) => tracing::error!("worker {id} panicked while it gave its queues back"),
        }
    }
    for slot in slots {
        // The program in front of it is freed here, with the slot.
        let (Some(port), Some(pair)) = (handle.0.ports.get(slot.port), slot.pair) else {
            continue;
        };
        match port.thread.call(move |port| port.stop_queue(pair.rx, pair.tx)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) if e.is_gone() => tracing::debug!("queue {}: {e}", slot.queue),
            Ok(Err(e)) => tracing::warn!("queue {} did not stop: {e}", slot.queue),
            Err(e) => tracing::warn!("{e}"),
        }
    }
    let stats = handle.stats();
    handle.0.ports.iter().for_each(|port| port.thread.close());
    // Handlers may hold the application's handle, which holds the registry.
    handle.control().clear();
    let missing = |name: &str| -> u64 { stats.ports.iter().filter_map(|p| p.buffers.get(name)).sum() };
    let buffers_missing = missing("in_flight");
    // The most telling event is the first failure; a stop that came with it says less.
    for event in events.try_iter() {
        if !matches!(first, Some(Event::PortDown { .. } | Event::WorkerPanicked { .. })) {
            first = Some(event);
        }
    }
    match first {
        Some(Event::PortDown { port, reason }) => Err(AppError::PortDown { port, reason }),
        Some(Event::WorkerPanicked { worker, message }) => Err(AppError::WorkerPanicked { worker, message }),
        Some(Event::Stop(reason)) => Ok(Report {
            stats,
            reason,
            buffers_missing,
        }),
        None => Ok(Report {
            stats,
            reason: "stop".into(),
            buffers_missing,
        }),
    }
}

/// Undoes the catching of signals when dropped.
pub(super) struct Signals {
    ids: Vec<SigId>,
    reader: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Turns the first SIGINT or SIGTERM into a clean stop; a second one ends the process at once.
pub(super) fn catch_signals(handle: &AppHandle) -> Result<Signals, AppError> {
    let (reader, writer) = UnixStream::pair().map_err(AppError::Signals)?;
    let again = Arc::new(AtomicBool::new(false));
    let mut ids = Vec::new();
    for signal in [SIGINT, SIGTERM] {
        // In this order: the flag is looked at before it is set, so only the second signal finds it.
        ids.push(flag::register_conditional_shutdown(signal, 130, again.clone()).map_err(AppError::Signals)?);
        ids.push(flag::register(signal, again.clone()).map_err(AppError::Signals)?);
        let writer = writer.try_clone().map_err(AppError::Signals)?;
        ids.push(pipe::register(signal, writer).map_err(AppError::Signals)?);
    }
    let mut wakes = reader.try_clone().map_err(AppError::Signals)?;
    let handle = handle.clone();
    let thread = thread::Builder::new().name("mr-signals".into()).spawn(move || {
        let mut byte = [0];
        if matches!(wakes.read(&mut byte), Ok(1)) {
            handle.request_stop("signal");
        }
    });
    Ok(Signals {
        ids,
        reader,
        thread: Some(thread.map_err(AppError::Thread)?),
    })
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.ids.drain(..).for_each(|id| {
            unregister(id);
        });
        let _ = self.reader.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
