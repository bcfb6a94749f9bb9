//! The command line of `nic-model`.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{info, warn};

use super::Model;
use super::backoff::IdlePolicy;
use super::privileges::{self, Account, PrivilegeError};
use super::registry::{ModelError, ModelSpec, parse_mac, parse_queues};
use crate::dma::Trust;
use crate::vfio_user::server::{Options, ServeError, Server, SocketId, remove_stale_socket};

const ABOUT: &str = "\
A network card without the card: serves a model of an Intel NIC on a Unix socket, over vfio-user.

Whoever connects to the socket has the device: our driver (device string vfio-user:PATH), or QEMU 10.1 and \
newer, whose guest then sees a PCI card and loads its own driver for it. What the card sends and receives goes \
through its wire.";

const EXAMPLES: &str = "\
Wires:
  tap:NAME            a tap interface, made if need be: the host's stack is the other end
  packet:IFACE        an existing interface (best a veth end), raw: a whole namespace is the other end
  link:NAME           the other model that has a link of that name
  pcap:IN[,OUT]       receives the frames of a capture file, writes what is sent to another
  gen:PROTO[,KEY=V].. a traffic generator: udp4, udp6, tcp4 or tcp6; keys flows, size (bytes with FCS), rate (frames a
                      second, 0 for all that is asked for), count, src, dst, dport, smac, dmac, vlan, flags, seed;
                      such as gen:udp4,flows=100,rate=50000
  null                nothing is received, everything is sent to nowhere

Examples:
  A card whose cable ends in tap interface mr0, for our own driver:
    nic-model ixgbe --socket /run/nic0.sock --wire tap:mr0
    millrace-l4lb --device vfio-user:/run/nic0.sock ...

  A card in network namespace `lan`, with four queue pairs and doorbells that need no message:
    ip netns exec lan nic-model ixgbe --socket /run/nic0.sock --wire packet:veth0 --queues 4 --map-doorbells

  A card for a virtual machine. QEMU's memory can be resized, so it has to be trusted not to do that:
    nic-model ixgbe --socket /run/nic0.sock --wire tap:mr0 --trust-client-memory
    qemu-system-x86_64 -machine q35,memory-backend=m0 -m 1G \\
      -object memory-backend-memfd,id=m0,size=1G,share=on \\
      -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"path\":\"/run/nic0.sock\",\"type\":\"unix\"}}' ...

One client is served at a time. When it goes, its memory is unmapped and the card is reset for the next.
SIGINT or SIGTERM ends the model and removes the socket. Started as root, it becomes an unprivileged user
(--user) once wire and socket are open. Logging: RUST_LOG=debug.";

/// Serves a model of a NIC over vfio-user.
#[derive(Debug, Parser)]
#[command(name = "nic-model", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Intel 82599, 10 Gb/s
    #[command(after_help = EXAMPLES)]
    Ixgbe(Serve),
    /// A PCI test device that is no NIC: registers, a DMA engine, interrupts
    Exerciser(Serve),
    /// Removes a socket once standard input ends; started by nic-model itself before it drops privileges
    #[command(hide = true)]
    RemoveSocket { path: PathBuf, id: SocketId },
}

#[derive(Debug, Args)]
struct Serve {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// What the card's cable is plugged into (see below)
    #[arg(long, value_name = "SPEC", default_value = "null")]
    wire: String,
    /// The card's MAC address, like 52:54:00:00:00:01; a fixed local one when not given
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    mac: Option<[u8; 6]>,
    /// Queue pairs the model serves, 1 to 128; an 82599 has 64 when not given
    #[arg(long, value_name = "N", value_parser = parse_queues)]
    queues: Option<u16>,
    /// Let clients map the pages that hold doorbells: no message per doorbell, but the model must poll
    #[arg(long)]
    map_doorbells: bool,
    /// Log every register access
    #[arg(long)]
    trace: bool,
    /// Print the model's counters this often
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    stats: Option<u64>,
    /// End when the first client has gone
    #[arg(long)]
    once: bool,
    /// Accept client memory that is not sealed against shrinking; a client that shrinks it kills the model
    #[arg(long)]
    trust_client_memory: bool,
    /// Who to become once wire and socket are open: NAME, UID or UID:GID; `nobody` when started as root
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Longest sleep, in microseconds, of an idle model whose doorbells are mapped
    #[arg(long, value_name = "US", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    idle_sleep_us: u64,
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error("cannot catch signals: {0}")]
    Signals(#[source] io::Error),
    #[error("--user: only root can become another user; leave it out or start with sudo")]
    NotRoot,
    #[error("socket {}: cannot give it to the new user: {source}", path.display())]
    Chown { path: PathBuf, source: io::Error },
    #[error("cannot start the helper that removes the socket: {0}")]
    Helper(#[source] io::Error),
}

/// Runs `nic-model`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        What::Ixgbe(serve) => serve.run("ixgbe"),
        What::Exerciser(serve) => serve.run("exerciser"),
        What::RemoveSocket { path, id } => {
            remove_when_closed(&path, id);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "nic-model: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Serve {
    fn run(&self, family: &str) -> Result<(), CliError> {
        start_logging(self.trace);
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(CliError::Signals)?;
        }
        let account = self.account()?;
        let spec = ModelSpec {
            family: family.into(),
            wire: Some(self.wire.clone()),
            mac: self.mac,
            queues: self.queues,
            map_doorbells: self.map_doorbells,
            trace: self.trace,
        };
        let mut model = spec.open()?;
        let server = Server::bind(&self.socket)?;
        let helper = match account {
            Some(account) => Some(self.hand_over(&server, account)?),
            None => None,
        };
        privileges::give_up(account)?;

        let id = model.identity();
        info!(
            "{} ({:04x}:{:04x}) on {}, wire {}",
            id.name,
            id.vendor,
            id.device,
            self.socket.display(),
            self.wire
        );
        let options = Options {
            trust: if self.trust_client_memory {
                Trust::Any
            } else {
                Trust::Sealed
            },
            once: self.once,
            idle: IdlePolicy {
                sleep: Duration::from_micros(self.idle_sleep_us),
                ..IdlePolicy::default()
            },
            observe_every: self.stats.map(Duration::from_secs),
            ..Options::default()
        };
        let served = server.serve(&mut *model, &options, &stop, &mut print_counters);
        if self.stats.is_some() {
            print_counters(&*model);
        }
        drop(server);
        if let Some(mut helper) = helper {
            drop(helper.stdin.take());
            let _ = helper.wait();
        }
        served?;
        Ok(())
    }

    fn account(&self) -> Result<Option<Account>, CliError> {
        match (&self.user, privileges::is_root()) {
            (Some(user), true) => Ok(Some(Account::find(user)?)),
            (None, true) => match Account::find("nobody") {
                Err(PrivilegeError::NoSuchUser(_) | PrivilegeError::Passwd(_)) => Ok(Some(Account {
                    uid: 65534,
                    gid: 65534,
                })),
                found => Ok(Some(found?)),
            },
            (Some(_), false) => Err(CliError::NotRoot),
            (None, false) => Ok(None),
        }
    }

    /// The socket's file stays with the user who started us, so that user's programs can connect; a helper that
    /// stays behind as that user removes it, since after the change of user we may not.
    fn hand_over(&self, server: &Server, account: Account) -> Result<Child, CliError> {
        let path = std::path::absolute(server.path()).map_err(CliError::Helper)?;
        let chown = |source| CliError::Chown {
            path: path.clone(),
            source,
        };
        // A client of the new user's group may connect too.
        std::os::unix::fs::lchown(&path, None, Some(account.gid)).map_err(chown)?;
        let exe = std::env::current_exe().map_err(CliError::Helper)?;
        let mut command = Command::new(exe);
        command
            .arg("remove-socket")
            .arg(&path)
            .arg(server.socket_id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Its own process group: a Ctrl-C meant for us does not end it first.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().map_err(CliError::Helper)
    }
}

/// Waits until whoever started us has ended, however it did, and removes its socket.
fn remove_when_closed(path: &Path, id: SocketId) {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    // A process that is killed closes its files in an order of the kernel's: its socket may listen a moment longer than
    // our pipe is open.
    for _ in 0..100 {
        remove_stale_socket(path, id);
        if SocketId::of(path).is_ok_and(|found| found == id) {
            std::thread::sleep(Duration::from_millis(10));
        } else {
            return;
        }
    }
}

fn print_counters(model: &dyn Model) {
    let mut line = String::from("stats:");
    for (name, value) in model.counters() {
        line.push_str(&format!(" {name}={value}"));
    }
    if writeln!(io::stdout(), "{line}").is_err() {
        warn!("standard output is closed; no more statistics");
    }
}

fn start_logging(trace: bool) {
    let default = if trace {
        "info,millrace_nic_models=trace"
    } else {
        "info"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
