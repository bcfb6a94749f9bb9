//! Ends what a killed owner of processes leaves behind.
//!
//! Who is killed with SIGKILL ends nothing any more, neither the models and guests that it started nor their network
//! namespaces. So it starts a reaper first: a process in a group of its own (a Ctrl-C is not for it) whose standard input is
//! a pipe that only the owner holds the other end of. The pipe ends when the owner does, however that came about. Then the
//! reaper kills each [`Process`](crate::process::Process) of the owner's, known by its environment, and whatever else runs
//! in the owner's namespaces, and deletes those.

use crate::netns::{NAMED, Netns};
use crate::process::{OWNER, sibling};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// The word by which `guest-lab` becomes a reaper.
pub const SUBCOMMAND: &str = "reap";

/// A running reaper for this process. Dropped, it looks for what was left behind as well.
#[derive(Debug)]
pub struct Reaper(Child);

impl Reaper {
    /// Starts one, which is a `guest-lab` too.
    pub fn start() -> io::Result<Self> {
        Command::new(sibling("guest-lab")?)
            .args([SUBCOMMAND, "--owner", &std::process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What a reaper does: waits until standard input ends, then leaves nothing of the owner's. Says how many it killed.
pub fn reap(owner: u32) -> io::Result<usize> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    let deadline = Instant::now() + PATIENCE;
    let mut killed = 0;
    loop {
        let namespaces = Netns::made_by(owner);
        let left = kill_all(owner, &namespaces)?;
        killed += left;
        // With nobody in them they can go; new ones can only come from what was still alive.
        for name in &namespaces {
            if let Err(error) = Netns::delete(name)
                && Path::new(NAMED).join(name).exists()
            {
                eprintln!("namespace {name} of a killed process stays: {error}");
            }
        }
        if left == 0 {
            return Ok(killed);
        }
        if Instant::now() > deadline {
            let reason = format!("{left} processes of {owner} are still there {PATIENCE:?} after SIGKILL");
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills each process of the owner's, and each in these namespaces; how many there were.
fn kill_all(owner: u32, namespaces: &[String]) -> io::Result<usize> {
    let inode = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let theirs: Vec<(u64, u64)> = namespaces
        .iter()
        .filter_map(|name| inode(&Path::new(NAMED).join(name)))
        .collect();
    let mark = format!("{OWNER}={owner}");
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.filter(|&pid| pid.unsigned_abs() != std::process::id()) else {
            continue;
        };
        // Held before it is looked at: what is killed is what was looked at.
        let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            continue;
        };
        let marked = std::fs::read(entry.path().join("environ"))
            .is_ok_and(|text| text.split(|&b| b == 0).any(|word| word == mark.as_bytes()));
        let inside = inode(&entry.path().join("ns/net")).is_some_and(|ns| theirs.contains(&ns));
        if (marked || inside) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
            count += 1;
        }
    }
    Ok(count)
}
