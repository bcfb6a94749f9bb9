//! What the framework's tests share: XDP objects from C, captures, patience.
#![allow(dead_code)]

use millrace::{
    App, AppBuilder, AppHandle, AppStats, EngineKind, IdlePolicy, PortConfig, PortSpec, QueueSel,
};
use millrace_ebpf::{Loaded, Loader, Object};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest any condition may take; only a broken test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says by name why a test cannot run here.
pub fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
}

/// The object made of `tests/bpf/NAME.bpf.c`; `None` where there is no clang that knows BPF.
pub fn object(name: &str) -> Option<Vec<u8>> {
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bpf/{name}.bpf.c")))
}

pub fn compile(source: &Path) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.bpf.o");
    let includes = ["/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"];
    for clang in ["clang-19", "clang"] {
        let mut command = Command::new(clang);
        command
            .args([
                "-I",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../../ebpf-runtime/include"),
            ])
            .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"])
            .arg(source)
            .arg("-o")
            .arg(&out);
        for include in includes
            .iter()
            .filter(|include| Path::new(include).join("asm").exists())
        {
            command.arg("-I").arg(include);
        }
        if let Ok(done) = command.output() {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            return Some(std::fs::read(&out).expect("the object"));
        }
    }
    None
}

/// Loads an object with some of its global variables set.
pub fn load(app: &AppHandle, elf: &[u8], globals: &[(&str, u32)]) -> Loaded {
    let mut loader = Loader::new().cpus(app.workers() as u32);
    if let Some(port) = app.ports().first() {
        loader = loader.hints(&app.hint_layout(&port.name).expect("a layout"));
    }
    for (name, value) in globals {
        loader = loader.global(name, &value.to_ne_bytes());
    }
    loader
        .load(&Object::parse(elf).expect("an object"))
        .expect("loads")
}

/// Attaches the only program of an object to every queue of `eth0`.
pub fn attach(app: &App, elf: &[u8], globals: &[(&str, u32)]) -> Loaded {
    let loaded = load(app, elf, globals);
    let program = loaded.program(None).expect("one program");
    app.attach("eth0", QueueSel::All, &program, EngineKind::Interp)
        .expect("attach");
    loaded
}

/// The same with the program doing nothing but drop, on an engine of choice.
pub fn attach_on(app: &App, elf: &[u8], engine: EngineKind) -> Loaded {
    let loaded = load(app, elf, &[("verdict", 1)]);
    let program = loaded.program(None).expect("one program");
    app.attach("eth0", QueueSel::All, &program, engine)
        .expect("attach");
    loaded
}

const INSIDE: &str = "MILLRACE_TEST_INSIDE_NAMESPACE";

/// Runs the test `name` again inside a fresh network namespace; true in there.
pub fn inside_namespace(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        skip(name, "needs root for a network namespace");
        return false;
    }
    let itself = std::env::current_exe().expect("test binary");
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(itself)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{name} failed inside its namespace"),
        Err(e) => skip(name, &format!("needs unshare: {e}")),
    }
    false
}

/// `ip` with these arguments; gives what it prints.
pub fn ip(args: &str) -> String {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("ip");
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One port `eth0` on a model whose wire is `wire`, with small rings, workers that sleep soon, and no pinning: tests share
/// few cores.
pub fn builder(wire: &str, queues: u16) -> AppBuilder {
    App::builder()
        .port(port("eth0", wire, queues))
        .pin(false)
        .idle(patient())
}

pub fn port(name: &str, wire: &str, queues: u16) -> PortSpec {
    let config = PortConfig {
        queues,
        rx_ring: 512,
        tx_ring: 512,
        promiscuous: true,
        link_wait: Duration::from_secs(2),
        ..PortConfig::default()
    };
    PortSpec::new(name, format!("model:ixgbe?wire={wire}&queues={}", queues.max(2))).config(config)
}

pub fn patient() -> IdlePolicy {
    IdlePolicy {
        spins: 16,
        yields: 8,
        ..IdlePolicy::default()
    }
}

/// Waits for a condition; says which one when patience ends.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Frames the device got from the wire and could not deliver, for want of descriptors or room.
pub fn missed(stats: &AppStats) -> u64 {
    let of = |name: &str| -> u64 { stats.ports.iter().filter_map(|port| port.device.get(name)).sum() };
    of("rx_missed").max(of("rx_no_descriptors"))
}

/// Sum of the numbers in a map of `u64`, over keys and CPUs.
pub fn sum(map: &millrace_ebpf::Map) -> u64 {
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"));
    map.iter()
        .map(|(_, value)| value.chunks_exact(8).map(word).sum::<u64>())
        .sum()
}

/// An Ethernet frame with IPv4 and UDP (checksum 0, which means none) from 10.1.0.`n`.
pub fn udp(n: u8, sport: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00];
    let total = (28 + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, n, 10, 0, 0, 1];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let mut sum: u32 = ip
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame.extend(ip);
    frame.extend(sport.to_be_bytes());
    frame.extend([0, 80]);
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// Writes a pcap file (microseconds, Ethernet) with these frames.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame);
    }
    std::fs::write(path, out).expect("write pcap");
}

/// The frames of a little-endian pcap file.
pub fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut frames = Vec::new();
    let mut rest = bytes.get(24..).unwrap_or_default();
    while let Some(len) = rest.get(8..12) {
        let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
        let Some(frame) = rest.get(16..16 + len) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// The `millrace` binary.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_millrace"))
}

/// Runs the command line with an instance's sockets in `dir`: whether it went well, and what it printed, or what it complained of.
pub fn millrace(dir: &Path, line: &str) -> (bool, String) {
    let output = Command::new(binary())
        .arg("--run-dir")
        .arg(dir)
        .args(line.split_whitespace())
        .output()
        .expect("millrace runs");
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
