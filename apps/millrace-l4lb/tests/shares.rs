//! 100,000 flows through the program: who gets how many, and who moves when a backend goes.

mod common;

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use common::{Engine, OURS, ROUTER, TX, all_up, balancer, mac_of, sent_to};
use millrace_l4lb::balancer::Balancer;
use millrace_l4lb::config::Config;
use millrace_nic_models::packet::build::Frame;

const FLOWS: u32 = 100_000;
const SYN: u16 = 0x02;
const ACK: u16 = 0x10;

fn backend(i: usize) -> IpAddr {
    Ipv4Addr::from(0x0a09_0101 + i as u32).into()
}

/// Backends by number, with weights; `table` is the connection table.
fn file(backends: &[(usize, u32)], table: bool) -> String {
    let mut text = format!(
        "[balancer]\nmax_vips = 1\nmax_backends = 64\nconnection_table = 400000\n[[vip]]\nname = \"web\"\n\
         address = \"10.9.0.100\"\nport = 80\nprotocol = \"tcp\"\nmode = \"l2\"\nconnection_table = {table}\n"
    );
    for (i, weight) in backends {
        let _ = writeln!(
            text,
            "[[vip.backend]]\naddress = \"{}\"\nweight = {weight}",
            backend(*i)
        );
    }
    text
}

/// Clients in one network after another, all ports: flow `n` is never another one's.
fn frame(n: u32, flags: u16) -> Vec<u8> {
    let client = Ipv4Addr::from(0xc612_0000 + n / 1000);
    let port = 1024 + (n % 1000) as u16 * 61;
    let vip = Ipv4Addr::new(10, 9, 0, 100);
    Frame::new()
        .macs(ROUTER, OURS)
        .ipv4(client, vip)
        .tcp(port, 80)
        .flags(flags)
        .build()
}

/// Where each flow goes.
fn send_all(engine: &mut dyn Engine, flags: u16) -> Vec<[u8; 6]> {
    let send = |n| {
        let (verdict, out) = engine.run(&frame(n, flags));
        assert_eq!(verdict, TX);
        sent_to(&out)
    };
    (0..FLOWS).map(send).collect()
}

fn apply(balancer: &mut Balancer, text: &str) {
    balancer
        .apply(Config::parse("test.toml", text).expect("right"))
        .expect("tables take it");
    all_up(balancer);
}

fn equal(n: usize) -> Vec<(usize, u32)> {
    (0..n).map(|i| (i, 1)).collect()
}

fn runtime(test: &str) -> Option<common::runtime::Runtime> {
    let engine = common::runtime::Runtime::new();
    if let Err(why) = &engine {
        println!("SKIP {test}: {why}");
    }
    engine.ok()
}

/// A share's distance from its weight, in parts of all flows, is at most 2 %.
fn check_shares(to: &[[u8; 6]], backends: &[(usize, u32)]) {
    let mut got: HashMap<[u8; 6], u32> = HashMap::new();
    for mac in to {
        *got.entry(*mac).or_default() += 1;
    }
    let total: u32 = backends.iter().map(|(_, weight)| weight).sum();
    for (i, weight) in backends {
        let share = f64::from(got.remove(&mac_of(backend(*i))).unwrap_or(0)) / to.len() as f64;
        let want = f64::from(*weight) / f64::from(total);
        assert!(
            (share - want).abs() <= 0.02,
            "backend {i}: {share} of the flows, weight {want}"
        );
        // What chance leaves: five standard deviations of that many throws.
        let chance = 5.0 * (want * (1.0 - want) / to.len() as f64).sqrt();
        assert!(
            (share - want).abs() <= chance + want * 0.001,
            "backend {i}: {share}, weight {want}, chance {chance}"
        );
    }
    assert!(got.is_empty());
}

#[test]
fn shares_of_100000_flows_are_within_2_percent_of_the_weights() {
    let name = "shares_of_100000_flows_are_within_2_percent_of_the_weights";
    for backends in [
        equal(3),
        equal(10),
        equal(50),
        vec![(0, 1), (1, 2), (2, 3)],
        vec![(0, 100), (1, 50), (2, 850)],
    ] {
        let Some(mut engine) = runtime(name) else { return };
        let _balancer = balancer(&engine, &file(&backends, false));
        check_shares(&send_all(&mut engine, SYN), &backends);
    }
}

#[test]
fn removing_one_of_3_10_or_50_moves_at_most_1_percent_of_the_other_flows() {
    let name = "removing_one_of_3_10_or_50_moves_at_most_1_percent_of_the_other_flows";
    for n in [3, 10, 50] {
        let Some(mut engine) = runtime(name) else { return };
        let mut balancer = balancer(&engine, &file(&equal(n), false));
        let before = send_all(&mut engine, SYN);
        let gone = n / 2;
        let rest: Vec<_> = equal(n).into_iter().filter(|(i, _)| *i != gone).collect();

        // From the file: the table is made anew.
        apply(&mut balancer, &file(&rest, false));
        let after = send_all(&mut engine, SYN);
        let dead = mac_of(backend(gone));
        let others = before.iter().zip(&after).filter(|(was, _)| **was != dead);
        let (all, moved) = others.fold((0, 0), |(all, moved), (was, is)| {
            (all + 1, moved + u32::from(was != is))
        });
        assert!(after.iter().all(|mac| *mac != dead));
        assert!(
            f64::from(moved) <= f64::from(all) * 0.01,
            "{n} backends: {moved} of {all} moved"
        );

        // By its health: nobody else moves at all.
        apply(&mut balancer, &file(&equal(n), false));
        assert_eq!(send_all(&mut engine, SYN), before, "the table is what it was");
        common::kill(&mut balancer, backend(gone));
        let after = send_all(&mut engine, SYN);
        assert!(before.iter().zip(&after).all(|(was, is)| if *was == dead {
            *is != dead
        } else {
            was == is
        }));
    }
}

#[test]
fn with_the_connection_table_none_of_100000_established_flows_moves() {
    let name = "with_the_connection_table_none_of_100000_established_flows_moves";
    let Some(mut engine) = runtime(name) else { return };
    let mut balancer = balancer(&engine, &file(&equal(10), true));
    let before = send_all(&mut engine, SYN);
    assert_eq!(send_all(&mut engine, ACK), before);

    // Added, drained, other weights: nobody moves.
    let more: Vec<_> = (0..14).map(|i| (i, if i < 10 { 1 } else { 7 })).collect();
    apply(&mut balancer, &file(&more, true));
    balancer.drain(None, backend(3), true).expect("it is there");
    assert_eq!(send_all(&mut engine, ACK), before);

    // Removed: its flows move, no other does.
    let rest: Vec<_> = more.into_iter().filter(|(i, _)| *i != 5).collect();
    apply(&mut balancer, &file(&rest, true));
    let after = send_all(&mut engine, ACK);
    let dead = mac_of(backend(5));
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(was, is)| if *was == dead { *is != dead } else { was == is })
    );
    assert_eq!(send_all(&mut engine, ACK), after);
}

#[test]
fn the_kernel_and_our_runtime_choose_alike() {
    let name = "the_kernel_and_our_runtime_choose_alike";
    let Some(mut ours) = runtime(name) else { return };
    let mut kernel = match common::kernel::Kernel::new() {
        Ok(kernel) => kernel,
        Err(why) => return println!("SKIP {name}: {why}"),
    };
    let backends = [(0, 1), (1, 2), (2, 3), (3, 4)];
    let _one = balancer(&ours, &file(&backends, true));
    let _two = balancer(&kernel, &file(&backends, true));
    for n in 0..5000 {
        assert_eq!(ours.run(&frame(n, SYN)), kernel.run(&frame(n, SYN)), "flow {n}");
    }
}
