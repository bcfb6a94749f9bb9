//! A verified program in the form that rbpf does right, or the reason why there is none.
//!
//! What was found wrong in rbpf 0.4.1 and can be said otherwise is said otherwise: a 32-bit move and a 32-bit remainder do not
//! clear the upper half (an `and` follows), `le` does nothing (an `and` takes its place), a context access knows nothing of
//! `struct xdp_md` (it becomes a load from the frame's descriptor).

use super::{FIELD_OFFSETS, has_helper};
use crate::Hook;
use crate::insn::{self, Insn};
use crate::mem::space::{Space, map_addr};
use crate::program::Program;
use crate::verifier::{CtxField, Fact};

/// Number of the helper that is told where the stack is. The kernel has none of this number.
pub(super) const NOTE_STACK: i32 = 0x4d52;
/// Fields of `struct xdp_md`.
pub(super) const CTX_FIELDS: usize = 6;
/// Bytes of machine code that rbpf's JIT has room for.
const ROOM: usize = 4096;

const AND32: u8 = 0x54;
const AND64: u8 = 0x57;
const ADD64_IMM: u8 = 0x07;
const NEG64: u8 = 0x87;
const XOR64_IMM: u8 = 0xa7;
const MOV64_REG: u8 = 0xbf;
const MOV64_IMM: u8 = 0xb7;
const LDX_DW: u8 = 0x79;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// The program as rbpf's JIT takes it, or its interpreter; its maps are added to `space`.
pub(super) fn lower(program: &Program, space: &mut Space, interpreted: bool) -> Result<Vec<u8>, String> {
    let Some(verified) = program.body().proof() else {
        return Err("its code checks no access, so it runs verified programs only".into());
    };
    let body = program.body();
    if body.hook != Hook::Xdp {
        return Err("it is handed frames, not the context of a steering program".into());
    }
    for (n, function) in verified.functions.iter().enumerate() {
        if function.zero {
            return Err("the program reads stack that it has not written, and rbpf does not clear it".into());
        }
        if n > 0 && function.stack > 0 {
            return Err("a called function uses stack, and rbpf gives it its caller's".into());
        }
    }
    let maps = &program.collection().maps;
    let indexes: Vec<u32> = maps.iter().map(|m| space.add_map(m)).collect();
    // Where the stack is: r6 keeps the context meanwhile.
    let mut out = vec![
        insn(MOV64_REG, 6, 1, 0, 0),
        insn(MOV64_REG, 1, 10, 0, 0),
        insn(insn::CALL, 0, insn::CALL_HELPER, 0, NOTE_STACK),
        insn(MOV64_REG, 1, 6, 0, 0),
        insn(MOV64_IMM, 6, 0, 0, 0),
    ];
    // New place of each old slot, and what jumps where.
    let mut places = vec![0; body.insns.len() + 1];
    let mut jumps: Vec<(usize, i64)> = Vec::new();
    let mut at = 0;
    while let Some(&old) = body.insns.get(at) {
        places[at] = out.len();
        if old.is_wide() {
            let high = body.insns.get(at + 1).map_or(0, |second| second.imm);
            let value = match old.src {
                insn::IMM_MAP => indexes.get(old.imm as usize).map_or(0, |i| map_addr(*i)),
                insn::IMM_MAP_VALUE => {
                    let base = maps.get(old.imm as usize).and_then(|m| m.base_addr());
                    base.map_or(0, |b| b.wrapping_add(u64::from(high as u32)))
                }
                insn::IMM_PLAIN => u64::from(old.imm as u32) | u64::from(high as u32) << 32,
                _ => return Err("callbacks are not known to it".into()),
            };
            out.push(insn(insn::LD_IMM64, old.dst, 0, 0, value as i32));
            out.push(insn(0, 0, 0, 0, (value >> 32) as i32));
            at += 2;
            continue;
        }
        if let Some(target) = target(old, at) {
            jumps.push((out.len(), target));
        }
        match interpreted {
            true => one_interpreted(old, verified.facts.get(at), &mut out)?,
            false => one(old, verified.facts.get(at), &mut out)?,
        }
        at += 1;
    }
    places[at] = out.len();
    for (place, target) in jumps {
        let to = usize::try_from(target).ok().and_then(|t| places.get(t));
        let Some(to) = to else {
            return Err("a jump leaves the program".into());
        };
        let distance = *to as i64 - place as i64 - 1;
        if out[place].code == insn::CALL {
            out[place].imm = i32::try_from(distance).unwrap_or(i32::MAX);
        } else {
            out[place].off = i16::try_from(distance).map_err(|_| "a jump becomes too long".to_owned())?;
        }
    }
    let bytes: usize = 64 + out.iter().map(|i| most_bytes(*i)).sum::<usize>();
    if interpreted {
        // Its positions are 16-bit numbers.
        if out.len() > i16::MAX as usize {
            return Err("the program is too long for it".into());
        }
    } else if bytes > ROOM {
        return Err(format!(
            "its machine code could take {bytes} bytes, and rbpf has room for {ROOM}"
        ));
    }
    Ok(out.iter().flat_map(|i| i.encode()).collect())
}

/// Where a jump or a call of a function goes.
fn target(insn: Insn, at: usize) -> Option<i64> {
    let next = at as i64 + 1;
    match insn.code {
        insn::CALL if insn.src == insn::CALL_LOCAL => Some(next + i64::from(insn.imm)),
        insn::CALL | insn::EXIT => None,
        _ if matches!(insn.class(), insn::JMP | insn::JMP32) => Some(next + i64::from(insn.off)),
        _ => None,
    }
}

/// One instruction.
fn one(old: Insn, fact: Option<&Fact>, out: &mut Vec<Insn>) -> Result<(), String> {
    let no = |what: &str| Err(format!("{what} not known to it"));
    match old.class() {
        insn::LDX => {
            if let Some(Fact::Ctx(field)) = fact {
                let pointer = matches!(field, CtxField::Data | CtxField::DataEnd | CtxField::DataMeta);
                let code = if pointer { LDX_DW } else { old.code };
                let off = FIELD_OFFSETS[*field as usize] as i16;
                out.push(insn(code, old.dst, old.src, off, 0));
                return Ok(());
            }
            if old.code & 0xe0 == 0x80 {
                return no("sign-extending loads are");
            }
        }
        insn::STX if old.code & 0xe0 == 0xc0 => return no("atomic operations are"),
        insn::ALU | insn::ALU64 => return arithmetic(old, out),
        insn::JMP | insn::JMP32 => match old.code {
            insn::JA32 => return no("gotol is"),
            insn::JCOND => return no("may_goto is"),
            insn::CALL => match old.src {
                insn::CALL_KFUNC => return no("kernel functions are"),
                insn::CALL_HELPER if !has_helper(old.imm) => {
                    return Err(format!(
                        "helper #{} runs code, which rbpf cannot go back to",
                        old.imm
                    ));
                }
                _ => {}
            },
            _ => {}
        },
        _ => {}
    }
    out.push(old);
    Ok(())
}

/// What the interpreter does wrong besides.
fn one_interpreted(old: Insn, fact: Option<&Fact>, out: &mut Vec<Insn>) -> Result<(), String> {
    let unsigned = matches!(old.code & 0xf0, 0x10 | 0x20 | 0x30 | 0x50 | 0xa0 | 0xb0);
    match old.class() {
        insn::JMP if old.code & 0x08 == 0 && unsigned && old.code != insn::EXIT && old.imm < 0 => {
            Err("64-bit comparisons with a negative number take it for a 32-bit one".into())
        }
        insn::JMP if old.code == insn::CALL && old.src == insn::CALL_LOCAL && old.imm < 0 => {
            Err("calls backwards overflow in it".into())
        }
        // The most negative number overflows in it.
        insn::ALU64 if old.code == NEG64 => {
            out.extend([
                insn(XOR64_IMM, old.dst, 0, 0, -1),
                insn(ADD64_IMM, old.dst, 0, 0, 1),
            ]);
            Ok(())
        }
        _ => one(old, fact, out),
    }
}

fn arithmetic(old: Insn, out: &mut Vec<Insn>) -> Result<(), String> {
    let (narrow, op, by_register) = (old.class() == insn::ALU, old.code & 0xf0, old.code & 0x08 != 0);
    let clear = insn(AND32, old.dst, 0, 0, -1);
    match op {
        0x30 | 0x90 if old.off != 0 => Err("signed division is done unsigned".into()),
        0x90 if narrow => {
            out.extend([old, clear]);
            Ok(())
        }
        0xb0 if by_register && old.off != 0 => Err("sign-extending moves are done as plain ones".into()),
        0xb0 if by_register && narrow => {
            out.extend([insn(MOV64_REG, old.dst, old.src, 0, 0), clear]);
            Ok(())
        }
        0xd0 if !narrow => Err("bswap is not known to it".into()),
        0xd0 if !by_register => {
            out.push(match old.imm {
                16 => insn(AND64, old.dst, 0, 0, 0xffff),
                32 => clear,
                _ => insn(MOV64_REG, old.dst, old.dst, 0, 0),
            });
            Ok(())
        }
        _ => {
            out.push(old);
            Ok(())
        }
    }
}

/// Machine code bytes that rbpf makes of an instruction at most.
fn most_bytes(insn: Insn) -> usize {
    match insn.class() {
        insn::LD => 5,
        insn::LDX => 8,
        insn::ST => 12,
        insn::STX => 9,
        insn::ALU | insn::ALU64 => match insn.code & 0xf0 {
            0x20 | 0x30 | 0x90 => 48,
            _ => 14,
        },
        _ => match insn.code {
            insn::EXIT => 1,
            insn::CALL => 21,
            _ => 13,
        },
    }
}
