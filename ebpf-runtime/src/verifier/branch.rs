//! Conditional jumps: which sides are possible, and what each side teaches.

use super::compare::{Relation, refine};
use super::deps::NONE;
use super::explore::Verifier;
use super::problem::{Problem, refuse};
use super::scalar::Scalar;
use super::state::{Kind, Reg, State};
use crate::insn::{self, Insn};

/// Largest offset at which packet bounds are believed: no frame is longer, so addresses cannot wrap.
const PACKET_MAX: i64 = 0xffff;

/// The states on both sides of a jump; `None` where control cannot go.
pub(super) struct Sides {
    pub taken: Option<State>,
    pub falls: Option<State>,
}

impl Verifier<'_> {
    pub(super) fn branch(&mut self, state: State, insn: Insn) -> Result<Sides, Problem> {
        let wide = insn.class() == insn::JMP;
        let Some(relation) = Relation::of(insn.code) else {
            return refuse("is no jump", "use the jumps of RFC 9669");
        };
        let by_register = insn.code & 0x08 != 0;
        let a = self.initialised(&state, insn.dst)?;
        let b = if by_register {
            self.initialised(&state, insn.src)?
        } else {
            Reg::scalar(Scalar::constant(insn.imm as i64 as u64), NONE)
        };
        if a.is_scalar() && b.is_scalar() {
            return Ok(self.numbers(state, insn, relation, wide, &a, &b, by_register));
        }
        // Compilers ask so whether `ctx->data`, a field of 32 bits, is set; the answer tells nothing of the address.
        let null_check = |p: &Reg, n: &Reg| {
            matches!(p.kind, Kind::Packet | Kind::Meta | Kind::PacketEnd) && n.known() == Some(0)
        };
        if !wide
            && matches!(relation, Relation::Eq | Relation::Ne)
            && (null_check(&a, &b) || null_check(&b, &a))
        {
            [a, b]
                .iter()
                .filter(|r| r.is_scalar())
                .for_each(|r| self.deps.mark(r.dep));
            return Ok(Sides {
                taken: Some(state.clone()),
                falls: Some(state),
            });
        }
        if !wide {
            let at = if a.is_pointer() { insn.dst } else { insn.src };
            return refuse(
                format!("compares half of r{at}, a pointer"),
                "compare pointers with 64-bit jumps",
            );
        }
        self.pointers(state, relation, &a, &b)
    }

    #[allow(clippy::too_many_arguments)]
    fn numbers(
        &mut self,
        state: State,
        insn: Insn,
        relation: Relation,
        wide: bool,
        a: &Reg,
        b: &Reg,
        by_register: bool,
    ) -> Sides {
        let same = by_register && insn.dst == insn.src;
        let yes = if same {
            same_side(relation, a, wide)
        } else {
            refine(relation, &a.value, &b.value, wide)
        };
        let no = if same {
            same_side(relation.negated(), a, wide)
        } else {
            refine(relation.negated(), &a.value, &b.value, wide)
        };
        if yes.is_none() || no.is_none() {
            self.deps.mark(a.dep);
            self.deps.mark(b.dep);
        }
        let mut side = |known: Option<(Scalar, Scalar)>, state: Option<State>| {
            let (x, y) = known?;
            let mut state = state?;
            if !same {
                self.learn(&mut state, insn.dst, a, b, x);
                if by_register {
                    self.learn(&mut state, insn.src, b, a, y);
                }
            }
            Some(state)
        };
        let copy = (yes.is_some() && no.is_some()).then(|| state.clone());
        let (first, second) = match yes {
            Some(_) => (Some(state), copy),
            None => (None, Some(state)),
        };
        let taken = side(yes, first);
        let falls = side(no, second);
        Sides { taken, falls }
    }

    /// A register, and all numbers linked to it, are now known better.
    fn learn(&mut self, state: &mut State, n: u8, was: &Reg, other: &Reg, now: Scalar) {
        if now == was.value {
            return;
        }
        let dep = self.deps.node(was.dep, other.dep);
        let mut reg = *was;
        reg.value = now;
        reg.dep = dep;
        state.set(n, reg);
        if was.id == 0 {
            return;
        }
        let (id, from) = (was.id, i64::from(was.off));
        let deps = &mut self.deps;
        state.change(
            |r| r.is_scalar() && r.id == id && r.dep != dep,
            |r| {
                let by = i64::from(r.off) - from;
                let shifted = now.add(&Scalar::constant(by as u64));
                if let Some(value) = r.value.meet(&shifted)
                    && value != r.value
                {
                    r.value = value;
                    r.dep = deps.node(r.dep, dep);
                }
            },
        );
    }

    fn pointers(&mut self, state: State, relation: Relation, a: &Reg, b: &Reg) -> Result<Sides, Problem> {
        let both = |state: State| Sides {
            taken: Some(state.clone()),
            falls: Some(state),
        };
        // Null checks.
        for (pointer, number) in [(a, b), (b, a)] {
            if !pointer.is_pointer() || number.known() != Some(0) {
                continue;
            }
            if !matches!(relation, Relation::Eq | Relation::Ne) {
                continue;
            }
            self.deps.mark(number.dep);
            if matches!(pointer.kind, Kind::PacketBits | Kind::Stale) {
                break;
            }
            let (null, valid) = if pointer.or_null {
                (Some(self.nulled(&state, pointer)), self.settled(state, pointer))
            } else {
                (None, state)
            };
            return Ok(match relation {
                Relation::Eq => Sides {
                    taken: null,
                    falls: Some(valid),
                },
                _ => Sides {
                    taken: Some(valid),
                    falls: null,
                },
            });
        }
        let ends = |end: &Reg, start: &Reg| match (start.kind, end.kind) {
            (Kind::Packet, Kind::PacketEnd) => true,
            (Kind::Meta, Kind::Packet) => end.off == 0 && end.value.known() == Some(0),
            _ => false,
        };
        if ends(b, a) {
            return Ok(packet_sides(state, relation, a));
        }
        if ends(a, b) {
            return Ok(packet_sides(state, relation.swapped(), b));
        }
        let packet = |r: &Reg| matches!(r.kind, Kind::Packet | Kind::PacketEnd | Kind::Meta);
        let alike = std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind)
            && !matches!(a.kind, Kind::PacketBits | Kind::Stale)
            && !a.or_null
            && !b.or_null;
        if (packet(a) && packet(b)) || (alike && a.is_pointer()) {
            return Ok(both(state));
        }
        // What equals a pointer that is not null is not null either.
        let nullable = match (a.or_null, b.or_null) {
            (true, false) => Some(a),
            (false, true) => Some(b),
            _ => None,
        };
        let of_kind = std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind);
        if let Some(nullable) = nullable.filter(|_| of_kind && matches!(a.kind, Kind::MapValue(_))) {
            let valid = self.settled(state.clone(), nullable);
            match relation {
                Relation::Eq => {
                    return Ok(Sides {
                        taken: Some(valid),
                        falls: Some(state),
                    });
                }
                Relation::Ne => {
                    return Ok(Sides {
                        taken: Some(state),
                        falls: Some(valid),
                    });
                }
                _ => {}
            }
        }
        let (x, y) = (a.kind.describe(), b.kind.describe());
        refuse(
            format!("compares {x} with {y}"),
            "compare pointers with 0, or with pointers of their own kind",
        )
    }

    /// The pointer and all that are null with it are 0.
    fn nulled(&mut self, state: &State, pointer: &Reg) -> State {
        let mut state = state.clone();
        let dep = self.deps.fresh();
        let zero = Reg::scalar(Scalar::constant(0), dep);
        let id = pointer.id;
        state.change(|r| r.or_null && r.id == id, |r| *r = zero);
        if pointer.owner != 0 {
            state.refs.retain(|r| r.id != pointer.owner);
        }
        state
    }

    /// The pointer and all that are null with it are not.
    fn settled(&self, mut state: State, pointer: &Reg) -> State {
        let id = pointer.id;
        // From here on only a spin lock in it needs to know one value from another.
        let keep = matches!(pointer.kind, Kind::MapValue(map) if self.map_of(map).lock.is_some());
        state.change(
            |r| r.or_null && r.id == id,
            |r| {
                r.or_null = false;
                r.id = if keep { id } else { 0 };
            },
        );
        state
    }
}

/// A number compared with itself, or its lower half with itself.
fn same_side(relation: Relation, a: &Reg, wide: bool) -> Option<(Scalar, Scalar)> {
    use Relation::*;
    let tested = if wide { a.value } else { a.value.zext() };
    let holds = match relation {
        Eq | Le | Ge | SLe | SGe => true,
        Ne | Lt | Gt | SLt | SGt => false,
        // Depends on whether any bit is set.
        Set => tested.known() != Some(0),
        Clear => tested.contains(0),
    };
    holds.then_some((a.value, a.value))
}

/// `start relation end`: where it says that `start` is not beyond the end, the bytes before it exist.
fn packet_sides(state: State, relation: Relation, start: &Reg) -> Sides {
    use Relation::*;
    let at = i64::from(start.off);
    // What each side proves about the bytes from the variable part on: (taken, falls).
    let (taken, falls) = match relation {
        Gt => (None, Some(at)),
        Ge => (None, Some(at + 1)),
        Le => (Some(at), None),
        Lt => (Some(at + 1), None),
        Eq => (Some(at), None),
        Ne => (None, Some(at)),
        _ => (None, None),
    };
    let believed = start.value.s.0 >= 0 && start.value.s.1 + at <= PACKET_MAX;
    let with = |range: Option<i64>| {
        let mut state = state.clone();
        if let Some(range) = range.filter(|r| *r > 0 && believed).map(|r| r as u32) {
            let (kind, id) = (start.kind, start.id);
            state.change(
                |r| r.kind == kind && r.id == id && r.range < range,
                |r| r.range = range,
            );
        }
        Some(state)
    };
    Sides {
        taken: with(taken),
        falls: with(falls),
    }
}
