//! What the host says about a PCI device, and why VFIO would refuse it. The kernel's own answers are bare error numbers, so
//! the usual causes are looked up first (Documentation/driver-api/vfio.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::bus::BusError;

/// The parts of the file system that tell about devices. Tests use a tree of their own.
#[derive(Clone, Debug)]
pub struct Host {
    sysfs: PathBuf,
    dev: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            sysfs: "/sys".into(),
            dev: "/dev/vfio".into(),
        }
    }
}

impl Host {
    /// Where sysfs shows the device.
    pub fn device(&self, bdf: &str) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(bdf)
    }

    /// Checks that the device can be opened through VFIO; gives its IOMMU group.
    ///
    /// # Errors
    /// The first thing in the way, in the order in which a person would remove them.
    pub fn check(&self, bdf: &str) -> Result<u32, BusError> {
        let bdf_owned = || bdf.to_owned();
        let device = self.device(bdf);
        if !device.exists() {
            return Err(BusError::NoSuchDevice { bdf: bdf_owned() });
        }
        let group = link_name(&device.join("iommu_group")).and_then(|name| name.parse::<u32>().ok());
        let Some(group) = group else {
            return Err(BusError::NoIommu { bdf: bdf_owned() });
        };
        let group_dir = self.sysfs.join("kernel/iommu_groups").join(group.to_string());
        if fs::read_to_string(group_dir.join("name")).is_ok_and(|name| name.trim() == "vfio-noiommu") {
            return Err(BusError::NoIommuMode { bdf: bdf_owned() });
        }
        match link_name(&device.join("driver")) {
            None => return Err(BusError::Unbound { bdf: bdf_owned() }),
            Some(driver) if !is_vfio(&driver) => {
                return Err(BusError::KernelDriver {
                    bdf: bdf_owned(),
                    driver,
                });
            }
            Some(_) => {}
        }
        if !self.dev.join("vfio").exists() {
            return Err(BusError::NoVfio { bdf: bdf_owned() });
        }
        let others = self.in_the_way(&group_dir, bdf);
        if !others.is_empty() {
            return Err(BusError::GroupNotViable {
                bdf: bdf_owned(),
                group,
                others: others.join(", "),
            });
        }
        for path in [self.dev.join("vfio"), self.group_file(group)] {
            // Opening is the test: a capability can allow what the mode bits do not.
            match fs::OpenOptions::new().read(true).write(true).open(&path) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(BusError::Permission { path });
                }
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(BusError::Busy {
                        device: format!("vfio:{bdf}"),
                        path,
                    });
                }
                Err(e) => {
                    return Err(BusError::io(
                        format!("vfio:{bdf}"),
                        format!("open {}", path.display()),
                        e,
                    ));
                }
            }
        }
        Ok(group)
    }

    /// The file of a group.
    pub fn group_file(&self, group: u32) -> PathBuf {
        self.dev.join(group.to_string())
    }

    /// NUMA node of the device; `None` when the host has only one or does not say.
    pub fn numa_node(&self, bdf: &str) -> Option<u32> {
        fs::read_to_string(self.device(bdf).join("numa_node"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Other devices of the group that a kernel driver still has. Ports and bridges may keep theirs (vfio.rst).
    fn in_the_way(&self, group_dir: &Path, bdf: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(group_dir.join("devices")) else {
            return Vec::new();
        };
        let mut others: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name != bdf)
            .filter_map(|name| {
                let driver = link_name(&self.device(&name).join("driver"))?;
                let harmless =
                    is_vfio(&driver) || matches!(driver.as_str(), "pci-stub" | "pcieport" | "shpchp");
                (!harmless).then(|| format!("{name} ({driver})"))
            })
            .collect();
        others.sort();
        others
    }
}

/// `vfio-pci` itself and its device-specific variants (`mlx5_vfio_pci`, ...).
fn is_vfio(driver: &str) -> bool {
    driver.replace('_', "-").ends_with("vfio-pci")
}

fn link_name(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const BDF: &str = "0000:17:00.0";

    struct Tree {
        dir: tempfile::TempDir,
        host: Host,
    }

    /// A host on which the device is ready.
    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            sysfs: dir.path().join("sys"),
            dev: dir.path().join("dev"),
        };
        let tree = Tree { dir, host };
        tree.device(BDF, Some("vfio-pci"));
        fs::create_dir_all(&tree.host.dev).unwrap();
        for name in ["vfio", "7"] {
            fs::write(tree.host.dev.join(name), "").unwrap();
        }
        tree
    }

    impl Tree {
        fn device(&self, bdf: &str, driver: Option<&str>) {
            let device = self.host.device(bdf);
            fs::create_dir_all(&device).unwrap();
            let group = self.host.sysfs.join("kernel/iommu_groups/7/devices");
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(bdf), "").unwrap();
            symlink("../../../kernel/iommu_groups/7", device.join("iommu_group")).unwrap();
            self.bind(bdf, driver);
        }

        fn bind(&self, bdf: &str, driver: Option<&str>) {
            let link = self.host.device(bdf).join("driver");
            let _ = fs::remove_file(&link);
            if let Some(driver) = driver {
                symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
            }
        }

        fn refused(&self) -> String {
            let message = self.host.check(BDF).unwrap_err().to_string();
            assert!(!message.contains('\n'), "{message}");
            message
        }
    }

    #[test]
    fn a_device_that_is_ready_gives_its_group() {
        let tree = tree();
        assert_eq!(tree.host.check(BDF).unwrap(), 7);
        assert!(tree.dir.path().exists());
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let message = tree().host.check("0000:ff:00.0").unwrap_err().to_string();
        assert!(message.contains("no PCI device 0000:ff:00.0") && message.contains("millrace-setup status"));
    }

    #[test]
    fn without_an_iommu_the_kernel_command_line_is_named() {
        let tree = tree();
        fs::remove_file(tree.host.device(BDF).join("iommu_group")).unwrap();
        assert!(tree.refused().contains("intel_iommu=on"));
    }

    #[test]
    fn no_iommu_mode_is_refused() {
        let tree = tree();
        fs::write(
            tree.host.sysfs.join("kernel/iommu_groups/7/name"),
            "vfio-noiommu\n",
        )
        .unwrap();
        assert!(tree.refused().contains("overwrite any memory"));
    }

    #[test]
    fn a_device_with_a_kernel_driver_says_how_to_bind_it() {
        let tree = tree();
        tree.bind(BDF, Some("ixgbe"));
        let message = tree.refused();
        assert!(message.contains("kernel's ixgbe") && message.contains("millrace-setup bind 0000:17:00.0"));
        tree.bind(BDF, None);
        assert!(tree.refused().contains("bound to no driver"));
    }

    #[test]
    fn a_missing_vfio_says_how_to_load_it() {
        let tree = tree();
        fs::remove_file(tree.host.dev.join("vfio")).unwrap();
        assert!(tree.refused().contains("modprobe vfio-pci"));
    }

    #[test]
    fn a_group_that_is_not_viable_names_who_is_in_the_way() {
        let tree = tree();
        tree.device("0000:17:00.1", Some("ixgbe"));
        tree.device("0000:16:00.0", Some("pcieport"));
        tree.device("0000:17:00.2", Some("mlx5_vfio_pci"));
        tree.device("0000:17:00.3", None);
        let message = tree.refused();
        assert!(
            message.contains("group 7") && message.contains("0000:17:00.1 (ixgbe) still belong"),
            "{message}"
        );
        tree.bind("0000:17:00.1", Some("vfio-pci"));
        assert_eq!(tree.host.check(BDF).unwrap(), 7);
    }

    #[test]
    fn a_group_file_that_may_not_be_opened_says_what_to_do() {
        if rustix::process::geteuid().is_root() {
            println!("SKIP a_group_file_that_may_not_be_opened_says_what_to_do: root may open every file");
            return;
        }
        let tree = tree();
        fs::set_permissions(tree.host.group_file(7), fs::Permissions::from_mode(0o000)).unwrap();
        let message = tree.refused();
        assert!(
            message.contains("no permission to open") && message.contains("dev/7"),
            "{message}"
        );
    }
}
