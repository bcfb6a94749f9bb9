//! Benchmarks of millrace. Each subcommand is one bench; numbers are printed, never asserted.

mod anatomy;
mod clock;
mod compare;
mod ebpf;
mod html;
mod lb;
mod memory;
mod page;
mod path;
mod report;
mod rig;
mod scale;
mod step;
mod wire;

use clap::Parser;
use millrace_driver::bus::BusError;
use millrace_driver::port::PortError;
use millrace_ebpf::{Errno, LoadError};
use millrace_nic_models::device::ModelError;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Benchmarks of millrace's packet path, programs and wires.
#[derive(Parser, Debug)]
#[command(version, arg_required_else_help = true)]
enum Bench {
    /// The load balancer's data plane on one core: packets/s, cycles and instructions a packet
    Lb(lb::Args),
    /// Programs alone, on every engine and in the kernel: nanoseconds a run
    Ebpf(ebpf::Args),
    /// The driver's receive and transmit path alone, on rings built by hand: cycles and instructions a packet
    Path(path::Args),
    /// What each part of forwarding costs: the loops with parts left out, in turns with the driver and the floor
    Anatomy(anatomy::Args),
    /// Two ports with a cable between, as in RFC 2544: throughput, delay, loss, bursts; on models by default
    Wire(wire::Args),
    /// The path on 1, 2, ... queues with a worker each: does a second one cost the first anything?
    Scale(scale::Args),
    /// Loads that wait for one another: what caches, pages and memory of this machine cost, in cycles
    Memory(memory::Args),
    /// Compares two reports made with --json, with their noise in mind
    Compare(compare::Args),
    /// Puts reports made with --json together into one HTML page
    Report(page::Args),
}

/// Why a bench gave no numbers.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("unknown {what} {name:?}; there are: {known}")]
    Unknown {
        what: &'static str,
        name: String,
        known: String,
    },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the balancer cannot be set up: {0}")]
    Balancer(Box<dyn Error + Send + Sync>),
    #[error("map `{map}` cannot be filled: {error:?}")]
    Fill { map: String, error: Errno },
    #[error("bpf(2): {0}; the kernel's rows need root")]
    Kernel(io::Error),
    #[error("no frame came through the model; its counters: {counters}")]
    NoTraffic { counters: String },
    #[error(
        "case {case}: not every frame went where it should, so its numbers would mean nothing: {outcome}"
    )]
    WrongOutcome { case: &'static str, outcome: String },
    #[error("the model cannot be made: {reason}")]
    NoModel { reason: String },
    #[error("port {port} has no link: join the two ports by a cable, or through what is to be measured")]
    NoLink { port: String },
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("no memory to measure with: {0}; it takes some tens of MiB")]
    Memory(io::Error),
    #[error("a worker of the bench ended early")]
    WorkerGone,
    #[error("a queue has died under the trial; is the device still there?")]
    QueuesGone,
    #[error("nothing moves any more after {sent} frames: the sending port takes none, and none arrives")]
    Stuck { sent: u64 },
    #[error("the delays cannot be kept: {reason}")]
    Histogram { reason: String },
    #[error("--test model is about the models; named ports have no model that could be timed")]
    OnlyModels,
    #[error("instructions cannot be counted: {0}; --no-instructions leaves them out")]
    Counting(io::Error),
    #[error("the report cannot be written as JSON: {0}")]
    Json(serde_json::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}; it is no file of this program's, or of another version", path.display())]
    BadFile {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the two reports cannot be compared: {what}")]
    NotComparable { what: String },
    #[error("more instructions than the baseline allows; if that is meant, `make baseline` keeps it:\n  {}", failures.join("\n  "))]
    Gate { failures: Vec<String> },
    #[error("the baseline has no counts of {build}: only the limits were judged; `make baseline` adds them")]
    UnknownBuild { build: String },
}

impl BenchError {
    /// Status to end with: 3 tells `make gate` that it has to compare with something else.
    fn code(&self) -> ExitCode {
        match self {
            BenchError::UnknownBuild { .. } => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }

    fn balancer(error: impl Error + Send + Sync + 'static) -> BenchError {
        BenchError::Balancer(Box::new(error))
    }
}

fn main() -> ExitCode {
    let outcome = match Bench::parse() {
        Bench::Lb(args) => lb::run(&args),
        Bench::Ebpf(args) => ebpf::run(&args),
        Bench::Path(args) => path::run(&args),
        Bench::Anatomy(args) => anatomy::run(&args),
        Bench::Wire(args) => wire::run(&args),
        Bench::Scale(args) => scale::run(&args),
        Bench::Memory(args) => memory::run(&args),
        Bench::Compare(args) => compare::run(&args),
        Bench::Report(args) => page::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error}");
            error.code()
        }
    }
}
