//! Kernel modules for the guest: which others a module needs, and in which order they load.
//!
//! A module names what it depends on in its `.modinfo` section (`depends=a,b`), so neither `modprobe` nor
//! `modules.dep` is needed.

use super::LabError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of one unpacked kernel package.
#[derive(Debug)]
pub struct Modules {
    by_name: BTreeMap<String, PathBuf>,
    /// A program that unpacks xz from a file to standard output.
    busybox: PathBuf,
}

/// One module, unpacked.
#[derive(Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object file.
    pub object: Vec<u8>,
}

impl Modules {
    /// Finds every module below `root` (a `lib/modules/VERSION` folder).
    pub fn scan(root: &Path, busybox: &Path) -> Result<Self, LabError> {
        let mut by_name = BTreeMap::new();
        let mut todo = vec![root.to_path_buf()];
        while let Some(dir) = todo.pop() {
            let what = format!("reading {}", dir.display());
            for entry in std::fs::read_dir(&dir).map_err(LabError::io(what.clone()))? {
                let entry = entry.map_err(LabError::io(what.clone()))?;
                let path = entry.path();
                let kind = entry.file_type().map_err(LabError::io(what.clone()))?;
                if kind.is_dir() {
                    todo.push(path);
                } else if let Some(name) = module_name(&path) {
                    by_name.insert(name, path);
                }
            }
        }
        Ok(Self {
            by_name,
            busybox: busybox.to_path_buf(),
        })
    }

    /// The wanted modules and all they depend on, in an order in which they can be loaded. A wanted module that the
    /// kernel does not have as a module (built in, or of another version) is left out.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<Module>, LabError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), LabError> {
        let Some(path) = self.by_name.get(name) else {
            return Ok(());
        };
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let object = self.unpack(path)?;
        for dep in depends(&object) {
            self.visit(&dep, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            object,
        });
        Ok(())
    }

    fn unpack(&self, path: &Path) -> Result<Vec<u8>, LabError> {
        if path.extension().is_some_and(|e| e == "ko") {
            return std::fs::read(path).map_err(LabError::io(format!("reading {}", path.display())));
        }
        let out = Command::new(&self.busybox)
            .args(["xz", "-dc"])
            .arg(path)
            .output()
            .map_err(LabError::io(format!("unpacking {}", path.display())))?;
        if !out.status.success() {
            return Err(LabError::Malformed(format!(
                "{} does not unpack: {}",
                path.display(),
                String::from_utf8_lossy(&out.stderr).trim()
            )));
        }
        Ok(out.stdout)
    }
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".ko.xz").or_else(|| file.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let list = &object[at + KEY.len()..];
    let end = list.iter().position(|&b| b == 0).unwrap_or(0);
    String::from_utf8_lossy(&list[..end])
        .split(',')
        .filter(|s| !s.is_empty())
        .map(|s| s.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let object = b"\x7fELF..\0license=GPL\0depends=mdio,dca,libphy-x\0retpoline=Y\0";
        assert_eq!(depends(object), ["mdio", "dca", "libphy_x"]);
        assert!(depends(b"\0depends=\0").is_empty());
        assert!(depends(b"nothing").is_empty());
    }
}
