//! The instruction loop. Most operations are one instruction; some do several at once ([`super::fuse`]), unless somebody
//! watches.
//!
//! Instructions are counted where control leaves a straight line only: `left` is what the run may still execute plus the
//! position it is at, so going on to the next instruction changes nothing, and a jump adds the distance it skips.

use super::alu::{div32, div64, mod32, mod64, swap};
use super::fast::Line;
use super::frames::{Then, again, context, errno, push};
use super::op::{Code, Op, REACH, REGS};
use super::unit::Unit;
use super::{Core, Machine};
use crate::helpers::{self, Outcome};
use crate::hook::SKB_SIZE;
use crate::insn;
use crate::mem::space::CTX_ADDR;
use crate::mem::window::Window;
use crate::{Errno, Fault, XdpBuff};

/// Iterations of `may_goto` loops in a run before they are left.
pub(crate) const MAY_GOTO_MAX: u32 = 1 << 16;

/// Why the loop stopped without a fault.
pub(crate) enum Stop {
    /// The program ended; its result is in r0.
    Exit,
    /// The code to run is now another unit's.
    Switch,
    /// `bpf_tail_call`.
    TailCall { map: u64, index: u32 },
}

/// Looks on while a program runs; `()` looks at nothing and costs nothing.
pub(crate) trait Watch {
    /// Whether each instruction runs by itself.
    const STEPS: bool = true;

    /// Before each instruction.
    fn step(&mut self, pc: usize, machine: &Machine, core: &Core, buf: &XdpBuff<'_>);
}

impl Watch for () {
    const STEPS: bool = false;

    #[inline(always)]
    fn step(&mut self, _: usize, _: &Machine, _: &Core, _: &XdpBuff<'_>) {}
}

/// Runs until the program ends, changes units or faults. `machine.pc` then is the instruction concerned.
pub(super) fn exec<W: Watch>(
    unit: &Unit,
    core: &mut Core,
    machine: &mut Machine,
    buf: &mut XdpBuff<'_>,
    watch: &mut W,
) -> Result<Stop, Fault> {
    // In a register while the loop runs. Half the range is more than any run lasts, and leaves room for positions.
    let granted = i64::try_from(core.left).map_or(i64::MAX / 2, |left| left.min(i64::MAX / 2));
    let mut left = granted;
    let result = walk(unit, core, machine, buf, watch, &mut left);
    core.left = core.left.saturating_sub((granted - left) as u64);
    result
}

/// `left` comes and goes as plain instructions left.
#[inline(always)]
fn walk<'b, W: Watch>(
    unit: &Unit,
    core: &mut Core,
    machine: &mut Machine,
    buf: &mut XdpBuff<'b>,
    watch: &mut W,
    left: &mut i64,
) -> Result<Stop, Fault> {
    use Code::*;

    let code = &*unit.code;
    let mut pc = machine.pc as u32;
    *left += i64::from(pc);
    let mut window = Window::of(buf);
    clear(unit, pc, core, machine);
    // Ends the loop at the instruction so many behind `pc`; that counts.
    macro_rules! stop {
        ($behind:expr, $result:expr) => {{
            pc += $behind;
            machine.pc = pc as usize;
            *left -= i64::from(pc) + 1;
            return $result;
        }};
    }
    macro_rules! check {
        ($e:expr) => {
            check!(0, $e)
        };
        ($behind:expr, $e:expr) => {
            match $e {
                Ok(value) => value,
                Err(fault) => stop!($behind, Err(fault)),
            }
        };
    }
    // Whether the instruction at `pc` may still be executed.
    macro_rules! budget {
        () => {
            if *left <= i64::from(pc) {
                machine.pc = pc as usize;
                *left = 0;
                return Err(Fault::Budget);
            }
        };
    }
    budget!();
    'next: loop {
        let at = pc as usize;
        let Some(Ok(ops)) = code.get(at..at + REACH).map(<&[Op; REACH]>::try_from) else {
            stop!(0, Err(Fault::OutOfBounds));
        };
        let op = &ops[0];
        watch.step(at, machine, core, buf);
        let (d, s) = (op.dst as usize, op.src as usize);
        let regs = &mut machine.regs;

        macro_rules! skip {
            ($slots:expr) => {{
                pc += $slots;
                continue 'next;
            }};
        }
        // To where a jump or call goes.
        macro_rules! go {
            ($jump:expr) => {{
                *left += i64::from($jump.high);
                pc = $jump.off as u32;
                budget!();
                continue 'next;
            }};
        }
        // To the beginning of a function, or back from it.
        macro_rules! enter {
            ($to:expr) => {{
                let to = $to as u32;
                clear(unit, to, core, machine);
                *left += i64::from(to) - i64::from(pc) - 1;
                pc = to;
                budget!();
                continue 'next;
            }};
        }
        macro_rules! line {
            () => {
                Line {
                    ops,
                    regs: &mut *regs,
                    space: &mut core.space,
                    window: &window,
                    buf: &mut *buf,
                }
            };
        }
        // A load that misses the usual places.
        macro_rules! far {
            ($n:literal) => {{
                let addr = regs[s].wrapping_add_signed(op.off.into());
                check!(far::<$n>(core, buf, addr, &mut regs[d]));
                skip!(1);
            }};
        }
        // An operation of so many instructions. Where it does nothing, `$else` does the first ones.
        macro_rules! whole {
            ($slots:literal, $done:expr) => {{
                $done;
                skip!($slots);
            }};
            ($slots:literal, $done:expr, $else:expr) => {
                match $done {
                    Some(_) => skip!($slots),
                    None => $else,
                }
            };
        }
        // One that consists of two alike, each of so many instructions. The second may be left to do itself.
        macro_rules! twice {
            ($slots:literal, $first:expr, $second:expr, $else:expr) => {{
                if $first.is_none() {
                    $else;
                }
                if $second.is_none() {
                    skip!($slots);
                }
                skip!(2 * $slots);
            }};
        }
        // The same as `whole`, with a jump at the end.
        macro_rules! branch {
            ($slots:literal, $taken:expr) => {{
                if $taken {
                    go!(&ops[$slots - 1]);
                }
                skip!($slots);
            }};
            ($slots:literal, $taken:expr, $else:expr) => {
                match $taken {
                    Some(true) => go!(&ops[$slots - 1]),
                    Some(false) => skip!($slots),
                    None => $else,
                }
            };
        }

        // The right-hand side by register or immediate, at the width of the operation.
        macro_rules! value {
            (imm, $int:ty) => {
                i64::from(op.imm) as $int
            };
            (rhs, $int:ty) => {
                regs[s] as $int
            };
        }
        macro_rules! alu64 {
            ($rhs:ident, |$a:ident, $b:ident| $result:expr) => {{
                let ($a, $b) = (regs[d], value!($rhs, u64));
                regs[d] = $result;
            }};
        }
        macro_rules! alu32 {
            ($rhs:ident, |$a:ident, $b:ident| $result:expr) => {{
                let ($a, $b) = (regs[d] as u32, value!($rhs, u32));
                regs[d] = u64::from($result);
            }};
        }
        macro_rules! jump {
            ($taken:expr) => {
                if $taken {
                    go!(op);
                }
            };
        }
        macro_rules! jump64 {
            ($rhs:ident, |$a:ident, $b:ident| $taken:expr) => {{
                let ($a, $b) = (regs[d], value!($rhs, u64));
                jump!($taken);
            }};
        }
        macro_rules! jump32 {
            ($rhs:ident, |$a:ident, $b:ident| $taken:expr) => {{
                let ($a, $b) = (regs[d] as u32, value!($rhs, u32));
                jump!($taken);
            }};
        }
        macro_rules! load {
            ($n:literal) => {{
                let addr = regs[s].wrapping_add_signed(op.off.into());
                match core.space.near_load::<$n>(&window, buf, addr) {
                    Some(value) => regs[d] = value,
                    None => check!(far::<$n>(core, buf, addr, &mut regs[d])),
                }
            }};
        }
        macro_rules! store {
            ($n:literal, $rhs:ident) => {{
                let addr = regs[d].wrapping_add_signed(op.off.into());
                let value = value!($rhs, u64);
                if !core.space.near_store::<$n>(&window, buf, addr, value) {
                    check!(core.space.far_store::<$n>(buf, addr, value));
                }
            }};
        }
        macro_rules! atomic {
            ($n:literal) => {{
                let acquire = op.imm == insn::atomic::LOAD_ACQUIRE;
                let base = regs[if acquire { s } else { d }].wrapping_add_signed(op.off.into());
                let (operand, expected) = (regs[s], regs[0]);
                let old = check!(
                    core.space
                        .atomic::<$n>(buf, base, op.imm, operand, expected)
                );
                if let Some(old) = old {
                    let to = match op.imm {
                        insn::atomic::CMPXCHG => 0,
                        insn::atomic::LOAD_ACQUIRE => d,
                        _ => s,
                    };
                    regs[to] = old;
                }
            }};
        }

        match if W::STEPS { op.plain } else { op.code } {
            Add64I => alu64!(imm, |a, b| a.wrapping_add(b)),
            Add64R => alu64!(rhs, |a, b| a.wrapping_add(b)),
            Add32I => alu32!(imm, |a, b| a.wrapping_add(b)),
            Add32R => alu32!(rhs, |a, b| a.wrapping_add(b)),
            Sub64I => alu64!(imm, |a, b| a.wrapping_sub(b)),
            Sub64R => alu64!(rhs, |a, b| a.wrapping_sub(b)),
            Sub32I => alu32!(imm, |a, b| a.wrapping_sub(b)),
            Sub32R => alu32!(rhs, |a, b| a.wrapping_sub(b)),
            Mul64I => alu64!(imm, |a, b| a.wrapping_mul(b)),
            Mul64R => alu64!(rhs, |a, b| a.wrapping_mul(b)),
            Mul32I => alu32!(imm, |a, b| a.wrapping_mul(b)),
            Mul32R => alu32!(rhs, |a, b| a.wrapping_mul(b)),
            Or64I => alu64!(imm, |a, b| a | b),
            Or64R => alu64!(rhs, |a, b| a | b),
            Or32I => alu32!(imm, |a, b| a | b),
            Or32R => alu32!(rhs, |a, b| a | b),
            And64I => alu64!(imm, |a, b| a & b),
            And64R => alu64!(rhs, |a, b| a & b),
            And32I => alu32!(imm, |a, b| a & b),
            And32R => alu32!(rhs, |a, b| a & b),
            Xor64I => alu64!(imm, |a, b| a ^ b),
            Xor64R => alu64!(rhs, |a, b| a ^ b),
            Xor32I => alu32!(imm, |a, b| a ^ b),
            Xor32R => alu32!(rhs, |a, b| a ^ b),
            Lsh64I => alu64!(imm, |a, b| a.wrapping_shl(b as u32)),
            Lsh64R => alu64!(rhs, |a, b| a.wrapping_shl(b as u32)),
            Lsh32I => alu32!(imm, |a, b| a.wrapping_shl(b)),
            Lsh32R => alu32!(rhs, |a, b| a.wrapping_shl(b)),
            Rsh64I => alu64!(imm, |a, b| a.wrapping_shr(b as u32)),
            Rsh64R => alu64!(rhs, |a, b| a.wrapping_shr(b as u32)),
            Rsh32I => alu32!(imm, |a, b| a.wrapping_shr(b)),
            Rsh32R => alu32!(rhs, |a, b| a.wrapping_shr(b)),
            Ash64I => alu64!(imm, |a, b| (a as i64).wrapping_shr(b as u32) as u64),
            Ash64R => alu64!(rhs, |a, b| (a as i64).wrapping_shr(b as u32) as u64),
            Ash32I => alu32!(imm, |a, b| (a as i32).wrapping_shr(b) as u32),
            Ash32R => alu32!(rhs, |a, b| (a as i32).wrapping_shr(b) as u32),
            Div64I => alu64!(imm, |a, b| div64(a, b, false)),
            Div64R => alu64!(rhs, |a, b| div64(a, b, false)),
            Div32I => alu32!(imm, |a, b| div32(a, b, false)),
            Div32R => alu32!(rhs, |a, b| div32(a, b, false)),
            SDiv64I => alu64!(imm, |a, b| div64(a, b, true)),
            SDiv64R => alu64!(rhs, |a, b| div64(a, b, true)),
            SDiv32I => alu32!(imm, |a, b| div32(a, b, true)),
            SDiv32R => alu32!(rhs, |a, b| div32(a, b, true)),
            Mod64I => alu64!(imm, |a, b| mod64(a, b, false)),
            Mod64R => alu64!(rhs, |a, b| mod64(a, b, false)),
            Mod32I => alu32!(imm, |a, b| mod32(a, b, false)),
            Mod32R => alu32!(rhs, |a, b| mod32(a, b, false)),
            SMod64I => alu64!(imm, |a, b| mod64(a, b, true)),
            SMod64R => alu64!(rhs, |a, b| mod64(a, b, true)),
            SMod32I => alu32!(imm, |a, b| mod32(a, b, true)),
            SMod32R => alu32!(rhs, |a, b| mod32(a, b, true)),
            Neg64 => regs[d] = regs[d].wrapping_neg(),
            Neg32 => regs[d] = u64::from((regs[d] as u32).wrapping_neg()),
            Mov64I => regs[d] = value!(imm, u64),
            Mov64R => regs[d] = regs[s],
            Mov32I => regs[d] = u64::from(op.imm as u32),
            Mov32R => regs[d] = u64::from(regs[s] as u32),
            Sext8To64 => regs[d] = regs[s] as i8 as u64,
            Sext16To64 => regs[d] = regs[s] as i16 as u64,
            Sext32To64 => regs[d] = regs[s] as i32 as u64,
            Sext8To32 => regs[d] = u64::from(regs[s] as i8 as u32),
            Sext16To32 => regs[d] = u64::from(regs[s] as i16 as u32),
            Le => regs[d] = swap(regs[d], op.imm, false),
            Be | Bswap => regs[d] = swap(regs[d], op.imm, true),

            Wide => {
                regs[d] = op.wide();
                // Two slots, one instruction.
                *left += 1;
                skip!(2);
            }
            Load8 => load!(1),
            Load16 => load!(2),
            Load32 => load!(4),
            Load64 => load!(8),
            LoadS8 => {
                load!(1);
                regs[d] = regs[d] as i8 as u64;
            }
            LoadS16 => {
                load!(2);
                regs[d] = regs[d] as i16 as u64;
            }
            LoadS32 => {
                load!(4);
                regs[d] = regs[d] as i32 as u64;
            }
            Store8I => store!(1, imm),
            Store16I => store!(2, imm),
            Store32I => store!(4, imm),
            Store64I => store!(8, imm),
            Store8R => store!(1, rhs),
            Store16R => store!(2, rhs),
            Store32R => store!(4, rhs),
            Store64R => store!(8, rhs),
            Frame8 => regs[d] = core.space.frame_load::<1>(op.off),
            Frame16 => regs[d] = core.space.frame_load::<2>(op.off),
            Frame32 => regs[d] = core.space.frame_load::<4>(op.off),
            Frame64 => regs[d] = core.space.frame_load::<8>(op.off),
            ToFrame8I => core.space.frame_store::<1>(op.off, value!(imm, u64)),
            ToFrame16I => core.space.frame_store::<2>(op.off, value!(imm, u64)),
            ToFrame32I => core.space.frame_store::<4>(op.off, value!(imm, u64)),
            ToFrame64I => core.space.frame_store::<8>(op.off, value!(imm, u64)),
            ToFrame8R => core.space.frame_store::<1>(op.off, regs[s]),
            ToFrame16R => core.space.frame_store::<2>(op.off, regs[s]),
            ToFrame32R => core.space.frame_store::<4>(op.off, regs[s]),
            ToFrame64R => core.space.frame_store::<8>(op.off, regs[s]),
            Atomic8 => atomic!(1),
            Atomic16 => atomic!(2),
            Atomic32 => atomic!(4),
            Atomic64 => atomic!(8),

            Ja | Ja32 => jump!(true),
            Jeq64I => jump64!(imm, |a, b| a == b),
            Jeq64R => jump64!(rhs, |a, b| a == b),
            Jeq32I => jump32!(imm, |a, b| a == b),
            Jeq32R => jump32!(rhs, |a, b| a == b),
            Jne64I => jump64!(imm, |a, b| a != b),
            Jne64R => jump64!(rhs, |a, b| a != b),
            Jne32I => jump32!(imm, |a, b| a != b),
            Jne32R => jump32!(rhs, |a, b| a != b),
            Jgt64I => jump64!(imm, |a, b| a > b),
            Jgt64R => jump64!(rhs, |a, b| a > b),
            Jgt32I => jump32!(imm, |a, b| a > b),
            Jgt32R => jump32!(rhs, |a, b| a > b),
            Jge64I => jump64!(imm, |a, b| a >= b),
            Jge64R => jump64!(rhs, |a, b| a >= b),
            Jge32I => jump32!(imm, |a, b| a >= b),
            Jge32R => jump32!(rhs, |a, b| a >= b),
            Jlt64I => jump64!(imm, |a, b| a < b),
            Jlt64R => jump64!(rhs, |a, b| a < b),
            Jlt32I => jump32!(imm, |a, b| a < b),
            Jlt32R => jump32!(rhs, |a, b| a < b),
            Jle64I => jump64!(imm, |a, b| a <= b),
            Jle64R => jump64!(rhs, |a, b| a <= b),
            Jle32I => jump32!(imm, |a, b| a <= b),
            Jle32R => jump32!(rhs, |a, b| a <= b),
            Jset64I => jump64!(imm, |a, b| a & b != 0),
            Jset64R => jump64!(rhs, |a, b| a & b != 0),
            Jset32I => jump32!(imm, |a, b| a & b != 0),
            Jset32R => jump32!(rhs, |a, b| a & b != 0),
            Jsgt64I => jump64!(imm, |a, b| (a as i64) > b as i64),
            Jsgt64R => jump64!(rhs, |a, b| (a as i64) > b as i64),
            Jsgt32I => jump32!(imm, |a, b| (a as i32) > b as i32),
            Jsgt32R => jump32!(rhs, |a, b| (a as i32) > b as i32),
            Jsge64I => jump64!(imm, |a, b| (a as i64) >= b as i64),
            Jsge64R => jump64!(rhs, |a, b| (a as i64) >= b as i64),
            Jsge32I => jump32!(imm, |a, b| (a as i32) >= b as i32),
            Jsge32R => jump32!(rhs, |a, b| (a as i32) >= b as i32),
            Jslt64I => jump64!(imm, |a, b| (a as i64) < b as i64),
            Jslt64R => jump64!(rhs, |a, b| (a as i64) < b as i64),
            Jslt32I => jump32!(imm, |a, b| (a as i32) < b as i32),
            Jslt32R => jump32!(rhs, |a, b| (a as i32) < b as i32),
            Jsle64I => jump64!(imm, |a, b| (a as i64) <= b as i64),
            Jsle64R => jump64!(rhs, |a, b| (a as i64) <= b as i64),
            Jsle32I => jump32!(imm, |a, b| (a as i32) <= b as i32),
            Jsle32R => jump32!(rhs, |a, b| (a as i32) <= b as i32),
            Jcond => {
                machine.gotos += 1;
                jump!(machine.gotos > MAY_GOTO_MAX);
            }

            Lookup => regs[0] = check!(helpers::lookup(core, buf, regs[1], regs[2])),
            AdjustHead => {
                regs[0] = helpers::adjust_head(buf, regs[2]);
                window = Window::of(buf);
            }
            Local => {
                check!(push(core, machine, at + 1, Then::Return));
                enter!(op.off);
            }
            Kfunc => {
                let [_, args @ .., _, _, _, _, _, _, _, _, _, _] = &*regs;
                regs[0] = check!(helpers::kfunc(op.imm.into(), core, args, buf));
            }
            Helper => {
                let outcome = check!(helper(op.imm, core, args(regs), buf));
                match outcome {
                    Outcome::Value(value) => regs[0] = value,
                    Outcome::TailCall { map, index } => {
                        // Where execution goes on if there is nothing to call.
                        regs[0] = errno(Errno::NOENT);
                        machine.pc = at + 1;
                        *left -= i64::from(pc) + 1;
                        return Ok(Stop::TailCall { map, index });
                    }
                    Outcome::Repeat(then) => {
                        check!(push(core, machine, at + 1, then));
                        enter!(check!(again(core, machine)));
                    }
                }
                window = Window::of(buf);
            }
            Exit => {
                budget!();
                if machine.depth == 0 {
                    stop!(0, Ok(Stop::Exit));
                }
                let unit = machine.unit;
                let to = check!(again(core, machine));
                if machine.unit != unit {
                    machine.pc = to;
                    *left -= i64::from(pc) + 1;
                    return Ok(Stop::Switch);
                }
                enter!(to);
            }
            Unknown => stop!(0, Err(Fault::OutOfBounds)),

            Data => whole!(1, line!().edge(false), far!(4)),
            DataEnd => whole!(1, line!().edge(true), far!(4)),
            DataAndEnd => whole!(2, line!().edges(false), far!(4)),
            EndAndData => whole!(2, line!().edges(true), far!(4)),
            Lea => whole!(2, line!().lea()),
            LeaJgt => branch!(3, line!().lea_above()),
            LeaMovJgt => branch!(4, line!().lea_mov_above()),
            Index8 => whole!(3, line!().index(), whole!(2, line!().add())),
            MovShl32 => whole!(2, line!().mov_alu(u32::wrapping_shl)),
            MovShr32 => whole!(2, line!().mov_alu(u32::wrapping_shr)),
            MovAnd32 => whole!(2, line!().mov_alu(|a, b| a & b)),
            MovShrAdd32 => whole!(3, line!().mov_alu_add(u32::wrapping_shr)),
            MovAndAdd32 => whole!(3, line!().mov_alu_add(|a, b| a & b)),
            MovAdd32 => whole!(2, line!().mov_add()),
            Rotate32 => whole!(5, line!().rotate()),
            MovXorSub32 => whole!(3, line!().xor_sub(op.src, 1)),
            XorSub32 => whole!(2, line!().xor_sub(op.dst, 0)),
            MovMovJeq => branch!(3, line!().mov_mov_is()),
            MovMovJne => branch!(3, !line!().mov_mov_is()),
            MovJeq32 => branch!(2, line!().mov_is32()),
            MovJne32 => branch!(2, !line!().mov_is32()),
            MovJa => {
                line!().mov();
                go!(&ops[1]);
            }
            MovExit if machine.depth == 0 => {
                line!().mov();
                pc += 1;
                budget!();
                stop!(0, Ok(Stop::Exit));
            }
            MovExit => line!().mov(),
            StepJeq32 => branch!(2, line!().step32_is(u32::wrapping_add)),
            StepJne32 => branch!(2, !line!().step32_is(u32::wrapping_add)),
            StepJeq64 => branch!(2, line!().step64_is()),
            StepJne64 => branch!(2, !line!().step64_is()),
            AndJeq32 => branch!(2, line!().step32_is(|a, b| a & b)),
            AndJne32 => branch!(2, !line!().step32_is(|a, b| a & b)),
            Copy8 => whole!(2, line!().copy::<1>(0), far!(1)),
            Copy16 => whole!(2, line!().copy::<2>(0), far!(2)),
            Copy32 => whole!(2, line!().copy::<4>(0), far!(4)),
            Copy64 => whole!(2, line!().copy::<8>(0), far!(8)),
            Copy8Twice => twice!(2, line!().copy::<1>(0), line!().copy::<1>(2), far!(1)),
            FramePut8 => twice!(1, line!().frame32(), line!().store8(1), skip!(1)),
            Save16Twice => twice!(2, line!().save::<2, 2>(0), line!().save::<2, 2>(2), far!(2)),
            Save32Twice => twice!(2, line!().save::<4, 4>(0), line!().save::<4, 4>(2), far!(4)),
            Save8 => whole!(2, line!().save::<1, 1>(0), far!(1)),
            Save16 => whole!(2, line!().save::<2, 2>(0), far!(2)),
            Save32 => whole!(2, line!().save::<4, 4>(0), far!(4)),
            Save64 => whole!(2, line!().save::<8, 8>(0), far!(8)),
            Save8As32 => whole!(2, line!().save::<1, 4>(0), far!(1)),
            Set8 => whole!(2, line!().put::<1>(0), whole!(1, line!().mov())),
            Set16 => whole!(2, line!().put::<2>(0), whole!(1, line!().mov())),
            Set32 => whole!(2, line!().put::<4>(0), whole!(1, line!().mov())),
            Set8Twice => twice!(
                2,
                line!().put::<1>(0),
                line!().put::<1>(2),
                whole!(1, line!().mov())
            ),
            ShrPut8 => whole!(2, line!().shift_put(op.dst, 1), whole!(1, line!().shift())),
            MovShrPut8 => whole!(
                3,
                line!().shift_put(op.src, 2),
                whole!(2, line!().mov_alu(u32::wrapping_shr))
            ),
            Put8Put8 => twice!(1, line!().store8(0), line!().store8(1), {
                store!(1, rhs);
                skip!(1);
            }),
            HalfUp => whole!(4, line!().half_up(), far!(1)),
            HalfUpJne => branch!(5, line!().half_is().map(|is| !is), far!(1)),
            HalfUpJeq => branch!(5, line!().half_is(), far!(1)),
            HalfDown => whole!(4, line!().half_down(), far!(1)),
            Upper => whole!(6, line!().upper(), far!(1)),
            Load8Jne => branch!(2, line!().load_is::<1>().map(|is| !is), far!(1)),
            Load8Jeq => branch!(2, line!().load_is::<1>(), far!(1)),
            Load16Jne => branch!(2, line!().load_is::<2>().map(|is| !is), far!(2)),
            Load16Jeq => branch!(2, line!().load_is::<2>(), far!(2)),
            Load8AndJne => branch!(3, line!().load_and_is::<1>().map(|is| !is), far!(1)),
            Load8AndJeq => branch!(3, line!().load_and_is::<1>(), far!(1)),
            Load16AndJne => branch!(3, line!().load_and_is::<2>().map(|is| !is), far!(2)),
            Load16AndJeq => branch!(3, line!().load_and_is::<2>(), far!(2)),
            Load8And => whole!(2, line!().load_and::<1>(), far!(1)),
            Load16Add => whole!(2, line!().load_add::<2>(), far!(2)),
            AddTo => whole!(3, line!().add_to(), far!(8)),
            CountIn => whole!(3, line!().count_in(), far!(8)),
            LookupAt => {
                let [map, key] = line!().lookup_args();
                *left += 1;
                regs[0] = check!(4, helpers::lookup(core, buf, map, key));
                skip!(5);
            }
        }
        pc += 1;
    }
}

/// A load from anywhere.
#[inline(never)]
fn far<const N: usize>(core: &mut Core, buf: &XdpBuff<'_>, addr: u64, out: &mut u64) -> Result<(), Fault> {
    if let Some(value) = core.space.recent_load::<N>(addr) {
        *out = value;
        return Ok(());
    }
    let off = addr.wrapping_sub(CTX_ADDR);
    *out = match N {
        // The context's fields are of this size; of a steering program's, some can be read byte by byte.
        4 if off < SKB_SIZE => context(core, buf, off)?,
        _ => core.space.load::<N>(buf, addr)?,
    };
    Ok(())
}

/// Zeroes the frame of a function that begins here if the function reads stack that it has not written.
#[inline(always)]
fn clear(unit: &Unit, pc: u32, core: &mut Core, machine: &Machine) {
    if unit.clears.get(pc as usize) == Some(&true) {
        core.space.clear_frame(machine.depth);
    }
}

/// Not inlined: the loop's registers are its own.
#[inline(never)]
fn helper(id: i32, core: &mut Core, a: [u64; 5], buf: &mut XdpBuff<'_>) -> Result<Outcome, Fault> {
    helpers::call(id, core, a, buf)
}

fn args(regs: &[u64; REGS]) -> [u64; 5] {
    [regs[1], regs[2], regs[3], regs[4], regs[5]]
}
