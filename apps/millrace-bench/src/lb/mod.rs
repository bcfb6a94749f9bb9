//! `millrace-bench lb`: the balancer's data plane on one core.
//!
//! Frames of a generator come through an 82599 model and our driver to a worker of the framework, which runs the balancer's
//! program and sends them back out. Model and generator run in the same thread between the timed sections, so descriptors and
//! frames are warm in this core's caches, and there is no PCIe, no IOMMU and no other core: what is measured is driver, worker and
//! program alone.

mod balancer;
mod cases;

use crate::rig::Rig;
use crate::{BenchError, clock, report, step};
use cases::{Case, Expect};
use millrace_ebpf::{EngineKind, LoadError};
use millrace_l4lb::balancer::Balancer;
use report::{Report, Row};

/// The balancer's port and the router in front of it.
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MACS: &str = "smac=02:00:00:00:00:01,dmac=02:00:00:00:00:02";
/// Frames whose instructions are counted.
const COUNTED_FRAMES: usize = 64;

/// What can be asked of `lb`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Measure only this case (may be given several times)
    #[arg(long = "case", value_name = "NAME")]
    pub cases: Vec<String>,
    /// Engine to run the program on: interp, jit or rbpf (may be given several times); all there are by default
    #[arg(long = "engine", value_name = "ENGINE")]
    pub engines: Vec<String>,
    /// CPU milliseconds to spend on each row
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Do not count instructions (single-stepping takes a second or so a row)
    #[arg(long)]
    pub no_instructions: bool,
}

const ENGINES: [EngineKind; 3] = [EngineKind::Interp, EngineKind::Jit, EngineKind::Rbpf];

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let engines = engines(&args.engines)?;
    let cases = chosen(&args.cases)?;
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let mut rows = Vec::new();
    let mut notes = vec![
        "cycles: thread CPU time x core frequency, which a chain of dependent operations measures beside each row; no PMU",
        "each frame goes through the framework's worker: poll, program, verdicts, transmit, one doorbell and the counters a round of up to 64 frames",
        "the 82599 model and the generator run in the same thread and are not timed; frames are warm in cache; no PCIe, no IOMMU",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    if args.no_instructions {
        notes.push("instructions were not counted".to_owned());
    } else {
        notes.push(format!(
            "instructions: single steps over some {COUNTED_FRAMES} frames"
        ));
    }
    for case in cases {
        let engines = if case.bare {
            &[None][..]
        } else {
            &engines.iter().copied().map(Some).collect::<Vec<_>>()
        };
        for engine in engines {
            match row(args, case, *engine) {
                Ok(row) => rows.push(row),
                Err(BenchError::Load(
                    why @ (LoadError::EngineUnavailable { .. } | LoadError::EngineRefused { .. }),
                )) if args.engines.is_empty() => {
                    let note = format!("{} left out: {why}", engine_name(*engine));
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    Report {
        bench: "lb",
        machine,
        notes,
        rows,
    }
    .print(args.json)
}

fn engines(names: &[String]) -> Result<Vec<EngineKind>, BenchError> {
    if names.is_empty() {
        return Ok(ENGINES.to_vec());
    }
    let find = |name: &String| {
        let known = ENGINES.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| BenchError::Unknown {
            what: "engine",
            name: name.clone(),
            known: ENGINES.map(EngineKind::name).join(", "),
        })
    };
    names.iter().map(find).collect()
}

fn chosen(names: &[String]) -> Result<Vec<&'static Case>, BenchError> {
    if names.is_empty() {
        return Ok(cases::CASES.iter().collect());
    }
    let find = |name: &String| {
        cases::find(name).ok_or_else(|| BenchError::Unknown {
            what: "case",
            name: name.clone(),
            known: cases::names(),
        })
    };
    names.iter().map(find).collect()
}

fn engine_name(engine: Option<EngineKind>) -> &'static str {
    engine.map_or("none", EngineKind::name)
}

/// A rig with the balancer on it, warmed up so that all flows of the case have been seen, and checked.
fn rig(case: &Case, engine: Option<EngineKind>) -> Result<(Rig, Option<Balancer>), BenchError> {
    let (instance, balancer) = match engine {
        None => (None, None),
        Some(engine) => {
            balancer::ready(engine, OURS).map(|(instance, balancer)| (Some(instance), Some(balancer)))?
        }
    };
    let wire = format!("gen:{},dport=80,size=64,{MACS}", case.traffic);
    let mut rig = Rig::new(&wire, OURS, instance)?;
    let mut frames = 0;
    while frames < 60_000 {
        rig.supply();
        frames += rig.drain();
    }
    check(case, &rig)?;
    Ok((rig, balancer))
}

/// A row about frames that were not balanced would be worth nothing.
fn check(case: &Case, rig: &Rig) -> Result<(), BenchError> {
    let Some(worker) = rig.worker() else {
        return Ok(());
    };
    let right = match (case.expect, case.bare) {
        (Expect::Sent, false) => "xdp_tx",
        (Expect::Sent, true) => "pass_callback",
        (Expect::Passed, _) => "xdp_pass",
    };
    let out = match case.expect {
        Expect::Sent => "tx_frames",
        Expect::Passed => right,
    };
    let came = worker.counter("rx_frames");
    if worker.counter(right) == came && worker.counter(out) == came {
        return Ok(());
    }
    let fault = worker
        .last_fault()
        .map_or(String::new(), |fault| format!("; last fault: {fault}"));
    let counters = worker.counters().into_iter().filter(|(_, value)| *value > 0);
    Err(BenchError::WrongOutcome {
        case: case.name,
        outcome: format!("{:?}{fault}", counters.collect::<Vec<_>>()),
    })
}

fn row(args: &Args, case: &Case, engine: Option<EngineKind>) -> Result<Row, BenchError> {
    let nanos = args.millis * 1_000_000;
    let bar = report::progress(format!("{} ({})", case.name, engine_name(engine)), nanos);
    let (mut rig, _balancer) = rig(case, engine)?;
    let before = clock::gigahertz();
    let samples = rig.measure(nanos, |done| bar.set_position(done));
    let gigahertz = before.max(clock::gigahertz());
    check(case, &rig)?;
    let instructions = if args.no_instructions {
        None
    } else {
        bar.set_message("counting instructions");
        Some(instructions(&mut rig)?)
    };
    bar.finish_and_clear();
    Ok(Row::new(
        case.name,
        case.about,
        engine_name(engine),
        &samples,
        gigahertz,
        instructions,
    ))
}

/// Instructions a frame, by single steps through one small section.
fn instructions(rig: &mut Rig) -> Result<f64, BenchError> {
    rig.set_frames(COUNTED_FRAMES);
    rig.supply();
    rig.drain();
    rig.supply();
    let (frames, instructions) = step::count(|| rig.drain()).map_err(BenchError::Counting)?;
    Ok(instructions as f64 / frames.max(1) as f64)
}
