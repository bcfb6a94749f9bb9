//! The balancer from start to end: file, port, program, tables, traffic, control plane, and back.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace::{App, AppHandle, PortSpec, QueueSel};
use millrace_ebpf::{EngineKind, Loader, Object};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::{CliError, Serve};
use crate::balancer::Balancer;
use crate::config::{Config, Limits};
use crate::control::{Control, ControlHandle, Host, Watched, verbs};
use crate::dataplane::{DataPlane, RuntimeTables};

/// What the port is called in control and counters.
const PORT: &str = "eth0";
/// Frames come from clients, whatever the way to the backends carries.
const CLIENT_MTU: u16 = 1500;
/// Between two looks at the flags that signal handlers set.
const SIGNAL_TICK: Duration = Duration::from_millis(50);

pub(super) fn check(file: &Path) -> Result<Config, CliError> {
    let config = Config::load(file)?;
    let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
    println!(
        "{}: right, {} VIPs, {backends} backends",
        file.display(),
        config.vips.len()
    );
    Ok(config)
}

pub(super) fn serve(args: Serve) -> Result<(), CliError> {
    if args.check {
        return check(&args.config).map(drop);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();

    let watched = Watched::new(&args.config);
    let config = Config::load(&args.config)?;
    let signals = Signals::catch()?;
    let app = open(&args, &config)?;
    let plane = load(&app, &args, &config.limits)?;
    let mac = app.port(PORT)?.mac;
    let mut balancer = Balancer::new(plane, config.limits, mac);
    balancer.apply(config)?;
    let mut control = Control::new(balancer, watched);
    verbs::register(app.control(), &control.handle());

    let running = app.start()?;
    control.start(&Host {
        interface: args.exception_tap,
        addresses: args.tap_address,
    })?;
    tracing::info!("balancing");
    signals.watch(running.handle(), control.handle());
    let report = running.wait()?;
    drop(control);
    tracing::info!("ended: {}", report.reason);
    Ok(())
}

fn open(args: &Serve, config: &Config) -> Result<App, CliError> {
    let device = args.device.clone().unwrap_or_default();
    let mut port = PortSpec::new(PORT, device).queues(args.queues);
    port.config.mtu = config.mtu.max(CLIENT_MTU);
    port.config.untested = args.untested;
    if let Some(tap) = &args.exception_tap {
        port = port.exception_tap(tap);
    }
    let mut builder = App::builder().port(port).control(&args.name).pin(!args.no_pin);
    if let Some(workers) = args.workers {
        builder = builder.workers(workers.into());
    }
    Ok(builder.build()?)
}

/// Loads the program with tables of the wanted sizes and puts it in front of every queue.
fn load(app: &App, args: &Serve, limits: &Limits) -> Result<DataPlane, CliError> {
    let object = Object::parse(crate::OBJECT)?;
    let mut loader = Loader::new().cpus(u32::try_from(app.workers()).unwrap_or(u32::MAX));
    for (map, entries) in table_sizes(limits) {
        loader = loader.map_max_entries(map, entries);
    }
    let loaded = loader.load(&object)?;
    let program = loaded.program(None)?;
    let engine = args.engine.map_or_else(EngineKind::default, EngineKind::from);
    app.attach(PORT, QueueSel::All, &program, engine)?;
    app.programs().insert("l4lb", program);
    for (name, map) in &loaded.maps {
        app.maps().insert(name.clone(), map.clone());
    }
    Ok(DataPlane::new(Arc::new(RuntimeTables(loaded.maps))))
}

/// Entries of each table: backend id 0 is nobody, a VIP has up to three keys and two rings.
fn table_sizes(limits: &Limits) -> [(&'static str, u32); 7] {
    [
        ("vips", limits.vips * 3),
        ("rings", limits.vips * 2),
        ("active_ring", limits.vips),
        ("vip_stats", limits.vips),
        ("backends", limits.backends + 1),
        ("backend_stats", limits.backends + 1),
        ("flows", limits.flows),
    ]
}

/// Flags that signal handlers set.
struct Signals {
    end: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// SIGHUP reloads; the first SIGINT or SIGTERM ends cleanly, the second at once.
    fn catch() -> Result<Signals, CliError> {
        let signals = Signals {
            end: Arc::default(),
            reload: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 130, signals.end.clone())
                .map_err(CliError::Signals)?;
            flag::register(signal, signals.end.clone()).map_err(CliError::Signals)?;
        }
        flag::register(SIGHUP, signals.reload.clone()).map_err(CliError::Signals)?;
        Ok(signals)
    }

    /// Acts on them from a thread of its own, until the end.
    fn watch(self, app: AppHandle, control: ControlHandle) {
        let body = move || {
            while !self.end.load(Ordering::Relaxed) {
                if self.reload.swap(false, Ordering::Relaxed) {
                    control.request_reload();
                }
                std::thread::sleep(SIGNAL_TICK);
            }
            app.request_stop("signal");
        };
        if let Err(error) = std::thread::Builder::new().name("signals".into()).spawn(body) {
            tracing::error!("no thread for signals: {error}; end this by `millrace call stop`");
        }
    }
}
