//! What a bench prints: rows of numbers, where they come from, and on which machine.

use crate::{BenchError, html};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::Path;

/// A row that can be printed as a line of a table.
pub trait Line: Serialize {
    /// The columns' names.
    fn header() -> String;
    /// The row under them.
    fn line(&self) -> String;
}

/// What the sections of a row have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median of all sections.
    pub median: f64,
    /// The middle 80 % of the sections lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
}

impl Summary {
    /// Of one value a section.
    pub fn of(samples: &[f64]) -> Summary {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            sorted
                .get((sorted.len() as f64 * share) as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        let (low, median, high) = (at(0.1), at(0.5), at(0.9));
        Summary {
            median,
            spread_percent: round((high - low) / 2.0 / median * 100.0),
        }
    }
}

/// One case on one engine.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: &'static str,
    /// The same in a few words.
    pub about: &'static str,
    /// `interp`, `jit`, `rbpf`, or `none` without a program.
    pub engine: &'static str,
    /// Packets a second that one core could do if it did nothing else.
    pub pps: u64,
    /// Core cycles a packet; see the report's notes.
    pub cycles_per_packet: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
    /// CPU time a packet: the median of all sections.
    pub nanoseconds_per_packet: f64,
    /// The middle 80 % of the sections lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
}

impl Row {
    /// From the CPU nanoseconds a packet of each timed section.
    pub fn new(
        case: &'static str,
        about: &'static str,
        engine: &'static str,
        samples: &[f64],
        gigahertz: f64,
        instructions: Option<f64>,
    ) -> Row {
        let Summary {
            median,
            spread_percent,
        } = Summary::of(samples);
        Row {
            case,
            about,
            engine,
            pps: (1e9 / median) as u64,
            cycles_per_packet: round(median * gigahertz),
            instructions_per_packet: instructions.map(round),
            nanoseconds_per_packet: round(median),
            spread_percent,
        }
    }
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<20} {:<7} {:>12} {:>11} {:>12} {:>9}  ",
            "case", "engine", "packets/s", "cycles/p", "instr/p", "+-%"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<20} {:<7} {:>12} {:>11.1} {:>12} {:>9.1}  {}",
            self.case,
            self.engine,
            self.pps,
            self.cycles_per_packet,
            or_dash(self.instructions_per_packet),
            self.spread_percent,
            self.about
        )
    }
}

/// To one decimal, which is more than these numbers repeat.
pub fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A number of a table that may not have been measured.
pub fn or_dash(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// The bar of one row, over its nanoseconds.
pub fn progress(prefix: String, nanos: u64) -> ProgressBar {
    let bar = ProgressBar::new(nanos);
    if let Ok(style) = ProgressStyle::with_template("{prefix:32} {wide_bar} {msg:24}") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix);
    bar
}

/// The bar of a bench of `steps` parts.
pub fn steps(prefix: &str, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{prefix:32} {wide_bar} {pos}/{len} {msg:24}") {
        bar.set_style(style);
    }
    bar.set_prefix(prefix.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// A machine in a few words.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: usize,
    /// Measured core frequency.
    pub gigahertz: f64,
    /// Kernel release.
    pub kernel: String,
}

/// The machine this runs on.
pub fn machine() -> Machine {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = info.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(": ")
            .map(|(_, name)| name)
    });
    Machine {
        cpu: cpu.unwrap_or("unknown").to_owned(),
        cpus: crate::clock::cpus(),
        gigahertz: (crate::clock::gigahertz() * 100.0).round() / 100.0,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    }
}

/// All of a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Report<R> {
    /// Its name.
    pub bench: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// How to read the numbers.
    pub notes: Vec<String>,
    /// The numbers.
    pub rows: Vec<R>,
}

impl<R: Line> Report<R> {
    /// The report as one HTML file, if one was asked for.
    pub fn write_html(&self, file: Option<&Path>) -> Result<(), BenchError> {
        match file {
            Some(file) => html::write(file, &serde_json::to_value(self).map_err(BenchError::Json)?, None),
            None => Ok(()),
        }
    }

    /// One line of JSON, or a table.
    pub fn print(&self, json: bool) -> Result<(), BenchError> {
        if json {
            println!("{}", serde_json::to_string(self).map_err(BenchError::Json)?);
            return Ok(());
        }
        let Machine {
            cpu,
            cpus,
            gigahertz,
            kernel,
        } = &self.machine;
        println!(
            "{}: {cpu}, {gigahertz} GHz, {cpus} CPUs, Linux {kernel}\n",
            self.bench
        );
        println!("{}", R::header());
        for row in &self.rows {
            println!("{}", row.line());
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_and_the_middle_of_its_sections() {
        let samples: Vec<f64> = (0..100)
            .map(|i| 50.0 + f64::from(i) / 10.0)
            .chain([1e9])
            .collect();
        let row = Row::new("c", "", "interp", &samples, 2.0, Some(100.04));
        assert_eq!((row.nanoseconds_per_packet, row.cycles_per_packet), (55.0, 110.0));
        assert_eq!(row.pps, 18_181_818);
        assert_eq!(row.instructions_per_packet, Some(100.0));
        assert!(
            row.spread_percent > 6.0 && row.spread_percent < 8.0,
            "{}",
            row.spread_percent
        );
    }

    #[test]
    fn json_has_the_agreed_names() {
        let rows = vec![Row::new("c", "", "none", &[10.0], 3.0, None)];
        let report = Report {
            bench: "lb",
            machine: machine(),
            notes: vec![],
            rows,
        };
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["bench"], "lb");
        for key in [
            "case",
            "engine",
            "pps",
            "cycles_per_packet",
            "instructions_per_packet",
        ] {
            assert!(value["rows"][0].get(key).is_some(), "{key}");
        }
    }
}
