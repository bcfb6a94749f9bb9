//! `kill -9` of the balancer or of its NIC at random moments: the other side ends or waits cleanly, memory comes home, and
//! the next start works.

use millrace_tests::netns;
use millrace_tests::site::load::{self, Plan, Tally, Verdict};
use millrace_tests::site::{CLIENT4, Site, VIP4};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A small generator of random numbers that needs no crate (xorshift64*); the seed is printed so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// (free, reserved, surplus) hugepages of the default size.
fn hugepages() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with("HugePages_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_killed_balancer_or_nic_leaves_nothing_behind() {
    if let Err(reason) = netns::available() {
        println!("SKIP a_killed_balancer_or_nic_leaves_nothing_behind: {reason}");
        return;
    }
    let rounds = if std::env::var_os("MILLRACE_SOAK").is_some() {
        100
    } else {
        10
    };
    let seed = std::process::id().into();
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::new("crash", dir.path()).expect("a site");
    site.add_backend().expect("a backend").start().expect("nginx");
    let config = format!(
        "[[vip]]\nname = \"web\"\naddress = \"{VIP4}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"l2\"\n\
         health = {{ type = \"tcp\", interval = \"200ms\", timeout = \"150ms\", rise = 1, fall = 2 }}\n\
         [[vip.backend]]\naddress = \"{}\"\n",
        site.backends[0].v4
    );
    let before = hugepages();
    let plan = Plan {
        keepers: 2,
        openers: 2,
        pause: Duration::ZERO,
        requests: u64::MAX,
        from: IpAddr::V4(CLIENT4),
        to: SocketAddr::new(IpAddr::V4(VIP4), 80),
        timeout: Duration::from_millis(500),
    };
    for round in 0..rounds {
        let mut balancer = site
            .start_balancer(&config, &[])
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        balancer
            .wait_for_backends(1, Duration::from_secs(20))
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        let tally = Tally::default();
        let kill_the_nic = random.next(2) == 0;
        let after = Duration::from_millis(random.next(400));
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| load::run(&plan, &site.clients, &tally, &|_| Verdict::Failed));
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while tally.ok() == 0 && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(after);
            if kill_the_nic {
                balancer.model.kill()
            } else {
                balancer.lb.kill()
            }
            tally.stop();
            clients.join().expect("no panic").expect("the load runs");
        });
        assert!(
            tally.ok() > 0,
            "round {round}: requests were served before the kill"
        );
        if kill_the_nic {
            let status = balancer
                .lb
                .wait(Duration::from_secs(10))
                .unwrap_or_else(|| panic!("round {round}: the balancer hangs"));
            assert!(
                !status.success(),
                "round {round}: a balancer whose NIC is gone ends with an error"
            );
            let log = std::fs::read_to_string(dir.path().join("l4lb.log")).expect("its log");
            assert!(!log.contains("panicked"), "round {round}: {log}");
        } else {
            // The NIC waits for the next client; it must still be there and still serve.
            assert!(
                balancer.model.ended().is_none(),
                "round {round}: the model ended with its client"
            );
            balancer.lb = site
                .start_lb(&balancer.config, &balancer.run_dir)
                .expect("the balancer starts again");
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            let mut ready = false;
            while !ready && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                ready = site.address_tap().is_ok()
                    && balancer.wait_for_backends(1, Duration::from_millis(200)).is_ok();
            }
            let log = std::fs::read_to_string(dir.path().join("l4lb.log")).unwrap_or_default();
            assert!(
                ready,
                "round {round}: the balancer does not come up again on the same NIC: {log}"
            );
            let again = Tally::default();
            let few = Plan {
                requests: 20,
                timeout: Duration::from_secs(3),
                ..plan.clone()
            };
            load::run(&few, &site.clients, &again, &|_| Verdict::Failed).expect("the load runs");
            assert_eq!(again.ok(), 20, "round {round}: {:?}", again.lost().first());
        }
        drop(balancer);
        assert_eq!(hugepages(), before, "round {round}: hugepages came home");
    }
}
