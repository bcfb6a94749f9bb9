//! Boots guests whose drivers nobody here wrote on our device models and reports every scenario by name.

use clap::Parser;
use millrace_nic_models::device::registry::parse_mac;
use millrace_tests::guest::LabError;
use millrace_tests::guest::compat::{self, Matrix};
use millrace_tests::guest::fetch::{Cache, Series};
use millrace_tests::guest::line::{self, Ends};
use millrace_tests::guest::qemu::{self, Outcome, Report};
use millrace_tests::guest::scenario::Suite;
use millrace_tests::guest::suites;
use millrace_tests::netns;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs unmodified third-party drivers on the device models, in QEMU guests.
///
/// The first run fetches QEMU, kernels and tools (about 600 MB) through apt into `.cache/guest`; nothing is installed
/// on the host. Every boot runs under software emulation, so no KVM is needed; root is, for a network namespace.
#[derive(Debug, Parser)]
#[command(name = "guest-lab", version)]
struct Args {
    /// Kernel series to boot (6.1, 6.12), both when not given; may be given more than once.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Boot only what runs this driver: `linux`, `millrace` (ours, on the kernel's VFIO) or `dpdk`.
    #[arg(long, value_name = "NAME")]
    driver: Option<String>,
    /// Run only the scenarios whose names contain this; the port's bring-up always runs.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
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
    if let Some(Helper::FarEnd {
        socket,
        interface,
        mac,
        guest_mac,
        model_log,
    }) = &args.helper
    {
        let ends = Ends {
            interface: interface.clone(),
            macs: (*mac, *guest_mac),
            model_log: model_log.clone(),
        };
        line::serve(socket, &ends)?;
        return Ok(0);
    }
    let kernels = kernels(&args.kernels)?;
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
    let committed = match Matrix::read() {
        Ok(matrix) => matrix,
        Err(_) if args.write_compat => Matrix::default(),
        Err(e) => return Err(e),
    };
    let mut seen = Matrix::of(&suites::all(&Series::ALL, true, None));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut report = |suite: &Suite, name: &str, outcome: &Outcome| {
        let label = suite.label(name);
        let judged = if args.write_compat {
            Ok(false)
        } else {
            committed.judge(suite, name, outcome)
        };
        match (outcome, &judged) {
            (Outcome::Pass, Ok(_)) => {
                passed += 1;
                println!("test {label} ... ok");
            }
            (Outcome::Pass, Err(why)) => {
                failed += 1;
                println!("test {label} ... FAILED: it works, but {why}");
            }
            (Outcome::Fail(reason), Ok(true)) => {
                passed += 1;
                println!("test {label} ... fails, as docs/compat-nics.md says: {reason}");
            }
            (Outcome::Fail(reason), _) => {
                failed += 1;
                println!("test {label} ... FAILED: {reason}");
            }
            (Outcome::Skip(reason), _) => {
                skipped += 1;
                println!("SKIP {label}: {reason}");
            }
        }
    };
    for suite in &suites {
        let run = run_suite(suite, &mut |r| {
            seen.record(suite, &r.name, &r.outcome);
            report(suite, &r.name, &r.outcome);
        });
        match run {
            Ok(()) => {}
            Err(LabError::Unavailable(reason)) => {
                for scenario in &suite.scenarios {
                    report(suite, &scenario.name, &Outcome::Skip(reason.clone()));
                }
            }
            Err(e) => report(suite, "lab", &Outcome::Fail(e.to_string())),
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if args.write_compat {
        seen.keep(&committed);
        std::fs::write(compat::path(), seen.render()).map_err(LabError::io("writing the matrix"))?;
        println!("wrote docs/compat-nics.md");
    }
    Ok(failed)
}

/// The kernel series that were asked for, or all.
fn kernels(names: &[String]) -> Result<Vec<Series>, LabError> {
    if names.is_empty() {
        return Ok(Series::ALL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            Series::ALL
                .into_iter()
                .find(|series| series.name() == name)
                .ok_or_else(|| {
                    LabError::Malformed(format!("unknown kernel series `{name}`: give 6.1 or 6.12"))
                })
        })
        .collect()
}

fn run_suite(suite: &Suite, seen: &mut impl FnMut(Report)) -> Result<(), LabError> {
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
