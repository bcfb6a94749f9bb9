//! Our own driver on the kernel's VFIO: real groups, containers and eventfds, and an IOMMU that QEMU emulates.

use super::LabError;
use super::binaries::integration_test;
use super::fetch::{Cache, Series};
use super::image::Image;
use super::kmod::Modules;
use super::model::{Model, Peer};
use super::scenario::{Staged, Suite, scenarios};
use super::talk::Line;
use crate::netns::Netns;
use crate::process::sibling;
use crate::site::http::{Connection, enter};
use crate::site::{BALANCER4, CLIENT4, Site, VIP4};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const IXGBE: &str = include_str!("../../guest/vfio-ixgbe.sh");

/// What the other scenarios stand on.
pub const BRING_UP: [&str; 2] = ["setup_sets_hugepages_aside", "setup_binds_to_vfio_pci"];

/// Traffic of the models without a site: enough flows for every queue, at a rate that an emulated CPU can follow.
const FLOWS: &str = "gen:udp4,flows=64,rate=4000";

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// One health check a backend, two in a row decide.
const L4LB: &str = "[[vip]]\nname = \"web\"\naddress = \"VIP\"\nport = 80\nprotocol = \"tcp\"\nmode = \"l2\"\n\
     health = { type = \"tcp\", interval = \"500ms\", timeout = \"400ms\", rise = 2, fall = 4 }\n";

/// The 82599 driver, `millrace-setup` and `millrace-l4lb` on vfio-pci.
pub fn ixgbe(series: Series) -> Suite {
    Suite {
        driver: "millrace",
        version: series.name(),
        setup: "ixgbe",
        section: "Millrace's driver on the kernel's VFIO, the 82599 model behind an emulated IOMMU",
        series,
        scenarios: scenarios(IXGBE),
        script: IXGBE.to_owned(),
        soak: false,
        stage,
    }
}

fn stage(suite: &Suite, cache: &Cache, dir: &Path) -> Result<Staged, LabError> {
    let kernel = cache.ensure_kernel(suite.series)?;
    let busybox = cache.busybox()?;
    let modules = Modules::scan(&kernel.modules, &busybox)?;
    let mut image = Image::new(&busybox)?;
    image.modules(&[], false);
    image.modules_on_demand("ixgbe", &modules.closure(&["ixgbe"])?);
    image.modules_on_demand("vfio_pci", &modules.closure(&["vfio_iommu_type1", "vfio_pci"])?);
    image.modules_on_demand("tun", &modules.closure(&["tun"])?);
    // They run on the libraries they were linked with: the host's.
    let mut ours = vec![("kernel_vfio", integration_test("kernel_vfio")?)];
    for program in ["millrace-setup", "millrace-l4lb"] {
        ours.push((program, sibling(program).map_err(LabError::io(program))?));
    }
    for (name, path) in ours {
        image.program_as(
            Path::new("/"),
            &path.to_string_lossy(),
            &format!("usr/bin/{name}"),
        )?;
    }

    let mut site = Site::new("vfio", dir).map_err(LabError::io("making the site"))?;
    let mut config = L4LB.replace("VIP", &VIP4.to_string());
    for _ in 0..2 {
        let backend = site.add_backend().map_err(LabError::io("adding a backend"))?;
        backend.start().map_err(LabError::io("starting nginx"))?;
        config.push_str(&format!("[[vip.backend]]\naddress = \"{}\"\n", backend.v4));
    }
    image.add_bytes("etc/l4lb.toml", 0o644, config.as_bytes());
    let line = Line::serve(dir, clients(&site.clients)?)?;

    let peer = Peer::new("vfio")?;
    let model = |name: &str, more: &[&str]| {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).map_err(LabError::io("making a model's folder"))?;
        let mut options = vec!["--queues", "4", "--trust-client-memory"];
        options.extend(more);
        Model::start(&peer, "ixgbe", FLOWS, &dir, &options)
    };
    let trapped = model("trapped", &[])?;
    let mapped = model("mapped", &["--map-doorbells"])?;
    let plugged = site
        .start_model(&["--queues", "4", "--trust-client-memory"])
        .map_err(LabError::io("starting the site's model"))?;
    Ok(Staged {
        image,
        preamble: format!("BALANCER={BALANCER4}\n"),
        sockets: vec![trapped.socket.clone(), mapped.socket.clone(), site.socket()],
        iommu: true,
        // The check that the timer interrupts in time fails, with a panic, where the host is busy.
        cmdline: "no_timer_check",
        cpus: 2,
        memory: 1024,
        share: None,
        line: Some(line.socket.clone()),
        deadline: Duration::from_secs(900),
        alive: vec![
            Box::new(trapped),
            Box::new(mapped),
            Box::new(plugged),
            Box::new(peer),
            Box::new(site),
            Box::new(line),
        ],
    })
}

/// Answers `get N`: so many HTTP requests to the VIP from the site's clients, each on a connection of its own.
fn clients(ns: &Netns) -> Result<impl FnMut(&str) -> String + Send + 'static, LabError> {
    let path = format!("/run/netns/{}", ns.name());
    let link = File::open(&path).map_err(LabError::io(format!("opening {path}")))?;
    let mut port = 20_000;
    let mut get = move || -> std::io::Result<String> {
        enter(&link)?;
        port += 1;
        let (local, vip) = (SocketAddr::from((CLIENT4, port)), SocketAddr::from((VIP4, 80)));
        Connection::open(local, vip, PATIENCE)?.get("/", false)
    };
    Ok(move |question: &str| {
        let Some(count) = question.strip_prefix("get ").and_then(|n| n.parse::<u16>().ok()) else {
            return format!("error `{question}` is no question");
        };
        let (mut answered, mut other) = (0, None);
        for _ in 0..count {
            match get() {
                Ok(_) => answered += 1,
                Err(e) => other = Some(e),
            }
        }
        match other {
            None => format!("ok {answered}"),
            Some(e) => format!("error {answered} answered, the last other: {e}"),
        }
    })
}
