//! `millrace prog run`: a program on frames of a capture, with no instance and no device.

use super::{CliError, through};
use clap::Args;
use millrace_ebpf::{EngineKind, Fault, Instance, Loader, Object, Verdict, XdpAction, XdpBuff};
use millrace_nic_models::wire::{PcapWire, Wire};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Room before and behind each frame.
const HEADROOM: usize = 256;
const TAILROOM: usize = 512;
/// Frames of a batch, as the workers have them.
const BATCH: usize = 64;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  millrace prog run filter.bpf.o --pcap in.pcap\n  millrace prog run lb.bpf.o --program xdp_lb --pcap in.pcapng --write out.pcap\n  millrace --json prog run filter.bpf.o --pcap in.pcap --repeat 1000 --engine interp\n  millrace prog run meta.bpf.o --pcap in.pcap --hints ixgbe"
)]
pub(super) struct RunArgs {
    /// The object, such as filter.bpf.o
    file: PathBuf,
    /// Frames to run it on: pcap or pcapng, Ethernet
    #[arg(long, value_name = "FILE")]
    pcap: PathBuf,
    /// Function of the program, when the object has several
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// What runs it: jit, interp or rbpf [default: the fastest there is]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Run it on each frame this often, to measure; maps keep what each run left in them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Give it what a NIC says of each frame: the capture is received through this model first, such as ixgbe
    #[arg(long, value_name = "MODEL")]
    hints: Option<String>,
    /// Write the frames that it sends, passes or redirects, as it left them
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// A frame with room around it.
struct Slot {
    original: Vec<u8>,
    /// The descriptor's raw write-back; empty without a NIC.
    raw: Vec<u8>,
    buffer: Vec<u8>,
    verdict: Verdict,
    /// Where the program left the frame.
    start: usize,
    len: usize,
}

impl Slot {
    fn new(original: Vec<u8>, raw: Vec<u8>) -> Slot {
        Slot {
            buffer: vec![0; HEADROOM + original.len() + TAILROOM],
            verdict: Verdict::default(),
            start: HEADROOM,
            len: original.len(),
            original,
            raw,
        }
    }
}

pub(super) fn run(args: &RunArgs, as_json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let elf = std::fs::read(&args.file).map_err(|source| CliError::File {
        path: args.file.clone(),
        source,
    })?;
    let fail = |e: millrace_ebpf::LoadError| CliError::Usage(format!("{}: {e}", args.file.display()));
    let engine = match &args.engine {
        None => EngineKind::default(),
        Some(name) => name
            .parse()
            .map_err(|e: millrace_ebpf::LoadError| CliError::Usage(e.to_string()))?,
    };
    let layout = args.hints.as_deref().map(through::layout).transpose()?;
    let mut loader = Loader::new();
    if let Some(layout) = &layout {
        loader = loader.hints(layout);
    }
    let loaded = loader.load(&Object::parse(&elf).map_err(fail)?).map_err(fail)?;
    let program = loaded.program(args.program.as_deref()).map_err(fail)?;
    let mut instance = program.instance(engine, 0).map_err(fail)?;
    if let Some(layout) = &layout {
        instance.set_hints(layout);
    }
    let mut slots = match &args.hints {
        Some(model) => received(model, &args.pcap)?,
        None => frames(&args.pcap)?,
    };
    let mut spent = Duration::ZERO;
    for _ in 0..args.repeat {
        spent += pass(&mut instance, &mut slots);
    }
    if let Some(path) = &args.write {
        write_frames(path, &slots)?;
    }
    let runs = slots.len() as u64 * u64::from(args.repeat);
    let report = report(&instance, &slots, spent, runs);
    let text = if as_json {
        format!("{report}\n")
    } else {
        table(&report)
    };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn wire_error(path: &Path, error: impl std::fmt::Display) -> CliError {
    CliError::Usage(format!("{}: {error}", path.display()))
}

fn open(path: &Path, spec: &str) -> Result<PcapWire, CliError> {
    if spec.matches(',').count() > 1 || path.to_str().is_none() {
        return Err(wire_error(
            path,
            "the name of a capture cannot hold a comma; rename the file",
        ));
    }
    PcapWire::open(&format!("pcap:{spec}"), spec).map_err(|e| CliError::Usage(e.to_string()))
}

fn frames(path: &Path) -> Result<Vec<Slot>, CliError> {
    let mut wire = open(path, &format!("{},", path.display()))?;
    let mut slots = Vec::new();
    while let Some(frame) = wire.recv().map_err(|e| wire_error(path, e))? {
        slots.push(Slot::new(frame.to_vec(), Vec::new()));
    }
    if slots.is_empty() {
        return Err(wire_error(path, "the capture has no whole Ethernet frame"));
    }
    Ok(slots)
}

/// The same, each with what the model says of it.
fn received(model: &str, path: &Path) -> Result<Vec<Slot>, CliError> {
    // What cannot be read is told in the same words.
    let sent = frames(path)?.len();
    let slots: Vec<_> = (through::frames(model, path)?.into_iter())
        .map(|received| Slot::new(received.frame, received.raw))
        .collect();
    match slots.len() {
        n if n == sent => Ok(slots),
        n => Err(wire_error(
            path,
            format_args!(
                "the model received {n} of its {sent} frames; take out those of more than 1518 bytes, or run without --hints"
            ),
        )),
    }
}

fn write_frames(path: &Path, slots: &[Slot]) -> Result<(), CliError> {
    let mut wire = open(path, &format!(",{}", path.display()))?;
    let kept = slots
        .iter()
        .filter(|s| !matches!(s.verdict.action(), XdpAction::Drop | XdpAction::Aborted));
    for slot in kept {
        wire.send(&slot.buffer[slot.start..slot.start + slot.len])
            .map_err(|e| wire_error(path, e))?;
    }
    wire.flush().map_err(|e| wire_error(path, e))
}

/// Runs the program on every frame as it was captured; gives what the runs took.
fn pass(instance: &mut Instance, slots: &mut [Slot]) -> Duration {
    let mut spent = Duration::ZERO;
    for batch in slots.chunks_mut(BATCH) {
        let mut bufs: Vec<XdpBuff<'_>> = Vec::with_capacity(BATCH);
        let mut verdicts = [Verdict::default(); BATCH];
        for slot in batch.iter_mut() {
            let len = slot.original.len();
            slot.buffer[HEADROOM..HEADROOM + len].copy_from_slice(&slot.original);
            bufs.push(XdpBuff::new(&mut slot.buffer, HEADROOM, len, 0, &slot.raw));
        }
        let begun = Instant::now();
        instance.run_batch(&mut bufs, &mut verdicts);
        spent += begun.elapsed();
        let left: Vec<_> = bufs.iter().map(|b| (b.data_offset(), b.len())).collect();
        drop(bufs);
        for ((slot, verdict), (start, len)) in batch.iter_mut().zip(verdicts).zip(left) {
            (slot.verdict, slot.start, slot.len) = (verdict, start, len);
        }
    }
    spent
}

fn report(instance: &Instance, slots: &[Slot], spent: Duration, runs: u64) -> Value {
    let program = instance.program();
    let mut verdicts = serde_json::Map::new();
    for action in XdpAction::ALL {
        let n = slots.iter().filter(|s| s.verdict.action() == action).count();
        if n != 0 {
            verdicts.insert(action.name().into(), n.into());
        }
    }
    let packets: Vec<Value> = slots.iter().map(packet).collect();
    let mut report = json!({
        "program": program.name(), "section": program.section(), "engine": instance.engine().name(),
        "runs": runs, "ns_per_packet": (spent.as_nanos() as f64 / runs as f64 * 10.0).round() / 10.0,
        "verdicts": verdicts, "packets": packets,
    });
    if let Some(fault) = instance.last_fault() {
        report["last_fault"] = fault.to_string().into();
    }
    if let Some(compiled) = program.compiled() {
        report["compiled"] =
            json!({"microseconds": compiled.time.as_micros() as u64, "bytes": compiled.bytes});
    }
    report
}

fn packet(slot: &Slot) -> Value {
    let after = &slot.buffer[slot.start..slot.start + slot.len];
    let mut hex = String::with_capacity(after.len() * 2);
    for byte in after {
        let _ = write!(hex, "{byte:02x}");
    }
    let verdict = slot.verdict;
    let mut packet = json!({
        "verdict": verdict.action().name(), "length": slot.original.len(), "output_length": slot.len,
        "changed": after != slot.original, "output": hex,
    });
    if verdict.action() == XdpAction::Redirect {
        packet["redirect"] = json!({"kind": format!("{:?}", verdict.redirect.kind).to_lowercase(), "target": verdict.redirect.target});
    }
    if verdict.fault != Fault::None {
        packet["fault"] = verdict.fault.describe().into();
    }
    packet
}

fn table(report: &Value) -> String {
    let mut out = format!("{:>6}  {:>7}  verdict\n", "frame", "bytes");
    for (n, packet) in super::rows(&report["packets"]).iter().enumerate() {
        let mut told = super::text(&packet["verdict"]);
        if packet["output_length"] != packet["length"] {
            let _ = write!(told, ", now {} bytes", packet["output_length"]);
        } else if packet["changed"] == true {
            told.push_str(", changed");
        }
        if let Some(to) = packet.get("redirect") {
            let _ = write!(told, ", to {} {}", super::text(&to["kind"]), to["target"]);
        }
        if let Some(fault) = packet.get("fault") {
            let _ = write!(told, ": {}", super::text(fault));
        }
        let _ = writeln!(out, "{:>6}  {:>7}  {told}", n + 1, packet["length"]);
    }
    let verdicts = report["verdicts"].as_object();
    let verdicts: Vec<String> = verdicts
        .into_iter()
        .flatten()
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    let _ = writeln!(
        out,
        "\n{} on {}: {}; {} ns a frame over {} runs",
        super::text(&report["program"]),
        super::text(&report["engine"]),
        verdicts.join(", "),
        report["ns_per_packet"],
        report["runs"]
    );
    if let Some(fault) = report.get("last_fault") {
        let _ = writeln!(out, "last fault: {}", super::text(fault));
    }
    out
}
