//! Time and chance.

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

use crate::interp::Core;

/// Ticks of `bpf_jiffies64` a second: a common `CONFIG_HZ`.
const HZ: u64 = 250;

fn nanoseconds(core: &Core, clock: ClockId) -> u64 {
    if let Some(fixed) = core.fixed_clock {
        return fixed;
    }
    in_nanoseconds(clock_gettime(clock))
}

fn in_nanoseconds(now: Timespec) -> u64 {
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

pub(super) fn monotonic(core: &Core) -> u64 {
    nanoseconds(core, ClockId::Monotonic)
}

/// As of the last tick: it costs no look at the processor's counter.
pub(super) fn coarse(core: &Core) -> u64 {
    nanoseconds(core, ClockId::MonotonicCoarse)
}

pub(super) fn boottime(core: &Core) -> u64 {
    nanoseconds(core, ClockId::Boottime)
}

pub(super) fn tai(core: &Core) -> u64 {
    match (core.fixed_clock, clock_gettime_dynamic(DynamicClockId::Tai)) {
        (Some(fixed), _) => fixed,
        (None, Ok(now)) => in_nanoseconds(now),
        (None, Err(_)) => nanoseconds(core, ClockId::Realtime),
    }
}

pub(super) fn jiffies(core: &Core) -> u64 {
    coarse(core) / (1_000_000_000 / HZ)
}

/// What the clock helpers return, by number; they cannot fail.
pub(crate) fn now(id: i32, core: &Core) -> u64 {
    match id {
        118 => jiffies(core),
        125 => boottime(core),
        160 => coarse(core),
        208 => tai(core),
        _ => monotonic(core),
    }
}

/// Of xorshift64*.
pub(crate) const RANDOM_FACTOR: u64 = 0x2545_f491_4f6c_dd1d;

/// xorshift64*: fast, and as unpredictable as `bpf_get_prandom_u32` promises to be.
pub(super) fn random(core: &mut Core) -> u32 {
    let mut x = core.random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    core.random = x;
    (x.wrapping_mul(RANDOM_FACTOR) >> 32) as u32
}
