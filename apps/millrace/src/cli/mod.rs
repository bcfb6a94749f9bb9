//! The `millrace` command: words as users of ethtool, ip and bpftool expect them, turned into control verbs, and answers
//! turned into tables or, with `--json`, left as they came.
//!
//! `words` reads keyword arguments, `port`, `prog`, `map` and `stats` are the objects, `table` lays out columns.

mod capture;
mod chain;
mod map;
mod port;
mod prog;
mod prog_run;
mod stats;
mod table;
mod through;
mod trace;
mod verify;
mod words;

use crate::control::client::{self, Client, ClientError};
use crate::control::default_run_dir;
use clap::{Parser, Subcommand};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

/// Why a command failed: one line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Usage(String),
    #[error("cannot read {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(
        "the instance answered something this command does not understand ({0}); are both of the same version?"
    )]
    Answer(String),
    /// Programs that the verifier refuses, told on the output.
    #[error("{refused} of {all} programs refused")]
    Refused { refused: usize, all: usize },
    #[error("{path}: {source}")]
    Object {
        path: PathBuf,
        source: millrace_ebpf::LoadError,
    },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Help, version and usage, which clap has laid out already.
    #[error("{0}")]
    Clap(clap::Error),
}

impl CliError {
    /// True when whoever reads the output has gone: no reason to complain.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[derive(Parser)]
#[command(
    name = "millrace",
    version,
    about = "Look into and steer a running millrace application",
    infer_subcommands = true,
    after_help = "\
Objects and verbs may be shortened: `millrace po sh` is `millrace port show`.

Examples:
  millrace port show                          what ports there are, and their links
  millrace port stats eth0                    the device's counters, as ethtool -S
  millrace queue show eth0                    queues, their workers, programs and verdicts
  millrace prog load filter.bpf.o filter      ship an XDP object to the instance
  millrace prog verify filter.bpf.o           would it be accepted, and if not, why?
  millrace prog attach filter port eth0       run it on every queue of eth0
  millrace prog replace filter2 port eth0 queue 0
  millrace chain add count port eth0          run one more program, in libxdp's order and with its rules
  millrace prog run filter.bpf.o --pcap in.pcap   try a program on a capture; no instance, no device
  millrace capture eth0/0 -w - udp | tshark -r -   what a queue sees, and what is made of it
  millrace map dump name conntrack            entries of a map, in hex as bpftool
  millrace stats --watch                      rates, every second
  millrace --instance lb --json stats         one of several instances, for a script"
)]
struct Args {
    /// Instance to speak to; not needed while only one runs
    #[arg(long, short = 'i', global = true, value_name = "NAME")]
    instance: Option<String>,
    /// Folder of the control sockets [default: $MILLRACE_RUN_DIR or /run/millrace]
    #[arg(long, global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, short = 'j', global = true)]
    json: bool,
    #[command(subcommand)]
    object: Object,
}

#[derive(Subcommand)]
enum Object {
    /// Ports: list, show, stats
    Port(port::PortArgs),
    /// Queues: list, show, stop, start
    Queue(port::QueueArgs),
    /// Programs: load, verify, attach, detach, replace, list, unload
    Prog(prog::ProgArgs),
    /// Frames of a queue with verdicts and hints, as pcapng or lines
    Capture(capture::CaptureArgs),
    /// Several programs on a queue: show, set, add, del
    Chain(chain::ChainArgs),
    /// Maps: list, show, dump, lookup, update, delete
    Map(map::MapArgs),
    /// Counters of all queues, once or again and again
    Stats(stats::StatsArgs),
    /// What programs print with bpf_printk
    Trace(trace::TraceArgs),
    /// Names of the instances that run
    Instances,
    /// Version, protocol, features and verbs of the instance
    Info,
    /// End the instance cleanly, as SIGTERM would
    Stop,
    /// Call any verb, such as those an application has added: `millrace call VERB [JSON]`
    Call {
        /// The verb, such as lb.stats
        verb: String,
        /// Its arguments, a JSON object
        args: Option<String>,
    },
}

/// Where a command's answer goes.
struct Context<'a> {
    client: Client,
    json: bool,
    out: &'a mut dyn Write,
}

impl Context<'_> {
    fn call(&mut self, verb: &str, args: Value) -> Result<Value, CliError> {
        Ok(self.client.call(verb, args)?)
    }

    /// With `--json` the answer as it is; else what `render` makes of it.
    fn show(
        &mut self,
        answer: &Value,
        render: impl FnOnce(&Value) -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        let text = if self.json {
            format!("{answer}\n")
        } else {
            render(answer)?
        };
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// For verbs whose answer says nothing but that it is done.
    fn done(&mut self, verb: &str, args: Value) -> Result<(), CliError> {
        let answer = self.call(verb, args)?;
        if self.json {
            self.show(&answer, |_| Ok(String::new()))
        } else {
            Ok(())
        }
    }
}

/// Runs the command line `args` (the program's name first) and writes its output to `out`.
pub fn run<I, T>(args: I, out: &mut dyn Write) -> Result<(), CliError>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let args = Args::try_parse_from(args).map_err(CliError::Clap)?;
    let dir = args.run_dir.unwrap_or_else(default_run_dir);
    if let Object::Instances = args.object {
        let names = client::instances(&dir);
        let text = if args.json {
            format!("{}\n", Value::from(names))
        } else {
            names.iter().map(|name| format!("{name}\n")).collect()
        };
        return Ok(out.write_all(text.as_bytes())?);
    }
    if let Object::Prog(prog) = &args.object
        && let Some(offline) = prog.offline()
    {
        return prog_run::run(offline, args.json, out);
    }
    if let Object::Prog(prog) = &args.object
        && let Some(wanted) = prog.verify()
    {
        return verify::run(wanted, args.json, out);
    }
    let client = Client::connect(&dir, args.instance.as_deref())?;
    let mut cx = Context {
        client,
        json: args.json,
        out,
    };
    match args.object {
        Object::Port(args) => port::port(&mut cx, args),
        Object::Queue(args) => port::queue(&mut cx, args),
        Object::Prog(args) => prog::run(&mut cx, args),
        Object::Capture(args) => capture::run(&mut cx, args),
        Object::Chain(args) => chain::run(&mut cx, args),
        Object::Map(args) => map::run(&mut cx, args),
        Object::Stats(args) => stats::run(&mut cx, args),
        Object::Trace(args) => trace::run(&mut cx, args),
        Object::Instances => Ok(()),
        Object::Info => {
            let answer = cx.call("version", Value::Null)?;
            let name = cx.client.instance().to_string();
            cx.show(&answer, |v| {
                Ok(format!(
                    "{name}: version {} pid {} protocol {}\n    features {}\n    verbs {}\n",
                    text(&v["version"]),
                    v["pid"],
                    v["protocol"],
                    words_of(&v["features"]),
                    words_of(&v["verbs"])
                ))
            })
        }
        Object::Stop => cx.done("stop", Value::Null),
        Object::Call { verb, args } => {
            let args = match args {
                None => Value::Null,
                Some(text) => serde_json::from_str(&text).map_err(|e| {
                    CliError::Usage(format!(
                        "the arguments are not JSON: {e}; write an object such as '{{\"port\":\"eth0\"}}'"
                    ))
                })?,
            };
            let answer = cx.call(&verb, args)?;
            cx.show(&answer, |v| {
                serde_json::to_string_pretty(v)
                    .map(|s| s + "\n")
                    .map_err(|e| CliError::Answer(e.to_string()))
            })
        }
    }
}

/// A JSON value as a person writes it: strings without quotes, `-` for nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn words_of(value: &Value) -> String {
    rows(value).iter().map(text).collect::<Vec<_>>().join(" ")
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
