//! Linux's own drivers, as Debian's kernels have them, on the device models.

use super::LabError;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::scenario::{Staged, Suite, scenarios};
use std::path::Path;
use std::time::Duration;

const IXGBE: &str = include_str!("../../guest/linux-ixgbe.sh");

/// What the other scenarios stand on.
pub const BRING_UP: [&str; 4] = [
    "probe_without_a_warning",
    "link_comes_up_at_10g",
    "ping_ipv4",
    "ping_ipv6",
];

/// `ixgbe` of a kernel of Debian's, every register access trapped.
pub fn ixgbe(series: Series, soak: bool) -> Suite {
    Suite {
        driver: "linux",
        version: series.name(),
        setup: "ixgbe",
        section: "Linux's ixgbe on the 82599 model",
        series,
        scenarios: scenarios(IXGBE),
        script: IXGBE.to_owned(),
        soak,
        stage: |suite, cache, dir| stage(suite, cache, dir, &[]),
    }
}

/// One model on a veth pair, whose other end serves and answers in a namespace of its own.
fn stage(suite: &Suite, cache: &Cache, dir: &Path, options: &[&str]) -> Result<Staged, LabError> {
    let kernel = cache.ensure_kernel(suite.series)?;
    let tools = cache.tools();
    let busybox = cache.busybox()?;
    let modules = Modules::scan(&kernel.modules, &busybox)?;
    let mut image = Image::new(&busybox)?;
    image.modules(&modules.closure(&["ixgbe", "8021q"])?, true);
    image.program(
        &tools,
        if tools.join("usr/sbin/ethtool").exists() {
            "usr/sbin/ethtool"
        } else {
            "sbin/ethtool"
        },
    )?;
    let mut peer = Peer::new("lab")?;
    let preamble = peer.serve(&busybox, dir)?;
    let mut arguments = vec!["--mac", "52:54:00:82:59:9a", "--trust-client-memory"];
    arguments.extend(options);
    let model = Model::start(&peer, "ixgbe", "packet:wire", dir, &arguments)?;
    Ok(Staged {
        image,
        preamble,
        sockets: vec![model.socket.clone()],
        iommu: false,
        cmdline: "",
        memory: 512,
        share: None,
        line: None,
        deadline: Duration::from_secs(if suite.soak { 900 } else { 420 }),
        alive: vec![Box::new(model), Box::new(peer)],
    })
}
