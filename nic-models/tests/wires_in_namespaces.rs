//! The tap and packet wires between network namespaces of the kernel's own, with every offload of the kernel on. Needs
//! root; without it each test says that it is skipped.
#![cfg(feature = "device")]

use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::packet::{ChecksumStatus, L3, Tag, checksum, parse};
use millrace_nic_models::wire::tap::Tap;
use millrace_nic_models::wire::{self, SendOutcome, Wire, WireError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// A network namespace that is deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mr-net-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        ip(&format!("netns add {name}"));
        let namespace = Namespace(name);
        namespace.ip("link set lo up");
        namespace.run(
            "sysctl",
            "-qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
        );
        namespace
    }

    /// `ip` in this namespace.
    fn ip(&self, args: &str) {
        ip(&format!("-n {} {args}", self.0));
    }

    fn run(&self, program: &str, args: &str) {
        ip(&format!("netns exec {} {program} {args}", self.0));
    }

    /// Runs a closure on a new thread inside the namespace.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    fn open(&self, spec: &str) -> Result<Box<dyn Wire>, WireError> {
        let spec = spec.to_owned();
        self.spawn(move || wire::open(&spec)).join().unwrap()
    }

    /// An interface with both families' addresses, up.
    fn address(&self, interface: &str, v4: &str, v6: &str) {
        self.ip(&format!("addr add {v4}/24 dev {interface}"));
        self.ip(&format!("addr add {v6}/64 dev {interface} nodad"));
        self.ip(&format!("link set {interface} up"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether a test can make namespaces; says so when not.
fn can_run(test: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root to make network namespaces"
    } else if Command::new("ip").arg("-V").output().is_err() {
        "needs the ip command of iproute2"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "needs /dev/net/tun"
    } else {
        return true;
    };
    println!("SKIP {test}: {reason}");
    false
}

/// What a loop between two wires has seen.
#[derive(Debug, Default)]
struct Seen {
    longest: usize,
    bad: u64,
    tagged: u64,
    frames: u64,
}

impl Seen {
    fn look(&mut self, frame: &[u8]) {
        let p = parse(frame);
        let bad = [
            checksum::verify_ip(frame, &p),
            checksum::verify_l4(frame, &p),
            checksum::verify_icmp(frame, &p),
        ];
        self.bad += u64::from(bad.contains(&ChecksumStatus::Bad));
        self.longest = self.longest.max(frame.len());
        self.tagged += u64::from(!p.tags().is_empty());
        self.frames += 1;
    }
}

fn pass(from: &mut dyn Wire, to: &mut dyn Wire, seen: &mut Seen) -> bool {
    let mut some = false;
    for _ in 0..64 {
        let Some(frame) = from.recv().unwrap() else { break };
        seen.look(frame);
        to.send(frame).unwrap();
        some = true;
    }
    to.flush().unwrap();
    some
}

/// Carries frames between two wires while `traffic` runs; gives what passed and both wires' counters, added up.
fn carry(
    mut a: Box<dyn Wire>,
    mut b: Box<dyn Wire>,
    traffic: impl FnOnce(),
) -> (Seen, BTreeMap<&'static str, u64>) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let carrier = scope.spawn(|| {
            let mut seen = Seen::default();
            while !stop.load(Ordering::Relaxed) {
                let some = pass(&mut *a, &mut *b, &mut seen) | pass(&mut *b, &mut *a, &mut seen);
                if !some {
                    thread::sleep(Duration::from_micros(50));
                }
            }
            let mut counters = BTreeMap::new();
            for (name, value) in a.counters().into_iter().chain(b.counters()) {
                *counters.entry(name).or_insert(0) += value;
            }
            (seen, counters)
        });
        // Stops the carrier also when the traffic panics.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let guard = Stop(&stop);
        traffic();
        drop(guard);
        carrier.join().unwrap()
    })
}

fn megabyte() -> Vec<u8> {
    (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// One megabyte over TCP from `client` to `server` and back again; both must arrive intact.
fn exchange(client: &Namespace, server: &Namespace, address: &str) {
    let at = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 7777);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let serving = server.spawn(move || {
        let listener = TcpListener::bind(at).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        got
    });
    is_ready.recv_timeout(DEADLINE).unwrap();
    let asking = client.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&at, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&megabyte()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    });
    assert!(asking.join().unwrap() == megabyte(), "what came back differs");
    assert!(serving.join().unwrap() == megabyte(), "what arrived differs");
}

/// Two hosts, each with a veth `eth0` whose other end (`h0`, `h1`) is in a third namespace.
fn two_hosts() -> (Namespace, Namespace, Namespace) {
    let (a, b, middle) = (Namespace::new(), Namespace::new(), Namespace::new());
    for (host, end) in [(&a, "h0"), (&b, "h1")] {
        middle.ip(&format!(
            "link add {end} type veth peer name eth0 netns {}",
            host.0
        ));
        middle.ip(&format!("link set {end} up"));
    }
    a.address("eth0", "10.77.0.1", "fd77::1");
    b.address("eth0", "10.77.0.2", "fd77::2");
    (a, b, middle)
}

#[test]
fn a_tcp_stream_crosses_two_packet_wires_with_all_veth_offloads_on() {
    if !can_run("a_tcp_stream_crosses_two_packet_wires_with_all_veth_offloads_on") {
        return;
    }
    let (a, b, middle) = two_hosts();
    let (left, right) = (
        middle.open("packet:h0").unwrap(),
        middle.open("packet:h1").unwrap(),
    );
    let (seen, counters) = carry(left, right, || {
        exchange(&a, &b, "10.77.0.2");
        exchange(&a, &b, "fd77::2");
    });
    assert_eq!((seen.bad, seen.longest), (0, 1514), "{seen:?} {counters:?}");
    assert!(
        counters["wire_recv_gso"] > 0,
        "the kernel was to hand over GSO frames: {counters:?}"
    );
    assert!(counters["wire_recv_checksums_finished"] > 0, "{counters:?}");
    assert!(seen.frames > 4 * 720, "4 MB in frames of 1514 bytes: {seen:?}");
}

#[test]
fn vlan_tags_survive_packet_wires() {
    if !can_run("vlan_tags_survive_packet_wires") {
        return;
    }
    let (host, _other, middle) = two_hosts();
    let mut outside = middle.open("packet:h0").unwrap();
    let mut inside = host.open("packet:eth0").unwrap();
    let frame = |port: u16| {
        Frame::new()
            .ipv4([10, 77, 0, 9], [10, 77, 0, 8])
            .udp(port, 7000)
            .payload(b"tagged")
    };
    let service = Tag {
        tpid: 0x88a8,
        tci: 100,
    };
    for frame in [
        frame(1).vlan(0x6005).build(),
        frame(2).tag(service).vlan(7).build(),
        frame(3).build(),
    ] {
        inside.send(&frame).unwrap();
        inside.flush().unwrap();
        assert_eq!(await_frame(&mut *outside, |got| got.ends_with(b"tagged")), frame);
        outside.send(&frame).unwrap();
        outside.flush().unwrap();
        assert_eq!(await_frame(&mut *inside, |got| got.ends_with(b"tagged")), frame);
    }
    // The kernel takes the outer tag off before a packet socket sees the frame; the wire has put it back.
    let counters: BTreeMap<_, _> = outside.counters().into_iter().collect();
    assert_eq!(counters["wire_recv_tags_restored"], 2, "{counters:?}");
}

#[test]
fn a_tcp_stream_in_a_vlan_crosses_packet_wires() {
    if !can_run("a_tcp_stream_in_a_vlan_crosses_packet_wires") {
        return;
    }
    let (a, b, middle) = two_hosts();
    let probe = Command::new("ip")
        .args([
            "-n", &a.0, "link", "add", "link", "eth0", "name", "probe", "type", "vlan", "id", "4",
        ])
        .output()
        .unwrap();
    if !probe.status.success() {
        println!(
            "SKIP a_tcp_stream_in_a_vlan_crosses_packet_wires: this kernel has no VLAN interfaces (8021q)"
        );
        return;
    }
    for (host, n) in [(&a, 1), (&b, 2)] {
        host.ip("link add link eth0 name eth0.5 type vlan id 5");
        host.address("eth0.5", &format!("10.78.0.{n}"), &format!("fd78::{n}"));
    }
    let (left, right) = (
        middle.open("packet:h0").unwrap(),
        middle.open("packet:h1").unwrap(),
    );
    let (seen, counters) = carry(left, right, || exchange(&a, &b, "10.78.0.2"));
    assert_eq!((seen.bad, seen.longest), (0, 1518), "{seen:?} {counters:?}");
    assert!(seen.tagged > 2 * 720, "{seen:?}");
    assert!(counters["wire_recv_tags_restored"] > 0, "{counters:?}");
}

#[test]
fn a_tcp_stream_crosses_two_tap_wires() {
    if !can_run("a_tcp_stream_crosses_two_tap_wires") {
        return;
    }
    let (a, b) = (Namespace::new(), Namespace::new());
    let (left, right) = (a.open("tap:mr0").unwrap(), b.open("tap:mr0").unwrap());
    a.address("mr0", "10.79.0.1", "fd79::1");
    b.address("mr0", "10.79.0.2", "fd79::2");
    await_link(&*left, true);
    await_link(&*right, true);
    let (seen, counters) = carry(left, right, || {
        exchange(&a, &b, "10.79.0.2");
        exchange(&b, &a, "fd79::1");
    });
    assert_eq!((seen.bad, seen.longest), (0, 1514), "{seen:?} {counters:?}");
    assert!(counters["wire_recv_gso"] > 0, "{counters:?}");
}

/// Waits for a frame for which `wanted` holds.
fn await_frame(wire: &mut dyn Wire, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        match wire.recv().unwrap() {
            Some(frame) if wanted(frame) => return frame.to_vec(),
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("the frame never came");
}

#[test]
fn a_wrong_checksum_crosses_a_packet_wire_as_wrong_and_the_kernel_refuses_it() {
    if !can_run("a_wrong_checksum_crosses_a_packet_wire_as_wrong_and_the_kernel_refuses_it") {
        return;
    }
    let (host, _other, middle) = two_hosts();
    let mut outside = middle.open("packet:h0").unwrap();
    let mut inside = host.open("packet:eth0").unwrap();
    let frame = |port| {
        Frame::new()
            .macs([2, 0, 0, 0, 0, 9], [0xff; 6])
            .ipv4([10, 77, 0, 9], [10, 77, 0, 1])
            .udp(port, 7000)
    };
    let bad = frame(1).payload(b"bad").bad_l4_checksum().build();
    let good = frame(2).payload(b"good").build();

    // From the namespace to the wire: as it was sent.
    inside.send(&bad).unwrap();
    inside.flush().unwrap();
    let got = await_frame(&mut *outside, |frame| parse(frame).dst_port(frame) == Some(7000));
    assert_eq!(got, bad);
    assert_eq!(checksum::verify_l4(&got, &parse(&got)), ChecksumStatus::Bad);

    // From the wire to the namespace: the host's UDP takes only the good one.
    let heard = host.spawn(|| {
        let socket = UdpSocket::bind("10.77.0.1:7000").unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    });
    let socket = heard.join().unwrap();
    let mac = host_mac(&mut *outside);
    let (mut bad, mut good) = (bad, good);
    bad[..6].copy_from_slice(&mac);
    good[..6].copy_from_slice(&mac);
    outside.send(&bad).unwrap();
    outside.send(&good).unwrap();
    outside.flush().unwrap();
    let mut buf = [0; 100];
    let (len, _) = socket.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..len], b"good");
}

/// Asks for the MAC address of 10.77.0.1 through a wire.
fn host_mac(wire: &mut dyn Wire) -> [u8; 6] {
    let me = [2, 0, 0, 0, 0, 9];
    wire.send(&Frame::arp(1, (me, [10, 77, 0, 9]), ([0; 6], [10, 77, 0, 1])).build())
        .unwrap();
    wire.flush().unwrap();
    let reply = await_frame(wire, |frame| parse(frame).l3 == L3::Arp && frame[..6] == me);
    reply[6..12].try_into().unwrap()
}

#[test]
fn a_plain_tap_answers_arp_with_the_address_it_was_given() {
    if !can_run("a_plain_tap_answers_arp_with_the_address_it_was_given") {
        return;
    }
    let host = Namespace::new();
    let mac = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0x01];
    let tap = host.spawn(move || {
        let tap = Tap::open("mrtap").unwrap();
        tap.set_mac(mac).unwrap();
        tap.set_mtu(1400).unwrap();
        tap.set_up(true).unwrap();
        assert_eq!(tap.mac().unwrap(), mac);
        tap
    });
    let tap = tap.join().unwrap();
    host.address("mrtap", "10.80.0.1", "fd80::1");
    let me = [2, 0, 0, 0, 0, 5];
    let request = Frame::arp(1, (me, [10, 80, 0, 5]), ([0; 6], [10, 80, 0, 1])).build();
    assert_eq!(tap.write(&request).unwrap(), SendOutcome::Sent);
    let (start, mut buf) = (Instant::now(), vec![0; 2048]);
    loop {
        assert!(start.elapsed() < DEADLINE, "no ARP reply");
        match tap.read(&mut buf).unwrap() {
            Some(len) if parse(&buf[..len]).l3 == L3::Arp && buf[..6] == me => break,
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    assert_eq!(buf[6..12], mac);
    tap.set_up(false).unwrap();
    assert_eq!(
        tap.write(&request).unwrap(),
        SendOutcome::Dropped,
        "a frame to an interface that is down"
    );
}

/// The kernel tells a changed carrier up to a second late.
fn await_link(wire: &dyn Wire, up: bool) {
    let start = Instant::now();
    while wire.link_up() != up {
        assert!(
            start.elapsed() < DEADLINE,
            "the link should be {}",
            if up { "up" } else { "down" }
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_packet_wire_follows_its_interface_down_up_and_away() {
    if !can_run("a_packet_wire_follows_its_interface_down_up_and_away") {
        return;
    }
    let (host, _other, middle) = two_hosts();
    let mut wire = middle.open("packet:h0").unwrap();
    let quiet = |wire: &mut Box<dyn Wire>| while wire.recv().unwrap().is_some() {};
    await_link(&*wire, true);
    host.ip("link set eth0 down"); // the far end: no carrier
    await_link(&*wire, false);
    middle.ip("link set h0 down");
    quiet(&mut wire);
    assert!(!wire.link_up());
    wire.send(&Frame::new().ipv4([1; 4], [2; 4]).udp(1, 2).build())
        .unwrap();
    wire.flush().unwrap();
    assert!(wire.counters().contains(&("wire_send_drops", 1)));
    host.ip("link set eth0 up");
    middle.ip("link set h0 up");
    await_link(&*wire, true);
    quiet(&mut wire);
    host_mac(&mut *wire); // frames pass again
    middle.ip("link del h0");
    let start = Instant::now();
    while wire.recv().is_ok() {
        assert!(
            start.elapsed() < DEADLINE,
            "a wire without its interface must give an error"
        );
    }
}

#[test]
fn a_tap_of_another_program_is_busy() {
    if !can_run("a_tap_of_another_program_is_busy") {
        return;
    }
    let host = Namespace::new();
    let _first = host.open("tap:mrbusy").unwrap();
    host.ip("link add mrdummy type veth peer name mrdummy2");
    for spec in ["tap:mrbusy", "tap:mrdummy"] {
        match host.open(spec) {
            Err(error @ WireError::Busy { .. }) => assert!(error.to_string().contains(&spec[4..]), "{error}"),
            Err(error) => panic!("{spec}: {error}"),
            Ok(_) => panic!("{spec} was opened"),
        }
    }
}
