//! `millrace-bench scale`: the path of `path` on 1, 2, ... queue pairs of one port, each with a worker of its own.
//!
//! What a queue touches for every packet should be its own: then a second worker costs the first one nothing but what the
//! machine's cores share. To tell the one from the other, each number of workers is also measured on as many ports that
//! share nothing at all.

mod worker;

use crate::path::case::{self, Case, Metadata, Scenario, State};
use crate::path::rig::Rig;
use crate::report::{self, Line, Report, Summary, round};
use crate::{BenchError, clock};
use millrace_driver::simd::CpuPath;
use serde::Serialize;
use std::path::PathBuf;

/// What can be asked of `scale`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
EXAMPLES
  millrace-bench scale                        1 to as many workers as there are processors
  millrace-bench scale --workers 8 --scenario tx --burst 64
  millrace-bench scale --html scale.html      the same with a plot

READING IT
  \"one port\": the workers' queues belong to one port and share its packet buffers. \"own ports\": as many ports with
  nothing in common. Where both scale alike, what is missing to the ideal is the machine's (shared caches, memory,
  frequency, other work on it); where only \"own ports\" scales, the queues get in each other's way.")]
pub struct Args {
    /// Most workers; as many as there are processors by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub workers: Option<u16>,
    /// What to do with the frames: rx_drop, forward or tx
    #[arg(long, value_name = "NAME", default_value = "forward")]
    pub scenario: Scenario,
    /// Frames that a poll brings, 1 to 128
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub burst: u32,
    /// Descriptors of each ring, 256 to 4096
    #[arg(long, value_name = "N", default_value = "1024", value_parser = case::ring_size)]
    pub ring: u32,
    /// The code to run for every packet, scalar or avx2; the best that this processor has by default
    #[arg(long = "path", value_name = "NAME", value_parser = case::cpu_path)]
    pub path: Option<CpuPath>,
    /// Milliseconds of each worker's turns to measure in each row
    #[arg(long, default_value_t = 300, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Also write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Whose queues the workers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Queues of one port.
    OnePort,
    /// Each the only queue of a port of its own.
    OwnPorts,
}

impl Sharing {
    fn name(self) -> &'static str {
        match self {
            Sharing::OnePort => "one port",
            Sharing::OwnPorts => "own ports",
        }
    }
}

/// Some number of workers.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: Scenario,
    pub sharing: Sharing,
    pub workers: u16,
    pub burst: u32,
    pub ring: u32,
    pub path: &'static str,
    /// What all of them do together while each has a core, in millions of packets a second.
    pub mpps: f64,
    /// The same as a multiple of what one worker alone does.
    pub speedup: f64,
    /// Core cycles a packet: the slowest worker's median.
    pub cycles_per_packet: f64,
    /// The middle 80 % of the turns lie within this many percent of the median, to both sides; the worst worker's.
    pub spread_percent: f64,
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<8} {:<10} {:>7} {:>5} {:>5} {:<6} {:>9} {:>8} {:>9} {:>6}",
            "scenario", "queues of", "workers", "burst", "ring", "path", "Mpps", "speedup", "cycles/p", "+-%"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<8} {:<10} {:>7} {:>5} {:>5} {:<6} {:>9.1} {:>8.2} {:>9.1} {:>6.1}",
            self.scenario,
            self.sharing.name(),
            self.workers,
            self.burst,
            self.ring,
            self.path,
            self.mpps,
            self.speedup,
            self.cycles_per_packet,
            self.spread_percent
        )
    }
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    if matches!(args.scenario, Scenario::Chain | Scenario::Worker) {
        return Err(BenchError::Unknown {
            what: "scenario of several workers",
            name: args.scenario.to_string(),
            known: "rx_drop, forward, tx".to_owned(),
        });
    }
    let machine = report::machine();
    let cpus = clock::cpus();
    let most = args.workers.unwrap_or(cpus.min(16) as u16);
    let case = Case {
        scenario: args.scenario,
        burst: args.burst,
        ring: args.ring,
        state: State::Warm,
        metadata: Metadata::Plain,
        path: args.path.unwrap_or(CpuPath::best()),
    };
    let kinds = [Sharing::OnePort, Sharing::OwnPorts];
    let bar = report::steps("scale", kinds.len() as u64 * u64::from(most));
    let mut rows = Vec::new();
    let mut one = None;
    for sharing in kinds {
        for workers in 1..=most {
            bar.set_message(format!("{workers} on {}", sharing.name()));
            let row = row(&case, sharing, workers, args.millis, &mut one)?;
            rows.push(row);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut notes = vec![
        "each worker has a queue pair and plays the NIC for it between its timed turns of half a ring, as in `path`; all \
         workers run at the same time, each on a processor of its own as far as there are"
            .to_owned(),
        "Mpps: the sum of what the workers' median turns come to; speedup: over one worker on one port; cycles: the slowest \
         worker's"
            .to_owned(),
    ];
    if usize::from(most) > cpus {
        notes.push(format!(
            "there are {cpus} processors: beyond that workers share them, and only medians of undisturbed turns are told"
        ));
    }
    let report = Report {
        bench: "scale",
        machine,
        notes,
        rows,
    };
    report.write_html(args.html.as_deref())?;
    report.print(args.json)
}

/// `one` is what one worker does, in packets a nanosecond, once that is known.
fn row(
    case: &Case,
    sharing: Sharing,
    workers: u16,
    millis: u64,
    one: &mut Option<f64>,
) -> Result<Row, BenchError> {
    let rigs = match sharing {
        Sharing::OnePort => Rig::several(case, workers)?,
        Sharing::OwnPorts => (0..workers).map(|_| Rig::new(case)).collect::<Result<_, _>>()?,
    };
    let measured = worker::run(rigs, case.ring / 2, millis * 1_000_000)?;
    let rate: f64 = measured.iter().map(|worker| 1.0 / worker.time.median).sum();
    let one = *one.get_or_insert(rate / f64::from(workers));
    let cycles = measured
        .iter()
        .map(|worker| worker.time.median * worker.gigahertz)
        .fold(0.0, f64::max);
    let spread = |time: &Summary| time.spread_percent;
    Ok(Row {
        scenario: case.scenario,
        sharing,
        workers,
        burst: case.burst,
        ring: case.ring,
        path: case.path.name(),
        mpps: round(rate * 1e3),
        speedup: (rate / one * 100.0).round() / 100.0,
        cycles_per_packet: round(cycles),
        spread_percent: measured
            .iter()
            .map(|worker| spread(&worker.time))
            .fold(0.0, f64::max),
    })
}
