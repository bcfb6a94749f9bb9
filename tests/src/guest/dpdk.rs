//! DPDK's own poll-mode drivers, as Debian packages them, on guest vfio-pci behind an emulated IOMMU.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::recording::Recording;
use super::scenario::{Staged, Suite, scenarios};
use super::talk::Line;
use millrace_nic_models::wire::GenSpec;
use std::path::Path;
use std::time::Duration;

const IXGBE: &str = include_str!("../../guest/dpdk-ixgbe.sh");

/// What the other scenarios stand on.
pub const BRING_UP: [&str; 2] = ["testpmd_probes_two_ports", "link_comes_up_at_10g"];

/// testpmd, what it needs, and the memory pool it loads as a plugin.
const PACKAGES: [&str; 3] = ["dpdk-dev", "librte-net-ixgbe25", "librte-mempool-ring25"];

/// What the first port receives, at a rate that an emulated CPU can follow.
const FLOWS: &str = "udp4,flows=64,rate=2000";
/// DPDK 24.11's `net_ixgbe` under testpmd.
pub fn ixgbe() -> Suite {
    Suite {
        driver: "dpdk",
        version: "24.11",
        setup: "ixgbe",
        section: "DPDK's net_ixgbe on the 82599 model, guest vfio-pci and an emulated IOMMU",
        series: Series::V6_12,
        scenarios: scenarios(IXGBE),
        script: IXGBE.to_owned(),
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
    let model = |name: &str, wire: &str| {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(LabError::io("making a model's folder"))?;
        Model::start(&peer, "ixgbe", wire, &dir, &["--trust-client-memory"])
    };
    let capture = dir.join("sent.pcap");
    let source = model("source", &format!("gen:{FLOWS}"))?;
    let sink = model("sink", &format!("pcap:,{}", capture.display()))?;
    let line = Line::serve(dir, judge(&capture)?)?;
    let sockets = [&source, &sink].map(|m| m.socket.clone());
    Ok(Staged {
        image,
        preamble: String::new(),
        sockets: sockets.to_vec(),
        iommu: true,
        // The check that the timer interrupts in time fails, with a panic, where the host is busy.
        cmdline: "no_timer_check",
        cpus: 2,
        memory: 1024,
        share: None,
        line: Some(line.socket.clone()),
        deadline: Duration::from_secs(420),
        alive: vec![Box::new(source), Box::new(sink), Box::new(peer), Box::new(line)],
    })
}

/// Answers `sent`: what left through the second port since the last question. Frames, untouched ones, ones with MAC
/// addresses swapped, tagged ones, ones with a wrong checksum.
fn judge(capture: &Path) -> Result<impl FnMut(&str) -> String + Send + 'static, LabError> {
    let mut recording = Recording::open(capture)?;
    let flows = GenSpec::parse(FLOWS, FLOWS)
        .map_err(|e| LabError::Malformed(format!("{FLOWS} is no traffic: {e}")))?;
    Ok(move |question: &str| match question {
        "sent" => match recording.look((flows.smac, flows.dmac)) {
            Ok(t) => format!(
                "ok {} {} {} {} {}",
                t.frames, t.untouched, t.swapped, t.tagged, t.wrong
            ),
            Err(e) => format!("error {e}"),
        },
        _ => format!("error `{question}` is no question"),
    })
}
