//! Stores to a frame, held back until something could see them, so that those side by side become one.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::access::int;
use super::bytes::{self, Byte};
use super::function::Translator;

/// A byte to be stored.
#[derive(Clone, Copy, PartialEq)]
struct Slot {
    byte: Byte,
    /// The program's own store that it is of: where that begins, how long it is, and its number.
    start: i32,
    len: i32,
    value: Value,
}

/// Stores that were not made yet. All of them are through one pointer.
#[derive(Default)]
pub(super) struct Pending {
    root: Option<Value>,
    slots: BTreeMap<i32, Slot>,
}

/// What a load finds among them.
enum Found {
    Nothing,
    All(Vec<Byte>),
    /// Some of the bytes, or it cannot be told.
    Some,
}

impl Pending {
    fn find(&self, root: Value, off: i32, len: i32) -> Found {
        match self.root {
            None => Found::Nothing,
            Some(own) if own != root => Found::Some,
            Some(_) => {
                let bytes: Vec<Byte> = self
                    .slots
                    .range(off..off + len)
                    .map(|(_, slot)| slot.byte)
                    .collect();
                match bytes.len() as i32 {
                    0 => Found::Nothing,
                    n if n == len => Found::All(bytes),
                    _ => Found::Some,
                }
            }
        }
    }

    fn add(&mut self, root: Value, off: i32, len: i32, value: Value, word: &bytes::Word) {
        self.root = Some(root);
        // What is left of a store that this one covers in part goes byte by byte.
        let covered: Vec<(i32, i32)> = self
            .slots
            .range(off..off + len)
            .map(|(_, s)| (s.start, s.len))
            .collect();
        for (start, len) in covered {
            for (at, slot) in self.slots.range_mut(start..start + len) {
                (slot.start, slot.len) = (*at, 1);
            }
        }
        for (i, byte) in word.iter().take(len as usize).enumerate() {
            let slot = Slot {
                byte: *byte,
                start: off,
                len,
                value,
            };
            self.slots.insert(off + i as i32, slot);
        }
    }

    /// The `width` bytes at `off`, if all are there and no store of the program is cut.
    fn piece(&self, off: i32, width: i32) -> Option<Vec<Slot>> {
        let slots: Vec<Slot> = self
            .slots
            .range(off..off + width)
            .map(|(_, slot)| *slot)
            .collect();
        let (first, last) = (slots.first()?, slots.last()?);
        let whole = first.start == off && last.start + last.len == off + width;
        (slots.len() as i32 == width && whole).then_some(slots)
    }
}

/// Where the fields of an Ethernet header end. What is stored in one piece is soon loaded in one piece, and a load across two
/// stores has to wait for both.
const FIELDS: [i32; 3] = [6, 12, 14];

impl Translator<'_, '_> {
    /// Bytes of a frame that held back stores cover. Where they cover only some of them, they are made.
    pub fn held_back(&mut self, root: Value, off: i32, len: i32) -> Option<Value> {
        match self.pending.find(root, off, len) {
            Found::Nothing => None,
            Found::All(bytes) => Some(self.compose(&bytes)),
            Found::Some => {
                self.flush();
                None
            }
        }
    }

    /// A store to a frame.
    pub fn hold_back(&mut self, root: Value, off: i32, len: i32, value: Value) {
        if self.pending.root.is_some_and(|own| own != root) {
            self.flush();
        }
        let word = self.word(value);
        self.pending.add(root, off, len, value, &word);
    }

    /// Makes the stores that were held back.
    pub fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let Some(root) = pending.root else {
            return;
        };
        let fields: &[i32] = if self.bytes.is_frame(root) { &FIELDS } else { &[] };
        // All numbers first: they may be loaded from what is stored to afterwards.
        let mut stores = Vec::new();
        let mut from = i32::MIN;
        while let Some((&off, slot)) = pending.slots.range(from..).next() {
            let wider = [8, 4, 2].into_iter().find_map(|width| {
                let slots = pending.piece(off, width)?;
                let crosses = fields.iter().any(|end| (off + 1..off + width).contains(end));
                let own = slots[0].len == width;
                let value = match own {
                    true => Some(slots[0].value),
                    false if crosses => None,
                    false => self.joined(&slots),
                };
                value.map(|value| (width, value))
            });
            let (width, value) = match wider {
                Some(piece) => piece,
                None => (1, self.compose(&[slot.byte])),
            };
            stores.push((off, width, value));
            from = off + width;
        }
        let packet = self.regions.packet;
        for (off, width, value) in stores {
            let narrow = match width {
                8 => value,
                _ => self.b.ins().ireduce(int(width), value),
            };
            self.b.ins().store(packet, narrow, root, off);
            self.bytes.overwritten(root, off, width);
        }
    }

    /// Several stores' bytes as one number, where that costs no more than one step.
    fn joined(&mut self, slots: &[Slot]) -> Option<Value> {
        let list: Vec<Byte> = slots.iter().map(|slot| slot.byte).collect();
        if let Some(number) = bytes::number(&list) {
            return Some(self.c(number as i64));
        }
        if let Some((value, first, count)) = bytes::run(&list)
            && count == list.len()
        {
            return Some(match first {
                0 => value,
                _ => self.b.ins().ushr_imm_s(value, 8 * i64::from(first)),
            });
        }
        let (root, off) = self.bytes.beside(&list)?;
        Some(self.load_beside(root, off, list.len()))
    }

    /// A load that fills the upper bytes with zeroes.
    pub fn load_zero_extended(
        &mut self,
        flags: cranelift_codegen::ir::MemFlagsData,
        base: Value,
        off: i32,
        len: i32,
    ) -> Value {
        let ins = self.b.ins();
        let value = match len {
            1 => ins.uload8(types::I64, flags, base, off),
            2 => ins.uload16(types::I64, flags, base, off),
            4 => ins.uload32(flags, base, off),
            _ => return ins.load(types::I64, flags, base, off),
        };
        self.bytes.narrow(value, len);
        value
    }
}
