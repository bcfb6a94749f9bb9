//! `SET_IRQS`: which eventfd an interrupt goes to, and masking.
//!
//! A masked interrupt is pointed at an eventfd of our own; whatever collects there is passed on as one event
//! when it is unmasked. The model knows nothing of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use zerocopy::FromBytes;

use crate::device::{Irq, Model, REGION_CONFIG};
use crate::vfio_user::wire::{self, IrqInfo, SetIrqs};

/// Offset of the Interrupt Pin register in configuration space; 0 means the device has no INTx.
const INTERRUPT_PIN: u64 = 0x3d;

#[derive(Debug, Default)]
struct Line {
    client: Option<OwnedFd>,
    /// Collects events while masked.
    masked: Option<OwnedFd>,
}

/// The interrupt set-up of one client.
#[derive(Debug, Default)]
pub(super) struct IrqRoutes {
    lines: BTreeMap<(u32, u32), Line>,
}

/// Answers `GET_IRQ_INFO`.
pub(super) fn info(model: &mut dyn Model, index: u32) -> Result<IrqInfo, Errno> {
    let flags = match index {
        wire::IRQ_INTX => wire::IRQ_INFO_EVENTFD | wire::IRQ_INFO_MASKABLE | wire::IRQ_INFO_AUTOMASKED,
        wire::IRQ_MSI | wire::IRQ_MSIX => wire::IRQ_INFO_EVENTFD | wire::IRQ_INFO_NORESIZE,
        wire::IRQ_ERR | wire::IRQ_REQ => wire::IRQ_INFO_EVENTFD,
        _ => return Err(Errno::INVAL),
    };
    Ok(IrqInfo {
        argsz: size_of::<IrqInfo>() as u32,
        flags,
        index,
        count: count(model, index),
    })
}

fn count(model: &mut dyn Model, index: u32) -> u32 {
    match index {
        wire::IRQ_INTX => {
            let mut pin = [0];
            let read = model.read(REGION_CONFIG, INTERRUPT_PIN, &mut pin);
            u32::from(read.is_ok() && pin[0] != 0)
        }
        wire::IRQ_MSIX => u32::from(model.msix_vectors()),
        wire::IRQ_ERR | wire::IRQ_REQ => 1,
        _ => 0,
    }
}

fn irq(index: u32, sub: u32) -> Option<Irq> {
    match index {
        wire::IRQ_INTX => Some(Irq::Intx),
        wire::IRQ_MSIX => u16::try_from(sub).ok().map(Irq::Msix),
        wire::IRQ_ERR => Some(Irq::Err),
        wire::IRQ_REQ => Some(Irq::Req),
        _ => None,
    }
}

impl IrqRoutes {
    /// Carries out a `SET_IRQS` request. All of it is checked before any of it is done.
    pub(super) fn set(
        &mut self,
        model: &mut dyn Model,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Errno> {
        let (set, data) = SetIrqs::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        let end = set.start.checked_add(set.count).ok_or(Errno::INVAL)?;
        if end > count(model, set.index) {
            return Err(Errno::INVAL);
        }
        const DATA: u32 = wire::IRQ_SET_DATA_NONE | wire::IRQ_SET_DATA_BOOL | wire::IRQ_SET_DATA_EVENTFD;
        let action = set.flags & !DATA;
        let chosen = |i: u32| match set.flags & DATA {
            wire::IRQ_SET_DATA_BOOL => data.get(i as usize).is_some_and(|&b| b != 0),
            _ => true,
        };
        match set.flags & DATA {
            wire::IRQ_SET_DATA_BOOL if data.len() < set.count as usize => return Err(Errno::INVAL),
            wire::IRQ_SET_DATA_NONE | wire::IRQ_SET_DATA_BOOL if !fds.is_empty() => return Err(Errno::INVAL),
            wire::IRQ_SET_DATA_NONE | wire::IRQ_SET_DATA_BOOL => {}
            wire::IRQ_SET_DATA_EVENTFD if action == wire::IRQ_SET_ACTION_TRIGGER => {
                return self.connect(model, &set, fds);
            }
            wire::IRQ_SET_DATA_EVENTFD => return Err(Errno::NOTSUP),
            _ => return Err(Errno::INVAL),
        }
        let range = (set.start..end).filter(|sub| chosen(sub - set.start));
        match action {
            wire::IRQ_SET_ACTION_TRIGGER if set.count == 0 && set.flags & DATA == wire::IRQ_SET_DATA_NONE => {
                self.disconnect(model, Some(set.index));
            }
            wire::IRQ_SET_ACTION_TRIGGER => range.for_each(|sub| self.fire(set.index, sub)),
            wire::IRQ_SET_ACTION_MASK => {
                for sub in range {
                    self.mask(model, set.index, sub)?;
                }
            }
            wire::IRQ_SET_ACTION_UNMASK => {
                for sub in range {
                    self.unmask(model, set.index, sub)?;
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// Takes every interrupt of one kind, or all, away from the client.
    pub(super) fn disconnect(&mut self, model: &mut dyn Model, index: Option<u32>) {
        self.lines.retain(|&(i, sub), _| {
            let gone = index.is_none_or(|index| index == i);
            if gone && let Some(irq) = irq(i, sub) {
                model.set_irq(irq, None);
            }
            !gone
        });
    }

    /// One eventfd for each of the range, or none at all to disconnect the range.
    fn connect(&mut self, model: &mut dyn Model, set: &SetIrqs, fds: Vec<OwnedFd>) -> Result<(), Errno> {
        if fds.is_empty() {
            for sub in set.start..set.start + set.count {
                self.lines.remove(&(set.index, sub));
                if let Some(irq) = irq(set.index, sub) {
                    model.set_irq(irq, None);
                }
            }
            return Ok(());
        }
        if fds.len() != set.count as usize {
            return Err(Errno::INVAL);
        }
        let mut copies = Vec::with_capacity(fds.len());
        for fd in &fds {
            check_eventfd(fd)?;
            copies.push(fd.try_clone().map_err(|_| Errno::MFILE)?);
        }
        for ((sub, fd), copy) in (set.start..).zip(fds).zip(copies) {
            let Some(irq) = irq(set.index, sub) else { continue };
            let line = self.lines.entry((set.index, sub)).or_default();
            line.client = Some(fd);
            if line.masked.is_none() {
                model.set_irq(irq, Some(copy));
            }
        }
        Ok(())
    }

    /// Raises an interrupt on the client's behalf.
    fn fire(&self, index: u32, sub: u32) {
        if let Some(line) = self.lines.get(&(index, sub))
            && let Some(fd) = line.masked.as_ref().or(line.client.as_ref())
        {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    fn mask(&mut self, model: &mut dyn Model, index: u32, sub: u32) -> Result<(), Errno> {
        let Some(irq) = irq(index, sub) else { return Ok(()) };
        let line = self.lines.entry((index, sub)).or_default();
        if line.masked.is_none() {
            let collector = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            model.set_irq(irq, Some(collector.try_clone().map_err(|_| Errno::MFILE)?));
            line.masked = Some(collector);
        }
        Ok(())
    }

    fn unmask(&mut self, model: &mut dyn Model, index: u32, sub: u32) -> Result<(), Errno> {
        let (Some(irq), Some(line)) = (irq(index, sub), self.lines.get_mut(&(index, sub))) else {
            return Ok(());
        };
        let Some(collector) = line.masked.take() else {
            return Ok(());
        };
        let copy = match &line.client {
            Some(fd) => Some(fd.try_clone().map_err(|_| Errno::MFILE)?),
            None => None,
        };
        model.set_irq(irq, copy);
        if rustix::io::read(&collector, &mut [0u8; 8]) == Ok(8) {
            self.fire(index, sub);
        }
        Ok(())
    }
}

/// Refuses what is not an eventfd, and makes it non-blocking: a client that fills its counter must not stop us.
fn check_eventfd(fd: &OwnedFd) -> Result<(), Errno> {
    // An eventfd has no file type; files, pipes, sockets and devices all have one.
    if FileType::from_raw_mode(fstat(fd)?.st_mode) != FileType::Unknown {
        return Err(Errno::INVAL);
    }
    let flags = fcntl_getfl(fd)?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}
