//! Functions and their frames: entering one, leaving it, the program's end.

use std::rc::Rc;

use super::explore::Verifier;
use super::problem::{Problem, refuse};
use super::state::{Callback, Frame, Kind, Reg, State};
use crate::mem::space::FRAMES;

impl Verifier<'_> {
    /// The function that begins at an instruction, by index.
    pub(super) fn function_at(&self, start: usize) -> usize {
        let found = self.body.functions.iter().position(|f| f.0 == start);
        found.unwrap_or(0)
    }

    /// Enters a function with the arguments in r1 to r5.
    pub(super) fn enter(
        &mut self,
        state: &mut State,
        function: usize,
        call: usize,
        callback: Option<Callback>,
    ) -> Result<(), Problem> {
        if state.frames.len() >= FRAMES {
            return refuse(
                format!("more than {FRAMES} functions call each other"),
                "let functions that are called so deep be inlined (`static __always_inline`)",
            );
        }
        let depth = state.frames.len();
        let mut frame = Frame::new(function, call, depth, &mut self.deps);
        frame.callback = callback;
        frame.regs[1..6].copy_from_slice(&state.top().regs[1..6]);
        state.top_mut().regs[..6].fill(Reg::UNINIT);
        state.frames.push(Rc::new(frame));
        Ok(())
    }

    pub(super) fn exit(&mut self, state: State) -> Result<Vec<(State, usize)>, Problem> {
        if let Some(held) = &state.lock {
            return refuse(
                format!(
                    "ends while the spin lock taken by instruction {} is held",
                    held.at
                ),
                "call bpf_spin_unlock on every path",
            );
        }
        if state.depth() > 0 {
            return self.leave(state, true);
        }
        let r0 = state.reg(0);
        if r0.kind == Kind::Uninit {
            return refuse(
                "ends without a result",
                "set r0, the program's return value, on every path",
            );
        }
        if r0.is_pointer() {
            return refuse(
                format!("returns {}", r0.kind.describe()),
                "return one of XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT",
            );
        }
        if let Some(reference) = state.refs.first() {
            return refuse(
                format!(
                    "ends without giving back the record that instruction {} reserved",
                    reference.at
                ),
                "call bpf_ringbuf_submit or bpf_ringbuf_discard on every path",
            );
        }
        Ok(Vec::new())
    }

    /// Leaves a function: back to its caller, or to the helper that called it. `own` says that it was its own exit, not
    /// that of a program it called by tail call.
    pub(super) fn leave(&mut self, mut state: State, own: bool) -> Result<Vec<(State, usize)>, Problem> {
        let mut r0 = *state.reg(0);
        let depth = state.depth();
        if matches!(r0.kind, Kind::Stack(frame) if usize::from(frame) == depth) {
            return refuse(
                "returns a pointer to its own stack, which is gone then",
                "let the caller pass a buffer",
            );
        }
        let top = state.top();
        let call = top.call;
        let Some(callback) = top.callback else {
            state.frames.pop();
            state.set(0, r0);
            return Ok(vec![(state, call + 1)]);
        };
        if !r0.is_scalar() || (own && r0.value.u.1 > 1) {
            return refuse(
                "a callback returns something else than 0 or 1",
                "return 0 to go on, 1 to stop",
            );
        }
        self.deps.mark(r0.dep);
        if state.refs.len() != callback.refs {
            return refuse(
                "a callback ends with a record reserved that was not when it began",
                "submit or discard the record in the turn that reserved it",
            );
        }
        // Keys are shown to the callback only.
        state.change(|r| matches!(r.kind, Kind::MapKey(_)), |r| *r = Reg::UNINIT);
        let again = match r0.value.known() {
            Some(1) => None,
            _ => self.turn(state.clone()),
        };
        state.frames.pop();
        r0 = Reg::NUMBER;
        state.set(0, r0);
        let mut all = vec![(state, call + 1)];
        all.extend(again);
        Ok(all)
    }
}
