//! Loads, stores and atomic operations: each must lie within what its pointer is known to point to.

use super::deps::NONE;
use super::explore::Verifier;
use super::facts::{Access, CtxField, Fact, Memory};
use super::problem::{Problem, refuse};
use super::scalar::Scalar;
use super::stack::stack_range;
use super::state::{Kind, MapRef, Reg, State};
use crate::Hook;
use crate::insn::{self, Insn, atomic};
use crate::mem::space::FRAME;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Write,
    Atomic,
}

/// Bytes an instruction accesses, by the size bits of its opcode.
fn bytes_of(code: u8) -> u32 {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

impl Verifier<'_> {
    pub(super) fn load(&mut self, state: &mut State, insn: Insn) -> Result<Fact, Problem> {
        let size = bytes_of(insn.code);
        let sign = insn.code & 0xe0 == 0x80;
        let base = self.initialised(state, insn.src)?;
        if base.kind == Kind::Ctx && self.body.hook == Hook::Steering {
            return self.load_skb(state, insn, &base, size, sign);
        }
        if base.kind == Kind::Ctx {
            return self.load_context(state, insn, &base, size, sign);
        }
        let access = self.check_access(&base, insn.src, insn.off.into(), size, Mode::Read)?;
        let mut reg = match base.kind {
            Kind::Stack(frame) => self.load_stack(state, frame, &base, insn.off.into(), size)?,
            Kind::MapValue(map) if !map.inner => self.constant_load(map, &base, insn.off.into(), size),
            _ => self.loaded(Scalar::of_bytes(size)),
        };
        if sign {
            if !reg.is_scalar() {
                return refuse("sign-extends a pointer", "load pointers with 64-bit loads");
            }
            let dep = self.deps.node(reg.dep, NONE);
            reg = Reg::scalar(reg.value.sext(size * 8), dep);
        }
        state.set(insn.dst, reg);
        Ok(Fact::Access(access))
    }

    /// A number that was read from somewhere.
    pub(super) fn loaded(&mut self, value: Scalar) -> Reg {
        let dep = if value == Scalar::UNKNOWN {
            NONE
        } else {
            self.deps.fresh()
        };
        Reg::scalar(value, dep)
    }

    /// A load from a map whose contents nobody can change any more.
    fn constant_load(&mut self, map: MapRef, base: &Reg, off: i64, size: u32) -> Reg {
        let unknown = Scalar::of_bytes(size);
        let value = (|| {
            let contents = self.maps[map.index as usize].constant.as_ref()?;
            let at = base.value.known()? as i64 + i64::from(base.off) + off;
            let at = usize::try_from(at).ok()?;
            let bytes = contents.get(at..at + size as usize)?;
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            Some(Scalar::constant(u64::from_le_bytes(word)))
        })();
        self.loaded(value.unwrap_or(unknown))
    }

    fn load_context(
        &mut self,
        state: &mut State,
        insn: Insn,
        base: &Reg,
        size: u32,
        sign: bool,
    ) -> Result<Fact, Problem> {
        let remedy = "read the 32-bit fields of struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index";
        let off = i64::from(insn.off) + i64::from(base.off);
        let field = CtxField::at(off).filter(|_| size == 4 && !sign && base.off == 0);
        let Some(field) = field else {
            return refuse(
                format!("reads {size} bytes at offset {off} of the context, which is no field"),
                remedy,
            );
        };
        let reg = match field {
            CtxField::Data => Reg::pointer(Kind::Packet),
            CtxField::DataEnd => Reg::pointer(Kind::PacketEnd),
            CtxField::DataMeta => Reg::pointer(Kind::Meta),
            CtxField::EgressIfindex if !self.devmap => {
                return refuse(
                    "reads egress_ifindex, which only programs on device map entries have",
                    "put the program in a section `xdp/devmap`",
                );
            }
            _ => self.loaded(Scalar::of_bytes(4)),
        };
        state.set(insn.dst, reg);
        Ok(Fact::Ctx(field))
    }

    pub(super) fn store(&mut self, state: &mut State, insn: Insn) -> Result<Fact, Problem> {
        let size = bytes_of(insn.code);
        let base = self.initialised(state, insn.dst)?;
        let value = if insn.class() == insn::ST {
            let imm = Scalar::constant(insn.imm as i64 as u64).truncate(size);
            Reg::scalar(imm, self.deps.fresh())
        } else {
            self.initialised(state, insn.src)?
        };
        if base.kind == Kind::Ctx && self.body.hook == Hook::Steering {
            return self.store_skb(insn, &base, size, &value);
        }
        let access = self.check_access(&base, insn.dst, insn.off.into(), size, Mode::Write)?;
        if let Kind::Stack(frame) = base.kind {
            self.store_stack(state, frame, &base, insn, size, &value)?;
        } else if value.is_pointer() {
            return refuse(
                format!(
                    "writes r{}, {}, to where others could read the address",
                    insn.src,
                    value.kind.describe()
                ),
                "pointers may only be stored on the stack",
            );
        }
        Ok(Fact::Access(access))
    }

    pub(super) fn atomic(&mut self, state: &mut State, insn: Insn) -> Result<Fact, Problem> {
        let size = bytes_of(insn.code);
        let acquire = insn.imm == atomic::LOAD_ACQUIRE;
        let (address, other) = if acquire {
            (insn.src, insn.dst)
        } else {
            (insn.dst, insn.src)
        };
        let base = self.initialised(state, address)?;
        if !acquire {
            self.number(state, other, "the operand of an atomic operation")?;
        }
        if insn.imm == atomic::CMPXCHG {
            self.number(state, 0, "what an atomic exchange compares with")?;
        }
        if !matches!(base.kind, Kind::Stack(_) | Kind::MapValue(_) | Kind::Record(_)) && !(base.is_scalar()) {
            return refuse(
                format!("an atomic operation on r{address}, {}", base.kind.describe()),
                "atomic operations work on map values, ring-buffer records and the stack",
            );
        }
        let access = self.check_access(&base, address, insn.off.into(), size, Mode::Atomic)?;
        if let Kind::Stack(frame) = base.kind {
            // Reads what is there, and leaves some number.
            self.load_stack(state, frame, &base, insn.off.into(), size)
                .and_then(|old| match old.is_scalar() {
                    true => Ok(()),
                    false => refuse(
                        "an atomic operation on a spilled pointer",
                        "use another stack slot",
                    ),
                })?;
            let (lo, _) = stack_range(&base, insn.off.into(), size);
            self.blur(state, frame, lo, lo + i64::from(size), false);
        }
        let result = Scalar::of_bytes(size);
        match insn.imm {
            atomic::CMPXCHG => {
                let reg = self.loaded(result);
                state.set(0, reg);
            }
            atomic::LOAD_ACQUIRE => {
                let reg = self.loaded(result);
                state.set(insn.dst, reg);
            }
            op if op & atomic::FETCH != 0 => {
                let reg = self.loaded(result);
                state.set(insn.src, reg);
            }
            _ => {}
        }
        Ok(Fact::Access(access))
    }

    /// Checks `size` bytes at `off` from a pointer; says whose memory it is.
    pub(super) fn check_access(
        &mut self,
        base: &Reg,
        n: u8,
        off: i64,
        size: u32,
        mode: Mode,
    ) -> Result<Access, Problem> {
        let write = mode != Mode::Read;
        if base.or_null {
            return refuse(
                format!("r{n} may be null: {}", base.kind.describe()),
                format!("compare r{n} with 0 before, and go on only where it is not"),
            );
        }
        let start = off + i64::from(base.off);
        if mode == Mode::Atomic {
            let aligned = |x: u64| x.is_multiple_of(size.into());
            if !aligned(start as u64) || base.value.bits.max() & u64::from(size - 1) != 0 {
                return refuse(
                    format!("an atomic operation on {size} bytes that may not be aligned"),
                    format!("keep the address a multiple of {size}"),
                );
            }
        }
        let (memory, map) = match base.kind {
            Kind::Stack(_) => {
                let (lo, hi) = (start + base.value.s.0, start + base.value.s.1 + i64::from(size));
                if lo < -(FRAME as i64) || hi > 0 {
                    return refuse(
                        format!(
                            "{} {size} bytes at {} to {} from the frame pointer, outside the frame of {FRAME} bytes",
                            verb(write),
                            lo,
                            hi - i64::from(size)
                        ),
                        format!("stay within -{FRAME} to 0; bound a variable index before it is used"),
                    );
                }
                (Memory::Stack, None)
            }
            Kind::Packet | Kind::Meta if write && self.body.hook == Hook::Steering => {
                return refuse(
                    "writes to the packet, which a steering program may only read",
                    "change packets in an XDP program; a steering program returns a queue",
                );
            }
            Kind::Packet | Kind::Meta => {
                self.check_packet(base, n, start, size, write)?;
                let memory = if base.kind == Kind::Packet {
                    Memory::Packet
                } else {
                    Memory::Meta
                };
                (memory, None)
            }
            Kind::MapValue(map) => {
                let info = self.map_of(map);
                let (length, readonly, lock) = (info.value_size, info.readonly, info.lock);
                self.check_block("map value", length.into(), base, n, start, size, write)?;
                if write && readonly {
                    return refuse(
                        format!("writes to map `{}`, which is read-only", self.map_name(map)),
                        "write to a map without BPF_F_RDONLY_PROG, or to a variable that is not const",
                    );
                }
                if let Some(lock) = lock {
                    let (lo, hi) = (start + base.value.s.0, start + base.value.s.1 + i64::from(size));
                    if lo < i64::from(lock) + 4 && hi > lock.into() {
                        return refuse(
                            format!("{} the spin lock at offset {lock} of the value", verb(write)),
                            "use bpf_spin_lock and bpf_spin_unlock on it, nothing else",
                        );
                    }
                }
                (Memory::MapValue, (!map.inner).then_some(map.index))
            }
            Kind::MapKey(map) => {
                let length = self.map_of(map).key_size;
                self.check_block("map key", length.into(), base, n, start, size, write)?;
                if write {
                    return refuse(
                        "writes to a map's key",
                        "copy the key to the stack and change it there",
                    );
                }
                (Memory::MapKey, (!map.inner).then_some(map.index))
            }
            Kind::Record(length) => {
                self.check_block("record", length.into(), base, n, start, size, write)?;
                (Memory::Record, None)
            }
            Kind::Ctx => {
                return refuse(
                    format!("{} the context where only its fields can be read", verb(write)),
                    "load the 32-bit fields of struct xdp_md; use helpers to change the packet",
                );
            }
            Kind::Scalar if base.known() == Some(0) => {
                return refuse(
                    format!("r{n} is null here"),
                    "go on only where the pointer is not null",
                );
            }
            Kind::Stale => {
                return refuse(
                    format!("r{n} is {}", base.kind.describe()),
                    "load data and data_end again after bpf_xdp_adjust_head, _meta, _tail and bpf_tail_call, and compare again",
                );
            }
            kind => {
                return refuse(
                    format!("r{n} is {}, no memory", kind.describe()),
                    "use a pointer to the stack, the packet, a map value or a ring-buffer record",
                );
            }
        };
        Ok(Access { memory, map })
    }

    fn check_packet(&mut self, base: &Reg, n: u8, start: i64, size: u32, write: bool) -> Result<(), Problem> {
        let end = if base.kind == Kind::Packet {
            "data_end"
        } else {
            "data"
        };
        if base.value.s.0 < 0 || start < 0 {
            return refuse(
                format!(
                    "{} {size} bytes that may lie before {}",
                    verb(write),
                    if base.kind == Kind::Packet {
                        "data"
                    } else {
                        "data_meta"
                    }
                ),
                format!("make sure that what is added to r{n} is not negative"),
            );
        }
        let need = start + i64::from(size);
        if need > i64::from(base.range) {
            let proven = match base.range {
                0 => "nothing is proven about its length".to_owned(),
                r => format!("only {r} bytes are proven to be there"),
            };
            return refuse(
                format!(
                    "{} {size} bytes at offset {start} of the packet, of which {proven}",
                    verb(write)
                ),
                format!(
                    "compare the pointer plus {need} with {end} before, on every path to here, and leave when it is greater"
                ),
            );
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn check_block(
        &mut self,
        what: &str,
        length: i64,
        base: &Reg,
        n: u8,
        start: i64,
        size: u32,
        write: bool,
    ) -> Result<(), Problem> {
        let (lo, hi) = (start + base.value.s.0, start + base.value.s.1 + i64::from(size));
        if lo < 0 {
            return refuse(
                format!(
                    "{} {size} bytes that may begin {} before the {what}",
                    verb(write),
                    -lo
                ),
                format!("make sure that what is added to r{n} is not negative"),
            );
        }
        if hi > length {
            return refuse(
                format!(
                    "{} {size} bytes at offset {} of a {what} of {length} bytes",
                    verb(write),
                    hi - i64::from(size)
                ),
                match base.value.known() {
                    Some(_) => format!("stay below {length}"),
                    None => format!(
                        "bound the index so that offset plus {size} is at most {length}, with a comparison or a mask"
                    ),
                },
            );
        }
        Ok(())
    }
}

fn verb(write: bool) -> &'static str {
    if write { "writes" } else { "reads" }
}
