//! The instruction loop.
//!
//! Instructions are counted where control leaves a straight line only: `left` is what the run may still execute plus the
//! position it is at, so going on to the next instruction changes nothing, and a jump adds the distance it skips.

use super::alu::{div32, div64, mod32, mod64, swap};
use super::frames::{Then, again, context, errno, push};
use super::op::{Code, Op, REGS};
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
    /// Before each instruction.
    fn step(&mut self, pc: usize, machine: &Machine, core: &Core, buf: &XdpBuff<'_>);
}

impl Watch for () {
    #[inline(always)]
    fn step(&mut self, _: usize, _: &Machine, _: &Core, _: &XdpBuff<'_>) {}
}

/// Runs until the program ends, changes units or faults. `machine.pc` then is the instruction concerned.
pub(super) fn exec<W: Watch>(
    code: &[Op],
    core: &mut Core,
    machine: &mut Machine,
    buf: &mut XdpBuff<'_>,
    watch: &mut W,
) -> Result<Stop, Fault> {
    // In a register while the loop runs. Half the range is more than any run lasts, and leaves room for positions.
    let granted = i64::try_from(core.left).map_or(i64::MAX / 2, |left| left.min(i64::MAX / 2));
    let mut left = granted;
    let result = walk(code, core, machine, buf, watch, &mut left);
    core.left = core.left.saturating_sub((granted - left) as u64);
    result
}

/// `left` comes and goes as plain instructions left.
#[inline(always)]
fn walk<'b, W: Watch>(
    code: &[Op],
    core: &mut Core,
    machine: &mut Machine,
    buf: &mut XdpBuff<'b>,
    watch: &mut W,
    left: &mut i64,
) -> Result<Stop, Fault> {
    use Code::*;

    let mut pc = machine.pc;
    *left += pc as i64;
    let mut window = Window::of(buf);
    clear(code, pc, core, machine);
    // Ends the loop at `pc`, whose instruction counts.
    macro_rules! stop {
        ($result:expr) => {{
            machine.pc = pc;
            *left -= pc as i64 + 1;
            return $result;
        }};
    }
    macro_rules! check {
        ($e:expr) => {
            match $e {
                Ok(value) => value,
                Err(fault) => stop!(Err(fault)),
            }
        };
    }
    // Whether the instruction at `pc` may still be executed.
    macro_rules! budget {
        () => {
            if *left <= pc as i64 {
                machine.pc = pc;
                *left = 0;
                return Err(Fault::Budget);
            }
        };
    }
    macro_rules! go {
        ($to:expr) => {{
            let to: usize = $to;
            *left += to as i64 - pc as i64 - 1;
            pc = to;
            budget!();
            continue;
        }};
    }
    budget!();
    loop {
        let Some(op) = code.get(pc) else {
            stop!(Err(Fault::OutOfBounds));
        };
        watch.step(pc, machine, core, buf);
        let (d, s) = (op.dst as usize, op.src as usize);
        let regs = &mut machine.regs;

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
                    go!(op.off as usize);
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
            ($n:literal) => {
                load!($n, false)
            };
            // Whether the context can be meant.
            ($n:literal, $context:literal) => {{
                let addr = regs[s].wrapping_add_signed(op.off.into());
                match core.space.near_load::<$n>(&window, buf, addr) {
                    Some(value) => regs[d] = value,
                    None if $context && addr.wrapping_sub(CTX_ADDR) < SKB_SIZE => {
                        regs[d] = check!(context(core, buf, addr.wrapping_sub(CTX_ADDR)));
                    }
                    None => check!(core.space.far_load::<$n>(buf, addr, &mut regs[d])),
                }
            }};
        }
        macro_rules! store {
            ($n:literal, $rhs:ident) => {{
                let addr = regs[d].wrapping_add_signed(op.off.into());
                let value = value!($rhs, u64);
                check!(core.space.near_store::<$n>(&window, buf, addr, value))
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

        match op.code {
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
                regs[d] = u64::from(op.imm as u32) | (op.high as u64) << 32;
                // Two slots, one instruction.
                *left += 1;
                pc += 2;
                continue;
            }
            Load8 => load!(1),
            Load16 => load!(2),
            Load32 => load!(4, true),
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

            Lookup => regs[0] = check!(helpers::lookup(core, buf, args(regs))),
            Local => {
                let to = op.off as usize;
                check!(push(core, machine, pc + 1, Then::Return));
                clear(code, to, core, machine);
                go!(to);
            }
            Kfunc => {
                regs[0] = check!(helpers::kfunc(op.imm.into(), core, args(regs), buf));
                window = Window::of(buf);
            }
            Helper => {
                let outcome = check!(helper(op.imm, core, args(regs), buf));
                match outcome {
                    Outcome::Value(value) => regs[0] = value,
                    Outcome::TailCall { map, index } => {
                        // Where execution goes on if there is nothing to call.
                        regs[0] = errno(Errno::NOENT);
                        machine.pc = pc + 1;
                        *left -= pc as i64 + 1;
                        return Ok(Stop::TailCall { map, index });
                    }
                    Outcome::Repeat(then) => {
                        check!(push(core, machine, pc + 1, then));
                        let to = check!(again(core, machine));
                        clear(code, to, core, machine);
                        go!(to);
                    }
                }
                window = Window::of(buf);
            }
            Exit => {
                budget!();
                if machine.depth == 0 {
                    stop!(Ok(Stop::Exit));
                }
                let unit = machine.unit;
                let to = check!(again(core, machine));
                if machine.unit != unit {
                    machine.pc = to;
                    *left -= pc as i64 + 1;
                    return Ok(Stop::Switch);
                }
                clear(code, to, core, machine);
                go!(to);
            }
            Unknown => stop!(Err(Fault::OutOfBounds)),
        }
        pc += 1;
    }
}

/// Zeroes the frame of a function that begins here if the function reads stack that it has not written.
#[inline(always)]
fn clear(code: &[Op], pc: usize, core: &mut Core, machine: &Machine) {
    if code.get(pc).is_some_and(|op| op.clears) {
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
