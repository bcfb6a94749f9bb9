//! The command line: `serve` runs the balancer, `ask` speaks to a running one.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millrace::EngineKind;
use millrace::control::ClientError;
use thiserror::Error;

use crate::balancer::BalancerError;
use crate::config::{ConfigError, Protocol};
use crate::control::ControlPlaneError;

mod ask;
mod serve;

/// Why the command failed; one line each.
#[derive(Debug, Error)]
pub enum CliError {
    /// Help, version or a wrong command line, laid out by clap.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The port, the workers, the control socket.
    #[error(transparent)]
    App(#[from] millrace::AppError),
    /// The program.
    #[error("the XDP program: {0}")]
    Program(#[from] millrace_ebpf::LoadError),
    /// The tables.
    #[error(transparent)]
    Balancer(#[from] BalancerError),
    /// Checks, neighbours.
    #[error(transparent)]
    Control(#[from] ControlPlaneError),
    /// The running instance.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Signals.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Its answer.
    #[error("the instance's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
    /// Nobody reads.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

const EXAMPLES: &str = "\
Examples:
  millrace-l4lb --config lb.toml --check
      says whether the file is right, and if not, which line is wrong
  millrace-l4lb --config lb.toml --device vfio-user:/run/nic.sock --exception-tap mrlb0 --tap-address 10.0.0.2/24
      balances on a modelled NIC; the host keeps ARP, ND and the rest on interface mrlb0
  millrace-l4lb --config lb.toml --device vfio:0000:17:00.0 --queues 8 --workers 4
      balances on a real port
  millrace-l4lb status
      VIPs, backends and their counters
  millrace-l4lb drain 10.0.0.11
      lets its connections end and gives it no new ones
  millrace-l4lb flow tcp 192.0.2.7:40000 10.0.0.100:80
      whose that connection is, and since when

A VIP's frames go to a backend by MAC rewrite (mode = \"l2\") or in an outer IP header (mode = \"ipip\"); the backend has
the VIP on its loopback and answers the client directly. The file is read again when it changes and on SIGHUP; a wrong file
changes nothing. apps/millrace-l4lb/examples has files to start from.";

#[derive(Parser)]
#[command(
    name = "millrace-l4lb",
    version,
    about = "Layer 4 load balancer: Maglev, a connection table and direct server return in an XDP program on a millrace port",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct CommandLine {
    #[command(flatten)]
    serve: Option<Serve>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Serve {
    /// TOML file with the VIPs and their backends
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say whether the file is right
    #[arg(long)]
    check: bool,
    /// vfio:BDF, vfio-user:SOCKET or model:ixgbe?wire=...
    #[arg(long, value_name = "SPEC", required_unless_present = "check")]
    device: Option<String>,
    /// Worker threads, one a core [default: one a queue]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Queue pairs of the port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    queues: u16,
    /// Name of the instance and of its control socket
    #[arg(long, value_name = "NAME", default_value = "l4lb")]
    name: String,
    /// Interface to make for what is not for a VIP: ARP, neighbour discovery, health checks, the host's own traffic
    #[arg(long, value_name = "NAME")]
    exception_tap: Option<String>,
    /// The host's address on that interface, such as 10.0.0.2/24; may be given several times
    #[arg(long, value_name = "ADDRESS/LEN", value_parser = interface_address, requires = "exception_tap")]
    tap_address: Vec<(IpAddr, u8)>,
    /// What runs the program [default: jit where there is one, else interp]
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Take devices that no driver test has judged
    #[arg(long)]
    untested: bool,
    /// Leave the placement of workers to the scheduler
    #[arg(long)]
    no_pin: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    /// The checked interpreter
    Interp,
    /// The compiler to machine code (x86-64)
    Jit,
    /// rbpf, for comparison: it refuses programs that it would run wrongly
    Rbpf,
}

impl From<Engine> for EngineKind {
    fn from(engine: Engine) -> EngineKind {
        match engine {
            Engine::Interp => EngineKind::Interp,
            Engine::Jit => EngineKind::Jit,
            Engine::Rbpf => EngineKind::Rbpf,
        }
    }
}

#[derive(Args)]
struct Instance {
    /// Which instance, when several run
    #[arg(long = "name", id = "instance", value_name = "NAME")]
    name: Option<String>,
    /// Where control sockets are [default: MILLRACE_RUN_DIR, else /run/millrace]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, short = 'j')]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Balance; the same as without a word
    Run(Box<Serve>),
    /// Say whether a file is right
    Check {
        /// The file
        file: PathBuf,
    },
    #[command(flatten)]
    Ask(Ask),
}

#[derive(Subcommand)]
enum Ask {
    /// Show VIPs, backends and counters
    Status {
        /// Only this VIP
        vip: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
    /// Show what became of packets, by reason
    Stats {
        #[command(flatten)]
        instance: Instance,
    },
    /// Show whose a flow is: PROTOCOL CLIENT:PORT VIP:PORT
    Flow {
        /// tcp or udp
        #[arg(value_parser = protocol)]
        protocol: Protocol,
        /// The client's address and port
        client: SocketAddr,
        /// The VIP's address and port
        vip: SocketAddr,
        #[command(flatten)]
        instance: Instance,
    },
    /// Show how backends' states changed
    Events {
        #[command(flatten)]
        instance: Instance,
    },
    /// Give a backend no new flows; those it has stay
    Drain {
        /// The backend
        backend: IpAddr,
        /// Only in this VIP
        #[arg(long)]
        vip: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
    /// Give a backend new flows again
    Undrain {
        /// The backend
        backend: IpAddr,
        /// Only in this VIP
        #[arg(long)]
        vip: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
    /// Read the file again
    Reload {
        #[command(flatten)]
        instance: Instance,
    },
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err("tcp or udp".into()),
    }
}

fn interface_address(text: &str) -> Result<(IpAddr, u8), String> {
    let parsed = text.split_once('/').and_then(|(address, len)| {
        let address: IpAddr = address.parse().ok()?;
        let len: u8 = len.parse().ok()?;
        (len <= crate::netlink::bits(address)).then_some((address, len))
    });
    parsed.ok_or_else(|| "write it as 10.0.0.2/24 or fd00::2/64".into())
}

/// Runs a command line, program name included.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), CliError> {
    let line = CommandLine::try_parse_from(args)?;
    match (line.command, line.serve) {
        (Some(Command::Run(serve)), _) => serve::serve(*serve),
        (Some(Command::Check { file }), _) => serve::check(&file).map(drop),
        (Some(Command::Ask(ask)), _) => ask::ask(ask),
        (None, Some(serve)) => serve::serve(serve),
        (None, None) => {
            use clap::CommandFactory;
            let missing = clap::error::ErrorKind::MissingRequiredArgument;
            Err(CommandLine::command()
                .error(missing, "give --config FILE; --help shows more")
                .into())
        }
    }
}
