//! The main job, end to end: what `make run` shows.
//!
//! [`run`] builds a [`Site`], starts three nginx backends, the NIC model and the balancer, and sends requests from many
//! clients; half way it drains one backend and kills another. [`table`] prints what happens while it runs.

mod table;

use crate::netns;
use crate::site::balancer::{Balancer, INSTANCE};
use crate::site::load::{self, Lost, Plan, Tally, Verdict};
use crate::site::{CLIENT4, Site, VIP4};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use table::{Row, Table};

/// How the demonstration is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Requests in all.
    pub requests: u64,
    /// Leave it up at the end.
    pub stay: bool,
}

/// What it came to; printed as the last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Requests made.
    pub requests: u64,
    /// Answered.
    pub ok: u64,
    /// Lost, and not explained by the killed backend.
    pub failed: u64,
    /// Lost on the killed backend before its health check could know.
    pub on_killed: u64,
    /// Backends that answered at least once.
    pub backends: usize,
    /// Kept-alive connections that changed backends.
    pub moved: u64,
    /// Received packets by queue.
    pub queues: Vec<u64>,
}

impl Summary {
    /// Whether the main job was done as promised.
    pub fn good(&self) -> bool {
        self.failed == 0 && self.moved == 0 && self.backends == 3 && self.balanced()
    }

    /// No queue below a fifth of the packets.
    pub fn balanced(&self) -> bool {
        let all: u64 = self.queues.iter().sum();
        self.queues.len() >= 2 && self.queues.iter().all(|&q| q * 5 >= all)
    }

    /// The last line of the demonstration.
    pub fn line(&self) -> String {
        format!(
            "main-job: requests={} ok={} failed={} on_killed={} backends={} moved={}",
            self.requests, self.ok, self.failed, self.on_killed, self.backends, self.moved
        )
    }
}

const KEEPERS: usize = 16;
const OPENERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// For the health checks to find the backends.
const PATIENCE: Duration = Duration::from_secs(15);

fn config(site: &Site) -> String {
    let mut text = format!(
        "[[vip]]\nname = \"web\"\naddress = \"{VIP4}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"l2\"\n\
         health = {{ type = \"http\", interval = \"500ms\", timeout = \"400ms\", rise = 2, fall = 2 }}\n"
    );
    for b in &site.backends {
        text.push_str(&format!("[[vip.backend]]\naddress = \"{}\"\n", b.v4));
    }
    text
}

/// Runs the demonstration and prints it as it goes.
pub fn run(options: &Options) -> io::Result<Summary> {
    netns::available()
        .map_err(|why| io::Error::other(format!("{why}; run it as root (`make run` asks through sudo)")))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let dir = tempfile::Builder::new().prefix("millrace-run-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;

    println!("Building the site: clients, a balancer and three nginx backends on one bridge");
    let mut site = Site::new("run", dir.path())?;
    for _ in 0..3 {
        go_on(&interrupted)?;
        site.add_backend()?.start()?;
    }
    go_on(&interrupted)?;
    println!("Starting nic-model (an Intel 82599) and millrace-l4lb on it: two RX queues, two workers");
    let balancer = site
        .start_balancer(&config(&site), &[])
        .map_err(|e| with_logs(&site, e))?;
    wait_for_backends(&balancer, &interrupted).map_err(|e| with_logs(&site, e))?;

    let summary = drive(&mut site, &balancer, options, &interrupted).map_err(|e| with_logs(&site, e))?;
    if options.stay && !interrupted.load(Ordering::Relaxed) {
        stay(&site, &balancer, &interrupted);
    }
    drop(balancer);
    drop(site);
    println!("{}", summary.line());
    Ok(summary)
}

/// An error once somebody has asked for the end: what is dropped on the way out undoes itself.
fn go_on(interrupted: &AtomicBool) -> io::Result<()> {
    if interrupted.load(Ordering::Relaxed) {
        return Err(io::Error::other("interrupted; what was made is being undone"));
    }
    Ok(())
}

/// Waits until the health checks have found all three backends, or somebody wants no more of it.
fn wait_for_backends(balancer: &Balancer, interrupted: &AtomicBool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        go_on(interrupted)?;
        match balancer.wait_for_backends(3, Duration::from_millis(200)) {
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

/// Sends the requests, with the drain and the kill half way.
fn drive(
    site: &mut Site,
    balancer: &Balancer,
    options: &Options,
    interrupted: &AtomicBool,
) -> io::Result<Summary> {
    let vip = SocketAddr::new(IpAddr::V4(VIP4), 80);
    let plan = Plan {
        keepers: KEEPERS,
        openers: OPENERS,
        pause: PAUSE,
        requests: options.requests,
        from: IpAddr::V4(CLIENT4),
        to: vip,
        timeout: Duration::from_secs(3),
    };
    let tally = Tally::default();
    let killed = IpAddr::V4(site.backends[2].v4);
    let drained = IpAddr::V4(site.backends[1].v4);
    let mut backends = std::mem::take(&mut site.backends);
    let judge = |lost: &Lost| attribute(balancer, lost, vip, killed);
    let finished = AtomicBool::new(false);
    let result = std::thread::scope(|scope| -> io::Result<()> {
        let clients = scope.spawn(|| {
            let outcome = load::run(&plan, &site.clients, &tally, &judge);
            finished.store(true, Ordering::Relaxed);
            outcome
        });
        let mut table = Table::new();
        let mut half_done = false;
        let start = Instant::now();
        let mut watch = || -> io::Result<()> {
            while !finished.load(Ordering::Relaxed) {
                go_on(interrupted)?;
                if !half_done && tally.ok() >= options.requests / 2 {
                    half_done = true;
                    balancer.drain(drained)?;
                    backends[2].kill();
                    table.note(&format!(
                        "{} drained, {} killed",
                        backends[1].name, backends[2].name
                    ));
                }
                table.show(&Row::collect(start.elapsed(), &tally, balancer)?);
                std::thread::sleep(Duration::from_millis(200));
            }
            table.end(&Row::collect(start.elapsed(), &tally, balancer)?);
            Ok(())
        };
        let watched = watch();
        if watched.is_err() {
            tally.stop();
        }
        let ran = clients
            .join()
            .map_err(|_| io::Error::other("a client thread panicked"))?;
        watched.and(ran)
    });
    site.backends = backends;
    result?;
    report(site, balancer, options, &tally)
}

/// A lost request is the killed backend's if the balancer's record of its flow names that backend, from a moment before
/// the balancer had found it down. Asked at the moment of the loss, before the flow can be placed anew.
fn attribute(balancer: &Balancer, lost: &Lost, vip: SocketAddr, killed: IpAddr) -> Verdict {
    let Ok(flow) = balancer.flow(lost.local, vip) else {
        return Verdict::Failed;
    };
    if flow.backend != Some(killed) {
        return Verdict::Failed;
    }
    let Ok(events) = balancer.events() else {
        return Verdict::Failed;
    };
    let down = events.iter().find(|e| e.backend == killed && e.to == "down");
    match (down, flow.since_ms) {
        (None, _) => Verdict::OnKilled,
        (Some(down), Some(since_ms)) if since_ms <= down.at_ms => Verdict::OnKilled,
        _ => Verdict::Failed,
    }
}

fn report(site: &Site, balancer: &Balancer, options: &Options, tally: &Tally) -> io::Result<Summary> {
    let queues = table::queue_packets(balancer)?;
    let by_backend = tally.by_backend();
    let lost = tally.lost();
    let on_killed = lost.iter().filter(|l| l.verdict == Verdict::OnKilled).count() as u64;
    let all: u64 = queues.iter().sum::<u64>().max(1);
    println!("\nPackets per RX queue:");
    for (i, q) in queues.iter().enumerate() {
        println!("  queue {i}: {q:>8}  ({:.0} %)", *q as f64 * 100.0 / all as f64);
    }
    println!("Requests per backend:");
    for b in &site.backends {
        println!(
            "  {}: {:>8}",
            b.name,
            by_backend.get(&b.name).copied().unwrap_or(0)
        );
    }
    for l in lost.iter().filter(|l| l.verdict == Verdict::Failed).take(10) {
        let known = l.backend.as_deref().unwrap_or("none yet");
        println!(
            "  failed at {:.1} s: {} -> VIP: {} (backend: {known})",
            l.at.as_secs_f32(),
            l.local,
            l.error
        );
    }
    Ok(Summary {
        requests: options.requests,
        ok: tally.ok(),
        failed: lost.len() as u64 - on_killed,
        on_killed,
        backends: by_backend.len(),
        moved: tally.moved(),
        queues,
    })
}

/// Says how to look inside, and waits.
fn stay(site: &Site, balancer: &Balancer, interrupted: &AtomicBool) {
    let run = balancer.run_dir.display();
    let bin =
        crate::process::sibling("millrace").map_or_else(|_| "millrace".into(), |p| p.display().to_string());
    println!(
        "\nIt stays up until Ctrl-C. In another terminal, as root:\n\
         \x20 ip netns exec {} curl -s -i http://{VIP4}/              a request of your own\n\
         \x20 MILLRACE_RUN_DIR={run} {bin} stats --instance {INSTANCE} --watch\n\
         \x20 MILLRACE_RUN_DIR={run} {bin} port show --instance {INSTANCE}\n\
         \x20 MILLRACE_RUN_DIR={run} {bin} map list --instance {INSTANCE}\n\
         \x20 ip netns exec {} tshark -i eth0                           frames as the clients see them\n\
         \x20 {}                                logs and configuration",
        site.clients.name(),
        site.clients.name(),
        site.dir().display()
    );
    while !interrupted.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An error with the ends of the logs that may explain it.
fn with_logs(site: &Site, e: io::Error) -> io::Error {
    let mut text = e.to_string();
    for log in ["nic-model.log", "l4lb.log"] {
        if let Ok(all) = std::fs::read_to_string(site.dir().join(log)) {
            let tail: Vec<&str> = all.lines().rev().take(5).collect();
            for line in tail.iter().rev() {
                text.push_str(&format!("\n  {log}: {line}"));
            }
        }
    }
    io::Error::new(e.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(queues: &[u64]) -> Summary {
        Summary {
            requests: 10,
            ok: 9,
            failed: 0,
            on_killed: 1,
            backends: 3,
            moved: 0,
            queues: queues.to_vec(),
        }
    }

    #[test]
    fn the_last_line_accounts_for_every_request() {
        let s = summary(&[50, 50]);
        assert_eq!(
            s.line(),
            "main-job: requests=10 ok=9 failed=0 on_killed=1 backends=3 moved=0"
        );
        assert_eq!(s.ok + s.failed + s.on_killed, s.requests);
        assert!(s.good());
    }

    #[test]
    fn a_queue_below_a_fifth_is_no_balance() {
        assert!(!summary(&[10, 90]).balanced());
        assert!(!summary(&[100]).balanced());
        assert!(summary(&[20, 80]).balanced());
    }
}
