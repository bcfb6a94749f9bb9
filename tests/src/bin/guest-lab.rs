//! Boots guests whose drivers nobody here wrote on our device models and reports every scenario by name.

use clap::Parser;
use millrace_tests::guest::LabError;
use millrace_tests::guest::fetch::{Cache, Series};
use millrace_tests::guest::qemu::{self, Outcome};
use millrace_tests::guest::scenario::Suite;
use millrace_tests::guest::suites;
use millrace_tests::netns;
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
    let kernels = kernels(&args.kernels)?;
    let mut suites = suites::all(&kernels, args.soak, args.only.as_deref());
    if let Some(driver) = &args.driver {
        suites.retain(|suite| suite.driver == driver);
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut report = |label: &str, outcome: &Outcome| match outcome {
        Outcome::Pass => {
            passed += 1;
            println!("test {label} ... ok");
        }
        Outcome::Fail(reason) => {
            failed += 1;
            println!("test {label} ... FAILED: {reason}");
        }
        Outcome::Skip(reason) => {
            skipped += 1;
            println!("SKIP {label}: {reason}");
        }
    };
    for suite in &suites {
        match run_suite(suite, &mut report) {
            Ok(()) => {}
            Err(LabError::Unavailable(reason)) => {
                for scenario in &suite.scenarios {
                    report(&suite.label(&scenario.name), &Outcome::Skip(reason.clone()));
                }
            }
            Err(e) => report(&suite.label("lab"), &Outcome::Fail(e.to_string())),
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
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

fn run_suite(suite: &Suite, report: &mut impl FnMut(&str, &Outcome)) -> Result<(), LabError> {
    netns::available().map_err(LabError::Unavailable)?;
    let cache = Cache::open()?;
    cache.ensure_tools()?;
    qemu::check(&cache)?;
    let dir = cache
        .root()
        .join("logs")
        .join(format!("{}-{}-{}", suite.driver, suite.version, suite.setup));
    std::fs::create_dir_all(&dir).map_err(LabError::io("making the log folder"))?;
    suite.run(&cache, &dir, |r| report(&suite.label(&r.name), &r.outcome))
}
