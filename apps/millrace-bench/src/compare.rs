//! `millrace-bench compare`: two reports of the same bench, row by row, with their noise in mind.

use crate::BenchError;
use crate::html;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Instructions are counted: they differ when they differ by more than rounding.
const INSTRUCTION_NOISE_PERCENT: f64 = 0.5;
/// Two runs of one program on a quiet machine still differ by so much in time.
const LEAST_TIME_NOISE_PERCENT: f64 = 3.0;

/// What can be asked of `compare`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The earlier report, made with --json
    pub before: PathBuf,
    /// The later one
    pub after: PathBuf,
    /// Also write both as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// A measured column.
struct Column {
    /// Its name in the report.
    key: &'static str,
    heading: &'static str,
    /// Its spread is in the row.
    timed: bool,
    more_is_better: bool,
}

const COLUMNS: [Column; 6] = [
    Column {
        key: "cycles_per_packet",
        heading: "cycles/p",
        timed: true,
        more_is_better: false,
    },
    Column {
        key: "instructions_per_packet",
        heading: "instr/p",
        timed: false,
        more_is_better: false,
    },
    Column {
        key: "mpps",
        heading: "Mpps",
        timed: true,
        more_is_better: true,
    },
    Column {
        key: "ns",
        heading: "ns/run",
        timed: true,
        more_is_better: false,
    },
    Column {
        key: "side_by_side",
        heading: "cycles",
        timed: true,
        more_is_better: false,
    },
    Column {
        key: "buffers",
        heading: "a buffer",
        timed: true,
        more_is_better: false,
    },
];
/// The noise of a time that stands without its spread: the best of many, which still is another one in another minute.
const UNKNOWN_NOISE_PERCENT: f64 = 10.0;
/// What does not say which row it is, being measured or told about the measurement: these, and whatever has a fraction but for a
/// [load](A_LOAD).
const NOT_A_NAME: [&str; 22] = [
    "rounds",
    "quick_cycles",
    "saved_cycles",
    "cycles_per_packet",
    "instructions_per_packet",
    "vs_floor",
    "spread_percent",
    "nanoseconds_per_packet",
    "pps",
    "about",
    "breakdown",
    "mpps",
    "line_gbps",
    "speedup",
    "loss_percent",
    "burst_frames",
    "p50_us",
    "p90_us",
    "p99_us",
    "p99.9_us",
    "max_us",
    "delays",
];

/// Has a fraction and still says which row it is.
const A_LOAD: &str = "load_percent";

/// The order in which fields are told; others follow by name.
const ORDER: [&str; 32] = [
    "family",
    "code",
    "left_out",
    "test",
    "scenario",
    "case",
    "program",
    "engine",
    "sharing",
    "workers",
    "size",
    "load_percent",
    "burst",
    "ring",
    "state",
    "metadata",
    "path",
    "mpps",
    "speedup",
    "cycles_per_packet",
    "quick_cycles",
    "saved_cycles",
    "instructions_per_packet",
    "vs_floor",
    "line_gbps",
    "loss_percent",
    "burst_frames",
    "p50_us",
    "p90_us",
    "p99_us",
    "p99.9_us",
    "max_us",
];

/// The fields of a row, in the order in which a person reads them.
pub fn fields(row: &Value) -> Vec<(&str, &Value)> {
    let mut fields: Vec<_> = row
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    fields.sort_by_key(|(key, _)| ORDER.iter().position(|known| known == key).unwrap_or(ORDER.len()));
    fields
}

/// How one value of a row changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row, in the words of its fields.
    pub row: String,
    /// Heading of the column.
    pub column: &'static str,
    pub before: f64,
    pub after: f64,
    /// Changes up to this many percent mean nothing.
    pub noise_percent: f64,
    /// A rise is good.
    pub more_is_better: bool,
}

impl Change {
    /// By how many percent the value rose.
    pub fn percent(&self) -> f64 {
        (self.after / self.before - 1.0) * 100.0
    }

    /// `same`, `better` or `worse`.
    pub fn verdict(&self) -> &'static str {
        match self.percent() {
            p if p.abs() <= self.noise_percent => "same",
            p if (p > 0.0) == self.more_is_better => "better",
            _ => "worse",
        }
    }
}

/// Runs the comparison and prints it.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    if before["bench"] != after["bench"] {
        return Err(BenchError::NotComparable {
            what: format!(
                "they are of different benches, {} and {}",
                before["bench"], after["bench"]
            ),
        });
    }
    if before["machine"]["cpu"] != after["machine"]["cpu"] {
        println!(
            "different processors: {} and {}; only instructions can be compared\n",
            before["machine"]["cpu"], after["machine"]["cpu"]
        );
    }
    let changes = changes(&before, &after);
    if changes.is_empty() {
        return Err(BenchError::NotComparable {
            what: "they have no row in common".to_owned(),
        });
    }
    println!(
        "{:<58} {:<8} {:>9} {:>9} {:>8} {:>8}  verdict",
        "row", "", "before", "after", "change", "noise"
    );
    for change in &changes {
        println!(
            "{:<58} {:<8} {:>9.1} {:>9.1} {:>+7.1}% {:>7.1}%  {}",
            change.row,
            change.column,
            change.before,
            change.after,
            change.percent(),
            change.noise_percent,
            change.verdict()
        );
    }
    let of = |verdict| {
        changes
            .iter()
            .filter(|change| change.verdict() == verdict)
            .count()
    };
    println!(
        "\n{} better, {} worse, {} the same within noise",
        of("better"),
        of("worse"),
        of("same")
    );
    if let Some(file) = &args.html {
        html::write(file, &after, Some(&before))?;
    }
    Ok(())
}

/// A report from its file.
pub fn read(path: &Path) -> Result<Value, BenchError> {
    let text = std::fs::read_to_string(path).map_err(|source| BenchError::File {
        path: path.to_owned(),
        source,
    })?;
    let report: Value = serde_json::from_str(&text).map_err(|source| BenchError::BadFile {
        path: path.to_owned(),
        source,
    })?;
    if report["rows"].is_array() && report["bench"].is_string() {
        Ok(report)
    } else {
        Err(BenchError::NotComparable {
            what: format!(
                "{} is no report: it has no \"bench\" or no \"rows\"",
                path.display()
            ),
        })
    }
}

/// The row in the words of its fields.
fn name(row: &Value) -> String {
    let words = fields(row)
        .into_iter()
        .filter(|(key, value)| {
            !NOT_A_NAME.contains(key) && !value.is_null() && (!value.is_f64() || *key == A_LOAD)
        })
        .map(|(key, value)| match value {
            Value::String(text) => text.clone(),
            other => format!("{key} {other}"),
        });
    words.collect::<Vec<_>>().join(", ")
}

/// What changed between the rows that both have.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let rows = |report: &Value| report["rows"].as_array().cloned().unwrap_or_default();
    let old = rows(before);
    let mut changes = Vec::new();
    for row in rows(after) {
        let words = name(&row);
        let Some(earlier) = old.iter().find(|old| name(old) == words) else {
            continue;
        };
        for column in &COLUMNS {
            let of = |row: &Value| row[column.key].as_f64();
            let (Some(before), Some(after)) = (of(earlier), of(&row)) else {
                continue;
            };
            let noise_percent = if column.timed {
                let spread = |row: &Value| row["spread_percent"].as_f64().unwrap_or(UNKNOWN_NOISE_PERCENT);
                spread(earlier).hypot(spread(&row)).max(LEAST_TIME_NOISE_PERCENT)
            } else {
                INSTRUCTION_NOISE_PERCENT
            };
            changes.push(Change {
                row: words.clone(),
                column: column.heading,
                before,
                after,
                noise_percent,
                more_is_better: column.more_is_better,
            });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(cycles: f64, instructions: f64, spread: f64) -> Value {
        json!({"bench": "path", "rows": [{
            "family": "ixgbe", "burst": 32, "cycles_per_packet": cycles,
            "instructions_per_packet": instructions, "spread_percent": spread,
        }]})
    }

    fn verdicts(before: &Value, after: &Value) -> Vec<&'static str> {
        changes(before, after).iter().map(Change::verdict).collect()
    }

    #[test]
    fn a_change_within_the_spread_of_both_runs_is_none() {
        let (a, b) = (report(20.0, 100.0, 6.0), report(21.5, 100.2, 6.0));
        assert_eq!(verdicts(&a, &b), ["same", "same"]);
        assert_eq!(changes(&a, &b)[0].row, "ixgbe, burst 32");
    }

    #[test]
    fn a_change_beyond_it_is_told_with_its_direction() {
        let (a, b) = (report(20.0, 100.0, 1.0), report(16.0, 103.0, 1.0));
        assert_eq!(verdicts(&a, &b), ["better", "worse"]);
    }

    #[test]
    fn a_higher_rate_is_better() {
        let report = |mpps: f64| json!({"rows": [{"test": "throughput", "size": 64, "mpps": mpps, "spread_percent": 1.0}]});
        assert_eq!(verdicts(&report(4.0), &report(5.0)), ["better"]);
        assert_eq!(changes(&report(4.0), &report(5.0))[0].row, "throughput, size 64");
    }

    #[test]
    fn programs_and_loads_are_compared_by_their_own_columns() {
        let programs = |ns: f64| {
            let row = json!({"case": "swap", "engine": "jit", "ns": ns, "rounds": ns as u64, "vs_kernel": ns, "cold_ns": null});
            json!({"bench": "ebpf", "rows": [row]})
        };
        assert_eq!(verdicts(&programs(10.0), &programs(5.0)), ["better"]);
        assert_eq!(changes(&programs(10.0), &programs(10.5))[0].row, "swap, jit");
        assert_eq!(verdicts(&programs(10.0), &programs(10.5)), ["same"]);
        let memory = |cycles: f64| json!({"rows": [{"lines": 256, "kib": 16, "side_by_side": cycles, "buffers": cycles, "buffers_on_large_pages": null}]});
        assert_eq!(verdicts(&memory(5.0), &memory(10.0)), ["worse", "worse"]);
        assert_eq!(changes(&memory(5.0), &memory(10.0))[0].row, "kib 16, lines 256");
    }

    #[test]
    fn rows_are_matched_by_their_names_not_their_places() {
        let mut other = report(1.0, 1.0, 1.0);
        other["rows"][0]["burst"] = json!(8);
        assert_eq!(changes(&report(1.0, 1.0, 1.0), &other), []);
    }
}
