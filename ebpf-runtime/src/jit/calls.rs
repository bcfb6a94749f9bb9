//! Calls of helpers: map lookups and small ones inline, others direct calls.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, Value, types};

use super::function::Translator;
use super::rt;
use super::state::{DONE, NOTED, offset};
use super::track::{self, Kind, Place};
use crate::insn::{self, Insn};
use crate::interp::errno;
use crate::maps::{ArrayShape, Map};
use crate::{Errno, Fault};

const LOOKUP: i32 = 1;
const CPU_ID: i32 = 8;
const TAIL_CALL: i32 = 12;
const FOR_EACH: i32 = 164;
const LOOP: i32 = 181;
const BUFF_LEN: i32 = 188;

impl Translator<'_, '_> {
    /// A helper or kernel function.
    pub fn call(&mut self, insn: Insn, at: usize) {
        if insn.src == insn::CALL_KFUNC {
            return self.kfunc(insn, at);
        }
        let value = match insn.imm {
            LOOKUP => self.lookup(at),
            CPU_ID => {
                let state = self.state;
                self.load_vm(types::I64, state, offset::WORKER)
            }
            BUFF_LEN => {
                let buf = self.buf();
                let start = self.load_vm(types::I64, buf, offset::DATA);
                let end = self.load_vm(types::I64, buf, offset::DATA_END);
                self.b.ins().isub(end, start)
            }
            TAIL_CALL => return self.tail_call(at),
            LOOP | FOR_EACH => self.callbacks(insn.imm, at),
            id => self.helper(id, at),
        };
        self.set(0, value);
    }

    fn args<const N: usize>(&mut self) -> [Value; N] {
        std::array::from_fn(|i| self.reg(i as u8 + 1))
    }

    fn helper(&mut self, id: i32, at: usize) -> Value {
        let Some(f) = rt::helper_address(id) else {
            // `check` refuses helpers that do not exist.
            let always = self.b.ins().iconst(types::I8, 1);
            self.fault_if(always, Fault::HelperArgument, at);
            return self.c(0);
        };
        let args: [Value; 5] = self.args();
        let [value, status] = self.call_rt(f, &args, 2);
        self.checked(status, at);
        value
    }

    fn kfunc(&mut self, insn: Insn, at: usize) {
        let id = self.c(insn.imm.into());
        let [a, b, c, d, e] = self.args();
        let [value, status] = self.call_rt(rt::kfunc as *const (), &[id, a, b, c, d, e], 2);
        self.checked(status, at);
        self.set(0, value);
    }

    fn callbacks(&mut self, id: i32, at: usize) -> Value {
        let f = if id == LOOP {
            rt::run_loop as *const ()
        } else {
            rt::for_each as *const ()
        };
        let table = self.c(self.env.table.expose_provenance() as i64);
        let [a, b, c, d] = self.args();
        let [value, status] = self.call_rt(f, &[a, b, c, d, table], 2);
        let (cold, on) = (self.cold(), self.b.create_block());
        self.b.ins().brif(status, cold, &[], on, &[]);
        self.b.switch_to_block(cold);
        self.maybe_noted(status, at);
        self.b.switch_to_block(on);
        value
    }

    /// Goes on when there is nothing to call; otherwise the other program's result is this function's.
    fn tail_call(&mut self, at: usize) {
        let [_, map, index] = self.args();
        let [value, status] = self.call_rt(rt::tail_call as *const (), &[map, index], 2);
        let (called, on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(status, called, &[], on, &[]);
        self.b.switch_to_block(called);
        let done = self.c(DONE as i64);
        let ran = self.b.ins().icmp(IntCC::Equal, status, done);
        let cold = self.cold();
        self.b
            .ins()
            .brif(ran, self.exit, &[BlockArg::Value(value)], cold, &[]);
        self.b.switch_to_block(cold);
        self.maybe_noted(status, at);
        self.b.switch_to_block(on);
        let missing = self.c(errno(Errno::NOENT) as i64);
        self.set(0, missing);
    }

    /// Ends the run: with the callee's fault if it has noted one, else with one of this call.
    fn maybe_noted(&mut self, status: Value, at: usize) {
        let bit = self.c(NOTED as i64);
        let noted = self.b.ins().band(status, bit);
        let fault = self.b.ins().bxor(status, noted);
        let own = self.cold();
        self.b
            .ins()
            .brif(noted, self.propagate, &[BlockArg::Value(fault)], own, &[]);
        self.b.switch_to_block(own);
        self.fault_with(fault, at);
    }

    /// `bpf_map_lookup_elem`, inline where the map is known and the key certain to be readable.
    fn lookup(&mut self, at: usize) -> Value {
        let [map, key, ..] = self.env.facts.args(at);
        let Kind::Map(index) = map else {
            return self.helper(LOOKUP, at);
        };
        let Some(map) = self.env.collection.maps.get(index as usize).cloned() else {
            return self.helper(LOOKUP, at);
        };
        let size = map.def().key_size as i32;
        let Some(place) = track::reaches(self.env.collection, key, 0, size, false) else {
            return self.helper(LOOKUP, at);
        };
        if let Some(shape) = map.array_shape() {
            return self.array(&shape, place);
        }
        // A key in a value may change while it is read.
        if map.has_values() && matches!(place, Place::Stack | Place::Packet) {
            return self.find(&map);
        }
        self.helper(LOOKUP, at)
    }

    /// The address of an array's value, or null.
    fn array(&mut self, shape: &ArrayShape, place: Place) -> Value {
        let key = self.reg(2);
        let flags = match place {
            Place::Stack => self.regions.stack,
            Place::Packet | Place::Mixed => self.regions.packet,
            Place::Value => self.regions.value,
            Place::Ctx(_) => self.regions.vm,
        };
        let index = self.b.ins().load(types::I32, flags, key, 0);
        let index = self.b.ins().uextend(types::I64, index);
        let entries = self.c(shape.entries.into());
        let mut there = self.b.ins().icmp(IntCC::UnsignedLessThan, index, entries);
        let stride = self.c(shape.stride as i64);
        let off = self.b.ins().imul(index, stride);
        let base = self.c(shape.base as i64);
        let mut addr = self.b.ins().iadd(base, off);
        if shape.block != 0 {
            let state = self.state;
            let worker = self.load_vm(types::I64, state, offset::WORKER);
            let cpus = self.c(shape.cpus.into());
            let has = self.b.ins().icmp(IntCC::UnsignedLessThan, worker, cpus);
            there = self.b.ins().band(there, has);
            let block = self.c(shape.block as i64);
            let off = self.b.ins().imul(worker, block);
            addr = self.b.ins().iadd(addr, off);
        }
        let null = self.c(0);
        self.b.ins().select(there, addr, null)
    }

    /// A direct call of the map's own lookup.
    fn find(&mut self, map: &Map) -> Value {
        let state = self.state;
        let map = self.c(std::ptr::from_ref(map).expose_provenance() as i64);
        let key = self.reg(2);
        let worker = self.load_vm(types::I64, state, offset::WORKER);
        let [value, _] = self.call_address(rt::find as *const (), &[map, key, worker], 1);
        value
    }
}
