//! `millrace-bench ebpf`: what a run of a program costs on each engine and in the kernel.
//!
//! The same linked instructions run everywhere. A round times each engine's programs in turn, a fifth of a millisecond each, so
//! whatever else the machine does hits all alike; a ratio is that of one round, and what is shown is the median of all rounds'.
//! A case's body is measured with a program that runs it a hundred times, which leaves out what entering a program costs; that
//! is shown beside it, for a single frame and for a batch.

mod cases;
mod lane;

use millrace_ebpf::{LoadError, kernel};
use serde::Serialize;

use crate::report::{self, Line, Report, Summary, or_dash};
use crate::{BenchError, clock};
use cases::Case;
use lane::{BATCH, BUFFER, Frames, Lane, Round};

/// Rounds that there are at least.
const LEAST_ROUNDS: usize = 7;

/// What can be asked of `ebpf`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Measure only this case (may be given several times)
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<String>,
    /// Engine to measure: jit, interp, rbpf, rbpf-interp or kernel (may be given several times); all there are by default
    #[arg(long = "engine", value_name = "ENGINE")]
    pub engines: Vec<String>,
    /// CPU milliseconds to spend on each row
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Bytes of frames that a cold run goes through, in MiB; 0 leaves cold runs out
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=4096))]
    pub cold_mib: u64,
}

/// One case on one engine.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: &'static str,
    /// The same in a few words.
    pub about: &'static str,
    /// `jit`, `interp`, `rbpf` (that crate's JIT), `rbpf-interp` (its interpreter) or `kernel`.
    pub engine: &'static str,
    /// Nanoseconds of the program's own work a run, in the best of the rounds.
    pub ns: f64,
    /// That, divided by the kernel's: the median of the rounds' ratios.
    pub vs_kernel: Option<f64>,
    /// The middle 80 % of those lie within this many percent of the median, to both sides.
    pub vs_kernel_spread_percent: Option<f64>,
    /// The same against rbpf's interpreter.
    pub vs_rbpf_interp: Option<f64>,
    pub vs_rbpf_interp_spread_percent: Option<f64>,
    /// Rounds that were timed.
    pub rounds: usize,
    /// Nanoseconds a run when a frame is a call.
    pub single_ns: f64,
    /// Nanoseconds a run in batches of 64.
    pub batch_ns: Option<f64>,
    /// The same over frames that are in no cache: a frame a call.
    pub cold_single_ns: Option<f64>,
    /// In batches of 64.
    pub cold_batch_ns: Option<f64>,
    /// What compiling took.
    pub compile_us: Option<f64>,
    /// BPF instructions of `ns`, as the interpreter counts them.
    pub instructions: Option<f64>,
    /// Nanoseconds of one of them, interpreted.
    pub ns_per_instruction: Option<f64>,
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<11} {:<11} {:>8} {:>9} {:>5} {:>9} {:>8} {:>7} {:>8} {:>10} {:>10}",
            "case",
            "engine",
            "ns",
            "vs kernel",
            "+-%",
            "vs rbpf-i",
            "single",
            "batch",
            "cold one",
            "cold batch",
            "compile us"
        )
    }

    fn line(&self) -> String {
        let ratio = |value: Option<f64>| value.map_or("-".to_owned(), |r| format!("{r:.2}"));
        format!(
            "{:<11} {:<11} {:>8.2} {:>9} {:>5} {:>9} {:>8.1} {:>7} {:>8} {:>10} {:>10}",
            self.case,
            self.engine,
            self.ns,
            ratio(self.vs_kernel),
            or_dash(self.vs_kernel_spread_percent),
            ratio(self.vs_rbpf_interp),
            self.single_ns,
            or_dash(self.batch_ns),
            or_dash(self.cold_single_ns),
            or_dash(self.cold_batch_ns),
            or_dash(self.compile_us),
        )
    }
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let engines = engines(&args.engines)?;
    let chosen = cases::chosen(&args.cases)?;
    let mut ready = match args.engines.is_empty() {
        true => Vec::new(),
        false => one_of_each(&engines, &chosen)?,
    };
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let mut notes = vec![
        "CPU time; one frame over and over, but for the cold columns. Times are the best of all rounds".to_owned(),
        "vs kernel, vs rbpf-i: a round times every engine in turn and has its own ratio of `ns`; this is the median of all \
         rounds', the middle 80 % of which lie within +-%"
            .to_owned(),
        format!(
            "ns: a hundred turns in one call, divided by 100; tunnel, lb_*: a call less one of drop; drop: a call. single: a \
             frame a call (kernel: BPF_PROG_TEST_RUN with repeat). batch: {BATCH} frames a call"
        ),
        format!("cold: over {} MiB of frames that no cache holds", args.cold_mib),
    ];
    if kernel::compiles() == Some(false) {
        notes.push("the kernel's JIT is off (net.core.bpf_jit_enable)".into());
    }
    let mut rows = Vec::new();
    for case in chosen {
        let mut lanes = Vec::new();
        for engine in &engines {
            let made = ready
                .iter()
                .position(|lane| (lane.case, lane.engine) == (case.name, *engine));
            match made.map_or_else(|| Lane::new(case, engine), |at| Ok(ready.swap_remove(at))) {
                Ok(lane) => lanes.push(lane),
                Err(why) if why.is_skip() => {
                    let note = format!("{engine} left out of {}: {why}", case.name);
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
                Err(why) => return Err(why),
            }
        }
        time_rounds(args, case, &mut lanes)?;
        case_rows(args, case, lanes, &mut rows);
        notes.push(about(case, &rows));
    }
    Report {
        bench: "ebpf",
        machine,
        notes,
        rows,
    }
    .print(args.json)
}

const ENGINES: [&str; 5] = ["jit", "interp", "rbpf", "rbpf-interp", "kernel"];

fn engines(names: &[String]) -> Result<Vec<&'static str>, BenchError> {
    if names.is_empty() {
        return Ok(ENGINES.to_vec());
    }
    let find = |name: &String| {
        let known = ENGINES.into_iter().find(|kind| kind == name);
        known.ok_or_else(|| BenchError::Unknown {
            what: "engine",
            name: name.clone(),
            known: ENGINES.join(", "),
        })
    };
    names.iter().map(find).collect()
}

/// An engine that somebody asked for and that runs none of the cases is an error; one that runs some of them is not. Gives
/// a lane for each, which need not be made again.
fn one_of_each(engines: &[&'static str], cases: &[&Case]) -> Result<Vec<Lane>, BenchError> {
    let one = |engine: &&'static str| {
        let mut refusal = None;
        for case in cases {
            match Lane::new(case, engine) {
                Ok(lane) => return Ok(Some(lane)),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        refusal.map_or(Ok(None), Err)
    };
    let made: Result<Vec<Option<Lane>>, BenchError> = engines.iter().map(one).collect();
    Ok(made?.into_iter().flatten().collect())
}

/// Rounds until each lane has had its share of the time.
fn time_rounds(args: &Args, case: &Case, lanes: &mut [Lane]) -> Result<(), BenchError> {
    let frame = cases::frame();
    let budget = args.millis * 1_000_000 * lanes.len() as u64;
    let bar = report::progress(case.name.to_owned(), budget);
    let begun = clock::cpu_nanos();
    Frames::new(BATCH, &frame).bufs(|bufs| {
        for round in 0.. {
            let spent = clock::cpu_nanos() - begun;
            bar.set_position(spent.min(budget));
            if round >= LEAST_ROUNDS && spent >= budget {
                break;
            }
            for lane in lanes.iter_mut() {
                lane.round(bufs, &frame)?;
            }
        }
        Ok::<_, BenchError>(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn case_rows(args: &Args, case: &Case, lanes: Vec<Lane>, rows: &mut Vec<Row>) {
    let rounds_of = |engine: &str| {
        lanes
            .iter()
            .find(|l| l.engine == engine)
            .map(|l| l.rounds.clone())
    };
    let (kernel, rbpf_interp) = (rounds_of("kernel"), rounds_of("rbpf-interp"));
    let mut cold = (case.cold && args.cold_mib != 0)
        .then(|| Frames::new((args.cold_mib << 20) as usize / BUFFER, &cases::frame()));
    for mut lane in lanes {
        let best = lane.best();
        let against = |others: &Option<Vec<Round>>| Some(ratio(&lane.rounds, others.as_ref()?));
        let (vs_kernel, vs_rbpf_interp) = (against(&kernel), against(&rbpf_interp));
        let instructions = lane.instructions();
        let mut row = Row {
            case: case.name,
            about: case.about,
            engine: lane.engine,
            ns: hundredth(best.own),
            vs_kernel: vs_kernel.map(|r| hundredth(r.median)),
            vs_kernel_spread_percent: vs_kernel.map(|r| r.spread_percent),
            vs_rbpf_interp: vs_rbpf_interp.map(|r| hundredth(r.median)),
            vs_rbpf_interp_spread_percent: vs_rbpf_interp.map(|r| r.spread_percent),
            rounds: lane.rounds.len(),
            single_ns: report::round(best.single),
            batch_ns: best.batch.is_finite().then(|| report::round(best.batch)),
            cold_single_ns: None,
            cold_batch_ns: None,
            compile_us: None,
            instructions: instructions.map(report::round),
            // Of a program without a body this would be what entering costs.
            ns_per_instruction: instructions
                .filter(|each| *each > 2.0)
                .map(|each| hundredth(best.own / each)),
        };
        if let Some(instance) = lane.instance() {
            let compiled = instance.program().compiled();
            row.compile_us = compiled.map(|c| report::round(c.time.as_nanos() as f64 / 1000.0));
            if let Some(cold) = &mut cold {
                row.cold_single_ns = Some(report::round(cold.pass(instance, false)));
                row.cold_batch_ns = Some(report::round(cold.pass(instance, true)));
            }
        }
        rows.push(row);
    }
}

/// The rounds' ratios of a program's own work.
fn ratio(ours: &[Round], theirs: &[Round]) -> Summary {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a.own / b.own).collect();
    Summary::of(&ratios)
}

/// What a case does, and what it takes to interpret.
fn about(case: &Case, rows: &[Row]) -> String {
    let row = rows
        .iter()
        .find(|row| row.case == case.name && row.instructions.is_some());
    let counted = row.and_then(|row| {
        let (count, each) = (row.instructions?, row.ns_per_instruction?);
        Some(format!(
            "; {count} instructions, {each:.2} ns each on the interpreter"
        ))
    });
    format!("{}: {}{}", case.name, case.about, counted.unwrap_or_default())
}

/// To two decimals.
fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl BenchError {
    /// Whether the bench can go on without what failed.
    fn is_skip(&self) -> bool {
        matches!(
            self,
            BenchError::Kernel(_)
                | BenchError::Load(LoadError::EngineUnavailable(..) | LoadError::EngineRefused { .. })
        )
    }
}
