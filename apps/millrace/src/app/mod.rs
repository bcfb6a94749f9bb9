//! The application: ports, workers, programs, control, from start to a clean end.
//!
//! [`App::builder`] collects what is wanted, [`AppBuilder::build`] opens ports and starts workers without queues, programs
//! are attached, [`App::start`] hands the queues over, [`Running::wait`] sees the end. `handle` is what can be asked
//! meanwhile, `programs` what runs in front of queues, `ports` each port's control thread, `registry` programs and maps by name, `running` the way down.

mod build;
pub(crate) mod handle;
mod ports;
pub(crate) mod programs;
pub(crate) mod registry;
mod running;
mod stats;

pub use build::AppBuilder;
pub use handle::AppHandle;
pub use programs::{Attachment, ChainLink};
pub use registry::{Loaded, Maps, Programs};
pub use running::{Report, Running};
pub use stats::{AppStats, PortInfo, PortReport, QueueReport, WorkerReport};

use crate::error::AppError;
use std::ops::Deref;

/// An application whose ports are open and whose workers wait for queues. Derefs to [`AppHandle`].
///
/// Dropping it instead of starting it closes everything again.
pub struct App {
    running: Running,
}

impl App {
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// A handle that can be kept and cloned.
    pub fn handle(&self) -> AppHandle {
        self.running.handle()
    }

    /// Lets traffic in: every queue goes to its worker.
    pub fn start(self) -> Result<Running, AppError> {
        self.running.take_traffic()
    }

    /// Starts, and returns when SIGINT or SIGTERM came, control asked for the end, or something broke.
    pub fn run(self) -> Result<Report, AppError> {
        let signals = running::catch_signals(&self.running.handle())?;
        let report = self.start()?.wait();
        drop(signals);
        report
    }
}

impl Deref for App {
    type Target = AppHandle;

    fn deref(&self) -> &AppHandle {
        &self.running
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("App").field(&**self).finish()
    }
}
