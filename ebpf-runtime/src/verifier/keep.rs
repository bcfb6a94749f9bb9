//! States that are kept to compare others with, and what is done where one covers another.

use std::rc::Rc;

use super::deps::NONE;
use super::explore::{ROOT, Verifier};
use super::problem::{Problem, refuse};
use super::prune::{self, Compare};
use super::state::{Byte, Reg, Slot, State};

/// Turns of a loop after which numbers that change from turn to turn are forgotten even if something depends on them.
const PATIENCE: u32 = 40;
/// Kept states of an instruction that a state is compared with: enough for the turns of a loop of some hundred.
const LOOKED_AT: usize = 256;
/// Kept states of an instruction from which on those that cover nothing are forgotten.
const MANY: usize = 192;

/// A kept state.
pub(super) struct Checkpoint {
    pub state: Option<Rc<State>>,
    pub parent: u32,
    /// Paths from here that are not at their end.
    pub branches: u32,
    /// Whether it stands at the head of a helper's loop.
    pub head: bool,
    pub turns: u32,
    pub hits: u32,
    pub misses: u32,
}

/// What a visit to a point decided.
pub(super) enum Visit {
    Go,
    Kept(u32),
    Covered,
}

impl Verifier<'_> {
    /// A path has ended.
    pub(super) fn finish(&mut self, mut parent: u32) {
        while let Some(c) = self.checkpoints.get_mut(parent as usize) {
            c.branches -= 1;
            if c.branches > 0 {
                return;
            }
            parent = c.parent;
        }
    }

    /// Looks for a kept state that covers this one; else perhaps keeps it.
    pub(super) fn visit(
        &mut self,
        state: &mut State,
        at: usize,
        parent: u32,
        head: bool,
        due: bool,
    ) -> Result<Visit, Problem> {
        let mut widen_from = None;
        let mut turns = 0;
        // The latest first, and not all of them: a long loop keeps many.
        let from = self.kept[at].len();
        for i in (from.saturating_sub(LOOKED_AT)..from).rev() {
            let index = self.kept[at][i];
            let c = &self.checkpoints[index as usize];
            let Some(old) = c.state.clone() else {
                self.kept[at].remove(i);
                continue;
            };
            if c.branches > 0 {
                if head && c.head && same_place(&old, state) {
                    let mut compare = Compare::new(
                        &self.deps,
                        &self.live,
                        at,
                        prune::Mode::Running,
                        self.limits.exact,
                    );
                    if compare.covers(&old, state) {
                        // What lies ahead of `old` is not known yet, so all may matter.
                        prune::depend_on_all(&mut self.deps, state);
                        self.stats.pruned += 1;
                        return Ok(Visit::Covered);
                    }
                    if c.turns + 1 > turns {
                        turns = c.turns + 1;
                        widen_from = Some(old);
                    }
                } else if self.endless && !head {
                    self.same_again(&old, state, at)?;
                }
                continue;
            }
            let mut compare = Compare::new(
                &self.deps,
                &self.live,
                at,
                prune::Mode::Finished,
                self.limits.exact,
            );
            if compare.covers(&old, state) {
                prune::inherit(&mut self.deps, &old, state);
                self.note_unwritten(&old, state);
                self.stats.pruned += 1;
                self.checkpoints[index as usize].hits += 1;
                return Ok(Visit::Covered);
            }
            let c = &mut self.checkpoints[index as usize];
            c.misses += 1;
            if c.misses > c.hits * 3 + 3 && !c.head && self.kept[at].len() > MANY {
                c.state = None;
                self.stats.states -= 1;
                self.kept[at].remove(i);
            }
        }
        if let Some(old) = widen_from {
            self.widen(&old, state, turns);
        }
        if !(head || due || (self.kept[at].is_empty() && parent == ROOT)) {
            return Ok(Visit::Go);
        }
        if self.stats.states >= self.limits.states {
            // Memory is bounded too. Helpers' loops need their heads kept to come to rest.
            if head {
                return refuse(
                    format!(
                        "the program is too complex: {} states are kept",
                        self.stats.states
                    ),
                    "let fewer numbers change from turn to turn, or split the program with tail calls",
                );
            }
            return Ok(Visit::Go);
        }
        self.renew(state);
        self.stats.states += 1;
        let index = self.checkpoints.len() as u32;
        self.checkpoints.push(Checkpoint {
            state: Some(Rc::new(state.clone())),
            parent,
            branches: 1,
            head,
            turns,
            hits: 0,
            misses: 0,
        });
        self.kept[at].push(index);
        Ok(Visit::Kept(index))
    }

    /// A state that is the same as one before it on the same path will come again and again.
    fn same_again(&mut self, old: &State, new: &State, at: usize) -> Result<(), Problem> {
        let mut forth = Compare::new(&self.deps, &self.live, at, prune::Mode::Running, true);
        let mut back = Compare::new(&self.deps, &self.live, at, prune::Mode::Running, true);
        if forth.covers(old, new) && back.covers(new, old) {
            return refuse(
                "the loop never ends: it comes back here with everything as it was",
                "let each turn change what ends the loop, and bound it by a constant",
            );
        }
        Ok(())
    }

    /// Each number and each content of the stack gets a node of its own from here on, so that what it was used for
    /// before does not count.
    fn renew(&mut self, state: &mut State) {
        let deps = &mut self.deps;
        for frame in &mut state.frames {
            let frame = Rc::make_mut(frame);
            let mut fresh = |reg: &mut Reg| {
                if reg.dep != NONE {
                    reg.dep = deps.node(reg.dep, NONE);
                }
            };
            frame.regs.iter_mut().for_each(&mut fresh);
            for slot in &mut frame.stack {
                for spill in [&mut slot.spill, &mut slot.upper].into_iter().flatten() {
                    if spill.dep != NONE {
                        fresh(Rc::make_mut(spill));
                    }
                }
            }
            for slot in &mut frame.stack {
                slot.cell = deps.node(slot.cell, NONE);
            }
        }
    }

    /// Where the old state's proof read bytes that this one never wrote, its frames must be zeroed too.
    fn note_unwritten(&mut self, old: &State, new: &State) {
        for (a, b) in old.frames.iter().zip(&new.frames) {
            let read = |x: &Slot| self.deps.is_marked(x.cell);
            let lacking = a.stack.iter().zip(&b.stack).any(|(x, y)| {
                // What neither wrote, the old path cannot have read without being told so itself.
                let mut bytes = x.bytes.iter().zip(&y.bytes);
                read(x) && bytes.any(|(x, y)| *x != Byte::Unwritten && *y == Byte::Unwritten)
            });
            if lacking {
                self.functions[b.function].zero = true;
            }
        }
    }

    /// Forgets the numbers that changed since the last turn of a helper's loop, so that it comes to rest.
    fn widen(&mut self, old: &State, new: &mut State, turns: u32) {
        let deps = &self.deps;
        let changed = |a: &Reg, b: &Reg| {
            a.is_scalar()
                && b.is_scalar()
                && !a.value.covers(&b.value)
                && (turns > PATIENCE || !deps.is_marked(a.dep))
        };
        for (depth, a) in old.frames.iter().enumerate() {
            let b = Rc::make_mut(&mut new.frames[depth]);
            for (x, y) in a.regs.iter().zip(b.regs.iter_mut()) {
                if changed(x, y) {
                    *y = Reg::NUMBER;
                }
            }
            for (x, y) in a.stack.iter().zip(b.stack.iter_mut()) {
                if let (Some(p), Some(q)) = (x.whole(), y.whole()) {
                    if changed(p, q) {
                        y.spill = Some(Rc::new(Reg::NUMBER));
                    }
                } else if x.is_number() && y.is_number() {
                    for kind in [Byte::Spill, Byte::Upper] {
                        let first = y.bytes.iter().position(|b| *b == kind);
                        if let (Some(p), Some(q), Some(at)) = (x.owner(kind), y.owner(kind), first)
                            && changed(p, q)
                        {
                            y.forget(at..at + 1);
                        }
                    }
                    if x.bytes != y.bytes {
                        y.forget(0..8);
                        y.bytes = [Byte::Misc; 8];
                    }
                }
            }
        }
    }
}

/// Whether two states are in the same calls of the same functions.
fn same_place(a: &State, b: &State) -> bool {
    let calls = |s: &State| s.frames.iter().map(|f| (f.function, f.call)).collect::<Vec<_>>();
    calls(a) == calls(b)
}
