//! The EEPROM: a generated, checksummed image, read by EERD or by bit-banging SPI through EEC.
//!
//! Word meanings: datasheet chapter 6. The checksum covers words 0x00-0x3e and the sections that words 0x03-0x0e point
//! to; with word 0x3f the sum is 0xbaba.

use crate::ixgbe::regs::{eec, eerd};

/// Size in words: 16 KiB, the part on Intel's boards.
pub(super) const WORDS: usize = 8192;
/// EEC.SIZE for that many words: log2(words) - 6.
const SIZE_CODE: u32 = 7;

const WORD_FW_POINTER: usize = 0x0f;
const WORD_PBA_FLAG: usize = 0x15;
const WORD_PBA_POINTER: usize = 0x16;
const WORD_SAN_MAC: usize = 0x28;
const WORD_VERSION: usize = 0x29;
const WORD_SFP_LIST: usize = 0x2b;
const WORD_DEVICE_CAPS: usize = 0x2c;
const WORD_ETRACK_LOW: usize = 0x2d;
const WORD_ETRACK_HIGH: usize = 0x2e;
const WORD_CHECKSUM: usize = 0x3f;
const CHECKSUM: u16 = 0xbaba;

const LAN0_SECTION: usize = 0x100;
const PBA_SECTION: usize = 0x180;
const FW_SECTION: usize = 0x200;
const PATCH_SECTION: usize = 0x220;
const SFP_LIST: usize = 0x280;
const SFP_SEQUENCE: usize = 0x2a0;

/// Puts the image for a port with that MAC address together.
pub(super) fn image(mac: [u8; 6]) -> Box<[u16]> {
    let mut w = vec![0xffffu16; WORDS].into_boxed_slice();
    w[..0x40].fill(0);
    w[0x03..0x0f].fill(0xffff); // no analog, PCIe or LAN sections but the one below
    w[0x00] = 0x4000; // EEPROM control 1: valid signature
    w[0x0b] = LAN0_SECTION as u16;
    let section = [
        u16::from_le_bytes([mac[0], mac[1]]),
        u16::from_le_bytes([mac[2], mac[3]]),
        u16::from_le_bytes([mac[4], mac[5]]),
    ];
    w[LAN0_SECTION] = section.len() as u16;
    w[LAN0_SECTION + 1..LAN0_SECTION + 1 + section.len()].copy_from_slice(&section);

    w[WORD_FW_POINTER] = FW_SECTION as u16;
    w[FW_SECTION + 4] = PATCH_SECTION as u16; // pass-through patch configuration
    w[PATCH_SECTION..PATCH_SECTION + 8].fill(0);
    w[PATCH_SECTION + 7] = 0x0006; // firmware version: drivers insist on more than 5

    w[WORD_PBA_FLAG] = 0xfafa; // the part number is a string elsewhere
    w[WORD_PBA_POINTER] = PBA_SECTION as u16;
    let pba = b"G00000-000";
    w[PBA_SECTION] = 1 + pba.len() as u16 / 2;
    for (i, pair) in pba.chunks_exact(2).enumerate() {
        w[PBA_SECTION + 1 + i] = u16::from_be_bytes([pair[0], pair[1]]);
    }

    w[WORD_SAN_MAC] = 0xffff;
    w[WORD_VERSION] = 0x0001;
    w[WORD_SFP_LIST] = SFP_LIST as u16;
    w[WORD_DEVICE_CAPS] = 0x0001; // any SFP+ module is allowed
    w[WORD_ETRACK_LOW] = 0x0001;
    w[WORD_ETRACK_HIGH] = 0x8000;

    // Init sequences by module kind: 3 and 4 direct attach, 5 and 6 short and long range, for ports 0 and 1.
    w[SFP_LIST] = 4;
    for (n, kind) in (3..=6).enumerate() {
        w[SFP_LIST + 1 + 2 * n] = kind;
        w[SFP_LIST + 2 + 2 * n] = SFP_SEQUENCE as u16;
    }
    w[SFP_LIST + 9] = 0xffff;
    // Core analog writes, register in the high byte, value in the low one; 0xffff ends them.
    w[SFP_SEQUENCE] = 3;
    w[SFP_SEQUENCE + 1] = 0x0001;
    w[SFP_SEQUENCE + 2] = 0x0102;
    w[SFP_SEQUENCE + 3] = 0xffff;

    w[WORD_CHECKSUM] = CHECKSUM.wrapping_sub(sum(&w));
    w
}

/// Sum of what the checksum covers, the checksum word aside.
fn sum(words: &[u16]) -> u16 {
    let mut sum = words[..WORD_CHECKSUM]
        .iter()
        .fold(0u16, |a, &w| a.wrapping_add(w));
    for &pointer in &words[0x03..WORD_FW_POINTER] {
        if pointer == 0 || pointer == 0xffff {
            continue;
        }
        let at = usize::from(pointer);
        let len = words.get(at).copied().unwrap_or(0xffff);
        if len == 0 || len == 0xffff {
            continue;
        }
        for &word in words.get(at + 1..at + 1 + usize::from(len)).unwrap_or(&[]) {
            sum = sum.wrapping_add(word);
        }
    }
    sum
}

/// What the SPI EEPROM is doing (an AT25-type part: 8-bit commands, 16-bit byte addresses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spi {
    /// Collecting the command's bits.
    Command { bits: u8, value: u8 },
    /// Collecting the address.
    Address { bits: u8, value: u16 },
    /// Shifting out bytes from an address on.
    Read { at: u16, bit: u8 },
    /// Shifting out the status register: ready, no protection.
    Status,
    /// Ignoring until chip select rises.
    Ignore,
}

const SPI_START: Spi = Spi::Command { bits: 0, value: 0 };
const OP_READ: u8 = 0x03;
const OP_RDSR: u8 = 0x05;

/// The EEPROM and both ways to it.
#[derive(Debug)]
pub(super) struct Eeprom {
    words: Box<[u16]>,
    eec: u32,
    spi: Spi,
    out: bool,
}

impl Eeprom {
    pub fn new(mac: [u8; 6]) -> Self {
        Eeprom {
            words: image(mac),
            eec: 0,
            spi: SPI_START,
            out: false,
        }
    }

    /// A reset reloads the device from the EEPROM and lets go of the SPI bus.
    pub fn reset(&mut self) {
        self.eec = 0;
        self.spi = SPI_START;
        self.out = false;
    }

    /// What an EERD write leaves in EERD: the word, and DONE.
    pub fn eerd(&self, value: u32) -> u32 {
        let address = value >> eerd::ADDR_SHIFT & 0x3fff;
        if value & eerd::START == 0 {
            return value & !eerd::DONE;
        }
        let word = self.words.get(address as usize).copied().unwrap_or(0xffff);
        u32::from(word) << eerd::DATA_SHIFT | address << eerd::ADDR_SHIFT | eerd::DONE
    }

    /// EEC as software reads it.
    pub fn eec(&self) -> u32 {
        let grant = if self.eec & eec::REQ != 0 { eec::GNT } else { 0 };
        let out = if self.out { eec::DO } else { 0 };
        let flash_writes_off = 0x1 << 4;
        let fixed =
            eec::PRES | eec::AUTO_RD | eec::ADDR_SIZE | SIZE_CODE << eec::SIZE_SHIFT | flash_writes_off;
        self.eec | grant | out | fixed
    }

    /// A write to EEC: drives the SPI pins while the bus is granted.
    pub fn write_eec(&mut self, value: u32) {
        const PINS: u32 = eec::SK | eec::CS | eec::DI | eec::REQ;
        let old = self.eec;
        self.eec = value & PINS;
        if self.eec & eec::REQ == 0 || self.eec & eec::CS != 0 {
            // Chip select is active low.
            self.spi = SPI_START;
            self.out = false;
            return;
        }
        if old & eec::SK == 0 && self.eec & eec::SK != 0 {
            self.clock_in(self.eec & eec::DI != 0);
        } else if old & eec::SK != 0 && self.eec & eec::SK == 0 {
            self.clock_out();
        }
    }

    /// Rising edge: the part samples its input.
    fn clock_in(&mut self, di: bool) {
        self.spi = match self.spi {
            Spi::Command { bits, value } => {
                let value = value << 1 | u8::from(di);
                match (bits + 1, value) {
                    (8, OP_READ) => Spi::Address { bits: 0, value: 0 },
                    (8, OP_RDSR) => Spi::Status,
                    (8, _) => Spi::Ignore,
                    (bits, value) => Spi::Command { bits, value },
                }
            }
            Spi::Address { bits, value } => {
                let value = value << 1 | u16::from(di);
                if bits + 1 == 16 {
                    Spi::Read { at: value, bit: 0 }
                } else {
                    Spi::Address {
                        bits: bits + 1,
                        value,
                    }
                }
            }
            other => other,
        };
    }

    /// Falling edge: the part shifts its next output bit out, most significant first. The byte at an even address is
    /// the low half of its word.
    fn clock_out(&mut self) {
        match self.spi {
            Spi::Read { at, bit } => {
                let word = self.words.get(usize::from(at / 2)).copied().unwrap_or(0xffff);
                let byte = word.to_le_bytes()[usize::from(at % 2)];
                self.out = byte >> (7 - bit) & 1 == 1;
                self.spi = if bit == 7 {
                    Spi::Read {
                        at: at.wrapping_add(1),
                        bit: 0,
                    }
                } else {
                    Spi::Read { at, bit: bit + 1 }
                };
            }
            _ => self.out = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0x10, 0x20, 0x30];

    #[test]
    fn the_image_sums_up_to_baba() {
        let words = image(MAC);
        assert_eq!(sum(&words).wrapping_add(words[WORD_CHECKSUM]), CHECKSUM);
        assert_eq!(words.len(), 1 << (SIZE_CODE + 6));
    }

    fn send(eeprom: &mut Eeprom, bits: u32, value: u32) {
        for n in (0..bits).rev() {
            let di = if value >> n & 1 == 1 { eec::DI } else { 0 };
            eeprom.write_eec(eec::REQ | di);
            eeprom.write_eec(eec::REQ | di | eec::SK);
            eeprom.write_eec(eec::REQ | di);
        }
    }

    fn receive(eeprom: &mut Eeprom, bits: u32) -> u32 {
        (0..bits).fold(0, |value, _| {
            // As the usual driver: raise, sample, lower.
            eeprom.write_eec(eec::REQ | eec::SK);
            let value = value << 1 | u32::from(eeprom.eec() & eec::DO != 0);
            eeprom.write_eec(eec::REQ);
            value
        })
    }

    #[test]
    fn spi_reads_the_same_words_as_eerd() {
        let mut eeprom = Eeprom::new(MAC);
        assert_eq!(eeprom.eec() & eec::GNT, 0);
        eeprom.write_eec(eec::REQ | eec::CS);
        assert_ne!(eeprom.eec() & eec::GNT, 0);
        for at in [0x00, 0x0f, 0x2b, 0x3f, 0x101] {
            eeprom.write_eec(eec::REQ);
            send(&mut eeprom, 8, u32::from(OP_READ));
            send(&mut eeprom, 16, at * 2);
            let word = receive(&mut eeprom, 16) as u16;
            eeprom.write_eec(eec::REQ | eec::CS);
            let by_eerd = eeprom.eerd(at << eerd::ADDR_SHIFT | eerd::START) >> eerd::DATA_SHIFT;
            // Bytes come low half first.
            assert_eq!(u32::from(word.swap_bytes()), by_eerd, "word {at:#x}");
            assert_eq!(u32::from(eeprom.words[at as usize]), by_eerd);
        }
    }

    #[test]
    fn spi_status_reads_ready() {
        let mut eeprom = Eeprom::new(MAC);
        eeprom.write_eec(eec::REQ);
        send(&mut eeprom, 8, u32::from(OP_RDSR));
        assert_eq!(receive(&mut eeprom, 8), 0);
    }

    #[test]
    fn eerd_beyond_the_end_reads_ones_and_is_done() {
        let eeprom = Eeprom::new(MAC);
        let value = eeprom.eerd(0x3fff << eerd::ADDR_SHIFT | eerd::START);
        assert_eq!(value >> 16, 0xffff);
        assert_ne!(value & eerd::DONE, 0);
    }
}
