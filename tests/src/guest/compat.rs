//! The compatibility matrix, `docs/compat-nics.md`: written from what the lab saw, and held against it on every run.

use super::LabError;
use super::qemu::Outcome;
use super::scenario::Suite;
use std::path::{Path, PathBuf};

const INTRODUCTION: &str = "# Which driver works with what

Drivers that were not written here, on the device models; and our driver on a kernel that was not written here. This file
is written by `make compat` from what the guest lab saw, and `make guest-test` fails when what it sees disagrees with it.
The kernels are Debian's: 6.1 is bookworm's, 6.12 trixie's; `make guest-test ALL=1` adds the newest of trixie-backports.
Guests run under QEMU's software emulation.
";

/// What those drivers found wrong; written by hand.
const FOUND: &str = include_str!("../../guest/found.md");

/// One cell of the matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Nothing is known: the lab has not written it yet.
    Unknown,
    /// It works.
    Works,
    /// It does not, and why.
    Fails(String),
    /// It could not be tried where the file was written, and why.
    NotTried(String),
}

/// A table: one driver on one model, its features against its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    title: String,
    versions: Vec<String>,
    rows: Vec<(String, Vec<Cell>)>,
}

/// The whole matrix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matrix {
    sections: Vec<Section>,
}

/// Where the matrix lies.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compat-nics.md")
}

impl Cell {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(": ") {
            None if text == "works" => Ok(Self::Works),
            None if text == "-" => Ok(Self::Unknown),
            Some(("fails", why)) => Ok(Self::Fails(why.to_owned())),
            Some(("not tried", why)) => Ok(Self::NotTried(why.to_owned())),
            _ => Err(format!("`{text}` is no cell of the matrix")),
        }
    }

    fn render(&self) -> String {
        // A bar would end the cell.
        let plain = |why: &str| why.replace('|', "/");
        match self {
            Self::Unknown => "-".into(),
            Self::Works => "works".into(),
            Self::Fails(why) => format!("fails: {}", plain(why)),
            Self::NotTried(why) => format!("not tried: {}", plain(why)),
        }
    }

    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pass => Self::Works,
            Outcome::Fail(why) => Self::Fails(why.clone()),
            Outcome::Skip(why) => Self::NotTried(why.clone()),
        }
    }
}

impl Matrix {
    /// The committed matrix.
    pub fn read() -> Result<Self, LabError> {
        let path = path();
        let text =
            std::fs::read_to_string(&path).map_err(LabError::io(format!("reading {}", path.display())))?;
        Self::parse(&text).map_err(|e| LabError::Malformed(format!("docs/compat-nics.md: {e}")))
    }

    /// The rows and columns that these suites report on, with nothing known.
    pub fn of(suites: &[Suite]) -> Self {
        let mut matrix = Self::default();
        for suite in suites {
            for feature in suite.scenarios.iter().filter_map(|s| s.feature.as_deref()) {
                matrix.set(suite, feature, Cell::Unknown);
            }
        }
        matrix
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut matrix = Self::default();
        let mut title = "";
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                title = heading.trim();
            }
            let Some(row) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
                continue;
            };
            let mut cells = row.split(" | ").map(str::trim);
            let first = cells.next().unwrap_or_default();
            if first == "Feature" {
                matrix.sections.push(Section {
                    title: title.to_owned(),
                    versions: cells.map(str::to_owned).collect(),
                    rows: Vec::new(),
                });
                continue;
            }
            let section = matrix
                .sections
                .last_mut()
                .filter(|s| s.title == title)
                .ok_or_else(|| format!("`{first}` stands in no table"))?;
            let cells: Result<Vec<Cell>, String> = cells.map(Cell::parse).collect();
            let cells = cells.map_err(|e| format!("{first}: {e}"))?;
            if cells.len() != section.versions.len() {
                return Err(format!("`{first}` has {} cells", cells.len()));
            }
            section.rows.push((first.to_owned(), cells));
        }
        Ok(matrix)
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut text = INTRODUCTION.to_owned();
        for section in &self.sections {
            let rule = "|---".repeat(section.versions.len() + 1);
            text.push_str(&format!(
                "\n## {}\n\n| Feature | {} |\n{rule}|\n",
                section.title,
                section.versions.join(" | ")
            ));
            for (feature, cells) in &section.rows {
                let cells: Vec<String> = cells.iter().map(Cell::render).collect();
                text.push_str(&format!("| {feature} | {} |\n", cells.join(" | ")));
            }
        }
        text.push('\n');
        text.push_str(FOUND);
        text
    }

    fn get(&self, suite: &Suite, feature: &str) -> Option<&Cell> {
        let section = self.sections.iter().find(|s| s.title == suite.section)?;
        let column = section.versions.iter().position(|v| v == suite.version)?;
        let (_, cells) = section.rows.iter().find(|(name, _)| name == feature)?;
        cells.get(column)
    }

    /// Makes row and column where they are missing.
    fn set(&mut self, suite: &Suite, feature: &str, cell: Cell) {
        let at = match self.sections.iter().position(|s| s.title == suite.section) {
            Some(at) => at,
            None => {
                self.sections.push(Section {
                    title: suite.section.to_owned(),
                    versions: Vec::new(),
                    rows: Vec::new(),
                });
                self.sections.len() - 1
            }
        };
        let section = &mut self.sections[at];
        let column = match section.versions.iter().position(|v| v == suite.version) {
            Some(column) => column,
            None => {
                section.versions.push(suite.version.to_owned());
                for (_, cells) in &mut section.rows {
                    cells.push(Cell::Unknown);
                }
                section.versions.len() - 1
            }
        };
        let row = match section.rows.iter().position(|(name, _)| name == feature) {
            Some(row) => row,
            None => {
                let cells = vec![Cell::Unknown; section.versions.len()];
                section.rows.push((feature.to_owned(), cells));
                section.rows.len() - 1
            }
        };
        section.rows[row].1[column] = cell;
    }

    /// Holds an outcome against the matrix. `Ok(true)`: a failure that it names.
    pub fn judge(&self, suite: &Suite, name: &str, outcome: &Outcome) -> Result<bool, String> {
        let feature = suite
            .scenarios
            .iter()
            .find(|s| s.name == name)
            .and_then(|s| s.feature.as_deref());
        let Some(feature) = feature else {
            return Ok(false);
        };
        match (self.get(suite, feature), outcome) {
            // What cannot be tried here proves nothing, and of what is unknown the matrix claims nothing.
            (_, Outcome::Skip(_)) | (Some(Cell::Works | Cell::Unknown), Outcome::Pass) => Ok(false),
            (Some(Cell::Fails(_)), Outcome::Fail(_)) => Ok(true),
            (said, _) => Err(format!(
                "docs/compat-nics.md says `{}` of \"{feature}\"; `make compat` writes what was seen",
                said.map_or("nothing".into(), Cell::render)
            )),
        }
    }

    /// Takes in what a suite saw.
    pub fn record(&mut self, suite: &Suite, name: &str, outcome: &Outcome) {
        let feature = suite
            .scenarios
            .iter()
            .find(|s| s.name == name)
            .and_then(|s| s.feature.clone());
        if let Some(feature) = feature {
            self.set(suite, &feature, Cell::of(outcome));
        }
    }

    /// Takes from `old` what is unknown here; its further rows are gone.
    pub fn keep(&mut self, old: &Self) {
        for section in &mut self.sections {
            let Some(before) = old.sections.iter().find(|s| s.title == section.title) else {
                continue;
            };
            for (feature, cells) in &mut section.rows {
                let Some((_, known)) = before.rows.iter().find(|(name, _)| name == feature) else {
                    continue;
                };
                for (cell, version) in cells.iter_mut().zip(&section.versions) {
                    if *cell == Cell::Unknown
                        && let Some(at) = before.versions.iter().position(|v| v == version)
                    {
                        *cell = known[at].clone();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fetch::Series;
    use super::super::suites;
    use super::*;

    #[test]
    fn the_committed_matrix_has_a_row_for_every_feature_and_no_other() {
        let committed = Matrix::read().unwrap();
        let suites = suites::all(&Series::ALL, true, None);
        let shape = |matrix: &Matrix| -> Vec<String> {
            let mut rows = Vec::new();
            for s in &matrix.sections {
                for (feature, _) in &s.rows {
                    rows.push(format!("{} | {} | {feature}", s.title, s.versions.join(" ")));
                }
            }
            rows
        };
        assert_eq!(
            shape(&committed),
            shape(&Matrix::of(&suites)),
            "`make compat` writes the file anew"
        );
    }

    #[test]
    fn the_committed_matrix_is_what_the_program_writes() {
        let text = std::fs::read_to_string(path()).unwrap();
        assert_eq!(Matrix::parse(&text).unwrap().render(), text);
    }

    #[test]
    fn a_matrix_that_says_something_else_than_what_was_seen_is_refused() {
        let suites = suites::all(&[Series::V6_12], false, None);
        let suite = &suites[0];
        let seen = suite.scenarios.iter().find(|s| s.feature.is_some()).unwrap();
        let mut matrix = Matrix::of(&suites);
        let fails = Outcome::Fail("a | b".into());
        assert!(
            Matrix::default()
                .judge(suite, &seen.name, &Outcome::Pass)
                .is_err()
        );
        assert_eq!(matrix.judge(suite, &seen.name, &Outcome::Pass), Ok(false));
        assert!(matrix.judge(suite, &seen.name, &fails).is_err());
        matrix.record(suite, &seen.name, &Outcome::Pass);
        assert_eq!(matrix.judge(suite, &seen.name, &Outcome::Pass), Ok(false));
        assert_eq!(
            matrix.judge(suite, &seen.name, &Outcome::Skip("x".into())),
            Ok(false)
        );
        assert!(matrix.judge(suite, &seen.name, &fails).is_err());
        matrix.record(suite, &seen.name, &fails);
        assert_eq!(matrix.judge(suite, &seen.name, &fails), Ok(true));
        assert!(matrix.judge(suite, &seen.name, &Outcome::Pass).is_err());
        let again = Matrix::parse(&matrix.render()).unwrap();
        assert_eq!(again.judge(suite, &seen.name, &fails), Ok(true));
        let mut fresh = Matrix::of(&suites);
        fresh.keep(&again);
        assert_eq!(fresh, again);
    }
}
