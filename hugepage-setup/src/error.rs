//! What can go wrong, each with what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the set-up. One line.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not root.
    #[error("no permission to change {path}: run `sudo millrace-setup ...`", path = path.display())]
    Permission {
        /// What should have been changed.
        path: PathBuf,
    },
    /// A file of the system could not be read or written.
    #[error("cannot {what} {path}: {source}; `millrace-setup status` shows how things stand", path = path.display())]
    System {
        /// `read`, `write`, ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Output could not be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// Not a PCI address.
    #[error("`{0}` is no PCI address: write it like 0000:17:00.0, as `millrace-setup status` shows it")]
    BadAddress(String),
    /// Neither PCI address nor interface.
    #[error(
        "there is no PCI device and no network interface `{0}`: `millrace-setup status` lists the NICs of this host"
    )]
    NoSuchDevice(String),
    /// Not a NIC that Millrace drives.
    #[error(
        "{bdf} ({vendor:04x}:{device:04x}) is no NIC that Millrace drives: `millrace-setup status` lists those; --force binds it all the same"
    )]
    NotOurs {
        /// PCI address.
        bdf: String,
        /// PCI vendor id.
        vendor: u16,
        /// PCI device id.
        device: u16,
    },
    /// The interface that carries the default route.
    #[error(
        "{bdf} is {interface}, which carries the default route: taking it may cut you off from this host; --force takes it all the same"
    )]
    DefaultRoute {
        /// PCI address.
        bdf: String,
        /// Name of the interface.
        interface: String,
    },
    /// No IOMMU.
    #[error(
        "{bdf} is in no IOMMU group: switch the IOMMU on (VT-d or AMD-Vi in the firmware, `intel_iommu=on` on the kernel command line) and reboot"
    )]
    NoIommu {
        /// PCI address.
        bdf: String,
    },
    /// Others in the IOMMU group.
    #[error(
        "{bdf} shares IOMMU group {group} with {others}: they can only be taken together, `millrace-setup bind {bdf} {addresses}`"
    )]
    SharedGroup {
        /// PCI address.
        bdf: String,
        /// IOMMU group.
        group: u32,
        /// The others, with their drivers.
        others: String,
        /// The others' addresses.
        addresses: String,
    },
    /// A driver is not there.
    #[error(
        "the kernel has no {driver} driver ({why}): install the package with the kernel's modules, or build it"
    )]
    NoDriver {
        /// Its name.
        driver: String,
        /// What was tried.
        why: String,
    },
    /// Nobody knows which driver a device had.
    #[error("which driver should have {bdf}? Its id says nothing: name it with --driver")]
    WhichDriver {
        /// PCI address.
        bdf: String,
    },
    /// After the change the device has another driver than it should.
    #[error(
        "{bdf} was to go to {wanted} but is with {now}: see `dmesg`; the old driver was restored where possible"
    )]
    NotBound {
        /// PCI address.
        bdf: String,
        /// The driver it should have.
        wanted: String,
        /// The driver it has.
        now: String,
    },
    /// Nothing to unbind.
    #[error("{bdf} is not with vfio-pci but with {driver}: nothing to give back")]
    NotWithVfio {
        /// PCI address.
        bdf: String,
        /// Its driver.
        driver: String,
    },
    /// Not an amount of memory.
    #[error("`{0}` is no amount of memory: write it like 512M or 2G")]
    BadAmount(String),
    /// The kernel does not know pages of that size.
    #[error("this kernel has no hugepages of {size_kib} KiB: it has {known}")]
    NoSuchPageSize {
        /// Size asked for.
        size_kib: u64,
        /// Sizes there are.
        known: String,
    },
    /// No such NUMA node.
    #[error("this host has no NUMA node {node}: it has {known}")]
    NoSuchNode {
        /// Node asked for.
        node: u32,
        /// Nodes there are.
        known: String,
    },
    /// The kernel found fewer contiguous pages than asked for.
    #[error(
        "node {node} gave {got} of {wanted} pages of {size_kib} KiB: its memory is taken or fragmented, and it has its old number again; ask for fewer, or reserve them at boot with `{boot}`"
    )]
    FewerPages {
        /// NUMA node.
        node: u32,
        /// Page size.
        size_kib: u64,
        /// Pages there are now.
        got: u64,
        /// Pages asked for.
        wanted: u64,
        /// Kernel command line that reserves them.
        boot: String,
    },
    /// No such user.
    #[error("there is no user `{0}` on this host: write a name from /etc/passwd or a number")]
    NoSuchUser(String),
    /// The record of earlier changes cannot be understood.
    #[error("{path} is damaged ({why}): nothing was undone; look at it, put things back by hand, and delete it", path = path.display())]
    Journal {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another millrace-setup is at work.
    #[error("another millrace-setup is making changes: wait until it is done")]
    Locked,
}

impl SetupError {
    pub(crate) fn system(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if what != "read" => {
                SetupError::Permission { path }
            }
            _ => SetupError::System { what, path, source },
        }
    }

    /// True if whoever read our output has gone.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, SetupError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}
