//! Linux's own drivers, as Debian's kernels have them, on the device models.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::scenario::{Staged, Suite, scenarios};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// In the order in which they run.
const SCRIPTS: [&str; 6] = [
    BASICS,
    include_str!("../../guest/linux-offload.sh"),
    include_str!("../../guest/linux-steering.sh"),
    include_str!("../../guest/linux-vlan.sh"),
    include_str!("../../guest/linux-xdp.sh"),
    END,
];
const MAPPED_SCRIPTS: [&str; 3] = [BASICS, include_str!("../../guest/linux-mapped.sh"), END];
const BASICS: &str = include_str!("../../guest/linux-ixgbe.sh");
const END: &str = include_str!("../../guest/linux-end.sh");

/// The address in the model's EEPROM.
const GUEST_MAC: &str = "52:54:00:82:59:9a";

/// What the other scenarios stand on.
pub const BRING_UP: [&str; 4] = [
    "probe_without_a_warning",
    "link_comes_up_at_10g",
    "ping_ipv4",
    "ping_ipv6",
];

/// `ixgbe` of a kernel of Debian's, every register access trapped.
pub fn ixgbe(series: Series, soak: bool) -> Suite {
    let script = SCRIPTS.concat();
    Suite {
        driver: "linux",
        version: series.name(),
        setup: "ixgbe",
        section: "Linux's ixgbe on the 82599 model",
        series,
        scenarios: scenarios(&script),
        script,
        soak,
        stage: |suite, cache, dir| stage(suite, cache, dir, &[]),
    }
}

/// The same with the pages of the ring registers mapped into the guest, so that the model polls its doorbells. Mapped,
/// RXDCTL and TXDCTL read back at once what was written, while a driver that stops one queue of a running port wants
/// them to read as done only when they are: what stops single queues is left to the other suite.
pub fn ixgbe_mapped(series: Series, soak: bool) -> Suite {
    let mut suite = ixgbe(series, soak);
    suite.setup = "ixgbe-mapped";
    suite.section = "Linux's ixgbe on the 82599 model, ring pages mapped";
    suite.script = MAPPED_SCRIPTS.concat();
    suite.scenarios = scenarios(&suite.script);
    suite.scenarios.retain(|s| MAPPED.contains(&s.name.as_str()));
    suite.stage = |suite, cache, dir| stage(suite, cache, dir, &["--map-doorbells"]);
    suite
}

/// What [`ixgbe_mapped`] runs.
const MAPPED: [&str; 9] = [
    "probe_without_a_warning",
    "link_comes_up_at_10g",
    "ping_ipv4",
    "ping_ipv6",
    "tcp_10_mb_both_ways",
    "statistics_equal_what_was_sent",
    "interface_flaps",
    "driver_unloads_and_loads_again",
    "no_complaint_in_the_kernel_log",
];

/// One model on a veth pair, whose other end serves and answers in a namespace of its own.
fn stage(suite: &Suite, cache: &Cache, dir: &Path, options: &[&str]) -> Result<Staged, LabError> {
    let kernel = cache.ensure_kernel(suite.series)?;
    let tools = cache.tools();
    let busybox = cache.busybox()?;
    let modules = Modules::scan(&kernel.modules, &busybox)?;
    let mut image = Image::new(&busybox)?;
    image.modules(&modules.closure(&["ixgbe", "8021q"])?, true);
    let ethtool = cache.ethtool(suite.series)?;
    image.program_as(&tools, &ethtool.to_string_lossy(), "usr/sbin/ethtool")?;
    iproute(cache, &mut image)?;
    let mut peer = Peer::new("lab")?;
    let mut preamble = peer.serve(&busybox, dir)?;
    preamble.push_str(&xdp(&mut image, dir)?);
    let mut arguments = vec!["--mac", GUEST_MAC, "--trust-client-memory", "--stats", "1"];
    arguments.extend(options);
    let model = Model::start(&peer, "ixgbe", "packet:wire", dir, &arguments)?;
    let line = peer.help(GUEST_MAC, &model, dir)?;
    Ok(Staged {
        image,
        preamble,
        sockets: vec![model.socket.clone()],
        iommu: false,
        cmdline: "",
        // ixgbe makes at most a queue a processor.
        cpus: 4,
        memory: 512,
        share: None,
        line: Some(line),
        deadline: Duration::from_secs(900),
        alive: vec![Box::new(model), Box::new(peer)],
    })
}

/// Adds iproute2, since busybox's `ip` knows neither neighbours nor XDP.
fn iproute(cache: &Cache, image: &mut Image) -> Result<(), LabError> {
    cache.ensure("iproute2", &["iproute2"], None)?;
    let tree = cache.root().join("iproute2");
    let program = ["usr/bin/ip", "bin/ip", "usr/sbin/ip", "sbin/ip"]
        .into_iter()
        .find(|p| tree.join(p).is_file())
        .ok_or_else(|| LabError::Malformed("the fetched iproute2 has no `ip`".into()))?;
    // Busybox has an `ip` of its own in the guest's /bin.
    image.program_as(&tree, program, "opt/ip")
}

/// Adds the XDP object; returns shell assignments, of the reason where there is no compiler.
fn xdp(image: &mut Image, dir: &Path) -> Result<String, LabError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/guest-xdp.bpf.c");
    let object = dir.join("xdp.o");
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let out = Command::new("clang-19")
        .args(["-O2", "-g", "-target", "bpf", &include, "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .output();
    match out {
        Err(e) => {
            return Ok(format!(
                "NOXDP='clang-19 does not start ({e}); make deps installs it'\n"
            ));
        }
        Ok(out) if !out.status.success() => {
            return Err(LabError::Malformed(format!(
                "{}: {}",
                source.display(),
                String::from_utf8_lossy(&out.stderr).trim()
            )));
        }
        Ok(_) => image.add_host_file(&object, "xdp.o", 0o644)?,
    }
    Ok(String::new())
}
