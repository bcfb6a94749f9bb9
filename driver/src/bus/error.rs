//! What can go wrong on the way to a device, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::mem::MemError;

/// An error of the device bus. Each message says what was wrong and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The device string does not name a device.
    #[error(
        "device string `{spec}`: {reason}; write vfio:0000:17:00.0, vfio-user:/run/nic.sock or model:ixgbe?wire=tap:mr0"
    )]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `model:` in a program built without the models.
    #[error(
        "`{spec}` needs the device models, which this program was built without: build millrace-driver with feature `models`, or start `nic-model` and use vfio-user:PATH"
    )]
    NoModels {
        /// The device string.
        spec: String,
    },
    /// The model in a `model:` string could not be made.
    #[error("`{spec}`: {reason}")]
    Model {
        /// The device string.
        spec: String,
        /// Why not.
        reason: String,
    },
    /// There is no PCI device at this address.
    #[error("no PCI device {bdf}: `millrace-setup status` lists the NICs of this host")]
    NoSuchDevice {
        /// PCI address.
        bdf: String,
    },
    /// The host has no IOMMU, or it is off.
    #[error(
        "{bdf} is in no IOMMU group: switch the IOMMU on (VT-d or AMD-Vi in the firmware, `intel_iommu=on` on the kernel command line) and see `millrace-setup status`"
    )]
    NoIommu {
        /// PCI address.
        bdf: String,
    },
    /// Group in no-IOMMU mode, which lets the device write anywhere.
    #[error(
        "{bdf} is in a no-IOMMU group, where the device can overwrite any memory of the host: switch the IOMMU on (VT-d or AMD-Vi in the firmware, `intel_iommu=on` on the kernel command line)"
    )]
    NoIommuMode {
        /// PCI address.
        bdf: String,
    },
    /// VFIO is not there.
    #[error("/dev/vfio/vfio is missing: `modprobe vfio-pci`, or let `millrace-setup bind {bdf}` do it")]
    NoVfio {
        /// PCI address.
        bdf: String,
    },
    /// A kernel driver owns the device.
    #[error("{bdf} is driven by the kernel's {driver}: give it to VFIO with `millrace-setup bind {bdf}`")]
    KernelDriver {
        /// PCI address.
        bdf: String,
        /// Name of the kernel driver.
        driver: String,
    },
    /// No driver at all, so no VFIO group either.
    #[error("{bdf} is bound to no driver: give it to VFIO with `millrace-setup bind {bdf}`")]
    Unbound {
        /// PCI address.
        bdf: String,
    },
    /// Another device of the IOMMU group is still with a kernel driver.
    #[error(
        "IOMMU group {group} of {bdf} is not viable: {others} still belong to kernel drivers; bind them to vfio-pci too (`millrace-setup bind`)"
    )]
    GroupNotViable {
        /// PCI address.
        bdf: String,
        /// Number of the IOMMU group.
        group: u32,
        /// The devices in the way, with their drivers.
        others: String,
    },
    /// Not allowed to open a VFIO or socket file.
    #[error("no permission to open {path}: run as root, or `chown` the file to the user who runs this program (`millrace-setup bind --user`)", path = path.display())]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has the device.
    #[error("{device} is in use by another program: stop it first (`fuser {path}` names it)", path = path.display())]
    Busy {
        /// Device string.
        device: String,
        /// The file that is taken.
        path: PathBuf,
    },
    /// Nobody listens on the socket, or it is not there.
    #[error("cannot reach a vfio-user server at {path}: {source}; start one, e.g. `nic-model ixgbe --socket {path} --wire tap:mr0`", path = path.display())]
    Unreachable {
        /// Socket path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The limit on locked memory is too low for a DMA mapping.
    #[error(
        "the kernel refused to pin {need} bytes for DMA: the limit on locked memory is {limit} bytes; raise it with `ulimit -l unlimited`, or see `millrace-setup status`"
    )]
    MemLock {
        /// Bytes asked for.
        need: u64,
        /// RLIMIT_MEMLOCK, soft limit in bytes.
        limit: u64,
    },
    /// A DMA mapping or unmapping failed.
    #[error("{device}: cannot {what} {len:#x} bytes at IOVA {iova:#x}: {source}")]
    Dma {
        /// Device string.
        device: String,
        /// `map` or `unmap`.
        what: &'static str,
        /// I/O virtual address.
        iova: u64,
        /// Length in bytes.
        len: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// No room left below 2^39 outside the reserved ranges.
    #[error(
        "{device}: no {len:#x} bytes of I/O virtual addresses left below 2^39: use fewer or smaller buffers"
    )]
    IovaExhausted {
        /// Device string.
        device: String,
        /// Length asked for.
        len: u64,
    },
    /// The device has no such region.
    #[error("{device} has no region {index}")]
    NoRegion {
        /// Device string.
        device: String,
        /// Region index, VFIO numbering.
        index: u32,
    },
    /// Access beyond the end of a region, or not aligned.
    #[error("{device}: {len} bytes at {offset:#x} do not lie inside region {index} of {size:#x} bytes")]
    OutOfRange {
        /// Device string.
        device: String,
        /// Region index.
        index: u32,
        /// Offset of the access.
        offset: u64,
        /// Length of the access.
        len: u64,
        /// Size of the region.
        size: u64,
    },
    /// A register did not become what it should.
    #[error(
        "{device}: {register} is {seen:#010x} after {waited:?}, waited for {want:#x} under mask {mask:#x}: reset the device, and look at its registers if it stays so"
    )]
    Timeout {
        /// Device string.
        device: String,
        /// Name (with index) or offset of the register.
        register: String,
        /// Last value read.
        seen: u32,
        /// Bits looked at.
        mask: u32,
        /// Value wanted under the mask.
        want: u32,
        /// Time waited.
        waited: Duration,
    },
    /// The other side is gone.
    #[error("{device} is gone ({reason}): the port is down; start the device again and reopen it")]
    Gone {
        /// Device string.
        device: String,
        /// How it showed.
        reason: String,
    },
    /// The other side broke the protocol.
    #[error("{device} does not speak vfio-user as agreed: {what}")]
    Protocol {
        /// Device string.
        device: String,
        /// What it did.
        what: String,
    },
    /// The other side answered a request with an error.
    #[error("{device} refused {what}: {source}")]
    Refused {
        /// Device string.
        device: String,
        /// The request.
        what: String,
        /// Its errno.
        source: io::Error,
    },
    /// A system call on the device failed.
    #[error("{device}: {what}: {source}")]
    Io {
        /// Device string.
        device: String,
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// This device cannot do that.
    #[error("{device} does not support {what}")]
    Unsupported {
        /// Device string.
        device: String,
        /// What was asked.
        what: &'static str,
    },
    /// DMA memory.
    #[error(transparent)]
    Mem(#[from] MemError),
}

impl BusError {
    /// A failed system call on `device`.
    pub fn io(device: impl Into<String>, what: impl Into<String>, source: io::Error) -> Self {
        BusError::Io {
            device: device.into(),
            what: what.into(),
            source,
        }
    }

    /// True for errors after which the device will not come back by itself.
    pub fn is_gone(&self) -> bool {
        matches!(self, BusError::Gone { .. })
    }
}
