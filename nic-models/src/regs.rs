//! What a register is, for every family: one row of a register table.
//!
//! A family module (for example [`crate::ixgbe::regs`]) holds its rows in one table. The driver takes offsets from it,
//! the model decodes accesses with it, `--trace` and register dumps take names from it.

/// How a register behaves when it is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read-only: writes are ignored.
    Ro,
    /// Plain storage.
    Rw,
    /// Write-only: reads as zero.
    Wo,
    /// Read to clear: statistics.
    Rc,
    /// Write one to clear.
    Rw1c,
    /// Write starts something and the bit clears itself.
    Ws,
}

/// A second bank of the same array elsewhere in the address space: entries from `first` on start at `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HighBank {
    /// Index of the first entry that lives in this bank.
    pub first: u32,
    /// Offset of that entry.
    pub offset: u32,
    /// Bytes between entries of this bank.
    pub stride: u32,
}

/// One row of a register table: a register, or an array of equal registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    /// The datasheet's name.
    pub name: &'static str,
    /// Offset of entry 0 in the register BAR, bytes.
    pub offset: u32,
    /// Bytes between entries (4 for single registers).
    pub stride: u32,
    /// Number of entries (1 for single registers).
    pub count: u32,
    /// What reads and writes do.
    pub access: Access,
    /// Value after a reset. Values that come from the EEPROM or a pin are the model's business.
    pub reset: u32,
    /// Bits that software can write.
    pub mask: u32,
    /// Where some entries live apart from the others.
    pub high: Option<HighBank>,
    /// Datasheet section; a group's number where the register has none of its own.
    pub section: &'static str,
}

impl Reg {
    /// A single register with no reset value; the builder methods below refine it.
    pub const fn new(name: &'static str, offset: u32, access: Access, section: &'static str) -> Self {
        Reg {
            name,
            offset,
            stride: 4,
            count: 1,
            access,
            reset: 0,
            mask: u32::MAX,
            high: None,
            section,
        }
    }

    /// Makes it an array.
    pub const fn array(mut self, count: u32, stride: u32) -> Self {
        self.count = count;
        self.stride = stride;
        self
    }

    /// Places the entries from `first` on at `offset`, `stride` bytes apart.
    pub const fn high(mut self, first: u32, offset: u32, stride: u32) -> Self {
        self.high = Some(HighBank {
            first,
            offset,
            stride,
        });
        self
    }

    /// Sets the reset value.
    pub const fn reset(mut self, value: u32) -> Self {
        self.reset = value;
        self
    }

    /// Sets the writable bits.
    pub const fn mask(mut self, mask: u32) -> Self {
        self.mask = mask;
        self
    }

    /// Offset of entry `i` in bytes. `i` must be below `count`; beyond it the address arithmetic just goes on.
    pub const fn at(&self, i: u32) -> u32 {
        match self.high {
            Some(bank) if i >= bank.first => bank.offset + (i - bank.first) * bank.stride,
            _ => self.offset + i * self.stride,
        }
    }
}

/// From a dword-aligned offset to a row and an entry: one load, built once from a table.
#[derive(Debug)]
pub struct Decoder {
    /// For each dword of the decoded space: row in the high half, entry in the low half; `NONE` where nothing is.
    slots: Box<[u32]>,
}

const NONE: u32 = u32::MAX;

impl Decoder {
    /// Builds the decoder for all entries of `table` below `limit` bytes. Of rows that overlap the first wins.
    pub fn new(table: &[&Reg], limit: u32) -> Self {
        let mut slots = vec![NONE; limit as usize / 4].into_boxed_slice();
        for (row, reg) in table.iter().enumerate() {
            for i in 0..reg.count {
                if let Some(slot) = slots.get_mut(reg.at(i) as usize / 4)
                    && *slot == NONE
                {
                    *slot = (row as u32) << 16 | i;
                }
            }
        }
        Decoder { slots }
    }

    /// Row number and entry at `offset`, or `None` where the table has nothing.
    pub fn find(&self, offset: u32) -> Option<(usize, u32)> {
        if offset & 3 != 0 {
            return None;
        }
        match *self.slots.get(offset as usize / 4)? {
            NONE => None,
            slot => Some(((slot >> 16) as usize, slot & 0xffff)),
        }
    }
}

/// Declares a family's register table: a `Reg` constant and an `Id` variant a row, and `TABLE` in `Id`'s order.
macro_rules! register_table {
    ($(
        $(#[$doc:meta])*
        $name:ident : $offset:literal $([$count:literal x $stride:literal])? $(high $first:literal @ $hoff:literal x $hstride:literal)?,
        $access:ident $(= $reset:literal)? $(& $mask:literal)?, $section:literal;
    )*) => {
        $(
            $(#[$doc])*
            pub const $name: $crate::regs::Reg = $crate::regs::Reg::new(
                stringify!($name), $offset, $crate::regs::Access::$access, $section,
            )$(.array($count, $stride))?$(.high($first, $hoff, $hstride))?$(.reset($reset))?$(.mask($mask))?;
        )*

        /// Every register of the table, as something to `match` on; the discriminant is the row in [`TABLE`].
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Id {
            $( $(#[$doc])* $name, )*
        }

        impl Id {
            /// All ids, in the order of [`TABLE`].
            pub const ALL: &'static [Id] = &[$(Id::$name),*];

            /// This register's row.
            pub const fn reg(self) -> &'static $crate::regs::Reg {
                TABLE[self as usize]
            }
        }

        /// The register file, one row a register or array.
        pub const TABLE: &[&$crate::regs::Reg] = &[$(&$name),*];
    };
}
pub(crate) use register_table;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Reg = Reg::new("A", 0x10, Access::Rw, "1")
        .array(4, 0x40)
        .high(2, 0x1000, 8);
    const B: Reg = Reg::new("B", 0x14, Access::Ro, "2");

    #[test]
    fn an_array_with_a_high_bank_addresses_both_banks() {
        assert_eq!([A.at(0), A.at(1), A.at(2), A.at(3)], [0x10, 0x50, 0x1000, 0x1008]);
    }

    #[test]
    fn the_decoder_inverts_the_table() {
        let table = [&A, &B];
        let decoder = Decoder::new(&table, 0x2000);
        for (row, reg) in table.iter().enumerate() {
            for i in 0..reg.count {
                assert_eq!(decoder.find(reg.at(i)), Some((row, i)));
            }
        }
        assert_eq!(decoder.find(0x18), None);
        assert_eq!(decoder.find(0x12), None, "unaligned");
        assert_eq!(decoder.find(0x8000_0000), None, "beyond the space");
    }
}
