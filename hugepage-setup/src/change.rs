//! Changes to the host: what each consists of, how it is made and taken back.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::SetupError;
use crate::host::Host;
use crate::hugepages::count_file;
use crate::nics::{VFIO_PCI, address};

/// A change, with what was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Loads a kernel module. Not taken back: a module in memory does no harm.
    Module {
        /// Its name.
        name: String,
    },
    /// Pages set aside on a node.
    Hugepages {
        /// NUMA node.
        node: u32,
        /// Page size in KiB.
        size_kib: u64,
        /// Pages before.
        from: u64,
        /// Pages after.
        to: u64,
    },
    /// The driver of a PCI device.
    Driver {
        /// PCI address.
        bdf: String,
        /// Driver before, if any.
        from: Option<String>,
        /// Driver after; `None` for no driver.
        to: Option<String>,
        /// `driver_override` before; empty for none.
        override_from: String,
        /// `driver_override` after; empty for none.
        override_to: String,
    },
    /// Who may open a VFIO group. Ends by itself when the group's last device leaves vfio-pci.
    GroupOwner {
        /// IOMMU group.
        group: u32,
        /// User id before.
        from: u32,
        /// User id after.
        to: u32,
    },
}

/// One step of a change, shown as the shell command that would do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Loads a module.
    Load(String),
    /// Writes a value to a file below the root.
    Write {
        /// The file.
        path: String,
        /// What is written.
        value: String,
    },
    /// Gives a file below the root to a user.
    Chown {
        /// The file.
        path: String,
        /// User id.
        uid: u32,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Load(name) => write!(f, "modprobe {name}"),
            Step::Write { path, value } if value.trim().is_empty() => write!(f, "echo > /{path}"),
            Step::Write { path, value } => write!(f, "echo {} > /{path}", value.trim()),
            Step::Chown { path, uid } => write!(f, "chown {uid} /{path}"),
        }
    }
}

/// `driver_override` of a device, empty for none.
pub fn driver_override(host: &Host, bdf: &str) -> String {
    let text = host
        .text(format!("sys/bus/pci/devices/{bdf}/driver_override"))
        .unwrap_or_default();
    if text == "(null)" { String::new() } else { text }
}

fn driver_now(host: &Host, bdf: &str) -> Option<String> {
    host.link(format!("sys/bus/pci/devices/{bdf}/driver"))
}

impl Change {
    /// True for a change of this PCI device.
    pub fn concerns(&self, address: &str) -> bool {
        matches!(self, Change::Driver { bdf, .. } if bdf == address)
    }

    /// The steps it takes on the host as it is now.
    pub fn steps(&self, host: &Host) -> Vec<Step> {
        match self {
            Change::Module { name } => vec![Step::Load(name.clone())],
            Change::Hugepages {
                node, size_kib, to, ..
            } => {
                vec![Step::Write {
                    path: count_file(host, *node, *size_kib),
                    value: to.to_string(),
                }]
            }
            Change::GroupOwner { group, to, .. } => vec![Step::Chown {
                path: format!("dev/vfio/{group}"),
                uid: *to,
            }],
            Change::Driver {
                bdf, to, override_to, ..
            } => {
                let device = format!("sys/bus/pci/devices/{bdf}");
                // A lone newline clears the override.
                let value = if override_to.is_empty() {
                    "\n".to_owned()
                } else {
                    override_to.clone()
                };
                let mut steps = vec![Step::Write {
                    path: format!("{device}/driver_override"),
                    value,
                }];
                let now = driver_now(host, bdf);
                if now.is_some() && now == *to {
                    return steps;
                }
                if now.is_some() {
                    steps.push(Step::Write {
                        path: format!("{device}/driver/unbind"),
                        value: bdf.clone(),
                    });
                }
                if to.is_some() {
                    let path = "sys/bus/pci/drivers_probe".into();
                    steps.push(Step::Write {
                        path,
                        value: bdf.clone(),
                    });
                }
                steps
            }
        }
    }

    /// The change back.
    pub fn inverse(&self) -> Option<Change> {
        Some(match self.clone() {
            Change::Module { .. } => return None,
            Change::Hugepages {
                node,
                size_kib,
                from,
                to,
            } => Change::Hugepages {
                node,
                size_kib,
                from: to,
                to: from,
            },
            Change::Driver {
                bdf,
                from,
                to,
                override_from,
                override_to,
            } => Change::Driver {
                bdf,
                from: to,
                to: from,
                override_from: override_to,
                override_to: override_from,
            },
            Change::GroupOwner { group, from, to } => Change::GroupOwner {
                group,
                from: to,
                to: from,
            },
        })
    }

    /// Takes one step.
    fn take(host: &Host, step: &Step) -> Result<(), SetupError> {
        let done = |path: &str, what, result: io::Result<()>| {
            result.map_err(|e| SetupError::system(what, &PathBuf::from(format!("/{path}")), e))
        };
        match step {
            Step::Load(name) => host.kernel().load_module(name).map_err(|e| SetupError::NoDriver {
                driver: name.clone(),
                why: e.to_string(),
            }),
            Step::Write { path, value } => done(path, "write", host.kernel().write(&host.path(path), value)),
            Step::Chown { path, uid } => done(path, "chown", host.kernel().chown(&host.path(path), *uid)),
        }
    }

    /// Makes the change: shows each step, takes it, and looks whether the host is as it should be.
    pub fn make(
        &self,
        host: &Host,
        show: &mut dyn FnMut(&Step) -> Result<(), SetupError>,
    ) -> Result<(), SetupError> {
        for step in self.steps(host) {
            show(&step)?;
            Self::take(host, &step)?;
        }
        match self {
            Change::Hugepages {
                node, size_kib, to, ..
            } => {
                let got = host.number(count_file(host, *node, *size_kib)).unwrap_or(0);
                if got < *to {
                    let boot = format!("hugepagesz={size_kib}K hugepages={to}");
                    return Err(SetupError::FewerPages {
                        node: *node,
                        size_kib: *size_kib,
                        got,
                        wanted: *to,
                        boot,
                    });
                }
            }
            Change::Driver { bdf, to, .. } => {
                let now = driver_now(host, bdf);
                if now != *to {
                    let name = |driver: Option<String>| driver.unwrap_or_else(|| "no driver".into());
                    let (wanted, now) = (name(to.clone()), name(now));
                    return Err(SetupError::NotBound {
                        bdf: bdf.clone(),
                        wanted,
                        now,
                    });
                }
            }
            Change::Module { name } if !host.exists(format!("sys/bus/pci/drivers/{name}")) => {
                let why = "modprobe brought none".to_owned();
                return Err(SetupError::NoDriver {
                    driver: name.clone(),
                    why,
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// What the user should know beyond the steps.
    pub fn note(&self) -> Option<String> {
        match self {
            Change::Driver {
                bdf,
                from: Some(from),
                to: Some(to),
                ..
            } if to == VFIO_PCI && from != VFIO_PCI => Some(format!(
                "{bdf} leaves {from}: its network interface goes away until `unbind` or `undo`"
            )),
            _ => None,
        }
    }

    /// True if the change speaks of things that can be: what a journal holds is checked before it is used.
    pub fn is_sound(&self) -> bool {
        let name = |s: &str| {
            s.len() < 64
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        match self {
            Change::Module { name: module } => name(module),
            Change::Hugepages { .. } | Change::GroupOwner { .. } => true,
            Change::Driver {
                bdf,
                from,
                to,
                override_from,
                override_to,
            } => {
                address(bdf).as_ref() == Some(bdf)
                    && from.iter().chain(to).all(|d| name(d))
                    && name(override_from)
                    && name(override_to)
            }
        }
    }
}
