//! Which frames are let in: addresses, multicast, VLANs, promiscuous mode (7.1.1).

use millrace_nic_models::ixgbe::regs::{self, fctrl, rah, rxdctl, vlnctrl};

use crate::port::PortError;

use super::Ixgbe;

impl Ixgbe {
    pub(super) fn write_promiscuous(&mut self, on: bool) -> Result<(), PortError> {
        let (clear, set) = if on { (0, fctrl::UPE) } else { (fctrl::UPE, 0) };
        self.step("promiscuous mode", self.modify(&regs::FCTRL, 0, clear, set))
    }

    /// Multicast is all or nothing: the hash table would let strangers in all the same.
    pub(super) fn write_all_multicast(&mut self, on: bool) -> Result<(), PortError> {
        let (clear, set) = if on { (0, fctrl::MPE) } else { (fctrl::MPE, 0) };
        self.step("all-multicast mode", self.modify(&regs::FCTRL, 0, clear, set))
    }

    /// A further address goes to the first free receive address register behind our own (8.2.3.7.8).
    pub(super) fn add_address(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        if mac == self.mac || self.addresses.contains(&Some(mac)) {
            return Ok(());
        }
        let Some(free) = self.addresses.iter().position(Option::is_none) else {
            return Err(PortError::TableFull {
                what: "unicast address",
                limit: self.addresses.len(),
            });
        };
        let entry = free as u32 + 1;
        let low = u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]);
        let high = u32::from(u16::from_le_bytes([mac[4], mac[5]]));
        let written = self
            .write(&regs::RAL, entry, low)
            // Pool 0: without virtualization every address selects it.
            .and_then(|()| self.write(&regs::MPSAR, 2 * entry, 1))
            .and_then(|()| self.write(&regs::RAH, entry, high | rah::AV));
        self.step("add an address", written)?;
        self.addresses[free] = Some(mac);
        Ok(())
    }

    pub(super) fn remove_address(&mut self, mac: [u8; 6]) -> Result<(), PortError> {
        let Some(at) = self.addresses.iter().position(|a| *a == Some(mac)) else {
            return Ok(());
        };
        let entry = at as u32 + 1;
        let cleared = self
            .write(&regs::RAH, entry, 0)
            .and_then(|()| self.write(&regs::RAL, entry, 0))
            .and_then(|()| self.write(&regs::MPSAR, 2 * entry, 0));
        self.step("remove an address", cleared)?;
        self.addresses[at] = None;
        Ok(())
    }

    /// One bit of the VLAN filter table (8.2.3.7.11). It counts only while the filter is on.
    pub(super) fn write_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError> {
        if vlan > 4095 {
            let allowed = "0 to 4095";
            return Err(PortError::Config {
                what: "vlan",
                value: vlan.into(),
                family: "ixgbe",
                allowed,
            });
        }
        let (word, bit) = (u32::from(vlan) / 32, 1 << (vlan % 32));
        let (clear, set) = if on { (0, bit) } else { (bit, 0) };
        self.step("VLAN filter", self.modify(&regs::VFTA, word, clear, set))
    }

    /// The filter is the port's, stripping is each queue's (8.2.3.7.2, 8.2.3.8.6).
    pub(super) fn write_vlan_offload(&mut self, strip: bool, filter: bool) -> Result<(), PortError> {
        let (clear, set) = if filter {
            (0, vlnctrl::VFE)
        } else {
            (vlnctrl::VFE, 0)
        };
        self.step(
            "VLAN filter switch",
            self.modify(&regs::VLNCTRL, 0, clear | vlnctrl::CFIEN, set),
        )?;
        let (clear, set) = if strip { (0, rxdctl::VME) } else { (rxdctl::VME, 0) };
        for queue in 0..u32::from(super::MAX_QUEUES) {
            if self.running & 1 << queue != 0 {
                self.step("VLAN stripping", self.modify(&regs::RXDCTL, queue, clear, set))?;
            }
        }
        Ok(())
    }
}
