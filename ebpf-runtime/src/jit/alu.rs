//! Arithmetic and conditions (RFC 9669 sections 4.1 and 4.3).

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};

use super::function::Translator;
use crate::insn::{self, Insn};

impl Translator<'_, '_> {
    /// The right operand: a register or the sign-extended constant, in the operation's width.
    fn right(&mut self, insn: Insn, ty: Type) -> Value {
        if insn.code & 0x08 == 0 {
            return self.constant(ty, insn.imm.into());
        }
        let value = self.reg(insn.src);
        self.narrow(value, ty)
    }

    fn narrow(&mut self, value: Value, ty: Type) -> Value {
        if ty == types::I64 {
            value
        } else {
            self.b.ins().ireduce(ty, value)
        }
    }

    fn widen(&mut self, value: Value, ty: Type) -> Value {
        if ty == types::I64 {
            value
        } else {
            self.b.ins().uextend(types::I64, value)
        }
    }

    pub fn alu(&mut self, insn: Insn) {
        let ty = match insn.class() {
            insn::ALU64 => types::I64,
            _ => types::I32,
        };
        let op = insn.code & 0xf0;
        let left = (op != 0xb0).then(|| self.reg(insn.dst));
        let by_register = insn.code & 0x08 != 0 && !matches!(op, 0x80 | 0xd0);
        let right = by_register.then(|| self.reg(insn.src));
        let word = self.word_after(insn, left, right);
        let value = match word.and_then(|word| self.cheap(&word)) {
            Some(value) => value,
            None => {
                let value = self.computed(insn, ty);
                match word {
                    Some(word) => self.bytes.define(value, word),
                    None if ty == types::I32 => self.bytes.narrow(value, 4),
                    None => self.follow(insn, left, right, value),
                }
                value
            }
        };
        self.set(insn.dst, value);
    }

    /// A pointer that was moved by a constant.
    fn follow(&mut self, insn: Insn, left: Option<Value>, right: Option<Value>, sum: Value) {
        let by = match right {
            Some(value) => self.constant_of(value),
            None => Some(insn.imm.into()),
        };
        match (insn.code & 0xf0, left, by) {
            (0x00, Some(left), Some(by)) => self.bytes.moved(left, sum, by),
            (0x10, Some(left), Some(by)) => self.bytes.moved(left, sum, by.wrapping_neg()),
            _ => {}
        }
    }

    fn computed(&mut self, insn: Insn, ty: Type) -> Value {
        let op = insn.code & 0xf0;
        if op == 0xd0 {
            return self.swapped(insn);
        }
        if op == 0xb0 {
            return self.moved(insn, ty);
        }
        let left = self.reg(insn.dst);
        let left = self.narrow(left, ty);
        if op == 0x80 {
            let value = self.b.ins().ineg(left);
            return self.widen(value, ty);
        }
        let right = self.right(insn, ty);
        let ins = self.b.ins();
        let value = match op {
            0x00 => ins.iadd(left, right),
            0x10 => ins.isub(left, right),
            0x20 => ins.imul(left, right),
            0x30 | 0x90 => self.divided(insn, ty, left, right),
            0x40 => ins.bor(left, right),
            0x50 => ins.band(left, right),
            // Shifts take the amount modulo the width, as RFC 9669 has it.
            0x60 => ins.ishl(left, right),
            0x70 => ins.ushr(left, right),
            0xa0 => ins.bxor(left, right),
            _ => ins.sshr(left, right),
        };
        self.widen(value, ty)
    }

    /// Division by zero gives 0, modulo by zero leaves the dividend, the most negative number divided by -1 is itself.
    fn divided(&mut self, insn: Insn, ty: Type, left: Value, right: Value) -> Value {
        let modulo = insn.code & 0xf0 == 0x90;
        let signed = insn.off != 0;
        let (zero, one) = (self.constant(ty, 0), self.constant(ty, 1));
        if insn.code & 0x08 == 0 && !matches!(insn.imm, 0 | -1) {
            return self.quotient(modulo, signed, left, right);
        }
        let by_zero = self.b.ins().icmp(IntCC::Equal, right, zero);
        let result_by_zero = if modulo { left } else { zero };
        if !signed {
            let divisor = self.b.ins().select(by_zero, one, right);
            let result = self.quotient(modulo, signed, left, divisor);
            return self.b.ins().select(by_zero, result_by_zero, result);
        }
        let minus_one = self.constant(ty, -1);
        let by_minus_one = self.b.ins().icmp(IntCC::Equal, right, minus_one);
        let special = self.b.ins().bor(by_zero, by_minus_one);
        let divisor = self.b.ins().select(special, one, right);
        let result = self.quotient(modulo, signed, left, divisor);
        let negated = self.b.ins().ineg(left);
        let result_by_minus_one = if modulo { zero } else { negated };
        let result = self.b.ins().select(by_minus_one, result_by_minus_one, result);
        self.b.ins().select(by_zero, result_by_zero, result)
    }

    fn quotient(&mut self, modulo: bool, signed: bool, left: Value, right: Value) -> Value {
        let ins = self.b.ins();
        match (modulo, signed) {
            (false, false) => ins.udiv(left, right),
            (false, true) => ins.sdiv(left, right),
            (true, false) => ins.urem(left, right),
            (true, true) => ins.srem(left, right),
        }
    }

    fn moved(&mut self, insn: Insn, ty: Type) -> Value {
        if insn.code & 0x08 == 0 {
            let value = self.constant(ty, insn.imm.into());
            return self.widen(value, ty);
        }
        let value = self.reg(insn.src);
        let narrow = match insn.off {
            8 => types::I8,
            16 => types::I16,
            32 => types::I32,
            _ => {
                let value = self.narrow(value, ty);
                return self.widen(value, ty);
            }
        };
        let value = self.b.ins().ireduce(narrow, value);
        let value = self.b.ins().sextend(ty, value);
        self.widen(value, ty)
    }

    fn swapped(&mut self, insn: Insn) -> Value {
        // `le` on a little-endian machine only cuts.
        let swaps = insn.class() == insn::ALU64 || insn.code & 0x08 != 0;
        let swaps = swaps == cfg!(target_endian = "little");
        let ty = match insn.imm {
            16 => types::I16,
            32 => types::I32,
            _ => types::I64,
        };
        let value = self.reg(insn.dst);
        let value = self.narrow(value, ty);
        let value = if swaps { self.b.ins().bswap(value) } else { value };
        self.widen(value, ty)
    }

    /// Whether a conditional jump is taken.
    pub fn condition(&mut self, insn: Insn) -> Value {
        let ty = match insn.class() {
            insn::JMP => types::I64,
            _ => types::I32,
        };
        let left = self.reg(insn.dst);
        let left = self.narrow(left, ty);
        let right = self.right(insn, ty);
        let code = match insn.code & 0xf0 {
            0x10 => IntCC::Equal,
            0x20 => IntCC::UnsignedGreaterThan,
            0x30 => IntCC::UnsignedGreaterThanOrEqual,
            0x40 => {
                let both = self.b.ins().band(left, right);
                let zero = self.constant(ty, 0);
                return self.b.ins().icmp(IntCC::NotEqual, both, zero);
            }
            0x50 => IntCC::NotEqual,
            0x60 => IntCC::SignedGreaterThan,
            0x70 => IntCC::SignedGreaterThanOrEqual,
            0xa0 => IntCC::UnsignedLessThan,
            0xb0 => IntCC::UnsignedLessThanOrEqual,
            0xc0 => IntCC::SignedLessThan,
            _ => IntCC::SignedLessThanOrEqual,
        };
        self.b.ins().icmp(code, left, right)
    }
}
