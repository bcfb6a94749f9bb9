//! Random programs that are mostly valid: statements that a compiler could have written, glued together, and then now
//! and then one instruction changed. Programs name maps by their index in [`MAPS`].
#![allow(dead_code)]

/// Maps that programs use: an array of 64-byte values, a hash of 16-byte values, a ring, a read-only array.
pub const ARRAY: i32 = 0;
pub const HASH: i32 = 1;
pub const RING: i32 = 2;
pub const FIXED: i32 = 3;

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

type Slot = [u8; 8];

fn slot(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Slot {
    let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, dst | src << 4, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// Registers by convention: r6 context, r7 data, r8 data_end, r9 a map value or a counter; r0 to r5 numbers.
struct Writer<'a> {
    random: &'a mut Random,
    code: Vec<Slot>,
    /// Bytes of the packet that were compared with data_end.
    proven: i16,
    callbacks: bool,
    /// Calls of functions that are written at the end: place of the call, kind of function.
    calls: Vec<(usize, u8)>,
    depth: u32,
    in_function: bool,
}

const NUMBERS: [u8; 6] = [0, 1, 2, 3, 4, 5];
const SIZES: [(u8, i16); 4] = [(0x10, 1), (0x08, 2), (0x00, 4), (0x18, 8)];

/// One program. `callbacks` allows `bpf_loop`, which needs type information in the kernel.
pub fn program(random: &mut Random, callbacks: bool) -> Vec<u8> {
    let mut w = Writer {
        random,
        code: Vec::new(),
        proven: 0,
        callbacks,
        calls: Vec::new(),
        depth: 0,
        in_function: false,
    };
    w.put(0xbf, 6, 1, 0, 0);
    w.packet();
    w.numbers();
    let count = 2 + w.random.below(9);
    for _ in 0..count {
        w.statement();
    }
    w.put(0xb7, 0, 0, 0, 2);
    w.put(0x95, 0, 0, 0, 0);
    w.functions();
    let mut code = w.code;
    if random.chance(40) {
        for _ in 0..1 + random.below(2) {
            mutate(random, &mut code);
        }
    }
    code.concat()
}

/// Changes one instruction.
fn mutate(random: &mut Random, code: &mut [Slot]) {
    let at = random.below(code.len() as u64) as usize;
    let one = &mut code[at];
    // What ends a loop stays: else too many programs only show how long a loop can be walked.
    let jumps_back = matches!(one[0] & 7, 5 | 6) && one[0] != 0x85 && one[3] & 0x80 != 0;
    if jumps_back || (one[0] == 0x07 && one[1] == 9) || one[..2] == [0xb7, 9] {
        return;
    }
    match random.below(7) {
        0 => one[1] = one[1] & 0xf0 | random.below(11) as u8,
        1 => one[1] = one[1] & 0x0f | (random.below(11) as u8) << 4,
        2 if !matches!(one[0] & 7, 5 | 6) => {
            let off = i16::from_le_bytes([one[2], one[3]]).wrapping_add(random.pick(&[-8, -4, -1, 1, 4, 8]));
            one[2..4].copy_from_slice(&off.to_le_bytes());
        }
        3 => {
            let imm = random.pick(&[0, 1, -1, 7, 8, 14, 31, 63, 64, 255, 512, i32::MAX, i32::MIN]);
            one[4..8].copy_from_slice(&imm.to_le_bytes());
        }
        4 if one[0] & 7 >= 4 => {
            one[0] =
                one[0] & 0x0f | random.pick(&[0x00, 0x10, 0x20, 0x30, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0])
        }
        5 if one[0] & 7 == 4 || one[0] & 7 == 7 => one[0] ^= 3,
        5 if one[0] & 7 == 5 || one[0] & 7 == 6 => one[0] ^= 3,
        // Nothing happens instead.
        _ if one[0] != 0x18 && one[0] != 0 => *one = slot(0xbf, 6, 6, 0, 0),
        _ => {}
    }
}

impl Writer<'_> {
    fn put(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.code.push(slot(code, dst, src, off, imm));
    }

    fn number(&mut self) -> u8 {
        self.random.pick(&NUMBERS)
    }

    fn constant(&mut self) -> i32 {
        match self.random.below(6) {
            0 => self.random.next() as i32,
            1 => -(self.random.below(20) as i32),
            2 => 1 << self.random.below(31),
            _ => self.random.below(70) as i32,
        }
    }

    /// data, data_end, and how much of it there is.
    fn packet(&mut self) {
        self.put(0x61, 7, 6, 0, 0);
        self.put(0x61, 8, 6, 4, 0);
        self.proven = self.random.pick(&[14, 20, 34, 34, 54]);
        self.put(0xbf, 2, 7, 0, 0);
        self.put(0x07, 2, 0, 0, self.proven.into());
        if self.random.chance(85) {
            let (code, dst, src) =
                self.random
                    .pick(&[(0xbd, 2, 8), (0xbd, 2, 8), (0xad, 2, 8), (0x3d, 8, 2)]);
            self.put(code, dst, src, 2, 0);
        } else {
            self.put(0xbd, 2, 8, 2, 0);
        }
        self.put(0xb7, 0, 0, 0, 1);
        self.put(0x95, 0, 0, 0, 0);
    }

    /// Numbers in r0 to r5 and r9.
    fn numbers(&mut self) {
        for n in [0, 1, 2, 3, 4, 5, 9] {
            if self.random.chance(12) {
                self.wide(n);
            } else if n != 9 && self.proven > 0 && self.random.chance(50) {
                let (size, bytes) = self.random.pick(&SIZES);
                let off = self.random.below((self.proven - bytes + 1) as u64) as i16;
                self.put(0x61 | size, n, 7, off, 0);
            } else {
                let imm = self.constant();
                let code = self.random.pick(&[0xb7, 0xb4]);
                self.put(code, n, 0, 0, imm);
            }
        }
    }

    /// A number of 64 bits at the edge of something: where its halves, or their signs, differ.
    fn wide(&mut self, dst: u8) {
        let edge = self.random.pick(&[
            1 << 32,
            0xffff_ffff_0000_0000,
            0x7fff_ffff_0000_0000,
            i64::MIN as u64,
            i64::MAX as u64,
            0x8000_0000,
            0x7fff_ffff,
            u32::MAX.into(),
            0xffff_ffff_8000_0000,
            0x1_ffff_ffff,
        ]);
        let value = edge.wrapping_add(self.random.below(3)).wrapping_sub(1);
        self.put(0x18, dst, 0, 0, value as i32);
        self.put(0, 0, 0, 0, (value >> 32) as i32);
    }

    /// After a call r0 to r5 are gone.
    fn again(&mut self) {
        for n in NUMBERS {
            if self.random.chance(6) {
                self.wide(n);
                continue;
            }
            let imm = self.constant();
            self.put(0xb7, n, 0, 0, imm);
        }
    }

    fn map(&mut self, dst: u8, map: i32) {
        self.put(0x18, dst, 5, 0, map);
        self.put(0, 0, 0, 0, 0);
    }

    fn statement(&mut self) {
        match self.random.below(20) {
            0..5 => self.alu(),
            5 => self.packet_load(),
            6 => self.packet_walk(),
            7 | 8 => self.stack(),
            9 => self.spill(),
            10 | 11 => self.lookup(),
            12 | 13 => self.branch(),
            14 => self.counted(),
            15 => self.helper(),
            16 => self.call(),
            17 => self.ring(),
            18 => self.fixed(),
            _ => self.adjust(),
        }
    }

    fn alu(&mut self) {
        let d = self.number();
        let s = self.number();
        let op = self.random.pick(&[
            0x00u8, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0,
        ]);
        let class = self.random.pick(&[0x04u8, 0x07]);
        let width = if class == 7 { 64 } else { 32 };
        match op {
            0x80 => self.put(op | class, d, 0, 0, 0),
            0xd0 => {
                let bits = self.random.pick(&[16, 32, 64]);
                let code = self.random.pick(&[0xd4, 0xdc, 0xd7]);
                self.put(code, d, 0, 0, bits);
            }
            0x60 | 0x70 | 0xc0 if self.random.chance(80) => {
                let by = match self.random.below(4) {
                    0 if width == 64 => 32,
                    _ => self.random.below(width) as i32,
                };
                self.put(op | class, d, 0, 0, by);
            }
            0xb0 if self.random.chance(30) => {
                let from: i16 = self.random.pick(&[8, 16]);
                self.put(op | class | 8, d, s, from, 0);
            }
            0x30 | 0x90 => {
                let signed = i16::from(self.random.chance(25));
                let imm = self.constant().wrapping_abs().max(1);
                if self.random.chance(50) {
                    self.put(op | class | 8, d, s, signed, 0);
                } else {
                    self.put(op | class, d, 0, signed, imm);
                }
            }
            _ if self.random.chance(50) => self.put(op | class | 8, d, s, 0, 0),
            _ => {
                let imm = self.constant();
                self.put(op | class, d, 0, 0, imm);
            }
        }
    }

    fn packet_load(&mut self) {
        let (size, bytes) = self.random.pick(&SIZES);
        let most = (self.proven - bytes).max(0) as u64;
        let slack = u64::from(self.random.chance(4)) * 3;
        let off = self.random.below(most + 1 + slack) as i16;
        let n = self.number();
        if self.random.chance(60) {
            self.put(0x61 | size, n, 7, off, 0);
        } else {
            self.put(0x63 | size, 7, n, off, 0);
        }
    }

    /// A pointer into the packet by a number out of it.
    fn packet_walk(&mut self) {
        let mask = self.random.pick(&[0x3c, 0x0f, 0xff, 0x7f, 0x3ff]);
        if self.random.chance(80) {
            self.put(0x57, 1, 0, 0, mask);
        } else {
            self.put(0xa5, 1, 0, 1, mask);
            self.put(0xb7, 1, 0, 0, 8);
        }
        self.put(0xbf, 2, 7, 0, 0);
        self.put(0x0f, 2, 1, 0, 0);
        let need = 1 + self.random.below(12) as i16;
        self.put(0xbf, 3, 2, 0, 0);
        self.put(0x07, 3, 0, 0, need.into());
        let (code, dst, src) = self.random.pick(&[(0x2d, 3, 8), (0xad, 8, 3), (0x3d, 3, 8)]);
        self.put(code, dst, src, 1, 0);
        let (size, bytes) = self.random.pick(&SIZES);
        let off = self.random.below((need - bytes).max(0) as u64 + 1) as i16;
        self.put(0x61 | size, 1, 2, off, 0);
        self.put(0xb7, 2, 0, 0, 0);
        self.put(0xb7, 3, 0, 0, 0);
    }

    fn stack(&mut self) {
        let (size, bytes) = self.random.pick(&SIZES);
        let place = (1 + self.random.below(64 / bytes as u64)) as i16 * -bytes;
        let n = self.number();
        match self.random.below(4) {
            0 => {
                let imm = self.constant();
                self.put(0x62 | size, 10, 0, place, imm);
            }
            1 | 2 => self.put(0x63 | size, 10, n, place, 0),
            _ => {
                self.put(0x63 | size, 10, n, place, 0);
                // At a place that a number says.
                self.put(0x57, 1, 0, 0, 0x18);
                self.put(0xbf, 2, 10, 0, 0);
                self.put(0x0f, 2, 1, 0, 0);
                for at in [-64, -56, -48, -40] {
                    self.put(0x7a, 10, 0, at, 0);
                }
                if self.random.chance(50) {
                    self.put(0x79, 1, 2, -64, 0);
                } else {
                    self.put(0x7b, 2, 3, -64, 0);
                }
                self.put(0xb7, 2, 0, 0, 5);
            }
        }
        if self.random.chance(60) {
            let to = self.number();
            self.put(0x61 | size, to, 10, place, 0);
        }
    }

    /// Saves a pointer and a number, and takes them back.
    fn spill(&mut self) {
        let at = -72 - 8 * self.random.below(4) as i16;
        let what = self.random.pick(&[6u8, 7, 8, 7, 1, 2]);
        self.put(0x7b, 10, what, at, 0);
        if self.random.chance(30) {
            self.branch();
        }
        if what >= 6 {
            self.put(0x79, what, 10, at, 0);
        } else {
            let to = self.number();
            let code = self.random.pick(&[0x79, 0x79, 0x61, 0x71]);
            self.put(code, to, 10, at, 0);
        }
    }

    fn key(&mut self) {
        if self.random.chance(60) {
            let key = self.random.below(5) as i32;
            self.put(0x62, 10, 0, -4, key);
        } else {
            self.put(0x63, 10, 1, -4, 0);
        }
        self.put(0xbf, 2, 10, 0, 0);
        self.put(0x07, 2, 0, 0, -4);
    }

    fn lookup(&mut self) {
        let map = self.random.pick(&[ARRAY, ARRAY, HASH]);
        let size: i16 = if map == ARRAY { 64 } else { 16 };
        self.put(0xbf, 9, 3, 0, 0);
        self.key();
        self.map(1, map);
        self.put(0x85, 0, 0, 0, 1);
        let start = self.code.len();
        let checked = self.random.chance(95);
        self.put(if checked { 0x15 } else { 0x25 }, 0, 0, 0, 0);
        let (width, bytes) = self.random.pick(&SIZES);
        let slack = u64::from(self.random.chance(4)) * 8;
        let off = self.random.below((size - bytes) as u64 + 1 + slack) as i16 / bytes * bytes;
        match self.random.below(5) {
            0 => {
                self.put(0xb7, 1, 0, 0, 1);
                let op = self.random.pick(&[0x00, 0x01, 0x40, 0x51, 0xa1, 0xe1]);
                let code = self.random.pick(&[0xdb, 0xc3]);
                self.put(code, 0, 1, off / 8 * 8, op);
            }
            1 => {
                // An index that is bounded by a mask or a comparison.
                let bound = self.random.pick(&[7, 15, 31, 48, 56]).min(i32::from(size));
                if self.random.chance(50) {
                    self.put(0x57, 9, 0, 0, bound);
                } else {
                    let code = self.random.pick(&[0x25, 0x26, 0x35, 0x65]);
                    self.put(code, 9, 0, 3, bound);
                }
                self.put(0x0f, 0, 9, 0, 0);
                self.put(0x71, 1, 0, 0, 0);
                self.put(0x73, 0, 1, 0, 0);
            }
            2 => self.put(0x62 | width, 0, 0, off, 77),
            _ => {
                self.put(0x61 | width, 1, 0, off, 0);
                self.put(0x63 | width, 0, 1, off, 0);
            }
        }
        self.land(start);
        self.again();
        self.put(0xb7, 9, 0, 0, 3);
    }

    /// The jump at `start` goes to what comes next.
    fn land(&mut self, start: usize) {
        let off = (self.code.len() - start - 1) as i16;
        self.code[start][2..4].copy_from_slice(&off.to_le_bytes());
    }

    fn branch(&mut self) {
        if self.depth > 3 {
            return self.alu();
        }
        let (a, b) = (self.number(), self.number());
        let op = self
            .random
            .pick(&[0x15u8, 0x25, 0x35, 0x45, 0x55, 0x65, 0x75, 0xa5, 0xb5, 0xc5, 0xd5]);
        // Half of them judge the lower 32 bits alone: class 6 instead of 5.
        let op = if self.random.chance(50) { op } else { op ^ 3 };
        let start = self.code.len();
        if self.random.chance(60) {
            let imm = self.constant();
            self.put(op, a, 0, 0, imm);
        } else {
            self.put(op | 8, a, b, 0, 0);
        }
        self.depth += 1;
        for _ in 0..1 + self.random.below(3) {
            self.statement();
        }
        self.depth -= 1;
        if self.random.chance(40) {
            // Something else on the other side.
            let over = self.code.len();
            self.put(0x05, 0, 0, 0, 0);
            self.land(start);
            self.alu();
            self.alu();
            self.land(over);
        } else {
            self.land(start);
        }
    }

    /// A loop that a counter ends.
    fn counted(&mut self) {
        // The kernel takes minutes over some loops.
        if self.depth > 1 || !self.callbacks {
            return self.alu();
        }
        let turns = 1 + self.random.below(9) as i32;
        self.put(0xb7, 9, 0, 0, 0);
        let start = self.code.len();
        self.alu();
        if self.random.chance(40) {
            self.depth += 2;
            self.branch();
            self.depth -= 2;
            self.put(0xbf, 1, 9, 0, 0);
        }
        if self.random.chance(30) {
            self.packet_load();
        }
        self.put(0x07, 9, 0, 0, 1);
        let back = start as i64 - self.code.len() as i64 - 1;
        let code = self.random.pick(&[0xa5, 0x55, 0xc5, 0xa6]);
        self.put(code, 9, 0, back as i16, turns);
    }

    fn helper(&mut self) {
        match self.random.below(7) {
            0 => self.put(0x85, 0, 0, 0, 7),
            1 => self.put(0x85, 0, 0, 0, 5),
            2 => {
                self.key();
                self.put(0x7a, 10, 0, -24, 1);
                self.put(0x7a, 10, 0, -16, 2);
                self.put(0xbf, 3, 10, 0, 0);
                self.put(0x07, 3, 0, 0, -24);
                self.map(1, HASH);
                self.put(0xb7, 4, 0, 0, 0);
                self.put(0x85, 0, 0, 0, 2);
            }
            3 => {
                let len = 1 + self.random.below(16) as i32;
                self.put(0xbf, 1, 6, 0, 0);
                self.put(0xb7, 2, 0, 0, 0);
                self.put(0xbf, 3, 10, 0, 0);
                self.put(0x07, 3, 0, 0, -32);
                self.put(0xb7, 4, 0, 0, len);
                self.put(0x85, 0, 0, 0, 189);
                self.put(0x71, 9, 10, -32, 0);
            }
            4 => {
                // A sum over a part of the packet.
                self.put(0xb7, 1, 0, 0, 0);
                self.put(0xb7, 2, 0, 0, 0);
                self.put(0xbf, 3, 7, 0, 0);
                let len = (self.proven / 4 * 4).into();
                self.put(0xb7, 4, 0, 0, len);
                self.put(0xb7, 5, 0, 0, 0);
                self.put(0x85, 0, 0, 0, 28);
            }
            5 if self.callbacks => {
                self.put(0x7a, 10, 0, -40, 0);
                let turns = self.random.below(30) as i32;
                self.put(0xb7, 1, 0, 0, turns);
                self.calls.push((self.code.len(), 9));
                self.put(0x18, 2, 4, 0, 0);
                self.put(0, 0, 0, 0, 0);
                self.put(0xbf, 3, 10, 0, 0);
                self.put(0x07, 3, 0, 0, -40);
                self.put(0xb7, 4, 0, 0, 0);
                self.put(0x85, 0, 0, 0, 181);
                self.put(0x79, 9, 10, -40, 0);
            }
            _ => {
                self.put(0xb7, 1, 0, 0, 1);
                self.put(0xb7, 2, 0, 0, 0);
                self.put(0x85, 0, 0, 0, 23);
            }
        }
        self.again();
    }

    fn call(&mut self) {
        if self.in_function {
            return self.alu();
        }
        let kind = self.random.below(3) as u8;
        match kind {
            1 => {
                self.put(0x7a, 10, 0, -48, 3);
                self.put(0xbf, 1, 10, 0, 0);
                self.put(0x07, 1, 0, 0, -48);
            }
            2 => {
                self.put(0xbf, 1, 7, 0, 0);
                self.put(0xbf, 2, 8, 0, 0);
            }
            _ => {}
        }
        self.calls.push((self.code.len(), kind));
        self.put(0x85, 0, 1, 0, 0);
        self.put(0xbf, 9, 0, 0, 0);
        self.again();
        if kind == 0 && self.random.chance(50) {
            self.put(0xbf, 1, 9, 0, 0);
        }
        self.put(0xb7, 9, 0, 0, 1);
    }

    fn ring(&mut self) {
        let size = 8 * (1 + self.random.below(4)) as i32;
        self.map(1, RING);
        self.put(0xb7, 2, 0, 0, size);
        self.put(0xb7, 3, 0, 0, 0);
        self.put(0x85, 0, 0, 0, 131);
        let start = self.code.len();
        self.put(0x15, 0, 0, 0, 0);
        let slack = u64::from(self.random.chance(5)) * 8;
        let off = self.random.below(size as u64 - 7 + slack) as i16;
        self.put(0x7a, 0, 0, off, 5);
        self.put(0xbf, 1, 0, 0, 0);
        self.put(0xb7, 2, 0, 0, 0);
        let how = self.random.pick(&[132, 133, 132, 133, 132, 133, 7]);
        self.put(0x85, 0, 0, 0, how);
        self.land(start);
        self.again();
    }

    /// Something that read-only data decides.
    fn fixed(&mut self) {
        self.put(0x18, 1, 6, 0, FIXED);
        let at = 4 * self.random.below(4) as i32;
        self.put(0, 0, 0, 0, at);
        self.put(0x61, 1, 1, 0, 0);
        let want = self.random.below(4) as i32;
        self.put(0x55, 1, 0, 1, want);
        self.alu();
    }

    fn adjust(&mut self) {
        if self.in_function || self.depth > 0 {
            return self.alu();
        }
        self.put(0xbf, 1, 6, 0, 0);
        let by = self.random.pick(&[-8, -20, 4, 14, 0]);
        self.put(0xb7, 2, 0, 0, by);
        let which = self.random.pick(&[44, 44, 65]);
        self.put(0x85, 0, 0, 0, which);
        if self.random.chance(96) {
            self.packet();
        }
        self.again();
    }

    /// The functions that were called, each as often as it was.
    fn functions(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        self.in_function = true;
        for (at, kind) in calls {
            let distance = (self.code.len() - at - 1) as i32;
            self.code[at][4..8].copy_from_slice(&distance.to_le_bytes());
            let proven = std::mem::replace(&mut self.proven, 0);
            match kind {
                9 => {
                    // Adds the index to what its context points to.
                    self.put(0x79, 3, 2, 0, 0);
                    self.put(0x0f, 3, 1, 0, 0);
                    self.put(0x7b, 2, 3, 0, 0);
                    self.put(0xb7, 0, 0, 0, 0);
                    if self.random.chance(40) {
                        self.put(0xa5, 1, 0, 1, 5);
                        self.put(0xb7, 0, 0, 0, 1);
                    }
                }
                1 => {
                    self.put(0x79, 2, 1, 0, 0);
                    self.put(0x07, 2, 0, 0, 9);
                    self.put(0x7b, 1, 2, 0, 0);
                    self.put(0x7b, 10, 2, -8, 0);
                    self.put(0x79, 0, 10, -8, 0);
                }
                2 => {
                    self.put(0xbf, 3, 1, 0, 0);
                    self.put(0x07, 3, 0, 0, 14);
                    self.put(0xb7, 0, 0, 0, 0);
                    self.put(0x2d, 3, 2, 1, 0);
                    self.put(0x69, 0, 1, 12, 0);
                }
                _ => {
                    self.put(0xb7, 0, 0, 0, 7);
                    self.put(0xb7, 5, 0, 0, 2);
                    self.put(0xb7, 4, 0, 0, 2);
                    self.put(0xb7, 3, 0, 0, 2);
                    self.put(0xb7, 2, 0, 0, 2);
                    self.put(0xb7, 1, 0, 0, 2);
                    self.put(0xb7, 9, 0, 0, 2);
                    self.depth = 3;
                    for _ in 0..self.random.below(4) {
                        self.alu();
                    }
                    self.branch();
                    self.depth = 0;
                    if self.random.chance(30) {
                        self.put(0x57, 0, 0, 0, 15);
                    }
                }
            }
            self.put(0x95, 0, 0, 0, 0);
            self.proven = proven;
        }
    }
}
