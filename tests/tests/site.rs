//! The site itself: clients reach the backends over the bridge when nothing stands between them.

use millrace_tests::netns;
use millrace_tests::site::load::{self, Plan, Tally, Verdict};
use millrace_tests::site::{CLIENT4, Site};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

#[test]
fn clients_reach_a_backend_directly_and_a_killed_one_is_a_failure() {
    if let Err(reason) = netns::available() {
        println!("SKIP clients_reach_a_backend_directly_and_a_killed_one_is_a_failure: {reason}");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut site = Site::new("direct", dir.path()).expect("a site");
    site.add_backend().expect("a backend").start().expect("nginx");
    let to = SocketAddr::new(IpAddr::V4(site.backends[0].v4), 80);
    let plan = Plan {
        keepers: 2,
        openers: 2,
        pause: Duration::ZERO,
        requests: 200,
        from: IpAddr::V4(CLIENT4),
        to,
        timeout: Duration::from_secs(2),
    };
    std::thread::sleep(Duration::from_millis(300));
    let tally = Tally::default();
    load::run(&plan, &site.clients, &tally, &|_| Verdict::Failed).expect("the load runs");
    assert_eq!(tally.ok(), 200, "lost: {:?}", tally.lost().first());
    assert_eq!(tally.by_backend().get("b1"), Some(&200));
    assert_eq!(tally.moved(), 0);

    site.backends[0].kill();
    let tally = Tally::default();
    load::run(&Plan { requests: 4, ..plan }, &site.clients, &tally, &|_| {
        Verdict::OnKilled
    })
    .expect("the load runs");
    assert_eq!(tally.ok(), 0);
    assert!(tally.lost().iter().all(|l| l.verdict == Verdict::OnKilled));
    assert_eq!(tally.lost().len(), 4);
}
