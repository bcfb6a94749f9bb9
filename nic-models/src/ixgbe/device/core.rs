//! The port without its PCI side and its wire: registers, queues, interrupts, and one round of work.

use std::time::{Duration, Instant};

use super::clock::Clock;
use super::eeprom::Eeprom;
use super::fdir::FlowDirector;
use super::file::RegFile;
use super::filter::Filters;
use super::irq::Interrupts;
use super::mapped::Mapped;
use super::queue::{Cursor, HEADROOM, RxQueue, TxQueue};
use super::rx::PacketBuffer;
use super::sfp::Sfp;
use super::stats::Tally;
use crate::device::Work;
use crate::dma::{DmaSpace, Fault};
use crate::ixgbe::regs::{Id, ctrl, eicr, hlreg0, links, rxctrl, rxdctl, secrxctrl, srrctl, tdwbal, txdctl};
use crate::ixgbe::regs::{RX_QUEUES, TX_QUEUES};
use crate::wire::Wire;

/// How often the wire is asked for its carrier.
const LINK_POLL: Duration = Duration::from_millis(20);
/// And how often when nothing else happens.
const LINK_POLL_IDLE: Duration = Duration::from_millis(200);

/// What the model counts about itself, beside the registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub rx_frames: u64,
    pub tx_frames: u64,
    /// Frames whose VLAN tag was stripped.
    pub rx_stripped: u64,
    /// Frames that software gave for segmentation, before it.
    pub tx_segmented: u64,
    /// Frames, not for segmentation, with a checksum inserted.
    pub tx_checksummed: u64,
    /// Frames that software gave with a VLAN tag to insert.
    pub tx_tagged: u64,
    pub rx_faults: u64,
    pub tx_faults: u64,
    pub rx_no_descriptor: u64,
    pub rx_missed: u64,
    pub rx_filtered: u64,
    pub rx_while_off: u64,
    pub rx_queue_off: u64,
    pub rx_bad_length: u64,
    pub tx_malformed: u64,
    pub tx_no_link: u64,
    pub tx_refused: u64,
    pub wire_errors: u64,
    pub resets: u64,
}

/// The port.
#[derive(Debug)]
pub(super) struct Core {
    pub mac: [u8; 6],
    /// Queues of each direction that can be enabled.
    pub queues: u32,
    pub file: RegFile,
    pub eeprom: Eeprom,
    pub sfp: Sfp,
    pub irq: Interrupts,
    pub filters: Filters,
    pub fdir: FlowDirector,
    pub rx: Box<[RxQueue]>,
    pub tx: Box<[TxQueue]>,
    /// Enabled queues, one bit each.
    pub rx_active: u128,
    pub tx_active: u128,
    /// Queues that wrote descriptors back in this round.
    pub rx_touched: u128,
    pub buffer: PacketBuffer,
    pub dma: DmaSpace,
    pub mapped: Option<Mapped>,
    pub clock: Clock,
    pub counters: Counters,
    pub tally: Tally,
    pub link: bool,
    link_checked: Option<Instant>,
    wire_gone: bool,
    /// Last reset, for the free running timer.
    pub epoch: Instant,
    /// Scratch space for a segment, and for it with its VLAN tag.
    pub scratch: Vec<u8>,
    pub tagged: Vec<u8>,
}

impl Core {
    pub fn new(mac: [u8; 6], queues: u32, clock: Clock, mapped: Option<Mapped>) -> Self {
        let epoch = clock.now();
        let mut core = Core {
            mac,
            queues: queues.min(RX_QUEUES),
            file: RegFile::new(),
            eeprom: Eeprom::new(mac),
            sfp: Sfp::new(),
            irq: Interrupts::new(),
            filters: Filters::default(),
            fdir: FlowDirector::default(),
            rx: vec![RxQueue::default(); RX_QUEUES as usize].into(),
            tx: vec![TxQueue::default(); TX_QUEUES as usize].into(),
            rx_active: 0,
            tx_active: 0,
            rx_touched: 0,
            buffer: PacketBuffer::default(),
            dma: DmaSpace::new(),
            mapped,
            clock,
            counters: Counters::default(),
            tally: Tally::default(),
            link: false,
            link_checked: None,
            wire_gone: false,
            epoch,
            scratch: Vec::new(),
            tagged: Vec::new(),
        };
        core.power_on();
        core
    }

    /// Device reset (CTRL.RST, FLR): everything but PCI configuration, eventfds and DMA mappings starts anew.
    pub fn reset(&mut self) {
        self.file.reset();
        self.eeprom.reset();
        self.sfp.release();
        self.irq.reset();
        self.counters.resets += 1;
        self.power_on();
    }

    /// What the device loads from the EEPROM and wires up after a reset.
    fn power_on(&mut self) {
        let [a, b, c, d, e, f] = self.mac;
        self.file.set(Id::RAL, 0, u32::from_le_bytes([a, b, c, d]));
        self.file.set(Id::RAH, 0, u32::from_le_bytes([e, f, 0, 0x80]));
        self.file.set(Id::RXPBSIZE, 0, 0x8_0000);
        self.file.set(Id::TXPBSIZE, 0, 0x2_8000);
        self.filters.reload_addresses(&self.file);
        self.filters.rss_changed();
        self.fdir = FlowDirector::default();
        self.buffer.clear();
        self.rx.fill(RxQueue::default());
        for queue in &mut self.tx {
            // Keep the allocation.
            *queue = TxQueue {
                buf: std::mem::take(&mut queue.buf),
                filled: HEADROOM,
                ..TxQueue::default()
            };
        }
        (self.rx_active, self.tx_active, self.rx_touched) = (0, 0, 0);
        for q in 0..RX_QUEUES {
            self.configure_rx(q);
        }
        // The link comes back a moment later, with an interrupt.
        self.link = false;
        self.link_checked = None;
        self.epoch = self.clock.now();
        if self.mapped.is_some() {
            self.fill_mapped();
        }
    }

    // Queues

    /// SRRCTL or RQSMR changed.
    pub fn configure_rx(&mut self, q: u32) {
        let control = self.file.get(Id::SRRCTL, q);
        let map = self.file.get(Id::RQSMR, q / 4);
        let Some(queue) = self.rx.get_mut(q as usize) else {
            return;
        };
        queue.buffer = ((control & srrctl::BSIZEPACKET) * 1024) as usize;
        queue.legacy = control & srrctl::DESCTYPE == srrctl::DESCTYPE_LEGACY;
        queue.drop = control & srrctl::DROP_EN != 0;
        queue.counter = map >> (8 * (q % 4)) & 0xf;
    }

    /// RXDCTL was written. Enabling latches the ring; disabling takes effect before the write is answered.
    pub fn control_rx(&mut self, q: u32, value: u32) {
        let usable = q < self.queues;
        let base = u64::from(self.file.get(Id::RDBAL, q)) | u64::from(self.file.get(Id::RDBAH, q)) << 32;
        let count = self.file.get(Id::RDLEN, q) / 16;
        let Some(queue) = self.rx.get_mut(q as usize) else {
            return;
        };
        let enable = value & rxdctl::ENABLE != 0 && usable;
        if enable && !queue.enabled {
            // The tail is for software to write once the queue is on (4.6.7.1). An old one would hand over descriptors
            // of the queue's last life: DPDK's driver sets head and tail a millisecond later.
            queue.ring = Cursor {
                base,
                count,
                tail: queue.ring.head,
                ..queue.ring
            };
            queue.halted = false;
        }
        queue.enabled = enable;
        queue.strip_vlan = value & rxdctl::VME != 0;
        let bit = 1u128 << q;
        self.rx_active = if enable {
            self.rx_active | bit
        } else {
            self.rx_active & !bit
        };
        let value = value & !rxdctl::ENABLE & !rxdctl::SWFLSH | if enable { rxdctl::ENABLE } else { 0 };
        self.file.set(Id::RXDCTL, q, value & Id::RXDCTL.reg().mask);
    }

    /// TXDCTL was written.
    pub fn control_tx(&mut self, q: u32, value: u32) {
        let usable = q < self.queues;
        let base = u64::from(self.file.get(Id::TDBAL, q)) | u64::from(self.file.get(Id::TDBAH, q)) << 32;
        let count = self.file.get(Id::TDLEN, q) / 16;
        let Some(queue) = self.tx.get_mut(q as usize) else {
            return;
        };
        let enable = value & txdctl::ENABLE != 0 && usable;
        if enable && !queue.enabled {
            queue.ring = Cursor {
                base,
                count,
                ..queue.ring
            };
            queue.halted = false;
            queue.drop_frame();
        }
        queue.enabled = enable;
        let bit = 1u128 << q;
        self.tx_active = if enable {
            self.tx_active | bit
        } else {
            self.tx_active & !bit
        };
        let value = value & !txdctl::ENABLE & !txdctl::SWFLSH | if enable { txdctl::ENABLE } else { 0 };
        self.file.set(Id::TXDCTL, q, value & Id::TXDCTL.reg().mask);
    }

    /// TDWBAL or TDWBAH changed.
    pub fn configure_head_write_back(&mut self, q: u32) {
        let (low, high) = (self.file.get(Id::TDWBAL, q), self.file.get(Id::TDWBAH, q));
        let Some(queue) = self.tx.get_mut(q as usize) else {
            return;
        };
        let address = u64::from(high) << 32 | u64::from(low & !3);
        queue.write_back = (low & tdwbal::HEAD_WB_EN != 0).then_some(address);
    }

    /// A DMA access of a receive queue faulted: the queue stops until software disables it.
    pub fn rx_fault(&mut self, q: u32, fault: Fault) {
        self.counters.rx_faults += 1;
        if let Some(queue) = self.rx.get_mut(q as usize) {
            queue.halted = true;
        }
        self.pci_exception("receive", q, fault);
    }

    /// The same for a transmit queue; the frame under way is lost.
    pub fn tx_fault(&mut self, q: u32, fault: Fault) {
        self.counters.tx_faults += 1;
        if let Some(queue) = self.tx.get_mut(q as usize) {
            queue.halted = true;
            queue.drop_frame();
        }
        self.pci_exception("transmit", q, fault);
    }

    fn pci_exception(&mut self, direction: &'static str, queue: u32, fault: Fault) {
        tracing::debug!(direction, queue, %fault, "DMA fault stops the queue");
        let cause = self.file.one(Id::PICAUSE);
        self.file.set(Id::PICAUSE, 0, cause | 1); // completion abort
        self.irq.other_cause(eicr::PCI);
    }

    // A round of work

    /// Whether the device may issue PCIe requests.
    pub fn may_master(&self) -> bool {
        self.dma.is_enabled() && self.file.one(Id::CTRL) & ctrl::MASTER_DISABLE == 0
    }

    pub fn loops_back(&self) -> bool {
        self.file.one(Id::HLREG0) & hlreg0::LPBK != 0
    }

    /// Whether frames from the wire get in.
    pub fn receives(&self) -> bool {
        self.link
            && self.file.one(Id::RXCTRL) & rxctrl::RXEN != 0
            && self.file.one(Id::SECRXCTRL) & secrxctrl::RX_DIS == 0
            && !self.loops_back()
            && self.may_master()
    }

    /// One bounded round: link, transmit, receive, interrupts.
    pub fn step(&mut self, wire: &mut dyn Wire) -> Work {
        let now = self.clock.now();
        self.check_link(wire, now);
        self.take_mapped_writes();
        let mut busy = false;
        if self.may_master() {
            if self.tx_active != 0 {
                busy |= self.transmit(wire);
            }
            if !self.buffer.is_empty() {
                busy |= self.drain_buffer();
            }
        }
        busy |= self.receive_from(wire);
        if wire.flush().is_err() {
            self.lose_wire();
        }
        self.tally.flush(&mut self.file);
        self.tell_receivers();
        self.publish_heads();
        busy |= self.irq.deliver(now);
        if busy { Work::Busy } else { Work::Idle }
    }

    fn check_link(&mut self, wire: &dyn Wire, now: Instant) {
        let due = match (&self.clock, self.link_checked) {
            (Clock::Monotonic, Some(last)) => now.duration_since(last) >= LINK_POLL,
            _ => true,
        };
        if !due {
            return;
        }
        self.link_checked = Some(now);
        self.set_link(!self.wire_gone && wire.link_up());
    }

    /// The link, and the interrupt that tells of its change.
    fn set_link(&mut self, up: bool) {
        if up != self.link {
            self.link = up;
            self.file.set(Id::LINKS, 0, if up { links::UP_10G } else { 0 });
            self.irq.other_cause(eicr::LSC);
        }
    }

    fn lose_wire(&mut self) {
        self.counters.wire_errors += 1;
        self.wire_gone = true;
        self.set_link(false);
    }

    /// Takes frames from the wire, at most 64.
    fn receive_from(&mut self, wire: &mut dyn Wire) -> bool {
        if self.wire_gone {
            return false;
        }
        let open = self.receives();
        if !open && wire.fds().is_empty() {
            // A generator or a recording waits for its receiver; a network does not.
            return false;
        }
        let mut frames = 0;
        while frames < super::BUDGET {
            if open
                && let Some(batch) = wire.recv_batch(super::BUDGET - frames)
                && batch.len() != 0
            {
                frames += batch.len();
                self.receive_batch(batch);
                continue;
            }
            match wire.recv() {
                Ok(Some(frame)) if open => self.receive(frame, false),
                Ok(Some(_)) => self.counters.rx_while_off += 1,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the wire is gone; the link is down from now on");
                    self.lose_wire();
                    break;
                }
            }
            frames += 1;
        }
        frames != 0
    }

    /// Write-backs and interrupt causes of the receive queues that got frames.
    fn tell_receivers(&mut self) {
        let mut touched = std::mem::take(&mut self.rx_touched);
        while touched != 0 {
            let q = touched.trailing_zeros();
            touched &= touched - 1;
            if let Some(queue) = self.rx.get_mut(q as usize)
                && let Err(fault) = queue.write_back(&self.dma)
            {
                self.rx_fault(q, fault);
            }
            self.irq.rx_cause(q as u16);
        }
    }

    /// When [`Core::step`] has to run again by itself.
    pub fn next_timer(&self) -> Option<Instant> {
        let link = self.link_checked.map(|at| at + LINK_POLL_IDLE);
        [self.irq.next_due(), link].into_iter().flatten().min()
    }

    /// Model-side diagnostics.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("rx_frames", c.rx_frames),
            ("tx_frames", c.tx_frames),
            ("rx_stripped", c.rx_stripped),
            ("tx_segmented", c.tx_segmented),
            ("tx_checksummed", c.tx_checksummed),
            ("tx_tagged", c.tx_tagged),
            ("rx_dma_faults", c.rx_faults),
            ("tx_dma_faults", c.tx_faults),
            ("rx_no_descriptor", c.rx_no_descriptor),
            ("rx_missed", c.rx_missed),
            ("rx_filtered", c.rx_filtered),
            ("rx_while_off", c.rx_while_off),
            ("rx_queue_off", c.rx_queue_off),
            ("rx_bad_length", c.rx_bad_length),
            ("tx_malformed", c.tx_malformed),
            ("tx_no_link", c.tx_no_link),
            ("tx_refused", c.tx_refused),
            ("wire_errors", c.wire_errors),
            ("resets", c.resets),
            ("interrupts_raised", self.irq.lines().raised()),
            ("interrupts_unconnected", self.irq.lines().dropped()),
        ]
    }
}
