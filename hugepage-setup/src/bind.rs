//! Giving NICs to VFIO and back, by `driver_override` (Documentation/ABI/testing/sysfs-bus-pci): only the named device is
//! touched, other devices of the same id keep their driver.

use std::os::unix::fs::MetadataExt;

use crate::SetupError;
use crate::change::{Change, driver_override};
use crate::host::Host;
use crate::nics::{Nic, VFIO_PCI};

/// What to take, and how boldly.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// PCI addresses or interface names.
    pub devices: Vec<String>,
    /// Take also what carries the default route, and what is no NIC of ours.
    pub force: bool,
    /// User who may open the devices' VFIO groups afterwards.
    pub user: Option<String>,
}

/// The changes that give the devices to vfio-pci.
pub fn plan_bind(host: &Host, wish: &Wish) -> Result<Vec<Change>, SetupError> {
    let nics: Vec<Nic> = wish
        .devices
        .iter()
        .map(|name| Nic::find(host, name))
        .collect::<Result<_, _>>()?;
    let uid = wish.user.as_deref().map(|user| host.user_id(user)).transpose()?;
    let mut changes = Vec::new();
    if !host.exists(format!("sys/bus/pci/drivers/{VFIO_PCI}")) {
        changes.push(Change::Module {
            name: VFIO_PCI.into(),
        });
    }
    for nic in &nics {
        check(host, nic, &nics, wish.force)?;
        if nic.driver.as_deref() != Some(VFIO_PCI) && !changes.iter().any(|c| c.concerns(&nic.bdf)) {
            changes.push(Change::Driver {
                bdf: nic.bdf.clone(),
                from: nic.driver.clone(),
                to: Some(VFIO_PCI.into()),
                override_from: driver_override(host, &nic.bdf),
                override_to: VFIO_PCI.into(),
            });
        }
    }
    if let Some(uid) = uid {
        let mut groups: Vec<u32> = nics.iter().filter_map(|nic| nic.iommu_group).collect();
        groups.dedup();
        changes.extend(groups.into_iter().map(|group| Change::GroupOwner {
            group,
            from: owner(host, group),
            to: uid,
        }));
    }
    Ok(changes)
}

fn check(host: &Host, nic: &Nic, taken: &[Nic], force: bool) -> Result<(), SetupError> {
    let bdf = nic.bdf.clone();
    if nic.family.is_none() && !force {
        return Err(SetupError::NotOurs {
            bdf,
            vendor: nic.vendor,
            device: nic.device,
        });
    }
    if let Some(interface) = nic.interfaces.iter().find(|i| i.default_route && !force) {
        return Err(SetupError::DefaultRoute {
            bdf,
            interface: interface.name.clone(),
        });
    }
    let Some(group) = nic.iommu_group else {
        return Err(SetupError::NoIommu { bdf });
    };
    let mut others = nic.group_others(host);
    others.retain(|other| taken.iter().all(|t| t.bdf != other.bdf));
    if !others.is_empty() {
        let list = |f: fn(&Nic) -> String| others.iter().map(f).collect::<Vec<_>>();
        let named = list(|o| format!("{} ({})", o.bdf, o.driver_name())).join(", ");
        let addresses = list(|o| o.bdf.clone()).join(" ");
        return Err(SetupError::SharedGroup {
            bdf,
            group,
            others: named,
            addresses,
        });
    }
    Ok(())
}

/// Who owns a group's file: root, unless it is there already and says otherwise.
fn owner(host: &Host, group: u32) -> u32 {
    std::fs::metadata(host.path(format!("dev/vfio/{group}"))).map_or(0, |meta| meta.uid())
}

/// The changes that give the devices back to `driver`: by default the one they had before, or else their family's.
pub fn plan_unbind(
    host: &Host,
    devices: &[String],
    driver: Option<&str>,
    earlier: &[Change],
) -> Result<Vec<Change>, SetupError> {
    let mut changes: Vec<Change> = Vec::new();
    for name in devices {
        let nic = Nic::find(host, name)?;
        if nic.driver.as_deref().is_some_and(|d| d != VFIO_PCI) {
            return Err(SetupError::NotWithVfio {
                driver: nic.driver_name().to_owned(),
                bdf: nic.bdf,
            });
        }
        if changes.iter().any(|c| c.concerns(&nic.bdf)) {
            continue;
        }
        let before = earlier.iter().find_map(|change| match change {
            Change::Driver { bdf, from, .. } if *bdf == nic.bdf => from.as_deref(),
            _ => None,
        });
        let Some(to) = driver.or(before).or(nic.family) else {
            return Err(SetupError::WhichDriver { bdf: nic.bdf });
        };
        let module = Change::Module { name: to.to_owned() };
        if !host.exists(format!("sys/bus/pci/drivers/{to}")) && !changes.contains(&module) {
            changes.push(module);
        }
        changes.push(Change::Driver {
            override_from: driver_override(host, &nic.bdf),
            override_to: String::new(),
            from: nic.driver,
            to: Some(to.to_owned()),
            bdf: nic.bdf,
        });
    }
    Ok(changes)
}
