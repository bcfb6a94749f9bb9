//! A record of every state the verifier was in, so that tests can hold runs against it.

use super::deps::Deps;
use super::state::{Reg, State};

/// A state at one instruction.
#[derive(Debug, Clone)]
pub(crate) struct Visited {
    pub depth: usize,
    pub regs: [Reg; 11],
    /// Whether the proof depended on the number in the register.
    pub depended: [bool; 11],
}

/// States by instruction.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub visits: Vec<Vec<Visited>>,
}

impl Trace {
    pub fn visit(&mut self, at: usize, state: &State) {
        if self.visits.len() <= at {
            self.visits.resize(at + 1, Vec::new());
        }
        self.visits[at].push(Visited {
            depth: state.depth(),
            regs: state.top().regs,
            depended: [false; 11],
        });
    }

    /// Once all is verified it is known what mattered.
    pub fn finish(&mut self, deps: &Deps) {
        for visited in self.visits.iter_mut().flatten() {
            for (reg, depended) in visited.regs.iter().zip(&mut visited.depended) {
                *depended = deps.is_marked(reg.dep);
            }
        }
    }
}
