//! Health checks against real servers on loopback: what counts as serving, and how long it takes to be believed.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use millrace_l4lb::config::{CheckKind, Health, Protocol};
use millrace_l4lb::health::probe::{ProbeError, probe};
use millrace_l4lb::health::{Checker, Outcome, Plan};
use millrace_l4lb::state::Pulse;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Answers every request with these bytes, or with status `status` when that is not 0.
fn server(answer: &'static str, status: Arc<AtomicU16>) -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).expect("loopback can be listened on");
    let address = listener.local_addr().expect("it has an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..n]).into_owned();
            let status = status.load(Ordering::Relaxed);
            let _ = if status == 0 {
                stream.write_all(answer.as_bytes())
            } else {
                assert!(
                    text.starts_with("GET /ok HTTP/1.1\r\nHost: web.example\r\n"),
                    "{text}"
                );
                stream
                    .write_all(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n").as_bytes())
            };
        }
    });
    address
}

/// Takes connections, says nothing.
fn mute() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOCAL, 0)).expect("loopback can be listened on");
    let address = listener.local_addr().expect("it has an address");
    (listener, address)
}

fn nobody() -> SocketAddr {
    mute().1
}

fn plan(address: SocketAddr, kind: CheckKind) -> Plan {
    let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(200));
    Plan {
        key: ((LOCAL, 80, Protocol::Tcp), address.ip()),
        address,
        source: None,
        host: "web.example".into(),
        health: Health {
            kind,
            port: address.port(),
            interval,
            timeout,
            rise: 2,
            fall: 3,
        },
    }
}

fn http(address: SocketAddr) -> Plan {
    plan(
        address,
        CheckKind::Http {
            path: "/ok".into(),
            host: None,
            statuses: vec![(200, 299), (404, 404)],
        },
    )
}

#[test]
fn a_tcp_check_succeeds_when_the_port_is_open_and_fails_when_it_is_closed() {
    let (_listener, address) = mute();
    probe(&plan(address, CheckKind::Tcp)).expect("open");
    let refused = probe(&plan(nobody(), CheckKind::Tcp)).expect_err("closed");
    assert!(
        matches!(refused, ProbeError::Connect { .. }) && !refused.is_ours(),
        "{refused}"
    );
}

#[test]
fn a_check_connects_from_the_address_it_is_told() {
    let (listener, address) = mute();
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
    probe(&Plan {
        source: Some(from),
        ..plan(address, CheckKind::Tcp)
    })
    .expect("open");
    assert_eq!(listener.accept().expect("it came").1.ip(), from);
    let strange = Plan {
        source: Some(IpAddr::from([192, 0, 2, 1])),
        ..plan(address, CheckKind::Tcp)
    };
    let error = probe(&strange).expect_err("not our address");
    assert!(error.is_ours(), "{error}");
}

#[test]
fn an_http_check_wants_one_of_its_statuses() {
    let status = Arc::new(AtomicU16::new(200));
    let plan = http(server("", status.clone()));
    for (code, good) in [(200, true), (299, true), (404, true), (300, false), (500, false)] {
        status.store(code, Ordering::Relaxed);
        match probe(&plan) {
            Ok(()) => assert!(good, "{code}"),
            Err(ProbeError::Status(got)) => assert!(!good && got == code, "{code}"),
            Err(other) => panic!("{code}: {other}"),
        }
    }
}

#[test]
fn what_is_no_http_fails_and_silence_ends_at_the_timeout() {
    let none = Arc::new(AtomicU16::new(0));
    for answer in [
        "220 mail ready\r\n",
        "\r\n",
        "HTTP/1.1\r\n",
        "HTTP/1.1 2x0 OK\r\n",
        "no newline",
    ] {
        let error = probe(&http(server(answer, none.clone()))).expect_err("no HTTP");
        assert!(matches!(error, ProbeError::NotHttp(_)), "{answer:?}: {error}");
    }
    let (_listener, address) = mute();
    let began = Instant::now();
    let error = probe(&http(address)).expect_err("silence");
    assert!(matches!(error, ProbeError::Answer(_)), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(200));
}

fn watch(plan: Plan) -> (Checker, Receiver<Outcome>) {
    let (to, outcomes) = channel();
    let to: mpsc::Sender<Outcome> = to;
    let checker = Checker::new(move |_, outcome| drop(to.send(outcome)));
    checker.set_plans(vec![plan]);
    (checker, outcomes)
}

#[test]
fn rise_and_fall_follow_a_real_server() {
    let status = Arc::new(AtomicU16::new(200));
    let plan = http(server("", status.clone()));
    let health = plan.health.clone();
    let (_checker, outcomes) = watch(plan);
    let mut pulse = Pulse::unknown();
    let mut next = || {
        let outcome = outcomes
            .recv_timeout(Duration::from_secs(10))
            .expect("checks go on");
        let good = outcome == Outcome::Serves;
        (good, pulse.take(good, &health), pulse.serving())
    };
    assert_eq!(next(), (true, true, Some(true)), "the first one decides");
    status.store(500, Ordering::Relaxed);
    let bad = std::iter::from_fn(|| Some(next()))
        .skip_while(|(good, ..)| *good)
        .take(3)
        .collect::<Vec<_>>();
    assert_eq!(
        bad,
        [
            (false, false, Some(true)),
            (false, false, Some(true)),
            (false, true, Some(false))
        ]
    );
    status.store(200, Ordering::Relaxed);
    let good = std::iter::from_fn(|| Some(next()))
        .skip_while(|(good, ..)| !good)
        .take(2)
        .collect::<Vec<_>>();
    assert_eq!(good, [(true, false, Some(false)), (true, true, Some(true))]);
}

#[test]
fn a_check_that_is_removed_is_reported_no_more() {
    let (_listener, address) = mute();
    let (checker, outcomes) = watch(plan(address, CheckKind::Tcp));
    outcomes
        .recv_timeout(Duration::from_secs(10))
        .expect("the first check");
    checker.set_plans(Vec::new());
    // One that was under way may still come; then silence.
    while outcomes.recv_timeout(Duration::from_millis(100)).is_ok() {}
    assert!(outcomes.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_host_without_a_way_says_so_and_blames_nobody() {
    let plan = Plan {
        source: Some(IpAddr::from([192, 0, 2, 1])),
        ..plan(nobody(), CheckKind::Tcp)
    };
    let (_checker, outcomes) = watch(plan);
    let outcome = outcomes
        .recv_timeout(Duration::from_secs(10))
        .expect("the first check");
    assert!(matches!(outcome, Outcome::CannotAsk(_)), "{outcome:?}");
}
