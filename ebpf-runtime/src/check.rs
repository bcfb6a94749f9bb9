//! What every program must satisfy before any engine sees it: known instructions, registers that exist, jumps that
//! stay inside their function, helpers that this runtime has. Memory safety is the engines' and the verifier's part.

use crate::helpers::{self, Support};
use crate::insn::{self, Insn, atomic};
use crate::kfunc::Kfunc;
use crate::program::Body;
use crate::{Hook, LoadError};

/// Checks a linked program.
pub(crate) fn check(body: &Body) -> Result<(), LoadError> {
    let fail = |at: usize, reason: String| LoadError::Instruction {
        program: body.name.clone(),
        insn: at,
        line: body.line(at).map(Box::new),
        reason,
    };
    for &(start, end) in &body.functions {
        if start >= end {
            return Err(fail(start, "a function without instructions".into()));
        }
        let starts =
            insn_starts(body, start, end).map_err(|at| fail(at, "a 64-bit load is cut short".into()))?;
        let mut at = start;
        while at < end {
            let insn = body.insns[at];
            registers(insn).map_err(|reason| fail(at, reason))?;
            let next = at + if insn.is_wide() { 2 } else { 1 };
            let flow = flow(insn, at).map_err(|reason| fail(at, reason))?;
            if let Some(target) = flow.jump {
                let inside = usize::try_from(target).ok().filter(|t| (start..end).contains(t));
                match inside {
                    Some(t) if starts[t - start] => {}
                    Some(_) => {
                        return Err(fail(at, format!("jumps into the middle of instruction {target}")));
                    }
                    None => return Err(fail(at, format!("jumps to {target}, outside its function"))),
                }
            }
            if flow.falls_through && next >= end {
                return Err(fail(at, "control can run past the end of the function".into()));
            }
            call(body, insn, at)?;
            at = next;
        }
    }
    Ok(())
}

/// Which slots begin an instruction; fails with the place of a 64-bit load whose second half is missing.
fn insn_starts(body: &Body, start: usize, end: usize) -> Result<Vec<bool>, usize> {
    let mut starts = vec![false; end - start];
    let mut at = start;
    while at < end {
        starts[at - start] = true;
        if body.insns[at].is_wide() {
            match body.insns.get(at + 1) {
                Some(second) if at + 1 < end && second.code == 0 && second.dst == 0 && second.src == 0 => {}
                _ => return Err(at),
            }
            at += 2;
        } else {
            at += 1;
        }
    }
    Ok(starts)
}

fn registers(insn: Insn) -> Result<(), String> {
    let last = 10;
    if insn.dst > last || insn.src > last {
        return Err(format!("register r{} does not exist", insn.dst.max(insn.src)));
    }
    let writes_dst = matches!(insn.class(), insn::LD | insn::LDX | insn::ALU | insn::ALU64);
    if writes_dst && insn.dst == last {
        return Err("the frame pointer r10 is read-only".into());
    }
    Ok(())
}

struct Flow {
    jump: Option<i64>,
    falls_through: bool,
}

/// Where control goes after an instruction; an error when RFC 9669 does not define it.
fn flow(insn: Insn, at: usize) -> Result<Flow, String> {
    let unknown = || Err(format!("opcode {:#04x} is not in the instruction set", insn.code));
    let on = Ok(Flow {
        jump: None,
        falls_through: true,
    });
    let to = |off: i64, falls_through| {
        Ok(Flow {
            jump: Some(at as i64 + 1 + off),
            falls_through,
        })
    };
    match insn.class() {
        insn::LD => match insn.code {
            insn::LD_IMM64 => match insn.src {
                insn::IMM_PLAIN | insn::IMM_MAP | insn::IMM_MAP_VALUE | insn::IMM_FUNC => on,
                other => Err(format!("64-bit load of kind {other} is not supported")),
            },
            0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 => Err(
                "legacy packet access (LD_ABS, LD_IND) is for socket filters; XDP programs use data pointers"
                    .into(),
            ),
            _ => unknown(),
        },
        insn::LDX => match insn.code {
            0x61 | 0x69 | 0x71 | 0x79 | 0x81 | 0x89 | 0x91 => on,
            _ => unknown(),
        },
        insn::ST => match insn.code {
            0x62 | 0x6a | 0x72 | 0x7a => on,
            _ => unknown(),
        },
        insn::STX => match insn.code {
            0x63 | 0x6b | 0x73 | 0x7b => on,
            0xc3 | 0xdb => atomic_op(insn).and(on),
            0xcb | 0xd3 if matches!(insn.imm, atomic::LOAD_ACQUIRE | atomic::STORE_RELEASE) => {
                atomic_op(insn).and(on)
            }
            _ => unknown(),
        },
        insn::ALU | insn::ALU64 => alu(insn).and(on),
        _ => match insn.code {
            insn::JA => to(i64::from(insn.off), false),
            insn::JA32 => to(i64::from(insn.imm), false),
            insn::EXIT => Ok(Flow {
                jump: None,
                falls_through: false,
            }),
            insn::CALL => on,
            insn::JCOND if insn.src == 0 => to(i64::from(insn.off), true),
            code if (0x10..=0xd0).contains(&(code & 0xf0)) && code & 0xf0 != 0x80 && code & 0xf0 != 0x90 => {
                to(i64::from(insn.off), true)
            }
            _ => unknown(),
        },
    }
}

fn atomic_op(insn: Insn) -> Result<(), String> {
    let known = match insn.imm {
        atomic::XCHG | atomic::CMPXCHG | atomic::LOAD_ACQUIRE | atomic::STORE_RELEASE => true,
        op => matches!(
            op & !atomic::FETCH,
            atomic::ADD | atomic::OR | atomic::AND | atomic::XOR
        ),
    };
    if !known {
        return Err(format!(
            "atomic operation {:#x} is not in the instruction set",
            insn.imm
        ));
    }
    let result = match insn.imm {
        atomic::CMPXCHG => 0,
        atomic::LOAD_ACQUIRE => insn.dst,
        op if op & atomic::FETCH != 0 => insn.src,
        _ => 0,
    };
    if result == 10 {
        Err("the frame pointer r10 is read-only".into())
    } else {
        Ok(())
    }
}

fn alu(insn: Insn) -> Result<(), String> {
    let wide = insn.class() == insn::ALU64;
    let by_register = insn.code & 0x08 != 0;
    let unknown = Err(format!("opcode {:#04x} is not in the instruction set", insn.code));
    match insn.code & 0xf0 {
        0x30 | 0x90 if !matches!(insn.off, 0 | 1) => Err(format!("division with offset {}", insn.off)),
        0x80 if by_register => unknown,
        0xb0 => match insn.off {
            0 => Ok(()),
            8 | 16 if by_register => Ok(()),
            32 if by_register && wide => Ok(()),
            other => Err(format!("move with offset {other}")),
        },
        0xd0 if wide && by_register => unknown,
        0xd0 if !matches!(insn.imm, 16 | 32 | 64) => Err(format!("byte swap of {} bits", insn.imm)),
        0xe0 | 0xf0 => unknown,
        _ => Ok(()),
    }
}

fn call(body: &Body, insn: Insn, at: usize) -> Result<(), LoadError> {
    let line = || body.line(at).map(Box::new);
    let fail = |reason: String| LoadError::Instruction {
        program: body.name.clone(),
        insn: at,
        line: line(),
        reason,
    };
    let is_function = |target: i64| body.functions.iter().any(|f| f.0 as i64 == target);
    if insn.is_wide() && insn.src == insn::IMM_FUNC && !is_function(i64::from(insn.imm)) {
        return Err(fail(format!(
            "refers to instruction {}, where no function begins",
            insn.imm
        )));
    }
    if insn.code != insn::CALL {
        return Ok(());
    }
    match insn.src {
        insn::CALL_LOCAL => {
            let target = at as i64 + 1 + i64::from(insn.imm);
            if is_function(target) {
                Ok(())
            } else {
                Err(fail(format!("calls {target}, where no function begins")))
            }
        }
        insn::CALL_KFUNC if body.hook == Hook::Steering && Kfunc::by_id(insn.imm.into()).reads_metadata() => {
            Err(fail(
                "calls a metadata kfunc, which is for XDP programs; a steering program reads the fields of struct __sk_buff"
                    .into(),
            ))
        }
        insn::CALL_KFUNC => Ok(()),
        insn::CALL_HELPER => match helpers::support(insn.imm) {
            Support::Yes => match body.hook.forbids(insn) {
                None => Ok(()),
                Some(reason) => Err(LoadError::Helper {
                    program: body.name.clone(),
                    insn: at,
                    line: line(),
                    id: insn.imm,
                    name: helpers::name(insn.imm),
                    reason: reason.into(),
                }),
            },
            Support::No { name, reason } => Err(LoadError::Helper {
                program: body.name.clone(),
                insn: at,
                line: line(),
                id: insn.imm,
                name,
                reason: reason.into(),
            }),
        },
        other => Err(fail(format!(
            "call of kind {other} is not in the instruction set"
        ))),
    }
}
