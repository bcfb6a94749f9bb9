//! What a boot runs: a family's scenarios as shell functions, and the names that must report.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::qemu::{self, Boot, Outcome, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One boot and the scenarios it is expected to report on.
#[derive(Debug)]
pub struct Suite {
    /// The NIC family the model plays.
    pub family: &'static str,
    /// The kernel that boots.
    pub series: Series,
    /// The scenarios' names, in the order in which they run.
    pub names: Vec<String>,
    script: String,
}

const PRELUDE: &str = include_str!("../../guest/lib.sh");
const LINUX: &str = include_str!("../../guest/linux-ixgbe.sh");

/// What the other scenarios stand on.
const BRING_UP: [&str; 4] = [
    "probe_without_a_warning",
    "link_comes_up_at_10g",
    "ping_ipv4",
    "ping_ipv6",
];

impl Suite {
    /// Linux's own driver for `family` on a kernel of Debian's.
    pub fn linux(family: &'static str, series: Series, soak: bool, only: Option<&str>) -> Self {
        let mut names = scenario_names(LINUX);
        if let Some(text) = only {
            names.retain(|n| BRING_UP.contains(&n.as_str()) || n.contains(text));
        }
        let script = format!(
            "SOAK={}\n{PRELUDE}\n{LINUX}\nrun_all {}\n",
            u8::from(soak),
            names.join(" ")
        );
        Self {
            family,
            series,
            names,
            script,
        }
    }

    /// What reports are called: `linux-6.12/ixgbe/link_comes_up_at_10g`.
    pub fn label(&self, name: &str) -> String {
        format!("linux-{}/{}/{name}", self.series.name(), self.family)
    }

    /// Boots and runs the suite; a scenario that never reported has failed.
    pub fn run(&self, cache: &Cache, dir: &Path, mut seen: impl FnMut(Report)) -> Result<(), LabError> {
        let kernel = cache.ensure_kernel(self.series)?;
        let tools = cache.tools();
        let busybox = [tools.join("usr/bin/busybox"), tools.join("bin/busybox")]
            .into_iter()
            .find(|p| p.is_file())
            .ok_or_else(|| LabError::Malformed("the fetched busybox has no binary".into()))?;
        let modules = Modules::scan(&kernel.modules, &busybox)?;
        let mut image = Image::new(&busybox)?;
        image.modules(&modules.closure(&["ixgbe", "8021q"])?, true);
        image.program(
            &tools,
            if tools.join("usr/sbin/ethtool").exists() {
                "usr/sbin/ethtool"
            } else {
                "sbin/ethtool"
            },
        )?;
        let mut peer = Peer::new("lab")?;
        let hashes = peer.serve(&busybox, dir)?;
        image.scenarios(&format!("{hashes}{}", self.script));
        let initrd = dir.join("initrd.cpio");
        image.write(&initrd)?;
        let model = Model::start(
            &peer,
            self.family,
            "packet:wire",
            dir,
            &["--mac", "52:54:00:82:59:9a", "--trust-client-memory"],
        )?;
        let sockets: Vec<PathBuf> = vec![model.socket.clone()];
        let log = dir.join("serial.log");
        let boot = Boot {
            kernel: &kernel,
            initrd: &initrd,
            sockets: &sockets,
            iommu: false,
            memory: 512,
            share: None,
            deadline: Duration::from_secs(420),
            log: &log,
        };
        let mut left = self.names.clone();
        let end = qemu::boot(cache, &boot, |report| {
            if let Some(at) = left.iter().position(|n| *n == report.name) {
                left.remove(at);
                seen(report);
            }
        })?;
        for name in left {
            let reason = format!("the guest never reported ({end:?}); see {}", log.display());
            seen(Report {
                name,
                outcome: Outcome::Fail(reason),
            });
        }
        Ok(())
    }
}

/// Scenarios are shell functions named `scenario_NAME`, run in file order.
fn scenario_names(script: &str) -> Vec<String> {
    script
        .lines()
        .filter_map(|l| l.strip_prefix("scenario_"))
        .filter_map(|l| l.split_once("()"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_function_is_a_named_scenario() {
        let suite = Suite::linux("ixgbe", Series::V6_12, false, None);
        assert!(suite.names.iter().any(|n| n == "probe_without_a_warning"));
        assert!(suite.names.len() >= 3);
    }
}
