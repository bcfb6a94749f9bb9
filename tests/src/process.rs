//! A child process that does not outlive its owner.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A program of this workspace, found beside the running one (or one folder up, for tests).
pub fn sibling(name: &str) -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    exe.ancestors().skip(1).take(3).map(|dir| dir.join(name)).find(|p| p.is_file()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{name} is not built; run `cargo build --workspace` (with --release if this is a release build) first"),
        )
    })
}

/// The environment variable that names, by its process id, who started a [`Process`]: so the
/// [reaper](crate::reaper) of a killed owner finds it.
pub const OWNER: &str = "MILLRACE_OWNER";

/// A child of ours; ended (asked first, then made to) on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it, in a process group of its own: a Ctrl-C at the terminal is for its owner, who ends it in good order.
    pub fn spawn(name: &str, mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        command.env(OWNER, std::process::id().to_string());
        let child = command
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("starting {name}: {e}")))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to standard output, where that is a pipe; given once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: rustix::process::Signal) {
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.child.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it has ended or the time is up.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM; SIGKILL when it has not ended within the limit.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait(limit);
        if status.is_none() {
            eprintln!("{} did not end within {limit:?} of SIGTERM; killed", self.name);
            self.kill();
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}
