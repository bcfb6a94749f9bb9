//! Resources that driver, firmware and the chip's other port share (10.5.4): first the software semaphore, then the
//! software-firmware one, then a bit a resource.

use std::time::{Duration, Instant};

use millrace_nic_models::ixgbe::regs::{self, swsm};

use crate::bus::BusError;
use crate::port::PortError;

use super::Ixgbe;

/// Firmware's bit of a resource lies so far above the driver's (8.2.3.4.11).
const FIRMWARE_SHIFT: u32 = 5;

impl Ixgbe {
    /// Runs `work` while this port owns `resource`, a bit of SW_FW_SYNC.
    pub(super) fn with_resource<T>(
        &self,
        resource: u32,
        what: &'static str,
        work: impl FnOnce() -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let start = Instant::now();
        let mut round = 0;
        loop {
            self.take_register_semaphore()?;
            let taken = self.step("take a shared resource", self.try_take(resource));
            let released = self.step("release the semaphore", self.release_register_semaphore());
            released?;
            if taken? {
                break;
            }
            let waited = start.elapsed();
            if waited >= self.deadline {
                return Err(PortError::Semaphore {
                    device: self.name(),
                    what,
                    waited,
                });
            }
            self.device.relax(round);
            round += 1;
        }
        let outcome = work();
        self.take_register_semaphore()?;
        let given = self.modify(&regs::SW_FW_SYNC, 0, resource, 0);
        let released = self.release_register_semaphore();
        self.step("release a shared resource", given.and(released))?;
        outcome
    }

    /// Both bits of SWSM: SMBI among drivers (the read that sees 0 sets it), SWESMBI against firmware.
    fn take_register_semaphore(&self) -> Result<(), PortError> {
        self.step(
            "take the software semaphore",
            self.wait(&regs::SWSM, 0, swsm::SMBI, 0),
        )?;
        let start = Instant::now();
        loop {
            // Firmware may take it between our write and our read: then the bit does not stick, and we try again.
            let stuck = self
                .modify(&regs::SWSM, 0, 0, swsm::SWESMBI)
                .and_then(|()| self.read(&regs::SWSM, 0))
                .map(|seen| seen & swsm::SWESMBI != 0);
            if self.step("take the firmware semaphore", stuck)? {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited >= self.deadline {
                self.step("release the semaphore", self.release_register_semaphore())?;
                let what = "the semaphore SWSM.SWESMBI";
                return Err(PortError::Semaphore {
                    device: self.name(),
                    what,
                    waited,
                });
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn release_register_semaphore(&self) -> Result<(), BusError> {
        self.write(&regs::SWSM, 0, 0)?;
        self.flush().map(drop)
    }

    fn try_take(&self, resource: u32) -> Result<bool, BusError> {
        let owners = self.read(&regs::SW_FW_SYNC, 0)?;
        if owners & (resource | resource << FIRMWARE_SHIFT) != 0 {
            return Ok(false);
        }
        self.write(&regs::SW_FW_SYNC, 0, owners | resource)?;
        Ok(true)
    }
}
