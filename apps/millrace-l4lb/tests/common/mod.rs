//! The data plane in two places, our runtime and the Linux kernel, driven alike; and Wireshark as a reader of frames.
#![allow(dead_code)]

pub mod kernel;
pub mod runtime;
pub mod tshark;

use std::net::IpAddr;
use std::sync::Arc;

use millrace_ebpf::EngineKind;
use millrace_l4lb::balancer::Balancer;
use millrace_l4lb::config::Config;
use millrace_l4lb::dataplane::{DataPlane, Tables};
use millrace_l4lb::health::Outcome;

pub const PASS: u32 = 2;
pub const DROP: u32 = 1;
pub const TX: u32 = 3;

/// MAC of the balancer's port, and of a router where clients are.
pub const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A program over its tables.
pub trait Engine {
    fn name(&self) -> &'static str;
    fn tables(&self) -> Arc<dyn Tables>;
    /// Verdict, and the frame as the program left it.
    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>);
}

/// Runs a scenario in our runtime, on each of its engines, and in the kernel where that is possible.
pub fn everywhere(test: &str, scenario: impl Fn(&mut dyn Engine)) {
    for engine in EngineKind::available() {
        match runtime::Runtime::on(engine) {
            Ok(mut runtime) => scenario(&mut runtime),
            Err(why) => println!("SKIP {test} (in our runtime, {}): {why}", engine.name()),
        }
    }
    match kernel::Kernel::new() {
        Ok(mut kernel) => scenario(&mut kernel),
        Err(why) => println!("SKIP {test} (in the kernel): {why}"),
    }
}

/// A backend's MAC in these tests: from its address.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [6, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let o = v6.octets();
            [6, 1, o[12], o[13], o[14], o[15]]
        }
    }
}

/// A balancer with this file, all backends up.
pub fn balancer(engine: &dyn Engine, text: &str) -> Balancer {
    let config = Config::parse("test.toml", text).expect("the test's configuration is right");
    let mut balancer = Balancer::new(DataPlane::new(engine.tables()), config.limits, OURS);
    balancer.apply(config).expect("tables take it");
    all_up(&mut balancer);
    balancer
}

/// Every check succeeds, every neighbour answers.
pub fn all_up(balancer: &mut Balancer) {
    for wanted in balancer.wanted() {
        balancer
            .take_neighbour(wanted, &Ok(mac_of(wanted.0)))
            .expect("tables take it");
    }
    for plan in balancer.plans() {
        balancer
            .take_check(&plan.key, Outcome::Serves)
            .expect("tables take it");
    }
}

/// As many checks of a backend fail as it takes.
pub fn kill(balancer: &mut Balancer, backend: IpAddr) {
    for plan in balancer.plans().into_iter().filter(|plan| plan.key.1 == backend) {
        for _ in 0..plan.health.fall {
            balancer
                .take_check(&plan.key, Outcome::Fails("refused".into()))
                .expect("tables take it");
        }
    }
}

/// The backend that a frame was sent to by MAC.
pub fn sent_to(frame: &[u8]) -> [u8; 6] {
    frame[..6].try_into().expect("a frame has a destination")
}

pub fn reason(balancer: &Balancer, name: &str) -> u64 {
    let all = balancer.plane().reasons().expect("counters can be read");
    all.iter()
        .find(|(reason, _)| *reason == name)
        .expect("a known reason")
        .1
}
