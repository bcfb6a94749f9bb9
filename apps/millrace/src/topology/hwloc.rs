//! The only user of `hwloc2`. Version 2.2.0 panics on object types whose depth is negative (NUMANode, Bridge, PCIDevice,
//! OSDevice), so this asks for PUs only and takes cores and nodes from each PU's ancestors and node set.

use super::Cpu;
use hwloc2::{ObjectType, Topology};

/// All CPUs hwloc knows; `None` when it cannot load the topology (the caller then reads sysfs).
pub(super) fn cpus() -> Option<Vec<Cpu>> {
    let topology = Topology::new()?;
    let pus = topology.objects_with_type(&ObjectType::PU).ok()?;
    let cpus: Vec<Cpu> = pus
        .into_iter()
        .map(|pu| {
            let mut core = pu.logical_index();
            let mut up = pu.parent();
            while let Some(object) = up {
                if matches!(object.object_type(), ObjectType::Core) {
                    core = object.logical_index();
                    break;
                }
                up = object.parent();
            }
            // A machine without NUMA has a full (endless) node set; its first member is node 0.
            let node = pu.nodeset().and_then(|set| set.into_iter().next()).unwrap_or(0);
            Cpu {
                id: pu.os_index(),
                core,
                node,
            }
        })
        .collect();
    (!cpus.is_empty()).then_some(cpus)
}
