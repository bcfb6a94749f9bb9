//! `millrace capture`: frames of a queue into a pcapng file, a pipe, or lines.

use super::{CliError, Context, rows};
use crate::capture::file::{CaptureFile, comment};
use crate::capture::filter::Filter;
use crate::capture::{Captured, Point, SNAP, SNAP_MAX};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(
    after_help = "QUEUE is PORT/N, or PORT for all queues of it. FILTER is a subset of tcpdump's: ip, ip6, arp, tcp, udp, sctp, icmp,\nicmp6, igmp, vlan [ID], less N, greater N, len OP N, [ip|ip6] proto P, [tcp|udp] [DIR] port P, portrange A-B,\n[ip|ip6|arp] [DIR] [host] ADDRESS, [DIR] net ADDRESS/LEN, ether [DIR] [host] MAC, ether proto P, broadcast, multicast,\ntcp[tcpflags] & tcp-syn != 0 and the like; DIR is src, dst, src or dst, src and dst;\nwith and, or, not and parentheses.\n\nEach frame carries its queue (epb_queue), the program's verdict (epb_verdict) and, as a comment, both and the\ndevice's hints. Frames that the client is too slow for are not captured, and counted at the end.\n\nExamples:\n  millrace capture eth0/0 -w in.pcapng                 as frames come in, until Ctrl-C\n  millrace capture eth0 --exit -w - udp port 53 | tshark -r -   as programs leave them\n  millrace capture eth0/1 --count 10 not arp           ten lines on the terminal"
)]
pub(super) struct CaptureArgs {
    /// PORT/N, or PORT for all its queues
    queue: String,
    /// Frames as they come in, before the program; the default
    #[arg(long, conflicts_with = "exit")]
    entry: bool,
    /// Frames as the program leaves them
    #[arg(long)]
    exit: bool,
    /// Write pcapng to FILE, or to standard output for -
    #[arg(long, short = 'w', value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after N frames
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,
    /// End after SECONDS
    #[arg(long, short = 't', value_name = "SECONDS")]
    time: Option<f64>,
    /// Bytes kept of each frame
    #[arg(long, short = 's', value_name = "BYTES", default_value_t = SNAP)]
    snaplen: usize,
    /// Which frames: words as tcpdump's
    #[arg(trailing_var_arg = true)]
    filter: Vec<String>,
}

/// Where frames go.
enum Sink {
    File(CaptureFile<Box<dyn Write>>),
    Lines,
}

pub(super) fn run(cx: &mut Context<'_>, args: CaptureArgs) -> Result<(), CliError> {
    let filter = args.filter.join(" ");
    Filter::parse(&filter).map_err(|e| CliError::Usage(e.to_string()))?;
    if !(1..=SNAP_MAX).contains(&args.snaplen) {
        return Err(CliError::Usage(format!(
            "--snaplen {}: give 1 to {SNAP_MAX}",
            args.snaplen
        )));
    }
    let (port, queue) = match args.queue.rsplit_once('/') {
        None => (args.queue.as_str(), Value::Null),
        Some((port, number)) => {
            let number: u16 = number.parse().map_err(|_| {
                CliError::Usage(format!(
                    "{:?} is no queue; write PORT/N, such as eth0/0",
                    args.queue
                ))
            })?;
            (port, number.into())
        }
    };
    let point = if args.exit && !args.entry {
        Point::Exit
    } else {
        Point::Entry
    };
    let stop = stop_flag()?;
    let mut wish = json!({
        "port": port, "point": point_name(point), "snaplen": args.snaplen, "filter": filter,
    });
    if !queue.is_null() {
        wish["queue"] = queue;
    }
    let started = cx.call("capture.start", wish)?;
    let queues: Vec<u16> = rows(&started["queues"])
        .iter()
        .filter_map(|q| u16::try_from(q.as_u64()?).ok())
        .collect();
    let outcome = Capture {
        id: started["id"].clone(),
        queues: &queues,
        left: args.count.unwrap_or(u64::MAX),
        taken: 0,
    }
    .go(cx, &args, port, point, &filter, &stop);
    let (taken, last) = match outcome {
        Ok(done) => done,
        Err(error) => {
            let _ = cx.call("capture.stop", json!({"id": started["id"]}));
            return Err(error);
        }
    };
    // Standard output may be the capture itself.
    eprintln!(
        "{taken} frames captured, {} matched, {} dropped",
        last["matched"], last["dropped"]
    );
    Ok(())
}

struct Capture<'a> {
    id: Value,
    queues: &'a [u16],
    left: u64,
    taken: u64,
}

impl Capture<'_> {
    fn go(
        mut self,
        cx: &mut Context<'_>,
        args: &CaptureArgs,
        port: &str,
        point: Point,
        filter: &str,
        stop: &AtomicBool,
    ) -> Result<(u64, Value), CliError> {
        let mut sink = match &args.write {
            None => Sink::Lines,
            Some(path) => {
                let out: Box<dyn Write> = if path.as_os_str() == "-" {
                    Box::new(std::io::stdout())
                } else {
                    let file = File::create(path)
                        .map_err(|e| CliError::Usage(format!("cannot write {}: {e}", path.display())))?;
                    Box::new(BufWriter::new(file))
                };
                let begun = CaptureFile::begin(out, port, self.queues, point, args.snaplen, filter);
                Sink::File(begun.map_err(written)?)
            }
        };
        let begun = Instant::now();
        let limit = args
            .time
            .map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
        loop {
            let over = stop.load(Ordering::Relaxed) || limit.is_some_and(|limit| begun.elapsed() >= limit);
            let verb = if over || self.left == 0 {
                "capture.stop"
            } else {
                "capture.read"
            };
            let mut wish = json!({"id": self.id});
            if verb == "capture.read" {
                wish["wait_ms"] = 200.into();
            }
            let part = cx.call(verb, wish)?;
            for frame in rows(&part["frames"]) {
                if self.left == 0 {
                    break;
                }
                let frame: Captured =
                    serde_json::from_value(frame.clone()).map_err(|e| CliError::Answer(e.to_string()))?;
                self.one(cx, &mut sink, &frame)?;
            }
            match &mut sink {
                Sink::File(file) => file.flush()?,
                Sink::Lines => cx.out.flush()?,
            }
            if verb == "capture.stop" {
                return Ok((self.taken, part));
            }
        }
    }

    fn one(&mut self, cx: &mut Context<'_>, sink: &mut Sink, frame: &Captured) -> Result<(), CliError> {
        let data = STANDARD
            .decode(&frame.data)
            .map_err(|e| CliError::Answer(e.to_string()))?;
        self.left -= 1;
        self.taken += 1;
        match sink {
            Sink::File(file) => {
                let interface = self.queues.iter().position(|queue| *queue == frame.queue);
                file.frame(interface.unwrap_or(0) as u32, frame, &data)
                    .map_err(written)?;
            }
            Sink::Lines if cx.json => {
                let line = serde_json::to_string(frame).map_err(|e| CliError::Answer(e.to_string()))?;
                writeln!(cx.out, "{line}")?;
            }
            Sink::Lines => writeln!(
                cx.out,
                "{}.{:09} {} bytes {}",
                frame.time / 1_000_000_000,
                frame.time % 1_000_000_000,
                frame.len,
                comment(frame)
            )?,
        }
        Ok(())
    }
}

fn point_name(point: Point) -> &'static str {
    match point {
        Point::Entry => "entry",
        Point::Exit => "exit",
    }
}

fn written(error: pcap_file::PcapError) -> CliError {
    match error {
        pcap_file::PcapError::IoError(error) => CliError::Output(error),
        other => CliError::Answer(other.to_string()),
    }
}

/// Ctrl-C ends the capture, not the command: what waits is still written.
pub(super) fn stop_flag() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second one ends the command at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(CliError::Output)?;
    }
    Ok(stop)
}
