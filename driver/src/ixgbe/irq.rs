//! Interrupts: MSI-X with one vector a queue and one for the link, masked by the device itself when they fire (7.3).

use millrace_nic_models::ixgbe::regs::{self, eicr, eitr, gpie, ivar};

use crate::bus::BusError;
use crate::port::{PortConfig, PortError};

use super::Ixgbe;

/// IVAR_MISC: the byte of all causes but the TCP timer (8.2.3.5.17).
const MISC_OTHER: u32 = 8;

impl Ixgbe {
    pub(super) fn write_interrupts(&mut self, config: &PortConfig) -> Result<(), PortError> {
        self.step("interrupt set-up", self.interrupt_registers(config))?;
        self.interrupts = true;
        Ok(())
    }

    fn interrupt_registers(&self, config: &PortConfig) -> Result<(), BusError> {
        let queues = u32::from(config.queues);
        // EIAME with EIAM masks a vector as it fires; the queue arms it again when its worker wants to sleep.
        self.write(
            &regs::GPIE,
            0,
            gpie::MULTIPLE_MSIX | gpie::PBA_SUPPORT | gpie::OCD | gpie::EIAME,
        )?;
        self.write(&regs::EIAC, 0, eicr::RTX_QUEUE)?;
        self.write(&regs::EIAM_EX, 0, u32::MAX)?;
        self.write(&regs::EIAM_EX, 1, u32::MAX)?;
        for pair in 0..queues.div_ceil(2) {
            // Four bytes an entry: RX and TX of an even queue, RX and TX of the odd one. Only RX wakes anyone.
            let even = (2 * pair) | ivar::VALID;
            let odd = if 2 * pair + 1 < queues {
                (2 * pair + 1) | ivar::VALID
            } else {
                0
            };
            self.write(&regs::IVAR, pair, even | odd << 16)?;
        }
        self.write(&regs::IVAR_MISC, 0, (queues | ivar::VALID) << MISC_OTHER)?;
        let units = config.interrupt_interval.as_nanos() as u64 / eitr::UNIT_NS;
        let interval =
            (units.min(u64::from(eitr::INTERVAL >> eitr::INTERVAL_SHIFT)) as u32) << eitr::INTERVAL_SHIFT;
        for vector in 0..queues {
            self.write(&regs::EITR, vector, interval | eitr::CNT_WDIS)?;
        }
        self.write(&regs::EITR, queues, eitr::CNT_WDIS)
    }

    /// Clears the link's cause and lets it fire again.
    pub(super) fn ack_link(&mut self) -> Result<(), PortError> {
        let acked = self
            .write(&regs::EICR, 0, eicr::LSC)
            .and_then(|()| self.write(&regs::EIMS, 0, eicr::LSC));
        self.step("acknowledge the link interrupt", acked)
    }
}
