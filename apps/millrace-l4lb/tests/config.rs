//! What the configuration takes, and the one line that says why it takes something not.

use std::time::Duration;

use millrace_l4lb::config::{CheckKind, Config, Fragments, Mode, Protocol};

/// A VIP that is right, to be bent.
const VIP: &str = r#"
[[vip]]
name = "web"
address = "10.0.0.100"
port = 80
protocol = "tcp"
mode = "l2"
[[vip.backend]]
address = "10.0.0.11"
[[vip.backend]]
address = "10.0.0.12"
"#;

fn refusal(text: &str) -> String {
    Config::parse("lb.toml", text)
        .expect_err("this is wrong")
        .to_string()
}

#[test]
fn a_short_file_gets_the_defaults() {
    let config = Config::parse("lb.toml", VIP).expect("right");
    let vip = &config.vips[0];
    assert_eq!(
        (vip.protocol, vip.mode, vip.flow_table, vip.fragments),
        (Protocol::Tcp, Mode::L2, true, Fragments::Drop)
    );
    assert_eq!((vip.health.kind.clone(), vip.health.port), (CheckKind::Tcp, 80));
    assert_eq!(
        (vip.health.interval, vip.health.timeout),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!(
        (vip.backends.len(), vip.backends[0].weight, vip.backends[0].drain),
        (2, 1, false)
    );
    assert_eq!(
        (config.mtu, config.hash_seed, config.limits.flows),
        (1500, 0, 1_000_000)
    );
}

#[test]
fn a_health_check_is_read_in_full() {
    let text = VIP.replace(
        "mode = \"l2\"",
        r#"mode = "l2"
health = { type = "http", path = "/ok", host = "a.example", status = [200, "300-310"], interval = "500ms", timeout = "400ms", rise = 2, fall = 4, port = 8080 }"#,
    );
    let health = Config::parse("lb.toml", &text).expect("right").vips[0]
        .health
        .clone();
    let (path, host) = ("/ok".to_owned(), Some("a.example".to_owned()));
    assert_eq!(
        health.kind,
        CheckKind::Http {
            path,
            host,
            statuses: vec![(200, 200), (300, 310)]
        }
    );
    assert_eq!((health.port, health.rise, health.fall), (8080, 2, 4));
    assert_eq!(
        (health.interval, health.timeout),
        (Duration::from_millis(500), Duration::from_millis(400))
    );
}

#[test]
fn every_example_is_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("there are examples").flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            Config::load(&entry.path()).unwrap_or_else(|why| panic!("{why}"));
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn each_mistake_gets_its_line_and_its_words() {
    let vip = |from: &str, to: &str| VIP.replace(from, to);
    let cases = [
        (
            String::new(),
            "lb.toml:1: no [[vip]]: a balancer needs at least one",
        ),
        ("[[vip]\n".into(), "lb.toml:1: "),
        (
            vip("protocol", "protokoll"),
            "lb.toml:6: unknown field `protokoll`",
        ),
        (
            vip("\"tcp\"", "\"sctp\""),
            "lb.toml:6: unknown variant `sctp`, expected `tcp` or `udp`",
        ),
        (vip("port = 80\n", ""), "lb.toml:2: missing field `port`"),
        (
            vip("port = 80", "port = 0"),
            "lb.toml:5: port = 0 is out of range: 1 to 65535",
        ),
        (
            vip("port = 80", "port = 99999"),
            "lb.toml:5: port = 99999 is out of range: 1 to 65535",
        ),
        (
            vip("10.0.0.100", "10.0.0.1000"),
            "lb.toml:4: invalid IP address syntax",
        ),
        (
            vip("10.0.0.100", "127.0.0.1"),
            "lb.toml:4: 127.0.0.1 is not the address of a host on a network",
        ),
        (
            vip("10.0.0.12", "10.0.0.11"),
            "lb.toml:11: backend 10.0.0.11 is listed twice in VIP \"web\"",
        ),
        (
            vip("10.0.0.12", "10.0.0.100"),
            "lb.toml:11: backend 10.0.0.100 is the address of VIP \"web\"",
        ),
        (
            vip("10.0.0.12", "fd00::12"),
            "lb.toml:11: backend fd00::12 and VIP 10.0.0.100 are of different families; mode = \"l2\" needs the same one",
        ),
        (
            format!("{VIP}weight = 0\n"),
            "lb.toml:12: weight = 0 is out of range: 1 to 1000",
        ),
        (
            format!("{VIP}weight = 1001\n"),
            "lb.toml:12: weight = 1001 is out of range: 1 to 1000",
        ),
        (format!("{VIP}wieght = 1\n"), "lb.toml:12: unknown field `wieght`"),
        (
            VIP[..VIP.find("[[vip.b").unwrap_or(0)].into(),
            "lb.toml:2: VIP \"web\" has no backends: add a [[vip.backend]]",
        ),
        (format!("{VIP}{VIP}"), "lb.toml:14: two VIPs are called \"web\""),
        (
            format!("{VIP}{}", vip("web", "other")),
            "lb.toml:15: 10.0.0.100 port 80/tcp is already VIP \"web\"",
        ),
        (
            vip("\"l2\"", "\"ipip\""),
            "lb.toml:3: tunnels to 10.0.0.11 need an outer source address: set tunnel_source4",
        ),
        (
            format!(
                "[balancer]\nmtu = 600\ntunnel_source4 = \"10.0.0.2\"\n{}",
                vip("\"l2\"", "\"ipip\"")
            ),
            "lb.toml:6: mtu = 600 leaves too little inside the tunnels of VIP \"web\": at least 616",
        ),
        (
            format!("[balancer]\nmtu = 100\n{VIP}"),
            "lb.toml:2: mtu = 100 is out of range: 576 to 9728",
        ),
        (
            format!("[balancer]\nudp_idle = \"5\"\n{VIP}"),
            "lb.toml:2: \"5\" is no time: write \"500ms\", \"2s\" or \"1m\"",
        ),
        (
            format!("[balancer]\ntunnel_source4 = \"10.0.0.2/16\"\n{VIP}"),
            "lb.toml:2: \"10.0.0.2/16\" has bits set below its prefix",
        ),
        (
            format!("[balancer]\ntunnel_source6 = \"10.0.0.2\"\n{VIP}"),
            "lb.toml:2: \"10.0.0.2\" is neither an IPv6 address",
        ),
        (
            format!("[balancer]\ncheck_source4 = \"fd00::1\"\n{VIP}"),
            "lb.toml:2: check_source4 is an IPv4 address",
        ),
        (
            format!("[balancer]\nmax_backends = 1\n{VIP}"),
            "lb.toml:2: 2 backends in all, but max_backends = 1",
        ),
        (
            vip(
                "mode = \"l2\"",
                "mode = \"l2\"\nhealth = { type = \"tcp\", path = \"/\" }",
            ),
            "lb.toml:8: path, host and status belong to type = \"http\"",
        ),
        (
            vip("mode = \"l2\"", "mode = \"l2\"\nhealth = { timeout = \"3s\" }"),
            "lb.toml:8: a check's timeout cannot be longer than its interval",
        ),
        (
            vip(
                "mode = \"l2\"",
                "mode = \"l2\"\nhealth = { type = \"http\", status = [\"ok\"] }",
            ),
            "lb.toml:8: status is a list such as",
        ),
        (
            vip("mode = \"l2\"", "mode = \"l2\"\nhealth = { rise = 0 }"),
            "lb.toml:8: rise and fall count checks: 1 or more",
        ),
    ];
    for (text, wanted) in cases {
        let got = refusal(&text);
        assert!(
            got.starts_with(wanted),
            "wanted {wanted:?}\n   got {got:?}\nfor {text}"
        );
        assert!(!got.contains('\n'), "one line: {got:?}");
    }
}

#[test]
fn only_one_vip_of_an_address_and_protocol_may_hash_fragments() {
    let one = VIP.replace("mode = \"l2\"", "mode = \"l2\"\nfragments = \"hash3\"");
    let other = one.replace("web", "other").replace("port = 80", "port = 81");
    assert!(refusal(&format!("{one}{other}")).contains("fragments carry no port"));
    let udp = other.replace("\"tcp\"", "\"udp\"");
    Config::parse("lb.toml", &format!("{one}{udp}")).expect("another protocol is another matter");
}

#[test]
fn a_missing_file_is_one_line_with_advice() {
    let why = Config::load(std::path::Path::new("/nonexistent/lb.toml"))
        .expect_err("not there")
        .to_string();
    assert!(
        why.starts_with("/nonexistent/lb.toml: ") && why.contains("--config FILE"),
        "{why}"
    );
}
