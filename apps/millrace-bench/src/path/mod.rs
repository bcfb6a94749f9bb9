//! `millrace-bench path`: the driver's receive and transmit path alone.
//!
//! The bench plays the NIC on descriptor rings of its own: it writes back received descriptors and takes what was sent, half
//! a ring a turn, and only the driver's turn between is timed and counted. There is no model, no program, no PCIe and no
//! IOMMU in it. Between the driver's turns a [`floor`] loop takes its own, so that a row also says how far the driver is from
//! what the memory traffic alone costs on this machine at this moment.

mod baseline;
pub mod case;
mod chain;
pub mod floor;
mod measure;
mod peer;
pub mod rig;
mod worker;

use crate::report::{self, Line, Report, Summary, or_dash, round};
use crate::{BenchError, clock};
use baseline::Baseline;
use case::{Case, FAMILY, Metadata, Scenario, State};
use measure::{Measured, Share, Turns};
use millrace_driver::simd::CpuPath;
use peer::Peer;
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
    /// What to do with the frames (may be given several times); everything by default
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
    /// Also measure other drivers' functions on the same kind of rings: the programs that `make bench-peers` puts into DIR
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,
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
    /// The code that ran: `scalar` or `avx2`; a peer's name.
    pub path: &'static str,
    /// Core cycles a packet; see the report's notes.
    pub cycles_per_packet: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
    /// Time as a multiple of the floor loop's.
    pub vs_floor: f64,
    /// The middle 80 % of the turns lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
    /// What a person should know about this row: why a peer has no numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
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
            about: String::new(),
            breakdown: Vec::new(),
            key: case.key(),
        }
    }

    /// A peer's, or the row that says why there is none.
    fn of_peer(case: &Case, name: &'static str, measured: Measured, outcome: Result<f64, String>) -> Row {
        let (instructions, about) = match outcome {
            Ok(count) => (Some(count).filter(|count| count.is_finite()), String::new()),
            Err(why) => (None, why),
        };
        Row {
            path: name,
            about,
            ..Row::new(case, Some(&measured), instructions)
        }
    }
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<7} {:<8} {:>5} {:>5} {:<5} {:<8} {:<9} {:>9} {:>9} {:>8} {:>6}",
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
            "{:<7} {:<8} {:>5} {:>5} {:<5} {:<8} {:<9} {:>9} {:>9} {:>8} {:>6}",
            self.family,
            self.scenario,
            self.burst,
            self.ring,
            self.state,
            self.metadata,
            self.path,
            number(self.cycles_per_packet, 1),
            or_dash(self.instructions_per_packet),
            number(self.vs_floor, 2),
            number(self.spread_percent, 1)
        );
        if !self.about.is_empty() {
            line.push_str("  ");
            line.push_str(&self.about);
        }
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

/// A number of a table, or a dash for none.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        "-".to_owned()
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
    let mut rows = Vec::new();
    let (mut versions, mut page) = (Vec::new(), 0);
    for case in cases(args) {
        rows.extend(measure_case(args, &case, &mut versions, &mut page)?);
    }
    let instructions = if args.no_instructions {
        "instructions were not counted"
    } else {
        "instructions: single steps over one turn"
    };
    let mut notes = vec![
        "the bench plays the NIC on the rings; only the driver's turns, of half a ring each, are timed: no PCIe, no IOMMU, \
         no MMIO, no program"
            .to_owned(),
        "cycles: median turn x core frequency, which a chain of dependent operations measures beside each row; the cost of \
         reading the clock is taken off; no PMU"
            .to_owned(),
        "vs floor: the median turn over that of a scalar loop that touches only descriptors and the frames' first line, \
         interleaved turn by turn"
            .to_owned(),
        "L3: before each turn, of both, the bench writes over twice the L2 cache and reads the driver's own records back in, so \
         descriptors and frames lie in L3, as after DDIO; cold: it writes over twice the L3 cache, and the records are out too"
            .to_owned(),
        instructions.to_owned(),
        format!(
            "packet buffers, the floor's too, on pages of {} KiB{}",
            page >> 10,
            if page > 4096 { "" } else { ": `millrace-setup hugepages 64M` sets larger ones aside, which is faster" }
        ),
        clock::load(),
    ];
    if args.peers.is_some() {
        notes.push(format!(
            "peers ({}): their own receive and transmit functions on queues filled in by hand, in a process of their own on \
             the same processor, turns between ours; built by `make bench-peers` from Debian's source package",
            if versions.is_empty() { "none is built".to_owned() } else { versions.join(", ") }
        ));
    }
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
        &[
            Scenario::RxDrop,
            Scenario::Forward,
            Scenario::Tx,
            Scenario::Chain,
            Scenario::Worker,
        ],
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

/// A case's row, and those of the peers. `versions` collects what the peers are, `page` gets the size of the pages.
fn measure_case(
    args: &Args,
    case: &Case,
    versions: &mut Vec<String>,
    page: &mut usize,
) -> Result<Vec<Row>, BenchError> {
    let nanos = args.millis * 1_000_000;
    let bar = report::progress(case.to_string(), nanos);
    let mut turns = Turns::new(case)?;
    *page = turns.page_bytes();
    let names = args.peers.iter().flat_map(|_| peer::PEERS).collect::<Vec<_>>();
    let mut peers: Vec<_> = args
        .peers
        .iter()
        .flat_map(|dir| peer::PEERS.map(|(_, program, variant)| Peer::start(dir, program, variant, case)))
        .collect();
    let measured = turns.measure(nanos, &mut peers, |done| bar.set_position(done))?;
    bar.set_message("counting instructions");
    let instructions = match args.no_instructions {
        true => None,
        false => Some(turns.instructions()?),
    };
    let mut row = Row::new(case, Some(&measured), instructions);
    if args.breakdown {
        row.breakdown = turns.breakdown(!args.no_instructions)?;
    }
    let mut rows = vec![row];
    for (((name, ..), peer), time) in names.into_iter().zip(peers).zip(&measured.peers) {
        let outcome = peer.and_then(|mut peer| {
            if !versions.contains(&peer.version) {
                versions.push(peer.version.clone());
            }
            if args.no_instructions {
                Ok(f64::NAN)
            } else {
                peer.instructions()
            }
        });
        let nothing = Summary {
            median: f64::NAN,
            spread_percent: f64::NAN,
        };
        let theirs = Measured {
            time: time.as_ref().map_or(nothing, |time| *time),
            ..measured.clone()
        };
        rows.push(Row::of_peer(case, name, theirs, outcome));
    }
    bar.finish_and_clear();
    Ok(rows)
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
        for (scenario, metadata) in [
            (Scenario::Forward, Metadata::Full),
            (Scenario::Chain, Metadata::Plain),
            (Scenario::Worker, Metadata::Plain),
        ] {
            cases.push(Case {
                scenario,
                burst: 32,
                ring: 1024,
                state: State::Warm,
                metadata,
                path,
            });
        }
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
    let build = baseline::build();
    let known = baseline.knows(&build);
    let mut cases = gated_cases();
    // Where there is nothing to compare with, only the limits are judged.
    cases.retain(|case| known || baseline.limits.contains_key(&case.key()));
    let rows = count(&cases)?;
    let counts = rows
        .iter()
        .filter_map(|row| Some((row.key.as_str(), row.instructions_per_packet?)));
    let verdict = baseline.judge(&build, !cfg!(debug_assertions), counts);
    for remark in &verdict.remarks {
        println!("{remark}");
    }
    if !verdict.failures.is_empty() {
        return Err(BenchError::Gate {
            failures: verdict.failures,
        });
    }
    println!("{} cases counted, none above its limit", rows.len());
    if known {
        Ok(())
    } else {
        Err(BenchError::UnknownBuild { build })
    }
}
