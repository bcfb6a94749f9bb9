//! What `path` can measure.

use clap::ValueEnum;
use millrace_driver::simd::CpuPath;
use serde::Serialize;
use std::fmt;

/// What the driver does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Scenario {
    /// Receive, and drop what came with the next poll
    RxDrop,
    /// Receive, swap the MAC addresses, send
    Forward,
    /// Send frames that lie ready
    Tx,
    /// Receive, run a program on the JIT, sort by verdict, choose one of two TX queues by the NIC's hash, send
    Chain,
    /// The same by a whole worker of the framework, with its counters, captures to look for and second queue to poll
    Worker,
}

/// Where descriptors and frames are when the driver's turn begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum State {
    /// In this core's own caches
    #[serde(rename = "warm")]
    #[value(name = "warm")]
    Warm,
    /// In the shared cache, as a NIC leaves them; what the driver keeps for itself is in this core's own
    #[serde(rename = "L3")]
    #[value(name = "L3", alias = "l3")]
    L3,
    /// Pushed out of every cache
    #[serde(rename = "cold")]
    #[value(name = "cold")]
    Cold,
}

/// What is read of each frame's write-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Metadata {
    /// Nothing but the length: the raw write-back is kept beside the frame
    Plain,
    /// Everything that the 82599 tells: packet type, hash and its type, VLAN tag, checksums
    Full,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub scenario: Scenario,
    /// Frames that one poll brings and one doorbell sends.
    pub burst: u32,
    /// Descriptors of each ring.
    pub ring: u32,
    pub state: State,
    pub metadata: Metadata,
    pub path: CpuPath,
}

/// Whose descriptors.
pub const FAMILY: &str = "ixgbe";

impl Case {
    /// The case by the name under which a baseline knows its instructions, which do not depend on the caches.
    pub fn key(&self) -> String {
        format!(
            "{FAMILY}/{}/burst {}/ring {}/{}/{}",
            self.scenario,
            self.burst,
            self.ring,
            self.metadata,
            self.path.name()
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            scenario,
            burst,
            state,
            path,
            ..
        } = self;
        write!(f, "{scenario}, burst {burst}, {state}, {}", path.name())
    }
}

macro_rules! display_as_value {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.to_possible_value() {
                    Some(value) => f.pad(value.get_name()),
                    None => Ok(()),
                }
            }
        }
    )*};
}
display_as_value!(Scenario, State, Metadata);

/// A path by its name, if this processor has it.
pub fn cpu_path(name: &str) -> Result<CpuPath, String> {
    CpuPath::all()
        .find(|path| path.name() == name)
        .ok_or_else(|| match name {
            "avx2" => "this processor has no AVX2".to_owned(),
            _ => "there are scalar and avx2".to_owned(),
        })
}

/// A ring size that the harness can build.
pub fn ring_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(size) if (256..=4096).contains(&size) && size.is_power_of_two() => Ok(size),
        _ => Err("a ring has 256, 512, 1024, 2048 or 4096 descriptors".to_owned()),
    }
}
