//! `millrace-bench path`: the driver's receive and transmit path alone.
//!
//! The bench plays the NIC on descriptor rings of its own: it writes back received descriptors and takes what was sent, half
//! a ring a turn, and only the driver's turn between is timed and counted. There is no model, no program, no PCIe and no
//! IOMMU in it. Between the driver's turns a [`floor`] loop takes its own, so that a row also says how far the driver is from
//! what the memory traffic alone costs on this machine at this moment.

mod baseline;
mod case;
mod floor;
mod measure;
mod rig;

use crate::report::{self, Line, Report, Summary, or_dash, round};
use crate::{BenchError, clock};
use baseline::Baseline;
use case::{Case, FAMILY, Metadata, Scenario, State};
use measure::{Measured, Share, Turns};
use millrace_driver::simd::CpuPath;
use serde::Serialize;
use std::path::PathBuf;

/// Bursts measured by default.
const BURSTS: [u32; 5] = [1, 4, 8, 32, 64];
/// Bursts whose instructions a baseline keeps.
const GATED_BURSTS: [u32; 4] = [1, 4, 8, 32];

/// What can be asked of `path`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// What to do with the frames (may be given several times); all three by default
    #[arg(long = "scenario", value_name = "NAME")]
    pub scenarios: Vec<Scenario>,
    /// Frames that a poll brings, 1 to 128 (may be given several times); 1, 4, 8, 32 and 64 by default
    #[arg(long = "burst", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub bursts: Vec<u32>,
    /// Descriptors of each ring, 256 to 4096 (may be given several times)
    #[arg(long = "ring", value_name = "N", default_value = "1024", value_parser = case::ring_size)]
    pub rings: Vec<u32>,
    /// Where descriptors and frames are (may be given several times)
    #[arg(long = "state", value_name = "WHERE", default_value = "warm")]
    pub states: Vec<State>,
    /// What is read of the write-backs (may be given several times)
    #[arg(long = "metadata", value_name = "LEVEL", default_value = "plain")]
    pub metadata: Vec<Metadata>,
    /// The code to run for every packet, scalar or avx2 (may be given several times); the best that this processor has by
    /// default
    #[arg(long = "path", value_name = "NAME", value_parser = case::cpu_path)]
    pub paths: Vec<CpuPath>,
    /// Milliseconds of the driver's turns to measure in each row
    #[arg(long, default_value_t = 200, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Do not count instructions
    #[arg(long)]
    pub no_instructions: bool,
    /// Show what each stage of each row takes
    #[arg(long)]
    pub breakdown: bool,
    /// Also write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Count instructions only, and fail where they are above the baseline in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_instructions", "breakdown", "json"])]
    pub gate: Option<PathBuf>,
    /// Count instructions only, and write them to the baseline in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_instructions", "breakdown", "json", "gate"])]
    pub write_baseline: Option<PathBuf>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose descriptors.
    pub family: &'static str,
    /// What is done with the frames.
    pub scenario: Scenario,
    /// Frames that a poll brings.
    pub burst: u32,
    /// Descriptors of each ring.
    pub ring: u32,
    /// Where descriptors and frames are.
    pub state: State,
    /// What is read of the write-backs.
    pub metadata: Metadata,
    /// The code that ran: `scalar` or `avx2`.
    pub path: &'static str,
    /// Core cycles a packet; see the report's notes.
    pub cycles_per_packet: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
    /// Time as a multiple of the floor loop's.
    pub vs_floor: f64,
    /// The middle 80 % of the turns lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
    /// What each stage takes, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub breakdown: Vec<Share>,
    /// The case's name in a baseline.
    #[serde(skip)]
    pub key: String,
}

impl Row {
    fn new(case: &Case, measured: Option<&Measured>, instructions: Option<f64>) -> Row {
        let nothing = Summary {
            median: f64::NAN,
            spread_percent: f64::NAN,
        };
        let (time, floor, gigahertz) =
            measured.map_or((nothing, nothing, f64::NAN), |m| (m.time, m.floor, m.gigahertz));
        Row {
            family: FAMILY,
            scenario: case.scenario,
            burst: case.burst,
            ring: case.ring,
            state: case.state,
            metadata: case.metadata,
            path: case.path.name(),
            cycles_per_packet: round(time.median * gigahertz),
            instructions_per_packet: instructions.map(round),
            vs_floor: (time.median / floor.median * 100.0).round() / 100.0,
            spread_percent: time.spread_percent,
            breakdown: Vec::new(),
            key: case.key(),
        }
    }
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<7} {:<8} {:>5} {:>5} {:<5} {:<8} {:<6} {:>9} {:>9} {:>8} {:>6}",
            "family",
            "scenario",
            "burst",
            "ring",
            "state",
            "metadata",
            "path",
            "cycles/p",
            "instr/p",
            "vs floor",
            "+-%"
        )
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:<7} {:<8} {:>5} {:>5} {:<5} {:<8} {:<6} {:>9.1} {:>9} {:>8.2} {:>6.1}",
            self.family,
            self.scenario,
            self.burst,
            self.ring,
            self.state,
            self.metadata,
            self.path,
            self.cycles_per_packet,
            or_dash(self.instructions_per_packet),
            self.vs_floor,
            self.spread_percent
        );
        for share in &self.breakdown {
            line.push_str(&format!(
                "\n{:>50} {:>9.1} {:>9}",
                share.stage,
                share.cycles_per_packet,
                or_dash(share.instructions_per_packet)
            ));
        }
        line
    }
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    if let Some(file) = &args.gate {
        return gate(file);
    }
    if let Some(file) = &args.write_baseline {
        let rows = count(&gated_cases())?;
        Baseline::update(file, &rows)?;
        println!(
            "{} cases written to {} for {}",
            rows.len(),
            file.display(),
            baseline::build()
        );
        return Ok(());
    }
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let rows = cases(args)
        .iter()
        .map(|case| row(args, case))
        .collect::<Result<Vec<_>, _>>()?;
    let instructions = if args.no_instructions {
        "instructions were not counted"
    } else {
        "instructions: single steps over one turn"
    };
    let notes = vec![
        "the bench plays the NIC on the rings; only the driver's turns, of half a ring each, are timed: no PCIe, no IOMMU, \
         no MMIO, no program"
            .to_owned(),
        "cycles: median turn x core frequency, which a chain of dependent operations measures beside each row; the cost of \
         reading the clock is taken off; no PMU"
            .to_owned(),
        "vs floor: the median turn over that of a scalar loop that touches only descriptors and the frames' first line, \
         interleaved turn by turn"
            .to_owned(),
        "L3, cold: before each turn, of both, the bench writes over twice the L2, or L3, cache, so the driver's own records \
         are out too"
            .to_owned(),
        instructions.to_owned(),
    ];
    let report = Report {
        bench: "path",
        machine,
        notes,
        rows,
    };
    report.write_html(args.html.as_deref())?;
    report.print(args.json)
}

/// Every combination of what was asked for.
fn cases(args: &Args) -> Vec<Case> {
    fn or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
        if given.is_empty() { default } else { given }.to_vec()
    }
    let scenarios = or(
        &args.scenarios,
        &[Scenario::RxDrop, Scenario::Forward, Scenario::Tx],
    );
    let bursts = or(&args.bursts, &BURSTS);
    let paths = or(&args.paths, &[CpuPath::best()]);
    let mut cases = Vec::new();
    for &path in &paths {
        for &metadata in &args.metadata {
            for &state in &args.states {
                for &ring in &args.rings {
                    for &scenario in &scenarios {
                        cases.extend(bursts.iter().map(|&burst| Case {
                            scenario,
                            burst,
                            ring,
                            state,
                            metadata,
                            path,
                        }));
                    }
                }
            }
        }
    }
    cases
}

fn row(args: &Args, case: &Case) -> Result<Row, BenchError> {
    let nanos = args.millis * 1_000_000;
    let bar = report::progress(case.to_string(), nanos);
    let mut turns = Turns::new(case)?;
    let measured = turns.measure(nanos, |done| bar.set_position(done))?;
    bar.set_message("counting instructions");
    let instructions = match args.no_instructions {
        true => None,
        false => Some(turns.instructions()?),
    };
    let mut row = Row::new(case, Some(&measured), instructions);
    if args.breakdown {
        row.breakdown = turns.breakdown(!args.no_instructions)?;
    }
    bar.finish_and_clear();
    Ok(row)
}

/// The cases that a baseline keeps: those that this processor can run.
fn gated_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in CpuPath::all() {
        for scenario in [Scenario::RxDrop, Scenario::Forward, Scenario::Tx] {
            for burst in GATED_BURSTS {
                cases.push(Case {
                    scenario,
                    burst,
                    ring: 1024,
                    state: State::Warm,
                    metadata: Metadata::Plain,
                    path,
                });
            }
        }
        cases.push(Case {
            scenario: Scenario::Forward,
            burst: 32,
            ring: 1024,
            state: State::Warm,
            metadata: Metadata::Full,
            path,
        });
    }
    cases
}

fn count(cases: &[Case]) -> Result<Vec<Row>, BenchError> {
    cases
        .iter()
        .map(|case| Ok(Row::new(case, None, Some(Turns::new(case)?.instructions()?))))
        .collect()
}

/// Counts the cases of the baseline and compares.
fn gate(file: &std::path::Path) -> Result<(), BenchError> {
    let baseline = Baseline::read(file)?;
    let rows = count(&gated_cases())?;
    let counts = rows
        .iter()
        .filter_map(|row| Some((row.key.as_str(), row.instructions_per_packet?)));
    let verdict = baseline.judge(&baseline::build(), !cfg!(debug_assertions), counts);
    for remark in &verdict.remarks {
        println!("{remark}");
    }
    if verdict.failures.is_empty() {
        println!("{} cases counted, none above its limit", rows.len());
        return Ok(());
    }
    Err(BenchError::Gate {
        failures: verdict.failures,
    })
}
