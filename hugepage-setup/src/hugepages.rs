//! Hugepages per NUMA node (Documentation/admin-guide/mm/hugetlbpage.rst).

use serde::Serialize;

use crate::SetupError;
use crate::change::Change;
use crate::host::Host;

/// Pages of one size on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// NUMA node.
    pub node: u32,
    /// Page size in KiB.
    pub size_kib: u64,
    /// Pages set aside.
    pub total: u64,
    /// Of these, not in use.
    pub free: u64,
}

/// Directory of the pages of a size on a node, below the root. Hosts without NUMA have one directory for all.
fn dir(host: &Host, node: u32, size_kib: u64) -> String {
    let leaf = format!("hugepages-{size_kib}kB");
    let numa = format!("sys/devices/system/node/node{node}/hugepages/{leaf}");
    if host.exists(&numa) || node != 0 {
        numa
    } else {
        format!("sys/kernel/mm/hugepages/{leaf}")
    }
}

/// The file that says how many pages of a size a node sets aside.
pub fn count_file(host: &Host, node: u32, size_kib: u64) -> String {
    format!("{}/nr_hugepages", dir(host, node, size_kib))
}

/// Pages of every size on every node.
pub fn list(host: &Host) -> Vec<Pages> {
    let mut pages = Vec::new();
    for node in nodes(host) {
        for size_kib in sizes(host) {
            let dir = dir(host, node, size_kib);
            let read = |file: &str| host.number(format!("{dir}/{file}"));
            if let (Some(total), Some(free)) = (read("nr_hugepages"), read("free_hugepages")) {
                pages.push(Pages {
                    node,
                    size_kib,
                    total,
                    free,
                });
            }
        }
    }
    pages
}

/// The host's NUMA nodes; node 0 where it has no notion of them.
pub fn nodes(host: &Host) -> Vec<u32> {
    let names = host.names("sys/devices/system/node");
    let mut nodes: Vec<u32> = names
        .iter()
        .filter_map(|n| n.strip_prefix("node")?.parse().ok())
        .collect();
    nodes.sort_unstable();
    if nodes.is_empty() { vec![0] } else { nodes }
}

/// Sizes in KiB that the kernel knows.
fn sizes(host: &Host) -> Vec<u64> {
    let size = |name: &String| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let mut sizes: Vec<u64> = host
        .names("sys/kernel/mm/hugepages")
        .iter()
        .filter_map(size)
        .collect();
    sizes.sort_unstable();
    sizes
}

/// The changes that give each chosen node (all when `node` is `None`) `bytes` of memory in pages of `size_kib`.
pub fn plan(host: &Host, bytes: u64, size_kib: u64, node: Option<u32>) -> Result<Vec<Change>, SetupError> {
    let join = |list: Vec<String>| {
        if list.is_empty() {
            "none".to_owned()
        } else {
            list.join(", ")
        }
    };
    let known = sizes(host);
    if !known.contains(&size_kib) {
        let known = join(known.iter().map(|k| format!("{k} KiB")).collect());
        return Err(SetupError::NoSuchPageSize { size_kib, known });
    }
    let nodes = nodes(host);
    if let Some(node) = node.filter(|node| !nodes.contains(node)) {
        return Err(SetupError::NoSuchNode {
            node,
            known: join(nodes.iter().map(u32::to_string).collect()),
        });
    }
    let to = bytes.div_ceil(size_kib * 1024);
    let mut changes = Vec::new();
    for node in nodes.into_iter().filter(|n| node.is_none_or(|wish| wish == *n)) {
        let file = count_file(host, node, size_kib);
        // A node without memory has no such file.
        let Some(from) = host.number::<u64>(&file) else {
            continue;
        };
        if from != to {
            changes.push(Change::Hugepages {
                node,
                size_kib,
                from,
                to,
            });
        }
    }
    Ok(changes)
}

/// Bytes from `512M`, `2G`, `1T`, or a plain number of bytes.
pub fn amount(text: &str) -> Result<u64, SetupError> {
    let bad = || SetupError::BadAmount(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..]
        .to_ascii_uppercase()
        .trim_end_matches("IB")
        .trim_end_matches('B')
    {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1u64 << 40,
        _ => return Err(bad()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(bad)
}
