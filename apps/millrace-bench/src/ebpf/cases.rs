//! What programs the bench runs, and what their maps hold.

use std::sync::Arc;

use millrace_ebpf::kernel::KernelMaps;
use millrace_ebpf::{
    HintField, HintKind, HintLayout, HintSource, Loaded, Loader, Loc, MapFlags, NO_FLAGS, Object, Program,
    Test,
};

use crate::BenchError;

/// The programs of `bpf/cases.bpf.c`.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cases.bpf.o"));

const DROP: u32 = 1;
const TX: u32 = 3;

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in the rows; of the program too.
    pub name: &'static str,
    /// The same in a few words.
    pub about: &'static str,
    /// What it says about every frame.
    pub verdict: u32,
    /// Runs over frames that no cache holds, too.
    pub cold: bool,
}

const fn case(name: &'static str, about: &'static str, verdict: u32) -> Case {
    Case {
        name,
        about,
        verdict,
        cold: false,
    }
}

/// All cases, in the order of the table.
pub const CASES: &[Case] = &[
    case("drop", "nothing but the verdict", DROP),
    Case {
        cold: true,
        ..case("swap", "MAC and IPv4 addresses change places", TX)
    },
    Case {
        cold: true,
        ..case("parse_count", "counts by protocol in an array", DROP)
    },
    case("percpu", "the same in a per-CPU array", DROP),
    case("hash", "counts by flow in a hash map", DROP),
    case("lru", "the same in an LRU hash map", DROP),
    case("alu_loop", "FNV-1a over 16 bytes", TX),
    case("hints", "hash and VLAN tag from the write-back", TX),
    case("tunnel", "IPv4 encapsulation and back", TX),
    Case {
        cold: true,
        ..case("lb_katran", "VIP, LRU table, backend, IPIP and back", TX)
    },
    case("lb_ring", "the same by the Maglev ring alone", TX),
];

/// The case that costs least.
pub fn drop() -> &'static Case {
    &CASES[0]
}

/// Those of these names, or all.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Case>, BenchError> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        let known = CASES.iter().find(|case| case.name == name);
        known.ok_or_else(|| BenchError::Unknown {
            what: "case",
            name: name.clone(),
            known: CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", "),
        })
    };
    names.iter().map(find).collect()
}

/// UDP over IPv4 in 64 bytes. `alu_loop` hashes its first 16 bytes: the addresses are 2 six times and 4 six times, the rest is
/// 8, 0, 0x45, 0, and the FNV-1a of that is even, so that program sends the frame.
pub fn frame() -> Vec<u8> {
    let mut f = vec![0u8; 64];
    f[0..6].copy_from_slice(&[2; 6]);
    f[6..12].copy_from_slice(&[4; 6]);
    f[12..14].copy_from_slice(&[8, 0]);
    f[14] = 0x45;
    f[16..18].copy_from_slice(&50u16.to_be_bytes());
    f[22] = 64;
    f[23] = 17;
    f[26..30].copy_from_slice(&[10, 1, 0, 1]);
    f[30..34].copy_from_slice(&[10, 9, 0, 100]);
    f[34..36].copy_from_slice(&40000u16.to_be_bytes());
    f[36..38].copy_from_slice(&80u16.to_be_bytes());
    f[38..40].copy_from_slice(&30u16.to_be_bytes());
    let sum: u32 = f[14..34]
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    f[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    f
}

/// What an 82599 writes back about that frame (datasheet section 7.1.6.2): RSS type, hash, VLAN tag 100 with its status bit.
pub const WRITE_BACK: [u8; 16] = [2, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0x0b, 0, 0, 0, 64, 0, 100, 0];

/// Where the case `hints` finds that.
pub fn layout() -> HintLayout {
    let test = |offset, mask, value, negate| {
        Some(Test {
            offset,
            width: 1,
            mask,
            value,
            negate,
        })
    };
    let (typed, tagged) = (test(0, 0x0f, 0, true), test(8, 0x08, 0x08, false));
    let field = |kind, offset, width, mask, valid, table| HintField {
        kind,
        loc: Some(Loc {
            offset,
            width,
            shift: 0,
            mask,
        }),
        flags: NO_FLAGS,
        valid,
        table,
        source: HintSource::Hardware,
    };
    const TYPES: &[u32] = &[0, 9, 1, 10, 2, 3];
    HintLayout::none()
        .with(field(HintKind::RxHash, 4, 4, 0xffff_ffff, typed, None))
        .with(field(HintKind::RxHashType, 0, 1, 0x0f, None, Some(TYPES)))
        .with(field(HintKind::VlanTci, 14, 2, 0xffff, tagged, None))
}

/// `struct flow` of that frame, and of others beside it.
fn flows() -> impl Iterator<Item = Vec<u8>> {
    let frame = frame();
    (0..1000u16).map(move |n| {
        let mut key = vec![0u8; 16];
        key[..8].copy_from_slice(&frame[26..34]);
        key[8..10].copy_from_slice(&(40000 + n).to_be_bytes());
        key[10..12].copy_from_slice(&frame[36..38]);
        key[12] = 17;
        key
    })
}

/// `struct service_key` of UDP port 80 at 10.9.0.`host`.
fn service(host: u8) -> [u8; 8] {
    [10, 9, 0, host, 0, 80, 17, 0]
}

/// `struct service`.
fn service_value(ring_only: bool, number: u32) -> [u8; 8] {
    let mut value = [0; 8];
    value[0] = ring_only.into();
    value[4..].copy_from_slice(&number.to_ne_bytes());
    value
}

const BACKENDS: u32 = 10;
/// Entries of the map `ring`.
const RING: u32 = 65537;

fn fill(loaded: &Loaded) -> Result<(), BenchError> {
    let put = |map: &str, key: &[u8], value: &[u8]| {
        let done = loaded.map(map)?.update(key, value, MapFlags::Any);
        done.map_err(|error| BenchError::Fill {
            map: map.to_owned(),
            error,
        })
    };
    for key in flows() {
        put("flows", &key, &[0; 16])?;
        put("recent", &key, &[0; 16])?;
    }
    for n in 0..100u8 {
        // Services beside those that the cases use.
        put("services", &[10, 8, 0, n, 0, 80, 17, 0], &service_value(false, 7))?;
    }
    put("services", &service(100), &service_value(false, 1))?;
    put("services", &service(101), &service_value(true, 2))?;
    for entry in 0..RING {
        put("ring", &entry.to_ne_bytes(), &(entry % BACKENDS).to_ne_bytes())?;
    }
    for n in 0..BACKENDS {
        put("backends", &n.to_ne_bytes(), &[10, 9, 1, n as u8, 0, 0, 0, 0])?;
    }
    put("routers", &0u32.to_ne_bytes(), &[6, 0, 0, 0, 0, 1, 0, 0])
}

/// A case's programs over maps that are filled.
pub struct Subject {
    pub once: Arc<Program>,
    /// The body a hundred times over; cases of ONCE have none.
    pub many: Option<Arc<Program>>,
}

impl Subject {
    pub fn load(case: &Case) -> Result<Subject, BenchError> {
        let loaded = Loader::new().load(&Object::parse(OBJECT)?)?;
        fill(&loaded)?;
        let many = format!("{}_many", case.name);
        Ok(Subject {
            once: loaded.program(Some(case.name))?,
            many: loaded.program(Some(&many)).ok(),
        })
    }

    /// Maps in the kernel with the same contents.
    pub fn in_kernel(&self) -> Result<KernelMaps, BenchError> {
        KernelMaps::like(&self.once).map_err(BenchError::Kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_frames_first_bytes_is_even() {
        let hash = |h: u64, byte: &u8| (h ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let first = &frame()[..16];
        assert_eq!(first.iter().fold(0xcbf2_9ce4_8422_2325, hash) & 1, 0);
    }
}
