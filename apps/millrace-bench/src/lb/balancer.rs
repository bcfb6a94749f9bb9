//! The balancer's program and its tables, without its health checks and neighbours.

use crate::BenchError;
use millrace_ebpf::{EngineKind, Instance, Loader, Object};
use millrace_l4lb::balancer::Balancer;
use millrace_l4lb::config::Config;
use millrace_l4lb::dataplane::{DataPlane, RuntimeTables};
use std::sync::Arc;

/// The balancer's program with its tables filled: every backend is up and its MAC address known.
pub fn ready(engine: EngineKind, mac: [u8; 6]) -> Result<(Instance, Balancer), BenchError> {
    let config = Config::parse("millrace-bench", &super::cases::config()).map_err(BenchError::balancer)?;
    let object = Object::parse(millrace_l4lb::OBJECT)?;
    let loaded = Loader::new()
        .cpus(1)
        .map_max_entries("flows", config.limits.flows)
        .load(&object)?;
    let instance = loaded.program(None)?.instance(engine, 0)?;
    let plane = DataPlane::new(Arc::new(RuntimeTables(loaded.maps)));
    let mut balancer = Balancer::new(plane, config.limits, mac);
    balancer.apply(config).map_err(BenchError::balancer)?;
    for (number, wanted) in balancer.wanted().into_iter().enumerate() {
        let backend = [6, 0, 0, 0, (number >> 8) as u8, number as u8];
        balancer
            .take_neighbour(wanted, &Ok(backend))
            .map_err(BenchError::balancer)?;
    }
    Ok((instance, balancer))
}
