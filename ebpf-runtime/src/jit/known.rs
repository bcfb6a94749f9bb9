//! What bytes of a function's frame are known to hold, while a stretch of code is translated that is entered at its top only.
//!
//! A key that was just put together on the stack from pieces need not be loaded from there: a load that spans several
//! stores has to wait until all of them are in the cache.

use std::collections::BTreeMap;

use cranelift_codegen::ir::Value;

use super::bytes::{Byte, Word};
use super::function::Translator;

/// By offset from r10.
#[derive(Clone, Default)]
pub(super) struct Known(BTreeMap<i32, Byte>);

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
    pub fn stored(&mut self, off: i32, len: i32, word: &Word) {
        self.0.extend((off..off + len).zip(word.iter().copied()));
    }

    fn bytes(&self, off: i32, len: i32) -> Option<Vec<Byte>> {
        (off..off + len).map(|at| self.0.get(&at).copied()).collect()
    }
}

impl Translator<'_, '_> {
    /// Up to 8 bytes of the frame as a number, if all of them are known.
    pub fn known_word(&mut self, off: i32, len: i32) -> Option<Value> {
        let bytes = self.here.known.bytes(off, len)?;
        Some(self.compose(&bytes))
    }
}
