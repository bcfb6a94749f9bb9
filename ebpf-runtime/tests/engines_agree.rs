//! Generated programs do the same on every engine: verdict, frame and map contents.
//!
//! The generator makes programs that are valid by construction: pointers are compared before they are used, registers are
//! set before they are read. `MILLRACE_FUZZ_PROGRAMS`, `MILLRACE_FUZZ_FRAMES` and `MILLRACE_FUZZ_SEED` say how many, on how many
//! frames each, and which. rbpf runs those that it does right.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_ebpf::{
    EngineKind, Frags, Instance, LoadError, Map, MapDef, MapFlags, MapType, Program, XdpBuff,
};

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Numbers at whose neighbours arithmetic changes, and others.
    fn imm(&mut self) -> i32 {
        match self.below(4) {
            0 => self.of(&[0, 1, -1, 2, 31, 32, 63, 64, 255, i32::MAX, i32::MIN]),
            1 => self.below(64) as i32,
            _ => self.next() as i32,
        }
    }
}

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, dst | src << 4, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// Bytes of the frame that programs use, and of each function's stack.
const FRAME: i16 = 64;
const STACK: i16 = 64;
const MAPS: [MapType; 4] = [
    MapType::Array,
    MapType::PercpuArray,
    MapType::Hash,
    MapType::LruHash,
];
const VALUE: i16 = 24;

/// Code in the making. r6 is the frame, r9 the loop's counter; r0 to r5, r7 and r8 hold numbers.
struct Writer {
    dice: Dice,
    code: Vec<[u8; 8]>,
    /// Where calls of the second function are.
    calls: Vec<usize>,
    /// Whether r6 points to a frame.
    frame: bool,
}

const NUMBERS: [u8; 8] = [0, 1, 2, 3, 4, 5, 7, 8];

impl Writer {
    fn push(&mut self, insn: [u8; 8]) {
        self.code.push(insn);
    }

    fn wide(&mut self, dst: u8, src: u8, low: i32, high: i32) {
        self.push(op(0x18, dst, src, 0, low));
        self.push(op(0, 0, 0, 0, high));
    }

    /// Sets r0 to r5 after a call.
    fn numbers(&mut self, registers: &[u8]) {
        for r in registers {
            let (low, high) = (self.dice.imm(), self.dice.imm());
            match self.dice.below(2) {
                0 => self.push(op(0xb7, *r, 0, 0, low)),
                _ => self.wide(*r, 0, low, high),
            }
        }
    }

    fn fill_stack(&mut self) {
        for at in (8..=STACK).step_by(8) {
            let imm = self.dice.imm();
            self.push(op(0x7a, 10, 0, -at, imm));
        }
    }

    fn alu(&mut self) {
        let class = self.dice.of(&[0x04, 0x07]);
        let (d, s) = (self.dice.of(&NUMBERS), self.dice.of(&NUMBERS));
        let bits = if class == 0x07 { 64 } else { 32 };
        match self.dice.below(12) {
            0 => self.push(op(0x80 | class, d, 0, 0, 0)),
            1 => {
                let (code, width) = (self.dice.of(&[0xd4, 0xdc, 0xd7]), self.dice.of(&[16, 32, 64]));
                self.push(op(code, d, 0, 0, width));
            }
            2 => {
                let from = self.dice.of(if bits == 64 {
                    &[0i16, 8, 16, 32][..]
                } else {
                    &[0, 8, 16]
                });
                self.push(op(0xb8 | class, d, s, from, 0));
            }
            3 => {
                let (code, off, imm) = (
                    self.dice.of(&[0x30, 0x90]),
                    self.dice.of(&[0, 1]),
                    self.dice.imm(),
                );
                match self.dice.below(2) {
                    0 => self.push(op(code | class, d, 0, off, imm)),
                    _ => self.push(op(code | 0x08 | class, d, s, off, 0)),
                }
            }
            4 => {
                let code = self.dice.of(&[0x60, 0x70, 0xc0]);
                let by = self.dice.below(bits) as i32;
                match self.dice.below(2) {
                    0 => self.push(op(code | class, d, 0, 0, by)),
                    _ => self.push(op(code | 0x08 | class, d, s, 0, 0)),
                }
            }
            _ => {
                let code = self.dice.of(&[0x00, 0x10, 0x20, 0x40, 0x50, 0xa0, 0xb0]);
                let imm = self.dice.imm();
                match self.dice.below(2) {
                    0 => self.push(op(code | class, d, 0, 0, imm)),
                    _ => self.push(op(code | 0x08 | class, d, s, 0, 0)),
                }
            }
        }
    }

    /// A load or store, in the frame or on the stack.
    fn memory(&mut self) {
        let frame = self.frame && self.dice.below(2) == 0;
        let (size, len) = self.dice.of(&[(0x10u8, 1i16), (0x08, 2), (0x00, 4), (0x18, 8)]);
        let (base, at) = if frame {
            (6, self.dice.below((FRAME - len + 1) as u64) as i16)
        } else {
            // Anywhere, also across the eight-byte slots that the verifier keeps.
            (10, -STACK + self.dice.below((STACK - len + 1) as u64) as i16)
        };
        let r = self.dice.of(&NUMBERS);
        let imm = self.dice.imm();
        match self.dice.below(4) {
            0 => self.push(op(0x61 | size, r, base, at, 0)),
            1 if len != 8 => self.push(op(0x81 | size, r, base, at, 0)),
            2 => self.push(op(0x62 | size, base, 0, at, imm)),
            _ => self.push(op(0x63 | size, base, r, at, 0)),
        }
    }

    fn atomic(&mut self) {
        let (code, len) = self.dice.of(&[(0xc3u8, 4i16), (0xdb, 8)]);
        let at = -STACK + len * self.dice.below((STACK / len) as u64) as i16;
        let kind = self
            .dice
            .of(&[0, 1, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1]);
        let r = self.dice.of(&NUMBERS);
        self.push(op(code, 10, r, at, kind));
    }

    /// Looks a key up in a map, and changes the value or puts one there.
    fn map(&mut self) {
        let map = self.dice.below(MAPS.len() as u64) as usize;
        let key = self.dice.below(10) as i32;
        match self.dice.below(2) {
            0 => self.push(op(0x62, 10, 0, -4, key)),
            _ => {
                let r = self.dice.of(&NUMBERS);
                self.push(op(0x57, r, 0, 0, 7));
                self.push(op(0x63, 10, r, -4, 0));
            }
        }
        self.wide(1, 5, map as i32, 0);
        self.push(op(0xbf, 2, 10, 0, 0));
        self.push(op(0x07, 2, 0, 0, -4));
        if self.dice.below(4) == 0 {
            // Update: the value is the stack's lower part.
            self.push(op(0xbf, 3, 10, 0, 0));
            self.push(op(0x07, 3, 0, 0, -(STACK as i32)));
            let flags = self.dice.below(3) as i32;
            self.push(op(0xb7, 4, 0, 0, flags));
            self.push(op(0x85, 0, 0, 0, 2));
            self.numbers(&[1, 2, 3, 4, 5]);
            return;
        }
        self.push(op(0x85, 0, 0, 0, 1));
        self.numbers(&[1, 2, 3, 4, 5]);
        let (size, len) = self.dice.of(&[(0x10u8, 1i16), (0x08, 2), (0x00, 4), (0x18, 8)]);
        let at = self.dice.below((VALUE - len + 1) as u64) as i16;
        let aligned = at / 8 * 8;
        let r = self.dice.of(&[1, 2, 3, 4, 5, 7, 8]);
        let kind = self.dice.of(&[0, 1, 0x41, 0x51, 0xa1, 0xe1]);
        let access = match self.dice.below(3) {
            0 => op(0x61 | size, r, 0, at, 0),
            1 => op(0x63 | size, 0, r, at, 0),
            _ => op(0xdb, 0, r, aligned, kind),
        };
        self.push(op(0x15, 0, 0, 1, 0));
        self.push(access);
        self.numbers(&[0]);
    }

    /// Skips a few instructions, or not.
    fn branch(&mut self, depth: u32) {
        let code = self
            .dice
            .of(&[0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0]);
        let class = self.dice.of(&[0x05, 0x06]);
        let (d, s, imm) = (self.dice.of(&NUMBERS), self.dice.of(&NUMBERS), self.dice.imm());
        let at = self.code.len();
        match self.dice.below(2) {
            0 => self.push(op(code | class, d, 0, 0, imm)),
            _ => self.push(op(code | 0x08 | class, d, s, 0, 0)),
        }
        self.some(depth + 1);
        let skip = (self.code.len() - at - 1) as i16;
        self.code[at][2..4].copy_from_slice(&skip.to_le_bytes());
        if self.dice.below(2) == 0 {
            // An else: the end of the first part jumps over the second.
            let jump = self.code.len();
            self.push(op(0x05, 0, 0, 0, 0));
            self.code[at][2..4].copy_from_slice(&(skip + 1).to_le_bytes());
            self.some(depth + 1);
            let over = (self.code.len() - jump - 1) as i16;
            self.code[jump][2..4].copy_from_slice(&over.to_le_bytes());
        }
    }

    /// A loop of a few turns; not inside another.
    fn turns(&mut self) {
        let count = self.dice.below(5) as i32 + 1;
        let (class, test) = self.dice.of(&[(0x07, 0x05), (0x04, 0x06)]);
        let up = self.dice.below(2) == 0;
        self.push(op(0xb0 | class, 9, 0, 0, if up { 0 } else { count }));
        let head = self.code.len();
        self.some(2);
        match self.dice.below(3) {
            0 if !up => self.push(op(0x10 | class, 9, 0, 0, 1)),
            _ => self.push(op(class, 9, 0, 0, if up { 1 } else { -1 })),
        }
        if up && self.frame && self.dice.below(2) == 0 {
            // What the counter is added to is another place in each turn.
            self.push(op(0xbf, 1, 6, 0, 0));
            self.push(op(0x0f, 1, 9, 0, 0));
            let r = self.dice.of(&[2, 3, 4, 5]);
            match self.dice.below(2) {
                0 => self.push(op(0x71, r, 1, 0, 0)),
                _ => self.push(op(0x73, 1, r, 0, 0)),
            }
            self.numbers(&[1]);
        }
        let back = |p: &Writer| (head as i64 - p.code.len() as i64 - 1) as i16;
        let end = if up { count } else { 0 };
        match self.dice.below(3) {
            0 => {
                // Compilers also jump over the jump back.
                self.push(op(0x10 | test, 9, 0, 1, end));
                let by = back(self);
                self.push(op(0x05, 0, 0, by, 0));
            }
            1 if up => {
                let by = back(self);
                self.push(op(0xa0 | test, 9, 0, by, end));
            }
            _ => {
                let by = back(self);
                self.push(op(0x50 | test, 9, 0, by, end));
            }
        }
    }

    /// Moves bytes of the frame as compilers do that know no alignment: one at a time, or put together and taken apart by
    /// shifts; at times through a pointer of its own, at times with others in between.
    fn bytes(&mut self) {
        let (from, to) = (self.dice.below(40) as i16, self.dice.below(40) as i16);
        let count = 2 + self.dice.below(7) as i16;
        let mut order: Vec<i16> = (0..count).collect();
        if self.dice.below(3) == 0 {
            order.reverse();
        }
        let base = self.dice.of(&[6, 6, 5]);
        let mut off = 0;
        if base == 5 {
            off = self.dice.of(&[0, 3, 8]);
            self.push(op(0xbf, 5, 6, 0, 0));
            self.push(op(0x07, 5, 0, 0, off.into()));
        }
        if self.dice.below(2) == 0 {
            for i in order {
                match self.dice.below(8) {
                    0 => {
                        let (at, imm) = (self.dice.below(56) as i16, self.dice.imm());
                        let code = self.dice.of(&[0x72, 0x6a, 0x62]);
                        self.push(op(code, 6, 0, at, imm));
                    }
                    1 => {
                        let at = self.dice.below(56) as i16;
                        let code = self.dice.of(&[0x71, 0x69, 0x61]);
                        self.push(op(code, 4, 6, at, 0));
                    }
                    _ => {}
                }
                self.push(op(0x71, 1, 6, from + i, 0));
                self.push(op(0x73, base, 1, to - off.min(to) + i, 0));
            }
        } else {
            let class = self.dice.of(&[0x04, 0x07]);
            let count = if class == 0x04 { count.min(4) } else { count };
            self.push(op(0x71, 1, 6, from, 0));
            for i in 1..count {
                let next = if self.dice.below(8) == 0 { 0 } else { i };
                self.push(op(0x71, 2, 6, from + next, 0));
                self.push(op(0x60 | class, 2, 0, 0, i32::from(i) * 8));
                self.push(op(0x48 | class, 1, 2, 0, 0));
            }
            match self.dice.below(4) {
                0 => {
                    let width = self.dice.of(&[16, 32, 64]);
                    self.push(op(0xdc, 1, 0, 0, width));
                }
                1 => {
                    let mask = self.dice.of(&[0xff, 0xffff, 0xff00, -256, 0xff_ffff]);
                    self.push(op(0x57, 1, 0, 0, mask));
                }
                _ => {}
            }
            for i in 0..count {
                self.push(op(0xbf, 2, 1, 0, 0));
                self.push(op(0x70 | class, 2, 0, 0, i32::from(i) * 8));
                let place = self.dice.of(&[base, base, 10]);
                let at = if place == 10 {
                    i - STACK
                } else {
                    to - off.min(to) + i
                };
                self.push(op(0x73, place, 2, at, 0));
            }
        }
        let r = self.dice.of(&[2, 3]);
        let (size, len) = self.dice.of(&[(0x10u8, 1i16), (0x08, 2), (0x00, 4), (0x18, 8)]);
        let at = (to + self.dice.below(4) as i16).min(FRAME - len);
        self.push(op(0x61 | size, r, 6, at, 0));
        self.numbers(&[5]);
    }

    /// Moves the frame's head; what r6 was is found anew.
    fn adjust(&mut self) {
        let by = self.dice.of(&[-8, 4, -14, 300, -300]);
        self.push(op(0x79, 1, 10, -STACK - 8, 0));
        self.push(op(0xb7, 2, 0, 0, by));
        let helper = self.dice.of(&[44, 44, 65]);
        self.push(op(0x85, 0, 0, 0, helper));
        self.find_frame();
        self.numbers(&[1, 2, 3, 4, 5, 7]);
    }

    /// r6 = data, or the end of the program with verdict 1 when the frame is too short.
    fn find_frame(&mut self) {
        self.push(op(0x79, 1, 10, -STACK - 8, 0));
        self.push(op(0x61, 6, 1, 0, 0));
        self.push(op(0x61, 7, 1, 4, 0));
        self.push(op(0xbf, 2, 6, 0, 0));
        self.push(op(0x07, 2, 0, 0, FRAME.into()));
        match self.dice.below(2) {
            0 => self.push(op(0xbd, 2, 7, 2, 0)),
            _ => self.push(op(0x3d, 7, 2, 2, 0)),
        }
        self.push(op(0xb7, 0, 0, 0, 1));
        self.push(op(0x95, 0, 0, 0, 0));
    }

    /// Copies bytes between the frame, wherever they lie in it, and the stack.
    fn copy(&mut self) {
        let offset = self.dice.below(200) as i32;
        let len = self.dice.below(STACK as u64 + 1) as i32;
        self.push(op(0x79, 1, 10, -STACK - 8, 0));
        self.push(op(0xb7, 2, 0, 0, offset));
        self.push(op(0xbf, 3, 10, 0, 0));
        self.push(op(0x07, 3, 0, 0, -(STACK as i32)));
        self.push(op(0xb7, 4, 0, 0, len.max(1)));
        let helper = self.dice.of(&[189, 190]);
        self.push(op(0x85, 0, 0, 0, helper));
        self.numbers(&[1, 2, 3, 4, 5]);
    }

    fn helper(&mut self) {
        let id = self.dice.of(&[5, 7, 8, 125, 188]);
        if id == 188 {
            if !self.frame {
                return;
            }
            self.push(op(0x79, 1, 10, -STACK - 8, 0));
        }
        self.push(op(0x85, 0, 0, 0, id));
        self.numbers(&[1, 2, 3, 4, 5]);
    }

    fn some(&mut self, depth: u32) {
        for _ in 0..1 + self.dice.below(6) {
            match self.dice.below(28) {
                0..=10 => self.alu(),
                11..=15 => self.memory(),
                16 | 17 => self.atomic(),
                18 if depth < 3 => self.branch(depth),
                19 if depth == 0 => self.turns(),
                20 if depth < 2 => self.map(),
                21 if self.frame && depth == 0 => self.adjust(),
                22 => self.helper(),
                26 if self.frame => self.copy(),
                24 | 25 if self.frame => self.bytes(),
                23 if self.frame && depth < 2 => {
                    self.calls.push(self.code.len());
                    self.push(op(0x85, 0, 1, 0, 0));
                    self.numbers(&[1, 2, 3, 4, 5]);
                }
                _ => self.alu(),
            }
        }
    }
}

/// A program of two functions; the second takes numbers and has no frame.
fn generate(seed: u64) -> Vec<u8> {
    let mut p = Writer {
        dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        code: Vec::new(),
        calls: Vec::new(),
        frame: true,
    };
    p.push(op(0x7b, 10, 1, -STACK - 8, 0));
    p.find_frame();
    p.fill_stack();
    p.numbers(&NUMBERS);
    for _ in 0..4 {
        p.some(0);
    }
    // The result: every number, in the frame's first bytes and the verdict.
    for r in [1, 2, 3, 4, 5, 7, 8] {
        p.push(op(0x27, 0, 0, 0, 31));
        p.push(op(0xaf, 0, r, 0, 0));
    }
    p.push(op(0x7b, 6, 0, 0, 0));
    p.push(op(0x57, 0, 0, 0, 3));
    p.push(op(0x95, 0, 0, 0, 0));
    if !p.calls.is_empty() {
        let function = p.code.len();
        p.frame = false;
        p.fill_stack();
        p.numbers(&[0, 7, 8]);
        p.some(0);
        p.some(1);
        p.push(op(0x95, 0, 0, 0, 0));
        for at in p.calls.clone() {
            let to = function as i32 - at as i32 - 1;
            p.code[at][4..8].copy_from_slice(&to.to_le_bytes());
        }
    }
    p.code.concat()
}

fn maps() -> Vec<Arc<Map>> {
    let make = |kind: &MapType| {
        let def = MapDef {
            name: format!("{kind:?}"),
            kind: *kind,
            key_size: 4,
            value_size: VALUE as u32,
            max_entries: 6,
            flags: 0,
        };
        let map = Arc::new(Map::new(&def, 1).unwrap());
        for key in 0..4u32 {
            let value = [key as u8 + 1; VALUE as usize];
            map.update(&key.to_ne_bytes(), &value, MapFlags::Any).unwrap();
        }
        map
    };
    MAPS.iter().map(make).collect()
}

fn contents(maps: &[Arc<Map>]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let sorted = |map: &Arc<Map>| {
        let mut all: Vec<_> = map.iter().collect();
        all.sort();
        all
    };
    // Which entry an LRU map evicts depends on nothing else here, but its order of keys does.
    maps.iter().map(sorted).collect()
}

struct Side {
    engine: EngineKind,
    instance: Instance,
    maps: Vec<Arc<Map>>,
}

/// What a run left behind: verdict, the first buffer, where the frame lies in it, and the later buffers with their lengths.
type Left = (u32, millrace_ebpf::Fault, Vec<u8>, usize, Vec<Vec<u8>>);

/// Runs a program on a frame; what lies behind the first `head` bytes is in two further buffers.
fn run(instance: &mut Instance, frame: &[u8], head: usize) -> Left {
    let (first, later) = frame.split_at(head.min(frame.len()));
    let mut buffer = vec![0u8; 512];
    buffer[128..128 + first.len()].copy_from_slice(first);
    let mut frags = Frags::default();
    let (second, third) = later.split_at(later.len() / 2);
    if !later.is_empty() {
        frags.push(second, 0);
        frags.push(third, 9);
    }
    let (verdict, at, len) = {
        let mut buf = XdpBuff::new(&mut buffer, 128, first.len(), 0, &[]);
        let verdict = match later.is_empty() {
            true => instance.run_one(&mut buf),
            false => instance.run_frags(&mut buf, &mut frags),
        };
        (verdict, buf.data_offset(), buf.len())
    };
    let rest = (0..frags.count()).map(|k| frags.part(k).to_vec()).collect();
    (verdict.raw, verdict.fault, buffer, at * 1000 + len, rest)
}

/// Engines that refuse what they do not do right.
const FOREIGN: [EngineKind; 2] = [EngineKind::Rbpf, EngineKind::RbpfInterp];

#[test]
fn generated_programs_do_the_same_on_every_engine() {
    let test = "generated_programs_do_the_same_on_every_engine";
    let mut engines = EngineKind::available();
    if engines.len() < 2 {
        println!("SKIP {test}: this build has one engine");
        return;
    }
    engines.extend(FOREIGN);
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok().and_then(|n| n.parse().ok());
        given.unwrap_or(otherwise)
    };
    let programs = number("MILLRACE_FUZZ_PROGRAMS", 300);
    let first = number("MILLRACE_FUZZ_SEED", 1);
    let frames_each = number("MILLRACE_FUZZ_FRAMES", 20);
    let (mut runs, mut long, mut verified, mut foreign, mut several) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + programs {
        let code = generate(seed);
        let mut sides: Vec<Side> = Vec::new();
        for engine in &engines {
            let maps = maps();
            let program = Program::from_bytecode("generated", &code, &maps, 1)
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            // The verifier refuses a few things that are harmless, such as a division by the constant zero.
            let proven = program.verify().is_ok();
            verified += u64::from(proven && *engine == EngineKind::Interp);
            let mut instance = match program.instance_unverified_on(*engine, 0) {
                Ok(instance) => instance,
                Err(LoadError::EngineRefused { reason, .. }) if FOREIGN.contains(engine) => {
                    *refused.entry(reason).or_default() += 1;
                    continue;
                }
                Err(LoadError::EngineUnavailable(..)) if FOREIGN.contains(engine) => continue,
                Err(e) => panic!("seed {seed}: {e}"),
            };
            instance.fix_environment(1_000_000_007 * seed, seed);
            sides.push(Side {
                engine: *engine,
                instance,
                maps,
            });
        }
        let mut dice = Dice(seed | 1 << 63);
        for n in 0..frames_each {
            let len = if n % 7 == 6 {
                dice.below(70)
            } else {
                64 + dice.below(100)
            };
            let frame: Vec<u8> = (0..len).map(|_| dice.next() as u8).collect();
            let head = if n % 4 == 3 {
                64 + dice.below(30) as usize
            } else {
                frame.len()
            };
            several += u64::from(head < frame.len());
            let (one, others) = sides.split_first_mut().unwrap();
            let want = run(&mut one.instance, &frame, head);
            for other in others {
                let got = run(&mut other.instance, &frame, head);
                assert!(
                    got == want,
                    "seed {seed}, frame {n}: {} gives {} {:?}, {} gives {} {:?}\n{:02x?} {:02x?}\n{:02x?} {:02x?}",
                    one.engine.name(),
                    want.0,
                    want.1,
                    other.engine.name(),
                    got.0,
                    got.1,
                    want.2,
                    want.4,
                    got.2,
                    got.4
                );
                let theirs = FOREIGN.contains(&other.engine);
                runs += u64::from(!theirs);
                foreign += u64::from(theirs);
            }
            long += u64::from(want.0 != 1);
            assert_eq!(
                want.1,
                millrace_ebpf::Fault::None,
                "seed {seed}: {:?}",
                one.instance.last_fault()
            );
        }
        let want = contents(&sides[0].maps);
        for side in &sides[1..] {
            assert!(
                contents(&side.maps) == want,
                "seed {seed}: maps on {}",
                side.engine.name()
            );
        }
    }
    println!(
        "{programs} programs, {verified} verified, {runs} comparisons, {long} past the length check, {several} frames of several \
         buffers"
    );
    println!("rbpf: {foreign} comparisons; programs that it refuses:");
    for (reason, n) in &refused {
        println!("  {n}: {reason}");
    }
    assert!(several > 0, "some frames must take several buffers");
    assert!(long * 3 > runs, "most programs must do something");
}
