//! What the EEPROM says: words by EERD (8.2.3.2.2), the MAC address as auto-loaded into RAR 0.

use millrace_nic_models::ixgbe::regs::{self, eerd, rah, status};

use crate::bus::BusError;
use crate::port::PortError;

use super::Ixgbe;

/// The two words that hold the EEPROM image's track id, low word first; Linux shows it as firmware version.
const TRACK_ID: [u32; 2] = [0x2d, 0x2e];

impl Ixgbe {
    /// Port number, MAC address and EEPROM version.
    pub(super) fn read_identity(&mut self) -> Result<(), PortError> {
        let state = self.step("read the port number", self.flush())?;
        self.lan = (state & status::LAN_ID) >> status::LAN_ID.trailing_zeros();
        self.mac = self.step("read the MAC address", self.read_mac())?;
        if self.mac == [0; 6] || self.mac[0] & 1 != 0 {
            let bytes = self.mac;
            let value = bytes.iter().fold(0, |acc, b| acc << 8 | u64::from(*b));
            return Err(PortError::BadValue {
                device: self.name(),
                step: "read the MAC address",
                what: "RAL[0]/RAH[0]",
                value,
                hint: "the EEPROM holds no unicast address; repair it or use another card",
            });
        }
        // Auto-loading may leave the address marked invalid; it is the one we listen on.
        self.step("enable the MAC address", self.modify(&regs::RAH, 0, 0, rah::AV))?;
        let [low, high] = TRACK_ID;
        let low = self.step("read the EEPROM", self.eeprom_word(low))?;
        let high = self.step("read the EEPROM", self.eeprom_word(high))?;
        self.firmware = format!("0x{high:04x}{low:04x}");
        Ok(())
    }

    fn read_mac(&self) -> Result<[u8; 6], BusError> {
        let low = self.read(&regs::RAL, 0)?.to_le_bytes();
        let high = self.read(&regs::RAH, 0)?.to_le_bytes();
        Ok([low[0], low[1], low[2], low[3], high[0], high[1]])
    }

    /// One word. The device itself keeps these reads apart from other users', so they need no semaphore.
    pub(super) fn eeprom_word(&self, word: u32) -> Result<u16, BusError> {
        self.write(&regs::EERD, 0, word << eerd::ADDR_SHIFT | eerd::START)?;
        let value = self.wait(&regs::EERD, 0, eerd::DONE, eerd::DONE)?;
        Ok((value >> eerd::DATA_SHIFT) as u16)
    }
}
