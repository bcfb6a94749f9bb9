//! What linking does to an instruction that a CO-RE relocation about the struct names (as libbpf's
//! `bpf_core_patch_insn`, described in the kernel's Documentation/bpf/llvm_reloc.rst).

use super::RxMeta;
use crate::insn::{self, Insn};
use crate::kfunc::Kfunc;

/// What the instruction wants to know (`enum bpf_core_relo_kind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    FieldOffset,
    FieldSize,
    FieldExists,
    FieldSigned,
    FieldLeftShift,
    FieldRightShift,
    TypeExists,
    TypeSize,
}

/// A relocation about the struct.
#[derive(Debug, Clone)]
pub(crate) struct MetaRelo {
    pub question: Question,
    /// The field it is about; `None` for the type as a whole.
    pub field: Option<LocalField>,
}

/// A field as the program declares it.
#[derive(Debug, Clone)]
pub(crate) struct LocalField {
    pub name: String,
    /// Bytes from the begin of the program's own struct.
    pub offset: u32,
    /// Size of an integer and whether it has a sign; `None` for what is no integer.
    pub integer: Option<(u32, bool)>,
}

/// What becomes of the instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    Done,
    /// It must not be reached; why, and what to do.
    Never(String, String),
}

impl MetaRelo {
    /// Applies it. An error says why the instruction is none that such a relocation can be about.
    pub fn apply(
        &self,
        meta: &RxMeta,
        insn: &mut Insn,
        second: Option<&mut Insn>,
    ) -> Result<Patched, String> {
        let field = self.field.as_ref();
        let there = field.and_then(|f| meta.field(&f.name).filter(|_| f.integer.is_some()));
        let exists = meta.family().is_some();
        let value = match (self.question, there) {
            (Question::TypeExists, _) => u32::from(exists),
            (Question::TypeSize, _) => meta.size(),
            (Question::FieldExists, there) => u32::from(there.is_some()),
            (Question::FieldOffset, Some(there)) => there.offset,
            (Question::FieldSize, Some(there)) => there.size,
            (Question::FieldSigned, Some(_)) => 0,
            (Question::FieldLeftShift | Question::FieldRightShift, Some(there)) => 64 - 8 * there.size,
            (_, None) => return Ok(never(self.why(meta), insn, second)),
        };
        match insn.class() {
            insn::LDX | insn::ST | insn::STX => {
                let (Some(local), Some(there)) = (field, there) else {
                    return Err("loads or stores where a number is asked for".into());
                };
                if self.question != Question::FieldOffset || i64::from(insn.off) != i64::from(local.offset) {
                    return Err(format!(
                        "is at offset {}, but `{}` is declared at {}",
                        insn.off, local.name, local.offset
                    ));
                }
                if let Some((size, signed)) = local.integer
                    && size != there.size
                {
                    if signed {
                        let what = format!(
                            "`{}` has {} bytes without a sign here and is declared with {size} and a sign",
                            local.name, there.size
                        );
                        let remedy = format!("declare it __u{}", 8 * there.size);
                        return Ok(never((what, remedy), insn, second));
                    }
                    insn.code = insn.code & !SIZE | size_bits(there.size);
                }
                insn.off = there.offset as i16;
            }
            insn::ALU | insn::ALU64 if insn.code & BY_REGISTER == 0 => insn.imm = value as i32,
            insn::LD if insn.is_wide() && insn.src == insn::IMM_PLAIN => {
                insn.imm = value as i32;
                if let Some(second) = second {
                    second.imm = 0;
                }
            }
            _ => return Err("is no instruction that holds an offset or a number".into()),
        }
        Ok(Patched::Done)
    }

    fn why(&self, meta: &RxMeta) -> (String, String) {
        match &self.field {
            Some(field) if field.integer.is_none() => (
                format!(
                    "`{}.{}` is declared as something that is no integer",
                    super::STRUCT,
                    field.name
                ),
                "declare it __u64, __u32 or __u16".into(),
            ),
            Some(field) => meta.absent(&field.name),
            None => meta.absent("(no field)"),
        }
    }
}

/// Bit of an ALU opcode: the operand is a register.
const BY_REGISTER: u8 = 0x08;
/// Bits of a load's or store's opcode that say how many bytes.
const SIZE: u8 = 0x18;

fn size_bits(size: u32) -> u8 {
    match size {
        1 => 0x10,
        2 => 0x08,
        4 => 0x00,
        _ => 0x18,
    }
}

/// Turns an instruction into one that the verifier lets nobody reach.
fn never((what, remedy): (String, String), insn: &mut Insn, second: Option<&mut Insn>) -> Patched {
    let call = Insn {
        code: insn::CALL,
        dst: 0,
        src: insn::CALL_KFUNC,
        off: 0,
        imm: Kfunc::Missing as i32,
    };
    *insn = call;
    if let Some(second) = second {
        *second = call;
    }
    Patched::Never(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{asked, layout};
    use super::*;

    fn insn(code: u8, off: i16, imm: i32) -> Insn {
        Insn {
            code,
            dst: 1,
            src: 0,
            off,
            imm,
        }
    }

    fn about(question: Question, name: &str, size: u32, signed: bool) -> MetaRelo {
        let field = LocalField {
            name: name.into(),
            offset: 16,
            integer: Some((size, signed)),
        };
        MetaRelo {
            question,
            field: Some(field),
        }
    }

    fn meta() -> RxMeta {
        RxMeta::new(asked(&["rx_hash", "rx_timestamp", "mark"]), Some(&layout()))
    }

    #[test]
    fn offsets_sizes_and_shifts_are_those_of_the_struct() {
        for (question, value) in [
            (Question::FieldOffset, 8),
            (Question::FieldSize, 4),
            (Question::FieldExists, 1),
            (Question::FieldSigned, 0),
            (Question::FieldLeftShift, 32),
            (Question::FieldRightShift, 32),
            (Question::TypeExists, 1),
            (Question::TypeSize, 12),
        ] {
            let relo = about(question, "rx_hash", 4, false);
            let mut mov = insn(0xb7, 0, 77);
            assert_eq!(relo.apply(&meta(), &mut mov, None), Ok(Patched::Done));
            assert_eq!(mov.imm, value, "{question:?}");
            let (mut wide, mut second) = (insn(0x18, 0, 77), insn(0, 0, 78));
            assert_eq!(
                relo.apply(&meta(), &mut wide, Some(&mut second)),
                Ok(Patched::Done)
            );
            assert_eq!((wide.imm, second.imm), (value, 0));
        }
    }

    #[test]
    fn loads_take_the_size_that_the_field_has() {
        for (declared, code) in [(8, 0x79), (4, 0x61), (2, 0x69), (1, 0x71)] {
            let mut load = insn(code, 16, 0);
            let relo = about(Question::FieldOffset, "rx_hash", declared, false);
            assert_eq!(relo.apply(&meta(), &mut load, None), Ok(Patched::Done));
            assert_eq!((load.code, load.off), (0x61, 8));
        }
        let relo = about(Question::FieldOffset, "rx_hash", 8, true);
        let mut load = insn(0x79, 16, 0);
        assert!(matches!(
            relo.apply(&meta(), &mut load, None),
            Ok(Patched::Never(..))
        ));
    }

    #[test]
    fn what_is_not_there_does_not_exist_and_cannot_be_reached() {
        let mut mov = insn(0xb7, 0, 1);
        let exists = about(Question::FieldExists, "mark", 4, false);
        assert_eq!(exists.apply(&meta(), &mut mov, None), Ok(Patched::Done));
        assert_eq!(mov.imm, 0);
        let mut load = insn(0x61, 16, 0);
        let offset = about(Question::FieldOffset, "mark", 4, false);
        let Ok(Patched::Never(what, remedy)) = offset.apply(&meta(), &mut load, None) else {
            panic!("reachable");
        };
        assert!(what.contains("made-up") && remedy.contains("field_exists"));
        assert_eq!((load.code, load.src, load.imm), (insn::CALL, insn::CALL_KFUNC, 0));
    }

    #[test]
    fn relocations_that_fit_no_such_instruction_are_errors() {
        let relo = about(Question::FieldOffset, "rx_hash", 4, false);
        for (code, off) in [(0x61, 12), (0x05, 16), (0x0f, 16), (0x85, 0)] {
            assert!(
                relo.apply(&meta(), &mut insn(code, off, 0), None).is_err(),
                "{code:#x}"
            );
        }
        let size = about(Question::FieldSize, "rx_hash", 4, false);
        assert!(size.apply(&meta(), &mut insn(0x61, 16, 0), None).is_err());
        let whole = MetaRelo {
            question: Question::TypeSize,
            field: None,
        };
        assert!(whole.apply(&meta(), &mut insn(0x61, 16, 0), None).is_err());
    }
}
