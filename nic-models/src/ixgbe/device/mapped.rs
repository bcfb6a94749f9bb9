//! Register pages that the client maps (`--map-doorbells`): the queue registers of the 82599 live in memory, and the
//! model looks there once a round.
//!
//! Base, length and enable are latched when RXDCTL or TXDCTL changes. A page cannot trap a read, so the read-to-clear
//! counters in these pages (QPRC, QBRC, QPRDC) read as zero there; through the device they work.

use std::os::fd::BorrowedFd;

use super::core::Core;
use crate::device::MmapArea;
use crate::dma::SharedBar;
use crate::ixgbe::regs::{self, BAR0_SIZE, Id, TABLE};

const PAGE: u64 = 4096;

/// What was last seen of, or put into, a queue's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    control: u32,
    /// SRRCTL, or TDWBAL.
    config: u32,
    /// TDWBAH.
    config_high: u32,
    head: u32,
}

/// The shared pages.
#[derive(Debug)]
pub(super) struct Mapped {
    bar: SharedBar,
    areas: Vec<MmapArea>,
    rx: Box<[Seen]>,
    tx: Box<[Seen]>,
}

impl Mapped {
    pub fn new(queues: u32) -> std::io::Result<Self> {
        let pages: &[u64] = if queues > 64 {
            &[0x1000, 0x6000, 0x7000, 0xd000]
        } else {
            &[0x1000, 0x6000]
        };
        Ok(Mapped {
            bar: SharedBar::new("ixgbe-bar0", BAR0_SIZE)?,
            areas: pages
                .iter()
                .map(|&offset| MmapArea { offset, size: PAGE })
                .collect(),
            rx: vec![Seen::default(); regs::RX_QUEUES as usize].into(),
            tx: vec![Seen::default(); regs::TX_QUEUES as usize].into(),
        })
    }

    pub fn areas(&self) -> Vec<MmapArea> {
        self.areas.clone()
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bar.fd()
    }

    fn covers(&self, offset: u32) -> bool {
        self.areas
            .iter()
            .any(|area| (area.offset..area.offset + area.size).contains(&u64::from(offset)))
    }
}

impl Core {
    /// Puts every register of the mapped pages there as it stands (after a reset).
    pub(super) fn fill_mapped(&mut self) {
        for (row, reg) in TABLE.iter().enumerate() {
            for i in 0..reg.count {
                self.refresh_mapped(Id::ALL[row], i, reg.at(i));
            }
        }
    }

    /// After an access through the device: the mapped page shows what the register reads as.
    pub(super) fn refresh_mapped(&mut self, id: Id, i: u32, offset: u32) {
        let value = match id {
            Id::RDH => self.rx.get(i as usize).map_or(0, |q| q.ring.head),
            Id::RDT => self.rx.get(i as usize).map_or(0, |q| q.ring.tail),
            Id::TDH => self.tx.get(i as usize).map_or(0, |q| q.ring.head),
            Id::TDT => self.tx.get(i as usize).map_or(0, |q| q.ring.tail),
            _ if id.reg().access == crate::regs::Access::Rc => 0,
            _ => self.file.get(id, i),
        };
        let Some(mapped) = &mut self.mapped else { return };
        if !mapped.covers(offset) {
            return;
        }
        mapped.bar.store(offset, value);
        let seen = match id {
            Id::RDH | Id::RXDCTL | Id::SRRCTL => mapped.rx.get_mut(i as usize),
            Id::TDH | Id::TXDCTL | Id::TDWBAL | Id::TDWBAH => mapped.tx.get_mut(i as usize),
            _ => None,
        };
        let Some(seen) = seen else { return };
        match id {
            Id::RDH | Id::TDH => seen.head = value,
            Id::RXDCTL | Id::TXDCTL => seen.control = value,
            Id::SRRCTL | Id::TDWBAL => seen.config = value,
            _ => seen.config_high = value,
        }
    }

    /// Acts on what the client wrote into mapped pages since the last look.
    pub(super) fn take_mapped_writes(&mut self) {
        let Some(mapped) = self.mapped.take() else { return };
        let mut mapped = mapped;
        for q in 0..self.queues {
            self.take_rx_writes(&mut mapped, q);
            self.take_tx_writes(&mut mapped, q);
        }
        self.mapped = Some(mapped);
    }

    fn take_rx_writes(&mut self, mapped: &mut Mapped, q: u32) {
        let Some(seen) = mapped.rx.get_mut(q as usize) else {
            return;
        };
        let bar = &mapped.bar;
        let config = bar.load(regs::SRRCTL.at(q));
        if config != seen.config {
            seen.config = config;
            self.file.write(Id::SRRCTL, q, config);
            self.configure_rx(q);
        }
        let head = bar.load(regs::RDH.at(q));
        if head != seen.head {
            seen.head = head;
            self.rx[q as usize].ring.head = head & 0xffff;
        }
        let control = bar.load(regs::RXDCTL.at(q));
        if control != seen.control {
            for id in [Id::RDBAL, Id::RDBAH, Id::RDLEN] {
                self.file.write(id, q, bar.load(id.reg().at(q)));
            }
            self.control_rx(q, control);
            let answer = self.file.get(Id::RXDCTL, q);
            seen.control = if bar.answer(regs::RXDCTL.at(q), control, answer) {
                answer
            } else {
                control
            };
        }
        self.rx[q as usize].ring.tail = bar.load(regs::RDT.at(q)) & 0xffff;
    }

    fn take_tx_writes(&mut self, mapped: &mut Mapped, q: u32) {
        let Some(seen) = mapped.tx.get_mut(q as usize) else {
            return;
        };
        let bar = &mapped.bar;
        let (low, high) = (bar.load(regs::TDWBAL.at(q)), bar.load(regs::TDWBAH.at(q)));
        if (low, high) != (seen.config, seen.config_high) {
            (seen.config, seen.config_high) = (low, high);
            self.file.write(Id::TDWBAL, q, low);
            self.file.write(Id::TDWBAH, q, high);
            self.configure_head_write_back(q);
        }
        let head = bar.load(regs::TDH.at(q));
        if head != seen.head {
            seen.head = head;
            self.tx[q as usize].ring.head = head & 0xffff;
        }
        let control = bar.load(regs::TXDCTL.at(q));
        if control != seen.control {
            for id in [Id::TDBAL, Id::TDBAH, Id::TDLEN] {
                self.file.write(id, q, bar.load(id.reg().at(q)));
            }
            self.control_tx(q, control);
            let answer = self.file.get(Id::TXDCTL, q);
            seen.control = if bar.answer(regs::TXDCTL.at(q), control, answer) {
                answer
            } else {
                control
            };
        }
        self.tx[q as usize].ring.tail = bar.load(regs::TDT.at(q)) & 0xffff;
    }

    /// Shows the client how far the device has got.
    pub(super) fn publish_heads(&mut self) {
        let Some(mapped) = &mut self.mapped else { return };
        for q in 0..self.queues {
            let at = q as usize;
            let head = self.rx[at].ring.head;
            if self.rx[at].enabled && head != mapped.rx[at].head {
                mapped.rx[at].head = head;
                mapped.bar.store(regs::RDH.at(q), head);
            }
            let head = self.tx[at].ring.head;
            if self.tx[at].enabled && head != mapped.tx[at].head {
                mapped.tx[at].head = head;
                mapped.bar.store(regs::TDH.at(q), head);
            }
        }
    }
}
