//! What can go wrong in the framework, one line each, and what to do about it.

use crate::control::server::ServerError;
use crate::control::{ControlError, ErrorCode};
use crate::topology::TopologyError;
use crate::worker::mailbox::MailboxError;
use millrace_driver::bus::BusError;
use millrace_driver::port::PortError;
use millrace_driver::steering::SteeringError;
use millrace_ebpf::{Hook, LoadError, Program};
use std::io;
use std::sync::Arc;

/// Every error of an application. Binaries print it as their last line and end with a non-zero status.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Config(String),
    #[error("there is no port {wanted:?}; this instance has: {have}")]
    NoPort { wanted: String, have: String },
    #[error("port {port} has no queue {queue}; its queues are 0 to {last}")]
    NoQueue { port: String, queue: u16, last: u16 },
    #[error("queue {queue} of port {port} is {state} already")]
    QueueState {
        port: String,
        queue: u16,
        state: &'static str,
    },
    #[error("port {port}: {source}")]
    Device { port: String, source: Box<BusError> },
    #[error("port {port}: {source}")]
    Port { port: String, source: Box<PortError> },
    #[error("port {port}: {source}")]
    Steering { port: String, source: SteeringError },
    #[error("port {port} is down: {reason}; its device or model has to be started again, then this program")]
    PortDown { port: String, reason: String },
    #[error("program {program}: {source}")]
    Program { program: String, source: Box<LoadError> },
    /// The verifier says no to a program that was to be loaded.
    #[error("{source}")]
    Refused {
        name: String,
        program: Arc<Program>,
        source: Box<LoadError>,
    },
    #[error(
        "program {program} is not marked xdp.frags, but frames on port {port} may need several buffers (MTU {mtu}); put it in section \"xdp.frags\" or lower the MTU to {largest}"
    )]
    NeedsFrags {
        program: String,
        port: String,
        mtu: u16,
        largest: usize,
    },
    #[error("there is no program {0:?}; `prog list` shows those that are loaded")]
    NoProgram(String),
    #[error("queue {queue} of port {port} has no program; use attach")]
    NotAttached { port: String, queue: u16 },
    #[error("queue {queue} of port {port} runs program {program} already; use replace")]
    Attached {
        port: String,
        queue: u16,
        program: String,
    },
    #[error(
        "queue {queue} of port {port} does not run program {program}; `millrace chain show` lists what it runs"
    )]
    NotInChain {
        program: String,
        port: String,
        queue: u16,
    },
    #[error(
        "program {program} is an {is} program, which cannot run at the {wanted} hook; load it with `type {wanted}` if it is one in truth"
    )]
    WrongHook { program: String, is: Hook, wanted: Hook },
    #[error("queue {queue} of port {port} is captured already; wait for that capture to end")]
    Tapped { port: String, queue: u16 },
    #[error("there is no capture {0}; it has ended, or nobody read it for ten seconds")]
    NoCapture(u64),
    #[error("a program named {0:?} is loaded already; give this one another name or unload that one")]
    ProgramExists(String),
    #[error("program {0:?} is attached; detach it first")]
    ProgramInUse(String),
    #[error("there is no map {0:?}; `map list` shows those there are")]
    NoMap(String),
    #[error("map {0} is not pinned; it goes with the program that brought it")]
    NotPinned(String),
    #[error("there is a map {0:?} already; give the new one another name")]
    MapExists(String),
    #[error("exception interface {name}: {reason}")]
    Tap { name: String, reason: String },
    #[error("worker {worker}: {source}")]
    Mailbox { worker: usize, source: MailboxError },
    #[error("worker {worker} panicked: {message}; this is a bug, its log says where")]
    WorkerPanicked { worker: usize, message: String },
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Control(#[from] ServerError),
    #[error("cannot start a thread: {0}; is the limit on processes (ulimit -u) reached?")]
    Thread(io::Error),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error(
        "cannot make an {what}: {source}; ask for fewer queues or workers, or raise the limit with `ulimit -n`"
    )]
    Io { what: &'static str, source: io::Error },
}

impl From<AppError> for ControlError {
    fn from(error: AppError) -> ControlError {
        let code = match &error {
            AppError::NoPort { .. }
            | AppError::NoQueue { .. }
            | AppError::NoProgram(_)
            | AppError::NoMap(_) => ErrorCode::NotFound,
            AppError::Attached { .. }
            | AppError::ProgramExists(_)
            | AppError::MapExists(_)
            | AppError::QueueState { .. } => ErrorCode::Exists,
            AppError::NoCapture(_) => ErrorCode::NotFound,
            AppError::ProgramInUse(_) | AppError::Tapped { .. } | AppError::Mailbox { .. } => ErrorCode::Busy,
            AppError::NotPinned(_) | AppError::NotAttached { .. } | AppError::NotInChain { .. } => {
                ErrorCode::NotFound
            }
            AppError::NeedsFrags { .. } => ErrorCode::Unsupported,
            AppError::Program { source, .. }
                if matches!(
                    **source,
                    LoadError::Unsupported(_) | LoadError::EngineUnavailable(..)
                ) =>
            {
                ErrorCode::Unsupported
            }
            AppError::Config(_)
            | AppError::Program { .. }
            | AppError::Refused { .. }
            | AppError::WrongHook { .. } => ErrorCode::InvalidArgument,
            _ => ErrorCode::Failed,
        };
        ControlError::new(code, error.to_string())
    }
}
