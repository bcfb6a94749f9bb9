//! The interpreter's own instructions: one step of the loop each, everything decided that can be before a run.

use crate::insn;

/// A register number. All that four bits can name, so that no number is outside the register file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[rustfmt::skip]
pub(super) enum Reg {
    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, R11, R12, R13, R14, R15,
}

/// Registers in the file.
pub(super) const REGS: usize = 16;

impl Reg {
    #[rustfmt::skip]
    const ALL: [Reg; REGS] = [
        Reg::R0, Reg::R1, Reg::R2, Reg::R3, Reg::R4, Reg::R5, Reg::R6, Reg::R7,
        Reg::R8, Reg::R9, Reg::R10, Reg::R11, Reg::R12, Reg::R13, Reg::R14, Reg::R15,
    ];

    /// The register that the low four bits of an instruction's field name.
    pub fn of(number: u8) -> Reg {
        Reg::ALL[usize::from(number & 15)]
    }
}

/// One instruction. A 64-bit load keeps its two slots, so positions are those of the linked program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    /// What the loop does here: the instruction, or at once what it and those behind it do ([`super::fuse`]).
    pub code: Code,
    /// The instruction by itself.
    pub plain: Code,
    pub dst: Reg,
    pub src: Reg,
    /// Memory offset; for the stack, the offset from the frame's lowest byte; for a jump or call, where to.
    pub off: i32,
    /// Immediate; of a 64-bit load its low half, of a call the helper's or kernel function's number.
    pub imm: i32,
    /// High half of a 64-bit load; of a jump or call, how many instructions it skips.
    pub high: i32,
}

/// How many instructions one [`Op`] can stand for at most. As many follow the last one, all [`Code::Unknown`].
pub(super) const REACH: usize = 6;

macro_rules! codes {
    ($($byte:literal $code:ident)* ; $($special:ident)*) => {
        /// What an [`Op`] does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $($code,)*
            $($special,)*
        }

        impl Code {
            /// By the opcode alone.
            pub fn plain(byte: u8) -> Code {
                match byte {
                    $($byte => Code::$code,)*
                    _ => Code::Unknown,
                }
            }
        }
    };
}

// RFC 9669: section 4.1 (arithmetic), 4.3 (jumps), 5 (loads and stores). `I` takes the immediate, `R` the source register; 64,
// 32, 16 and 8 are the operand's bits.
#[rustfmt::skip]
codes! {
    0x07 Add64I  0x0f Add64R  0x04 Add32I  0x0c Add32R
    0x17 Sub64I  0x1f Sub64R  0x14 Sub32I  0x1c Sub32R
    0x27 Mul64I  0x2f Mul64R  0x24 Mul32I  0x2c Mul32R
    0x37 Div64I  0x3f Div64R  0x34 Div32I  0x3c Div32R
    0x47 Or64I   0x4f Or64R   0x44 Or32I   0x4c Or32R
    0x57 And64I  0x5f And64R  0x54 And32I  0x5c And32R
    0x67 Lsh64I  0x6f Lsh64R  0x64 Lsh32I  0x6c Lsh32R
    0x77 Rsh64I  0x7f Rsh64R  0x74 Rsh32I  0x7c Rsh32R
    0x87 Neg64   0x84 Neg32
    0x97 Mod64I  0x9f Mod64R  0x94 Mod32I  0x9c Mod32R
    0xa7 Xor64I  0xaf Xor64R  0xa4 Xor32I  0xac Xor32R
    0xb7 Mov64I  0xbf Mov64R  0xb4 Mov32I  0xbc Mov32R
    0xc7 Ash64I  0xcf Ash64R  0xc4 Ash32I  0xcc Ash32R
    0xd4 Le      0xdc Be      0xd7 Bswap
    0x18 Wide
    0x71 Load8   0x69 Load16  0x61 Load32  0x79 Load64
    0x91 LoadS8  0x89 LoadS16 0x81 LoadS32
    0x72 Store8I 0x6a Store16I 0x62 Store32I 0x7a Store64I
    0x73 Store8R 0x6b Store16R 0x63 Store32R 0x7b Store64R
    0xd3 Atomic8 0xcb Atomic16 0xc3 Atomic32 0xdb Atomic64
    0x05 Ja      0x06 Ja32    0xe5 Jcond
    0x15 Jeq64I  0x1d Jeq64R  0x16 Jeq32I  0x1e Jeq32R
    0x25 Jgt64I  0x2d Jgt64R  0x26 Jgt32I  0x2e Jgt32R
    0x35 Jge64I  0x3d Jge64R  0x36 Jge32I  0x3e Jge32R
    0x45 Jset64I 0x4d Jset64R 0x46 Jset32I 0x4e Jset32R
    0x55 Jne64I  0x5d Jne64R  0x56 Jne32I  0x5e Jne32R
    0x65 Jsgt64I 0x6d Jsgt64R 0x66 Jsgt32I 0x6e Jsgt32R
    0x75 Jsge64I 0x7d Jsge64R 0x76 Jsge32I 0x7e Jsge32R
    0xa5 Jlt64I  0xad Jlt64R  0xa6 Jlt32I  0xae Jlt32R
    0xb5 Jle64I  0xbd Jle64R  0xb6 Jle32I  0xbe Jle32R
    0xc5 Jslt64I 0xcd Jslt64R 0xc6 Jslt32I 0xce Jslt32R
    0xd5 Jsle64I 0xdd Jsle64R 0xd6 Jsle32I 0xde Jsle32R
    0x85 Helper  0x95 Exit
    ;
    SDiv64I SDiv64R SDiv32I SDiv32R
    SMod64I SMod64R SMod32I SMod32R
    Sext8To64 Sext16To64 Sext32To64 Sext8To32 Sext16To32
    Frame8 Frame16 Frame32 Frame64
    ToFrame8I ToFrame16I ToFrame32I ToFrame64I
    ToFrame8R ToFrame16R ToFrame32R ToFrame64R
    Lookup Local Kfunc AdjustHead
    Unknown

    // Of several instructions, or of one in its usual form (`fuse`).
    Data DataEnd DataAndEnd EndAndData
    Lea LeaJgt LeaMovJgt Index8
    MovShl32 MovShr32 MovAnd32 MovShrAdd32 MovAndAdd32 MovAdd32 Rotate32 MovXorSub32 XorSub32
    MovMovJeq MovMovJne MovJeq32 MovJne32 MovJa MovExit
    StepJeq32 StepJne32 StepJeq64 StepJne64 AndJeq32 AndJne32
    Copy8 Copy16 Copy32 Copy64 Copy8Twice FramePut8
    Save8 Save16 Save32 Save64 Save8As32 Save16Twice Save32Twice
    Set8 Set16 Set32 Set8Twice Put8Put8 ShrPut8 MovShrPut8
    HalfUp HalfUpJne HalfUpJeq HalfDown Upper
    Load8Jne Load8Jeq Load16Jne Load16Jeq Load8AndJne Load8AndJeq Load16AndJne Load16AndJeq
    Load8And Load16Add AddTo CountIn
    LookupAt
}

impl Op {
    /// What is behind the last instruction.
    pub const UNKNOWN: Op = Op {
        code: Code::Unknown,
        plain: Code::Unknown,
        dst: Reg::R0,
        src: Reg::R0,
        off: 0,
        imm: 0,
        high: 0,
    };

    /// The number that a 64-bit load loads.
    pub fn wide(&self) -> u64 {
        u64::from(self.imm as u32) | (self.high as u64) << 32
    }

    /// Whether the destination's register stays as it is: stores and jumps.
    pub fn keeps_dst(&self) -> bool {
        use Code::*;
        let among = |first: Code, last: Code| (first as u8..=last as u8).contains(&(self.plain as u8));
        among(Store8I, Store64R) || among(ToFrame8I, ToFrame64R) || among(Ja, Jsle32R)
    }

    /// The address and length that a load or store was about, for reports.
    pub fn access(&self, regs: &[u64; REGS]) -> (u64, u64) {
        use Code::*;
        let (base, len) = match self.plain {
            Load8 | LoadS8 => (self.src, 1),
            Load16 | LoadS16 => (self.src, 2),
            Load32 | LoadS32 => (self.src, 4),
            Load64 => (self.src, 8),
            Store8I | Store8R => (self.dst, 1),
            Store16I | Store16R => (self.dst, 2),
            Store32I | Store32R => (self.dst, 4),
            Store64I | Store64R => (self.dst, 8),
            Atomic8 | Atomic16 | Atomic32 | Atomic64 if self.imm == insn::atomic::LOAD_ACQUIRE => {
                (self.src, self.atomic_len())
            }
            Atomic8 | Atomic16 | Atomic32 | Atomic64 => (self.dst, self.atomic_len()),
            _ => return (0, 0),
        };
        (regs[base as usize].wrapping_add_signed(self.off.into()), len)
    }

    fn atomic_len(&self) -> u64 {
        match self.plain {
            Code::Atomic8 => 1,
            Code::Atomic16 => 2,
            Code::Atomic32 => 4,
            _ => 8,
        }
    }
}
