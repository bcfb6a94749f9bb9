//! DPDK's own poll-mode drivers, as Debian packages them, on guest vfio-pci behind an emulated IOMMU.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::recording::Recording;
use super::scenario::{Staged, Suite, scenarios};
use super::talk::Line;
use millrace_nic_models::packet::{Parsed, parse};
use millrace_nic_models::toeplitz::{self, KEY_LEN};
use millrace_nic_models::wire::GenSpec;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// In the order in which they run.
const SCRIPTS: [&str; 4] = [
    include_str!("../../guest/dpdk.sh"),
    include_str!("../../guest/dpdk-ixgbe.sh"),
    include_str!("../../guest/dpdk-steering.sh"),
    include_str!("../../guest/dpdk-offload.sh"),
];

/// What the other scenarios stand on.
pub const BRING_UP: [&str; 2] = ["testpmd_probes_two_ports", "link_comes_up_at_10g"];

/// testpmd, what it needs, and the memory pool it loads as a plugin.
const PACKAGES: [&str; 3] = ["dpdk-dev", "librte-net-ixgbe25", "librte-mempool-ring25"];

/// What the first port receives, at a rate that an emulated CPU can follow.
const FLOWS: &str = "udp4,flows=64,rate=200";
/// What the third receives: this much and no more, for its own address.
const FINITE: u32 = 6000;
const FINITE_MAC: &str = "52:54:00:82:59:9c";
/// What the fourth receives.
const TAGGED: &str = "gen:tcp4,flows=64,vlan=5,rate=500";

/// DPDK 24.11's `net_ixgbe` under testpmd.
pub fn ixgbe() -> Suite {
    let script = SCRIPTS.concat();
    Suite {
        driver: "dpdk",
        version: "24.11",
        setup: "ixgbe",
        section: "DPDK's net_ixgbe on the 82599 model, guest vfio-pci and an emulated IOMMU",
        series: Series::V6_12,
        scenarios: scenarios(&script),
        script,
        soak: false,
        stage,
    }
}

fn stage(suite: &Suite, cache: &Cache, dir: &Path) -> Result<Staged, LabError> {
    let kernel = cache.ensure_kernel(suite.series)?;
    cache.ensure("dpdk", &PACKAGES, Some("trixie"))?;
    let tree = cache.root().join("dpdk");
    let busybox = cache.busybox()?;
    let modules = Modules::scan(&kernel.modules, &busybox)?;
    let mut image = Image::new(&busybox)?;
    image.modules(&modules.closure(&["vfio_iommu_type1", "vfio_pci"])?, true);
    image.program(&tree, "usr/bin/dpdk-testpmd")?;
    let pool = "librte_mempool_ring.so.25";
    let libraries = Path::new("usr/lib/x86_64-linux-gnu");
    let path = [libraries.join("dpdk/pmds-25.0").join(pool), libraries.join(pool)]
        .into_iter()
        .find(|path| tree.join(path).exists())
        .ok_or_else(|| LabError::Malformed(format!("the fetched DPDK has no {pool}")))?;
    image.program_as(&tree, &path.to_string_lossy(), &format!("lib/{pool}"))?;
    // What ends a thread of testpmd's looks for this by name.
    let unwinder = "libgcc_s.so.1";
    image.program_as(
        &tree,
        &libraries.join(unwinder).to_string_lossy(),
        &format!("lib/{unwinder}"),
    )?;
    // Into a file, testpmd writes by the block; this, of stdbuf(1), has it write by the line.
    cache.ensure("coreutils", &["coreutils"], Some("trixie"))?;
    let stdbuf = cache.root().join("coreutils/usr/libexec/coreutils/libstdbuf.so");
    image.add_host_file(&stdbuf, "lib/libstdbuf.so", 0o755)?;

    let peer = Peer::new("dpdk")?;
    let model = |name: &str, wire: &str, more: &[&str]| {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(LabError::io("making a model's folder"))?;
        let options = [&["--trust-client-memory", "--stats", "5"], more].concat();
        Model::start(&peer, "ixgbe", wire, &dir, &options)
    };
    let capture = dir.join("sent.pcap");
    let finite = format!("gen:udp4,flows=64,rate=3000,count={FINITE},dmac={FINITE_MAC}");
    let models = [
        model("source", &format!("gen:{FLOWS}"), &[])?,
        model("sink", &format!("pcap:,{}", capture.display()), &[])?,
        model("finite", &finite, &["--mac", FINITE_MAC])?,
        model("tagged", TAGGED, &[])?,
    ];
    let line = Line::serve(dir, judge(&capture)?)?;
    let sockets = models.iter().map(|m| m.socket.clone()).collect();
    Ok(Staged {
        image,
        preamble: format!("FINITE={FINITE}\n"),
        sockets,
        iommu: true,
        // The check that the timer interrupts in time fails, with a panic, where the host is busy.
        cmdline: "no_timer_check",
        cpus: 2,
        memory: 1024,
        share: None,
        line: Some(line.socket.clone()),
        deadline: Duration::from_secs(900),
        alive: vec![Box::new(models), Box::new(peer), Box::new(line)],
    })
}

/// Answers what scenarios ask:
///
/// | request | answer |
/// |---|---|
/// | `sent` | what left through the second port since the last question: frames, untouched ones, ones with MAC addresses swapped, tagged ones, ones with a wrong checksum |
/// | `rss KEY QUEUES HASH:QUEUE...` | whether these are the hashes of the first port's flows and their queues, all of them and no other |
/// | `flow KEY QUEUES N` | hash and queue of flow N |
fn judge(capture: &Path) -> Result<impl FnMut(&str) -> String + Send + 'static, LabError> {
    let mut recording = Recording::open(capture)?;
    let flows = GenSpec::parse(FLOWS, FLOWS)
        .map_err(|e| LabError::Malformed(format!("{FLOWS} is no traffic: {e}")))?;
    Ok(move |question: &str| {
        let words: Vec<&str> = question.split_whitespace().collect();
        let answer = match words[..] {
            ["sent"] => recording
                .look((flows.smac, flows.dmac))
                .map(|t| {
                    format!(
                        "{} {} {} {} {}",
                        t.frames, t.untouched, t.swapped, t.tagged, t.wrong
                    )
                })
                .map_err(|e| e.to_string()),
            ["rss", key, queues, ref seen @ ..] => {
                Expected::read(key, queues).and_then(|e| e.compare(&flows, seen))
            }
            ["flow", key, queues, flow] => Expected::read(key, queues).and_then(|e| {
                let flow = flow.parse().map_err(|_| format!("`{flow}` is no flow"))?;
                let (hash, queue) = e.of(&flows, flow);
                Ok(format!("{hash:x} {queue}"))
            }),
            _ => Err(format!("`{question}` is no question")),
        };
        answer.map_or_else(|e| format!("error {e}"), |a| format!("ok {a}"))
    })
}

/// What RSS should do: a hash over addresses and ports, an indirection table of queues 0, 1, ... in turn (datasheet
/// 7.1.2.8, and what DPDK's driver puts there).
struct Expected {
    key: [u8; KEY_LEN],
    queues: u32,
}

impl Expected {
    fn read(key: &str, queues: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = (0..key.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(key.get(at..at + 2)?, 16).ok())
            .collect();
        let key = bytes
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| format!("`{key}` is no key of {KEY_LEN} bytes"))?;
        match queues.parse() {
            Ok(queues) if queues > 0 => Ok(Self { key, queues }),
            _ => Err(format!("`{queues}` is no number of queues")),
        }
    }

    fn of(&self, flows: &GenSpec, flow: u64) -> (u32, u32) {
        let frame = flows.frame(flow);
        let parsed: Parsed = parse(&frame);
        let mut input = [parsed.src_addr(&frame), parsed.dst_addr(&frame)].concat();
        for port in [parsed.src_port(&frame), parsed.dst_port(&frame)] {
            input.extend(port.unwrap_or_default().to_be_bytes());
        }
        let hash = toeplitz::hash(&self.key, &input);
        (hash, (hash & 0x7f) % self.queues)
    }

    fn compare(&self, flows: &GenSpec, seen: &[&str]) -> Result<String, String> {
        let word = |(hash, queue): (u32, u32)| format!("{hash:x}:{queue:x}");
        let expected: BTreeSet<String> = (0..flows.flows).map(|f| word(self.of(flows, f))).collect();
        let seen: BTreeSet<String> = seen.iter().map(|s| (*s).to_owned()).collect();
        match (
            seen.difference(&expected).next(),
            expected.difference(&seen).next(),
        ) {
            (None, None) => Ok(seen.len().to_string()),
            (Some(other), _) => Err(format!("no flow has hash and queue {other}")),
            (None, Some(missing)) => Err(format!("no frame has hash and queue {missing}")),
        }
    }
}
