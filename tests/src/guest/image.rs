//! The guest's initramfs: busybox, the modules a scenario needs, tools with their libraries, and an init script.

use super::LabError;
use super::cpio::Archive;
use super::kmod::Module;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Builds one initramfs.
#[derive(Debug)]
pub struct Image {
    archive: Archive,
    dirs: BTreeSet<String>,
    files: BTreeSet<String>,
}

/// What every guest does first: file systems, modules in order, then the scenarios, then power off.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /tmp /run /var/run
mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
dmesg -n 1
for m in $(cat /modules.order); do
    insmod /modules/$m.ko || echo "@@ LOG insmod $m failed"
done
. /scenarios.sh
echo "@@ END"
poweroff -f
"#;

/// Loads what the image has for a name, whatever options come before it. What is loaded already is no error.
const MODPROBE: &str = r#"#!/bin/busybox sh
for name; do :; done
order=/modules/$(echo $name | tr - _).order
[ -e $order ] || exit 1
for m in $(cat $order); do
    [ -d /sys/module/$m ] || insmod /modules/$m.ko
done
"#;

impl Image {
    /// An image that holds busybox (a static binary) and the init script.
    pub fn new(busybox: &Path) -> Result<Self, LabError> {
        let mut image = Self {
            archive: Archive::new(),
            dirs: BTreeSet::new(),
            files: BTreeSet::new(),
        };
        for dir in [
            "dev", "proc", "sys", "tmp", "run", "var/run", "bin", "sbin", "usr/bin", "usr/sbin", "modules",
        ] {
            image.make_dir(dir);
        }
        image.archive.chardev("dev/console", 5, 1);
        image.archive.chardev("dev/null", 1, 3);
        image.add_host_file(busybox, "bin/busybox", 0o755)?;
        image.add_bytes("init", 0o755, INIT.as_bytes());
        Ok(image)
    }

    /// Adds modules; they are loaded in this order before the scenarios start.
    pub fn modules(&mut self, modules: &[Module], load: bool) {
        let mut order = String::new();
        for m in modules {
            self.add_bytes(&format!("modules/{}.ko", m.name), 0o644, &m.object);
            order.push_str(&m.name);
            order.push('\n');
        }
        let list = if load { order } else { String::new() };
        self.add_bytes("modules.order", 0o644, list.as_bytes());
    }

    /// Adds modules that `modprobe NAME` loads, in this order.
    pub fn modules_on_demand(&mut self, name: &str, modules: &[Module]) {
        let mut order = String::new();
        for m in modules {
            self.add_bytes(&format!("modules/{}.ko", m.name), 0o644, &m.object);
            order.push_str(&m.name);
            order.push('\n');
        }
        self.add_bytes(&format!("modules/{name}.order"), 0o644, order.as_bytes());
        // Before busybox makes its own, which wants a modules.dep; and where the kernel looks for it.
        for path in ["bin/modprobe", "sbin/modprobe"] {
            self.add_bytes(path, 0o755, MODPROBE.as_bytes());
        }
    }

    /// Adds the shell script that runs the scenarios.
    pub fn scenarios(&mut self, script: &str) {
        self.add_bytes("scenarios.sh", 0o644, script.as_bytes());
    }

    /// Adds a dynamic program of the unpacked `tree` and every library it needs from there.
    pub fn program(&mut self, tree: &Path, path: &str) -> Result<(), LabError> {
        self.program_as(tree, path, path)
    }

    /// The same, at another path in the guest; an absolute `path` names a program outside of the tree.
    pub fn program_as(&mut self, tree: &Path, path: &str, guest: &str) -> Result<(), LabError> {
        let host = tree.join(path);
        self.add_host_file(&host, guest, 0o755)?;
        let mut todo = vec![host];
        while let Some(object) = todo.pop() {
            for needed in needed_libraries(&object)? {
                if self.files.contains(&format!("lib/{needed}")) {
                    continue;
                }
                let found = find_library(tree, &needed).ok_or_else(|| {
                    LabError::Malformed(format!(
                        "{} needs {needed}, which no fetched package holds",
                        object.display()
                    ))
                })?;
                let guest = if needed.starts_with("ld-linux") {
                    format!("lib64/{needed}")
                } else {
                    format!("lib/{needed}")
                };
                self.add_host_file(&found, &guest, 0o755)?;
                todo.push(found);
            }
        }
        Ok(())
    }

    /// Adds a file's bytes under a path of the guest's.
    pub fn add_bytes(&mut self, path: &str, mode: u32, data: &[u8]) {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.make_dir(dir);
        }
        if self.files.insert(path.to_owned()) {
            self.archive.file(path, mode, data);
        }
    }

    /// Copies a file of the host's (links followed) to a path of the guest's.
    pub fn add_host_file(&mut self, host: &Path, path: &str, mode: u32) -> Result<(), LabError> {
        let data = std::fs::read(host).map_err(LabError::io(format!("reading {}", host.display())))?;
        self.add_bytes(path, mode, &data);
        Ok(())
    }

    fn make_dir(&mut self, dir: &str) {
        let mut so_far = String::new();
        for part in dir.split('/') {
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(part);
            if self.dirs.insert(so_far.clone()) {
                self.archive.dir(&so_far);
            }
        }
    }

    /// Writes the image to a file.
    pub fn write(self, path: &Path) -> Result<(), LabError> {
        std::fs::write(path, self.archive.finish())
            .map_err(LabError::io(format!("writing {}", path.display())))
    }
}

/// The libraries and the loader an ELF object names (`DT_NEEDED`, `PT_INTERP`).
fn needed_libraries(path: &Path) -> Result<Vec<String>, LabError> {
    use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
    let malformed = |e: object::Error| LabError::Malformed(format!("{}: {e}", path.display()));
    let data = std::fs::read(path).map_err(LabError::io(format!("reading {}", path.display())))?;
    let file = ElfFile64::<object::Endianness>::parse(&*data).map_err(malformed)?;
    let endian = file.endian();
    let header = file.elf_header();
    let mut names = Vec::new();
    for segment in header.program_headers(endian, &*data).map_err(malformed)? {
        if let Ok(Some(interp)) = segment.interpreter(endian, &*data)
            && let Some(name) = String::from_utf8_lossy(interp)
                .trim_end_matches('\0')
                .rsplit('/')
                .next()
        {
            names.push(name.to_owned());
        }
    }
    let sections = header.sections(endian, &*data).map_err(malformed)?;
    if let Some((entries, link)) = sections.dynamic(endian, &*data).map_err(malformed)? {
        let strings = sections.strings(endian, &*data, link).map_err(malformed)?;
        for entry in entries {
            if entry.tag(endian) == object::elf::DT_NEEDED {
                let name = entry.string(endian, strings).map_err(malformed)?;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(names)
}

/// Finds a library in the folders a Debian tree keeps them in.
pub fn find_library(tree: &Path, name: &str) -> Option<PathBuf> {
    [
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "usr/lib64",
        "lib64",
        "usr/lib",
        "usr/lib/x86_64-linux-gnu/dpdk/pmds-25.0",
    ]
    .iter()
    .map(|d| tree.join(d).join(name))
    .find(|p| p.exists())
}
