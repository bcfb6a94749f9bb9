//! The host's NICs of the three families, and who drives them.

use millrace_nic_models::family;
use serde::Serialize;

use crate::SetupError;
use crate::host::Host;
use crate::routes::default_route_interfaces;

/// The driver that hands a device to user space.
pub const VFIO_PCI: &str = "vfio-pci";

const DEVICES: &str = "sys/bus/pci/devices";

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// PCI address, complete.
    pub bdf: String,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// Family that drives it; `None` if it is no NIC of ours.
    pub family: Option<&'static str>,
    /// Marketing name, when known.
    pub name: Option<&'static str>,
    /// False for ids that Millrace drives only with `--untested`.
    pub judged: bool,
    /// Kernel driver that has it now.
    pub driver: Option<String>,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// NUMA node, when the host tells.
    pub numa_node: Option<u32>,
    /// Its network interfaces in this network namespace.
    pub interfaces: Vec<Interface>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `up`, `down`, ... as the kernel says (operstate).
    pub state: String,
    /// The default route goes through it.
    pub default_route: bool,
}

impl Nic {
    /// Looks at the device at `bdf`.
    pub fn read(host: &Host, bdf: &str) -> Option<Nic> {
        let dir = format!("{DEVICES}/{bdf}");
        let (vendor, device) = (
            host.hex(format!("{dir}/vendor"))?,
            host.hex(format!("{dir}/device"))?,
        );
        let known = family::lookup(vendor, device);
        let default = default_route_interfaces(host);
        let interface = |name: String| Interface {
            state: host
                .text(format!("{dir}/net/{name}/operstate"))
                .unwrap_or_else(|| "unknown".into()),
            default_route: default.contains(&name),
            name,
        };
        Some(Nic {
            bdf: bdf.to_owned(),
            vendor,
            device,
            family: known.map(|k| k.family.name()),
            name: known.map(|k| k.name),
            judged: known.is_some_and(|k| k.judged),
            driver: host.link(format!("{dir}/driver")),
            iommu_group: host
                .link(format!("{dir}/iommu_group"))
                .and_then(|g| g.parse().ok()),
            // -1 on hosts with one node.
            numa_node: host.number(format!("{dir}/numa_node")),
            interfaces: host
                .names(format!("{dir}/net"))
                .into_iter()
                .map(interface)
                .collect(),
        })
    }

    /// The device that a user calls `name`: a PCI address, with or without domain, or an interface.
    pub fn find(host: &Host, name: &str) -> Result<Nic, SetupError> {
        let by_interface = || {
            let target = std::fs::canonicalize(host.path(format!("sys/class/net/{name}/device"))).ok()?;
            target.file_name()?.to_str().map(str::to_owned)
        };
        let bdf = match address(name) {
            Some(bdf) => bdf,
            // An interface's name has neither slash nor colon; what has colons was meant to be an address.
            None if name.contains(':') => return Err(SetupError::BadAddress(name.to_owned())),
            None if name.is_empty() || name.contains('/') || name.starts_with('.') => {
                return Err(SetupError::NoSuchDevice(name.to_owned()));
            }
            None => by_interface().ok_or_else(|| SetupError::NoSuchDevice(name.to_owned()))?,
        };
        Nic::read(host, &bdf).ok_or(SetupError::NoSuchDevice(bdf))
    }

    /// The other devices of its IOMMU group that a kernel driver has and that are no bridges.
    pub fn group_others(&self, host: &Host) -> Vec<Nic> {
        let Some(group) = self.iommu_group else {
            return Vec::new();
        };
        let members = host.names(format!("sys/kernel/iommu_groups/{group}/devices"));
        let others = members
            .iter()
            .filter(|bdf| **bdf != self.bdf)
            .filter_map(|bdf| Nic::read(host, bdf));
        others
            .filter(|nic| match nic.driver.as_deref() {
                None | Some(VFIO_PCI | "pci-stub" | "pcieport" | "shpchp") => false,
                Some(_) => true,
            })
            .collect()
    }

    /// Driver for people: its name, or that there is none.
    pub fn driver_name(&self) -> &str {
        self.driver.as_deref().unwrap_or("no driver")
    }
}

/// The host's NICs of the three families, by address.
pub fn list(host: &Host) -> Vec<Nic> {
    let all = host
        .names(DEVICES)
        .into_iter()
        .filter_map(|bdf| Nic::read(host, &bdf));
    all.filter(|nic| nic.family.is_some()).collect()
}

/// A complete PCI address in lower case, from one with or without its domain.
pub fn address(text: &str) -> Option<String> {
    let full = if text.matches(':').count() == 1 {
        format!("0000:{text}")
    } else {
        text.to_owned()
    };
    let full = full.to_ascii_lowercase();
    let shape = b"hhhh:hh:hh.o";
    let fits = full.len() == shape.len()
        && full.bytes().zip(shape).all(|(c, s)| match s {
            b'h' => c.is_ascii_hexdigit(),
            b'o' => (b'0'..=b'7').contains(&c),
            s => c == *s,
        });
    fits.then_some(full)
}
