//! What the balancer is measured with.

/// The balancer's file: a service for each way of forwarding, ten backends each.
pub fn config() -> String {
    let backends = |prefix: &str| -> String {
        let all: Vec<String> = (11..21)
            .map(|n| format!("{{ address = \"{prefix}{n}\" }}"))
            .collect();
        format!("[{}]", all.join(", "))
    };
    let mut file = String::from(
        "[balancer]\ntunnel_source4 = \"172.16.0.0/16\"\ntunnel_source6 = \"fd00:feed::/64\"\nmax_vips = 16\n\
         connection_table = 65536\n",
    );
    for (address, protocol, mode, table, backend) in [
        ("10.9.0.100", "tcp", "l2", true, backends("10.9.0.")),
        ("10.9.0.101", "tcp", "l2", false, backends("10.9.0.")),
        ("10.9.0.102", "tcp", "ipip", true, backends("10.8.0.")),
        ("10.9.0.100", "udp", "l2", true, backends("10.9.0.")),
        ("fd09::100", "tcp", "l2", true, backends("fd09::")),
        ("fd09::102", "tcp", "ipip", true, backends("fd08::")),
    ] {
        file.push_str(&format!(
            "\n[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n\
             connection_table = {table}\nhealth = {{ type = \"none\" }}\nbackend = {backend}\n"
        ));
    }
    file
}

/// What the balancer is expected to do with each frame of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Sent on to a backend.
    Sent,
    /// Passed to the host.
    Passed,
}

/// One row's traffic.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in the row.
    pub name: &'static str,
    /// What it stands for, in a few words.
    pub about: &'static str,
    /// The generator's spec without MAC addresses.
    pub traffic: &'static str,
    /// Without the balancer's program: what driver and device access cost alone.
    pub bare: bool,
    pub expect: Expect,
}

const fn case(name: &'static str, about: &'static str, traffic: &'static str) -> Case {
    Case {
        name,
        about,
        traffic,
        bare: false,
        expect: Expect::Sent,
    }
}

/// All cases, in the order of the table.
pub const CASES: &[Case] = &[
    Case {
        bare: true,
        ..case(
            "forward",
            "no program: the application swaps the addresses of every frame and sends it back",
            "tcp4,dst=10.9.0.100",
        )
    },
    case(
        "tcp4-l2",
        "1000 established flows, MAC rewrite",
        "tcp4,dst=10.9.0.100",
    ),
    case(
        "tcp4-l2-stateless",
        "the same without connection table",
        "tcp4,dst=10.9.0.101",
    ),
    case(
        "tcp4-l2-50k",
        "50,000 established flows",
        "tcp4,dst=10.9.0.100,flows=50000",
    ),
    case(
        "tcp4-l2-new",
        "every frame opens one of 200,000 flows",
        "tcp4,dst=10.9.0.100,flows=200000,flags=syn",
    ),
    case("tcp4-ipip", "1000 established flows, IPIP", "tcp4,dst=10.9.0.102"),
    case("udp4-l2", "1000 UDP flows, MAC rewrite", "udp4,dst=10.9.0.100"),
    case(
        "tcp6-l2",
        "1000 established flows, IPv6, MAC rewrite",
        "tcp6,dst=fd09::100,src=fd01::1",
    ),
    case(
        "tcp6-ip6ip6",
        "1000 established flows, IP6IP6",
        "tcp6,dst=fd09::102,src=fd01::1",
    ),
    Case {
        expect: Expect::Passed,
        ..case("not-a-vip", "frames for the host", "tcp4,dst=10.9.0.7")
    },
];

/// The case of that name.
pub fn find(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

/// Names of all cases, for messages.
pub fn names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}
