//! What reading and writing each register does. Whatever is not listed is storage, by its row's access mode.

use super::core::Core;
use crate::ixgbe::regs::{Id, autoc, ctrl, decode, eicr, esdp, fdirctrl, qde, status, swsm};

/// Rows that are another row's second place: the 82598's addresses, kept by the 82599.
fn canonical(id: Id) -> Id {
    match id {
        Id::CTRL_COPY => Id::CTRL,
        Id::PSRTYPE_COPY => Id::PSRTYPE,
        Id::RAL_COPY => Id::RAL,
        Id::RAH_COPY => Id::RAH,
        Id::SRRCTL_COPY => Id::SRRCTL,
        Id::DCA_RXCTRL_COPY => Id::DCA_RXCTRL,
        Id::QPTC_COPY => Id::QPTC,
        other => other,
    }
}

impl Core {
    /// Reads the register at a BAR0 offset; what is not decoded reads as zero.
    pub fn read_bar0(&mut self, offset: u32) -> u32 {
        self.take_mapped_writes();
        match decode(offset) {
            Some((id, i)) => self.read_register(canonical(id), i),
            None => 0,
        }
    }

    /// Writes the register at a BAR0 offset; what is not decoded is ignored.
    pub fn write_bar0(&mut self, offset: u32, value: u32) {
        self.take_mapped_writes();
        if let Some((id, i)) = decode(offset) {
            let id = canonical(id);
            self.write_register(id, i, value);
            if self.mapped.is_some() {
                self.refresh_mapped(id, i, id.reg().at(i));
            }
        }
    }

    fn read_register(&mut self, id: Id, i: u32) -> u32 {
        match id {
            Id::STATUS => self.status(),
            Id::ESDP => self.file.one(Id::ESDP) | esdp::SDP2, // module present
            Id::I2CCTL => self.sfp.i2cctl(),
            Id::FRTIMER => self.clock.now().duration_since(self.epoch).as_micros() as u32,
            Id::EEC => self.eeprom.eec(),
            Id::SWSM => {
                let value = self.file.one(Id::SWSM);
                self.file.set(Id::SWSM, 0, value | swsm::SMBI);
                value
            }
            Id::EICR => self.irq.read_eicr(),
            Id::EICS => self.irq.eicr(),
            Id::EICS_EX => self.irq.eics_ex(i),
            Id::EIMS | Id::EIMC => self.irq.eims(),
            Id::EIMS_EX | Id::EIMC_EX => self.irq.eims_ex(i),
            Id::EIAC => self.irq.eiac(),
            Id::EIAM => self.irq.eiam(),
            Id::EIAM_EX => self.irq.eiam_ex(i),
            Id::RDH => self.rx.get(i as usize).map_or(0, |q| q.ring.head),
            Id::RDT => self.rx.get(i as usize).map_or(0, |q| q.ring.tail),
            Id::TDH => self.tx.get(i as usize).map_or(0, |q| q.ring.head),
            Id::TDT => self.tx.get(i as usize).map_or(0, |q| q.ring.tail),
            Id::FDIRFREE => self.fdir.free(),
            _ => self.file.read(id, i),
        }
    }

    fn status(&self) -> u32 {
        let mut value = self.file.one(Id::STATUS) & !status::MASTER_ENABLE;
        if self.file.one(Id::CTRL) & ctrl::MASTER_DISABLE == 0 {
            value |= status::MASTER_ENABLE;
        }
        if self.link {
            value |= status::LINK_UP;
        }
        value
    }

    fn write_register(&mut self, id: Id, i: u32, value: u32) {
        match id {
            Id::CTRL => {
                if value & (ctrl::RST | ctrl::LRST) != 0 {
                    self.reset();
                } else {
                    self.file.write(id, i, value);
                }
            }
            Id::I2CCTL => self.sfp.write_i2cctl(value),
            Id::EEC => self.eeprom.write_eec(value),
            Id::EERD => self.file.set(id, i, self.eeprom.eerd(value)),
            // No PHY hangs on the MDIO bus: a read gives ones, and every command is done at once.
            Id::MSCA => {
                use crate::ixgbe::regs::msca;
                if value & msca::MDICMD != 0 {
                    let data = self.file.one(Id::MSRWD);
                    self.file.set(Id::MSRWD, 0, data & 0xffff | 0xffff_0000);
                }
                self.file.write(id, i, value & !msca::MDICMD);
            }
            Id::AUTOC => {
                self.file.write(id, i, value & !autoc::RESTART_AN);
                if value & autoc::RESTART_AN != 0 {
                    self.irq.other_cause(eicr::LSC);
                }
            }

            Id::EICR => self.irq.write_eicr(value),
            Id::EICS => self.irq.write_eics(value),
            Id::EICS_EX => self.irq.write_eics_ex(i, value),
            Id::EIMS => self.irq.write_eims(value),
            Id::EIMS_EX => self.irq.write_eims_ex(i, value),
            Id::EIMC => self.irq.mask(value),
            Id::EIMC_EX => self.irq.mask_ex(i, value),
            Id::EIAC => self.irq.set_eiac(value),
            Id::EIAM => self.irq.set_eiam(value),
            Id::EIAM_EX => self.irq.set_eiam_ex(i, value),
            Id::GPIE => {
                self.file.write(id, i, value);
                self.irq.set_gpie(value);
            }
            Id::IVAR => {
                self.file.write(id, i, value);
                self.irq.set_ivar(i, value);
            }
            Id::IVAR_MISC => {
                self.file.write(id, i, value);
                self.irq.set_ivar_misc(value);
            }
            Id::EITR => {
                use crate::ixgbe::regs::eitr;
                self.file.write(id, i, value & !eitr::CNT_WDIS);
                let now = self.clock.now();
                self.irq.set_eitr(i, value, now);
            }
            // The pending bits are write-one-to-clear, 32 vectors a register.
            Id::PBACL => self.irq.pending &= !u64::from(value),
            Id::PBACL_EX if i == 0 => self.irq.pending &= !(u64::from(value) << 32),

            Id::RAL | Id::RAH => {
                self.file.write(id, i, value);
                self.filters.reload_addresses(&self.file);
            }
            Id::MRQC | Id::RSSRK => {
                self.file.write(id, i, value);
                self.filters.rss_changed();
            }
            Id::FTQF | Id::SYNQF | Id::ETQF => {
                self.file.write(id, i, value);
                self.filters.reload_queue_filters(&self.file);
            }
            Id::FDIRCTRL => {
                self.file.write(id, i, value & !fdirctrl::INIT_DONE);
                self.fdir.control(value);
                if value & fdirctrl::PBALLOC != 0 {
                    self.file.set(id, i, value | fdirctrl::INIT_DONE);
                }
            }
            Id::FDIRCMD => {
                let done = self.fdir.command(value, &mut self.file);
                self.file.set(id, i, done);
            }

            Id::SRRCTL => {
                self.file.write(id, i, value);
                self.configure_rx(i);
            }
            Id::RQSMR => {
                self.file.write(id, i, value);
                (4 * i..4 * i + 4).for_each(|q| self.configure_rx(q));
            }
            Id::TQSM => {
                self.file.write(id, i, value);
                for q in 4 * i..4 * i + 4 {
                    if let Some(queue) = self.tx.get_mut(q as usize) {
                        queue.counter = value >> (8 * (q % 4)) & 0xf;
                    }
                }
            }
            Id::QDE => {
                let q = value >> qde::IDX_SHIFT & 0x7f;
                if value & qde::WRITE != 0
                    && let Some(queue) = self.rx.get_mut(q as usize)
                {
                    queue.drop = value & qde::ENABLE != 0;
                }
                self.file.write(id, i, value & !qde::WRITE);
            }
            Id::RDH => self.rx_ring(i, |ring| ring.head = value & 0xffff),
            Id::RDT => self.rx_ring(i, |ring| ring.tail = value & 0xffff),
            Id::TDH => self.tx_ring(i, |ring| ring.head = value & 0xffff),
            Id::TDT => self.tx_ring(i, |ring| ring.tail = value & 0xffff),
            Id::RXDCTL => self.control_rx(i, value),
            Id::TXDCTL => self.control_tx(i, value),
            Id::TDWBAL | Id::TDWBAH => {
                self.file.write(id, i, value);
                self.configure_head_write_back(i);
            }
            _ => self.file.write(id, i, value),
        }
    }

    fn rx_ring(&mut self, q: u32, change: impl FnOnce(&mut super::queue::Cursor)) {
        if let Some(queue) = self.rx.get_mut(q as usize) {
            change(&mut queue.ring);
        }
    }

    fn tx_ring(&mut self, q: u32, change: impl FnOnce(&mut super::queue::Cursor)) {
        if let Some(queue) = self.tx.get_mut(q as usize) {
            change(&mut queue.ring);
        }
    }
}
