//! A small site on one machine: clients, a balancer and backends on one bridge, each in a network namespace.
//!
//! ```text
//!   clients --+                 +-- backend 1 (nginx, VIP on lo)
//!             +-- br0 (bridge) -+-- backend 2
//!   NIC ------+                 +-- backend 3 ...
//!    | its cable is the veth end `wire`; nic-model runs here
//!    | vfio-user socket
//!   balancer: millrace-l4lb and its exception tap
//!
//! The NIC has a namespace of its own, so that no host stack but the balancer's answers for the balancer.
//! ```
//!
//! Everything is gone again when the [`Site`] is dropped.

pub mod balancer;
pub mod http;
pub mod load;

use crate::netns::Netns;
use crate::process::Process;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The address clients connect to.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// See [`VIP4`].
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);
/// The clients' address.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// See [`CLIENT4`].
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10);
/// The balancer's own address, on its exception tap.
pub const BALANCER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// See [`BALANCER4`].
pub const BALANCER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x2);
/// The end of the veth pair that is the modelled NIC's cable.
pub const WIRE: &str = "wire";

/// Clients, a balancer's namespace and backends on one bridge.
#[derive(Debug)]
pub struct Site {
    // Backends first: their servers end before their namespaces go.
    /// The backends, in the order in which they were added.
    pub backends: Vec<Backend>,
    /// Where clients run.
    pub clients: Netns,
    /// Where the balancer runs: nothing but its exception tap is in there.
    pub balancer: Netns,
    /// Where the model runs and its cable ends.
    pub nic: Netns,
    bridge: Netns,
    dir: PathBuf,
    ports: u32,
}

/// One backend: a namespace, its addresses, its HTTP server.
#[derive(Debug)]
pub struct Backend {
    /// `b1`, `b2`, ...; what its server answers in `X-Backend`.
    pub name: String,
    /// Its own address.
    pub v4: Ipv4Addr,
    /// Its own address.
    pub v6: Ipv6Addr,
    /// Its namespace.
    pub ns: Netns,
    server: Option<Process>,
    dir: PathBuf,
}

impl Site {
    /// Builds the bridge, the clients and the balancer's namespace; `dir` holds sockets, configurations and logs.
    pub fn new(tag: &str, dir: &Path) -> io::Result<Self> {
        let bridge = Netns::new(&format!("{tag}-br"))?;
        bridge.run(&[
            "ip",
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        bridge.run(&["ip", "link", "set", "br0", "up"])?;
        let clients = Netns::new(&format!("{tag}-cl"))?;
        let balancer = Netns::new(&format!("{tag}-lb"))?;
        let nic = Netns::new(&format!("{tag}-nic"))?;
        let mut site = Self {
            backends: Vec::new(),
            clients,
            balancer,
            nic,
            bridge,
            dir: dir.to_path_buf(),
            ports: 0,
        };
        site.plug_clients()?;
        site.plug_nic()?;
        Ok(site)
    }

    /// The bridge's namespace: its port [`Site::balancer_port`] sees what the NIC sends.
    pub fn bridge(&self) -> &Netns {
        &self.bridge
    }

    /// The bridge's port that the NIC's cable is plugged into.
    pub fn balancer_port(&self) -> &'static str {
        "p2"
    }

    /// The folder for sockets, configurations and logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn plug_clients(&mut self) -> io::Result<()> {
        let port = self.next_port();
        plug(&self.bridge, &port, &self.clients, "eth0")?;
        addresses(&self.clients, "eth0", CLIENT4, CLIENT6)
    }

    fn plug_nic(&mut self) -> io::Result<()> {
        let port = self.next_port();
        plug(&self.bridge, &port, &self.nic, WIRE)?;
        // The cable's end is the model's alone: no address, no ARP, no router solicitations of the host's.
        self.nic.run(&[
            "sysctl",
            "-q",
            "-w",
            &format!("net.ipv6.conf.{WIRE}.disable_ipv6=1"),
        ])?;
        self.nic.run(&["ip", "link", "set", WIRE, "arp", "off"]).map(drop)
    }

    fn next_port(&mut self) -> String {
        self.ports += 1;
        format!("p{}", self.ports)
    }

    /// Adds a backend: its own addresses, the VIPs on its loopback (answering no ARP for them), a decapsulation path
    /// is left to the caller. Its server is started by [`Backend::start`].
    pub fn add_backend(&mut self) -> io::Result<&mut Backend> {
        let n = u8::try_from(self.backends.len() + 1).map_err(io::Error::other)?;
        let name = format!("b{n}");
        let ns = Netns::new(&format!("site-{name}"))?;
        let port = self.next_port();
        plug(&self.bridge, &port, &ns, "eth0")?;
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            ns.run(&["sysctl", "-q", "-w", &format!("net.ipv4.conf.all.{key}={value}")])?;
        }
        let v4 = Ipv4Addr::new(10, 77, 0, 20 + n);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x20 + u16::from(n));
        addresses(&ns, "eth0", v4, v6)?;
        ns.run(&["ip", "addr", "add", &format!("{VIP4}/32"), "dev", "lo"])?;
        ns.run(&[
            "ip",
            "-6",
            "addr",
            "add",
            &format!("{VIP6}/128"),
            "dev",
            "lo",
            "nodad",
        ])?;
        let dir = self.dir.join(&name);
        std::fs::create_dir_all(&dir)?;
        self.backends.push(Backend {
            name,
            v4,
            v6,
            ns,
            server: None,
            dir,
        });
        self.backends
            .last_mut()
            .ok_or_else(|| io::Error::other("no backend"))
    }
}

impl Backend {
    /// Starts nginx, which answers every request with its name in `X-Backend`.
    pub fn start(&mut self) -> io::Result<()> {
        let html = self.dir.join("html");
        std::fs::create_dir_all(&html)?;
        std::fs::write(html.join("index.html"), format!("<h1>{}</h1>\n", self.name))?;
        let conf = self.dir.join("nginx.conf");
        std::fs::write(&conf, nginx_conf(&self.name, &self.dir))?;
        let log = std::fs::File::create(self.dir.join("nginx.log"))?;
        let mut command = self.ns.command("nginx");
        command
            .arg("-p")
            .arg(&self.dir)
            .arg("-c")
            .arg(&conf)
            .arg("-e")
            .arg(self.dir.join("error.log"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.server = Some(Process::spawn("nginx", command)?);
        Ok(())
    }

    /// Ends the server at once, connections and all, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }
}

fn nginx_conf(name: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/nginx.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         \x20 access_log off;\n  keepalive_timeout 120s;\n  keepalive_requests 1000000;\n  reset_timedout_connection on;\n\
         \x20 client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n\
         \x20 uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
         \x20 server {{\n    listen 80 backlog=4096;\n    listen [::]:80 backlog=4096;\n    root {dir}/html;\n\
         \x20   add_header X-Backend {name} always;\n  }}\n}}\n"
    )
}

/// Joins a namespace to the bridge by a veth pair.
fn plug(bridge: &Netns, port: &str, ns: &Netns, name: &str) -> io::Result<()> {
    bridge.run(&[
        "ip",
        "link",
        "add",
        port,
        "type",
        "veth",
        "peer",
        "name",
        name,
        "netns",
        ns.name(),
    ])?;
    bridge.run(&["ip", "link", "set", port, "master", "br0", "up"])?;
    ns.run(&["ip", "link", "set", name, "up"])?;
    Ok(())
}

fn addresses(ns: &Netns, dev: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> io::Result<()> {
    ns.run(&["ip", "addr", "add", &format!("{v4}/24"), "dev", dev])?;
    ns.run(&[
        "ip",
        "-6",
        "addr",
        "add",
        &format!("{v6}/64"),
        "dev",
        dev,
        "nodad",
    ])?;
    Ok(())
}
