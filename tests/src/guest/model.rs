//! A `nic-model` process for a guest to attach to, on a veth in a namespace of its own.

use super::LabError;
use crate::netns::Netns;
use crate::process::{Process, sibling};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The network at the other end of the model's wire.
#[derive(Debug)]
pub struct Peer {
    // Before the namespace they run in.
    services: Vec<Process>,
    vlan: bool,
    /// Where the peer's end of the veth pair lives.
    pub ns: Netns,
}

/// Addresses on the host's side of the wire.
pub const PEER_V4: &str = "10.55.0.1";
/// See [`PEER_V4`].
pub const PEER_V6: &str = "fd55::1";
/// The peer's MAC address.
pub const PEER_MAC: &str = "52:54:00:55:00:01";

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
            ns.run(&["ip", "link", "set", "peer", "address", PEER_MAC])?;
            Ok(ns)
        };
        let ns = build().map_err(LabError::io("making the peer's namespace"))?;
        // Some kernels are built without VLAN interfaces.
        let vlan = ns
            .run(&[
                "ip", "link", "add", "link", "peer", "name", "peer.5", "type", "vlan", "id", "5",
            ])
            .and_then(|_| ns.run(&["ip", "addr", "add", "10.56.0.1/24", "dev", "peer.5"]))
            .and_then(|_| ns.run(&["ip", "link", "set", "peer.5", "up"]))
            .is_ok();
        Ok(Self {
            services: Vec::new(),
            vlan,
            ns,
        })
    }

    /// Serves 100 MB on port 5100 and 10 MB on port 5010, and answers what it gets on port 5001 with its SHA-256; returns
    /// shell assignments of the hashes.
    pub fn serve(&mut self, busybox: &Path, dir: &Path) -> Result<String, LabError> {
        let mut hashes = format!("PEERMAC={PEER_MAC}\nPEERVLAN={}\n", u8::from(self.vlan));
        for megabytes in [100_usize, 10] {
            let file = dir.join(format!("{megabytes}mb"));
            let data: Vec<u8> = (0..megabytes << 20)
                .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
                .collect();
            std::fs::write(&file, data).map_err(LabError::io("writing what the peer serves"))?;
            let out = crate::netns::run(&["sha256sum", &file.to_string_lossy()])
                .map_err(LabError::io("sha256sum"))?;
            let hash = String::from_utf8_lossy(&out.stdout)
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned();
            hashes.push_str(&format!("HASH{megabytes}={hash}\n"));
            self.service(busybox, 5000 + megabytes, &["cat", &file.to_string_lossy()])?;
        }
        let zeros = crate::netns::run(&["sh", "-c", "head -c 104857600 /dev/zero | sha256sum"])
            .map_err(LabError::io("sha256sum"))?;
        let zeros = String::from_utf8_lossy(&zeros.stdout);
        let zeros = zeros.split(' ').next().unwrap_or_default();
        hashes.push_str(&format!("ZERO100={zeros}\n"));
        self.service(busybox, 5001, &["sha256sum"])?;
        Ok(hashes)
    }

    /// Starts the helper that a guest talks to over its second serial line; returns the socket to connect that to. It
    /// ends with the peer.
    pub fn help(&mut self, guest_mac: &str, model: &Model, dir: &Path) -> Result<PathBuf, LabError> {
        let socket = dir.join("line.sock");
        let _ = std::fs::remove_file(&socket);
        let exe = std::env::current_exe().map_err(LabError::io("finding this program"))?;
        let log =
            std::fs::File::create(dir.join("line.log")).map_err(LabError::io("making the helper's log"))?;
        let mut command = self.ns.command(&exe.to_string_lossy());
        command.arg("far-end").arg("--socket").arg(&socket);
        command.args(["--interface", "peer", "--mac", PEER_MAC, "--guest-mac", guest_mac]);
        command.arg("--model-log").arg(&model.log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Process::spawn("the far end's helper", command)
            .map_err(LabError::io("starting the far end's helper"))?;
        self.services.push(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            if Instant::now() > deadline {
                return Err(LabError::Malformed("the far end's helper did not come up".into()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(socket)
    }

    fn service(&mut self, busybox: &Path, port: usize, handler: &[&str]) -> Result<(), LabError> {
        let mut command = self.ns.command(&busybox.to_string_lossy());
        command
            .args(["nc", "-ll", "-p", &port.to_string(), "-e"])
            .arg(busybox)
            .args(handler);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.services
            .push(Process::spawn("nc", command).map_err(LabError::io("starting a service of the peer's"))?);
        Ok(())
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
        let mut command: Command = peer.ns.command(
            &sibling("nic-model")
                .map_err(LabError::io("nic-model"))?
                .to_string_lossy(),
        );
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

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }
}
