//! Interrupt lines as eventfds.

use std::os::fd::OwnedFd;

use super::Irq;

/// The eventfds behind a device's interrupts. A model keeps one and signals it.
#[derive(Debug, Default)]
pub struct IrqLines {
    intx: Option<OwnedFd>,
    err: Option<OwnedFd>,
    req: Option<OwnedFd>,
    msix: Vec<Option<OwnedFd>>,
    raised: u64,
    dropped: u64,
}

impl IrqLines {
    /// Lines for a device with that many MSI-X vectors; none connected.
    pub fn new(msix_vectors: u16) -> IrqLines {
        IrqLines {
            msix: (0..msix_vectors).map(|_| None).collect(),
            ..IrqLines::default()
        }
    }

    /// Connects or disconnects a line. A vector the device does not have is ignored.
    pub fn set(&mut self, irq: Irq, fd: Option<OwnedFd>) {
        if let Some(line) = self.line_mut(irq) {
            *line = fd;
        }
    }

    /// Whether an eventfd is connected.
    pub fn is_connected(&self, irq: Irq) -> bool {
        self.line(irq).is_some()
    }

    /// True if any MSI-X vector has an eventfd.
    pub fn any_msix(&self) -> bool {
        self.msix.iter().any(Option::is_some)
    }

    /// Raises an interrupt: adds one to its eventfd. Returns false, and counts it as dropped, when no
    /// eventfd is connected. Never blocks for long: an eventfd only blocks at 2^64-2 pending events,
    /// and the write is refused by the kernel if the client made it non-blocking.
    pub fn signal(&mut self, irq: Irq) -> bool {
        let sent = self
            .line(irq)
            .is_some_and(|fd| rustix::io::write(fd, &1u64.to_ne_bytes()) == Ok(8));
        if sent {
            self.raised += 1
        } else {
            self.dropped += 1
        }
        sent
    }

    /// Interrupts that reached an eventfd.
    pub fn raised(&self) -> u64 {
        self.raised
    }

    /// Interrupts raised while nothing was connected.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn line(&self, irq: Irq) -> Option<&OwnedFd> {
        match irq {
            Irq::Intx => self.intx.as_ref(),
            Irq::Err => self.err.as_ref(),
            Irq::Req => self.req.as_ref(),
            Irq::Msix(v) => self.msix.get(usize::from(v))?.as_ref(),
        }
    }

    fn line_mut(&mut self, irq: Irq) -> Option<&mut Option<OwnedFd>> {
        match irq {
            Irq::Intx => Some(&mut self.intx),
            Irq::Err => Some(&mut self.err),
            Irq::Req => Some(&mut self.req),
            Irq::Msix(v) => self.msix.get_mut(usize::from(v)),
        }
    }
}
