//! The machine's shape from sysfs (Documentation/ABI/stable/sysfs-devices-system-cpu and -node).

use super::{Cpu, TopologyError};
use std::collections::BTreeMap;
use std::path::Path;

/// All online CPUs below `root` (normally `/sys`).
pub(super) fn cpus(root: &Path) -> Result<Vec<Cpu>, TopologyError> {
    let base = root.join("devices/system");
    let online = read_list(&base.join("cpu/online"))?;
    let mut nodes = BTreeMap::new();
    // A kernel without NUMA has no node folder: everything is node 0.
    if let Ok(list) = read_list(&base.join("node/online")) {
        for node in list {
            for cpu in read_list(&base.join(format!("node/node{node}/cpulist")))? {
                nodes.insert(cpu, node);
            }
        }
    }
    let cpus = online.into_iter().map(|id| {
        // The lowest sibling names the core: core_id alone repeats in every package.
        let siblings = base.join(format!("cpu/cpu{id}/topology/thread_siblings_list"));
        let core = read_list(&siblings)
            .ok()
            .and_then(|list| list.first().copied())
            .unwrap_or(id);
        Cpu {
            id,
            core,
            node: nodes.get(&id).copied().unwrap_or(0),
        }
    });
    Ok(cpus.collect())
}

/// NUMA node of the PCI device that a device string names; `None` for models, sockets and machines without NUMA.
pub fn device_node(device: &str) -> Option<u32> {
    let bdf = device.strip_prefix("vfio:").unwrap_or(device);
    if bdf.contains(['/', '?']) || !bdf.contains(':') {
        return None;
    }
    let text = std::fs::read_to_string(format!("/sys/bus/pci/devices/{bdf}/numa_node")).ok()?;
    text.trim()
        .parse::<i64>()
        .ok()
        .and_then(|node| u32::try_from(node).ok())
}

fn read_list(path: &Path) -> Result<Vec<u32>, TopologyError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| TopologyError::Read {
        path: shown(),
        source,
    })?;
    parse_list(text.trim()).ok_or_else(|| TopologyError::Parse {
        path: shown(),
        text: text.trim().to_string(),
    })
}

/// The kernel's list format: `0-3,8,10-11`. Bounded, since a file decides how long the answer is.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    const MAX: u32 = 65_536;
    let mut ids = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MAX {
            return None;
        }
        ids.extend(first..=last);
    }
    Some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-2,5,8-9"), Some(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(parse_list(""), Some(vec![]));
        for bad in ["3-1", "x", "0-99999999", "-1"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_two_node_machine_with_hyperthreads_is_read_from_sysfs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let base = dir.path().join("devices/system");
        for cpu in 0..4 {
            let topology = base.join(format!("cpu/cpu{cpu}/topology"));
            fs::create_dir_all(&topology).expect("mkdir");
            fs::write(
                topology.join("thread_siblings_list"),
                format!("{},{}\n", cpu % 2, cpu % 2 + 2),
            )
            .expect("write");
        }
        fs::write(base.join("cpu/online"), "0-3\n").expect("write");
        for (node, list) in [(0, "0,2\n"), (1, "1,3\n")] {
            fs::create_dir_all(base.join(format!("node/node{node}"))).expect("mkdir");
            fs::write(base.join(format!("node/node{node}/cpulist")), list).expect("write");
        }
        fs::write(base.join("node/online"), "0-1\n").expect("write");
        let cpus = cpus(dir.path()).expect("cpus");
        let shape: Vec<_> = cpus.iter().map(|c| (c.id, c.core, c.node)).collect();
        assert_eq!(shape, [(0, 0, 0), (1, 1, 1), (2, 0, 0), (3, 1, 1)]);
    }

    #[test]
    fn models_and_sockets_have_no_numa_node() {
        for device in [
            "model:ixgbe?wire=null",
            "vfio-user:/run/x.sock",
            "vfio:ffff:ff:1f.7",
        ] {
            assert_eq!(device_node(device), None);
        }
    }
}
