//! Which interfaces the host's default route depends on.

use std::collections::BTreeSet;

use crate::host::Host;

/// `RTF_REJECT` of linux/route.h: an unreachable route, which needs no interface.
const REJECT: u32 = 0x0200;

/// Interfaces that a default route (IPv4 or IPv6) goes out of, and those below them: a bond's, bridge's or VLAN's ports.
pub fn default_route_interfaces(host: &Host) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<String> = ipv4(host).into_iter().chain(ipv6(host)).collect();
    while let Some(name) = open.pop() {
        // `lower_NAME` links, Documentation/ABI/testing/sysfs-class-net.
        let below = host.names(format!("sys/class/net/{name}"));
        open.extend(
            below
                .iter()
                .filter_map(|n| n.strip_prefix("lower_").map(str::to_owned)),
        );
        found.insert(name);
        open.retain(|name| !found.contains(name));
    }
    found
}

/// /proc/net/route: interface, destination, gateway, flags, refcount, use, metric, mask, in hexadecimal (proc(5)).
fn ipv4(host: &Host) -> Vec<String> {
    let table = host.text("proc/net/route").unwrap_or_default();
    let default = |line: &str| {
        let f: Vec<&str> = line.split_whitespace().collect();
        let zero = |i: usize| f.get(i).is_some_and(|v| u32::from_str_radix(v, 16) == Ok(0));
        let flags = f.get(3).and_then(|v| u32::from_str_radix(v, 16).ok())?;
        (zero(1) && zero(7) && flags & REJECT == 0).then(|| f[0].to_owned())
    };
    table.lines().skip(1).filter_map(default).collect()
}

/// /proc/net/ipv6_route: destination, its length, source, its length, next hop, metric, refcount, use, flags, interface.
fn ipv6(host: &Host) -> Vec<String> {
    let table = host.text("proc/net/ipv6_route").unwrap_or_default();
    let default = |line: &str| {
        let f: Vec<&str> = line.split_whitespace().collect();
        let flags = f.get(8).and_then(|v| u32::from_str_radix(v, 16).ok())?;
        let name = f.get(9).filter(|name| **name != "lo")?;
        (f[0].bytes().all(|b| b == b'0') && f[1] == "00" && flags & REJECT == 0).then(|| (*name).to_owned())
    };
    table.lines().filter_map(default).collect()
}
