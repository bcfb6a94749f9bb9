//! What numbers are made of, byte by byte.
//!
//! Compilers for BPF copy memory whose alignment they do not know a byte at a time, and put numbers together from
//! bytes by shifts. Here those bytes are followed back to where they came from, so that what lies side by side in a
//! frame is loaded and stored at once.
//!
//! A frame's bytes are only loaded again, wider, within a stretch of code without branches. What a branch has found out
//! about a number therefore holds for what is made of it, even if a device wrote to the frame in between.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::{InstBuilder, InstructionData, Opcode, Value, ValueDef, types};

use super::function::Translator;
use crate::insn::{self, Insn};

/// A byte of a number or of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Byte {
    Const(u8),
    /// A byte of a 64-bit number, counted from the lowest.
    Of(Value, u8),
}

/// A number's bytes, lowest first.
pub(super) type Word = [Byte; 8];

const ZERO: Byte = Byte::Const(0);

/// Offsets from a pointer that are followed.
const REACH: i64 = 1 << 29;

/// What is known of numbers.
#[derive(Default)]
pub(super) struct Bytes {
    words: HashMap<Value, Word>,
    /// Pointers as another pointer and a distance.
    roots: HashMap<Value, (Value, i32)>,
    /// Pointers to a frame's first byte.
    data: HashSet<Value>,
    /// Numbers that a frame still holds where they were loaded from: pointer, distance, length.
    loads: HashMap<Value, (Value, i32, i32)>,
}

impl Bytes {
    /// A pointer as another one and a distance.
    pub fn root(&self, pointer: Value) -> (Value, i32) {
        self.roots.get(&pointer).copied().unwrap_or((pointer, 0))
    }

    /// `to` is `from` moved by `by` bytes.
    pub fn moved(&mut self, from: Value, to: Value, by: i64) {
        let (root, off) = self.root(from);
        if let Some(sum) = by
            .checked_add(off.into())
            .filter(|sum| (-REACH..=REACH).contains(sum))
        {
            self.roots.insert(to, (root, sum as i32));
        }
    }

    /// `pointer` is that of a frame's first byte.
    pub fn begins_frame(&mut self, pointer: Value) {
        self.data.insert(pointer);
    }

    pub fn is_frame(&self, pointer: Value) -> bool {
        self.data.contains(&pointer)
    }

    /// `value` was loaded from `len` bytes of a frame.
    pub fn loaded(&mut self, value: Value, root: Value, off: i32, len: i32) {
        self.loads.insert(value, (root, off, len));
    }

    /// The frame was written to.
    pub fn overwritten(&mut self, root: Value, off: i32, len: i32) {
        self.loads
            .retain(|_, (r, o, l)| *r == root && (*o + *l <= off || off + len <= *o));
    }

    /// Nothing is known of the frame any more.
    pub fn forget_loads(&mut self) {
        self.loads.clear();
    }

    /// A number's bytes are these.
    pub fn define(&mut self, value: Value, word: Word) {
        self.words.insert(value, word);
    }

    /// The upper bytes of a number are zero.
    pub fn narrow(&mut self, value: Value, len: i32) {
        self.words.insert(value, cut(own(value), len as usize));
    }

    /// Where in a frame bytes lie side by side that make up these: pointer and distance.
    pub fn beside(&self, bytes: &[Byte]) -> Option<(Value, i32)> {
        let at = |byte: &Byte| match byte {
            Byte::Of(value, n) => {
                let (root, off, len) = self.loads.get(value)?;
                (i32::from(*n) < *len).then_some((*root, *off + i32::from(*n)))
            }
            Byte::Const(_) => None,
        };
        let first = at(bytes.first()?)?;
        let follows = |(i, byte)| at(byte) == Some((first.0, first.1 + i as i32));
        bytes.iter().enumerate().all(follows).then_some(first)
    }
}

fn own(value: Value) -> Word {
    std::array::from_fn(|i| Byte::Of(value, i as u8))
}

/// The low bytes, filled up with zeroes.
fn cut(word: Word, len: usize) -> Word {
    std::array::from_fn(|i| if i < len { word[i] } else { ZERO })
}

/// Consecutive bytes of one number: the number, the first, and how many.
pub(super) fn run(bytes: &[Byte]) -> Option<(Value, u8, usize)> {
    let &Byte::Of(value, first) = bytes.first()? else {
        return None;
    };
    let follows = |(i, byte): (usize, &Byte)| *byte == Byte::Of(value, first + i as u8);
    let count = bytes
        .iter()
        .enumerate()
        .take_while(|(i, b)| follows((*i, b)))
        .count();
    Some((value, first, count))
}

/// Bytes that are all known, as a number.
pub(super) fn number(bytes: &[Byte]) -> Option<u64> {
    bytes.iter().rev().try_fold(0, |number: u64, byte| match byte {
        Byte::Const(byte) => Some(number << 8 | u64::from(*byte)),
        Byte::Of(..) => None,
    })
}

impl Translator<'_, '_> {
    /// The number that a value is, if it is a constant.
    pub fn constant_of(&self, value: Value) -> Option<i64> {
        let dfg = &self.b.func.dfg;
        let ValueDef::Result(inst, 0) = dfg.value_def(dfg.resolve_aliases(value)) else {
            return None;
        };
        match dfg.insts[inst] {
            InstructionData::UnaryImm {
                opcode: Opcode::Iconst,
                imm,
            } if dfg.value_type(value) == types::I64 => Some(imm.bits()),
            _ => None,
        }
    }

    /// A 64-bit number's bytes.
    pub fn word(&self, value: Value) -> Word {
        match self.constant_of(value) {
            Some(number) => number.to_le_bytes().map(Byte::Const),
            None => self.bytes.words.get(&value).copied().unwrap_or(own(value)),
        }
    }

    /// What an arithmetic instruction makes of its operands' bytes, where it only moves them. `right` is the register's
    /// value, if the right operand is one.
    pub fn word_after(&self, insn: Insn, left: Option<Value>, right: Option<Value>) -> Option<Word> {
        let wide = insn.class() == insn::ALU64;
        let width = if wide { 8 } else { 4 };
        let left = left.map(|value| self.word(value));
        let right = match right {
            Some(value) => self.word(value),
            None => i64::from(insn.imm).to_le_bytes().map(Byte::Const),
        };
        let word = match insn.code & 0xf0 {
            0xb0 if insn.off == 0 => right,
            0x40 => both(left?, right, |a, b| match (a, b) {
                (ZERO, other) | (other, ZERO) => Some(other),
                _ => None,
            })?,
            0x50 => both(left?, right, |a, b| match (a, b) {
                (ZERO, _) | (_, ZERO) => Some(ZERO),
                (Byte::Const(0xff), other) | (other, Byte::Const(0xff)) => Some(other),
                _ => None,
            })?,
            op @ (0x60 | 0x70) => {
                let by = number(&right).filter(|by| *by < width as u64 * 8 && by % 8 == 0)? as usize / 8;
                let word = cut(left?, width);
                std::array::from_fn(|i| match op {
                    0x60 => i.checked_sub(by).map_or(ZERO, |i| word[i]),
                    _ => word.get(i + by).copied().unwrap_or(ZERO),
                })
            }
            0xd0 => {
                let (len, word) = (insn.imm as usize / 8, left?);
                // `le` on a little-endian machine only cuts.
                let swaps = (wide || insn.code & 0x08 != 0) == cfg!(target_endian = "little");
                return Some(match swaps {
                    true => std::array::from_fn(|i| len.checked_sub(i + 1).map_or(ZERO, |i| word[i])),
                    false => cut(word, len),
                });
            }
            _ => return None,
        };
        Some(cut(word, width))
    }

    /// A value that is there already, or cheap, and has these bytes.
    pub fn cheap(&mut self, word: &Word) -> Option<Value> {
        if let Some(number) = number(word) {
            return Some(self.c(number as i64));
        }
        if let Byte::Of(value, 0) = word[0]
            && self.word(value) == *word
        {
            return Some(value);
        }
        let len = 8 - word.iter().rev().take_while(|byte| **byte == ZERO).count();
        let single = run(&word[..len]).is_some_and(|(.., count)| count == len);
        if single || !matches!(len, 2 | 4 | 8) {
            return None;
        }
        let (root, off) = self.bytes.beside(&word[..len])?;
        Some(self.load_beside(root, off, len))
    }

    /// Loads bytes of a frame that were loaded one by one before.
    pub fn load_beside(&mut self, root: Value, off: i32, len: usize) -> Value {
        let packet = self.regions.packet;
        let value = self.load_zero_extended(packet, root, off, len as i32);
        self.bytes.loaded(value, root, off, len as i32);
        value
    }

    /// A number made of up to 8 bytes.
    pub fn compose(&mut self, bytes: &[Byte]) -> Value {
        let mut word = [ZERO; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        if let Some(value) = self.cheap(&word) {
            return value;
        }
        let fixed = word.map(|byte| match byte {
            Byte::Const(byte) => byte,
            Byte::Of(..) => 0,
        });
        let fixed = u64::from_le_bytes(fixed);
        let mut sum = (fixed != 0).then(|| self.c(fixed as i64));
        let mut below = 0;
        while below < 8 {
            let Some((value, first, count)) = run(&word[below..]) else {
                below += 1;
                continue;
            };
            let part = self.part(value, first, count, below);
            sum = Some(match sum {
                Some(sum) => self.b.ins().bor(sum, part),
                None => part,
            });
            below += count;
        }
        let value = match sum {
            Some(sum) => sum,
            None => self.c(0),
        };
        self.bytes.define(value, word);
        value
    }

    /// Some bytes of a number, moved up to others.
    fn part(&mut self, value: Value, first: u8, count: usize, below: usize) -> Value {
        let end = usize::from(first) + count;
        let bare = self.word(value)[end..].iter().all(|byte| *byte == ZERO);
        let mut part = value;
        if first > 0 {
            part = self.b.ins().ushr_imm_s(part, 8 * i64::from(first));
        }
        // What lies above is shifted out where the piece ends at the word's top.
        if !bare && below + count < 8 {
            let narrow = match count {
                1 => Some(types::I8),
                2 => Some(types::I16),
                4 => Some(types::I32),
                _ => None,
            };
            part = match narrow {
                Some(ty) => {
                    let cut = self.b.ins().ireduce(ty, part);
                    self.b.ins().uextend(types::I64, cut)
                }
                None => self.b.ins().band_imm_s(part, (1i64 << (8 * count)) - 1),
            };
        }
        if below > 0 {
            part = self.b.ins().ishl_imm_s(part, 8 * below as i64);
        }
        part
    }
}

/// Two words byte by byte.
fn both(a: Word, b: Word, f: impl Fn(Byte, Byte) -> Option<Byte>) -> Option<Word> {
    let mut word = [ZERO; 8];
    for (i, byte) in word.iter_mut().enumerate() {
        *byte = f(a[i], b[i])?;
    }
    Some(word)
}
