//! Benchmarks of millrace. Each subcommand is one bench; numbers are printed, never asserted.

mod clock;
mod compare;
mod html;
mod lane;
mod lb;
mod path;
mod report;
mod rig;
mod step;

use clap::Parser;
use millrace_driver::bus::BusError;
use millrace_driver::port::PortError;
use millrace_ebpf::LoadError;
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
    /// The driver's receive and transmit path alone, on rings built by hand: cycles and instructions a packet
    Path(path::Args),
    /// Compares two reports made with --json, with their noise in mind
    Compare(compare::Args),
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
    Balancer(Box<dyn Error>),
    #[error("no frame came through the model; its counters: {counters}")]
    NoTraffic { counters: String },
    #[error(
        "case {case}: not every frame went where it should, so its numbers would mean nothing: {outcome}"
    )]
    WrongOutcome { case: &'static str, outcome: String },
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
}

impl BenchError {
    fn balancer(error: impl Error + 'static) -> BenchError {
        BenchError::Balancer(Box::new(error))
    }
}

fn main() -> ExitCode {
    let outcome = match Bench::parse() {
        Bench::Lb(args) => lb::run(&args),
        Bench::Path(args) => path::run(&args),
        Bench::Compare(args) => compare::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
