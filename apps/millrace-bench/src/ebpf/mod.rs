//! `millrace-bench ebpf`: what a run of a program costs on each engine and in the kernel.
//!
//! The same linked instructions run everywhere, engine after engine in short rounds, so that whatever else the machine does
//! hits all alike; each number is the best of its rounds. A case's body is measured with a program that runs it a hundred
//! times, which leaves out what entering a program costs; that is shown beside it, for a single frame and for a batch.

mod cases;

use std::sync::Arc;

use millrace_ebpf::kernel::{self, KernelProgram};
use millrace_ebpf::{EngineKind, Instance, LoadError, Program, Verdict, XdpBuff};
use serde::Serialize;

use crate::report::{self, Line, Report, or_dash};
use crate::{BenchError, clock};
use cases::{Case, Subject};

/// Frames of a batch, as the workers have them.
const BATCH: usize = 64;
/// Bytes of a frame's buffer, and where the frame begins in it.
const BUFFER: usize = 2048;
const HEADROOM: usize = 256;
/// Turns that a `_many` program makes.
const TURNS: f64 = 100.0;
/// Rounds that a row's numbers are the best of.
const ROUNDS: u64 = 25;

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
    /// Nanoseconds of the program's own work a run.
    pub ns: f64,
    /// That, divided by the kernel's.
    pub vs_kernel: Option<f64>,
    /// `ns` divided by that of rbpf's interpreter.
    pub vs_rbpf_interp: Option<f64>,
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
            "{:<12} {:<11} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10} {:>10} {:>7} {:>7}  ",
            "case",
            "engine",
            "ns",
            "vs kernel",
            "vs rbpf-i",
            "single",
            "batch",
            "cold one",
            "cold batch",
            "compile us",
            "insns",
            "ns/insn"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<12} {:<11} {:>8.2} {:>9} {:>9} {:>8.1} {:>8} {:>8} {:>10} {:>10} {:>7} {:>7}  {}",
            self.case,
            self.engine,
            self.ns,
            self.vs_kernel.map_or("-".to_owned(), |r| format!("{r:.2}")),
            self.vs_rbpf_interp.map_or("-".to_owned(), |r| format!("{r:.2}")),
            self.single_ns,
            or_dash(self.batch_ns),
            or_dash(self.cold_single_ns),
            or_dash(self.cold_batch_ns),
            or_dash(self.compile_us),
            or_dash(self.instructions),
            self.ns_per_instruction
                .map_or("-".to_owned(), |n| format!("{n:.2}")),
            self.about
        )
    }
}

/// What a row is measured on.
enum Runner {
    Ours {
        once: Instance,
        many: Option<Instance>,
    },
    Kernel {
        once: KernelProgram,
        many: Option<KernelProgram>,
    },
}

/// An engine's best times so far, in nanoseconds.
struct Lane {
    engine: &'static str,
    runner: Runner,
    /// What a call costs by itself, where the case has no program of many turns.
    nothing: Option<Box<Lane>>,
    many: f64,
    single: f64,
    batch: f64,
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let engines = engines(&args.engines)?;
    let chosen = cases::chosen(&args.cases)?;
    if !args.engines.is_empty() {
        run_something(&engines, &chosen)?;
    }
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let mut notes = vec![
        "CPU time, the best of many short rounds, engine after engine; one frame over and over, but for the cold columns"
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
        case_rows(args, case, &engines, &mut rows, &mut notes)?;
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

/// An engine that somebody asked for and that runs none of the cases is an error; one that runs some of them is not.
fn run_something(engines: &[&'static str], cases: &[&Case]) -> Result<(), BenchError> {
    for engine in engines {
        let mut refusal = None;
        let runs = |case: &&Case| {
            lane(case, engine)
                .map_err(|why| refusal.get_or_insert(why))
                .is_ok()
        };
        if !cases.iter().any(runs)
            && let Some(why) = refusal
        {
            return Err(why);
        }
    }
    Ok(())
}

fn case_rows(
    args: &Args,
    case: &Case,
    engines: &[&'static str],
    rows: &mut Vec<Row>,
    notes: &mut Vec<String>,
) -> Result<(), BenchError> {
    let mut lanes = Vec::new();
    for engine in engines {
        match lane(case, engine) {
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
    let frame = cases::frame();
    let mut arena = Frames::new(BATCH, &frame);
    let bar = report::progress(case.name.to_owned(), ROUNDS);
    let slice = args.millis * 1_000_000 / ROUNDS;
    for round in 0..ROUNDS {
        for lane in &mut lanes {
            lane.round(&mut arena, &frame, slice)?;
        }
        bar.set_position(round);
    }
    bar.finish_and_clear();
    let own_of = |engine: &str| lanes.iter().find(|l| l.engine == engine).map(Lane::own);
    let (kernel, rbpf_interp) = (own_of("kernel"), own_of("rbpf-interp"));
    let mut cold = (case.cold && args.cold_mib != 0)
        .then(|| Frames::new((args.cold_mib << 20) as usize / BUFFER, &frame));
    for mut lane in lanes {
        let own = lane.own();
        let (single, batch) = (lane.single, lane.batch);
        let mut row = Row {
            case: case.name,
            about: case.about,
            engine: lane.engine,
            ns: hundredth(own),
            vs_kernel: kernel.map(|k| hundredth(own / k)),
            vs_rbpf_interp: rbpf_interp.map(|r| hundredth(own / r)),
            single_ns: report::round(single),
            batch_ns: batch.is_finite().then(|| report::round(batch)),
            cold_single_ns: None,
            cold_batch_ns: None,
            compile_us: None,
            instructions: None,
            ns_per_instruction: None,
        };
        if let Runner::Ours { once, many } = &mut lane.runner {
            row.compile_us = once
                .program()
                .compiled()
                .map(|c| report::round(c.time.as_nanos() as f64 / 1000.0));
            let (counted, turns) = match many {
                Some(many) => (many.stats(), TURNS),
                None => (once.stats(), 1.0),
            };
            if counted.instructions != 0 {
                let each = counted.instructions as f64 / counted.runs.max(1) as f64 / turns;
                row.instructions = Some(report::round(each));
                // Of a program without a body this would be what entering costs.
                row.ns_per_instruction = (each > 2.0).then(|| hundredth(own / each));
            }
            if let Some(cold) = &mut cold {
                row.cold_single_ns = Some(report::round(cold.pass(once, false)));
                row.cold_batch_ns = Some(report::round(cold.pass(once, true)));
            }
        }
        rows.push(row);
    }
    Ok(())
}

/// To two decimals.
fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn lane(case: &Case, engine: &'static str) -> Result<Lane, BenchError> {
    let subject = Subject::load(case)?;
    let runner = if engine == "kernel" {
        let maps = subject.in_kernel()?;
        let load = |program: &Arc<Program>| KernelProgram::load(program, &maps).map_err(BenchError::Kernel);
        Runner::Kernel {
            once: load(&subject.once)?,
            many: subject.many.as_ref().map(load).transpose()?,
        }
    } else {
        let kind: EngineKind = engine.parse()?;
        let instance = |program: &Arc<Program>| {
            let mut instance = program.instance(kind, 0)?;
            instance.set_hints(&cases::layout());
            Ok::<_, LoadError>(instance)
        };
        Runner::Ours {
            once: instance(&subject.once)?,
            many: subject.many.as_ref().map(instance).transpose()?,
        }
    };
    let nothing = match case.name == cases::drop().name || subject.many.is_some() {
        true => None,
        false => Some(Box::new(self::lane(cases::drop(), engine)?)),
    };
    let mut lane = Lane {
        engine,
        runner,
        nothing,
        many: f64::INFINITY,
        single: f64::INFINITY,
        batch: f64::INFINITY,
    };
    lane.check(case)?;
    Ok(lane)
}

impl Lane {
    /// The case's own work.
    fn own(&self) -> f64 {
        match &self.nothing {
            _ if self.many.is_finite() => self.many / TURNS,
            Some(nothing) => self.single - nothing.single,
            None => self.single,
        }
    }

    /// A number about a program that did something else would mean nothing.
    fn check(&mut self, case: &Case) -> Result<(), BenchError> {
        let frame = cases::frame();
        let mut seen = Vec::new();
        match &mut self.runner {
            Runner::Ours { once, many } => {
                for instance in [Some(once), many.as_mut()].into_iter().flatten() {
                    let mut arena = Frames::new(1, &frame);
                    for _ in 0..3 {
                        arena.bufs(|bufs| seen.push(instance.run_one(&mut bufs[0]).raw));
                    }
                }
            }
            Runner::Kernel { once, many } => {
                for program in [Some(once), many.as_mut()].into_iter().flatten() {
                    seen.push(program.run(&frame, 3).map_err(BenchError::Kernel)?);
                }
            }
        }
        if seen.iter().all(|v| *v == case.verdict) {
            return Ok(());
        }
        Err(BenchError::WrongOutcome {
            case: case.name,
            outcome: format!("{} gives {seen:?}, not {}", self.engine, case.verdict),
        })
    }

    /// A round of about `nanos`.
    fn round(&mut self, arena: &mut Frames, frame: &[u8], nanos: u64) -> Result<(), BenchError> {
        if let Some(nothing) = &mut self.nothing {
            nothing.round(arena, frame, nanos / 4)?;
        }
        match &mut self.runner {
            Runner::Kernel { once, many } => {
                let time = |program: &KernelProgram, best: &mut f64, part: u64| {
                    // As often as the part of the round allows, by what it took last.
                    let each = if best.is_finite() { *best } else { 10_000.0 };
                    let repeat = (part as f64 / each).clamp(100.0, 1e6) as u32;
                    let begun = clock::cpu_nanos();
                    program.run(frame, repeat).map_err(BenchError::Kernel)?;
                    *best = best.min((clock::cpu_nanos() - begun) as f64 / f64::from(repeat));
                    Ok::<_, BenchError>(())
                };
                time(once, &mut self.single, nanos / 2)?;
                if let Some(many) = many {
                    time(many, &mut self.many, nanos / 2)?;
                }
            }
            Runner::Ours { once, many } => {
                arena.bufs(|bufs| {
                    let mut verdicts = [Verdict::default(); BATCH];
                    let part = nanos / 3;
                    self.batch = self.batch.min(timed(part, BATCH as f64, || {
                        once.run_batch(bufs, &mut verdicts);
                    }));
                    self.single = self.single.min(timed(part, BATCH as f64, || {
                        for _ in 0..BATCH {
                            verdicts[0] = once.run_one(&mut bufs[0]);
                        }
                    }));
                    if let Some(many) = many {
                        self.many = self.many.min(timed(part, 1.0, || {
                            verdicts[0] = many.run_one(&mut bufs[0]);
                        }));
                    }
                    std::hint::black_box(&verdicts);
                });
            }
        }
        Ok(())
    }
}

/// Repeats `section` for about `nanos` and gives the nanoseconds of one of its `units`.
fn timed(nanos: u64, units: f64, mut section: impl FnMut()) -> f64 {
    let mut turns = 1u64;
    loop {
        let begun = clock::cpu_nanos();
        for _ in 0..turns {
            section();
        }
        let took = clock::cpu_nanos() - begun;
        // Reading the clock costs hundreds of nanoseconds.
        if took > nanos.min(300_000) / 2 {
            return took as f64 / turns as f64 / units;
        }
        turns *= 2;
    }
}

/// Buffers with a frame in each.
struct Frames {
    memory: Vec<u8>,
    len: usize,
}

impl Frames {
    fn new(count: usize, frame: &[u8]) -> Frames {
        let mut memory = vec![0; count.max(1) * BUFFER];
        for buffer in memory.chunks_exact_mut(BUFFER) {
            buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        }
        Frames {
            memory,
            len: frame.len(),
        }
    }

    /// All of them, as programs see them.
    fn bufs(&mut self, f: impl FnOnce(&mut [XdpBuff<'_>])) {
        let len = self.len;
        let mut bufs: Vec<_> = self
            .memory
            .chunks_exact_mut(BUFFER)
            .map(|buffer| XdpBuff::new(buffer, HEADROOM, len, 0, &cases::WRITE_BACK))
            .collect();
        f(&mut bufs);
    }

    /// Goes through all frames twice; gives the nanoseconds a frame of the faster pass.
    fn pass(&mut self, instance: &mut Instance, batch: bool) -> f64 {
        let mut best = f64::INFINITY;
        self.bufs(|bufs| {
            let mut verdicts = [Verdict::default(); BATCH];
            for _ in 0..2 {
                let begun = clock::cpu_nanos();
                for some in bufs.chunks_mut(BATCH) {
                    if batch {
                        instance.run_batch(some, &mut verdicts);
                    } else {
                        for (buf, verdict) in some.iter_mut().zip(&mut verdicts) {
                            *verdict = instance.run_one(buf);
                        }
                    }
                }
                best = best.min((clock::cpu_nanos() - begun) as f64 / bufs.len() as f64);
            }
            std::hint::black_box(&verdicts);
        });
        best
    }
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
