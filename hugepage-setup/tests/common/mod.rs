//! A host in a directory, with a kernel that behaves like Linux as far as set-up can see.

#![allow(dead_code)]

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::Parser;
use millrace_setup::SetupError;
use millrace_setup::cli::{Cli, run_on};
use millrace_setup::host::{Host, Kernel};

pub const NIC: &str = "0000:17:00.0";
pub const UPLINK: &str = "0000:17:00.1";
pub const X710: &str = "0000:18:00.0";
pub const DISK: &str = "0000:00:1f.2";
/// Most 2 MiB pages that a node of this host can give.
pub const PAGES: u64 = 1024;

/// What happened, in order: `print LINE`, `write PATH VALUE`, ...
pub type Log = Rc<RefCell<Vec<String>>>;

pub struct Fake {
    pub dir: tempfile::TempDir,
    pub host: Host,
    pub log: Log,
}

struct FakeKernel {
    root: PathBuf,
    log: Log,
}

impl FakeKernel {
    fn bind(&self, bdf: &str) -> io::Result<()> {
        let device = self.root.join("sys/bus/pci/devices").join(bdf);
        let wish = fs::read_to_string(device.join("driver_override"))?;
        let driver = match wish.trim() {
            "" | "(null)" => match fs::read_to_string(device.join("device"))?.trim() {
                "0x10fb" => "ixgbe",
                "0x1572" => "i40e",
                _ => "ahci",
            },
            wish => wish,
        };
        let target = self.root.join("sys/bus/pci/drivers").join(driver);
        // A driver may refuse a device: this one does when a file says so.
        if device.join("driver").exists()
            || !target.exists()
            || device.join(format!("refuse-{driver}")).exists()
        {
            return Ok(());
        }
        symlink(
            format!("../../../../bus/pci/drivers/{driver}"),
            device.join("driver"),
        )
    }
}

impl Kernel for FakeKernel {
    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        if self.root.join("readonly").exists() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let short = path.strip_prefix(&self.root).unwrap().display().to_string();
        self.log
            .borrow_mut()
            .push(format!("write {short} {}", value.trim()));
        if short.ends_with("/driver/unbind") {
            return fs::remove_file(path.parent().unwrap());
        }
        if short.ends_with("drivers_probe") {
            return self.bind(value);
        }
        if short.ends_with("nr_hugepages") {
            let got = value.parse::<u64>().unwrap().min(PAGES).to_string();
            fs::write(path.with_file_name("free_hugepages"), &got)?;
            return fs::write(path, got);
        }
        assert!(path.exists(), "{short} does not exist");
        fs::write(path, value)
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        self.log.borrow_mut().push(format!("modprobe {name}"));
        if self.root.join("no-modules").exists() {
            return Err(io::Error::other(format!("FATAL: Module {name} not found")));
        }
        fs::create_dir_all(self.root.join("sys/bus/pci/drivers").join(name))?;
        fs::create_dir_all(self.root.join("dev/vfio"))?;
        fs::write(self.root.join("dev/vfio/vfio"), "")
    }

    fn chown(&self, path: &Path, uid: u32) -> io::Result<()> {
        let short = path.strip_prefix(&self.root).unwrap().display().to_string();
        self.log.borrow_mut().push(format!("chown {short} {uid}"));
        Ok(())
    }
}

struct Printed(Log, Vec<u8>);

impl Write for Printed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(buf);
        while let Some(end) = self.1.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.1.drain(..=end).collect();
            self.0
                .borrow_mut()
                .push(format!("print {}", String::from_utf8_lossy(&line).trim_end()));
        }
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Fake {
    /// Two NUMA nodes, an 82599 with two ports (one is the uplink), an X710 without a driver, a disk controller.
    pub fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::default();
        let kernel = FakeKernel {
            root: dir.path().to_owned(),
            log: log.clone(),
        };
        let fake = Fake {
            host: Host::new(dir.path(), Box::new(kernel)),
            dir,
            log,
        };
        for driver in ["ixgbe", "i40e", "ahci"] {
            fs::create_dir_all(fake.path(&format!("sys/bus/pci/drivers/{driver}"))).unwrap();
        }
        fake.device(NIC, "0x10fb", Some("ixgbe"), 7, Some("eno1"));
        fake.device(UPLINK, "0x10fb", Some("ixgbe"), 8, Some("eno2"));
        fake.device(X710, "0x1572", None, 9, None);
        fake.device(DISK, "0x2922", Some("ahci"), 1, None);
        for node in 0..2 {
            for size in [2048, 1_048_576] {
                let pages = format!("sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB");
                fake.file(&format!("{pages}/nr_hugepages"), "0\n");
                fake.file(&format!("{pages}/free_hugepages"), "0\n");
                fs::create_dir_all(fake.path(&format!("sys/kernel/mm/hugepages/hugepages-{size}kB")))
                    .unwrap();
            }
        }
        fake.file("proc/cmdline", "root=/dev/sda1 intel_iommu=on iommu=pt quiet");
        fake.file(
            "proc/self/limits",
            "Max locked memory         8388608              8388608              bytes",
        );
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
        fake.file(
            "proc/net/route",
            &format!("{head}\neno2\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"),
        );
        fake.file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nnet:x:1001:1001::/home/net:/bin/sh\n",
        );
        for dir in ["run", "dev/vfio", "sys/class/iommu/dmar0"] {
            fs::create_dir_all(fake.path(dir)).unwrap();
        }
        fake
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn device(&self, bdf: &str, id: &str, driver: Option<&str>, group: u32, interface: Option<&str>) {
        let dir = format!("sys/bus/pci/devices/{bdf}");
        for (name, text) in [
            ("vendor", "0x8086"),
            ("device", id),
            ("driver_override", "(null)"),
            ("numa_node", "1"),
        ] {
            self.file(&format!("{dir}/{name}"), &format!("{text}\n"));
        }
        self.file(&format!("sys/kernel/iommu_groups/{group}/devices/{bdf}"), "");
        symlink(
            format!("../../../../kernel/iommu_groups/{group}"),
            self.path(&format!("{dir}/iommu_group")),
        )
        .unwrap();
        if let Some(driver) = driver {
            symlink(
                format!("../../../../bus/pci/drivers/{driver}"),
                self.path(&format!("{dir}/driver")),
            )
            .unwrap();
        }
        if let Some(name) = interface {
            self.file(&format!("{dir}/net/{name}/operstate"), "up\n");
            fs::create_dir_all(self.path(&format!("sys/class/net/{name}"))).unwrap();
            let device = format!("../../../bus/pci/devices/{bdf}");
            symlink(device, self.path(&format!("sys/class/net/{name}/device"))).unwrap();
        }
    }

    pub fn driver(&self, bdf: &str) -> Option<String> {
        self.host.link(format!("sys/bus/pci/devices/{bdf}/driver"))
    }

    pub fn pages(&self, node: u32) -> u64 {
        let dir = format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
        self.host.number(format!("{dir}/nr_hugepages")).unwrap()
    }

    /// Runs a command line; gives what was printed.
    pub fn run(&self, line: &str) -> Result<String, SetupError> {
        let words = std::iter::once("millrace-setup").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.log.borrow_mut().clear();
        run_on(&self.host, cli, &mut Printed(self.log.clone(), Vec::new()))?;
        let log = self.log.borrow();
        let printed: Vec<&str> = log.iter().filter_map(|l| l.strip_prefix("print ")).collect();
        Ok(printed.join("\n"))
    }

    /// Runs a command line that must fail; gives the error, which must be one line.
    pub fn refused(&self, line: &str) -> String {
        let message = self.run(line).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    /// Changes made by the last run.
    pub fn changes(&self) -> Vec<String> {
        self.log
            .borrow()
            .iter()
            .filter(|l| !l.starts_with("print "))
            .cloned()
            .collect()
    }
}
