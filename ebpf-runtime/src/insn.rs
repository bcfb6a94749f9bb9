//! Instruction encoding, after RFC 9669 sections 3 to 5.

/// Bytes of one instruction slot.
pub(crate) const SLOT: usize = 8;

/// One 64-bit instruction slot as the object file holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insn {
    pub code: u8,
    pub dst: u8,
    pub src: u8,
    pub off: i16,
    pub imm: i32,
}

impl Insn {
    /// Decodes a little-endian slot.
    pub fn decode(b: [u8; SLOT]) -> Insn {
        Insn {
            code: b[0],
            dst: b[1] & 0x0f,
            src: b[1] >> 4,
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// Encodes into a little-endian slot.
    pub fn encode(self) -> [u8; SLOT] {
        let off = self.off.to_le_bytes();
        let imm = self.imm.to_le_bytes();
        [
            self.code,
            self.dst | self.src << 4,
            off[0],
            off[1],
            imm[0],
            imm[1],
            imm[2],
            imm[3],
        ]
    }

    /// Instruction class (RFC 9669 section 3.1).
    pub fn class(self) -> u8 {
        self.code & 0x07
    }

    /// Whether this is the first slot of a 64-bit immediate load, which takes two.
    pub fn is_wide(self) -> bool {
        self.code == LD_IMM64
    }
}

/// Decodes a section's bytes; a rest that is no whole slot is left out.
pub(crate) fn decode_all(bytes: &[u8]) -> Vec<Insn> {
    bytes
        .as_chunks::<SLOT>()
        .0
        .iter()
        .map(|slot| Insn::decode(*slot))
        .collect()
}

pub(crate) const LD: u8 = 0x00;
pub(crate) const LDX: u8 = 0x01;
pub(crate) const ST: u8 = 0x02;
pub(crate) const STX: u8 = 0x03;
pub(crate) const ALU: u8 = 0x04;
pub(crate) const JMP: u8 = 0x05;
pub(crate) const JMP32: u8 = 0x06;
pub(crate) const ALU64: u8 = 0x07;

pub(crate) const LD_IMM64: u8 = 0x18;
pub(crate) const JA: u8 = 0x05;
pub(crate) const JA32: u8 = 0x06;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;
/// `may_goto` of newer kernels: jumps once the loop has run too often.
pub(crate) const JCOND: u8 = 0xe5;

/// `src` of a call: helper by id.
pub(crate) const CALL_HELPER: u8 = 0;
/// `src` of a call: function of the same program, relative.
pub(crate) const CALL_LOCAL: u8 = 1;
/// `src` of a call: kernel function; `imm` is our own number for it once linked.
pub(crate) const CALL_KFUNC: u8 = 2;

/// `src` of a 64-bit immediate load (RFC 9669 section 5.4): plain value.
pub(crate) const IMM_PLAIN: u8 = 0;
/// Map (by index in the program's map table, once linked).
pub(crate) const IMM_MAP: u8 = 1;
/// Address in the first value of a map: global data.
pub(crate) const IMM_MAP_VALUE: u8 = 2;
/// Address of a function, for callbacks.
pub(crate) const IMM_FUNC: u8 = 4;

/// Atomic operations, in `imm` (RFC 9669 section 5.3).
pub(crate) mod atomic {
    pub const ADD: i32 = 0x00;
    pub const OR: i32 = 0x40;
    pub const AND: i32 = 0x50;
    pub const XOR: i32 = 0xa0;
    pub const FETCH: i32 = 0x01;
    pub const XCHG: i32 = 0xe1;
    pub const CMPXCHG: i32 = 0xf1;
    /// `BPF_LOAD_ACQ` (Linux 6.15).
    pub const LOAD_ACQUIRE: i32 = 0x100;
    /// `BPF_STORE_REL` (Linux 6.15).
    pub const STORE_RELEASE: i32 = 0x110;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_survives_decoding_and_encoding() {
        let raw = [0x61, 0x21, 0xfc, 0xff, 0x78, 0x56, 0x34, 0x92];
        let insn = Insn::decode(raw);
        assert_eq!(
            insn,
            Insn {
                code: 0x61,
                dst: 1,
                src: 2,
                off: -4,
                imm: 0x9234_5678_u32 as i32
            }
        );
        assert_eq!(insn.encode(), raw);
    }
}
