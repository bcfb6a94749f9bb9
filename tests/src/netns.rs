//! Network namespaces and veth pairs for tests: made with `ip`, gone again when the value is dropped.

use std::io;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where `ip netns` keeps its names.
pub const NAMED: &str = "/run/netns";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Whether this process may make network namespaces (it is root).
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root for network namespaces".into());
    }
    match Command::new("ip").arg("-V").output() {
        Ok(_) => Ok(()),
        Err(e) => Err(format!(
            "`ip` does not start ({e}); `make deps` installs iproute2"
        )),
    }
}

/// A network namespace of this process's own; deleted, with everything in it, on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace whose name starts with `mr-` and `tag`, and brings its loopback up.
    pub fn new(tag: &str) -> io::Result<Self> {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let ns = Self {
            name: format!("mr-{tag}-{}-{n}", std::process::id()),
        };
        run(&["ip", "netns", "add", &ns.name])?;
        ns.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// The names of all namespaces that a process of this id has made and not deleted.
    pub fn made_by(process: u32) -> Vec<String> {
        let made = |name: &str| {
            let mut parts = name.rsplit('-');
            let count = parts.next().and_then(|n| n.parse::<u32>().ok());
            let by = parts.next().and_then(|n| n.parse().ok());
            name.starts_with("mr-") && count.is_some() && by == Some(process)
        };
        let Ok(names) = std::fs::read_dir(NAMED) else {
            return Vec::new();
        };
        names
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| made(name))
            .collect()
    }

    /// Deletes the namespace of a name.
    pub fn delete(name: &str) -> io::Result<()> {
        run(&["ip", "netns", "del", name]).map(drop)
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.name, program]);
        c
    }

    /// Runs a command inside the namespace and fails unless it exits with 0.
    pub fn run(&self, argv: &[&str]) -> io::Result<Output> {
        let mut full = vec!["ip", "netns", "exec", self.name.as_str()];
        full.extend_from_slice(argv);
        run(&full)
    }

    /// A veth pair inside this namespace, both ends up, with no IPv6 chatter of their own.
    pub fn veth(&self, a: &str, b: &str) -> io::Result<()> {
        self.run(&["ip", "link", "add", a, "type", "veth", "peer", "name", b])?;
        for end in [a, b] {
            self.run(&["ip", "link", "set", end, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing to do about a failure here but to say so: the namespace would stay behind.
        if let Err(e) = Self::delete(&self.name) {
            eprintln!("namespace {} was not removed: {e}", self.name);
        }
    }
}

/// Runs a command and fails, with what it wrote to stderr, unless it exits with 0.
pub fn run(argv: &[&str]) -> io::Result<Output> {
    let (program, args) = argv
        .split_first()
        .ok_or_else(|| io::Error::other("an empty command"))?;
    let out = Command::new(program).args(args).output()?;
    if out.status.success() {
        Ok(out)
    } else {
        Err(io::Error::other(format!(
            "`{}` ended with {}: {}",
            argv.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        )))
    }
}
