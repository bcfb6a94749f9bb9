//! A port's control thread: it alone owns the `Port`, does the register waits of life-cycle calls, and watches whether the
//! device is still there. Others send it closures.

use crate::error::AppError;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use millrace_driver::bus::Device;
use millrace_driver::port::{LinkStatus, Port};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the device's presence is looked at: the longest a dead model goes unnoticed.
const TICK: Duration = Duration::from_millis(20);
/// How often the link is looked at.
const LINK: Duration = Duration::from_millis(500);
/// Longest a call may take: every wait inside the driver has a shorter deadline of its own.
const CALL: Duration = Duration::from_secs(20);

type Call = Box<dyn FnOnce(&mut Port) + Send>;

/// What the thread tells the application by itself.
#[derive(Clone, Debug)]
pub(crate) enum PortEvent {
    Link(LinkStatus),
    Gone(String),
}

pub(crate) struct PortThread {
    name: String,
    ends: Mutex<Option<(Sender<Call>, JoinHandle<()>)>>,
}

impl PortThread {
    pub(crate) fn start(
        name: &str,
        port: Port,
        device: Arc<dyn Device>,
        tell: impl Fn(PortEvent) + Send + 'static,
    ) -> Result<PortThread, AppError> {
        let (calls, inbox) = bounded(64);
        let thread = thread::Builder::new()
            .name(format!("mr-port-{name}"))
            .spawn(move || serve(port, &*device, &inbox, &tell))
            .map_err(AppError::Thread)?;
        Ok(PortThread {
            name: name.to_string(),
            ends: Mutex::new(Some((calls, thread))),
        })
    }

    /// Runs `call` on the port and waits for what it returns.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Port) -> R + Send + 'static,
    ) -> Result<R, AppError> {
        let gone = |reason: &str| AppError::PortDown {
            port: self.name.clone(),
            reason: reason.into(),
        };
        let (answer, result) = bounded(1);
        let boxed: Call = Box::new(move |port| {
            let _ = answer.send(call(port));
        });
        let calls = self
            .lock()
            .as_ref()
            .map(|(calls, _)| calls.clone())
            .ok_or_else(|| gone("it was closed"))?;
        calls
            .send_timeout(boxed, CALL)
            .map_err(|_| gone("its control thread takes no calls"))?;
        result
            .recv_timeout(CALL)
            .map_err(|_| gone("its control thread gave no answer"))
    }

    /// Ends the thread, which closes the port: after this the device does no DMA. Later calls fail.
    pub(crate) fn close(&self) {
        let Some((calls, thread)) = self.lock().take() else {
            return;
        };
        drop(calls);
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("port {}: its control thread panicked", self.name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Sender<Call>, JoinHandle<()>)>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PortThread {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(mut port: Port, device: &dyn Device, inbox: &Receiver<Call>, tell: &dyn Fn(PortEvent)) {
    let mut link = port.link().unwrap_or_default();
    tell(PortEvent::Link(link));
    let mut looked = Instant::now();
    let mut gone = false;
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(call) => call(&mut port),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if !gone && !device.is_alive() {
            gone = true;
            tell(PortEvent::Gone(
                "the other side of its device has closed the connection".into(),
            ));
        }
        if !gone && looked.elapsed() >= LINK {
            looked = Instant::now();
            match port.link() {
                Ok(now) if now != link => {
                    link = now;
                    tell(PortEvent::Link(link));
                }
                Ok(_) => {}
                Err(e) => {
                    gone = e.is_gone();
                    if gone {
                        tell(PortEvent::Gone(e.to_string()));
                    }
                }
            }
        }
    }
}
