//! Which registers may still be read from each instruction on. What cannot be read need not be compared.

use crate::insn::{self, Insn, atomic};

/// Bit set of registers.
pub(super) type Regs = u16;

const ARGS: Regs = 0b11_1110;
const R0: Regs = 1;
const SCRATCH: Regs = R0 | ARGS;

/// For each slot the registers that its instruction or one after it may read.
pub(super) fn live(insns: &[Insn], helper_args: impl Fn(Insn) -> u32) -> Vec<Regs> {
    let mut live: Vec<Regs> = vec![0; insns.len()];
    let mut again = true;
    while again {
        again = false;
        for at in (0..insns.len()).rev() {
            let insn = insns[at];
            let (reads, writes) = effect(insn, &helper_args);
            let mut after = 0;
            let get = |t: i64| {
                usize::try_from(t)
                    .ok()
                    .and_then(|t| live.get(t))
                    .copied()
                    .unwrap_or(0)
            };
            let (jump, next) = targets(insn, at);
            for target in [jump, next].into_iter().flatten() {
                after |= get(target);
            }
            let before = reads | after & !writes;
            if live[at] != before {
                live[at] = before;
                again = true;
            }
        }
    }
    live
}

/// Where control may go: a jump's target, the next instruction.
pub(super) fn targets(insn: Insn, at: usize) -> (Option<i64>, Option<i64>) {
    let next = at as i64 + if insn.is_wide() { 2 } else { 1 };
    match insn.class() {
        insn::JMP | insn::JMP32 => match insn.code {
            insn::CALL => (None, Some(next)),
            insn::EXIT => (None, None),
            insn::JA => (Some(next + i64::from(insn.off)), None),
            insn::JA32 => (Some(next + i64::from(insn.imm)), None),
            _ => (Some(next + i64::from(insn.off)), Some(next)),
        },
        _ => (None, Some(next)),
    }
}

/// What an instruction reads and what it overwrites.
fn effect(insn: Insn, helper_args: &impl Fn(Insn) -> u32) -> (Regs, Regs) {
    let (dst, src): (Regs, Regs) = (1 << insn.dst, 1 << insn.src);
    match insn.class() {
        insn::LD => (0, dst),
        insn::LDX => (src, dst),
        insn::ST => (dst, 0),
        insn::STX => match insn.code & 0xe0 {
            0xc0 => match insn.imm {
                atomic::CMPXCHG => (dst | src | R0, R0),
                atomic::LOAD_ACQUIRE => (src, dst),
                atomic::STORE_RELEASE => (dst | src, 0),
                op if op & atomic::FETCH != 0 => (dst | src, src),
                _ => (dst | src, 0),
            },
            _ => (dst | src, 0),
        },
        insn::ALU | insn::ALU64 => {
            let by = match insn.code & 0xf0 {
                0x80 | 0xd0 => 0,
                _ if insn.code & 0x08 != 0 => src,
                _ => 0,
            };
            match insn.code & 0xf0 {
                0xb0 => (by, dst),
                _ => (dst | by, dst),
            }
        }
        _ => match insn.code {
            insn::CALL => {
                let args = ARGS & ((1 << (helper_args(insn) + 1)) - 1);
                (args, SCRATCH)
            }
            insn::EXIT => (R0, 0),
            insn::JA | insn::JA32 | insn::JCOND => (0, 0),
            code if code & 0x08 != 0 => (dst | src, 0),
            _ => (dst, 0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        Insn {
            code,
            dst,
            src,
            off,
            imm,
        }
    }

    #[test]
    fn a_loop_keeps_alive_what_its_next_turn_reads() {
        let code = [
            insn(0xb7, 6, 0, 0, 4),  // r6 = 4
            insn(0xb7, 7, 0, 0, 9),  // r7 = 9, read only at the end
            insn(0x07, 6, 0, 0, -1), // r6 += -1
            insn(0x55, 6, 0, -2, 0), // if r6 != 0 goto -2
            insn(0xbf, 0, 7, 0, 0),  // r0 = r7
            insn(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(
            live(&code, |_| 5),
            [0, 1 << 6, 1 << 6 | 1 << 7, 1 << 6 | 1 << 7, 1 << 7, 1]
        );
    }

    #[test]
    fn calls_read_their_arguments_and_end_the_scratch_registers() {
        let code = [insn(0x85, 0, 0, 0, 1), insn(0x95, 0, 0, 0, 0)];
        assert_eq!(live(&code, |_| 2)[0], 0b110);
    }
}
