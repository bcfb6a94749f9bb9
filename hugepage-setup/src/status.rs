//! How the host stands. Looks only.

use std::io::{self, Write};

use serde::Serialize;

use crate::host::Host;
use crate::hugepages::{self, Pages};
use crate::journal::Journal;
use crate::nics::{self, Nic, VFIO_PCI};

/// What a port needs for its rings and buffers, as a rule of thumb for advice: 64 MiB.
const ENOUGH_KIB: u64 = 64 << 10;

/// The state of the host, as far as userspace drivers need it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// IOMMU.
    pub iommu: Iommu,
    /// VFIO.
    pub vfio: Vfio,
    /// Hugepages by node and size.
    pub hugepages: Vec<Pages>,
    /// Limit on locked memory.
    pub memlock: Memlock,
    /// NICs of the three families.
    pub nics: Vec<Nic>,
    /// Changes that `undo` would take back.
    pub changes_to_undo: usize,
    /// What to do next, if anything.
    pub advice: Vec<String>,
}

/// IOMMU.
#[derive(Clone, Debug, Serialize)]
pub struct Iommu {
    /// Devices are in groups, so it is on.
    pub enabled: bool,
    /// Its units, as the kernel names them (`dmar0`, `ivhd0`, ...).
    pub units: Vec<String>,
    /// Number of groups.
    pub groups: usize,
    /// What the kernel command line says about it.
    pub command_line: Vec<String>,
}

/// VFIO.
#[derive(Clone, Debug, Serialize)]
pub struct Vfio {
    /// The vfio-pci driver is there.
    pub vfio_pci: bool,
    /// /dev/vfio/vfio is there.
    pub container: bool,
    /// No-IOMMU mode is allowed, in which a device can overwrite any memory.
    pub unsafe_noiommu: bool,
}

/// RLIMIT_MEMLOCK of this process in bytes; `None` is unlimited.
#[derive(Clone, Debug, Serialize)]
pub struct Memlock {
    /// Soft limit.
    pub soft: Option<u64>,
    /// Hard limit.
    pub hard: Option<u64>,
}

impl Status {
    /// Looks at the host.
    pub fn read(host: &Host) -> Status {
        let groups = host.names("sys/kernel/iommu_groups").len();
        let command_line = host.text("proc/cmdline").unwrap_or_default();
        let about_iommu = |w: &&str| w.contains("iommu");
        let noiommu = host.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        let mut status = Status {
            iommu: Iommu {
                enabled: groups > 0,
                units: host.names("sys/class/iommu"),
                groups,
                command_line: command_line
                    .split_whitespace()
                    .filter(about_iommu)
                    .map(str::to_owned)
                    .collect(),
            },
            vfio: Vfio {
                vfio_pci: host.exists(format!("sys/bus/pci/drivers/{VFIO_PCI}")),
                container: host.exists("dev/vfio/vfio"),
                unsafe_noiommu: noiommu.is_some_and(|v| v == "Y" || v == "1"),
            },
            hugepages: hugepages::list(host),
            memlock: memlock(host),
            nics: nics::list(host),
            changes_to_undo: Journal::read(host).map_or(0, |j| j.changes().len()),
            advice: Vec::new(),
        };
        status.advice = status.advise(host);
        status
    }

    fn advise(&self, host: &Host) -> Vec<String> {
        let mut advice = Vec::new();
        if self.nics.is_empty() {
            advice.push(
                "no NIC of the three families here: use a model, e.g. --device model:ixgbe?wire=tap:mr0"
                    .into(),
            );
        } else if !self.iommu.enabled {
            advice.push(
                "the IOMMU is off: switch VT-d or AMD-Vi on in the firmware, put intel_iommu=on on the kernel command line \
                 (AMD needs none), and reboot"
                    .into(),
            );
        } else if let Some(nic) = self.nics.iter().find(|n| n.driver.as_deref() != Some(VFIO_PCI)) {
            let shared = nic.interfaces.iter().any(|i| i.default_route);
            let note = if shared {
                " (carries the default route: needs --force)"
            } else {
                ""
            };
            advice.push(format!(
                "give a NIC to VFIO: millrace-setup bind {}{note}",
                nic.bdf
            ));
        }
        if self.vfio.unsafe_noiommu {
            advice.push(
                "vfio's enable_unsafe_noiommu_mode is on: switch it off, Millrace does not use it".into(),
            );
        }
        let pages_kib: u64 = self.hugepages.iter().map(|p| p.total * p.size_kib).sum();
        if pages_kib < ENOUGH_KIB {
            advice.push("set hugepages aside: millrace-setup hugepages 512M (without, memory is on 4 KiB pages and slower)".into());
        }
        let bound = self.nics.iter().any(|n| n.driver.as_deref() == Some(VFIO_PCI));
        if bound && self.memlock.soft.is_some_and(|soft| soft < 1 << 30) {
            advice.push(
                "programs that are not root may pin too little memory for VFIO: `ulimit -l unlimited`, LimitMEMLOCK=infinity \
                 in a systemd unit, or `USER - memlock unlimited` in /etc/security/limits.d/millrace.conf"
                    .into(),
            );
        }
        if let Err(e) = Journal::read(host) {
            advice.push(e.to_string());
        }
        advice
    }

    /// Writes the state for people.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let on = |yes: bool| if yes { "yes" } else { "no" };
        let or_none = |list: &[String]| {
            if list.is_empty() {
                "none".to_owned()
            } else {
                list.join(" ")
            }
        };
        writeln!(
            out,
            "IOMMU      on: {}, groups: {}, units: {}, kernel command line: {}",
            on(self.iommu.enabled),
            self.iommu.groups,
            or_none(&self.iommu.units),
            or_none(&self.iommu.command_line)
        )?;
        writeln!(
            out,
            "VFIO       vfio-pci: {}, /dev/vfio/vfio: {}, unsafe no-IOMMU mode: {}",
            on(self.vfio.vfio_pci),
            on(self.vfio.container),
            on(self.vfio.unsafe_noiommu)
        )?;
        let limit =
            |l: Option<u64>| l.map_or_else(|| "unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
        writeln!(
            out,
            "memlock    soft: {}, hard: {}",
            limit(self.memlock.soft),
            limit(self.memlock.hard)
        )?;
        if self.hugepages.is_empty() {
            writeln!(out, "hugepages  none known to this kernel")?;
        }
        for p in &self.hugepages {
            let size = if p.size_kib >= 1 << 20 {
                format!("{} GiB", p.size_kib >> 20)
            } else {
                format!("{} MiB", p.size_kib >> 10)
            };
            writeln!(
                out,
                "hugepages  node {}: {} of {size}, {} free",
                p.node, p.total, p.free
            )?;
        }
        if self.nics.is_empty() {
            writeln!(out, "NICs       none of the three families")?;
        }
        for nic in &self.nics {
            let number = |n: Option<u32>| n.map_or_else(|| "-".into(), |n| n.to_string());
            write!(
                out,
                "NIC        {}  {:04x}:{:04x} {} ({}{})  driver: {}  group: {}  node: {}",
                nic.bdf,
                nic.vendor,
                nic.device,
                nic.name.unwrap_or("unknown"),
                nic.family.unwrap_or("unknown"),
                if nic.judged { "" } else { ", needs --untested" },
                nic.driver_name(),
                number(nic.iommu_group),
                number(nic.numa_node),
            )?;
            for i in &nic.interfaces {
                write!(
                    out,
                    "  {} {}{}",
                    i.name,
                    i.state,
                    if i.default_route { " (default route)" } else { "" }
                )?;
            }
            writeln!(out)?;
        }
        writeln!(out, "to undo    {}", self.changes_to_undo)?;
        self.advice
            .iter()
            .try_for_each(|line| writeln!(out, "next       {line}"))
    }
}

/// /proc/self/limits: `Max locked memory   SOFT   HARD   bytes`.
fn memlock(host: &Host) -> Memlock {
    let limits = host.text("proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max locked memory"))
        .unwrap_or("unlimited unlimited");
    let mut words = line.split_whitespace().map(|w| w.parse().ok());
    Memlock {
        soft: words.next().flatten(),
        hard: words.next().flatten(),
    }
}
