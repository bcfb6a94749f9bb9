//! What can go wrong with a port, and what to do about it.

use std::time::Duration;

use crate::bus::BusError;
use crate::mem::MemError;

/// An error of a port. Each message says what was wrong and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A named step of bring-up, of a queue's life cycle or of shutdown failed on a register access or wait.
    #[error("{device}: step `{step}` failed: {source}")]
    Step {
        /// Device string.
        device: String,
        /// Name of the step.
        step: &'static str,
        /// What the register did. [`BusError::Timeout`] names it, the value seen and the time waited.
        source: BusError,
    },
    /// A device access outside any step failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Rings or buffers could not be allocated.
    #[error(transparent)]
    Mem(#[from] MemError),
    /// The PCI ids belong to no family this driver knows.
    #[error(
        "{device} is {vendor:04x}:{id:04x}, which this driver does not know: give it an 82599 (8086:10fb)"
    )]
    UnknownDevice {
        /// Device string.
        device: String,
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        id: u16,
    },
    /// A known device that nobody has seen this driver work on.
    #[error(
        "{device} is {vendor:04x}:{id:04x} ({name}), on which this driver was never seen working: allow it with --untested"
    )]
    Untested {
        /// Device string.
        device: String,
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        id: u16,
        /// Marketing name.
        name: &'static str,
    },
    /// A known device whose family has no driver here yet.
    #[error("{device} is {name}, whose family {family} has no driver yet: give it an 82599 (8086:10fb)")]
    NoDriver {
        /// Device string.
        device: String,
        /// Marketing name.
        name: &'static str,
        /// Family name.
        family: &'static str,
    },
    /// The configuration asks for something that the device does not have.
    #[error("{what} = {value} is not possible on {family}: {allowed}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What it was.
        value: u64,
        /// The family.
        family: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A register or EEPROM word holds something that cannot be right.
    #[error("{device}: step `{step}`: {what} is {value:#x}: {hint}")]
    BadValue {
        /// Device string.
        device: String,
        /// Name of the step.
        step: &'static str,
        /// The register or word.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What to do.
        hint: &'static str,
    },
    /// Somebody else (firmware, the other port) holds a hardware semaphore.
    #[error(
        "{device}: {what} is held by firmware or another driver after {waited:?}: reset the device and try again"
    )]
    Semaphore {
        /// Device string.
        device: String,
        /// Which semaphore.
        what: &'static str,
        /// Time waited.
        waited: Duration,
    },
    /// No such queue.
    #[error("queue {queue} does not exist: the port was opened with {queues} queues")]
    NoSuchQueue {
        /// The queue asked for.
        queue: u16,
        /// Queues of the port.
        queues: u16,
    },
    /// The queue is in another state than the call needs.
    #[error("queue {queue} is {state}: {hint}")]
    QueueState {
        /// The queue.
        queue: u16,
        /// Its state.
        state: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A queue half that was not taken from this port.
    #[error("queue {queue} belongs to another port: give it back where it was taken")]
    ForeignQueue {
        /// Its number.
        queue: u16,
    },
    /// A filter table has no room.
    #[error("no room for another {what} ({limit} fit): remove one, or use promiscuous mode")]
    TableFull {
        /// Which table.
        what: &'static str,
        /// Its size.
        limit: usize,
    },
    /// Interrupts were not asked for, or the device has too few vectors.
    #[error(
        "{device} has {have} MSI-X vectors, {need} are needed: open it with fewer queues or without interrupts"
    )]
    Vectors {
        /// Device string.
        device: String,
        /// Vectors there are.
        have: u32,
        /// Vectors needed.
        need: u32,
    },
    /// A system call on an eventfd failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The port was closed or its device is gone.
    #[error("{device} is closed: open the port again")]
    Closed {
        /// Device string.
        device: String,
    },
}

impl PortError {
    /// True for errors after which the device will not come back by itself.
    pub fn is_gone(&self) -> bool {
        match self {
            PortError::Bus(e) | PortError::Step { source: e, .. } => e.is_gone(),
            PortError::Closed { .. } => true,
            _ => false,
        }
    }
}
