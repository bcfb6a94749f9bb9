//! A `nic-model` process for a guest to attach to, on a veth in a namespace of its own.

use super::LabError;
use crate::netns::Netns;
use crate::process::Process;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The network at the other end of the model's wire.
#[derive(Debug)]
pub struct Peer {
    /// Where the peer's end of the veth pair lives.
    pub ns: Netns,
}

/// Addresses on the host's side of the wire.
pub const PEER_V4: &str = "10.55.0.1";
/// See [`PEER_V4`].
pub const PEER_V6: &str = "fd55::1";

impl Peer {
    /// A namespace with a veth pair: `wire` for the model, `peer` with addresses of its own.
    pub fn new(tag: &str) -> Result<Self, LabError> {
        let build = || -> std::io::Result<Netns> {
            let ns = Netns::new(tag)?;
            ns.veth("wire", "peer")?;
            ns.run(&["ip", "addr", "add", &format!("{PEER_V4}/24"), "dev", "peer"])?;
            ns.run(&[
                "ip",
                "-6",
                "addr",
                "add",
                &format!("{PEER_V6}/64"),
                "dev",
                "peer",
                "nodad",
            ])?;
            for end in ["wire", "peer"] {
                ns.run(&["ip", "link", "set", end, "mtu", "9000"])?;
            }
            Ok(ns)
        };
        Ok(Self {
            ns: build().map_err(LabError::io("making the peer's namespace"))?,
        })
    }
}

/// A running `nic-model`; ended on drop.
#[derive(Debug)]
pub struct Model {
    process: Process,
    /// The vfio-user socket it serves.
    pub socket: PathBuf,
    /// What it writes to standard output and error.
    pub log: PathBuf,
}

/// The binary: `MILLRACE_NIC_MODEL`, else beside the running program.
pub fn binary() -> Result<PathBuf, LabError> {
    if let Some(path) = std::env::var_os("MILLRACE_NIC_MODEL") {
        return Ok(PathBuf::from(path));
    }
    let exe = std::env::current_exe().map_err(LabError::io("finding the running program"))?;
    let mut dir = exe.parent();
    while let Some(d) = dir {
        let candidate = d.join("nic-model");
        if candidate.is_file() {
            return Ok(candidate);
        }
        dir = d.parent();
    }
    Err(LabError::Unavailable(
        "nic-model is not built; run `cargo build -p millrace-nic-models --features device` first".into(),
    ))
}

impl Model {
    /// Starts a model of `family` in the peer's namespace with a wire on it.
    pub fn start(
        peer: &Peer,
        family: &str,
        wire: &str,
        dir: &Path,
        extra: &[&str],
    ) -> Result<Self, LabError> {
        let socket = dir.join(format!("{family}.sock"));
        let log = dir.join(format!("nic-model-{family}.log"));
        let out = std::fs::File::create(&log).map_err(LabError::io("making the model's log"))?;
        let err = out.try_clone().map_err(LabError::io("making the model's log"))?;
        let mut command: Command = peer.ns.command(&binary()?.to_string_lossy());
        command
            .arg(family)
            .arg("--socket")
            .arg(&socket)
            .args(["--wire", wire])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let mut model = Self {
            process: Process::spawn("nic-model", command).map_err(LabError::io("nic-model"))?,
            socket,
            log,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !model.socket.exists() {
            if !model.alive() || Instant::now() > deadline {
                let text = std::fs::read_to_string(&model.log).unwrap_or_default();
                return Err(LabError::Malformed(format!(
                    "nic-model did not come up: {}",
                    text.trim()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(model)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }
}
