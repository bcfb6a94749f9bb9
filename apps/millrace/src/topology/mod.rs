//! Where threads run: which CPUs this process may use, which share a core, which NUMA node each is on.
//!
//! `cpus()` asks hwloc (feature `hwloc`, on by default) and falls back to the kernel's sysfs; `plan()` spreads workers
//! over them, one a physical core first, the NIC's own node first; `pin_current_thread()` moves the caller there.

#[cfg(feature = "hwloc")]
mod hwloc;
mod sysfs;

pub use sysfs::device_node;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One logical CPU that this process may run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// Same for all hardware threads of one physical core.
    pub core: u32,
    /// NUMA node, 0 where the machine has none.
    pub node: u32,
}

/// Why the machine's shape could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("cannot read {path}: {source}; is /sys mounted here?")]
    Read { path: String, source: std::io::Error },
    #[error("{path} says {text:?}, which is not a CPU list; is /sys the kernel's?")]
    Parse { path: String, text: String },
    #[error("cannot read this process's CPU affinity: {0}")]
    Affinity(std::io::Error),
    #[error("CPU {cpu} cannot be used: {source}; choose one of those in /proc/self/status Cpus_allowed_list")]
    Pin { cpu: u32, source: std::io::Error },
}

/// The CPUs in this process's affinity mask, in ascending order of id.
pub fn cpus() -> Result<Vec<Cpu>, TopologyError> {
    let allowed = sched_getaffinity(None).map_err(|e| TopologyError::Affinity(e.into()))?;
    let mut cpus = all_cpus()?;
    cpus.retain(|cpu| (cpu.id as usize) < CpuSet::MAX_CPU && allowed.is_set(cpu.id as usize));
    cpus.sort_unstable_by_key(|cpu| cpu.id);
    Ok(cpus)
}

fn all_cpus() -> Result<Vec<Cpu>, TopologyError> {
    #[cfg(feature = "hwloc")]
    if let Some(cpus) = hwloc::cpus() {
        return Ok(cpus);
    }
    sysfs::cpus(std::path::Path::new("/sys"))
}

/// Chooses a CPU for each of `workers` threads: first one thread of each core on `node`, then cores of other nodes,
/// then the sibling threads in the same order. Workers beyond the number of CPUs get `None` and are left to the scheduler.
pub fn plan(cpus: &[Cpu], workers: usize, node: Option<u32>) -> Vec<Option<u32>> {
    let mut seen = Vec::new();
    let mut ranked: Vec<(bool, bool, u32)> = cpus
        .iter()
        .map(|cpu| {
            let sibling = seen.contains(&(cpu.node, cpu.core));
            seen.push((cpu.node, cpu.core));
            (sibling, node.is_some_and(|n| n != cpu.node), cpu.id)
        })
        .collect();
    ranked.sort_unstable();
    let mut ids = ranked.into_iter().map(|(_, _, id)| id);
    (0..workers).map(|_| ids.next()).collect()
}

/// Binds the calling thread to one CPU.
pub fn pin_current_thread(cpu: u32) -> Result<(), TopologyError> {
    let fail = |source| TopologyError::Pin { cpu, source };
    if cpu as usize >= CpuSet::MAX_CPU {
        return Err(fail(std::io::Error::from(std::io::ErrorKind::InvalidInput)));
    }
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).map_err(|e| fail(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(id: u32, core: u32, node: u32) -> Cpu {
        Cpu { id, core, node }
    }

    #[test]
    fn workers_get_one_core_each_before_any_core_gets_two() {
        // Two nodes of two cores of two threads, numbered as Linux does on such a box.
        let cpus: Vec<Cpu> = (0..8).map(|i| cpu(i, i % 4, (i % 4) / 2)).collect();
        let chosen = plan(&cpus, 5, Some(1));
        assert_eq!(chosen, [Some(2), Some(3), Some(0), Some(1), Some(6)]);
    }

    #[test]
    fn more_workers_than_cpus_are_left_to_the_scheduler() {
        let cpus = [cpu(0, 0, 0), cpu(1, 1, 0)];
        assert_eq!(plan(&cpus, 3, None), [Some(0), Some(1), None]);
    }

    #[test]
    fn this_machine_has_at_least_one_cpu_and_a_thread_can_be_pinned_to_it() {
        let cpus = cpus().expect("topology");
        assert!(!cpus.is_empty());
        let id = cpus[0].id;
        std::thread::spawn(move || {
            pin_current_thread(id).expect("pin");
            assert_eq!(rustix::thread::sched_getcpu(), id as usize);
        })
        .join()
        .expect("pinned thread");
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn hwloc_and_sysfs_agree_about_the_cpus() {
        let mut from_hwloc = hwloc::cpus().expect("hwloc");
        from_hwloc.sort_unstable_by_key(|cpu| cpu.id);
        let from_sysfs = sysfs::cpus(std::path::Path::new("/sys")).expect("sysfs");
        let ids = |cpus: &[Cpu]| cpus.iter().map(|c| (c.id, c.node)).collect::<Vec<_>>();
        assert_eq!(ids(&from_hwloc), ids(&from_sysfs));
    }

    #[test]
    fn a_cpu_number_beyond_the_kernels_set_is_an_error_not_a_panic() {
        assert!(matches!(
            pin_current_thread(1 << 20),
            Err(TopologyError::Pin { .. })
        ));
    }
}
