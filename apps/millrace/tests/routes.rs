//! The host's routes, followed through netlink: in a network namespace, `bpf_fib_lookup` and `bpf_check_mtu` must say
//! here what the kernel's say (`BPF_PROG_TEST_RUN` of the same program), before and after the routes change.

#[path = "../../../ebpf-runtime/tests/common/kernel.rs"]
mod kernel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::KernelProgram;
use millrace::routes::HostRoutes;
use millrace_ebpf::{EngineKind, Instance, Loader, Map, MapFlags, Object, XdpBuff};

fn compile(test: &str) -> Option<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ebpf-runtime/tests/progs/routes.bpf.c");
    let dir = tempfile::tempdir().unwrap();
    let object = dir.path().join("routes.o");
    for clang in ["clang-19", "clang"] {
        let mut command = Command::new(clang);
        command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]);
        command.args([
            "-I",
            "/usr/include/x86_64-linux-gnu",
            "-I",
            "/usr/include/aarch64-linux-gnu",
        ]);
        let Ok(out) = command.arg("-c").arg(&source).arg("-o").arg(&object).output() else {
            continue;
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        return Some(std::fs::read(&object).unwrap());
    }
    println!("SKIP {test}: no clang to compile BPF programs with; run `make deps`");
    None
}

/// `ip` in the namespace that this thread has moved into, a command a line.
fn ip(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let out = Command::new("ip").args(line.split_whitespace()).output().unwrap();
        assert!(
            out.status.success(),
            "ip {line}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// Everything there is of the interfaces a0, b0 and c0 (each with a peer) and their routes.
fn build() {
    ip("link set lo up
        link add a0 type veth peer name a1
        link add b0 type veth peer name b1
        link add c0 type veth peer name c1
        link set b0 mtu 1400");
    sysctl("ipv4/conf/all/forwarding", "1");
    sysctl("ipv6/conf/all/forwarding", "1");
    sysctl("ipv4/conf/c0/forwarding", "0");
    sysctl("ipv6/conf/c0/forwarding", "0");
    for device in ["a0", "a1", "b0", "b1", "c0", "c1"] {
        ip(&format!("link set {device} up"));
    }
    ip("addr add 10.1.0.1/24 dev a0
        addr add 10.2.0.1/24 dev b0
        addr add 10.2.0.9/24 dev b0
        addr add 10.3.0.1/24 dev c0
        addr add 2001:db8:1::1/64 dev a0 nodad
        addr add 2001:db8:2::1/64 dev b0 nodad
        neigh add 10.1.0.2 lladdr 02:00:00:00:01:02 dev a0
        neigh add 10.2.0.2 lladdr 02:00:00:00:02:02 dev b0 nud stale
        neigh add 10.2.0.77 dev b0 nud failed
        neigh add 2001:db8:2::2 lladdr 02:00:00:00:06:02 dev b0
        route add default via 10.1.0.254
        route add 10.9.0.0/16 via 10.2.0.2 metric 7
        route add 10.9.0.0/16 via 10.1.0.2 metric 3
        route add 10.9.9.0/24 via 10.2.0.2 mtu lock 900
        route add 10.9.8.0/24 via 10.2.0.2 mtu 800
        route add 10.10.0.0/16 via 10.2.0.2 src 10.1.0.1
        route add 10.11.0.0/16 via inet6 2001:db8:2::2 dev b0
        route add 10.12.0.0/16 tos 0x10 via 10.1.0.2
        route add 10.12.0.0/16 via 10.2.0.2
        route add blackhole 10.66.0.0/16
        route add unreachable 10.67.0.0/16
        route add prohibit 10.68.0.0/16
        route add throw 10.69.0.0/16
        route add 10.20.0.0/16 via 10.2.0.2 table 100
        route add blackhole default table 101
        -6 route add 2001:db8:9::/48 via 2001:db8:2::2 metric 5
        -6 route add 2001:db8:9:9::/64 via 2001:db8:2::2 mtu 1300
        -6 route add blackhole 2001:db8:66::/48
        -6 route add unreachable 2001:db8:67::/48
        -6 route add prohibit 2001:db8:68::/48
        -6 route add 2001:db8:20::/48 via 2001:db8:2::2 table 100
        -6 route add default via 2001:db8:1::fe");
}

/// `struct question` of the program.
#[derive(Clone)]
struct Question([u8; 88]);

impl Question {
    fn put(mut self, at: usize, bytes: &[u8]) -> Question {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn about(from: IpAddr, to: IpAddr, ifindex: u32, flags: u32) -> Question {
        let (family, from, to) = match (from, to) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (2, a.octets().to_vec(), b.octets().to_vec()),
            (IpAddr::V6(a), IpAddr::V6(b)) => (10, a.octets().to_vec(), b.octets().to_vec()),
            _ => unreachable!("both of one family"),
        };
        Question([0; 88])
            .put(0, &[family, 17])
            .put(2, &4000u16.to_be_bytes())
            .put(4, &53u16.to_be_bytes())
            .put(8, &ifindex.to_ne_bytes())
            .put(16, &from)
            .put(32, &to)
            .put(64, &flags.to_ne_bytes())
            .put(72, &ifindex.to_ne_bytes())
    }
}

const TABLE: u32 = 8;
const MARK: u32 = 32;

fn questions() -> Vec<Question> {
    let four = |text: &str| IpAddr::from(text.parse::<Ipv4Addr>().unwrap());
    let six = |text: &str| IpAddr::from(text.parse::<Ipv6Addr>().unwrap());
    let targets4 = [
        "10.1.0.2",
        "10.1.0.1",
        "10.2.0.2",
        "10.2.0.77",
        "10.2.0.99",
        "10.2.0.255",
        "10.9.1.1",
        "10.9.9.1",
        "10.9.8.1",
        "10.10.1.1",
        "10.11.1.1",
        "10.12.1.1",
        "10.66.1.1",
        "10.67.1.1",
        "10.68.1.1",
        "10.69.1.1",
        "10.20.1.1",
        "192.0.2.1",
        "224.0.0.5",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
    ];
    let targets6 = [
        "2001:db8:1::1",
        "2001:db8:1::77",
        "2001:db8:2::2",
        "2001:db8:9::1",
        "2001:db8:9:9::1",
        "2001:db8:66::1",
        "2001:db8:67::1",
        "2001:db8:68::1",
        "2001:db8:20::1",
        "2001:db8:ffff::1",
        "fe80::1",
        "ff02::1",
        "::1",
    ];
    let mut ways = Vec::new();
    ways.extend(
        targets4
            .iter()
            .flat_map(|to| [("10.1.0.77"), ("10.5.0.1")].map(|from| (four(from), four(to)))),
    );
    ways.extend(
        targets6
            .iter()
            .flat_map(|to| ["2001:db8:1::77", "2001:db8:5::1"].map(|from| (six(from), six(to)))),
    );
    let index = |name: &str| -> u32 {
        let out = Command::new("ip")
            .args(["-o", "link", "show", "dev", name])
            .output()
            .unwrap();
        let line = String::from_utf8_lossy(&out.stdout).into_owned();
        line.split(':').next().unwrap().trim().parse().unwrap()
    };
    let devices = ["lo", "a0", "b0", "c0"].map(index);
    let mut all = Vec::new();
    for (from, to) in ways {
        for &device in devices.iter().chain(&[999]) {
            // Each flag, the pairs that mean something, and one that there is not.
            for flags in [
                0,
                1,
                2,
                4,
                16,
                1 | 4,
                1 | 16,
                2 | 4,
                4 | 16,
                1 | TABLE,
                1 | 4 | TABLE,
                MARK,
                MARK | 4,
                64,
            ] {
                let question = Question::about(from, to, device, flags);
                if flags & TABLE != 0 {
                    for table in [0u32, 100, 101, 254, 255, 777] {
                        all.push(question.clone().put(48, &table.to_ne_bytes()));
                    }
                } else if flags & MARK != 0 {
                    all.push(question.put(52, &7u32.to_ne_bytes()));
                } else {
                    for length in [0u16, 850, 1350, 1450, 1501] {
                        let wanted = question.clone().put(6, &length.to_ne_bytes());
                        let tos = if length == 850 { 0x10 } else { 0 };
                        let wanted = if from.is_ipv4() {
                            wanted.put(12, &[tos])
                        } else {
                            wanted
                        };
                        all.push(
                            wanted
                                .put(76, &u32::from(length).to_ne_bytes())
                                .put(80, &20i32.to_ne_bytes()),
                        );
                    }
                }
            }
        }
    }
    all
}

/// The program on both sides.
struct Rig {
    ours: Vec<(Instance, Arc<Map>)>,
    theirs: KernelProgram,
    at: usize,
}

impl Rig {
    fn new(elf: &[u8], routes: &HostRoutes) -> Rig {
        let object = Object::parse(elf).unwrap();
        let mut ours = Vec::new();
        let mut theirs = None;
        for engine in [EngineKind::Interp, EngineKind::default()] {
            let loaded = Loader::new().load(&object).unwrap();
            let program = loaded.program(None).unwrap();
            let at = program
                .maps()
                .iter()
                .position(|m| m.name() == "questions")
                .unwrap();
            theirs.get_or_insert_with(|| (KernelProgram::load(&program).unwrap(), at));
            let mut instance = program.instance(engine, 0).unwrap();
            instance.set_routes(routes.feed());
            ours.push((instance, loaded.map("questions").unwrap().clone()));
        }
        let (theirs, at) = theirs.unwrap();
        Rig { ours, theirs, at }
    }

    /// The first difference, and how many questions were asked.
    fn differs(&mut self, questions: &[Question]) -> Option<String> {
        let key = 0u32.to_ne_bytes();
        for question in questions {
            let map = &self.theirs.maps[self.at];
            map.update(&key, &question.0).unwrap();
            self.theirs.run(&[0; 60]).unwrap();
            let kernel = map.lookup(&key).unwrap();
            for (instance, map) in &mut self.ours {
                map.update(&key, &question.0, MapFlags::Any).unwrap();
                let mut buffer = [0u8; 256 + 60];
                let mut buf = XdpBuff::new(&mut buffer, 256, 60, 0, &[]).with_ingress_ifindex(1);
                instance.run_one(&mut buf);
                let mine = map.lookup(&key).unwrap();
                if mine != kernel {
                    let of = |value: &[u8]| i32::from_ne_bytes([value[68], value[69], value[70], value[71]]);
                    return Some(format!(
                        "on {}: {:02x?}\nours   {} {mine:02x?}\nkernel {} {kernel:02x?}",
                        instance.engine().name(),
                        question.0,
                        of(&mine),
                        of(&kernel),
                    ));
                }
            }
        }
        None
    }

    /// Equal within the time that news of a change may take.
    fn agrees(&mut self, questions: &[Question], when: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Some(difference) = self.differs(questions) {
            assert!(Instant::now() < deadline, "{when}: {difference}");
            std::thread::sleep(Duration::from_millis(50));
        }
        println!(
            "{when}: {} questions answered alike by {} engines",
            questions.len(),
            self.ours.len()
        );
    }
}

#[test]
fn route_lookups_agree_with_the_kernel_s_while_routes_change() {
    let test = "route_lookups_agree_with_the_kernel_s_while_routes_change";
    if !kernel::available(test) {
        return;
    }
    let Some(elf) = compile(test) else { return };
    if let Err(why) = kernel::leave_network() {
        return println!("SKIP {test}: no network namespace of its own ({why}); run as root");
    }
    build();
    let routes = HostRoutes::follow().unwrap();
    let mut rig = Rig::new(&elf, &routes);
    let questions = questions();
    rig.agrees(&questions, "with the kernel's own rules");

    ip("route del 10.9.0.0/16 metric 3
        route add 10.9.1.0/24 via 10.2.0.2
        neigh del 10.2.0.2 dev b0
        link set a0 mtu 1000
        -6 route del 2001:db8:9::/48");
    sysctl("ipv4/conf/c0/forwarding", "1");
    rig.agrees(&questions, "after a change");

    ip("rule add from 10.5.0.0/16 lookup 100 priority 1000
        rule add fwmark 7 lookup 101 priority 900
        rule add to 10.67.0.0/16 prohibit priority 800
        rule add iif c0 to 10.1.0.0/24 blackhole priority 700
        rule add not from 10.0.0.0/8 unreachable priority 1100
        rule add dport 53 to 10.12.0.0/16 ipproto udp goto 32766 priority 600
        rule add from 10.1.0.77 lookup main suppress_prefixlength 0 priority 500
        -6 rule add from 2001:db8:5::/48 lookup 100 priority 1000");
    rig.agrees(&questions, "with rules");

    ip("link set b0 down");
    rig.agrees(&questions, "with an interface down");
}
