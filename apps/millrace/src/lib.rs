//! Framework for packet applications on millrace ports: ports, queues, programs and cores joined into one process that
//! runs to completion, with a control socket beside it.
//!
//! ```text
//! app        builder, life of the application, what can be asked of it
//! worker     one thread a core: poll -> program -> verdicts -> transmit
//! exception  the interface that carries what programs pass
//! control    the socket, its protocol and verbs; client
//! cli        the `millrace` command
//! topology   which CPUs there are and who runs where
//! ```
//!
//! ```no_run
//! use millrace::{App, EngineKind, PortSpec, QueueSel};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = App::builder().port(PortSpec::new("eth0", "vfio-user:/run/nic.sock").queues(2)).control("demo").build()?;
//! let object = millrace_ebpf::Object::parse(&std::fs::read("filter.bpf.o")?)?;
//! let loaded = millrace_ebpf::Loader::new().cpus(app.workers() as u32).load(&object)?;
//! app.attach("eth0", QueueSel::All, &loaded.program(None)?, EngineKind::Interp)?;
//! let report = app.run()?;
//! println!("{} frames dropped", report.stats.total("xdp_drop"));
//! # Ok(())
//! # }
//! ```

mod app;
mod capture;
pub mod cli;
mod config;
pub mod control;
#[cfg(test)]
#[path = "../../../ebpf-runtime/tests/common/debian.rs"]
mod debian;
mod error;
mod exception;
mod explain;
mod hints;
pub mod routes;
pub mod topology;
mod worker;

pub use app::{
    App, AppBuilder, AppHandle, AppStats, Attachment, ChainLink, Loaded, Maps, PortInfo, PortReport,
    Programs, QueueReport, Report, Running, WorkerReport,
};
pub use config::{PortSpec, QueueSel};
pub use error::AppError;
pub use worker::counters::{COUNTERS, CounterInfo};
pub use worker::{HandWorker, IdlePolicy, PassAction, PassHandler, PassedFrame};

pub use millrace_driver::port::PortConfig;
pub use millrace_driver::steering::{TxChooser, TxFrame, TxSteering};
pub use millrace_ebpf::{EngineKind, Hook};
