//! Loads, stores and atomic operations: bare where they are proven in bounds, else behind a check.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AtomicRmwOp, Block, BlockArg, InstBuilder, MemFlagsData, Type, Value, types};

use super::facts::Place;
use super::function::Translator;
use super::rt;
use super::state::offset;
use super::track::Access;
use crate::insn::{self, Insn, atomic};

pub(super) fn int(len: i32) -> Type {
    match len {
        1 => types::I8,
        2 => types::I16,
        4 => types::I32,
        _ => types::I64,
    }
}

impl Translator<'_, '_> {
    pub fn flags(&self, place: Place) -> MemFlagsData {
        match place {
            Place::Ctx(_) => self.regions.vm,
            Place::Stack => self.regions.stack,
            Place::Value => self.regions.value,
            Place::Packet | Place::Mixed => self.regions.packet,
        }
    }

    fn widened(&mut self, value: Value, len: i32, signed: bool) -> Value {
        match (len, signed) {
            (8, _) => value,
            (_, false) => self.b.ins().uextend(types::I64, value),
            (_, true) => self.b.ins().sextend(types::I64, value),
        }
    }

    fn narrowed(&mut self, value: Value, len: i32) -> Value {
        if len == 8 {
            value
        } else {
            self.b.ins().ireduce(int(len), value)
        }
    }

    pub fn load(&mut self, insn: Insn, at: usize) {
        let Some(access) = Access::of(insn) else {
            return;
        };
        let signed = matches!(insn.code, 0x81 | 0x89 | 0x91);
        let base = self.reg(insn.src);
        let off = i32::from(insn.off);
        let value = match self.env.facts.proven(at) {
            Some(Place::Ctx(field)) => self.field(field),
            Some(place) => {
                let own = self.env.facts.frame_offset(at);
                let own = own.filter(|_| place == Place::Stack && !signed);
                match own.and_then(|off| self.known_word(off, access.len)) {
                    Some(value) => value,
                    None if signed => self.load_signed(place, base, off, access.len),
                    None => self.load_unsigned(place, base, off, access.len),
                }
            }
            None => {
                self.touch_anything();
                self.checked_load(base, &access, off, signed, at)
            }
        };
        self.set(insn.dst, value);
    }

    /// Before an access that may be to anything.
    fn touch_anything(&mut self) {
        self.flush();
        self.bytes.forget_loads();
    }

    fn load_signed(&mut self, place: Place, base: Value, off: i32, len: i32) -> Value {
        if matches!(place, Place::Packet | Place::Mixed) {
            self.flush();
        }
        let flags = self.flags(place);
        let value = self.b.ins().load(int(len), flags, base, off);
        self.widened(value, len, true)
    }

    fn load_unsigned(&mut self, place: Place, base: Value, off: i32, len: i32) -> Value {
        let (root, from) = self.bytes.root(base);
        let frame = from
            .checked_add(off)
            .filter(|_| place == Place::Packet && self.merges);
        if let Some(value) = frame.and_then(|at| self.held_back(root, at, len)) {
            return value;
        }
        if frame.is_none() && matches!(place, Place::Packet | Place::Mixed) {
            self.flush();
        }
        let flags = self.flags(place);
        let value = self.load_zero_extended(flags, base, off, len);
        if let Some(at) = frame {
            self.bytes.loaded(value, root, at, len);
        }
        value
    }

    /// A field of `struct xdp_md`; the pointers are 64 bits wide here.
    fn field(&mut self, off: i32) -> Value {
        if let Some(value) = self.here.edges.get(off as usize / 4).copied().flatten() {
            return value;
        }
        let buf = self.buf();
        let (ty, at) = match off {
            0 => (types::I64, offset::DATA),
            4 => (types::I64, offset::DATA_END),
            8 => (types::I64, offset::DATA_META),
            12 => (types::I32, offset::INGRESS),
            16 => (types::I32, offset::RX_QUEUE),
            _ => (types::I32, offset::EGRESS),
        };
        let value = self.load_vm(ty, buf, at);
        if ty == types::I32 {
            return self.b.ins().uextend(types::I64, value);
        }
        self.here.edges[off as usize / 4] = Some(value);
        if off == 0 {
            self.bytes.begins_frame(value);
        }
        value
    }

    /// Goes to the first block when `len` bytes at `addr` lie in the frame, else to the second.
    fn in_frame(&mut self, addr: Value, len: i32) -> (Block, Block) {
        let buf = self.buf();
        let meta = self.load_vm(types::I64, buf, offset::DATA_META);
        let end = self.load_vm(types::I64, buf, offset::DATA_END);
        let room = self.b.ins().isub(end, meta);
        let off = self.b.ins().isub(addr, meta);
        let starts = self.b.ins().icmp(IntCC::UnsignedLessThanOrEqual, off, room);
        let rest = self.b.ins().isub(room, off);
        let len = self.c(len.into());
        let ends = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, rest, len);
        let inside = self.b.ins().band(starts, ends);
        let (fast, slow) = (self.b.create_block(), self.cold());
        self.b.ins().brif(inside, fast, &[], slow, &[]);
        (fast, slow)
    }

    fn address(&mut self, base: Value, off: i32) -> Value {
        let off = self.c(off.into());
        self.b.ins().iadd(base, off)
    }

    fn checked_load(&mut self, base: Value, access: &Access, off: i32, signed: bool, at: usize) -> Value {
        let addr = self.address(base, off);
        let (fast, slow) = self.in_frame(addr, access.len);
        let done = self.b.create_block();
        let result = self.b.append_block_param(done, types::I64);

        self.begin(slow);
        let f = match access.len {
            1 => rt::load::<1> as *const (),
            2 => rt::load::<2> as *const (),
            4 => rt::load::<4> as *const (),
            _ => rt::load::<8> as *const (),
        };
        let [value, status] = self.call_rt(f, &[addr], 2);
        self.checked(status, at);
        let value = if signed {
            let narrow = self.narrowed(value, access.len);
            self.widened(narrow, access.len, true)
        } else {
            value
        };
        self.b.ins().jump(done, &[BlockArg::Value(value)]);

        self.begin(fast);
        let packet = self.regions.packet;
        let value = self.b.ins().load(int(access.len), packet, addr, 0);
        let value = self.widened(value, access.len, signed);
        self.b.ins().jump(done, &[BlockArg::Value(value)]);
        self.begin(done);
        result
    }

    pub fn store(&mut self, insn: Insn, at: usize) {
        let Some(access) = Access::of(insn) else {
            return;
        };
        if access.atomic {
            return self.atomic(insn, &access, at);
        }
        let value = match insn.class() {
            insn::ST => self.c(insn.imm.into()),
            _ => self.reg(insn.src),
        };
        let base = self.reg(insn.dst);
        let off = i32::from(insn.off);
        self.note_store(at, access.len, Some(value));
        match self.env.facts.proven(at) {
            Some(place) => {
                let (root, from) = self.bytes.root(base);
                let frame = from
                    .checked_add(off)
                    .filter(|_| place == Place::Packet && self.merges);
                if let Some(to) = frame {
                    return self.hold_back(root, to, access.len, value);
                }
                if matches!(place, Place::Packet | Place::Mixed) {
                    self.touch_anything();
                }
                let value = self.narrowed(value, access.len);
                let flags = self.flags(place);
                self.b.ins().store(flags, value, base, off);
            }
            None => {
                self.touch_anything();
                self.checked_store(base, &access, off, value, at);
            }
        }
    }

    /// What a store means for what is known of the frame.
    fn note_store(&mut self, at: usize, len: i32, value: Option<Value>) {
        match (self.env.facts.proven(at), self.env.facts.frame_offset(at), value) {
            (Some(Place::Stack), Some(off), Some(value)) => {
                let word = self.word(value);
                self.here.known.stored(off, len, &word);
            }
            (Some(Place::Stack), Some(off), None) => self.here.known.forget(off, len),
            (Some(Place::Packet | Place::Value | Place::Ctx(_)), ..) => {}
            _ => self.here.known.forget_all(),
        }
    }

    fn checked_store(&mut self, base: Value, access: &Access, off: i32, value: Value, at: usize) {
        let addr = self.address(base, off);
        let (fast, slow) = self.in_frame(addr, access.len);
        let done = self.b.create_block();

        self.begin(slow);
        let f = match access.len {
            1 => rt::store::<1> as *const (),
            2 => rt::store::<2> as *const (),
            4 => rt::store::<4> as *const (),
            _ => rt::store::<8> as *const (),
        };
        let [_, status] = self.call_rt(f, &[addr, value], 2);
        self.checked(status, at);
        self.b.ins().jump(done, &[]);

        self.begin(fast);
        let value = self.narrowed(value, access.len);
        let packet = self.regions.packet;
        self.b.ins().store(packet, value, addr, 0);
        self.b.ins().jump(done, &[]);
        self.begin(done);
    }

    fn atomic(&mut self, insn: Insn, access: &Access, at: usize) {
        self.note_store(at, access.len, None);
        self.touch_anything();
        let off = i32::from(insn.off);
        let base = self.reg(access.base);
        let addr = self.address(base, off);
        let (source, expected) = (self.reg(insn.src), self.reg(0));
        let old = match self.env.facts.proven(at) {
            Some(place) => {
                let flags = self.flags(place).with_aligned();
                self.atomic_at(insn, access.len, flags, addr, source, expected)
            }
            None => {
                let f = match access.len {
                    1 => rt::atomic::<1> as *const (),
                    2 => rt::atomic::<2> as *const (),
                    4 => rt::atomic::<4> as *const (),
                    _ => rt::atomic::<8> as *const (),
                };
                let op = self.c(insn.imm.into());
                let [old, status] = self.call_rt(f, &[addr, op, source, expected], 2);
                self.checked(status, at);
                Some(old)
            }
        };
        let to = match insn.imm {
            atomic::CMPXCHG => 0,
            atomic::LOAD_ACQUIRE => insn.dst,
            op if op & atomic::FETCH != 0 => insn.src,
            _ => return,
        };
        if let Some(old) = old {
            self.set(to, old);
        }
    }

    /// An atomic operation on memory that is there and aligned; gives what was there.
    fn atomic_at(
        &mut self,
        insn: Insn,
        len: i32,
        flags: MemFlagsData,
        addr: Value,
        source: Value,
        expected: Value,
    ) -> Option<Value> {
        let ty = int(len);
        let value = self.narrowed(source, len);
        let old = match insn.imm {
            atomic::LOAD_ACQUIRE => self.b.ins().atomic_load(ty, flags, addr),
            atomic::STORE_RELEASE => {
                self.b.ins().atomic_store(flags, value, addr);
                return None;
            }
            atomic::CMPXCHG => {
                let expected = self.narrowed(expected, len);
                self.b.ins().atomic_cas(flags, addr, expected, value)
            }
            op => {
                let op = match op {
                    atomic::XCHG => AtomicRmwOp::Xchg,
                    op => match op & !atomic::FETCH {
                        atomic::ADD => AtomicRmwOp::Add,
                        atomic::OR => AtomicRmwOp::Or,
                        atomic::AND => AtomicRmwOp::And,
                        _ => AtomicRmwOp::Xor,
                    },
                };
                self.b.ins().atomic_rmw(ty, flags, op, addr, value)
            }
        };
        Some(self.widened(old, len, false))
    }
}
