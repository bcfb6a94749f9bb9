//! `millrace-bench wire`: two ports with a cable between, measured as RFC 2544 asks for.
//!
//! One port sends, the other receives; one thread does both. By default both ports are models of an 82599 in this process,
//! stepped by one other thread: what is measured then is our driver on one core and the models on another. Named ports
//! (`vfio:0000:17:00.0 vfio:0000:17:00.1`) are measured as they are, with whatever lies between them.

mod model;
mod pace;
mod ports;
mod row;
mod search;
mod trial;

use crate::report::{self, Report, round};
use crate::{BenchError, clock};
use clap::ValueEnum;
use indicatif::ProgressBar;
use ports::Ports;
use row::Row;
use search::Tried;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use trial::{FCS, Load, Outcome};

/// Frame sizes measured by default; RFC 2544 (9.1) has more.
const SIZES: [u16; 3] = [64, 512, 1518];
/// Shares of the throughput at which delays are measured, in percent.
const LATENCY_LOADS: [f64; 3] = [10.0, 50.0, 90.0];
/// A sender that reaches less than this share of a rate has not offered it.
const OFFERED: f64 = 0.98;
/// Fewest frames of a trial.
const LEAST_FRAMES: u64 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Test {
    /// The highest rate at which no frame is lost (RFC 2544, 26.1), by binary search
    Throughput,
    /// One-way delay at 10, 50 and 90 % of that rate, from one clock (RFC 2544, 26.2)
    Latency,
    /// Frames lost at 100, 90, 80 ... % of the highest rate, until two rates in a row lose none (RFC 2544, 26.3)
    Loss,
    /// The longest burst at the highest rate of which no frame is lost (RFC 2544, 26.4)
    BackToBack,
    /// The models alone: what one core of them moves, timed between the driver's turns (models only)
    Model,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Test::Throughput => "throughput",
            Test::Latency => "latency",
            Test::Loss => "loss",
            Test::BackToBack => "back_to_back",
            Test::Model => "model",
        })
    }
}

/// What can be asked of `wire`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
EXAMPLES
  millrace-bench wire                                        two 82599 models in this process
  millrace-bench wire vfio:0000:17:00.0 vfio:0000:17:00.1    two real ports, joined by a cable
  millrace-bench wire --test throughput --size 64 --millis 60000 --tries 1 A B
                                                             a throughput test as long as RFC 2544 wants it
  millrace-bench wire --html wire.html                       the same with plots

READING IT
  throughput is the highest rate without loss: a rate passes when every frame arrives, and when the sender really got
  rid of that rate. On a machine that does other work too, an interruption of some milliseconds overruns a real port's ring
  and fails a trial; --tries lets a rate pass if one of several trials does. Models wait for a driver that the system has
  stopped, and the driver for them; that time does not count. Delays are from the moment a burst is handed to
  the driver to the moment a poll brings the frame, both read from one clock: they hold the time in both rings.")]
pub struct Args {
    /// The sending and the receiving port: vfio:BDF, vfio-user:PATH or model:...; two models joined in memory by default
    #[arg(value_name = "PORT", num_args = 2)]
    pub ports: Vec<String>,
    /// What to measure (may be given several times); everything by default
    #[arg(long = "test", value_name = "NAME")]
    pub tests: Vec<Test>,
    /// Bytes of a frame, FCS included, 64 to 1518 (may be given several times); 64, 512 and 1518 by default
    #[arg(long = "size", value_name = "BYTES", value_parser = clap::value_parser!(u16).range(64..=1518))]
    pub sizes: Vec<u16>,
    /// Milliseconds of one trial; RFC 2544 asks for 60000
    #[arg(long, default_value_t = 500, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// A rate has passed if one of so many trials has
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub tries: u32,
    /// How fine the searches are, in percent of the highest rate
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT", value_parser = percent)]
    pub resolution: f64,
    /// Descriptors of each ring
    #[arg(long, default_value = "1024", value_name = "N", value_parser = ring)]
    pub ring: u16,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Also write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.01..=50.0).contains(&value) => Ok(value),
        _ => Err("0.01 to 50".to_owned()),
    }
}

fn ring(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if (64..=4096).contains(&size) && size.is_power_of_two() => Ok(size),
        _ => Err("a ring has 64, 128, 256, 512, 1024, 2048 or 4096 descriptors".to_owned()),
    }
}

/// Runs the bench and prints the report.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let (mut ports, what) = match &args.ports[..] {
        [from, to] => (Ports::named(from, to, args.ring)?, format!("{from} to {to}")),
        _ => (
            Ports::models(args.ring)?,
            "two 82599 models in this process, on the local bus with mapped doorbells, stepped by one thread"
                .to_owned(),
        ),
    };
    let on_models = ports.model_pair().is_some();
    let mut tests = args.tests.clone();
    if tests.is_empty() {
        tests = Test::value_variants().to_vec();
        tests.retain(|test| on_models || *test != Test::Model);
    } else if tests.contains(&Test::Model) && !on_models {
        return Err(BenchError::OnlyModels);
    }
    let sizes = if args.sizes.is_empty() {
        &SIZES[..]
    } else {
        &args.sizes
    };
    let bar = report::steps("wire", (sizes.len() * tests.len()) as u64);
    let mut rows = Vec::new();
    for size in sizes {
        let mut bench = Bench {
            args,
            ports: &mut ports,
            size: *size,
            bar: &bar,
            highest: None,
            throughput: None,
            stopped: Vec::new(),
        };
        for test in &tests {
            bench.bar.set_prefix(format!("{test}, {size} bytes"));
            rows.extend(bench.test(*test)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let report = Report {
        bench: "wire",
        machine,
        notes: notes(args, what, on_models, ports.models_cpu()),
        rows,
    };
    report.write_html(args.html.as_deref())?;
    report.print(args.json)
}

fn notes(args: &Args, what: String, on_models: bool, models_cpu: Option<usize>) -> Vec<String> {
    let mut notes = vec![
        format!("ports: {what}"),
        format!(
            "trials of {} ms; a rate passes if one of {} trials at it loses nothing; searches end at {} % of the highest rate",
            args.millis, args.tries, args.resolution
        ),
        "one thread sends and receives, bursts of up to 32; delays are from a burst's hand-over to the driver to the poll \
         that brings the frame, by one clock"
            .to_owned(),
    ];
    if on_models {
        notes.push(
            "a model has no line: 100 % is what the sender gets rid of flat out. Driver and models share memory and caches, and \
             there is no PCIe, so this says what a test on models can carry, not what a NIC does"
                .to_owned(),
        );
        notes.push(match models_cpu {
            Some(cpu) => format!(
                "driver on processor {}, models on processor {cpu}, each thread kept there; time in which the system had stopped \
                 one of them is on no clock here, and its share is told with the rows",
                clock::this_cpu()
            ),
            None => "there is one processor only: driver and models take turns on it, and rates are of both together".to_owned(),
        });
    } else {
        notes.push(
            "100 % is the line's rate, or what the sender gets rid of flat out if that is less".to_owned(),
        );
    }
    notes
}

/// The tests of one frame size.
struct Bench<'a> {
    args: &'a Args,
    ports: &'a mut Ports,
    size: u16,
    bar: &'a ProgressBar,
    /// The highest rate that can be offered, once it is known.
    highest: Option<f64>,
    throughput: Option<f64>,
    /// Of each trial, the share of time in which a thread was stopped, in percent.
    stopped: Vec<f64>,
}

impl Bench<'_> {
    fn test(&mut self, test: Test) -> Result<Vec<Row>, BenchError> {
        match test {
            Test::Throughput => {
                let pps = self.throughput()?;
                let mut row = Row::new(test, self.size, pps);
                row.spread_percent = self.args.resolution;
                let trials = self.stopped.len().max(1) as f64;
                let stopped = self.stopped.iter().sum::<f64>() / trials;
                row.about = format!(
                    "of {:.3} Mpps offered flat out{}",
                    self.highest()? / 1e6,
                    stops("; ", stopped)
                );
                Ok(vec![row])
            }
            Test::Latency => self.latency(),
            Test::Loss => self.loss(),
            Test::BackToBack => Ok(vec![self.back_to_back()?]),
            Test::Model => Ok(vec![self.model()?]),
        }
    }

    /// A trial at a rate, as long as trials are.
    fn trial(&mut self, rate: Option<f64>, expected: f64, timed: bool) -> Result<Outcome, BenchError> {
        let frames = ((expected * self.args.millis as f64 / 1e3) as u64).max(LEAST_FRAMES);
        self.frames(frames, rate, timed)
    }

    fn frames(&mut self, frames: u64, rate: Option<f64>, timed: bool) -> Result<Outcome, BenchError> {
        let load = Load {
            size: self.size,
            frames,
            rate,
        };
        match rate {
            Some(rate) => self.bar.set_message(format!("{:.3} Mpps", rate / 1e6)),
            None => self.bar.set_message(format!("{frames} flat out")),
        }
        let outcome = trial::run(self.ports, load, timed)?;
        self.stopped.push(outcome.stopped_percent);
        Ok(outcome)
    }

    /// The highest rate: the line's, or what the sender gets rid of.
    fn highest(&mut self) -> Result<f64, BenchError> {
        if let Some(known) = self.highest {
            return Ok(known);
        }
        // A short one first, to know how many frames make a trial.
        let rough = self.frames(20_000, None, false)?.offered_pps();
        let mut highest = self.trial(None, rough, false)?.offered_pps();
        if let Some(line) = self.ports.line_pps(self.size)? {
            highest = highest.min(line);
        }
        self.highest = Some(highest);
        Ok(highest)
    }

    fn throughput(&mut self) -> Result<f64, BenchError> {
        if let Some(known) = self.throughput {
            return Ok(known);
        }
        let highest = self.highest()?;
        let found = search::highest(highest, self.args.resolution / 100.0, |rate| {
            let mut best: Option<Tried> = None;
            for _ in 0..self.args.tries {
                let outcome = self.trial(Some(rate), rate, false)?;
                let offered = outcome.offered_pps() >= OFFERED * rate;
                let carried = outcome.received_pps().min(rate);
                let tried = Tried {
                    passed: outcome.lost() == 0 && offered,
                    carried,
                };
                if best.is_none_or(|best| tried.carried > best.carried) || tried.passed {
                    best = Some(tried);
                }
                if tried.passed {
                    break;
                }
            }
            Ok::<_, BenchError>(best.unwrap_or(Tried {
                passed: false,
                carried: 0.0,
            }))
        })?;
        self.throughput = Some(found);
        Ok(found)
    }

    fn latency(&mut self) -> Result<Vec<Row>, BenchError> {
        let (highest, throughput) = (self.highest()?, self.throughput()?);
        // Delays can be told of a line that loses frames at every rate, too.
        let (whole, of) = match throughput > 0.0 {
            true => (throughput, ""),
            false => (
                highest / 10.0,
                "no rate passed; load is of a tenth of the highest; ",
            ),
        };
        let mut rows = Vec::new();
        for load in LATENCY_LOADS {
            let rate = whole * load / 100.0;
            let outcome = self.trial(Some(rate), rate, true)?;
            let at = |share: f64| Some(micros(outcome.delays.value_at_quantile(share)));
            let mut row = Row::new(Test::Latency, self.size, outcome.received_pps());
            row.load_percent = Some(load);
            row.loss_percent = Some(outcome.loss_percent());
            (row.p50_us, row.p90_us) = (at(0.5), at(0.9));
            (row.p99_us, row.p999_us) = (at(0.99), at(0.999));
            row.max_us = Some(micros(outcome.delays.max()));
            row.delays = distribution(&outcome);
            row.about = of.to_owned() + &stops("", outcome.stopped_percent);
            if outcome.reordered > 0 {
                row.about.push_str(&format!(" {} reordered", outcome.reordered));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn loss(&mut self) -> Result<Vec<Row>, BenchError> {
        let highest = self.highest()?;
        let (mut rows, mut clean) = (Vec::new(), 0);
        for tenth in (1..=10).rev() {
            let load = f64::from(tenth) * 10.0;
            let rate = highest * load / 100.0;
            let outcome = self.trial(Some(rate), rate, false)?;
            clean = if outcome.lost() == 0 { clean + 1 } else { 0 };
            let mut row = Row::new(Test::Loss, self.size, outcome.received_pps());
            row.load_percent = Some(load);
            row.loss_percent = Some((outcome.loss_percent() * 1e4).round() / 1e4);
            row.about = stops("", outcome.stopped_percent);
            rows.push(row);
            if clean == 2 {
                break;
            }
        }
        Ok(rows)
    }

    fn back_to_back(&mut self) -> Result<Row, BenchError> {
        let highest = self.highest()?;
        // RFC 2544 wants bursts of up to two seconds; here it is what a trial lasts.
        let most = (highest * self.args.millis as f64 / 1e3).max(LEAST_FRAMES as f64);
        let found = search::highest(most, self.args.resolution / 100.0, |frames| {
            let mut carried = 0;
            for _ in 0..self.args.tries {
                let outcome = self.frames(frames as u64, None, false)?;
                carried = carried.max(outcome.received);
                if outcome.lost() == 0 {
                    return Ok::<_, BenchError>(Tried {
                        passed: true,
                        carried: frames,
                    });
                }
            }
            Ok(Tried {
                passed: false,
                carried: carried as f64,
            })
        })?;
        let mut row = Row::new(Test::BackToBack, self.size, highest);
        row.burst_frames = Some(found as u64);
        if found >= most {
            row.about = "the longest burst tried: nothing was lost".to_owned();
        }
        Ok(row)
    }

    fn model(&mut self) -> Result<Row, BenchError> {
        self.bar.set_message("models in turns with the driver");
        let gigahertz = clock::gigahertz();
        let measured = model::measure(self.ports, self.size, self.args.millis)?;
        let nanos = measured.nanos;
        let mut row = Row::new(Test::Model, self.size, 1e9 / nanos.median);
        row.spread_percent = nanos.spread_percent;
        row.instructions_per_packet = measured.instructions.map(round);
        row.about = format!(
            "one core of models, {:.0} cycles and {} instructions a frame sent and received; the driver's turns between are not timed",
            nanos.median * gigahertz,
            measured
                .instructions
                .map_or("unknown".to_owned(), |count| format!("{count:.0}"))
        );
        Ok(row)
    }
}

/// What the system has kept from a trial, if it is worth telling.
fn stops(before: &str, percent: f64) -> String {
    if percent < 0.5 {
        return String::new();
    }
    format!("{before}a thread was stopped for {percent:.0} % of the time, not counted")
}

fn micros(nanos: u64) -> f64 {
    round(nanos as f64 / 1e3)
}

/// Delays at shares that a plot needs: the tail gets as many points as the rest.
fn distribution(outcome: &Outcome) -> Vec<(f64, f64)> {
    if outcome.delays.is_empty() {
        return Vec::new();
    }
    let mut points = Vec::new();
    let mut rest = 1.0;
    while rest > 1e-4 {
        for part in [1.0, 0.7, 0.5, 0.35, 0.2, 0.14] {
            let share = 1.0 - rest * part;
            points.push((share, micros(outcome.delays.value_at_quantile(share))));
        }
        rest /= 10.0;
    }
    points.push((1.0, micros(outcome.delays.max())));
    points
}

/// The smallest size holds headers and stamp.
const _: () = assert!(64 - FCS as usize >= 14 + 20 + 8 + 16);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn rows(words: &[&str]) -> Vec<Row> {
        let args = Cli::parse_from([&["wire"], words].concat()).args;
        let mut ports = Ports::models(args.ring).unwrap();
        let bar = ProgressBar::hidden();
        let mut bench = Bench {
            args: &args,
            ports: &mut ports,
            size: args.sizes[0],
            bar: &bar,
            highest: Some(50_000.0),
            throughput: None,
            stopped: Vec::new(),
        };
        args.tests
            .iter()
            .flat_map(|test| bench.test(*test).unwrap())
            .collect()
    }

    #[test]
    fn each_test_of_rfc_2544_gives_its_rows() {
        let rows = rows(&[
            "--size",
            "64",
            "--millis",
            "5",
            "--resolution",
            "20",
            "--test",
            "throughput",
            "--test",
            "latency",
            "--test",
            "loss",
            "--test",
            "back_to_back",
        ]);
        let of = |test| rows.iter().filter(|row| row.test == test).count();
        assert_eq!(
            (of(Test::Throughput), of(Test::Latency), of(Test::BackToBack)),
            (1, 3, 1)
        );
        assert!((2..=10).contains(&of(Test::Loss)), "{rows:?}");
        for row in &rows {
            match row.test {
                Test::Latency => assert!(row.p50_us <= row.p99_us && row.p99_us <= row.max_us, "{row:?}"),
                Test::Loss => assert!(row.loss_percent.is_some(), "{row:?}"),
                Test::BackToBack => assert!(row.burst_frames.is_some(), "{row:?}"),
                Test::Throughput | Test::Model => assert!(row.mpps >= 0.0, "{row:?}"),
            }
        }
    }

    #[test]
    fn the_rate_on_the_line_counts_preamble_gap_and_fcs() {
        let row = Row::new(Test::Throughput, 64, 14_880_952.0);
        assert_eq!((row.mpps, row.line_gbps), (14.881, 10.0));
    }
}
