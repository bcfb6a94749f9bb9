//! What the operations of [`super::fuse`] do: all of their instructions, or nothing.
//!
//! Each gives `None` where it did nothing, and then the loop does the first of its instructions by itself. Those that end in a comparison
//! tell whether to jump. Registers are written in the order in which the instructions do it, so that it does not matter which of
//! them are the same.

use super::op::{Op, REACH, REGS, Reg};
use crate::XdpBuff;
use crate::mem::space::{CTX_ADDR, Space};
use crate::mem::window::Window;

/// The instructions of an operation, and what they work on.
pub(super) struct Line<'a, 'b> {
    pub ops: &'a [Op; REACH],
    pub regs: &'a mut [u64; REGS],
    pub space: &'a mut Space,
    pub window: &'a Window<'b>,
    pub buf: &'a mut XdpBuff<'b>,
}

impl Line<'_, '_> {
    #[inline(always)]
    fn get(&self, reg: Reg) -> u64 {
        self.regs[reg as usize]
    }

    #[inline(always)]
    fn set(&mut self, reg: Reg, value: u64) {
        self.regs[reg as usize] = value;
    }

    #[inline(always)]
    fn set32(&mut self, reg: Reg, value: u32) {
        self.set(reg, value.into());
    }

    /// The immediate at 64 bits.
    #[inline(always)]
    fn imm(&self, at: usize) -> u64 {
        i64::from(self.ops[at].imm) as u64
    }

    #[inline(always)]
    fn imm32(&self, at: usize) -> u32 {
        self.ops[at].imm as u32
    }

    /// Where a load loads from.
    #[inline(always)]
    fn from(&self, at: usize) -> u64 {
        let op = &self.ops[at];
        self.get(op.src).wrapping_add_signed(op.off.into())
    }

    /// Where a store stores to.
    #[inline(always)]
    fn to(&self, at: usize) -> u64 {
        let op = &self.ops[at];
        self.get(op.dst).wrapping_add_signed(op.off.into())
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<u64> {
        self.space.near_load::<N>(self.window, self.buf, self.from(at))
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: usize, value: u64) -> Option<()> {
        let to = self.to(at);
        self.space
            .near_store::<N>(self.window, self.buf, to, value)
            .then_some(())
    }

    /// One edge of the frame.
    #[inline(always)]
    pub fn edge(&mut self, end: bool) -> Option<()> {
        if self.get(self.ops[0].src) != CTX_ADDR {
            return None;
        }
        self.set(self.ops[0].dst, self.edge_addr(end));
        Some(())
    }

    /// Both edges, one after the other.
    #[inline(always)]
    pub fn edges(&mut self, end_first: bool) -> Option<()> {
        let [first, second, ..] = self.ops;
        if self.get(first.src) != CTX_ADDR || self.get(second.src) != CTX_ADDR {
            return None;
        }
        self.set(first.dst, self.edge_addr(end_first));
        self.set(second.dst, self.edge_addr(!end_first));
        Some(())
    }

    #[inline(always)]
    fn edge_addr(&self, end: bool) -> u64 {
        let edge = if end { self.buf.data_end } else { self.buf.data };
        edge.addr() as u64
    }

    /// `a = b + imm`.
    #[inline(always)]
    pub fn lea(&mut self) -> u64 {
        let sum = self.get(self.ops[0].src).wrapping_add(self.imm(1));
        self.set(self.ops[0].dst, sum);
        sum
    }

    /// That, and whether it is above another register.
    #[inline(always)]
    pub fn lea_above(&mut self) -> bool {
        self.lea() > self.get(self.ops[2].src)
    }

    /// The same with a constant set in between.
    #[inline(always)]
    pub fn lea_mov_above(&mut self) -> bool {
        let sum = self.lea();
        self.set32(self.ops[2].dst, self.imm32(2));
        sum > self.get(self.ops[3].src)
    }

    /// The byte at `b + c`.
    #[inline(always)]
    pub fn index(&mut self) -> Option<()> {
        let [base, index, load, ..] = self.ops;
        let addr = self.get(base.src).wrapping_add(self.get(index.src));
        let addr = addr.wrapping_add_signed(load.off.into());
        let byte = self.space.near_load::<1>(self.window, self.buf, addr)?;
        self.set(load.dst, byte);
        Some(())
    }

    /// A 32-bit register moved, and changed by an immediate.
    #[inline(always)]
    pub fn mov_alu(&mut self, f: impl Fn(u32, u32) -> u32) {
        let value = f(self.get(self.ops[0].src) as u32, self.imm32(1));
        self.set32(self.ops[0].dst, value);
    }

    /// That, and another register's sum with one.
    #[inline(always)]
    pub fn mov_alu_add(&mut self, f: impl Fn(u32, u32) -> u32) {
        self.mov_alu(f);
        self.add32(2);
    }

    /// A 32-bit register moved, and a sum.
    #[inline(always)]
    pub fn mov_add(&mut self) {
        self.set32(self.ops[0].dst, self.get(self.ops[0].src) as u32);
        self.add32(1);
    }

    #[inline(always)]
    fn add32(&mut self, at: usize) {
        let op = &self.ops[at];
        let sum = (self.get(op.dst) as u32).wrapping_add(self.get(op.src) as u32);
        self.set32(op.dst, sum);
    }

    /// `a = b + c`.
    #[inline(always)]
    pub fn add(&mut self) {
        let [base, index, ..] = self.ops;
        let sum = self.get(base.src).wrapping_add(self.get(index.src));
        self.set(base.dst, sum);
    }

    /// `a >>= imm` at 32 bits.
    #[inline(always)]
    pub fn shift(&mut self) {
        let value = (self.get(self.ops[0].dst) as u32).wrapping_shr(self.imm32(0));
        self.set32(self.ops[0].dst, value);
    }

    /// What is above a shift to the right, and below one to the left, together.
    #[inline(always)]
    pub fn rotate(&mut self) {
        let of = self.get(self.ops[0].src) as u32;
        let right = of.wrapping_shr(self.imm32(1));
        let left = of.wrapping_shl(self.imm32(3));
        self.set32(self.ops[0].dst, right);
        self.set32(self.ops[2].dst, left | right);
    }

    /// `(b ^ c) - d`; `at` is the exclusive or.
    #[inline(always)]
    pub fn xor_sub(&mut self, of: Reg, at: usize) {
        let (xor, sub) = (&self.ops[at], &self.ops[at + 1]);
        let value = self.get(of) as u32 ^ self.get(xor.src) as u32;
        let less = self.get(sub.src) as u32;
        self.set32(xor.dst, value.wrapping_sub(less));
    }

    /// A register moved and another set; whether the first is `imm`.
    #[inline(always)]
    pub fn mov_mov_is(&mut self) -> bool {
        let value = self.get(self.ops[0].src);
        self.set(self.ops[0].dst, value);
        self.set32(self.ops[1].dst, self.imm32(1));
        value == self.imm(2)
    }

    /// A constant set.
    #[inline(always)]
    pub fn mov(&mut self) {
        self.set32(self.ops[0].dst, self.imm32(0));
    }

    /// That, and whether a register is `imm` at 32 bits.
    #[inline(always)]
    pub fn mov_is32(&mut self) -> bool {
        self.mov();
        self.get(self.ops[1].dst) as u32 == self.imm32(1)
    }

    /// `a = f(a)` at 32 bits; whether it is `imm` then.
    #[inline(always)]
    pub fn step32_is(&mut self, f: impl Fn(u32, u32) -> u32) -> bool {
        let value = f(self.get(self.ops[0].dst) as u32, self.imm32(0));
        self.set32(self.ops[0].dst, value);
        value == self.imm32(1)
    }

    /// `a += imm`; whether it is the other `imm` then.
    #[inline(always)]
    pub fn step64_is(&mut self) -> bool {
        let value = self.get(self.ops[0].dst).wrapping_add(self.imm(0));
        self.set(self.ops[0].dst, value);
        value == self.imm(1)
    }

    /// A load, and what it loaded stored elsewhere.
    #[inline(always)]
    pub fn copy<const N: usize>(&mut self, at: usize) -> Option<()> {
        let value = self.load::<N>(at)?;
        self.store::<N>(at + 1, value)?;
        self.set(self.ops[at].dst, value);
        Some(())
    }

    /// A load, and what it loaded put into the function's frame, M bytes of it.
    #[inline(always)]
    pub fn save<const N: usize, const M: usize>(&mut self, at: usize) -> Option<()> {
        let value = self.load::<N>(at)?;
        self.set(self.ops[at].dst, value);
        self.space.frame_store::<M>(self.ops[at + 1].off, value);
        Some(())
    }

    /// A constant, stored.
    #[inline(always)]
    pub fn put<const N: usize>(&mut self, at: usize) -> Option<()> {
        let value = self.imm32(at);
        self.store::<N>(at + 1, value.into())?;
        self.set32(self.ops[at].dst, value);
        Some(())
    }

    /// A byte stored.
    #[inline(always)]
    pub fn store8(&mut self, at: usize) -> Option<()> {
        self.store::<1>(at, self.get(self.ops[at].src))
    }

    /// A load from the function's frame.
    #[inline(always)]
    pub fn frame32(&mut self) -> Option<()> {
        let value = self.space.frame_load::<4>(self.ops[0].off);
        self.set(self.ops[0].dst, value);
        Some(())
    }

    /// What a shift to the right leaves of a register, its last byte stored at `at`.
    #[inline(always)]
    pub fn shift_put(&mut self, of: Reg, at: usize) -> Option<()> {
        let value = (self.get(of) as u32).wrapping_shr(self.imm32(at - 1));
        self.store::<1>(at, value.into())?;
        self.set32(self.ops[0].dst, value);
        Some(())
    }

    /// The low byte in `a`, both in `b`.
    #[inline(always)]
    pub fn half_up(&mut self) -> Option<u64> {
        let both = self.load::<2>(0)?;
        self.set(self.ops[0].dst, both & 0xff);
        self.set(self.ops[1].dst, both);
        Some(both)
    }

    /// Both in `a`, the low byte in `b`.
    #[inline(always)]
    pub fn half_down(&mut self) -> Option<()> {
        let both = self.load::<2>(2)?;
        self.set(self.ops[0].dst, both);
        self.set(self.ops[2].dst, both & 0xff);
        Some(())
    }

    /// The upper half of a 32-bit number, put together with the lower.
    #[inline(always)]
    pub fn upper(&mut self) -> Option<()> {
        let both = self.load::<2>(0)? as u32;
        let low = self.get(self.ops[5].src) as u32;
        self.set32(self.ops[0].dst, (both & 0xff) << 16);
        self.set32(self.ops[2].dst, both << 16 | low);
        Some(())
    }

    /// Whether both bytes of [`Line::half_up`] are `imm`.
    #[inline(always)]
    pub fn half_is(&mut self) -> Option<bool> {
        Some(self.half_up()? == self.imm(4))
    }

    /// A load; whether it loaded `imm`.
    #[inline(always)]
    pub fn load_is<const N: usize>(&mut self) -> Option<bool> {
        let value = self.load::<N>(0)?;
        self.set(self.ops[0].dst, value);
        Some(value == self.imm(1))
    }

    /// A load, some of its bits; whether they are `imm`.
    #[inline(always)]
    pub fn load_and_is<const N: usize>(&mut self) -> Option<bool> {
        let value = self.load::<N>(0)? & self.imm(1);
        self.set(self.ops[0].dst, value);
        Some(value == self.imm(2))
    }

    /// A load, and some of its bits.
    #[inline(always)]
    pub fn load_and<const N: usize>(&mut self) -> Option<()> {
        let value = self.load::<N>(0)? & self.imm(1);
        self.set(self.ops[0].dst, value);
        Some(())
    }

    /// A load, added to another register.
    #[inline(always)]
    pub fn load_add<const N: usize>(&mut self) -> Option<()> {
        let value = self.load::<N>(0)?;
        self.set(self.ops[0].dst, value);
        self.add32(1);
        Some(())
    }

    /// A constant added to memory; `a` is what is there then.
    #[inline(always)]
    pub fn add_to(&mut self) -> Option<()> {
        let delta = self.imm(1);
        let old = self.space.near_add(self.from(0), delta)?;
        self.set(self.ops[0].dst, old.wrapping_add(delta));
        Some(())
    }

    /// A register added to memory: one of the two registers is the sum then, the other what it was, or what was there.
    #[inline(always)]
    pub fn count_in(&mut self) -> Option<()> {
        let [load, sum, ..] = self.ops;
        let delta = self.get(if sum.dst == load.dst { sum.src } else { sum.dst });
        let old = self.space.near_add(self.from(0), delta)?;
        self.set(load.dst, old);
        self.set(sum.dst, old.wrapping_add(delta));
        Some(())
    }

    /// What r1 and r2 are at a lookup of a key in the frame: map and key.
    #[inline(always)]
    pub fn lookup_args(&mut self) -> [u64; 2] {
        let key = self.lea();
        let map = self.ops[2].wide();
        self.set(Reg::R1, map);
        [map, key]
    }
}
