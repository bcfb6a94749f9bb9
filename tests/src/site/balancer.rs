//! The balancer of a site: the modelled NIC in one process, `millrace-l4lb` attached to it over vfio-user in another.

use super::{BALANCER4, BALANCER6, Site, WIRE};
use crate::process::{Process, sibling};
use millrace::control::{Client, ClientError};
use serde::Deserialize;
use serde_json::json;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name of the balancer's instance; one a run folder.
pub const INSTANCE: &str = "l4lb";
/// The exception tap's name.
pub const TAP: &str = "mrlb0";

/// A running balancer with its NIC.
#[derive(Debug)]
pub struct Balancer {
    // The balancer first: it is stopped before its NIC goes.
    /// `millrace-l4lb`.
    pub lb: Process,
    /// `nic-model`.
    pub model: Process,
    /// The configuration in force; write to it and the balancer reloads.
    pub config: PathBuf,
    /// The folder of control sockets.
    pub run_dir: PathBuf,
    /// One question at a time: the control socket serves a limited number of clients.
    asking: Mutex<()>,
}

/// A VIP as the balancer reports it.
#[derive(Debug, Clone, Deserialize)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// Whether it still waits for the first answers of its health checks.
    #[serde(default)]
    pub settling: bool,
    /// Its backends.
    pub backends: Vec<VipBackend>,
}

/// A backend as the balancer reports it.
#[derive(Debug, Clone, Deserialize)]
pub struct VipBackend {
    /// Its address.
    pub address: IpAddr,
    /// `up`, `down`, ...
    pub state: String,
    /// Whether it takes new flows.
    #[serde(default)]
    pub drained: bool,
    /// Frames sent to it.
    pub packets: u64,
}

/// Where the balancer keeps a flow.
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// Whether its connection table knows the flow.
    pub found: bool,
    /// The backend it goes to.
    pub backend: Option<IpAddr>,
    /// When it was placed there, Unix time in milliseconds.
    pub since_ms: Option<u64>,
}

/// A change of a backend's state, from the balancer's log.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// The backend.
    pub backend: IpAddr,
    /// The state it came to.
    pub to: String,
}

impl Site {
    /// Starts the NIC and the balancer, each in its namespace, with this configuration.
    pub fn start_balancer(&self, config: &str, model_args: &[&str]) -> io::Result<Balancer> {
        let dir = self.dir().to_path_buf();
        let run_dir = dir.join("run");
        std::fs::create_dir_all(&run_dir)?;
        let config_path = dir.join("l4lb.toml");
        std::fs::write(&config_path, config)?;
        let mut model = self.start_model(model_args)?;
        let socket = self.socket();
        wait_until(
            Duration::from_secs(10),
            "nic-model to serve its socket",
            || socket.exists(),
            &mut model,
        )?;
        let mut lb = self.start_lb(&config_path, &run_dir)?;
        let tap = format!("/sys/class/net/{TAP}");
        let up = || self.balancer.run(&["test", "-e", &tap]).is_ok();
        wait_until(
            Duration::from_secs(20),
            "the balancer to open its exception tap",
            up,
            &mut lb,
        )?;
        self.address_tap()?;
        let control = run_dir.join(format!("{INSTANCE}.sock"));
        wait_until(
            Duration::from_secs(20),
            "the control socket",
            || control.exists(),
            &mut lb,
        )?;
        Ok(Balancer {
            lb,
            model,
            config: config_path,
            run_dir,
            asking: Mutex::default(),
        })
    }

    /// Where the model listens.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("nic.sock")
    }

    /// Starts just the NIC.
    pub fn start_model(&self, args: &[&str]) -> io::Result<Process> {
        let mut command = self.nic.command(&sibling("nic-model")?.to_string_lossy());
        command.arg("ixgbe").arg("--socket").arg(self.socket());
        command
            .args(["--wire", &format!("packet:{WIRE}"), "--mac", "02:00:0a:4d:00:02"])
            .args(args);
        let log = std::fs::File::create(self.dir().join("nic-model.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Process::spawn("nic-model", command)
    }

    /// Starts just the balancer; its NIC must be there.
    pub fn start_lb(&self, config: &Path, run_dir: &Path) -> io::Result<Process> {
        let mut command = self
            .balancer
            .command(&sibling("millrace-l4lb")?.to_string_lossy());
        command.arg("--config").arg(config);
        command.args(["--device", &format!("vfio-user:{}", self.socket().display())]);
        command.args([
            "--workers",
            "2",
            "--queues",
            "2",
            "--name",
            INSTANCE,
            "--exception-tap",
            TAP,
        ]);
        command.env("MILLRACE_RUN_DIR", run_dir);
        let log = std::fs::File::create(self.dir().join("l4lb.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Process::spawn("millrace-l4lb", command)
    }

    /// Gives the exception tap the balancer's own addresses; it adds the VIPs itself.
    pub fn address_tap(&self) -> io::Result<()> {
        let ns = &self.balancer;
        ns.run(&["ip", "link", "set", TAP, "up"])?;
        ns.run(&["ip", "addr", "replace", &format!("{BALANCER4}/24"), "dev", TAP])?;
        ns.run(&[
            "ip",
            "-6",
            "addr",
            "replace",
            &format!("{BALANCER6}/64"),
            "dev",
            TAP,
            "nodad",
        ])?;
        Ok(())
    }
}

impl Balancer {
    /// A control connection; one a thread.
    pub fn control(&self) -> Result<Client, ClientError> {
        Client::connect(&self.run_dir, Some(INSTANCE))
    }

    /// The VIPs with their backends and counters.
    pub fn vips(&self) -> io::Result<Vec<Vip>> {
        let answer = self.ask("lb.vips", json!({}))?;
        serde_json::from_value(answer["vips"].clone()).map_err(io::Error::other)
    }

    /// What the connection table says of a flow to the VIP.
    pub fn flow(&self, source: SocketAddr, destination: SocketAddr) -> io::Result<Flow> {
        let args =
            json!({"protocol": "tcp", "source": source.to_string(), "destination": destination.to_string()});
        serde_json::from_value(self.ask("lb.flow", args)?).map_err(io::Error::other)
    }

    /// The log of state changes.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        serde_json::from_value(self.ask("lb.events", json!({}))?["events"].clone()).map_err(io::Error::other)
    }

    /// Takes a backend out of service for new flows.
    pub fn drain(&self, backend: IpAddr) -> io::Result<()> {
        self.ask("lb.drain", json!({"backend": backend.to_string()}))
            .map(drop)
    }

    /// Any verb.
    pub fn ask(&self, verb: &str, args: serde_json::Value) -> io::Result<serde_json::Value> {
        let _one_at_a_time = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.control()
            .and_then(|mut c| c.call(verb, args))
            .map_err(io::Error::other)
    }

    /// Waits until so many backends of the first VIP take flows.
    pub fn wait_for_backends(&self, count: usize, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let up = self
                .vips()?
                .first()
                .map_or(0, |v| v.backends.iter().filter(|b| b.state == "up").count());
            if up == count {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "{up} of {count} backends up after {limit:?}"
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Polls a condition while the process it depends on lives.
fn wait_until(
    limit: Duration,
    what: &str,
    ready: impl Fn() -> bool,
    process: &mut Process,
) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !ready() {
        if let Some(status) = process.ended() {
            return Err(io::Error::other(format!(
                "waited for {what}, but the process ended with {status}"
            )));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("waited {limit:?} for {what}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
