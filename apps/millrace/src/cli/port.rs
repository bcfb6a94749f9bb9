//! `millrace port` and `millrace queue`.

use super::table::table;
use super::words::Words;
use super::{CliError, Context, rows, text};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Examples:\n  millrace port show\n  millrace port show eth0\n  millrace port stats eth0\n  millrace --json port stats"
)]
pub(super) struct PortArgs {
    #[command(subcommand)]
    verb: Option<PortVerb>,
}

#[derive(Subcommand)]
enum PortVerb {
    /// Names only
    List,
    /// Link, addresses, driver and device of all ports or of one
    Show {
        /// Name of the port
        port: Option<String>,
    },
    /// The device's counters, as `ethtool -S`
    Stats {
        /// Name of the port
        port: Option<String>,
    },
}

pub(super) fn port(cx: &mut Context<'_>, args: PortArgs) -> Result<(), CliError> {
    match args.verb.unwrap_or(PortVerb::Show { port: None }) {
        PortVerb::List => {
            let answer = cx.call("port.list", Value::Null)?;
            cx.show(&answer, |v| {
                Ok(rows(v).iter().map(|name| text(name) + "\n").collect())
            })
        }
        PortVerb::Show { port } => {
            let answer = cx.call("port.show", json!({"port": port}))?;
            cx.show(&answer, |v| Ok(rows(v).iter().map(one_port).collect()))
        }
        PortVerb::Stats { port } => {
            let answer = cx.call("port.stats", json!({"port": port}))?;
            cx.show(&answer, |v| Ok(port_stats(v)))
        }
    }
}

/// In the manner of `ip link`.
fn one_port(port: &Value) -> String {
    let of = |name: &str| text(&port[name]);
    let mut out = format!(
        "{}: {}: <{}> mtu {} queues {} driver {}\n    link/ether {}",
        of("ifindex"),
        of("name"),
        of("link").to_uppercase(),
        of("mtu"),
        of("queues"),
        of("driver"),
        of("mac")
    );
    if port["link"] == "up" {
        let _ = write!(out, " {} Mb/s", of("speed_mbps"));
    }
    if !port["numa_node"].is_null() {
        let _ = write!(out, " node {}", of("numa_node"));
    }
    let _ = write!(out, "\n    device {} ({})\n", of("device"), of("model"));
    if !port["exception_tap"].is_null() {
        let _ = writeln!(out, "    exceptions on {}", of("exception_tap"));
    }
    out
}

/// In the manner of `ethtool -S`.
fn port_stats(answer: &Value) -> String {
    let mut out = String::new();
    for (name, port) in answer.as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name}:");
        for (group, prefix) in [
            ("stats", ""),
            ("tap", "tap_"),
            ("buffers", "buffers_"),
            ("device", "hw_"),
        ] {
            for (counter, value) in port[group].as_object().into_iter().flatten() {
                let _ = writeln!(out, "     {prefix}{counter}: {value}");
            }
        }
    }
    out
}

#[derive(Args)]
#[command(
    infer_subcommands = true,
    after_help = "Examples:\n  millrace queue show                 every queue of every port\n  millrace queue show eth0 1          one queue, all its counters\n  millrace queue stop eth0 1          the rest of the port runs on\n  millrace queue start port eth0 queue 1"
)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    verb: Option<QueueVerb>,
}

#[derive(Subcommand)]
enum QueueVerb {
    /// Which worker runs which queue with which program
    List {
        /// [port] PORT
        words: Vec<String>,
    },
    /// Counters of all queues, of a port's, or of one: [port] PORT [queue] N
    Show {
        /// [port] PORT [queue] N
        words: Vec<String>,
    },
    /// Stop one queue pair while the others run: [port] PORT [queue] N
    Stop {
        /// [port] PORT [queue] N
        words: Vec<String>,
    },
    /// Start a stopped queue pair: [port] PORT [queue] N
    Start {
        /// [port] PORT [queue] N
        words: Vec<String>,
    },
}

pub(super) fn queue(cx: &mut Context<'_>, args: QueueArgs) -> Result<(), CliError> {
    match args.verb.unwrap_or(QueueVerb::Show { words: Vec::new() }) {
        QueueVerb::List { words } => {
            let (port, _) = port_and_queue(words, "millrace queue list [PORT]")?;
            let answer = cx.call("queue.list", json!({"port": port}))?;
            cx.show(&answer, |v| {
                let cells = |q: &Value| {
                    ["port", "queue", "worker", "state", "program"]
                        .map(|c| text(&q[c]))
                        .to_vec()
                };
                let lines: Vec<_> = rows(v).iter().map(cells).collect();
                Ok(table(&["PORT", "QUEUE", "WORKER", "STATE", "PROGRAM"], &lines))
            })
        }
        QueueVerb::Show { words } => {
            let (port, queue) = port_and_queue(words, "millrace queue show [PORT [N]]")?;
            let answer = cx.call("queue.show", json!({"port": port, "queue": queue}))?;
            cx.show(&answer, |v| {
                Ok(if queue.is_some() { one_queue(v) } else { queues(v) })
            })
        }
        QueueVerb::Stop { words } => cx.done("queue.stop", exactly_one(words, "millrace queue stop PORT N")?),
        QueueVerb::Start { words } => {
            cx.done("queue.start", exactly_one(words, "millrace queue start PORT N")?)
        }
    }
}

fn port_and_queue(
    words: Vec<String>,
    usage: &'static str,
) -> Result<(Option<String>, Option<u16>), CliError> {
    let mut words = Words::new(words, usage);
    words.skip(&["port", "dev"]);
    let port = words.next_if_any();
    words.skip(&["queue"]);
    let queue = match words.next_if_any() {
        None => None,
        Some(word) => Some(
            word.parse()
                .map_err(|_| words.error(format_args!("{word:?} is no queue number")))?,
        ),
    };
    words.end()?;
    Ok((port, queue))
}

fn exactly_one(words: Vec<String>, usage: &'static str) -> Result<Value, CliError> {
    match port_and_queue(words, usage)? {
        (Some(port), Some(queue)) => Ok(json!({"port": port, "queue": queue})),
        _ => Err(CliError::Usage(format!(
            "name a port and a queue; usage: {usage}"
        ))),
    }
}

/// The counters most people look for.
pub(super) const SHOWN: &[(&str, &str)] = &[
    ("RX", "rx_frames"),
    ("DROP", "xdp_drop"),
    ("PASS", "xdp_pass"),
    ("TX", "xdp_tx"),
    ("REDIR", "xdp_redirect"),
    ("ABORT", "xdp_aborted"),
    ("NOPROG", "no_program"),
    ("SENT", "tx_frames"),
];

fn queues(answer: &Value) -> String {
    let mut header = vec!["PORT", "QUEUE", "WORKER", "STATE", "PROGRAM"];
    header.extend(SHOWN.iter().map(|(title, _)| *title));
    let lines: Vec<Vec<String>> = rows(answer)
        .iter()
        .map(|queue| {
            let state = if queue["running"] == true {
                "running"
            } else {
                "stopped"
            };
            let mut cells = vec![
                text(&queue["port"]),
                text(&queue["queue"]),
                text(&queue["worker"]),
                state.into(),
                text(&queue["program"]),
            ];
            cells.extend(SHOWN.iter().map(|(_, counter)| text(&queue["counters"][counter])));
            cells
        })
        .collect();
    table(&header, &lines)
}

fn one_queue(answer: &Value) -> String {
    let mut out = String::new();
    for queue in rows(answer) {
        let state = if queue["running"] == true {
            "running"
        } else {
            "stopped"
        };
        let _ = writeln!(
            out,
            "{} queue {}: {state} worker {} program {}",
            text(&queue["port"]),
            queue["queue"],
            queue["worker"],
            text(&queue["program"])
        );
        for (counter, value) in queue["counters"].as_object().into_iter().flatten() {
            let _ = writeln!(out, "     {counter}: {value}");
        }
    }
    out
}
