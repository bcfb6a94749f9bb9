//! What bytes of a function's frame are known to hold, while a stretch of code is translated that is entered at its top only.
//!
//! A key that was just put together on the stack from pieces need not be loaded from there: a load that spans several
//! stores has to wait until all of them are in the cache.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::function::Translator;

/// By offset from r10: the number that was stored there, and which of its bytes this is.
#[derive(Default)]
pub(super) struct Known(BTreeMap<i32, (Value, u8)>);

impl Known {
    /// Nothing is known any more.
    pub fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Nothing is known about these bytes any more.
    pub fn forget(&mut self, off: i32, len: i32) {
        for at in off..off + len {
            self.0.remove(&at);
        }
    }

    /// A number's low bytes were stored.
    pub fn stored(&mut self, off: i32, len: i32, value: Value) {
        for i in 0..len {
            self.0.insert(off + i, (value, i as u8));
        }
    }

    /// What `len` bytes are made of: numbers, which of their bytes comes first, and how many follow.
    fn pieces(&self, off: i32, len: i32) -> Option<Vec<(Value, u8, u8)>> {
        let mut pieces: Vec<(Value, u8, u8)> = Vec::new();
        for at in off..off + len {
            let &(value, byte) = self.0.get(&at)?;
            match pieces.last_mut() {
                Some((last, first, count)) if *last == value && *first + *count == byte => *count += 1,
                _ => pieces.push((value, byte, 1)),
            }
        }
        Some(pieces)
    }
}

impl Translator<'_, '_> {
    /// Up to 8 bytes of the frame as a number, if all of them are known.
    pub fn known_word(&mut self, off: i32, len: i32) -> Option<Value> {
        let pieces = self.known.pieces(off, len)?;
        let mut word: Option<Value> = None;
        let mut below = 0;
        for (value, first, count) in pieces {
            let mut part = value;
            if first > 0 {
                part = self.b.ins().ushr_imm_s(part, 8 * i64::from(first));
            }
            // What lies above is shifted out, unless the piece ends below the word's top.
            if below + count < 8 && first + count < 8 {
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
                    None => self
                        .b
                        .ins()
                        .band_imm_s(part, (1i64 << (8 * u32::from(count))) - 1),
                };
            }
            if below > 0 {
                part = self.b.ins().ishl_imm_s(part, 8 * i64::from(below));
            }
            word = Some(match word {
                Some(word) => self.b.ins().bor(word, part),
                None => part,
            });
            below += count;
        }
        word
    }
}
