//! Opens a port, runs an XDP object on it and counts: the framework in one screen.
//!
//!     clang -O2 -g -target bpf -c apps/millrace/examples/count.bpf.c -o count.bpf.o
//!     cargo run -p millrace --example count -- count.bpf.o [DEVICE]
//!
//! DEVICE is vfio:BDF, vfio-user:PATH or a model, as the default. While it runs, `millrace stats --watch` and
//! `millrace map dump name protocols` (with the same MILLRACE_RUN_DIR) look inside. Ctrl-C ends it.

use millrace::{App, EngineKind, PortSpec, QueueSel};
use millrace_ebpf::{Loader, Object};
use std::error::Error;
use std::process::ExitCode;

const DEVICE: &str = "model:ixgbe?wire=gen:udp4,flows=100,rate=50000&mac=02:00:00:00:00:02";

fn count(object: &str, device: &str) -> Result<(), Box<dyn Error>> {
    let port = PortSpec::new("eth0", device).queues(2);
    let app = App::builder().port(port).control("count").build()?;

    let elf = std::fs::read(object).map_err(|e| format!("cannot read {object}: {e}"))?;
    let loader = Loader::new().cpus(app.workers() as u32);
    let loaded = Object::parse(&elf).and_then(|parsed| loader.load(&parsed));
    let loaded = loaded.map_err(|e| format!("{object}: {e}"))?;
    app.attach("eth0", QueueSel::All, &loaded.program(None)?, EngineKind::Interp)?;
    for (name, map) in &loaded.maps {
        app.maps().insert(name, map.clone());
    }

    println!("{object} runs on {device}; Ctrl-C ends it");
    let stats = app.run()?.stats;
    for verdict in "rx_frames xdp_drop xdp_pass xdp_tx xdp_aborted".split(' ') {
        println!("{verdict:>12} {}", stats.total(verdict));
    }
    for (name, map) in &loaded.maps {
        for (key, value) in map
            .iter()
            .filter(|(_, value)| value.iter().any(|byte| *byte != 0))
        {
            println!("{name} {key:02x?}: {value:02x?}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(object) = args.first() else {
        eprintln!("usage: count OBJECT [DEVICE], such as count count.bpf.o {DEVICE}");
        return ExitCode::from(2);
    };
    match count(object, args.get(1).map_or(DEVICE, String::as_str)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("count: {error}");
            ExitCode::FAILURE
        }
    }
}
