//! What a boot runs: scenarios as shell functions, what is put up around the guest, and the names that must report.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::qemu::{self, Boot, Outcome, Report};
use std::any::Any;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One scenario of a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Its name: the shell function is `scenario_NAME`.
    pub name: String,
    /// What the compatibility matrix calls it: the comment `# compat: TITLE` above the function. Without one the
    /// scenario has no row there.
    pub feature: Option<String>,
}

/// One boot and the scenarios it is expected to report on.
#[derive(Debug)]
pub struct Suite {
    /// Whose driver: `linux`, `dpdk`, `millrace`.
    pub driver: &'static str,
    /// The driver's version: the kernel's for Linux's own, `24.11` for DPDK's.
    pub version: &'static str,
    /// The NIC family the model plays, and what is special about this boot: `ixgbe`, `ixgbe-mapped`.
    pub setup: &'static str,
    /// The section of the compatibility matrix that its features stand in.
    pub section: &'static str,
    /// The kernel that boots.
    pub series: Series,
    /// The scenarios in the order in which they run.
    pub scenarios: Vec<Scenario>,
    /// Shell: helper and scenario functions. The call that runs them is added.
    pub script: String,
    /// With the long variants.
    pub soak: bool,
    /// Puts up what the guest needs.
    pub stage: fn(&Suite, &Cache, &Path) -> Result<Staged, LabError>,
}

/// What was put up around a guest, ready to boot; taken down on drop.
#[derive(Debug)]
pub struct Staged {
    /// Busybox, modules and tools; the scenarios are added.
    pub image: Image,
    /// Shell assignments for the scenarios: addresses, hashes.
    pub preamble: String,
    /// vfio-user sockets, one a device.
    pub sockets: Vec<PathBuf>,
    /// With an emulated IOMMU.
    pub iommu: bool,
    /// Added to the kernel's command line.
    pub cmdline: &'static str,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// A folder the guest may mount read-only over 9p under the tag `share`.
    pub share: Option<PathBuf>,
    /// A socket to which the guest's second serial line (`/dev/ttyS1`) is connected.
    pub line: Option<PathBuf>,
    /// How long the whole boot may take.
    pub deadline: Duration,
    /// What has to live as long as the guest: models, peers. Dropped in order.
    pub alive: Vec<Box<dyn Any>>,
}

/// Sourced before every suite's script.
pub const PRELUDE: &str = include_str!("../../guest/lib.sh");

impl Suite {
    /// What reports are called: `linux-6.12/ixgbe/link_comes_up_at_10g`.
    pub fn label(&self, name: &str) -> String {
        format!("{}-{}/{}/{name}", self.driver, self.version, self.setup)
    }

    /// Keeps the scenarios whose names contain the text, and those that they stand on.
    pub fn only(&mut self, text: &str, needed: &[&str]) {
        self.scenarios
            .retain(|s| needed.contains(&s.name.as_str()) || s.name.contains(text));
    }

    /// Boots and runs the suite; a scenario that never reported has failed.
    pub fn run(&self, cache: &Cache, dir: &Path, mut seen: impl FnMut(Report)) -> Result<(), LabError> {
        let kernel = cache.ensure_kernel(self.series)?;
        let mut staged = (self.stage)(self, cache, dir)?;
        let names: Vec<&str> = self.scenarios.iter().map(|s| s.name.as_str()).collect();
        staged.image.scenarios(&format!(
            "SOAK={}\n{}\n{PRELUDE}\n{}\nrun_all {}\n",
            u8::from(self.soak),
            staged.preamble,
            self.script,
            names.join(" ")
        ));
        let initrd = dir.join("initrd.cpio");
        staged.image.write(&initrd)?;
        let log = dir.join("serial.log");
        let boot = Boot {
            kernel: &kernel,
            initrd: &initrd,
            sockets: &staged.sockets,
            iommu: staged.iommu,
            cmdline: staged.cmdline,
            cpus: staged.cpus,
            memory: staged.memory,
            share: staged.share.as_deref(),
            line: staged.line.as_deref(),
            deadline: staged.deadline,
            log: &log,
        };
        let mut left = names;
        let end = qemu::boot(cache, &boot, |report| {
            if let Some(at) = left.iter().position(|n| *n == report.name) {
                left.remove(at);
                seen(report);
            }
        })?;
        for name in left {
            let reason = format!("the guest never reported ({end:?}); see {}", log.display());
            seen(Report {
                name: name.to_owned(),
                outcome: Outcome::Fail(reason),
            });
        }
        for part in staged.alive {
            drop(part);
        }
        Ok(())
    }
}

/// The scenarios of a script, in file order.
pub fn scenarios(script: &str) -> Vec<Scenario> {
    let mut found = Vec::new();
    let mut feature = None;
    for line in script.lines() {
        if let Some(title) = line.strip_prefix("# compat: ") {
            feature = Some(title.trim().to_owned());
        } else if let Some((name, _)) = line.strip_prefix("scenario_").and_then(|l| l.split_once("()")) {
            found.push(Scenario {
                name: name.to_owned(),
                feature: feature.take(),
            });
        } else if !line.starts_with('#') {
            feature = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_function_is_a_named_scenario_and_its_comment_the_feature() {
        let script = "# compat: Probe\n# and more\nscenario_probe() {\n}\n\n# compat: lost\nhelper() {\n}\nscenario_b() {\n";
        let found = scenarios(script);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name.as_str(), found[0].feature.as_deref()),
            ("probe", Some("Probe"))
        );
        assert_eq!((found[1].name.as_str(), found[1].feature.as_deref()), ("b", None));
    }
}
