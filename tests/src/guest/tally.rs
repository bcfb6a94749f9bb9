//! What a run of the lab came to: one line a scenario, held against the compatibility matrix.

use super::LabError;
use super::compat::{self, Matrix};
use super::fetch::Series;
use super::qemu::Outcome;
use super::scenario::Suite;
use super::suites;

/// Counts outcomes and prints them as they come.
#[derive(Debug)]
pub struct Tally {
    /// The matrix that is judged by; `None` while it is being written.
    judge: Option<Matrix>,
    seen: Matrix,
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Judges by the committed matrix, unless that is to be written.
    pub fn new(write: bool) -> Result<Self, LabError> {
        Ok(Self {
            judge: if write { None } else { Some(Matrix::read()?) },
            seen: Matrix::of(&suites::all(&Series::ALL, true, None)),
            passed: 0,
            failed: 0,
            skipped: 0,
        })
    }

    /// A scenario was tried.
    pub fn tried(&mut self, suite: &Suite, name: &str, outcome: &Outcome) {
        self.seen.record(suite, name, outcome);
        self.report(suite, name, outcome);
    }

    /// Nothing of a suite could be tried, or the lab itself failed.
    pub fn not_run(&mut self, suite: &Suite, error: &LabError) {
        match error {
            LabError::Unavailable(reason) => {
                for scenario in &suite.scenarios {
                    self.report(suite, &scenario.name, &Outcome::Skip(reason.clone()));
                }
            }
            other => self.report(suite, "lab", &Outcome::Fail(other.to_string())),
        }
    }

    fn report(&mut self, suite: &Suite, name: &str, outcome: &Outcome) {
        let label = suite.label(name);
        let judged = match &self.judge {
            Some(matrix) => matrix.judge(suite, name, outcome),
            None => Ok(false),
        };
        match (outcome, judged) {
            (Outcome::Pass, Ok(_)) => {
                self.passed += 1;
                println!("test {label} ... ok");
            }
            (Outcome::Pass, Err(why)) => {
                self.failed += 1;
                println!("test {label} ... FAILED: it works, but {why}");
            }
            (Outcome::Fail(reason), Ok(true)) => {
                self.passed += 1;
                println!("test {label} ... fails, as docs/compat-nics.md says: {reason}");
            }
            (Outcome::Fail(reason), _) => {
                self.failed += 1;
                println!("test {label} ... FAILED: {reason}");
            }
            (Outcome::Skip(reason), _) => {
                self.skipped += 1;
                println!("SKIP {label}: {reason}");
            }
        }
    }

    /// Says what it came to, writes the matrix if that was asked for, and returns how many failed.
    pub fn finish(mut self) -> Result<u32, LabError> {
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.judge.is_none() {
            // Read only now: another lab may have written it meanwhile.
            if let Ok(before) = Matrix::read() {
                self.seen.keep(&before);
            }
            std::fs::write(compat::path(), self.seen.render()).map_err(LabError::io("writing the matrix"))?;
            println!("wrote docs/compat-nics.md");
        }
        Ok(self.failed)
    }
}
