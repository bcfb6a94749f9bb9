//! Instructions a packet that were committed, and whether they have risen.
//!
//! Counts repeat, so a rise is a change of the code; but another compiler makes other code. A baseline therefore has one
//! table for each compiler and profile, and what has none is not judged, except by the limits, which hold for all.

use super::Row;
use crate::BenchError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// More than this many percent above the baseline fails.
const RISE_PERCENT: f64 = 3.0;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Baseline {
    /// Most instructions a packet of an optimised build, whatever the compiler, by case.
    pub limits: BTreeMap<String, f64>,
    /// Instructions a packet by compiler and profile, and by case.
    pub counts: BTreeMap<String, BTreeMap<String, f64>>,
}

/// The compiler and profile of this build.
pub fn build() -> String {
    format!(
        "{}, {}",
        env!("MILLRACE_BENCH_RUSTC"),
        env!("MILLRACE_BENCH_PROFILE")
    )
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What is too much, one case a line.
    pub failures: Vec<String>,
    /// What could not be judged, or has become better.
    pub remarks: Vec<String>,
}

impl Baseline {
    pub fn read(path: &Path) -> Result<Baseline, BenchError> {
        let text = std::fs::read_to_string(path).map_err(|source| BenchError::File {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| BenchError::BadFile {
            path: path.to_owned(),
            source,
        })
    }

    /// Replaces this build's counts in the file by those of `rows`; the rest of the file stays.
    pub fn update(path: &Path, rows: &[Row]) -> Result<(), BenchError> {
        let mut baseline = if path.exists() {
            Baseline::read(path)?
        } else {
            Baseline::default()
        };
        let counts = rows
            .iter()
            .filter_map(|row| Some((row.key.clone(), row.instructions_per_packet?)))
            .collect();
        baseline.counts.insert(build(), counts);
        let mut text = serde_json::to_string_pretty(&baseline).map_err(BenchError::Json)?;
        text.push('\n');
        std::fs::write(path, text).map_err(|source| BenchError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// Whether there is anything to compare a build with.
    pub fn knows(&self, build: &str) -> bool {
        self.counts.contains_key(build)
    }

    /// Judges counts of a build, each with its case.
    pub fn judge<'a>(
        &self,
        build: &str,
        optimised: bool,
        counts: impl Iterator<Item = (&'a str, f64)>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let known = self.counts.get(build);
        for (case, count) in counts {
            if let Some(limit) = self.limits.get(case)
                && optimised
            {
                if count > *limit {
                    verdict.failures.push(format!(
                        "{case}: {count} instructions a packet, at most {limit} are allowed"
                    ));
                } else {
                    verdict.remarks.push(format!(
                        "{case}: {count} instructions a packet, at most {limit} are allowed: held"
                    ));
                }
            }
            let Some(known) = known else { continue };
            match known.get(case) {
                None => verdict
                    .remarks
                    .push(format!("{case}: not in the baseline; `make baseline` adds it")),
                Some(before) if count > before * (1.0 + RISE_PERCENT / 100.0) => {
                    verdict.failures.push(format!(
                        "{case}: {count} instructions a packet, {:.1} % above the baseline of {before}",
                        (count / before - 1.0) * 100.0
                    ));
                }
                Some(before) if count < before * (1.0 - RISE_PERCENT / 100.0) => {
                    verdict.remarks.push(format!(
                        "{case}: {count} instructions a packet, fewer than the baseline of {before}; `make baseline` keeps that"
                    ));
                }
                Some(_) => (),
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let counts = [("a".to_owned(), 100.0)].into();
        Baseline {
            limits: [("a".to_owned(), 120.0)].into(),
            counts: [("this".to_owned(), counts)].into(),
        }
    }

    fn judge(build: &str, optimised: bool, case: &str, count: f64) -> Verdict {
        baseline().judge(build, optimised, [(case, count)].into_iter())
    }

    #[test]
    fn a_rise_of_more_than_three_percent_fails_and_names_the_case() {
        assert_eq!(judge("this", true, "a", 103.0).failures, Vec::<String>::new());
        let verdict = judge("this", true, "a", 103.1);
        assert_eq!(verdict.failures.len(), 1);
        assert!(verdict.failures[0].starts_with("a: "), "{verdict:?}");
    }

    #[test]
    fn a_limit_holds_for_every_optimised_build() {
        assert_eq!(judge("other", true, "a", 120.5).failures.len(), 1);
        assert_eq!(judge("other", false, "a", 500.0).failures.len(), 0);
    }

    #[test]
    fn what_the_baseline_does_not_know_is_said() {
        assert!(baseline().knows("this") && !baseline().knows("other"));
        assert!(judge("this", true, "b", 1.0).remarks[0].contains("make baseline"));
    }
}
