//! The register file's storage: a dword for every entry of the table, by register and index.

use crate::ixgbe::regs::{Id, TABLE};
use crate::regs::Access;

/// Where each register's entries start, and behind the last how many there are. Known when this is compiled, so that
/// reading a register of a fixed name is one load.
const BASE: [usize; TABLE.len() + 1] = {
    let mut base = [0; TABLE.len() + 1];
    let mut row = 0;
    while row < TABLE.len() {
        base[row + 1] = base[row] + TABLE[row].count as usize;
        row += 1;
    }
    base
};
const VALUES: usize = BASE[TABLE.len()];

/// Values of all registers. What a register *does* is in [`super::access`]; this only remembers.
#[derive(Debug, Clone)]
pub(super) struct RegFile {
    values: Box<[u32; VALUES]>,
}

impl RegFile {
    /// A file with every register at its reset value.
    pub fn new() -> Self {
        let mut file = RegFile {
            values: Box::new([0; VALUES]),
        };
        file.reset();
        file
    }

    /// Reset values everywhere.
    pub fn reset(&mut self) {
        for (row, reg) in TABLE.iter().enumerate() {
            self.values[BASE[row]..BASE[row + 1]].fill(reg.reset);
        }
    }

    #[inline(always)]
    fn slot(id: Id, i: u32) -> usize {
        BASE[id as usize] + i as usize
    }

    /// Value of entry `i`. `i` comes from the decoder or is below the register's count.
    #[inline]
    pub fn get(&self, id: Id, i: u32) -> u32 {
        self.values.get(Self::slot(id, i)).copied().unwrap_or(0)
    }

    /// Value of a single register.
    #[inline]
    pub fn one(&self, id: Id) -> u32 {
        self.get(id, 0)
    }

    /// Stores a value as it is, whatever the access mode says.
    #[inline]
    pub fn set(&mut self, id: Id, i: u32, value: u32) {
        let slot = Self::slot(id, i);
        if let Some(v) = self.values.get_mut(slot) {
            *v = value;
        }
    }

    /// All entries of an array.
    pub fn all(&self, id: Id) -> &[u32] {
        &self.values[BASE[id as usize]..BASE[id as usize + 1]]
    }

    /// What software reads: write-only registers read as zero, statistics are cleared by it.
    pub fn read(&mut self, id: Id, i: u32) -> u32 {
        let value = self.get(id, i);
        match id.reg().access {
            Access::Wo => 0,
            Access::Rc => {
                self.set(id, i, 0);
                value
            }
            Access::Ro | Access::Rw | Access::Rw1c | Access::Ws => value,
        }
    }

    /// What a software write leaves behind, by access mode and writable bits.
    pub fn write(&mut self, id: Id, i: u32, value: u32) {
        let reg = id.reg();
        let old = self.get(id, i);
        let new = match reg.access {
            Access::Ro | Access::Wo | Access::Rc => old,
            Access::Rw | Access::Ws => old & !reg.mask | value & reg.mask,
            Access::Rw1c => old & !value,
        };
        self.set(id, i, new);
    }

    /// Adds to a statistics counter; it sticks at its maximum.
    #[inline]
    pub fn count(&mut self, id: Id, i: u32, n: u32) {
        let slot = Self::slot(id, i);
        if let Some(v) = self.values.get_mut(slot) {
            *v = v.saturating_add(n);
        }
    }

    /// Adds to a 36-bit counter in two registers.
    #[inline]
    pub fn count_wide(&mut self, low: Id, high: Id, i: u32, n: u64) {
        let sum = u64::from(self.get(low, i)) + (u64::from(self.get(high, i)) << 32) + n;
        let sum = sum.min((1 << 36) - 1);
        self.set(low, i, sum as u32);
        self.set(high, i, (sum >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_cleared_by_a_read_and_stick_at_their_maximum() {
        let mut file = RegFile::new();
        file.count(Id::GPRC, 0, 3);
        assert_eq!(file.read(Id::GPRC, 0), 3);
        assert_eq!(file.read(Id::GPRC, 0), 0);
        file.count(Id::GPRC, 0, u32::MAX);
        file.count(Id::GPRC, 0, 5);
        assert_eq!(file.read(Id::GPRC, 0), u32::MAX);
        file.count_wide(Id::GORCL, Id::GORCH, 0, 0x1_ffff_fff0);
        file.count_wide(Id::GORCL, Id::GORCH, 0, 0x20);
        assert_eq!((file.read(Id::GORCL, 0), file.read(Id::GORCH, 0)), (0x10, 2));
    }

    #[test]
    fn writes_respect_the_access_mode_and_the_writable_bits() {
        let mut file = RegFile::new();
        file.write(Id::STATUS, 0, 0);
        assert_eq!(file.one(Id::STATUS), 0x0008_0000, "read-only");
        file.write(Id::RDBAL, 5, u32::MAX);
        assert_eq!(file.get(Id::RDBAL, 5), 0xffff_ff80);
        assert_eq!(file.get(Id::RDBAL, 4), 0);
        file.set(Id::WUS, 0, 0xff);
        file.write(Id::WUS, 0, 0x0f);
        assert_eq!(file.one(Id::WUS), 0xf0, "write one to clear");
    }
}
