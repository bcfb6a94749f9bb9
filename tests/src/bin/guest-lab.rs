//! Boots guests whose drivers nobody here wrote on our device models and reports every scenario by name.

use clap::Parser;
use millrace_nic_models::device::registry::parse_mac;
use millrace_tests::guest::LabError;
use millrace_tests::guest::fetch::{Cache, Series};
use millrace_tests::guest::line::{self, Ends};
use millrace_tests::guest::qemu::{self, Report};
use millrace_tests::guest::scenario::Suite;
use millrace_tests::guest::suites;
use millrace_tests::guest::tally::Tally;
use millrace_tests::netns;
use millrace_tests::reaper::{self, Reaper};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs unmodified third-party drivers on the device models, in QEMU guests.
///
/// The first run fetches QEMU, kernels and tools (about 600 MB) through apt into `.cache/guest`; nothing is installed
/// on the host. Every boot runs under software emulation, so no KVM is needed; root is, for a network namespace.
#[derive(Debug, Parser)]
#[command(name = "guest-lab", version)]
struct Args {
    /// Kernel series to boot (6.1, 6.12, backports), the first two when not given; may be given more than once.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Boot every kernel series, the newest in backports too.
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Boot only what runs this driver: `linux`, `millrace` (ours, on the kernel's VFIO) or `dpdk`.
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
    /// Run only the scenarios whose names contain this; the port's bring-up always runs.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How many guests run at a time; each keeps a good processor busy.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Run the long variants too.
    #[arg(long)]
    soak: bool,
    /// Write what was seen to docs/compat-nics.md, rather than hold it against what stands there. What was not run keeps
    /// what it had.
    #[arg(long)]
    write_compat: bool,
    #[command(subcommand)]
    helper: Option<Helper>,
}

#[derive(Debug, clap::Subcommand)]
enum Helper {
    /// The far end of a guest's wire; started by the lab itself, in the peer's namespace
    #[command(hide = true)]
    FarEnd {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        interface: String,
        #[arg(long, value_parser = parse_mac)]
        mac: [u8; 6],
        #[arg(long, value_parser = parse_mac)]
        guest_mac: [u8; 6],
        #[arg(long)]
        model_log: PathBuf,
    },
    /// Ends what a lab leaves behind when it is killed; started by the lab itself
    #[command(hide = true, name = reaper::SUBCOMMAND)]
    Reap {
        #[arg(long)]
        owner: u32,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("guest-lab: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u32, LabError> {
    match &args.helper {
        Some(Helper::FarEnd {
            socket,
            interface,
            mac,
            guest_mac,
            model_log,
        }) => {
            let ends = Ends {
                interface: interface.clone(),
                macs: (*mac, *guest_mac),
                model_log: model_log.clone(),
            };
            line::serve(socket, &ends)?;
            return Ok(0);
        }
        Some(Helper::Reap { owner }) => {
            reaper::reap(*owner).map_err(LabError::io("ending what a lab left behind"))?;
            return Ok(0);
        }
        None => {}
    }
    let kernels = kernels(args)?;
    let mut suites = suites::all(&kernels, args.soak, args.only.as_deref());
    if let Some(driver) = &args.driver {
        suites.retain(|suite| suite.driver == driver);
    }
    if suites.is_empty() {
        return Err(LabError::Malformed(
            "no scenario of that driver has that in its name; leave --only and --driver out to see them all"
                .into(),
        ));
    }
    let _reaper = Reaper::start().map_err(LabError::io("starting what ends a killed lab's guests"))?;
    let tally = Mutex::new(Tally::new(args.write_compat)?);
    // Nothing panics with the tally in its hands; if something did, what is in it is still what was seen.
    let tallied = || tally.lock().unwrap_or_else(PoisonError::into_inner);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(suite) = suites.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seen = |r: Report| tallied().tried(suite, &r.name, &r.outcome);
                    if let Err(error) = run_suite(suite, seen) {
                        tallied().not_run(suite, &error);
                    }
                }
            });
        }
    });
    tally
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .finish()
}

/// The kernel series that were asked for.
fn kernels(args: &Args) -> Result<Vec<Series>, LabError> {
    if args.all {
        return Ok(Series::ALL.to_vec());
    }
    if args.kernels.is_empty() {
        return Ok(Series::USUAL.to_vec());
    }
    let known = |name: &String| Series::ALL.into_iter().find(|series| series.name() == name);
    let unknown = |name| {
        LabError::Malformed(format!(
            "unknown kernel series `{name}`: give 6.1, 6.12 or backports"
        ))
    };
    args.kernels
        .iter()
        .map(|name| known(name).ok_or_else(|| unknown(name)))
        .collect()
}

fn run_suite(suite: &Suite, seen: impl FnMut(Report)) -> Result<(), LabError> {
    netns::available().map_err(LabError::Unavailable)?;
    let cache = Cache::open()?;
    cache.ensure_tools()?;
    qemu::check(&cache)?;
    let dir = cache
        .root()
        .join("logs")
        .join(format!("{}-{}-{}", suite.driver, suite.version, suite.setup));
    std::fs::create_dir_all(&dir).map_err(LabError::io("making the log folder"))?;
    suite.run(&cache, &dir, seen)
}
