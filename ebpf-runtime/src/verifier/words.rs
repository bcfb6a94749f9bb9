//! Instructions in words, for refusals: the notation of the kernel's verifier log and of llvm-objdump.

use super::compare::Relation;
use super::proto;
use crate::insn::{self, Insn, atomic};
use crate::kfunc::Kfunc;

/// Registers an instruction uses.
pub(super) fn registers(insn: Insn, arguments: u32) -> Vec<u8> {
    let both = |by_register: bool| match by_register && insn.src != insn.dst {
        true => vec![insn.dst, insn.src],
        false => vec![insn.dst],
    };
    match insn.class() {
        insn::LD => Vec::new(),
        insn::LDX => vec![insn.src],
        insn::ST => vec![insn.dst],
        insn::STX => both(true),
        insn::ALU | insn::ALU64 => match insn.code & 0xf0 {
            0x80 | 0xd0 => vec![insn.dst],
            0xb0 if insn.code & 0x08 != 0 => vec![insn.src],
            0xb0 => Vec::new(),
            _ => both(insn.code & 0x08 != 0),
        },
        _ => match insn.code {
            insn::CALL => (1..=arguments as u8).collect(),
            insn::EXIT => vec![0],
            insn::JA | insn::JA32 | insn::JCOND => Vec::new(),
            code => both(code & 0x08 != 0),
        },
    }
}

fn size(code: u8) -> &'static str {
    match code & 0x18 {
        0x00 => "u32",
        0x08 => "u16",
        0x10 => "u8",
        _ => "u64",
    }
}

/// One instruction as text.
pub(super) fn disassemble(insn: Insn) -> String {
    let Insn {
        code,
        dst,
        src,
        off,
        imm,
    } = insn;
    let r = |n: u8, wide: bool| format!("{}{n}", if wide { 'r' } else { 'w' });
    match insn.class() {
        insn::LD => match src {
            insn::IMM_MAP => format!("r{dst} = map {imm}"),
            insn::IMM_MAP_VALUE => format!("r{dst} = &map {imm}[0]"),
            insn::IMM_FUNC => format!("r{dst} = &function at {imm}"),
            _ => format!("r{dst} = {imm:#x} ll"),
        },
        insn::LDX => {
            let signed = if code & 0xe0 == 0x80 { "s" } else { "u" };
            format!("r{dst} = *({signed}{} *)(r{src} {off:+})", &size(code)[1..])
        }
        insn::ST => format!("*({} *)(r{dst} {off:+}) = {imm}", size(code)),
        insn::STX if code & 0xe0 == 0xc0 => {
            let name = match imm & !atomic::FETCH {
                _ if imm == atomic::XCHG => "xchg",
                _ if imm == atomic::CMPXCHG => "cmpxchg",
                _ if imm == atomic::LOAD_ACQUIRE => "load_acquire",
                _ if imm == atomic::STORE_RELEASE => "store_release",
                atomic::ADD => "add",
                atomic::OR => "or",
                atomic::AND => "and",
                _ => "xor",
            };
            format!("atomic {name} *({} *)(r{dst} {off:+}), r{src}", size(code))
        }
        insn::STX => format!("*({} *)(r{dst} {off:+}) = r{src}", size(code)),
        insn::ALU | insn::ALU64 => {
            let wide = insn.class() == insn::ALU64;
            let d = r(dst, wide);
            let operand = match code & 0x08 != 0 {
                true => r(src, wide),
                false => imm.to_string(),
            };
            let op = match code & 0xf0 {
                0x80 => return format!("{d} = -{d}"),
                0xd0 => return format!("{d} = swap{imm}({d})"),
                0xb0 if off != 0 => return format!("{d} = (s{off}){operand}"),
                0xb0 => return format!("{d} = {operand}"),
                0x00 => "+",
                0x10 => "-",
                0x20 => "*",
                0x30 => "/",
                0x40 => "|",
                0x50 => "&",
                0x60 => "<<",
                0x70 => ">>",
                0x90 => "%",
                0xa0 => "^",
                _ => "s>>",
            };
            let signed = if off != 0 { "s" } else { "" };
            format!("{d} {signed}{op}= {operand}")
        }
        _ => match code {
            insn::JA => format!("goto {off:+}"),
            insn::JA32 => format!("goto {imm:+}"),
            insn::JCOND => format!("may_goto {off:+}"),
            insn::EXIT => "exit".into(),
            insn::CALL => match src {
                insn::CALL_LOCAL => format!("call {imm:+}"),
                insn::CALL_KFUNC => match proto::kfunc(Kfunc::by_id(imm.into())) {
                    Some(proto) => format!("call {}", proto.name),
                    None => "call of a kernel function that is not here".into(),
                },
                _ => proto::helper(imm)
                    .map_or_else(|| format!("call helper {imm}"), |p| format!("call {}", p.name)),
            },
            _ => {
                let wide = insn.class() == insn::JMP;
                let operand = match code & 0x08 != 0 {
                    true => r(src, wide),
                    false => imm.to_string(),
                };
                let symbol = Relation::of(code).map_or("?", Relation::symbol);
                format!("if {} {symbol} {operand} goto {off:+}", r(dst, wide))
            }
        },
    }
}
