//! What the connection table and the rings do while backends come, drain, die and return.

mod common;

use std::net::IpAddr;

use common::{DROP, Engine, OURS, ROUTER, TX, all_up, balancer, everywhere, kill, mac_of, sent_to};
use millrace_l4lb::balancer::{Balancer, FlowReport};
use millrace_l4lb::config::{Config, Protocol};
use millrace_l4lb::health::Outcome;
use millrace_l4lb::state::State;
use millrace_nic_models::packet::build::Frame;

const CLIENT: &str = "192.0.2.7";
const VIP: &str = "10.9.0.100";
const FIN: u16 = 0x01;
const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;

fn file(backends: &str) -> String {
    format!(
        r#"
[balancer]
max_vips = 4
connection_table = 4096
udp_idle = "1s"

[[vip]]
name = "web"
address = "{VIP}"
port = 80
protocol = "tcp"
mode = "l2"
backend = [{backends}]

[[vip]]
name = "dns"
address = "{VIP}"
port = 7777
protocol = "udp"
mode = "l2"
backend = [{backends}]
"#
    )
}

const THREE: &str = r#"{ address = "10.9.0.11" }, { address = "10.9.0.12" }, { address = "10.9.0.13" }"#;
const TWO: &str = r#"{ address = "10.9.0.11" }, { address = "10.9.0.13" }"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn apply(balancer: &mut Balancer, backends: &str) {
    balancer
        .apply(Config::parse("test.toml", &file(backends)).expect("right"))
        .expect("tables take it");
}

fn tcp(engine: &mut dyn Engine, sport: u16, flags: u16) -> (u32, [u8; 6]) {
    let frame = Frame::new()
        .macs(ROUTER, OURS)
        .ip(ip(CLIENT), ip(VIP))
        .tcp(sport, 80)
        .flags(flags);
    let (verdict, out) = engine.run(&frame.build());
    (verdict, sent_to(&out))
}

fn udp(engine: &mut dyn Engine, sport: u16) -> (u32, [u8; 6]) {
    let frame = Frame::new()
        .macs(ROUTER, OURS)
        .ip(ip(CLIENT), ip(VIP))
        .udp(sport, 7777)
        .payload(b"question");
    let (verdict, out) = engine.run(&frame.build());
    (verdict, sent_to(&out))
}

fn flow(balancer: &Balancer, sport: u16) -> FlowReport {
    balancer
        .flow(Protocol::Tcp, (ip(CLIENT), sport), (ip(VIP), 80))
        .expect("the VIP is there")
}

/// A client port whose new connections go to this backend.
fn port_of(engine: &mut dyn Engine, backend: &str, mut from: u16) -> u16 {
    loop {
        if tcp(engine, from, SYN).1 == mac_of(ip(backend)) {
            return from;
        }
        from += 1;
    }
}

#[test]
fn established_flows_stay_when_backends_are_added_and_removed() {
    everywhere(
        "established_flows_stay_when_backends_are_added_and_removed",
        |engine| {
            let mut balancer = balancer(engine, &file(THREE));
            let before: Vec<_> = (1000..1500).map(|sport| tcp(engine, sport, SYN).1).collect();
            for sport in 1000..1500 {
                tcp(engine, sport, ACK);
            }

            apply(
                &mut balancer,
                &format!(r#"{THREE}, {{ address = "10.9.0.14" }}, {{ address = "10.9.0.15", weight = 5 }}"#),
            );
            all_up(&mut balancer);
            let after: Vec<_> = (1000..1500).map(|sport| tcp(engine, sport, ACK).1).collect();
            assert_eq!(before, after, "adding moves nobody");

            apply(&mut balancer, TWO);
            let gone = mac_of(ip("10.9.0.12"));
            for (sport, was) in (1000..1500).zip(&before) {
                let (verdict, is) = tcp(engine, sport, ACK);
                assert_eq!(verdict, TX);
                assert!(
                    if *was == gone { is != gone } else { is == *was },
                    "only the removed one's flows move"
                );
            }
        },
    );
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() {
    everywhere(
        "a_drained_backend_keeps_its_flows_and_gets_no_new_ones",
        |engine| {
            let mut balancer = balancer(engine, &file(THREE));
            let drained = mac_of(ip("10.9.0.12"));
            let old = port_of(engine, "10.9.0.12", 1000);
            tcp(engine, old, ACK);
            let closed = port_of(engine, "10.9.0.12", old + 1);
            tcp(engine, closed, FIN | ACK);
            let opening = port_of(engine, "10.9.0.12", closed + 1);

            assert_eq!(
                balancer
                    .drain(Some("web"), ip("10.9.0.12"), true)
                    .expect("it is there"),
                1
            );
            assert_eq!(tcp(engine, old, ACK).1, drained, "established: stays");
            assert_eq!(
                tcp(engine, opening, SYN).1,
                drained,
                "a SYN sent again within 3 s: stays"
            );
            assert_ne!(
                tcp(engine, closed, SYN).1,
                drained,
                "closed and opened again: new"
            );
            for sport in 10_000..10_500 {
                assert_ne!(tcp(engine, sport, SYN).1, drained, "new: elsewhere");
            }
            assert_eq!(
                balancer.vips(Some("web")).expect("there")[0].backends[1].state,
                State::Drained
            );
            assert_eq!(
                balancer.vips(Some("dns")).expect("there")[0].backends[1].state,
                State::Up
            );

            balancer
                .drain(Some("web"), ip("10.9.0.12"), false)
                .expect("it is there");
            assert!((20_000..20_100).any(|sport| tcp(engine, sport, SYN).1 == drained));
        },
    );
}

#[test]
fn a_dead_backend_loses_its_flows_and_the_record_says_so() {
    everywhere(
        "a_dead_backend_loses_its_flows_and_the_record_says_so",
        |engine| {
            let mut balancer = balancer(engine, &file(THREE));
            let dead = ip("10.9.0.12");
            let sport = port_of(engine, "10.9.0.12", 1000);
            tcp(engine, sport, ACK);
            let before = flow(&balancer, sport);
            assert!(before.found && !before.only_syn && !before.closed);
            assert_eq!(
                (before.backend, before.state, before.moves),
                (Some(dead), Some(State::Up), 0)
            );

            kill(&mut balancer, dead);
            let silent = flow(&balancer, sport);
            assert_eq!(
                (silent.backend, silent.state),
                (Some(dead), Some(State::Down)),
                "no packet since: still his"
            );
            let down = silent.events.last().expect("its death is recorded");
            assert_eq!(down.to, Some(State::Down));
            assert!(silent.since_ns.expect("a flow has a beginning") < down.when.at_ns);
            assert!(silent.since_ms.expect("a flow has a beginning") <= down.when.at_ms);

            let (verdict, to) = tcp(engine, sport, ACK);
            assert_eq!(verdict, TX);
            assert_ne!(to, mac_of(dead));
            let after = flow(&balancer, sport);
            assert_eq!((after.previous, after.moves), (Some(dead), 1));
            assert_eq!(mac_of(after.backend.expect("a new one")), to);
            assert!(after.since_ns.expect("since") > down.when.at_ns);
            let shift = after
                .created_ms
                .zip(before.created_ms)
                .map(|(a, b)| a.abs_diff(b));
            assert!(shift.is_some_and(|shift| shift <= 2), "{shift:?}");
            let stats = balancer.vips(Some("web")).expect("there")[0].stats;
            assert_eq!(stats.rehashed, 1);

            // Back again: the flow stays where it is now, others find the old one.
            all_up(&mut balancer);
            all_up(&mut balancer);
            assert_eq!(tcp(engine, sport, ACK).1, to);
            assert!((30_000..30_100).any(|sport| tcp(engine, sport, SYN).1 == mac_of(dead)));
        },
    );
}

#[test]
fn without_a_record_a_flow_goes_where_the_ring_says_and_the_report_knows() {
    everywhere(
        "without_a_record_a_flow_goes_where_the_ring_says_and_the_report_knows",
        |engine| {
            let balancer = balancer(engine, &file(THREE));
            for sport in 1000..1050 {
                let foretold = flow(&balancer, sport);
                assert!(!foretold.found);
                let (_, to) = tcp(engine, sport, SYN);
                assert_eq!(mac_of(foretold.backend.expect("somebody takes it")), to);
                assert_eq!(flow(&balancer, sport).backend, foretold.backend);
            }
        },
    );
}

#[test]
fn a_restarted_balancer_with_the_same_file_keeps_flows() {
    everywhere("a_restarted_balancer_with_the_same_file_keeps_flows", |engine| {
        let first = balancer(engine, &file(THREE));
        let before: Vec<_> = (1000..1300).map(|sport| tcp(engine, sport, SYN).1).collect();
        drop(first);
        // As after a restart nothing is known of flows: ports that the table has not seen, and the list in another order.
        let mut other: Box<dyn Engine> = match engine.name() {
            "kernel" => Box::new(common::kernel::Kernel::new().expect("it worked before")),
            _ => Box::new(common::runtime::Runtime::new().expect("it worked before")),
        };
        let turned = r#"{ address = "10.9.0.13" }, { address = "10.9.0.11" }, { address = "10.9.0.12" }"#;
        let second = balancer(other.as_ref(), &file(turned));
        let after: Vec<_> = (1000..1300)
            .map(|sport| tcp(other.as_mut(), sport, ACK).1)
            .collect();
        assert_eq!(before, after);
        assert_eq!(second.vips(Some("web")).expect("there")[0].stats.flow_misses, 300);
    });
}

#[test]
fn a_starting_vip_waits_until_all_backends_have_answered() {
    everywhere(
        "a_starting_vip_waits_until_all_backends_have_answered",
        |engine| {
            let mut balancer = balancer(engine, &file(THREE));
            // A new VIP by reload: nobody has answered yet.
            let text = file(THREE).replace("port = 80", "port = 8080");
            balancer
                .apply(Config::parse("test.toml", &text).expect("right"))
                .expect("tables take it");
            let frame = Frame::new()
                .macs(ROUTER, OURS)
                .ip(ip(CLIENT), ip(VIP))
                .tcp(5, 8080)
                .flags(SYN)
                .build();
            assert_eq!(engine.run(&frame).0, DROP);
            let plans: Vec<_> = balancer.plans();
            for wanted in balancer.wanted() {
                balancer
                    .take_neighbour(wanted, &Ok(mac_of(wanted.0)))
                    .expect("tables take it");
            }
            balancer
                .take_check(&plans[0].key, Outcome::Serves)
                .expect("tables take it");
            balancer
                .take_check(&plans[1].key, Outcome::Fails("refused".into()))
                .expect("tables take it");
            assert_eq!(engine.run(&frame).0, DROP, "one has not answered");
            balancer
                .take_check(&plans[2].key, Outcome::Serves)
                .expect("tables take it");
            assert_eq!(engine.run(&frame).0, TX);
            // The VIP that is gone passes to the host.
            assert_eq!(tcp(engine, 1, SYN).0, common::PASS);
        },
    );
}

#[test]
fn a_client_that_closed_starts_anew_with_the_same_port() {
    everywhere("a_client_that_closed_starts_anew_with_the_same_port", |engine| {
        let mut balancer = balancer(engine, &file(THREE));
        let sport = port_of(engine, "10.9.0.12", 1000);
        tcp(engine, sport, RST);
        assert!(flow(&balancer, sport).closed);
        balancer.drain(None, ip("10.9.0.12"), true).expect("it is there");
        tcp(engine, sport, SYN);
        let new = flow(&balancer, sport);
        assert!(new.only_syn && !new.closed);
        assert_eq!((new.moves, new.previous), (0, None));
        assert_ne!(new.backend, Some(ip("10.9.0.12")));
    });
}

#[test]
fn a_udp_flow_stays_while_it_talks_and_starts_anew_after_silence() {
    everywhere(
        "a_udp_flow_stays_while_it_talks_and_starts_anew_after_silence",
        |engine| {
            let mut balancer = balancer(engine, &file(THREE));
            let sport = (1000..)
                .find(|sport| udp(engine, *sport).1 == mac_of(ip("10.9.0.12")))
                .expect("one of three");
            balancer
                .drain(Some("dns"), ip("10.9.0.12"), true)
                .expect("it is there");
            assert_eq!(udp(engine, sport).1, mac_of(ip("10.9.0.12")));
            std::thread::sleep(std::time::Duration::from_millis(1100));
            assert_ne!(udp(engine, sport).1, mac_of(ip("10.9.0.12")));
        },
    );
}

#[test]
fn a_new_mac_of_a_backend_moves_no_flow() {
    everywhere("a_new_mac_of_a_backend_moves_no_flow", |engine| {
        let mut balancer = balancer(engine, &file(THREE));
        let sport = port_of(engine, "10.9.0.11", 1000);
        balancer
            .take_neighbour((ip("10.9.0.11"), true), &Ok([4; 6]))
            .expect("tables take it");
        assert_eq!(tcp(engine, sport, ACK).1, [4; 6]);
        assert_eq!(flow(&balancer, sport).backend, Some(ip("10.9.0.11")));
    });
}

#[test]
fn counters_of_a_backend_are_its_own() {
    everywhere("counters_of_a_backend_are_its_own", |engine| {
        let mut balancer = balancer(engine, &file(THREE));
        for sport in 1000..1100 {
            tcp(engine, sport, SYN);
            tcp(engine, sport, ACK);
        }
        let web = balancer.vips(Some("web")).expect("there").remove(0);
        assert_eq!(
            (web.stats.packets, web.stats.new_flows, web.stats.flow_hits),
            (200, 100, 100)
        );
        assert_eq!(web.stats.bytes, 200 * 54);
        assert_eq!(
            web.backends
                .iter()
                .map(|backend| backend.stats.packets)
                .sum::<u64>(),
            200
        );
        assert_eq!(
            web.backends
                .iter()
                .map(|backend| backend.stats.new_flows)
                .sum::<u64>(),
            100
        );
        // An id that another backend had starts at nothing.
        apply(&mut balancer, r#"{ address = "10.9.0.21" }"#);
        all_up(&mut balancer);
        let web = balancer.vips(Some("web")).expect("there").remove(0);
        assert_eq!(web.backends[0].stats.packets, 0);
        assert_eq!(web.stats.packets, 200);
    });
}
