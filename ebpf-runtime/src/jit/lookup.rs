//! `bpf_map_lookup_elem` inline: arrays always, hash maps where the key's bucket begins with it.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, MemFlagsData, Value, types};

use super::calls::LOOKUP;
use super::facts::Place;
use super::function::Translator;
use super::kind::Kind;
use super::rt;
use super::state::offset;
use super::track;
use crate::maps::{ArrayShape, HashShape, KEY, Map, SEEN, STATE};

/// Longest key that is hashed inline.
const KEY_MAX: usize = 48;

impl Translator<'_, '_> {
    /// A lookup; inline where the map is known and the key certain to be readable.
    pub fn lookup(&mut self, at: usize) -> Value {
        let [map, key, ..] = self.env.facts.args(at);
        let Kind::Map(index) = map else {
            return self.helper(LOOKUP, at);
        };
        let Some(map) = self.env.collection.maps.get(index as usize).cloned() else {
            return self.helper(LOOKUP, at);
        };
        let size = map.def().key_size as i32;
        let place = self
            .env
            .facts
            .key_place(at)
            .or_else(|| track::reaches(self.env.collection, key, 0, size, false));
        let Some(place) = place else {
            return self.helper(LOOKUP, at);
        };
        if let Some(shape) = map.array_shape() {
            return self.array(&shape, place, at);
        }
        // A key in a value may change while it is read.
        if !map.has_values() || !matches!(place, Place::Stack | Place::Packet) {
            return self.helper(LOOKUP, at);
        }
        match map.hash_shape() {
            Some(shape) if shape.key <= KEY_MAX => self.hash(&map, &shape, place, at),
            _ => self.find(&map),
        }
    }

    /// The address of an array's value, or null.
    fn array(&mut self, shape: &ArrayShape, place: Place, at: usize) -> Value {
        let index = self.key_words(4, place, at)[0];
        let stride = self.c(shape.stride as i64);
        let off = self.b.ins().imul(index, stride);
        let base = self.c(shape.base as i64);
        let mut addr = self.b.ins().iadd(base, off);
        let mut there = None;
        if self.env.facts.key_below(at).is_none_or(|end| end > shape.entries) {
            let entries = self.c(shape.entries.into());
            there = Some(self.b.ins().icmp(IntCC::UnsignedLessThan, index, entries));
        }
        if shape.block != 0 {
            let state = self.state;
            let worker = self.load_vm(types::I64, state, offset::WORKER);
            if shape.cpus < self.env.collection.cpus {
                let cpus = self.c(shape.cpus.into());
                let has = self.b.ins().icmp(IntCC::UnsignedLessThan, worker, cpus);
                there = Some(match there {
                    Some(there) => self.b.ins().band(there, has),
                    None => has,
                });
            }
            let block = self.c(shape.block as i64);
            let off = self.b.ins().imul(worker, block);
            addr = self.b.ins().iadd(addr, off);
        }
        match there {
            Some(there) => {
                let null = self.c(0);
                let value = self.b.ins().select(there, addr, null);
                self.present.insert(addr);
                self.flow.nullable.insert(value, (there, addr));
                value
            }
            None => {
                self.present.insert(addr);
                addr
            }
        }
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

    /// The address of a hash map's value, or null. Whatever is not the plain case is left to the map's own lookup: a
    /// bucket that somebody changes, one whose first element has another key, an element of an LRU map that was not
    /// looked up since the hand passed it.
    fn hash(&mut self, map: &Map, shape: &HashShape, place: Place, at: usize) -> Value {
        let shared = MemFlagsData::new().with_notrap().with_aligned();
        let (done, slow) = (self.b.create_block(), self.cold());
        let result = self.b.append_block_param(done, types::I64);
        let null = self.c(0);

        let words = self.key_words(shape.key, place, at);
        let hash = self.hashed(&words, shape.seeds);
        let mask = self.c(shape.mask.into());
        let bucket = self.b.ins().band(hash, mask);
        let bucket = self.b.ins().ishl_imm_s(bucket, 3);
        let bucket = self.b.ins().iadd_imm_s(bucket, shape.buckets as i64);
        // Sequence number and first element in one load: nobody changes one without the other in between.
        let before = self.b.ins().atomic_load(types::I64, shared, bucket);
        let odd = self.b.ins().band_imm_s(before, 1);
        self.unless(odd, slow);
        let link = self.b.ins().ushr_imm_s(before, 32);
        let some = self.b.create_block();
        self.b.ins().brif(link, some, &[], done, &[BlockArg::Value(null)]);
        self.begin(some);
        // Links count from 1.
        let off = self.b.ins().imul_imm_s(link, shape.stride as i64);
        let elem = self
            .b
            .ins()
            .iadd_imm_s(off, shape.elems.wrapping_sub(shape.stride) as i64);

        let header = self.b.ins().load(types::I64, shared, elem, 0);
        let header = self.b.ins().ushr_imm_s(header, 32);
        let mut differs = self.b.ins().bxor(header, hash);
        for (i, word) in words.iter().enumerate() {
            let theirs = self.b.ins().load(types::I64, shared, elem, (KEY + 8 * i) as i32);
            let other = self.b.ins().bxor(theirs, *word);
            differs = self.b.ins().bor(differs, other);
        }
        if shape.lru {
            let state = self.b.ins().load(types::I32, shared, elem, STATE as i32);
            let state = self.b.ins().uextend(types::I64, state);
            let unseen = self.b.ins().bxor_imm_s(state, i64::from(SEEN));
            differs = self.b.ins().bor(differs, unseen);
        }
        let after = self.b.ins().atomic_load(types::I32, shared, bucket);
        let then = self.b.ins().ireduce(types::I32, before);
        let moved = self.b.ins().bxor(after, then);
        let moved = self.b.ins().uextend(types::I64, moved);
        differs = self.b.ins().bor(differs, moved);
        self.unless(differs, slow);
        let value = match &shape.percpu {
            None => self.b.ins().iadd_imm_s(elem, shape.value_at as i64),
            Some(p) => {
                let state = self.state;
                let worker = self.load_vm(types::I64, state, offset::WORKER);
                if p.cpus < self.env.collection.cpus {
                    let has =
                        self.b
                            .ins()
                            .icmp_imm_s(IntCC::UnsignedGreaterThanOrEqual, worker, i64::from(p.cpus));
                    self.unless(has, slow);
                }
                let block = self.b.ins().imul_imm_s(worker, p.block as i64);
                let off = self.b.ins().imul_imm_s(link, p.stride as i64);
                let base = self
                    .b
                    .ins()
                    .iadd_imm_s(block, p.base.wrapping_sub(p.stride) as i64);
                self.b.ins().iadd(base, off)
            }
        };
        self.b.ins().jump(done, &[BlockArg::Value(value)]);

        self.begin(slow);
        let value = self.find(map);
        self.b.ins().jump(done, &[BlockArg::Value(value)]);
        self.begin(done);
        result
    }

    /// Goes to `away` when `condition` is not 0.
    pub fn unless(&mut self, condition: Value, away: Block) {
        let on = self.b.create_block();
        self.b.ins().brif(condition, away, &[], on, &[]);
        self.begin(on);
    }

    /// The key, 8 bytes at a time; the last word is filled up with zeroes.
    fn key_words(&mut self, len: usize, place: Place, at: usize) -> Vec<Value> {
        let own = self.env.facts.frame_offset(at).filter(|_| place == Place::Stack);
        let known: Option<Vec<Value>> = own.and_then(|off| {
            let mut words = (0..len as i32).step_by(8);
            words.try_fold(Vec::new(), |mut all, from| {
                all.push(self.known_word(off + from, (len as i32 - from).min(8))?);
                Some(all)
            })
        });
        match known {
            Some(words) => words,
            None => self.loaded_words(len, place),
        }
    }

    fn loaded_words(&mut self, len: usize, place: Place) -> Vec<Value> {
        let (key, flags) = (self.reg(2), self.flags(place));
        let mut words = Vec::new();
        let mut at = 0;
        while at + 8 <= len {
            words.push(self.b.ins().load(types::I64, flags, key, at as i32));
            at += 8;
        }
        let mut rest: Option<(Value, usize)> = None;
        for (bytes, ty) in [(4, types::I32), (2, types::I16), (1, types::I8)] {
            if len - at < bytes {
                continue;
            }
            let part = self.b.ins().load(ty, flags, key, at as i32);
            let part = self.b.ins().uextend(types::I64, part);
            rest = Some(match rest {
                None => (part, bytes),
                Some((low, below)) => {
                    let part = self.b.ins().ishl_imm_s(part, 8 * below as i64);
                    (self.b.ins().bor(low, part), below + bytes)
                }
            });
            at += bytes;
        }
        words.extend(rest.map(|(word, _)| word));
        words
    }

    /// What the map makes of a key (`Hash::hash`), in 32 bits.
    fn hashed(&mut self, words: &[Value], [first, start]: [u64; 2]) -> Value {
        let first = self.c(first as i64);
        let mut h = self.c(start as i64);
        for pair in words.chunks(2) {
            let a = self.b.ins().bxor(pair[0], first);
            let b = match pair.get(1) {
                Some(second) => self.b.ins().bxor(*second, h),
                None => h,
            };
            let low = self.b.ins().imul(a, b);
            let high = self.b.ins().umulhi(a, b);
            h = self.b.ins().bxor(low, high);
        }
        let high = self.b.ins().ushr_imm_s(h, 32);
        let h = self.b.ins().bxor(h, high);
        let h = self.b.ins().ireduce(types::I32, h);
        self.b.ins().uextend(types::I64, h)
    }
}
