//! The control plane in a network namespace of its own: real neighbours, real servers, a file that changes.

mod common;

use common::Engine as _;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace::control::ControlRegistry;
use millrace_l4lb::balancer::Balancer;
use millrace_l4lb::config::Config;
use millrace_l4lb::control::{Control, Host, Watched, verbs};
use millrace_l4lb::dataplane::DataPlane;
use millrace_l4lb::neigh::{NeighbourError, NextHops};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

/// Two namespaces joined by a veth pair: `near` has mra with 10.66.0.2, `far` has mrb with 10.66.0.11 and .12.
struct Network {
    near: String,
    far: String,
}

fn ip(args: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "ip {args}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

impl Network {
    fn new(tag: &str) -> Result<Network, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".into());
        }
        let name = |side: &str| format!("mr-l4lb-{tag}-{side}-{}", std::process::id());
        let network = Network {
            near: name("a"),
            far: name("b"),
        };
        let Network { near, far } = &network;
        for line in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("-n {near} link add mra type veth peer name mrb netns {far}"),
            format!("-n {near} addr add 10.66.0.2/24 dev mra"),
            format!("-n {near} addr add fd66::2/64 dev mra nodad"),
            format!("-n {far} addr add 10.66.0.11/24 dev mrb"),
            format!("-n {far} addr add 10.66.0.12/24 dev mrb"),
            format!("-n {far} addr add fd66::11/64 dev mrb nodad"),
            format!("-n {near} link set mra up"),
            format!("-n {near} link set lo up"),
            format!("-n {far} link set mrb up"),
            format!("-n {near} route add 10.99.0.0/24 via 10.66.0.11"),
        ] {
            ip(&line)?;
        }
        Ok(network)
    }

    /// Runs something on a thread of one side.
    fn on<T: Send + 'static>(&self, side: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/run/netns/{side}");
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).expect("the namespace is there");
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            )
            .expect("root may enter it");
            work()
        })
    }

    fn mac_of_far(&self) -> [u8; 6] {
        let text = ip(&format!("-n {} link show mrb", self.far)).expect("the link is there");
        let mac = text
            .split("link/ether ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .expect("it has a MAC");
        let bytes: Vec<u8> = mac
            .split(':')
            .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect();
        bytes.try_into().expect("six bytes")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn next_hops_are_found_through_the_hosts_stack() {
    let network = match Network::new("n") {
        Ok(network) => network,
        Err(why) => return println!("SKIP next_hops_are_found_through_the_hosts_stack: {why}"),
    };
    let far = network.mac_of_far();
    let body = move || {
        let hops = NextHops::open(Some("mra")).expect("the interface is there");
        let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
        let found = |wanted: (IpAddr, bool)| until("a neighbour", || hops.resolve(wanted) == Ok(far));
        found((addr("10.66.0.11"), true));
        found((addr("fd66::11"), true));
        // Behind a router: its MAC for tunnels, a refusal for MAC rewrite.
        found((addr("10.99.0.1"), false));
        let (address, router) = (addr("10.99.0.1"), addr("10.66.0.11"));
        assert_eq!(
            hops.resolve((address, true)),
            Err(NeighbourError::NotOnLink { address, router })
        );
        assert_eq!(
            hops.resolve((addr("10.66.0.99"), true)),
            Err(NeighbourError::Silent(addr("10.66.0.99")))
        );
        assert_eq!(
            hops.resolve((addr("192.0.2.1"), true)),
            Err(NeighbourError::NoRoute(addr("192.0.2.1")))
        );
        assert_eq!(
            hops.resolve((addr("10.66.0.2"), true)),
            Err(NeighbourError::Local(addr("10.66.0.2")))
        );
        let other = NextHops::open(Some("lo")).expect("the interface is there");
        let elsewhere = other.resolve((addr("10.66.0.11"), true)).expect_err("not by lo");
        assert!(elsewhere.to_string().contains("not by lo"), "{elsewhere}");
        assert!(NextHops::open(Some("mrx")).is_err_and(|why| why.to_string().contains("mrx")));
    };
    network
        .on(&network.near, body)
        .join()
        .expect("no assertion failed");
}

/// A server that takes connections until it is told to close.
fn server(network: &Network, address: &str) -> Arc<AtomicBool> {
    let open = Arc::new(AtomicBool::new(true));
    let (flag, address): (_, SocketAddr) = (open.clone(), address.parse().expect("an address"));
    let (ready, wait) = mpsc::channel();
    network.on(&network.far.clone(), move || {
        let listener = TcpListener::bind(address).expect("the address is there");
        listener.set_nonblocking(true).expect("it can be polled");
        let _ = ready.send(());
        while flag.load(Ordering::Relaxed) {
            if listener.accept().is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    wait.recv().expect("it listens");
    open
}

fn file(backends: &str) -> String {
    format!(
        r#"
[balancer]
max_vips = 4
connection_table = 1024
[[vip]]
name = "web"
address = "10.66.0.100"
port = 8080
protocol = "tcp"
mode = "l2"
health = {{ type = "tcp", interval = "50ms", timeout = "50ms", rise = 2, fall = 2 }}
backend = [{backends}]
"#
    )
}

const BOTH: &str = r#"{ address = "10.66.0.11" }, { address = "10.66.0.12", weight = 2 }"#;
const ONE: &str = r#"{ address = "10.66.0.11" }"#;

fn control(path: &Path, engine: &dyn common::Engine, host: Host) -> (Control, ControlRegistry) {
    let watched = Watched::new(path);
    let config = Config::load(path).expect("right");
    let mut balancer = Balancer::new(DataPlane::new(engine.tables()), config.limits, [0; 6]);
    balancer.apply(config).expect("tables take it");
    let mut control = Control::new(balancer, watched);
    let registry = ControlRegistry::new();
    verbs::register(&registry, &control.handle());
    control.start(&host).expect("it starts");
    (control, registry)
}

#[test]
fn a_file_that_changed_between_the_first_reading_and_the_start_is_followed() {
    let name = "a_file_that_changed_between_the_first_reading_and_the_start_is_followed";
    let engine = match common::runtime::Runtime::new() {
        Ok(engine) => engine,
        Err(why) => return println!("SKIP {name}: {why}"),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lb.toml");
    std::fs::write(&path, file(BOTH)).expect("it can be written");
    let watched = Watched::new(&path);
    let config = Config::load(&path).expect("right");
    std::fs::write(&path, file(ONE)).expect("it can be written");
    let mut balancer = Balancer::new(DataPlane::new(engine.tables()), config.limits, [0; 6]);
    balancer.apply(config).expect("tables take it");
    let mut control = Control::new(balancer, watched);
    let registry = ControlRegistry::new();
    verbs::register(&registry, &control.handle());
    assert_eq!(states(&registry).len(), 2, "not followed before it starts");
    control.start(&Host::default()).expect("it starts");
    until("the second version", || states(&registry).len() == 1);
}

fn states(registry: &ControlRegistry) -> Vec<String> {
    let answer = registry
        .call("lb.vips", &json!({ "name": "web" }))
        .expect("it answers");
    let backends = answer["vips"][0]["backends"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    backends
        .iter()
        .map(|backend| backend["state"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn checks_drains_and_reloads_reach_the_tables() {
    let network = match Network::new("c") {
        Ok(network) => network,
        Err(why) => return println!("SKIP checks_drains_and_reloads_reach_the_tables: {why}"),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lb.toml");
    std::fs::write(&path, file(BOTH)).expect("it can be written");
    let _one = server(&network, "10.66.0.11:8080");
    let two = server(&network, "10.66.0.12:8080");
    let far = network.mac_of_far();
    let near = network.near.clone();
    let body = move || {
        let engine = match common::runtime::Runtime::new() {
            Ok(engine) => engine,
            Err(why) => return println!("SKIP checks_drains_and_reloads_reach_the_tables: {why}"),
        };
        let host = Host {
            interface: Some("mra".into()),
            addresses: vec![("10.66.0.3".parse().expect("right"), 24)],
        };
        let (control, registry) = control(&path, &engine, host);
        until("both to be up", || states(&registry) == ["up", "up"]);
        let answer = registry.call("lb.vips", &json!({})).expect("it answers");
        let mac = far.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(answer["vips"][0]["backends"][1]["mac"], json!(mac));
        assert_eq!(answer["vips"][0]["settling"], json!(false));
        let addresses = ip(&format!("-n {near} addr show mra")).expect("it is there");
        assert!(
            addresses.contains("10.66.0.100/32") && addresses.contains("10.66.0.3/24"),
            "{addresses}"
        );

        // A server that closes is down, and the log says when and why.
        two.store(false, Ordering::Relaxed);
        until("the second to be down", || states(&registry) == ["up", "down"]);
        let events = registry.call("lb.events", &json!({})).expect("it answers");
        let last = events["events"]
            .as_array()
            .and_then(|events| events.last().cloned())
            .unwrap_or_default();
        assert_eq!(
            (&last["backend"], &last["to"]),
            (&json!("10.66.0.12"), &json!("down"))
        );
        assert!(
            last["why"].as_str().is_some_and(|why| why.contains("refused")),
            "{last}"
        );

        // Drained and back.
        let drain = json!({ "backend": "10.66.0.11" });
        registry.call("lb.drain", &drain).expect("it is there");
        assert_eq!(states(&registry), ["drained", "down"]);
        registry.call("lb.undrain", &drain).expect("it is there");
        assert_eq!(states(&registry), ["up", "down"]);
        let unknown = registry
            .call("lb.drain", &json!({ "backend": "10.66.0.77" }))
            .expect_err("nobody");
        assert!(
            unknown
                .to_string()
                .starts_with("no VIP has a backend 10.66.0.77; ")
        );

        // A wrong file changes nothing and says so.
        std::fs::write(&path, "[[vip]]\nnonsense = 1\n").expect("it can be written");
        let refusal = || registry.call("lb.stats", &json!({})).expect("it answers")["refusal"].clone();
        until("the refusal", || refusal() != Value::Null);
        assert!(
            refusal()
                .as_str()
                .is_some_and(|why| why.contains("lb.toml:2: unknown field `nonsense`"))
        );
        assert_eq!(states(&registry), ["up", "down"]);
        assert!(
            registry
                .call("lb.reload", &json!({}))
                .is_err_and(|why| why.to_string().contains("stays in force"))
        );

        // A right one is in force soon; the VIP's address goes with the VIP.
        std::fs::write(&path, file(ONE)).expect("it can be written");
        until("the new file", || states(&registry) == ["up"]);
        assert_eq!(refusal(), Value::Null);
        std::fs::write(&path, file(ONE).replace("0.100", "0.101")).expect("it can be written");
        registry.call("lb.reload", &json!({})).expect("right");
        until("the new VIP", || states(&registry) == ["up"]);
        let addresses = ip(&format!("-n {near} addr show mra")).expect("it is there");
        assert!(
            addresses.contains("10.66.0.101/32") && !addresses.contains("10.66.0.100/32"),
            "{addresses}"
        );

        // Table sizes are fixed.
        std::fs::write(&path, file(ONE).replace("max_vips = 4", "max_vips = 5")).expect("it can be written");
        assert!(
            registry
                .call("lb.reload", &json!({}))
                .is_err_and(|why| why.to_string().contains("restart"))
        );
        drop(control);
        assert!(registry.call("lb.vips", &json!({})).is_err(), "it is over");
    };
    network
        .on(&network.near, body)
        .join()
        .expect("no assertion failed");
}
