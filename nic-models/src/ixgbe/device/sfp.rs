//! The SFP+ module in the cage: its EEPROM behind a bit-banged I2C bus (I2CCTL; SFF-8472 for the contents).

use crate::ixgbe::regs::i2cctl;

/// Address of the identification EEPROM, 8-bit form.
const DEVICE_ID: u8 = 0xa0;
/// Address of the diagnostics page.
const DEVICE_DIAG: u8 = 0xa2;

/// Where the I2C slave is in a transfer. Data lines change while the clock is low and are sampled when it rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bus {
    /// Until a start condition.
    Idle,
    /// Taking bits of a byte from the master.
    Receive { bits: u8, value: u8, what: Byte },
    /// Holding data low for the acknowledge clock; afterwards does what `then` says.
    Ack { then: Then },
    /// Giving bits of a byte to the master.
    Send { bits: u8, value: u8 },
    /// The master's acknowledge of a byte sent.
    MasterAck { acked: bool },
}

/// What a received byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Device,
    Offset,
    Data,
}

/// What follows an acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    ReceiveOffset,
    ReceiveData,
    Send,
}

/// Module and bus.
#[derive(Debug)]
pub(super) struct Sfp {
    id: Box<[u8; 256]>,
    diag: Box<[u8; 256]>,
    bus: Bus,
    device: u8,
    offset: u8,
    clk: bool,
    data: bool,
    /// What the slave does to the data line: false pulls it low.
    drive: bool,
}

impl Sfp {
    /// A 10GBASE-SR optic.
    pub fn new() -> Self {
        Sfp {
            id: short_range_module(),
            diag: Box::new([0; 256]),
            bus: Bus::Idle,
            device: 0,
            offset: 0,
            clk: true,
            data: true,
            drive: true,
        }
    }

    /// A device reset lets go of both lines.
    pub fn release(&mut self) {
        (self.clk, self.data) = (true, true);
        self.stop();
    }

    /// I2CCTL as software reads it: open drain, so a line is low if anyone pulls it.
    pub fn i2cctl(&self) -> u32 {
        let mut value = 0;
        if self.clk {
            value |= i2cctl::CLK_IN | i2cctl::CLK_OUT;
        }
        if self.data {
            value |= i2cctl::DATA_OUT;
        }
        if self.data && self.drive {
            value |= i2cctl::DATA_IN;
        }
        value
    }

    /// A write to I2CCTL: drives clock and data.
    pub fn write_i2cctl(&mut self, value: u32) {
        let (clk, data) = (value & i2cctl::CLK_OUT != 0, value & i2cctl::DATA_OUT != 0);
        let (old_clk, old_data) = (self.clk, self.data);
        self.data = data;
        self.clk = clk;
        match (old_clk, clk) {
            // Data moving while the clock is high is a start or a stop.
            (true, true) if old_data && !data => self.start(),
            (true, true) if !old_data && data => self.stop(),
            (false, true) => self.rise(),
            (true, false) => self.fall(),
            _ => {}
        }
    }

    fn start(&mut self) {
        self.drive = true;
        self.receive(Byte::Device);
    }

    fn stop(&mut self) {
        self.drive = true;
        self.bus = Bus::Idle;
    }

    /// Clock rises: sample.
    fn rise(&mut self) {
        match self.bus {
            Bus::Receive { bits, value, what } if bits < 8 => {
                let value = value << 1 | u8::from(self.data);
                self.bus = Bus::Receive {
                    bits: bits + 1,
                    value,
                    what,
                };
            }
            Bus::MasterAck { .. } => self.bus = Bus::MasterAck { acked: !self.data },
            _ => {}
        }
    }

    /// Clock falls: change what is driven.
    fn fall(&mut self) {
        match self.bus {
            Bus::Receive { bits: 8, value, what } => self.received(value, what),
            Bus::Ack { then } => {
                self.drive = true;
                match then {
                    Then::ReceiveOffset => self.receive(Byte::Offset),
                    Then::ReceiveData => self.receive(Byte::Data),
                    Then::Send => self.send(),
                }
            }
            Bus::Send { bits: 8, .. } => {
                self.drive = true;
                self.bus = Bus::MasterAck { acked: false };
            }
            Bus::Send { bits, value } => {
                self.drive = value & 0x80 != 0;
                self.bus = Bus::Send {
                    bits: bits + 1,
                    value: value << 1,
                };
            }
            Bus::MasterAck { acked: true } => self.send(),
            Bus::MasterAck { acked: false } => self.bus = Bus::Idle,
            Bus::Idle | Bus::Receive { .. } => {}
        }
    }

    fn receive(&mut self, what: Byte) {
        self.bus = Bus::Receive {
            bits: 0,
            value: 0,
            what,
        };
    }

    fn received(&mut self, value: u8, what: Byte) {
        let then = match what {
            Byte::Device => {
                let device = value & !1;
                if device != DEVICE_ID && device != DEVICE_DIAG {
                    self.bus = Bus::Idle; // nobody home: no acknowledge
                    return;
                }
                self.device = device;
                if value & 1 == 1 {
                    Then::Send
                } else {
                    Then::ReceiveOffset
                }
            }
            Byte::Offset => {
                self.offset = value;
                Then::ReceiveData
            }
            // The module is read-only: written data is acknowledged and dropped, and the offset moves on.
            Byte::Data => {
                self.offset = self.offset.wrapping_add(1);
                Then::ReceiveData
            }
        };
        self.drive = false;
        self.bus = Bus::Ack { then };
    }

    /// Puts the first bit of the next byte on the line.
    fn send(&mut self) {
        let page = if self.device == DEVICE_ID {
            &self.id
        } else {
            &self.diag
        };
        let value = page[usize::from(self.offset)];
        self.offset = self.offset.wrapping_add(1);
        self.drive = value & 0x80 != 0;
        self.bus = Bus::Send {
            bits: 1,
            value: value << 1,
        };
    }
}

/// Identification page of a short-range optic (SFF-8472 table 4-1).
fn short_range_module() -> Box<[u8; 256]> {
    let mut id = Box::new([0u8; 256]);
    id[0] = 0x03; // SFP
    id[1] = 0x04; // two-wire interface
    id[2] = 0x07; // LC
    id[3] = 0x10; // 10GBASE-SR
    id[11] = 0x06; // 64b/66b
    id[12] = 103; // 10.3 Gb/s
    id[16] = 8; // 80 m of OM2
    id[17] = 3; // 30 m of OM1
    id[19] = 30; // 300 m of OM3
    id[20..36].copy_from_slice(b"Millrace        ");
    id[37..40].copy_from_slice(&[0x00, 0x1b, 0x21]); // an OUI that drivers take as their vendor's own
    id[40..56].copy_from_slice(b"MODEL-SR        ");
    id[56..60].copy_from_slice(b"A   ");
    id[60..62].copy_from_slice(&850u16.to_be_bytes()); // wavelength, nm
    id[63] = sum(&id[..63]);
    id[65] = 0x1a; // TX_DISABLE, TX_FAULT, RX_LOS
    id[68..84].copy_from_slice(b"MR0000000001    ");
    id[84..92].copy_from_slice(b"260101  ");
    id[95] = sum(&id[64..95]);
    id
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |a, &b| a.wrapping_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit-banging master, as drivers write it.
    struct Master<'a>(&'a mut Sfp);

    impl Master<'_> {
        fn set(&mut self, clk: bool, data: bool) {
            let value = if clk { i2cctl::CLK_OUT } else { 0 } | if data { i2cctl::DATA_OUT } else { 0 };
            self.0.write_i2cctl(value);
        }
        fn start(&mut self) {
            self.set(false, true);
            self.set(true, true);
            self.set(true, false);
            self.set(false, false);
        }
        fn stop(&mut self) {
            self.set(false, false);
            self.set(true, false);
            self.set(true, true);
        }
        fn send(&mut self, byte: u8) -> bool {
            for bit in (0..8).rev() {
                let data = byte >> bit & 1 == 1;
                self.set(false, data);
                self.set(true, data);
                self.set(false, data);
            }
            self.set(false, true);
            self.set(true, true);
            let acked = self.0.i2cctl() & i2cctl::DATA_IN == 0;
            self.set(false, true);
            acked
        }
        fn receive(&mut self, ack: bool) -> u8 {
            let mut byte = 0;
            for _ in 0..8 {
                self.set(true, true);
                byte = byte << 1 | u8::from(self.0.i2cctl() & i2cctl::DATA_IN != 0);
                self.set(false, true);
            }
            self.set(false, !ack);
            self.set(true, !ack);
            self.set(false, !ack);
            self.set(false, true);
            byte
        }
        fn read(&mut self, device: u8, offset: u8, len: usize) -> Vec<u8> {
            self.start();
            assert!(self.send(device));
            assert!(self.send(offset));
            self.start();
            assert!(self.send(device | 1));
            let bytes = (0..len).map(|n| self.receive(n + 1 < len)).collect();
            self.stop();
            bytes
        }
    }

    #[test]
    fn the_module_answers_byte_and_sequential_reads() {
        let mut sfp = Sfp::new();
        let mut master = Master(&mut sfp);
        assert_eq!(master.read(DEVICE_ID, 0, 1), [0x03]);
        assert_eq!(master.read(DEVICE_ID, 3, 1), [0x10]);
        assert_eq!(master.read(DEVICE_ID, 37, 3), [0x00, 0x1b, 0x21]);
        assert_eq!(master.read(DEVICE_ID, 20, 8), b"Millrace");
        assert_eq!(master.read(DEVICE_DIAG, 96, 2), [0, 0]);
    }

    #[test]
    fn nobody_answers_at_another_address() {
        let mut sfp = Sfp::new();
        let mut master = Master(&mut sfp);
        master.start();
        assert!(!master.send(0x50));
        master.stop();
        assert_eq!(master.read(DEVICE_ID, 0, 1), [0x03], "and the bus still works");
    }

    #[test]
    fn both_checksums_of_the_identification_page_are_right() {
        let id = short_range_module();
        assert_eq!(sum(&id[..63]), id[63]);
        assert_eq!(sum(&id[64..95]), id[95]);
    }
}
