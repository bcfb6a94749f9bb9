//! The 82599's register file: [`TABLE`] of rows (offset, access, reset value, section) and [`bits`] inside them.
//!
//! Sections are those of the Intel 82599 10 GbE Controller datasheet; a row cites the group where the register's own
//! number is not known to us.

mod bits;
mod table;

pub use bits::*;
pub use table::*;

use std::sync::LazyLock;

use crate::regs::{Decoder, Reg};

/// Size of BAR0, bytes (datasheet 9.3.6.1).
pub const BAR0_SIZE: u64 = 512 * 1024;
/// Registers end below this offset; the rest of BAR0 reads as zero.
pub const DECODED: u32 = 0x20000;
/// Receive queues in silicon.
pub const RX_QUEUES: u32 = 128;
/// Transmit queues in silicon.
pub const TX_QUEUES: u32 = 128;
/// MSI-X vectors in silicon.
pub const MSIX_VECTORS: u16 = 64;

static DECODER: LazyLock<Decoder> = LazyLock::new(|| Decoder::new(TABLE, DECODED));

/// The row and entry at a BAR0 offset, or `None` where nothing is decoded.
pub fn lookup(offset: u32) -> Option<(&'static Reg, u32)> {
    DECODER.find(offset).map(|(row, i)| (TABLE[row], i))
}

/// The register and entry at a BAR0 offset: what a model matches on.
pub fn decode(offset: u32) -> Option<(Id, u32)> {
    DECODER.find(offset).map(|(row, i)| (Id::ALL[row], i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_registers_share_an_offset() {
        let mut seen = std::collections::HashMap::new();
        for reg in TABLE {
            for i in 0..reg.count {
                let offset = reg.at(i);
                assert_eq!(offset % 4, 0, "{}[{i}] at {offset:#x}", reg.name);
                assert!(offset < DECODED, "{}[{i}] at {offset:#x}", reg.name);
                if let Some(other) = seen.insert(offset, (reg.name, i)) {
                    panic!("{}[{i}] and {other:?} share {offset:#x}", reg.name);
                }
            }
        }
    }

    #[test]
    fn lookup_finds_every_entry_of_every_register() {
        for (row, reg) in TABLE.iter().enumerate() {
            for i in 0..reg.count {
                assert_eq!(decode(reg.at(i)), Some((Id::ALL[row], i)), "{}[{i}]", reg.name);
            }
        }
        assert_eq!(lookup(0x1fffc), None);
        assert_eq!(lookup(0x7fffc), None);
        assert_eq!(lookup(0x1002), None, "not dword aligned");
    }

    #[test]
    fn queues_from_64_on_live_in_the_upper_receive_bank() {
        assert_eq!(RDT.at(63), 0x1fd8);
        assert_eq!(RDT.at(64), 0xd018);
        assert_eq!(SRRCTL.at(0), 0x1014);
        assert_eq!(TDT.at(127), 0x7fd8);
        assert_eq!(EITR.at(23), 0x87c);
        assert_eq!(EITR.at(24), 0x12300);
    }

    #[test]
    fn every_row_names_its_section_and_resets_within_its_mask() {
        for reg in TABLE {
            assert!(reg.section.starts_with("8.2.3."), "{}", reg.name);
        }
    }
}
