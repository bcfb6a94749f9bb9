//! The instruction loop.

use super::alu::{div32, div64, extend, mod32, mod64, swap};
use super::unit::Op;
use super::{Core, Machine};
use crate::helpers::{self, Outcome};
use crate::hook::SKB_SIZE;
use crate::insn;
use crate::mem::space::{CTX_ADDR, FRAMES};
use crate::{Errno, Fault, XdpBuff};

/// Iterations of `may_goto` loops in a run before they are left.
pub(crate) const MAY_GOTO_MAX: u32 = 1 << 16;

/// A call frame that waits for its callee.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    ret: usize,
    unit: usize,
    saved: [u64; 4],
    then: Then,
}

impl Frame {
    pub const EMPTY: Frame = Frame {
        ret: 0,
        unit: 0,
        saved: [0; 4],
        then: Then::Return,
    };
}

/// What happens when the callee exits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// The caller goes on.
    Return,
    /// `bpf_loop`: the callback runs again with the next index.
    Loop {
        index: u32,
        count: u32,
        callback: usize,
        ctx: u64,
    },
    /// `bpf_for_each_map_elem`: the callback runs again with the next entry.
    ForEach {
        map: u64,
        next: u32,
        seen: u32,
        callback: usize,
        ctx: u64,
    },
}

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
    // In a register while the loop runs.
    let mut left = core.left;
    let result = walk(code, core, machine, buf, watch, &mut left);
    core.left = left;
    result
}

#[inline(always)]
fn walk<W: Watch>(
    code: &[Op],
    core: &mut Core,
    machine: &mut Machine,
    buf: &mut XdpBuff<'_>,
    watch: &mut W,
    left: &mut u64,
) -> Result<Stop, Fault> {
    let mut pc = machine.pc;
    clear(code, pc, core, machine);
    macro_rules! check {
        ($e:expr) => {
            match $e {
                Ok(value) => value,
                Err(fault) => {
                    machine.pc = pc;
                    return Err(fault);
                }
            }
        };
    }
    loop {
        let Some(op) = code.get(pc) else {
            machine.pc = pc;
            return Err(Fault::OutOfBounds);
        };
        if *left == 0 {
            machine.pc = pc;
            return Err(Fault::Budget);
        }
        *left -= 1;
        watch.step(pc, machine, core, buf);
        let (d, s) = (usize::from(op.dst & 15), usize::from(op.src & 15));
        let regs = &mut machine.regs;
        let imm = op.imm as u64;

        macro_rules! alu64 {
            ($rhs:expr, |$a:ident, $b:ident| $result:expr) => {{
                let ($a, $b): (u64, u64) = (regs[d], $rhs);
                regs[d] = $result;
            }};
        }
        macro_rules! alu32 {
            ($rhs:expr, |$a:ident, $b:ident| $result:expr) => {{
                let ($a, $b): (u32, u32) = (regs[d] as u32, $rhs as u32);
                regs[d] = u64::from($result);
            }};
        }
        macro_rules! jump {
            ($taken:expr) => {
                if $taken {
                    pc = op.off as usize;
                    continue;
                }
            };
        }
        macro_rules! jump64 {
            ($rhs:expr, |$a:ident, $b:ident| $taken:expr) => {{
                let ($a, $b): (u64, u64) = (regs[d], $rhs);
                jump!($taken);
            }};
        }
        macro_rules! jump32 {
            ($rhs:expr, |$a:ident, $b:ident| $taken:expr) => {{
                let ($a, $b): (u32, u32) = (regs[d] as u32, $rhs as u32);
                jump!($taken);
            }};
        }
        macro_rules! load {
            ($n:literal) => {
                check!(
                    core.space
                        .load::<$n>(buf, regs[s].wrapping_add_signed(op.off.into()))
                )
            };
        }
        macro_rules! store {
            ($n:literal, $value:expr) => {
                check!(
                    core.space
                        .store::<$n>(buf, regs[d].wrapping_add_signed(op.off.into()), $value)
                )
            };
        }
        macro_rules! atomic {
            ($n:literal) => {{
                let acquire = op.imm as i32 == insn::atomic::LOAD_ACQUIRE;
                let base = regs[if acquire { s } else { d }].wrapping_add_signed(op.off.into());
                let old = check!(
                    core.space
                        .atomic::<$n>(buf, base, op.imm as i32, regs[s], regs[0])
                );
                if let Some(old) = old {
                    let to = match op.imm as i32 {
                        insn::atomic::CMPXCHG => 0,
                        insn::atomic::LOAD_ACQUIRE => d,
                        _ => s,
                    };
                    regs[to] = old;
                }
            }};
        }

        match op.code {
            // ALU64, section 4.1
            0x07 => alu64!(imm, |a, b| a.wrapping_add(b)),
            0x0f => alu64!(regs[s], |a, b| a.wrapping_add(b)),
            0x17 => alu64!(imm, |a, b| a.wrapping_sub(b)),
            0x1f => alu64!(regs[s], |a, b| a.wrapping_sub(b)),
            0x27 => alu64!(imm, |a, b| a.wrapping_mul(b)),
            0x2f => alu64!(regs[s], |a, b| a.wrapping_mul(b)),
            0x37 => alu64!(imm, |a, b| div64(a, b, op.off != 0)),
            0x3f => alu64!(regs[s], |a, b| div64(a, b, op.off != 0)),
            0x47 => alu64!(imm, |a, b| a | b),
            0x4f => alu64!(regs[s], |a, b| a | b),
            0x57 => alu64!(imm, |a, b| a & b),
            0x5f => alu64!(regs[s], |a, b| a & b),
            0x67 => alu64!(imm, |a, b| a.wrapping_shl(b as u32)),
            0x6f => alu64!(regs[s], |a, b| a.wrapping_shl(b as u32)),
            0x77 => alu64!(imm, |a, b| a.wrapping_shr(b as u32)),
            0x7f => alu64!(regs[s], |a, b| a.wrapping_shr(b as u32)),
            0x87 => regs[d] = regs[d].wrapping_neg(),
            0x97 => alu64!(imm, |a, b| mod64(a, b, op.off != 0)),
            0x9f => alu64!(regs[s], |a, b| mod64(a, b, op.off != 0)),
            0xa7 => alu64!(imm, |a, b| a ^ b),
            0xaf => alu64!(regs[s], |a, b| a ^ b),
            0xb7 => regs[d] = imm,
            0xbf => regs[d] = extend(regs[s], op.off),
            0xc7 => alu64!(imm, |a, b| (a as i64).wrapping_shr(b as u32) as u64),
            0xcf => alu64!(regs[s], |a, b| (a as i64).wrapping_shr(b as u32) as u64),
            0xd7 => regs[d] = swap(regs[d], op.imm, true),

            // ALU32: the upper half of the result is zero
            0x04 => alu32!(imm, |a, b| a.wrapping_add(b)),
            0x0c => alu32!(regs[s], |a, b| a.wrapping_add(b)),
            0x14 => alu32!(imm, |a, b| a.wrapping_sub(b)),
            0x1c => alu32!(regs[s], |a, b| a.wrapping_sub(b)),
            0x24 => alu32!(imm, |a, b| a.wrapping_mul(b)),
            0x2c => alu32!(regs[s], |a, b| a.wrapping_mul(b)),
            0x34 => alu32!(imm, |a, b| div32(a, b, op.off != 0)),
            0x3c => alu32!(regs[s], |a, b| div32(a, b, op.off != 0)),
            0x44 => alu32!(imm, |a, b| a | b),
            0x4c => alu32!(regs[s], |a, b| a | b),
            0x54 => alu32!(imm, |a, b| a & b),
            0x5c => alu32!(regs[s], |a, b| a & b),
            0x64 => alu32!(imm, |a, b| a.wrapping_shl(b)),
            0x6c => alu32!(regs[s], |a, b| a.wrapping_shl(b)),
            0x74 => alu32!(imm, |a, b| a.wrapping_shr(b)),
            0x7c => alu32!(regs[s], |a, b| a.wrapping_shr(b)),
            0x84 => regs[d] = u64::from((regs[d] as u32).wrapping_neg()),
            0x94 => alu32!(imm, |a, b| mod32(a, b, op.off != 0)),
            0x9c => alu32!(regs[s], |a, b| mod32(a, b, op.off != 0)),
            0xa4 => alu32!(imm, |a, b| a ^ b),
            0xac => alu32!(regs[s], |a, b| a ^ b),
            0xb4 => regs[d] = u64::from(imm as u32),
            0xbc => regs[d] = u64::from(extend(regs[s], op.off) as u32),
            0xc4 => alu32!(imm, |a, b| (a as i32).wrapping_shr(b) as u32),
            0xcc => alu32!(regs[s], |a, b| (a as i32).wrapping_shr(b) as u32),
            0xd4 => regs[d] = swap(regs[d], op.imm, false),
            0xdc => regs[d] = swap(regs[d], op.imm, true),

            // Loads and stores, section 5
            0x18 => {
                regs[d] = imm;
                pc += 2;
                continue;
            }
            0x61 => {
                let addr = regs[s].wrapping_add_signed(op.off.into());
                regs[d] = match addr.wrapping_sub(CTX_ADDR) {
                    off @ 0..SKB_SIZE => check!(context(core, buf, off)),
                    _ => check!(core.space.load::<4>(buf, addr)),
                };
            }
            0x69 => regs[d] = load!(2),
            0x71 => regs[d] = load!(1),
            0x79 => regs[d] = load!(8),
            0x81 => regs[d] = extend(load!(4), 32),
            0x89 => regs[d] = extend(load!(2), 16),
            0x91 => regs[d] = extend(load!(1), 8),
            0x62 => store!(4, imm),
            0x6a => store!(2, imm),
            0x72 => store!(1, imm),
            0x7a => store!(8, imm),
            0x63 => store!(4, regs[s]),
            0x6b => store!(2, regs[s]),
            0x73 => store!(1, regs[s]),
            0x7b => store!(8, regs[s]),
            0xc3 => atomic!(4),
            0xdb => atomic!(8),
            0xcb => atomic!(2),
            0xd3 => atomic!(1),

            // Jumps, section 4.3
            0x05 | 0x06 => jump!(true),
            0x15 => jump64!(imm, |a, b| a == b),
            0x1d => jump64!(regs[s], |a, b| a == b),
            0x25 => jump64!(imm, |a, b| a > b),
            0x2d => jump64!(regs[s], |a, b| a > b),
            0x35 => jump64!(imm, |a, b| a >= b),
            0x3d => jump64!(regs[s], |a, b| a >= b),
            0x45 => jump64!(imm, |a, b| a & b != 0),
            0x4d => jump64!(regs[s], |a, b| a & b != 0),
            0x55 => jump64!(imm, |a, b| a != b),
            0x5d => jump64!(regs[s], |a, b| a != b),
            0x65 => jump64!(imm, |a, b| a as i64 > b as i64),
            0x6d => jump64!(regs[s], |a, b| a as i64 > b as i64),
            0x75 => jump64!(imm, |a, b| a as i64 >= b as i64),
            0x7d => jump64!(regs[s], |a, b| a as i64 >= b as i64),
            0xa5 => jump64!(imm, |a, b| a < b),
            0xad => jump64!(regs[s], |a, b| a < b),
            0xb5 => jump64!(imm, |a, b| a <= b),
            0xbd => jump64!(regs[s], |a, b| a <= b),
            0xc5 => jump64!(imm, |a, b| (a as i64) < b as i64),
            0xcd => jump64!(regs[s], |a, b| (a as i64) < b as i64),
            0xd5 => jump64!(imm, |a, b| a as i64 <= b as i64),
            0xdd => jump64!(regs[s], |a, b| a as i64 <= b as i64),
            0x16 => jump32!(imm, |a, b| a == b),
            0x1e => jump32!(regs[s], |a, b| a == b),
            0x26 => jump32!(imm, |a, b| a > b),
            0x2e => jump32!(regs[s], |a, b| a > b),
            0x36 => jump32!(imm, |a, b| a >= b),
            0x3e => jump32!(regs[s], |a, b| a >= b),
            0x46 => jump32!(imm, |a, b| a & b != 0),
            0x4e => jump32!(regs[s], |a, b| a & b != 0),
            0x56 => jump32!(imm, |a, b| a != b),
            0x5e => jump32!(regs[s], |a, b| a != b),
            0x66 => jump32!(imm, |a, b| a as i32 > b as i32),
            0x6e => jump32!(regs[s], |a, b| a as i32 > b as i32),
            0x76 => jump32!(imm, |a, b| a as i32 >= b as i32),
            0x7e => jump32!(regs[s], |a, b| a as i32 >= b as i32),
            0xa6 => jump32!(imm, |a, b| a < b),
            0xae => jump32!(regs[s], |a, b| a < b),
            0xb6 => jump32!(imm, |a, b| a <= b),
            0xbe => jump32!(regs[s], |a, b| a <= b),
            0xc6 => jump32!(imm, |a, b| (a as i32) < b as i32),
            0xce => jump32!(regs[s], |a, b| (a as i32) < b as i32),
            0xd6 => jump32!(imm, |a, b| a as i32 <= b as i32),
            0xde => jump32!(regs[s], |a, b| a as i32 <= b as i32),
            insn::JCOND => {
                machine.gotos += 1;
                jump!(machine.gotos > MAY_GOTO_MAX);
            }

            insn::CALL => match op.src {
                insn::CALL_LOCAL => {
                    check!(push(core, machine, pc + 1, Then::Return));
                    pc = op.off as usize;
                    clear(code, pc, core, machine);
                    continue;
                }
                insn::CALL_KFUNC => {
                    regs[0] = check!(helpers::kfunc(op.imm, core, args(regs), buf));
                }
                _ => {
                    let outcome = check!(helpers::call(op.imm as i32, core, args(regs), buf));
                    match outcome {
                        Outcome::Value(value) => regs[0] = value,
                        Outcome::TailCall { map, index } => {
                            // Where execution goes on if there is nothing to call.
                            regs[0] = errno(Errno::NOENT);
                            machine.pc = pc + 1;
                            return Ok(Stop::TailCall { map, index });
                        }
                        Outcome::Repeat(then) => {
                            check!(push(core, machine, pc + 1, then));
                            pc = check!(again(core, machine));
                            clear(code, pc, core, machine);
                            continue;
                        }
                    }
                }
            },
            insn::EXIT => {
                if machine.depth == 0 {
                    machine.pc = pc;
                    return Ok(Stop::Exit);
                }
                let unit = machine.unit;
                pc = check!(again(core, machine));
                if machine.unit != unit {
                    machine.pc = pc;
                    return Ok(Stop::Switch);
                }
                clear(code, pc, core, machine);
                continue;
            }
            _ => {
                machine.pc = pc;
                return Err(Fault::OutOfBounds);
            }
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

fn args(regs: &[u64; 16]) -> [u64; 5] {
    [regs[1], regs[2], regs[3], regs[4], regs[5]]
}

/// An error number as helpers return it.
pub(crate) fn errno(errno: Errno) -> u64 {
    i64::from(-errno.raw_os_error()) as u64
}

/// A 32-bit load from `struct xdp_md`, or from `struct __sk_buff` where there is one: the pointer fields yield real
/// pointers.
pub(crate) fn context(core: &Core, buf: &XdpBuff<'_>, off: u64) -> Result<u64, Fault> {
    if let Some(skb) = core.space.skb() {
        return if off.is_multiple_of(4) && off < SKB_SIZE {
            Ok(skb.load(buf, off))
        } else {
            Err(Fault::Context)
        };
    }
    Ok(match off {
        0 => buf.data.addr() as u64,
        4 => buf.data_end.addr() as u64,
        8 => buf.data_meta.addr() as u64,
        12 => buf.ingress_ifindex.into(),
        16 => buf.rx_queue.into(),
        20 => buf.egress_ifindex.into(),
        _ => return Err(Fault::Context),
    })
}

/// Enters a new frame.
fn push(core: &mut Core, machine: &mut Machine, ret: usize, then: Then) -> Result<(), Fault> {
    if machine.depth + 1 >= FRAMES {
        return Err(Fault::CallDepth);
    }
    let saved = [machine.regs[6], machine.regs[7], machine.regs[8], machine.regs[9]];
    machine.frames[machine.depth] = Frame {
        ret,
        unit: machine.unit,
        saved,
        then,
    };
    machine.depth += 1;
    core.space.set_depth(machine.depth);
    machine.regs[10] = core.space.frame_pointer(machine.depth);
    Ok(())
}

/// After a callee's exit, or to begin a repeated callback: gives the instruction to go on with.
fn again(core: &mut Core, machine: &mut Machine) -> Result<usize, Fault> {
    let frame = &mut machine.frames[machine.depth - 1];
    let result = match &mut frame.then {
        Then::Return => None,
        Then::Loop {
            index,
            count,
            callback,
            ctx,
        } => {
            let stop = *index > 0 && machine.regs[0] != 0;
            if *index < *count && !stop {
                machine.regs[1] = u64::from(*index);
                machine.regs[2] = *ctx;
                *index += 1;
                return Ok(*callback);
            }
            Some(u64::from(*index))
        }
        Then::ForEach {
            map,
            next,
            seen,
            callback,
            ctx,
        } => {
            let stop = *seen > 0 && machine.regs[0] != 0;
            let entry = match stop {
                true => None,
                false => helpers::entry(core, *map, *next)?,
            };
            if let Some((at, key, value)) = entry {
                machine.regs[1] = *map;
                machine.regs[2] = key;
                machine.regs[3] = value;
                machine.regs[4] = *ctx;
                *next = at + 1;
                *seen += 1;
                return Ok(*callback);
            }
            Some(u64::from(*seen))
        }
    };
    let frame = *frame;
    machine.depth -= 1;
    core.space.set_depth(machine.depth);
    machine.regs[10] = core.space.frame_pointer(machine.depth);
    machine.regs[6..10].copy_from_slice(&frame.saved);
    machine.unit = frame.unit;
    if let Some(result) = result {
        machine.regs[0] = result;
    }
    Ok(frame.ret)
}
