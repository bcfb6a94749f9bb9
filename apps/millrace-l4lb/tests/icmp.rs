//! ICMP: errors about flows reach the flow's backend; what does not fit is answered by the program.

mod common;

use std::net::IpAddr;

use common::{DROP, OURS, PASS, ROUTER, TX, balancer, everywhere, reason, sent_to, tshark};
use millrace_nic_models::packet::build::Frame;

const CLIENT4: &str = "192.0.2.7";
const CLIENT6: &str = "2001:db8::7";
const ROUTER4: &str = "203.0.113.1";
const ROUTER6: &str = "2001:db8:ffff::1";
const VIP4: &str = "10.9.0.100";
const VIP6: &str = "fd09::100";
const SYN: u16 = 0x02;
const ACK: u16 = 0x10;

const FILE: &str = r#"
[balancer]
tunnel_source4 = "10.9.0.1"
tunnel_source6 = "fd09::1"
max_vips = 8
connection_table = 4096
too_big_per_second = 3

[[vip]]
name = "l2-4"
address = "10.9.0.100"
port = 80
protocol = "tcp"
mode = "l2"
backend = [{ address = "10.9.0.11" }, { address = "10.9.0.12" }, { address = "10.9.0.13" }]

[[vip]]
name = "l2-6"
address = "fd09::100"
port = 80
protocol = "tcp"
mode = "l2"
backend = [{ address = "fd09::11" }, { address = "fd09::12" }, { address = "fd09::13" }]

[[vip]]
name = "udp-4"
address = "10.9.0.100"
port = 7777
protocol = "udp"
mode = "l2"
backend = [{ address = "10.9.0.11" }, { address = "10.9.0.12" }, { address = "10.9.0.13" }]

[[vip]]
name = "ipip"
address = "10.9.0.101"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "10.8.0.11" }]

[[vip]]
name = "ip6ip6"
address = "fd09::101"
port = 80
protocol = "tcp"
mode = "ipip"
backend = [{ address = "fd08::11" }]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn client(vip: &str) -> IpAddr {
    ip(if ip(vip).is_ipv4() { CLIENT4 } else { CLIENT6 })
}

fn from_client(vip: &str) -> Frame {
    Frame::new().macs(ROUTER, OURS).ip(client(vip), ip(vip))
}

/// What a backend answered in the VIP's name, as an error quotes it: without Ethernet.
fn answer(vip: &str, frame: impl Fn(Frame) -> Frame, quoted: usize) -> Vec<u8> {
    let whole = frame(Frame::new().ip(ip(vip), client(vip)))
        .payload(&[7; 100])
        .build();
    whole[14..(14 + quoted).min(whole.len())].to_vec()
}

/// An ICMP error from a router on the way.
fn error(vip: &str, kind: u8, code: u8, rest: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let router = ip(if ip(vip).is_ipv4() { ROUTER4 } else { ROUTER6 });
    Frame::new()
        .macs(ROUTER, OURS)
        .ip(router, ip(vip))
        .icmp(kind, code, rest)
        .payload(quote)
        .build()
}

#[test]
fn errors_about_a_flow_go_to_its_backend() {
    everywhere("errors_about_a_flow_go_to_its_backend", |engine| {
        let mut balancer = balancer(engine, FILE);
        let mut sent = Vec::new();
        let mut count = 0;
        for sport in 2000..2020u16 {
            let (_, out) = engine.run(&from_client(VIP4).tcp(sport, 80).flags(SYN).build());
            let (_, ack) = engine.run(&from_client(VIP4).tcp(sport, 80).flags(ACK).build());
            assert_eq!(sent_to(&out), sent_to(&ack));
            let quote = answer(VIP4, |frame| frame.tcp(80, sport).flags(ACK), 28);
            for (kind, code, rest) in [
                (3, 4, [0, 0, 5, 0]),
                (3, 1, [0; 4]),
                (11, 0, [0; 4]),
                (12, 0, [0; 4]),
            ] {
                let frame = error(VIP4, kind, code, rest, &quote);
                let (verdict, there) = engine.run(&frame);
                assert_eq!((verdict, sent_to(&there)), (TX, sent_to(&out)), "type {kind}");
                assert_eq!(there[12..], frame[12..]);
                sent.push(there);
                count += 1;
            }

            let (_, out) = engine.run(&from_client(VIP6).tcp(sport, 80).flags(SYN).build());
            let quote = answer(VIP6, |frame| frame.tcp(80, sport).flags(ACK), 1000);
            for (kind, rest) in [(1, [0; 4]), (2, [0, 0, 5, 0]), (3, [0; 4]), (4, [0; 4])] {
                let frame = error(VIP6, kind, 0, rest, &quote);
                let (verdict, there) = engine.run(&frame);
                assert_eq!((verdict, sent_to(&there)), (TX, sent_to(&out)), "type {kind}");
                assert_eq!(there[12..], frame[12..]);
                sent.push(there);
                count += 1;
            }

            let (_, out) = engine.run(&from_client(VIP4).udp(sport, 7777).payload(&[1; 9]).build());
            let quote = answer(VIP4, |frame| frame.udp(7777, sport), 28);
            let (verdict, there) = engine.run(&error(VIP4, 3, 3, [0; 4], &quote));
            assert_eq!((verdict, sent_to(&there)), (TX, sent_to(&out)));
            count += 1;
        }
        assert_eq!(reason(&balancer, "icmp_error_forwarded"), count);
        tshark::accepts("errors_about_a_flow_go_to_its_backend", &sent);

        // Also when the ring would now say somebody else.
        let (_, out) = engine.run(&from_client(VIP4).tcp(2000, 80).flags(ACK).build());
        for backend in ["10.9.0.11", "10.9.0.12", "10.9.0.13"] {
            balancer
                .drain(
                    Some("l2-4"),
                    ip(backend),
                    common::mac_of(ip(backend)) == sent_to(&out),
                )
                .expect("there");
        }
        let quote = answer(VIP4, |frame| frame.tcp(80, 2000).flags(ACK), 28);
        let (_, there) = engine.run(&error(VIP4, 3, 4, [0, 0, 5, 0], &quote));
        assert_eq!(sent_to(&there), sent_to(&out));
    });
}

#[test]
fn errors_about_nothing_of_ours_pass() {
    everywhere("errors_about_nothing_of_ours_pass", |engine| {
        let balancer = balancer(engine, FILE);
        let right = answer(VIP4, |frame| frame.tcp(80, 2000).flags(ACK), 28);
        let quotes = [
            answer("10.9.0.99", |frame| frame.tcp(80, 2000).flags(ACK), 28),
            answer(VIP4, |frame| frame.tcp(81, 2000).flags(ACK), 28),
            answer(VIP4, |frame| frame.sctp(80, 2000), 28),
            answer(VIP4, |frame| frame.fragment(8, false).proto(6), 28),
            right[..27].to_vec(),
            right[..10].to_vec(),
            Vec::new(),
        ];
        for quote in &quotes {
            let frame = error(VIP4, 3, 1, [0; 4], quote);
            assert_eq!(engine.run(&frame), (PASS, frame), "{quote:02x?}");
        }
        assert_eq!(reason(&balancer, "vip_icmp"), quotes.len() as u64);
        let redirect = error(VIP4, 5, 1, [10, 9, 0, 1], &right);
        assert_eq!(engine.run(&redirect).0, PASS);
    });
}

fn big(vip: &str, len: usize) -> Vec<u8> {
    let headers = if ip(vip).is_ipv4() { 40 } else { 60 };
    from_client(vip)
        .dont_fragment()
        .tcp(5000, 80)
        .flags(ACK)
        .seq(77, 88)
        .payload(&vec![3; len - headers])
        .build()
}

#[test]
fn what_fits_after_encapsulation_goes_and_one_byte_more_is_answered() {
    everywhere(
        "what_fits_after_encapsulation_goes_and_one_byte_more_is_answered",
        |engine| {
            let balancer = balancer(engine, FILE);
            let mut built = Vec::new();
            for (vip, room) in [("10.9.0.101", 1480), ("fd09::101", 1460)] {
                let (verdict, out) = engine.run(&big(vip, room));
                assert_eq!((verdict, out.len()), (TX, 1514));
                built.push(out);

                let frame = big(vip, room + 1);
                let (verdict, out) = engine.run(&frame);
                assert_eq!(verdict, TX, "{vip}");
                assert_eq!(
                    (&out[..6], &out[6..12], &out[12..14]),
                    (&ROUTER[..], &OURS[..], &frame[12..14])
                );
                let (header, quote) = match ip(vip) {
                    IpAddr::V4(v4) => {
                        assert_eq!(out[26..30], v4.octets());
                        assert_eq!(
                            IpAddr::from(<[u8; 4]>::try_from(&out[30..34]).expect("4")),
                            client(vip)
                        );
                        assert_eq!(out[34..36], [3, 4]);
                        (42, 128)
                    }
                    IpAddr::V6(v6) => {
                        assert_eq!(out[22..38], v6.octets());
                        assert_eq!(
                            IpAddr::from(<[u8; 16]>::try_from(&out[38..54]).expect("16")),
                            client(vip)
                        );
                        assert_eq!(out[54..56], [2, 0]);
                        (62, 1232)
                    }
                };
                assert_eq!(
                    out[header - 4..header],
                    (room as u32).to_be_bytes(),
                    "the MTU inside the tunnel"
                );
                assert_eq!(out[header..], frame[14..14 + quote]);
                built.push(out);
            }
            assert_eq!(reason(&balancer, "too_big_answered"), 2);
            tshark::accepts(
                "what_fits_after_encapsulation_goes_and_one_byte_more_is_answered",
                &built,
            );
        },
    );
}

#[test]
fn too_big_answers_are_limited_and_never_about_icmp_or_nobody() {
    everywhere(
        "too_big_answers_are_limited_and_never_about_icmp_or_nobody",
        |engine| {
            let balancer = balancer(engine, FILE);
            let odd = |from: &str| {
                let frame = Frame::new()
                    .macs(ROUTER, OURS)
                    .ip(ip(from), ip("10.9.0.101"))
                    .tcp(1, 80)
                    .flags(ACK);
                frame.payload(&[0; 1460]).build()
            };
            for from in ["224.0.0.1", "0.0.0.0", "255.255.255.255"] {
                assert_eq!(engine.run(&odd(from)).0, DROP, "{from}");
            }
            let quote = answer("10.9.0.101", |frame| frame.tcp(80, 5000), 60);
            let mut long = quote;
            long.resize(1470, 0);
            assert_eq!(engine.run(&error("10.9.0.101", 3, 1, [0; 4], &long)).0, DROP);
            assert_eq!(reason(&balancer, "too_big_dropped"), 4);

            // Three a second and CPU; the kernel may run us on any of its CPUs.
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let answered = (0..1000)
                .filter(|_| engine.run(&big("10.9.0.101", 1500)).0 == TX)
                .count();
            assert!((1..=3 * cpus * 10).contains(&answered), "{answered}");
            assert_eq!(reason(&balancer, "too_big_answered"), answered as u64);
        },
    );
}
