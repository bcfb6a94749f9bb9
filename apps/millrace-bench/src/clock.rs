//! CPU time of this thread, and how many core cycles pass in it.
//!
//! There is no performance counter to ask on most virtual machines. A cycle here is CPU time multiplied by the core's
//! frequency, and the frequency is measured beside every case with a chain of operations, each of which needs the one
//! before it: a multiplication (three cycles on every x86-64 core since 2008) and an exclusive or (one cycle).

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::sync::OnceLock;

/// Latency of one link of the chain in cycles. The two operations alternate so that no compiler can merge links.
const LINK_CYCLES: u64 = 4;
const CHAIN: u64 = 400_000;

/// CPU time that this thread has used, in nanoseconds.
#[inline]
pub fn cpu_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Wall-clock nanoseconds since some moment. The kernel answers without a system call on most machines, so a short
/// section can be timed; one during which this thread did not run stands out and has to be left out.
#[inline]
pub fn wall_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What a pair of [`wall_nanos`] costs by itself: the average of the many that were not interrupted.
pub fn wall_reading_cost() -> f64 {
    let mut costs: Vec<u64> = (0..20_000)
        .map(|_| (wall_nanos(), wall_nanos()))
        .map(|(a, b)| b - a)
        .collect();
    costs.sort_unstable();
    costs.truncate(costs.len() * 9 / 10);
    costs.iter().sum::<u64>() as f64 / costs.len().max(1) as f64
}

/// What a pair of [`cpu_nanos`] costs by itself.
pub fn reading_cost() -> u64 {
    (0..2000)
        .map(|_| (cpu_nanos(), cpu_nanos()))
        .map(|(a, b)| b - a)
        .min()
        .unwrap_or(0)
}

/// Core cycles per nanosecond of CPU time, now: the best of a few short runs, since anything else only slows them.
pub fn gigahertz() -> f64 {
    let run = || {
        let (mut x, factor) = (black_box(3u64), black_box(0x9e37_79b9_7f4a_7c15u64));
        let start = cpu_nanos();
        for _ in 0..CHAIN / 8 {
            for _ in 0..8 {
                x = x.wrapping_mul(factor) ^ factor;
            }
        }
        black_box(x);
        (CHAIN * LINK_CYCLES) as f64 / (cpu_nanos() - start).max(1) as f64
    };
    (0..5).map(|_| run()).fold(0.0, f64::max)
}

/// Bytes of this CPU's data or unified cache of a level, as sysfs tells; a usual size where it does not.
pub fn cache_bytes(level: u32) -> usize {
    let cpu = format!("/sys/devices/system/cpu/cpu{}/cache", sched_getcpu());
    let read = |index: u32, name: &str| std::fs::read_to_string(format!("{cpu}/index{index}/{name}")).ok();
    let size = (0..8).find_map(|index| {
        let of_level = read(index, "level")?.trim().parse() == Ok(level);
        if !of_level || read(index, "type")?.trim() == "Instruction" {
            return None;
        }
        let kib: usize = read(index, "size")?.trim().strip_suffix('K')?.parse().ok()?;
        Some(kib << 10)
    });
    size.unwrap_or(match level {
        1 => 32 << 10,
        2 => 1 << 20,
        _ => 32 << 20,
    })
}

/// The CPU that this thread is on.
pub fn this_cpu() -> usize {
    sched_getcpu()
}

/// Processors that this process could use when it was first asked, before any thread was kept on one.
pub fn cpus() -> usize {
    static CPUS: OnceLock<usize> = OnceLock::new();
    *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// The CPUs that this process might use when it was first asked, before any thread was kept on one.
pub fn allowed_cpus() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let Ok(allowed) = sched_getaffinity(None) else {
            return Vec::new();
        };
        (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
    })
}

/// A CPU for a thread that works beside the one on `here`: not its sibling on the same core if that can be helped, and
/// behind the same L3 cache if there is one such. `None` if `here` is all that this process may use.
pub fn other_cpu(here: usize) -> Option<usize> {
    let list = |file: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{here}/{file}");
        cpu_list(&std::fs::read_to_string(path).unwrap_or_default())
    };
    other_of(
        here,
        allowed_cpus(),
        &list("topology/thread_siblings_list"),
        &list("cache/index3/shared_cpu_list"),
    )
}

fn other_of(here: usize, allowed: &[usize], siblings: &[usize], near: &[usize]) -> Option<usize> {
    let others = allowed.iter().copied().filter(|cpu| *cpu != here);
    // Of equal ones the first behind `here`, counted round: the lowest CPUs have the machine's own work.
    others.min_by_key(|cpu| (siblings.contains(cpu), !near.contains(cpu), *cpu < here, *cpu))
}

/// A list of CPUs as sysfs writes it: `0-3,8`.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// Keeps this thread on one CPU; false where the system refuses.
pub fn stay_on_cpu(cpu: usize) -> bool {
    // Asked before it is narrowed down.
    allowed_cpus();
    if cpu >= CpuSet::MAX_CPU {
        return false;
    }
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).is_ok()
}

/// Keeps this thread on the `n`th of the CPUs that it may use, counted round. Where the system refuses, it stays where it is.
pub fn stay_on_nth_cpu(n: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let Some(cpu) = cpus.get(n % cpus.len().max(1)) {
        stay_on_cpu(*cpu);
    }
}

/// Keeps this thread on the CPU it is on, so that its caches stay warm. Where the system refuses, numbers are noisier and
/// nothing else.
pub fn stay_on_this_cpu() {
    stay_on_cpu(sched_getcpu());
}

/// What else the machine was doing: a note for a report.
pub fn load() -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = averages.split_whitespace().next().unwrap_or("?");
    format!(
        "load average of the last minute: {minute} on {} processors; above about 1 other work disturbs the times, never the \
         instructions",
        cpus()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_thread_gets_a_core_of_its_own_near_by_if_there_is_one() {
        let all: Vec<usize> = (0..8).collect();
        // CPUs 0 to 3 and 4 to 7 are two sockets of two cores; 0 and 2 share a core.
        assert_eq!(other_of(0, &all, &[0, 2], &[0, 1, 2, 3]), Some(1));
        assert_eq!(other_of(1, &all, &[1, 3], &[0, 1, 2, 3]), Some(2));
        assert_eq!(
            other_of(0, &[0, 2, 5], &[0, 2], &[0, 1, 2, 3]),
            Some(5),
            "far, but a core"
        );
        assert_eq!(
            other_of(0, &[0, 2], &[0, 2], &[0, 1, 2, 3]),
            Some(2),
            "better than none"
        );
        assert_eq!(other_of(1, &[0, 1], &[], &[]), Some(0), "sysfs says nothing");
        assert_eq!(other_of(3, &[3], &[3], &[3]), None);
        assert_eq!(other_of(3, &[], &[], &[]), None);
    }

    #[test]
    fn lists_of_processors_are_read_as_sysfs_writes_them() {
        assert_eq!(cpu_list("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(cpu_list("5\n"), [5]);
        assert_eq!(cpu_list(""), Vec::<usize>::new());
    }
}
