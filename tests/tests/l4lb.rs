//! The balancer on the modelled 82599 between real TCP clients and real HTTP servers, in network namespaces.

use millrace_tests::netns;
use millrace_tests::site::balancer::Balancer;
use millrace_tests::site::http::{Connection, PostServer, checksum, enter};
use millrace_tests::site::load::{self, Lost, Plan, Tally, Verdict};
use millrace_tests::site::{CLIENT4, CLIENT6, Site, VIP4, VIP6};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Says why a test cannot run here, by name.
macro_rules! root_or_skip {
    ($name:literal) => {
        if let Err(reason) = netns::available() {
            println!("SKIP {}: {reason}", $name);
            return;
        }
    };
}

fn vip(address: IpAddr, port: u16, mode: &str, backends: &[IpAddr]) -> String {
    let mut text = format!(
        "[[vip]]\nname = \"{mode}-{port}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"tcp\"\nmode = \"{mode}\"\n\
         health = {{ type = \"tcp\", interval = \"300ms\", timeout = \"250ms\", rise = 2, fall = 2 }}\n"
    );
    for b in backends {
        let _ = writeln!(text, "[[vip.backend]]\naddress = \"{b}\"");
    }
    text
}

#[test]
fn ten_thousand_requests_survive_backends_added_drained_and_killed() {
    root_or_skip!("ten_thousand_requests_survive_backends_added_drained_and_killed");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::new("lb", dir.path()).expect("a site");
    for _ in 0..4 {
        site.add_backend().expect("a backend").start().expect("nginx");
    }
    let address: Vec<IpAddr> = site.backends.iter().map(|b| IpAddr::V4(b.v4)).collect();
    let config = |n: usize| vip(IpAddr::V4(VIP4), 80, "l2", &address[..n]);
    let balancer = site.start_balancer(&config(3), &[]).expect("the balancer");
    balancer
        .wait_for_backends(3, Duration::from_secs(20))
        .expect("three backends");

    let plan = Plan {
        keepers: 150,
        openers: 50,
        pause: Duration::from_millis(20),
        requests: 10_000,
        from: IpAddr::V4(CLIENT4),
        to: SocketAddr::new(IpAddr::V4(VIP4), 80),
        timeout: Duration::from_secs(10),
    };
    let tally = Tally::default();
    let (drained, killed) = (address[1], address[2]);
    let mut backends = std::mem::take(&mut site.backends);
    let judge = |lost: &Lost| judge(&balancer, lost, plan.to, killed);
    let at_drain = std::thread::scope(|scope| {
        let clients = scope.spawn(|| load::run(&plan, &site.clients, &tally, &judge));
        wait_for(&tally, 2_500);
        std::fs::write(&balancer.config, config(4)).expect("a fourth backend in the configuration");
        wait_for(&tally, 5_000);
        balancer.drain(drained).expect("draining");
        let at_drain = tally.by_backend();
        wait_for(&tally, 7_000);
        backends[2].kill();
        clients.join().expect("no panic").expect("the load runs");
        at_drain
    });
    let lost = tally.lost();
    let failed: Vec<_> = lost.iter().filter(|l| l.verdict == Verdict::Failed).collect();
    assert!(
        failed.is_empty(),
        "{} of {} lost requests are not the killed backend's: {failed:?}",
        failed.len(),
        lost.len()
    );
    assert_eq!(tally.ok() + lost.len() as u64, 10_000);
    assert_eq!(tally.moved(), 0, "an established connection moved");
    let by_backend = tally.by_backend();
    assert!(
        by_backend.get("b4").copied().unwrap_or(0) > 100,
        "the added backend serves: {by_backend:?}"
    );
    // A drained backend keeps the connections it has: its clients went on asking.
    assert!(
        by_backend["b2"] > at_drain["b2"],
        "{by_backend:?}, at the drain {at_drain:?}"
    );
    println!(
        "10000 requests: ok={} on_killed={} by backend {by_backend:?}",
        tally.ok(),
        lost.len()
    );
}

/// The killed backend's, if the balancer's record says so and it had not been found down yet.
fn judge(balancer: &Balancer, lost: &Lost, vip: SocketAddr, killed: IpAddr) -> Verdict {
    match balancer.flow(lost.local, vip) {
        Ok(flow) if flow.backend == Some(killed) => Verdict::OnKilled,
        flow => {
            println!("{} is not on the killed backend: {flow:?}", lost.local);
            Verdict::Failed
        }
    }
}

fn wait_for(tally: &Tally, ok: u64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while tally.ok() < ok && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn posts_of_a_megabyte_arrive_in_both_modes_over_ipv4_and_ipv6() {
    root_or_skip!("posts_of_a_megabyte_arrive_in_both_modes_over_ipv4_and_ipv6");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::new("post", dir.path()).expect("a site");
    let decap = dir.path().join("decap.o");
    if let Err(reason) = compile(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/decap.bpf.c")),
        &decap,
    ) {
        println!("SKIP posts_of_a_megabyte_arrive_in_both_modes_over_ipv4_and_ipv6: {reason}");
        return;
    }
    let backend = site.add_backend().expect("a backend");
    let decap = decap.to_string_lossy().into_owned();
    backend
        .ns
        .run(&[
            "ip",
            "link",
            "set",
            "dev",
            "eth0",
            "xdpgeneric",
            "obj",
            &decap,
            "sec",
            "xdp",
        ])
        .expect("the decapsulating program");
    // The inner packets come from addresses whose way back is not the interface they came in by an outer header's reckoning.
    backend
        .ns
        .run(&["sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=0"])
        .expect("rp_filter");
    let (v4, v6) = (IpAddr::V4(backend.v4), IpAddr::V6(backend.v6));
    let ports = [81_u16, 82, 83, 84];
    let servers: Vec<PostServer> = ports
        .iter()
        .map(|&p| PostServer::start("b1", &backend.ns, p).expect("a server"))
        .collect();
    let mut config =
        String::from("[balancer]\ntunnel_source4 = \"10.77.0.2\"\ntunnel_source6 = \"fd77::2\"\n");
    config += &vip(IpAddr::V4(VIP4), 81, "l2", &[v4]);
    config += &vip(IpAddr::V4(VIP4), 82, "ipip", &[v4]);
    config += &vip(IpAddr::V6(VIP6), 83, "l2", &[v6]);
    config += &vip(IpAddr::V6(VIP6), 84, "ipip", &[v6]);
    let balancer = site.start_balancer(&config, &[]).expect("the balancer");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !balancer
        .vips()
        .expect("vips")
        .iter()
        .all(|v| v.backends.iter().all(|b| b.state == "up"))
    {
        assert!(
            std::time::Instant::now() < deadline,
            "backends: {:?}",
            balancer.vips()
        );
        std::thread::sleep(Duration::from_millis(50));
    }

    let capture = Capture::start(&site);
    let body: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 31 + (i >> 8)) as u8).collect();
    let link =
        std::fs::File::open(format!("/run/netns/{}", site.clients.name())).expect("the clients' namespace");
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(&link).expect("entering the clients' namespace");
                for port in ports {
                    let (from, to) = match port {
                        81 | 82 => (IpAddr::V4(CLIENT4), IpAddr::V4(VIP4)),
                        _ => (IpAddr::V6(CLIENT6), IpAddr::V6(VIP6)),
                    };
                    let (from, to) = (SocketAddr::new(from, 30_000 + port), SocketAddr::new(to, port));
                    let mut c = Connection::open(from, to, Duration::from_secs(20))
                        .unwrap_or_else(|e| panic!("{to}: {e}"));
                    c.post("/", &body).unwrap_or_else(|e| panic!("{to}: {e}"));
                    assert_eq!(c.body, Some(format!("1000000 {}", checksum(&body))), "{to}");
                }
            })
            .join()
            .expect("every POST arrives");
    });
    capture.assert_well_formed();
    drop(servers);
}

fn compile(source: &Path, object: &Path) -> Result<(), String> {
    let out = std::process::Command::new("clang-19")
        .args([
            "-O2",
            "-g",
            "-target",
            "bpf",
            "-mcpu=v3",
            "-I/usr/include/x86_64-linux-gnu",
            "-c",
        ])
        .arg(source)
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|e| format!("clang-19 does not start ({e}); `make deps` installs it"))?;
    if out.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// What the NIC sends, captured where its cable meets the bridge.
struct Capture {
    tshark: Option<millrace_tests::process::Process>,
    file: std::path::PathBuf,
}

impl Capture {
    fn start(site: &Site) -> Self {
        let file = site.dir().join("nic.pcapng");
        if std::process::Command::new("tshark").arg("-v").output().is_err() {
            println!("SKIP well-formedness by tshark: it is not installed; `make deps` installs it");
            return Self { tshark: None, file };
        }
        let mut command = site.bridge().command("tshark");
        command
            .args([
                "-q",
                "-i",
                site.balancer_port(),
                "-f",
                "ether src 02:00:0a:4d:00:02",
                "-w",
            ])
            .arg(&file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let tshark = millrace_tests::process::Process::spawn("tshark", command).expect("tshark");
        // It takes frames from when the file has its header on.
        for _ in 0..300 {
            if std::fs::metadata(&file).is_ok_and(|m| m.len() > 0) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(Duration::from_secs(1));
        Self {
            tshark: Some(tshark),
            file,
        }
    }

    /// tshark finds nothing malformed and no wrong checksum, and has seen both tunnels.
    fn assert_well_formed(mut self) {
        let Some(mut tshark) = self.tshark.take() else {
            return;
        };
        std::thread::sleep(Duration::from_millis(500));
        tshark.stop(Duration::from_secs(10));
        let frames = |filter: &str| {
            let out = std::process::Command::new("tshark")
                .args([
                    "-o",
                    "ip.check_checksum:TRUE",
                    "-o",
                    "tcp.check_checksum:TRUE",
                    "-o",
                    "udp.check_checksum:TRUE",
                ])
                .arg("-r")
                .arg(&self.file)
                .args(["-Y", filter])
                .output()
                .expect("tshark reads the capture");
            String::from_utf8_lossy(&out.stdout)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let count = |filter: &str| frames(filter).len();
        // An ICMP error quotes the beginning of a segment, so the quoted TCP checksum cannot fit what is there of it.
        let bad = "_ws.malformed || ip.checksum.status == \"Bad\" || icmp.checksum.status == \"Bad\" || \
                   icmpv6.checksum.status == \"Bad\" || (tcp.checksum.status == \"Bad\" && !icmp && !icmpv6)";
        let found = frames(bad);
        assert!(
            found.is_empty(),
            "tshark objects to {} frames: {:#?}",
            found.len(),
            &found[..found.len().min(5)]
        );
        assert!(count("ip.proto == 4") > 500, "IPIP frames were seen");
        assert!(count("ipv6.nxt == 41") > 500, "IP6IP6 frames were seen");
        assert!(
            count("icmp.type == 3 && icmp.code == 4") > 0,
            "frag-needed was sent"
        );
        assert!(count("icmpv6.type == 2") > 0, "packet-too-big was sent");
    }
}
