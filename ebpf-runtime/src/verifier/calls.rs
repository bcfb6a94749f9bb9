//! Helper and kfunc calls: arguments against the contract, what comes back.

use super::explore::{MapInfo, Next, Verifier};
use super::facts::{CallFact, Fact, Memory};
use super::memory::Mode;
use super::problem::{Problem, refuse};
use super::proto::{self, Arg, Gives, Proto};
use super::scalar::Scalar;
use super::state::{Byte, Callback, Held, Kind, MapRef, Reference, Reg, State};
use crate::insn::{self, Insn};
use crate::kfunc::Kfunc;
use crate::maps::MapType;

/// Largest size that a helper is given.
const SIZE_MAX: i64 = 1 << 29;
/// Turns of a loop up to which they are counted one by one.
const FEW: u64 = 16;

/// What the arguments said.
#[derive(Default)]
struct Given {
    map: Option<MapRef>,
    key_end: Option<u32>,
    key_in: Option<Memory>,
    callback: Option<usize>,
    reserve: u32,
    record: Option<u32>,
    lock: Option<(MapRef, u32)>,
    /// Memory that the helper may write: frame, first byte, behind the last.
    scribbled: Vec<(u8, i64, i64)>,
}

impl Verifier<'_> {
    pub(super) fn call(&mut self, state: State, insn: Insn, at: usize) -> Result<(Fact, Next), Problem> {
        let proto = match insn.src {
            insn::CALL_KFUNC => proto::kfunc(Kfunc::by_id(insn.imm.into())),
            _ => proto::helper(insn.imm),
        };
        let Some(proto) = proto else {
            return refuse(
                "calls a kernel function that is not here",
                "ask with bpf_ksym_exists() before the call, so that it is never reached",
            );
        };
        let mut state = state;
        if state.lock.is_some() && proto.gives != Gives::Unlock {
            return refuse(
                format!("calls {} while a spin lock is held", proto.name),
                "call bpf_spin_unlock first",
            );
        }
        let mut given = Given::default();
        for (i, arg) in proto.args.iter().enumerate() {
            self.argument(&mut state, &proto, *arg, i as u8 + 1, &mut given)?;
        }
        let fact = Fact::Call(CallFact {
            map: given.map.filter(|m| !m.inner).map(|m| m.index),
            key_end: given.key_end,
            key_in: given.key_in,
            callback: given.callback,
        });
        for (frame, lo, hi) in std::mem::take(&mut given.scribbled) {
            self.note_depth(&state, frame, lo);
            self.blur(&mut state, frame, lo, hi, false);
        }
        let context = *state.reg(3);
        let count = *state.reg(1);
        for n in 0..6 {
            state.set(n, Reg::UNINIT);
        }
        if proto.moves_packet {
            state.change(
                |r| matches!(r.kind, Kind::Packet | Kind::Meta | Kind::PacketEnd),
                |r| {
                    *r = Reg {
                        kind: Kind::Stale,
                        ..Reg::UNINIT
                    }
                },
            );
        }
        if let Some(owner) = given.record {
            state.change(|r| r.owner == owner, |r| *r = Reg::UNINIT);
            state.refs.retain(|r| r.id != owner);
        }
        let next = match proto.gives {
            Gives::Number => {
                state.set(0, Reg::NUMBER);
                Next::To(state, at + 1)
            }
            Gives::Lock => {
                if let Some((map, id)) = given.lock {
                    state.lock = Some(Held { map, id, at });
                }
                Next::To(state, at + 1)
            }
            Gives::Unlock => {
                state.lock = None;
                Next::To(state, at + 1)
            }
            Gives::Value => {
                let reg = self.found(given.map)?;
                state.set(0, reg);
                Next::To(state, at + 1)
            }
            Gives::Record => {
                let id = self.id();
                state.refs.push(Reference { id, at });
                let mut reg = Reg::pointer(Kind::Record(given.reserve));
                (reg.or_null, reg.id, reg.owner) = (true, id, id);
                state.set(0, reg);
                Next::To(state, at + 1)
            }
            Gives::TailCall => self.tail_call(state, at)?,
            Gives::Loop => self.begin_loop(state, at, &given, context, count)?,
        };
        Ok((fact, next))
    }

    /// What a lookup gives.
    fn found(&mut self, map: Option<MapRef>) -> Result<Reg, Problem> {
        let Some(map) = map else {
            return refuse("looks up in no map", "pass a map");
        };
        let info = self.map_of(map);
        let of_maps = matches!(info.kind, MapType::ArrayOfMaps | MapType::HashOfMaps);
        let kind = if of_maps {
            if info.inner.is_none() {
                return refuse(
                    format!(
                        "looks up an inner map of `{}`, whose shape nobody knows yet",
                        self.map_name(map)
                    ),
                    "describe the inner map in the definition (`__array(values, struct ...)`), or insert one before loading the program",
                );
            }
            Kind::MapPtr(MapRef {
                index: map.index,
                inner: true,
            })
        } else {
            Kind::MapValue(map)
        };
        let mut reg = Reg::pointer(kind);
        (reg.or_null, reg.id) = (true, self.id());
        Ok(reg)
    }

    /// A tail call that succeeds never comes back here, but when a subprogram made it, it comes back to the caller.
    fn tail_call(&mut self, mut state: State, at: usize) -> Result<Next, Problem> {
        if !state.refs.is_empty() || state.lock.is_some() {
            return refuse(
                "bpf_tail_call while a record is reserved",
                "submit or discard the record first: the program called would not know it",
            );
        }
        let mut all = Vec::new();
        if state.depth() > 0 {
            let mut left = state.clone();
            left.set(0, Reg::NUMBER);
            all.extend(self.leave(left, false)?);
        }
        state.set(0, Reg::NUMBER);
        all.push((state, at + 1));
        Ok(Next::All(all))
    }

    fn begin_loop(
        &mut self,
        mut state: State,
        at: usize,
        given: &Given,
        ctx: Reg,
        count: Reg,
    ) -> Result<Next, Problem> {
        let Some(callback) = given.callback else {
            return refuse("loops over no function", "pass a function of the program");
        };
        let most = match given.map {
            Some(_) => None,
            None => {
                let most = count.value.u32.1.into();
                if most <= FEW {
                    self.deps.mark(count.dep);
                }
                Some(most).filter(|m| *m <= FEW).map(|m: u64| m as u32)
            }
        };
        let begun = Callback {
            at: callback,
            map: given.map,
            ctx,
            refs: state.refs.len(),
            rounds: 0,
            most,
        };
        let function = self.function_at(callback);
        let mut inside = state.clone();
        self.enter(&mut inside, function, at, Some(begun))?;
        state.set(0, Reg::NUMBER);
        let mut all = vec![(state, at + 1)];
        all.extend(self.turn(inside));
        Ok(Next::All(all))
    }

    /// One more turn of the callback whose frame is on top; nothing if there are no more.
    pub(super) fn turn(&mut self, mut state: State) -> Option<(State, usize)> {
        let mut callback = state.top().callback?;
        if let Some(most) = callback.most {
            if callback.rounds >= most {
                return None;
            }
            callback.rounds += 1;
        }
        let depth = state.depth();
        let (function, call) = (state.top().function, state.top().call);
        let mut frame = super::state::Frame::new(function, call, depth, &mut self.deps);
        frame.callback = Some(callback);
        match callback.map {
            None => {
                let dep = self.deps.fresh();
                frame.regs[1] = Reg::scalar(Scalar::range(0, (1 << 23) - 1), dep);
                frame.regs[2] = callback.ctx;
            }
            Some(map) => {
                frame.regs[1] = Reg::pointer(Kind::MapPtr(map));
                frame.regs[2] = Reg::pointer(Kind::MapKey(map));
                frame.regs[3] = Reg::pointer(Kind::MapValue(map));
                if self.map_of(map).lock.is_some() {
                    frame.regs[3].id = self.id();
                }
                frame.regs[4] = callback.ctx;
            }
        }
        let top = state.frames.len() - 1;
        state.frames[top] = std::rc::Rc::new(frame);
        Some((state, callback.at))
    }

    fn argument(
        &mut self,
        state: &mut State,
        proto: &Proto,
        arg: Arg,
        n: u8,
        given: &mut Given,
    ) -> Result<(), Problem> {
        let name = proto.name;
        let reg = match self.initialised(state, n) {
            _ if arg == Arg::Any => return Ok(()),
            Ok(reg) => reg,
            Err(_) => {
                return refuse(
                    format!(
                        "{name} takes {} arguments, and r{n} is not initialised",
                        proto.args.len()
                    ),
                    format!("set r{n} before the call, on every path"),
                );
            }
        };
        let wrong = |wants: &str| {
            let null = if reg.or_null { ", which may be null" } else { "" };
            refuse(
                format!("argument {n} of {name} is {}{null}", reg.kind.describe()),
                format!("pass {wants}"),
            )
        };
        match arg {
            Arg::Any | Arg::Number => {
                if reg.is_scalar() {
                    Ok(())
                } else {
                    wrong("a number; addresses must not get out")
                }
            }
            Arg::Ctx => {
                if reg.kind == Kind::Ctx && reg.off == 0 {
                    Ok(())
                } else {
                    wrong("the program's context unchanged")
                }
            }
            Arg::Map(kinds) => match reg.kind {
                Kind::MapPtr(map) if !reg.or_null => {
                    let info = self.map_of(map);
                    if !kinds.contains(&info.kind) {
                        return refuse(
                            format!(
                                "{name} does not work on map `{}` of type {}",
                                self.map_name(map),
                                info.kind.name()
                            ),
                            format!(
                                "pass a map of type {}",
                                kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ")
                            ),
                        );
                    }
                    if matches!(name, "bpf_map_update_elem" | "bpf_map_delete_elem") && info.readonly {
                        return refuse(
                            format!("{name} on map `{}`, which is read-only", self.map_name(map)),
                            "use a map without BPF_F_RDONLY_PROG",
                        );
                    }
                    given.map = Some(map);
                    Ok(())
                }
                _ => wrong("a map"),
            },
            Arg::Key | Arg::Value => {
                let Some(map) = given.map else {
                    return wrong("a map before it");
                };
                let info = self.map_of(map);
                let size = if arg == Arg::Key {
                    info.key_size
                } else {
                    info.value_size
                };
                let indexed = matches!(info.kind, MapType::Array | MapType::PercpuArray) && size == 4;
                let entries = info.max_entries;
                if arg == Arg::Key && indexed {
                    given.key_end = self.key_end(state, &reg, entries);
                }
                if arg == Arg::Key {
                    given.key_in = match reg.kind {
                        Kind::Stack(_) => Some(Memory::Stack),
                        Kind::Packet | Kind::Meta => Some(Memory::Packet),
                        _ => None,
                    };
                }
                self.helper_memory(state, proto, n, &reg, size, Mode::Read, given)
            }
            Arg::Read | Arg::Write | Arg::ReadWrite => {
                if reg.or_null || reg.is_scalar() {
                    return wrong("a pointer to memory that is there");
                }
                Ok(())
            }
            Arg::ReadOrNull => {
                if reg.or_null || (reg.is_scalar() && reg.known() != Some(0)) {
                    return wrong("a pointer to memory, or the constant 0");
                }
                Ok(())
            }
            Arg::ReadWriteFixed(size) => {
                self.helper_memory(state, proto, n, &reg, size, Mode::Read, given)?;
                self.helper_memory(state, proto, n, &reg, size, Mode::Write, given)
            }
            Arg::WriteFixed(size) => self.helper_memory(state, proto, n, &reg, size, Mode::Write, given),
            Arg::Size | Arg::SizeOrZero => self.size(state, proto, arg, n, &reg, given),
            Arg::Reserve => match reg.known() {
                Some(size @ 1..=0x1fff_ffff) => {
                    self.deps.mark(reg.dep);
                    given.reserve = size as u32;
                    Ok(())
                }
                _ => wrong("a constant size above 0"),
            },
            Arg::Lock => self.lock(state, proto, n, &reg, given),
            Arg::Callback(_) => match reg.kind {
                Kind::Func(at) => {
                    given.callback = Some(at as usize);
                    Ok(())
                }
                _ => wrong("a function of the program"),
            },
            Arg::CallbackCtx => match reg.kind {
                Kind::Stack(_) => Ok(()),
                Kind::Scalar if reg.known() == Some(0) => {
                    self.deps.mark(reg.dep);
                    Ok(())
                }
                _ => wrong("a pointer to the stack, or the constant 0"),
            },
            Arg::Record => match reg.kind {
                Kind::Record(_) if !reg.or_null && reg.off == 0 && reg.value.known() == Some(0) => {
                    if !state.refs.iter().any(|r| r.id == reg.owner) {
                        return wrong("a record that was not given back yet");
                    }
                    given.record = Some(reg.owner);
                    Ok(())
                }
                _ => wrong("the pointer that bpf_ringbuf_reserve gave, unchanged and checked for null"),
            },
            Arg::Text => self.text(&reg, n, name),
        }
    }

    /// What a key on the stack is below, if that is no more than `entries`.
    fn key_end(&mut self, state: &State, reg: &Reg, entries: u32) -> Option<u32> {
        let Kind::Stack(frame) = reg.kind else { return None };
        let at = i64::from(reg.off) + reg.value.known()? as i64;
        if !(-512..=-4).contains(&at) {
            return None;
        }
        let slot = ((-at - 1) / 8) as usize;
        let slot = state.frames[usize::from(frame)].stack.get(slot)?;
        let first = at.rem_euclid(8) as usize;
        for (place, kind) in [(0, Byte::Spill), (4, Byte::Upper)] {
            if first == place && slot.bytes[first..first + 4] == [kind; 4] {
                let spill = slot.owner(kind).filter(|spill| spill.is_scalar())?;
                let (most, dep) = (spill.value.u32.1, spill.dep);
                if most >= entries {
                    return None;
                }
                // The engines rely on it.
                self.deps.mark(dep);
                return Some(most + 1);
            }
        }
        let zero = slot.bytes.get(first..first + 4)? == [Byte::Zero; 4];
        (zero && entries > 0).then_some(1)
    }

    /// A size, and with it the memory in the argument before.
    fn size(
        &mut self,
        state: &mut State,
        proto: &Proto,
        arg: Arg,
        n: u8,
        reg: &Reg,
        given: &mut Given,
    ) -> Result<(), Problem> {
        let name = proto.name;
        if !reg.is_scalar() {
            return refuse(
                format!("argument {n} of {name} is {}, not a size", reg.kind.describe()),
                "pass a number",
            );
        }
        self.deps.mark(reg.dep);
        let memory = *state.reg(n - 1);
        if reg.value.s.0 < 0 || reg.value.s.1 >= SIZE_MAX {
            return refuse(
                format!("the size given to {name} in r{n} is not bounded"),
                format!("bound r{n} by the size of the memory, with a comparison or a mask"),
            );
        }
        if reg.value.u.0 == 0 && arg == Arg::Size {
            return refuse(
                format!("the size given to {name} in r{n} may be 0"),
                format!("make sure that r{n} is at least 1"),
            );
        }
        if memory.is_scalar() {
            // Only null gets here.
            self.deps.mark(memory.dep);
            return match reg.known() {
                Some(0) => Ok(()),
                _ => refuse(
                    format!("{name} is given null and a size that may not be 0"),
                    "pass 0 as size of null",
                ),
            };
        }
        let most = reg.value.u.1 as u32;
        let memory_arg = proto.args.get(usize::from(n) - 2);
        if memory_arg != Some(&Arg::Write) {
            self.helper_memory(state, proto, n - 1, &memory, most, Mode::Read, given)?;
        }
        if matches!(memory_arg, Some(Arg::Write | Arg::ReadWrite)) {
            self.helper_memory(state, proto, n - 1, &memory, most, Mode::Write, given)?;
        }
        Ok(())
    }

    /// Memory that a helper reads or writes.
    #[allow(clippy::too_many_arguments)]
    fn helper_memory(
        &mut self,
        state: &mut State,
        proto: &Proto,
        n: u8,
        reg: &Reg,
        size: u32,
        mode: Mode,
        given: &mut Given,
    ) -> Result<(), Problem> {
        let add = |p: Problem| Problem {
            what: format!("argument {n} of {}: {}", proto.name, p.what),
            ..p
        };
        if size == 0 {
            return Ok(());
        }
        // As in the kernel kernel functions may, and bpf_fib_lookup; other helpers may not.
        let may = matches!(
            proto.args.get(usize::from(n) - 1),
            Some(Arg::WriteFixed(_) | Arg::ReadWrite)
        );
        if mode == Mode::Write && !may && matches!(reg.kind, Kind::Packet | Kind::Meta) {
            return refuse(
                format!("{} cannot write to the packet", proto.name),
                "give it a buffer on the stack",
            );
        }
        self.check_access(reg, n, 0, size, mode).map_err(add)?;
        if let Kind::Stack(frame) = reg.kind {
            let (lo, hi) = super::stack::stack_range(reg, 0, size);
            if mode == Mode::Read {
                self.note_depth(state, frame, lo);
                self.readable(state, frame, lo, hi).map_err(add)?;
            } else {
                given.scribbled.push((frame, lo, hi));
            }
        }
        Ok(())
    }

    fn lock(
        &mut self,
        state: &State,
        proto: &Proto,
        n: u8,
        reg: &Reg,
        given: &mut Given,
    ) -> Result<(), Problem> {
        let name = proto.name;
        let remedy = "pass the address of the `struct bpf_spin_lock` in a map value that was looked up and checked for null";
        let Kind::MapValue(map) = reg.kind else {
            return refuse(
                format!("argument {n} of {name} is {}", reg.kind.describe()),
                remedy,
            );
        };
        let at = reg.value.known().map(|v| v as i64 + i64::from(reg.off));
        let lock = self.map_of(map).lock.map(i64::from);
        if reg.or_null || lock.is_none() || at != lock {
            return refuse(
                format!(
                    "{name}: no spin lock is known at that place of map `{}`",
                    self.map_name(map)
                ),
                remedy,
            );
        }
        match (&state.lock, proto.gives) {
            (Some(_), Gives::Lock) => refuse("takes a second spin lock", "release the first one before"),
            (None, Gives::Unlock) => refuse("releases a spin lock that is not held", "take it first"),
            (Some(held), Gives::Unlock) if held.map != map || held.id != reg.id => refuse(
                "releases another spin lock than the one held",
                "release the one that was taken",
            ),
            _ => {
                given.lock = Some((map, reg.id));
                Ok(())
            }
        }
    }

    /// A string in data that cannot change.
    fn text(&mut self, reg: &Reg, n: u8, name: &str) -> Result<(), Problem> {
        let ends = (|| {
            let Kind::MapValue(map) = reg.kind else {
                return None;
            };
            if map.inner || reg.or_null {
                return None;
            }
            let contents = self.maps[map.index as usize].constant.as_ref()?;
            let at = usize::try_from(reg.value.known()? as i64 + i64::from(reg.off)).ok()?;
            contents.get(at..)?.iter().position(|b| *b == 0)
        })();
        match ends {
            Some(_) => Ok(()),
            None => refuse(
                format!("argument {n} of {name} is no zero-terminated string in read-only data"),
                "pass the address of a string constant",
            ),
        }
    }

    pub(super) fn map_of(&self, map: MapRef) -> &MapInfo {
        let info = &self.maps[map.index as usize];
        match (&info.inner, map.inner) {
            (Some(inner), true) => inner,
            _ => info,
        }
    }

    pub(super) fn map_name(&self, map: MapRef) -> &str {
        &self.maps[map.index as usize].name
    }
}
