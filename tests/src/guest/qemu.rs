//! One boot: QEMU under TCG with models attached over vfio-user, its serial line read as it comes.

use super::LabError;
use super::fetch::{Cache, Kernel};
use crate::process::Process;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What one boot is made of.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The kernel to boot.
    pub kernel: &'a Kernel,
    /// The initramfs.
    pub initrd: &'a Path,
    /// vfio-user sockets, one a device.
    pub sockets: &'a [PathBuf],
    /// With an emulated IOMMU (for VFIO in the guest).
    pub iommu: bool,
    /// Added to the kernel's command line.
    pub cmdline: &'a str,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// A folder the guest may mount read-only over 9p under the tag `share`.
    pub share: Option<&'a Path>,
    /// A listening socket that the guest's second serial line is connected to.
    pub line: Option<&'a Path>,
    /// How long the whole boot may take.
    pub deadline: Duration,
    /// Where the serial log is kept.
    pub log: &'a Path,
}

/// What one scenario came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It held.
    Pass,
    /// It did not, and why.
    Fail(String),
    /// It could not be tried, and why.
    Skip(String),
}

/// A scenario's result as read from the serial line.
#[derive(Debug, Clone)]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// What it came to.
    pub outcome: Outcome,
}

/// Reads one line of the guest's: `@@ PASS name`, `@@ FAIL name: reason`, `@@ SKIP name: reason`.
pub fn parse_line(line: &str) -> Option<Report> {
    let rest = line[line.find("@@ ")? + 3..].trim_end();
    let (word, rest) = rest.split_once(' ')?;
    let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
    let outcome = match word {
        "PASS" => Outcome::Pass,
        "FAIL" => Outcome::Fail(reason.to_owned()),
        "SKIP" => Outcome::Skip(reason.to_owned()),
        _ => return None,
    };
    let name = if outcome == Outcome::Pass { rest } else { name };
    Some(Report {
        name: name.trim().to_owned(),
        outcome,
    })
}

/// How QEMU is started from the cache: through the cache's own loader and libraries.
fn qemu(cache: &Cache) -> Result<Command, LabError> {
    let tools = cache.tools();
    let binary = tools.join("usr/bin/qemu-system-x86_64");
    let loader = super::image::find_library(&tools, "ld-linux-x86-64.so.2")
        .ok_or_else(|| LabError::Malformed("the fetched libc has no loader".into()))?;
    if !binary.is_file() {
        return Err(LabError::Malformed(format!("{} is not there", binary.display())));
    }
    let mut path = String::new();
    for dir in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"] {
        path.push_str(&format!("{}:", tools.join(dir).display()));
    }
    for sub in ["pulseaudio", "blas", "lapack", "ceph"] {
        path.push_str(&format!(
            "{}:",
            tools.join("usr/lib/x86_64-linux-gnu").join(sub).display()
        ));
    }
    let mut c = Command::new(loader);
    c.arg("--library-path")
        .arg(path.trim_end_matches(':'))
        .arg(binary);
    c.env("QEMU_MODULE_DIR", tools.join("usr/lib/x86_64-linux-gnu/qemu"));
    c.arg("-L").arg(tools.join("usr/share/qemu"));
    c.arg("-L").arg(tools.join("usr/share/seabios"));
    Ok(c)
}

/// Says clearly when the fetched QEMU has no vfio-user client.
pub fn check(cache: &Cache) -> Result<(), LabError> {
    let out = qemu(cache)?
        .args(["-device", "help"])
        .output()
        .map_err(LabError::io("starting QEMU"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    if text.contains("\"vfio-user-pci\"") {
        return Ok(());
    }
    let err = String::from_utf8_lossy(&out.stderr);
    Err(LabError::Unavailable(format!(
        "the fetched QEMU has no vfio-user-pci device (10.1 or newer is needed, from trixie-backports): {}",
        err.lines().next().unwrap_or("it started")
    )))
}

/// Boots, hands each report to `seen` as it comes, and returns when the guest is done, dead or out of time.
pub fn boot(cache: &Cache, b: &Boot<'_>, mut seen: impl FnMut(Report)) -> Result<End, LabError> {
    let mut c = qemu(cache)?;
    let irqchip = if b.iommu { ",kernel-irqchip=split" } else { "" };
    c.args([
        "-machine",
        &format!("q35{irqchip},memory-backend=m0"),
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        &b.cpus.to_string(),
    ])
    .args([
        "-object",
        &format!("memory-backend-memfd,id=m0,size={}M,share=on", b.memory),
    ])
    .args([
        "-m",
        &format!("{}M", b.memory),
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    if b.iommu {
        c.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
    }
    for (i, socket) in b.sockets.iter().enumerate() {
        c.args([
            "-device",
            &format!("pcie-root-port,id=rp{i},chassis={i},slot={i},x-speed=8,x-width=8"),
        ]);
        c.arg("-device").arg(format!(
            r#"{{"driver":"vfio-user-pci","bus":"rp{i}","socket":{{"path":"{}","type":"unix"}}}}"#,
            socket.display()
        ));
    }
    if let Some(share) = b.share {
        c.args([
            "-virtfs",
            &format!(
                "local,path={},mount_tag=share,security_model=none,readonly=on",
                share.display()
            ),
        ]);
    }
    if let Some(line) = b.line {
        c.arg("-chardev")
            .arg(format!("socket,id=line,path={}", line.display()))
            .args(["-serial", "chardev:line"]);
    }
    let iommu = if b.iommu { " intel_iommu=on iommu=pt" } else { "" };
    // On a busy machine the emulated timer may be late enough for the kernel to think that it has none, and panic.
    c.arg("-kernel")
        .arg(&b.kernel.image)
        .arg("-initrd")
        .arg(b.initrd)
        .args([
            "-append",
            &format!(
                "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0{iommu} {}",
                b.cmdline
            ),
        ]);
    let mut log =
        std::fs::File::create(b.log).map_err(LabError::io(format!("making {}", b.log.display())))?;
    let err = log.try_clone().map_err(LabError::io("making the log"))?;
    c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err);
    let mut child = Process::spawn("QEMU", c).map_err(LabError::io("QEMU"))?;
    let (tx, rx) = mpsc::channel();
    let stdout = child
        .stdout()
        .ok_or_else(|| LabError::Malformed("QEMU has no serial line".into()))?;
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout);
        let mut raw = Vec::new();
        while matches!(lines.read_until(b'\n', &mut raw), Ok(n) if n > 0) {
            let line = String::from_utf8_lossy(&raw).into_owned();
            raw.clear();
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    let start = Instant::now();
    let mut end = End::Died;
    while let Some(left) = b.deadline.checked_sub(start.elapsed()) {
        match rx.recv_timeout(left) {
            Ok(line) => {
                let stamp = start.elapsed().as_secs_f32();
                write!(log, "[{stamp:7.2}] {line}").map_err(LabError::io("writing the log"))?;
                if let Some(report) = parse_line(&line) {
                    seen(report);
                }
                if line.contains("@@ END") {
                    end = End::Done;
                    break;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => end = End::TimedOut,
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    child.kill();
    drop(rx);
    let _ = reader.join();
    Ok(end)
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest said it was done.
    Done,
    /// The deadline passed; what had not reported has failed.
    TimedOut,
    /// QEMU or the guest ended early.
    Died,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_lines_become_reports() {
        assert_eq!(
            parse_line("@@ PASS linux_pings\r\n").map(|r| r.outcome),
            Some(Outcome::Pass)
        );
        let failed = parse_line("noise@@ FAIL link_up: no carrier after 10 s\r\n");
        assert_eq!(
            failed.map(|r| (r.name, r.outcome)),
            Some(("link_up".into(), Outcome::Fail("no carrier after 10 s".into())))
        );
        assert!(parse_line("@@ LOG hello").is_none());
        assert!(parse_line("plain").is_none());
    }
}
