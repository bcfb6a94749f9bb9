//! Refusals: what is wrong, where, what the registers held, and what would satisfy the verifier.

use std::fmt;

use crate::SourceLine;

/// Why an instruction is refused, before it is known to a person by place.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub what: String,
    pub remedy: String,
}

/// A refusal.
pub(crate) fn refuse<T>(what: impl Into<String>, remedy: impl Into<String>) -> Result<T, Problem> {
    Err(Problem {
        what: what.into(),
        remedy: remedy.into(),
    })
}

/// A program that the verifier refuses, told for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Program name.
    pub program: String,
    /// Instruction slot within the linked program.
    pub insn: usize,
    /// The instruction in words.
    pub code: String,
    /// Source line, when the object tells.
    pub line: Option<SourceLine>,
    /// What is wrong.
    pub what: String,
    /// What would satisfy the verifier.
    pub remedy: String,
    /// Registers that the instruction uses, and what they hold on the path that failed.
    pub registers: Vec<(u8, String)>,
    /// The calls that led there, outermost first: instruction and source line.
    pub calls: Vec<(usize, Option<SourceLine>)>,
    /// The last instructions of the path that failed, oldest first.
    pub path: Vec<Step>,
}

/// An instruction of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Instruction slot within the linked program.
    pub insn: usize,
    /// The instruction in words.
    pub code: String,
    /// Source line, when the object tells.
    pub line: Option<SourceLine>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "program `{}`, instruction {}", self.program, self.insn)?;
        if let Some(line) = &self.line {
            write!(f, " ({line})")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.registers.is_empty() {
            let list: Vec<_> = self
                .registers
                .iter()
                .map(|(n, r)| format!("r{n} = {r}"))
                .collect();
            write!(f, " [{}]", list.join("; "))?;
        }
        write!(f, "; {}", self.remedy)
    }
}
