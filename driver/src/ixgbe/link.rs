//! The link: 10 Gbit/s over the SFP+ cage (4.6.4, 3.7.4).

use millrace_nic_models::ixgbe::regs::{self, autoc, esdp, links, sw_fw_sync};

use crate::port::{LinkStatus, PortError};

use super::Ixgbe;

/// AUTOC: link mode select, bits 15:13.
const LMS: u32 = 0x7 << autoc::LMS_SHIFT;
/// AUTOC2: serial 10G PMA/PMD is SFI, the module's interface (8.2.3.22.22, bits 17:16).
const SERIAL_MASK: u32 = 0x3 << 16;
const SERIAL_SFI: u32 = 0x2 << 16;

impl Ixgbe {
    /// Laser on, 10G serial over SFI, restart.
    ///
    /// AUTOC is shared with the management firmware, hence the resource bit; the datasheet does not ask for it, but
    /// Linux found that firmware which keeps the link itself writes there too.
    pub(super) fn setup_link(&mut self) -> Result<(), PortError> {
        // SDP3 disables the module's transmitter while it is high (Linux and DPDK; the datasheet leaves pins to boards).
        self.step("laser on", self.modify(&regs::ESDP, 0, esdp::SDP3, 0))?;
        self.with_resource(sw_fw_sync::MAC_CSR, "the MAC register resource", || {
            let serial = self.modify(&regs::AUTOC2, 0, SERIAL_MASK, SERIAL_SFI);
            self.step("select SFI", serial)?;
            let restart = autoc::LMS_10G_SERIAL | autoc::RESTART_AN;
            self.step("restart the link", self.modify(&regs::AUTOC, 0, LMS, restart))
        })
    }

    /// LINKS (8.2.3.22.20), read twice: the first read shows whether the link was lost since the last one.
    pub(super) fn read_link(&self) -> Result<LinkStatus, PortError> {
        self.step("read the link", self.read(&regs::LINKS, 0))?;
        let seen = self.step("read the link", self.read(&regs::LINKS, 0))?;
        let speed_mbps = match seen & links::SPEED {
            links::SPEED_10G => 10_000,
            links::SPEED_1G => 1_000,
            links::SPEED_100M => 100,
            _ => 0,
        };
        let up = seen & links::UP != 0;
        Ok(LinkStatus {
            up,
            speed_mbps: if up { speed_mbps } else { 0 },
            full_duplex: up,
        })
    }
}
