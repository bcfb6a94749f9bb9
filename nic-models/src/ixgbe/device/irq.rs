//! Interrupts (datasheet 7.3): causes, masks, auto clear, auto mask, throttling, and the way to a vector.
//!
//! With GPIE.MULTIPLE_MSIX every queue cause is a vector (IVAR names it) and the other causes share one (IVAR_MISC).
//! Without it all causes share vector 0, or INTx where MSI-X is off.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::device::{Irq, IrqLines};
use crate::ixgbe::regs::{MSIX_VECTORS, eicr, eitr, gpie, ivar};

/// Causes in EICR that are not queues.
const OTHER: u32 = eicr::OTHER_CAUSES | eicr::TCP_TIMER;

/// All interrupt state of the port.
#[derive(Debug)]
pub(super) struct Interrupts {
    lines: IrqLines,
    msix_enabled: bool,
    msix_masked: bool,
    /// Vectors that fired while nothing was connected or the function was masked: the PBA.
    pub pending: u64,
    gpie: u32,
    /// Queue causes by vector; bits 15:0 are EICR's.
    queues: u64,
    queue_mask: u64,
    /// EICR 30:16.
    other: u32,
    other_mask: u32,
    /// EIMS bit 31 is storage: drivers set it, nothing hangs on it.
    mask_31: u32,
    eiac: u32,
    eiam: u32,
    eiam_ex: u64,
    ivar: [u32; 64],
    ivar_misc: u32,
    eitr: [u32; MSIX_VECTORS as usize],
    /// When a vector may fire again.
    open_at: [Option<Instant>; MSIX_VECTORS as usize],
    /// Vectors with a cause that has not been told yet.
    request: u64,
    intx_asserted: bool,
}

impl Interrupts {
    pub fn new() -> Self {
        Interrupts {
            lines: IrqLines::new(MSIX_VECTORS),
            msix_enabled: false,
            msix_masked: false,
            pending: 0,
            gpie: 0,
            queues: 0,
            queue_mask: 0,
            other: 0,
            other_mask: 0,
            mask_31: 0,
            eiac: 0,
            eiam: 0,
            eiam_ex: 0,
            ivar: [0; 64],
            ivar_misc: 0,
            eitr: [0; MSIX_VECTORS as usize],
            open_at: [None; MSIX_VECTORS as usize],
            request: 0,
            intx_asserted: false,
        }
    }

    /// Device reset; eventfds and the PCI side stay.
    pub fn reset(&mut self) {
        let fresh = Interrupts::new();
        let lines = std::mem::replace(&mut self.lines, IrqLines::new(0));
        *self = Interrupts {
            lines,
            msix_enabled: self.msix_enabled,
            msix_masked: self.msix_masked,
            ..fresh
        };
    }

    pub fn lines(&self) -> &IrqLines {
        &self.lines
    }

    /// Connects a line; what fired while it was not connected is told now.
    pub fn set_line(&mut self, irq: Irq, fd: Option<OwnedFd>) {
        let connected = fd.is_some();
        self.lines.set(irq, fd);
        if let Irq::Msix(v) = irq
            && connected
            && v < MSIX_VECTORS
            && self.pending >> v & 1 == 1
        {
            self.pending &= !(1 << v);
            self.lines.signal(irq);
        }
    }

    pub fn set_msix_enabled(&mut self, on: bool) {
        self.msix_enabled = on;
    }

    pub fn set_msix_masked(&mut self, on: bool) {
        self.msix_masked = on;
        if !on {
            for v in bits(self.pending) {
                if self.lines.is_connected(Irq::Msix(v)) {
                    self.pending &= !(1 << v);
                    self.lines.signal(Irq::Msix(v));
                }
            }
        }
    }

    fn multiple(&self) -> bool {
        self.gpie & gpie::MULTIPLE_MSIX != 0
    }

    // Causes

    /// A receive queue wrote descriptors back.
    #[inline]
    pub fn rx_cause(&mut self, queue: u16) {
        self.queue_cause(queue, 0);
    }

    /// A transmit queue wrote descriptors back.
    #[inline]
    pub fn tx_cause(&mut self, queue: u16) {
        self.queue_cause(queue, 8);
    }

    /// IVAR n holds RX of queue 2n, TX of 2n, RX of 2n+1, TX of 2n+1.
    #[inline]
    fn queue_cause(&mut self, queue: u16, tx: u32) {
        let Some(register) = self.ivar.get(usize::from(queue / 2)) else {
            return;
        };
        let entry = register >> (u32::from(queue % 2) * 16 + tx) & 0xff;
        if entry & ivar::VALID != 0 {
            self.set_queues(1 << (entry & ivar::VECTOR));
        }
    }

    fn set_queues(&mut self, causes: u64) {
        let fresh = causes & !self.queues;
        self.queues |= causes;
        self.request |= if self.multiple() {
            fresh
        } else {
            u64::from(fresh != 0)
        };
    }

    /// One of the other causes: link, missed packets, PCI.
    pub fn other_cause(&mut self, cause: u32) {
        let cause = cause & OTHER;
        if cause & !self.other != 0 {
            self.other |= cause;
            self.request_other();
        }
    }

    fn request_other(&mut self) {
        if !self.multiple() {
            self.request |= 1;
        } else if let Some(v) = self.other_vector() {
            self.request |= 1 << v;
        }
    }

    fn other_vector(&self) -> Option<u32> {
        let entry = self.ivar_misc >> 8 & 0xff;
        (entry & ivar::VALID != 0).then_some(entry & ivar::VECTOR)
    }

    // Registers

    /// EICR without the side effects of reading it (EICS reads so).
    pub fn eicr(&self) -> u32 {
        let causes = (self.queues & 0xffff) as u32 | self.other;
        if self.other & self.other_mask != 0 {
            causes | eicr::OTHER
        } else {
            causes
        }
    }

    /// Reading EICR clears it; with GPIE.OCD only bits 29:16. Without GPIE.EIAME it masks what EIAM says.
    pub fn read_eicr(&mut self) -> u32 {
        let value = self.eicr();
        self.auto_mask_on_access();
        if self.gpie & gpie::OCD != 0 {
            self.other &= !0x3fff_0000;
        } else {
            self.queues &= !0xffff;
            self.other = 0;
        }
        self.drop_intx();
        value
    }

    /// Writing ones to EICR clears causes.
    pub fn write_eicr(&mut self, value: u32) {
        self.queues &= !u64::from(value & 0xffff);
        self.other &= !value;
        self.auto_mask_on_access();
        self.drop_intx();
    }

    fn auto_mask_on_access(&mut self) {
        if self.gpie & gpie::EIAME == 0 {
            self.mask(self.eiam);
        }
    }

    fn drop_intx(&mut self) {
        if self.causes_enabled() == 0 {
            self.intx_asserted = false;
        }
    }

    /// Software sets causes (EICS).
    pub fn write_eics(&mut self, value: u32) {
        self.set_queues(u64::from(value & 0xffff));
        self.other_cause(value);
    }

    pub fn write_eics_ex(&mut self, i: u32, value: u32) {
        self.set_queues(u64::from(value) << (32 * i));
    }

    /// EICS_EX reads the causes of 32 vectors.
    pub fn eics_ex(&self, i: u32) -> u32 {
        (self.queues >> (32 * i)) as u32
    }

    pub fn eims(&self) -> u32 {
        (self.queue_mask & 0xffff) as u32 | self.other_mask | self.mask_31
    }

    pub fn eims_ex(&self, i: u32) -> u32 {
        (self.queue_mask >> (32 * i)) as u32
    }

    /// Unmasking a cause that is already set tells it.
    pub fn write_eims(&mut self, value: u32) {
        self.mask_31 |= value & eicr::OTHER;
        self.unmask_queues(u64::from(value & 0xffff));
        let fresh = value & OTHER & !self.other_mask;
        self.other_mask |= fresh;
        if self.other & fresh != 0 {
            self.request_other();
        }
    }

    pub fn write_eims_ex(&mut self, i: u32, value: u32) {
        self.unmask_queues(u64::from(value) << (32 * i));
    }

    fn unmask_queues(&mut self, mask: u64) {
        let fresh = mask & !self.queue_mask;
        self.queue_mask |= fresh;
        let told = fresh & self.queues;
        self.request |= if self.multiple() {
            told
        } else {
            u64::from(told != 0)
        };
    }

    /// EIMC: masks.
    pub fn mask(&mut self, value: u32) {
        self.queue_mask &= !u64::from(value & 0xffff);
        self.other_mask &= !value;
        self.mask_31 &= !value;
    }

    pub fn mask_ex(&mut self, i: u32, value: u32) {
        self.queue_mask &= !(u64::from(value) << (32 * i));
    }

    pub fn eiac(&self) -> u32 {
        self.eiac
    }

    pub fn set_eiac(&mut self, value: u32) {
        self.eiac = value;
    }

    pub fn eiam(&self) -> u32 {
        self.eiam
    }

    /// EIAM's queue bits are those of EIAM_EX.
    pub fn set_eiam(&mut self, value: u32) {
        self.eiam = value;
        self.eiam_ex = self.eiam_ex & !0xffff | u64::from(value & 0xffff);
    }

    pub fn eiam_ex(&self, i: u32) -> u32 {
        (self.eiam_ex >> (32 * i)) as u32
    }

    pub fn set_eiam_ex(&mut self, i: u32, value: u32) {
        let shift = 32 * i;
        self.eiam_ex = self.eiam_ex & !(0xffff_ffff << shift) | u64::from(value) << shift;
        self.eiam = self.eiam & !0xffff | (self.eiam_ex & 0xffff) as u32;
    }

    pub fn set_ivar(&mut self, i: u32, value: u32) {
        if let Some(slot) = self.ivar.get_mut(i as usize) {
            *slot = value;
        }
    }

    pub fn set_ivar_misc(&mut self, value: u32) {
        self.ivar_misc = value;
    }

    pub fn set_gpie(&mut self, value: u32) {
        self.gpie = value;
    }

    /// A new throttle interval. Unless CNT_WDIS is set the running counter restarts from the write.
    pub fn set_eitr(&mut self, i: u32, value: u32, now: Instant) {
        let Some(slot) = self.eitr.get_mut(i as usize) else {
            return;
        };
        *slot = value;
        if value & eitr::CNT_WDIS == 0 {
            self.open_at[i as usize] = None;
        }
        if interval(value).is_zero() {
            self.open_at[i as usize] = Some(now);
        }
    }

    // Delivery

    /// Causes that are set and not masked, as EICR bits, with vectors above 15 folded into bit 15 (for "any" checks).
    fn causes_enabled(&self) -> u64 {
        self.queues & self.queue_mask | u64::from(self.other & self.other_mask) << 32
    }

    /// Whether a vector has an unmasked cause.
    fn wants(&self, v: u16) -> bool {
        if !self.multiple() {
            return self.causes_enabled() != 0;
        }
        (self.queues & self.queue_mask) >> v & 1 == 1
            || self.other & self.other_mask != 0 && self.other_vector() == Some(u32::from(v))
    }

    /// Sends what is requested, unmasked and not held back.
    #[inline]
    pub fn deliver(&mut self, now: Instant) -> bool {
        if self.request == 0 {
            return false;
        }
        self.deliver_requests(now)
    }

    fn deliver_requests(&mut self, now: Instant) -> bool {
        let mut sent = false;
        for v in bits(self.request) {
            if !self.wants(v) {
                // Masked or cleared since. Unmasking asks again.
                self.request &= !(1 << v);
                continue;
            }
            if self.open_at[usize::from(v)].is_some_and(|at| now < at) {
                continue;
            }
            self.request &= !(1 << v);
            self.fire(v, now);
            sent = true;
        }
        sent
    }

    fn fire(&mut self, v: u16, now: Instant) {
        let gap = interval(self.eitr[usize::from(v)]);
        self.open_at[usize::from(v)] = (!gap.is_zero()).then(|| now + gap);
        if !self.msix_enabled && self.lines.is_connected(Irq::Intx) && !self.lines.is_connected(Irq::Msix(v))
        {
            if !self.intx_asserted {
                self.intx_asserted = true;
                self.lines.signal(Irq::Intx);
            }
            return;
        }
        if self.msix_masked || !self.lines.signal(Irq::Msix(v)) {
            self.pending |= 1 << v;
        }
        if !self.multiple() {
            return;
        }
        // Vectors from 16 on have no EIAC bit: they always clear.
        let clears = v >= 16 || self.eiac >> v & 1 == 1;
        if clears {
            self.queues &= !(1 << v);
        }
        if self.gpie & gpie::EIAME != 0 && self.eiam_ex >> v & 1 == 1 {
            self.queue_mask &= !(1 << v);
        }
    }

    /// When an interrupt that is held back becomes due.
    pub fn next_due(&self) -> Option<Instant> {
        bits(self.request)
            .filter(|&v| self.wants(v))
            .filter_map(|v| self.open_at[usize::from(v)])
            .min()
    }
}

/// Minimum gap between two interrupts of a vector.
fn interval(value: u32) -> Duration {
    let units = (value & eitr::INTERVAL) >> eitr::INTERVAL_SHIFT;
    Duration::from_nanos(u64::from(units) * eitr::UNIT_NS)
}

fn bits(mut word: u64) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let n = word.trailing_zeros();
        word &= word - 1;
        Some(n as u16)
    })
}
