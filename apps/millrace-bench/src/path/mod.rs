//! `millrace-bench path`: the driver's receive and transmit path alone.
//!
//! The bench plays the NIC on descriptor rings of its own: it writes back received descriptors and takes what was sent, at
//! most half a ring a round, and only the driver's turn between is timed and counted. There is no model, no program, no
//! PCIe and no IOMMU in it.

mod forward;

use crate::report::{self, Line, Report, Summary, or_dash, round};
use crate::{BenchError, clock, step};
use forward::Forward;
use millrace_driver::harness::HarnessConfig;
use millrace_driver::mem::PageSize;
use millrace_driver::queue::BATCH;
use serde::Serialize;

/// Descriptors of each ring.
const RING: u32 = 1024;
/// Frames of one timed value, whatever the burst; the median is over such values.
const SECTION: u32 = RING / 2;
/// Frames whose instructions are counted: a whole number of refills and of transmit reports.
const COUNTED: u32 = RING / 2;
/// Bursts measured by default.
const BURSTS: [u32; 4] = [BATCH as u32, 32, 8, 1];

/// What can be asked of `path`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Frames that a poll brings, 1 to 64 (may be given several times); 64, 32, 8 and 1 by default
    #[arg(long = "burst", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=BATCH as i64))]
    pub bursts: Vec<u32>,
    /// Milliseconds of the driver's turns to measure in each row
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Do not count instructions
    #[arg(long)]
    pub no_instructions: bool,
}

/// One scenario at one burst.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Whose descriptors.
    pub family: &'static str,
    /// `forward`: receive, swap the MAC addresses, send.
    pub scenario: &'static str,
    /// Frames that a poll brings.
    pub burst: u32,
    /// Descriptors of each ring.
    pub ring: u32,
    /// Where descriptors and frames are: `warm` is this core's own caches.
    pub state: &'static str,
    /// `plain`: the raw write-back is kept and nothing is parsed out of it.
    pub metadata: &'static str,
    /// The code that ran: `scalar`.
    pub path: &'static str,
    /// Core cycles a packet; see the report's notes.
    pub cycles_per_packet: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
    /// The median of all sections.
    pub nanoseconds_per_packet: f64,
    /// The middle 80 % of the sections lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<7} {:<9} {:>5} {:>5} {:<6} {:<9} {:<7} {:>9} {:>9} {:>7}",
            "family", "scenario", "burst", "ring", "state", "metadata", "path", "cycles/p", "instr/p", "+-%"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<7} {:<9} {:>5} {:>5} {:<6} {:<9} {:<7} {:>9.1} {:>9} {:>7.1}",
            self.family,
            self.scenario,
            self.burst,
            self.ring,
            self.state,
            self.metadata,
            self.path,
            self.cycles_per_packet,
            or_dash(self.instructions_per_packet),
            self.spread_percent
        )
    }
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let bursts = if args.bursts.is_empty() {
        &BURSTS[..]
    } else {
        &args.bursts
    };
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let rows = bursts
        .iter()
        .map(|&burst| row(args, burst))
        .collect::<Result<Vec<_>, _>>()?;
    let instructions = if args.no_instructions {
        "instructions were not counted".to_owned()
    } else {
        format!("instructions: single steps over {COUNTED} frames")
    };
    let notes = vec![
        "the bench plays the NIC on the rings; only the driver's turns are timed: no PCIe, no IOMMU, no program".to_owned(),
        format!(
            "burst {BATCH}: half a ring waits and each poll takes {BATCH}; smaller bursts: that many frames wait, and one poll takes them"
        ),
        "cycles: time x core frequency, which a chain of dependent operations measures beside each row; the cost of \
         reading the clock is taken off, once a turn, so small bursts are less exact; no PMU"
            .to_owned(),
        instructions,
    ];
    Report {
        bench: "path",
        machine,
        notes,
        rows,
    }
    .print(args.json)
}

fn row(args: &Args, burst: u32) -> Result<Row, BenchError> {
    let nanos = args.millis * 1_000_000;
    let bar = report::progress(format!("forward, burst {burst}"), nanos);
    let mut turns = Turns::new(burst)?;
    // Every buffer and every slot of the rings has been touched after a few times round.
    turns.frames(8 * RING, Forward::drain)?;
    let before = clock::gigahertz();
    let samples = turns.measure(nanos, |done| bar.set_position(done))?;
    let gigahertz = before.max(clock::gigahertz());
    let instructions = if args.no_instructions {
        None
    } else {
        bar.set_message("counting instructions");
        Some(turns.instructions()?)
    };
    bar.finish_and_clear();
    let Summary {
        median,
        spread_percent,
    } = Summary::of(&samples);
    Ok(Row {
        family: "ixgbe",
        scenario: "forward",
        burst,
        ring: RING,
        state: "warm",
        metadata: "plain",
        path: "scalar",
        cycles_per_packet: round(median * gigahertz),
        instructions_per_packet: instructions.map(round),
        nanoseconds_per_packet: round(median),
        spread_percent,
    })
}

/// The driver's turns, with the NIC's between them.
struct Turns {
    forward: Forward,
    /// Frames that wait at the start of a turn.
    waiting: u32,
    /// Frames of the last turn, which the NIC has yet to send.
    last: u32,
}

impl Turns {
    fn new(burst: u32) -> Result<Turns, BenchError> {
        let forward = Forward::new(&HarnessConfig {
            rx_ring: RING,
            tx_ring: RING,
            page: PageSize::Best,
            ..HarnessConfig::default()
        })?;
        Ok(Turns {
            forward,
            waiting: if burst == BATCH as u32 { RING / 2 } else { burst },
            last: 0,
        })
    }

    /// As many turns as make at least `frames`; `turn` plays the driver. Gives the frames and the turns.
    fn frames(
        &mut self,
        frames: u32,
        mut turn: impl FnMut(&mut Forward, usize),
    ) -> Result<(u32, u32), BenchError> {
        let turns = frames.div_ceil(self.waiting);
        for _ in 0..turns {
            self.forward.supply(self.last, self.waiting)?;
            turn(&mut self.forward, self.waiting as usize);
            self.last = self.waiting;
        }
        Ok((turns * self.waiting, turns))
    }

    /// Nanoseconds a frame, one value a section, until `nanos` are used up.
    fn measure(&mut self, nanos: u64, mut progress: impl FnMut(u64)) -> Result<Vec<f64>, BenchError> {
        let cost = clock::wall_reading_cost();
        let (mut used, mut samples) = (0, Vec::new());
        while used < nanos {
            let mut spent = 0;
            let (frames, turns) = self.frames(SECTION, |forward, waiting| {
                let start = clock::wall_nanos();
                forward.drain(waiting);
                spent += clock::wall_nanos() - start;
            })?;
            used += spent.max(1);
            samples.push((spent as f64 - cost * f64::from(turns)) / f64::from(frames));
            progress(used.min(nanos));
        }
        Ok(samples)
    }

    /// Instructions a frame, by single steps.
    fn instructions(&mut self) -> Result<f64, BenchError> {
        let (mut counted, mut failure) = (0, None);
        let (frames, _) = self.frames(COUNTED, |forward, waiting| {
            match step::count(|| forward.drain(waiting)) {
                Ok(((), count)) => counted += count,
                Err(error) => failure = Some(error),
            }
        })?;
        match failure {
            Some(error) => Err(BenchError::Counting(error)),
            None => Ok(counted as f64 / f64::from(frames)),
        }
    }
}
