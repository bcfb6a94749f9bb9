//! Keys and values of the data plane's maps, as `bpf/maps.h` lays them out (native byte order unless said otherwise).

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::Protocol;

/// Slots of a VIP's ring in the map: `MAGLEV_SLOTS` and padding to a multiple of eight bytes.
pub const RING_WORDS: usize = crate::maglev::SLOTS + 3;

/// `VIP_FLOW_TABLE`: established flows stay where they are.
pub const VIP_FLOW_TABLE: u32 = 1;
/// `VIP_FRAGMENTS_HASH3`: fragments are spread over addresses and protocol.
pub const VIP_FRAGMENTS_HASH3: u32 = 2;
/// `VIP_ADDRESS_ONLY`: the entry marks an address.
pub const VIP_ADDRESS_ONLY: u32 = 4;

/// `BACKEND_UP`: its flows go to it.
pub const BACKEND_UP: u32 = 1;
/// `BACKEND_NEW`: it gets new flows too.
pub const BACKEND_NEW: u32 = 2;

/// `FLOW_SYN`: nothing but SYNs seen.
pub const FLOW_SYN: u32 = 1;
/// `FLOW_CLOSED`: the client sent FIN or RST.
pub const FLOW_CLOSED: u32 = 2;

/// IP protocol numbers (RFC 5237 registry).
pub const IPPROTO_ICMP: u8 = 1;
/// TCP.
pub const IPPROTO_TCP: u8 = 6;
/// UDP.
pub const IPPROTO_UDP: u8 = 17;
/// ICMPv6.
pub const IPPROTO_ICMPV6: u8 = 58;

/// An address as the maps keep it: IPv4 in the first four bytes.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// 4 or 6, as the IP version writes it.
pub fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// `struct vip_key`; port in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipKey {
    addr: [u8; 16],
    port: [u8; 2],
    proto: u8,
    family: u8,
}

impl VipKey {
    /// The key of a service.
    pub fn service(address: IpAddr, port: u16, protocol: Protocol) -> VipKey {
        VipKey::new(address, port, protocol.number())
    }

    /// The key under which an address's fragments (TCP, UDP) or its ICMP are found.
    pub fn address(address: IpAddr, proto: u8) -> VipKey {
        VipKey::new(address, 0, proto)
    }

    fn new(address: IpAddr, port: u16, proto: u8) -> VipKey {
        VipKey {
            addr: address_bytes(address),
            port: port.to_be_bytes(),
            proto,
            family: family(address),
        }
    }
}

/// `struct vip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vip {
    /// Index into rings, `active_ring` and `vip_stats`.
    pub index: u32,
    /// `VIP_*`.
    pub flags: u32,
}

/// How frames reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// MAC rewrite.
    L2,
    /// Outer IP header of the family of the endpoint.
    Tunnel,
}

/// `struct backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Backend {
    link: u64,
    state: u64,
    addr: [u8; 16],
}

impl Backend {
    /// A backend's entry; flags are `BACKEND_*`.
    pub fn new(address: IpAddr, link: Link, mac: [u8; 6], flags: u32, incarnation: u32) -> Backend {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&mac);
        bytes[6] = matches!(link, Link::Tunnel) as u8;
        bytes[7] = family(address);
        Backend {
            link: u64::from_ne_bytes(bytes),
            state: u64::from(flags) | u64::from(incarnation) << 32,
            addr: address_bytes(address),
        }
    }

    /// `BACKEND_*`.
    pub fn flags(&self) -> u32 {
        self.state as u32
    }
}

/// `struct settings`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// Same seed, same file: same choice of backends.
    pub hash_seed: u64,
    /// A UDP flow silent for longer starts anew.
    pub udp_idle_ns: u64,
    /// The port's MAC; zero: any destination MAC is ours.
    pub mac: [u8; 6],
    /// MTU of the way to the backends; 0: no limit.
    pub mtu: u16,
    /// Too-big answers a CPU and second.
    pub icmp_per_second: u32,
    /// Outer source address and the bits of it that come from the flow hash.
    pub source4: [u8; 4],
    /// See `source4`.
    pub source4_hash: [u8; 4],
    /// See `source4`.
    pub source6: [u8; 16],
    /// See `source4`.
    pub source6_hash: [u8; 16],
    /// Padding.
    pub zero: u32,
}

/// `struct flow_key`; ports in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowKey {
    src: [u8; 16],
    dst: [u8; 16],
    sport: [u8; 2],
    dport: [u8; 2],
    proto: u8,
    family: u8,
    zero: [u8; 2],
}

impl FlowKey {
    /// The key of the flow from a client to a VIP. None when the families differ.
    pub fn new(client: (IpAddr, u16), vip: (IpAddr, u16), protocol: Protocol) -> Option<FlowKey> {
        (client.0.is_ipv4() == vip.0.is_ipv4()).then(|| FlowKey {
            src: address_bytes(client.0),
            dst: address_bytes(vip.0),
            sport: client.1.to_be_bytes(),
            dport: vip.1.to_be_bytes(),
            proto: protocol.number(),
            family: family(vip.0),
            zero: [0; 2],
        })
    }

    /// The program's hash of the flow (`flow_hash` in `bpf/parse.h`).
    pub fn hash(&self, seed: u64) -> u64 {
        let mut hash = seed;
        for word in self.as_bytes().chunks_exact(8) {
            let word = word
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            hash = (hash ^ u64::from_le(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        crate::maglev::mix(hash)
    }
}

/// `struct flow`: what the connection table knows about a flow. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Backend id.
    pub backend: u16,
    /// Whom the flow belonged to before its backend died; 0: nobody.
    pub previous: u16,
    /// Of `backend`.
    pub incarnation: u32,
    /// `FLOW_*`.
    pub flags: u32,
    /// Times the flow left a dead backend.
    pub moves: u32,
    /// First packet.
    pub created_ns: u64,
    /// With this backend since.
    pub since_ns: u64,
    /// Last SYN (TCP) or datagram (UDP).
    pub seen_ns: u64,
}

/// `struct vip_stats`, summed over CPUs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout, serde::Serialize,
)]
#[repr(C)]
pub struct VipStats {
    /// Packets for the VIP, whatever became of them.
    pub packets: u64,
    /// Bytes of Ethernet frames as they came.
    pub bytes: u64,
    /// First packets of flows.
    pub new_flows: u64,
    /// Packets found in the connection table.
    pub flow_hits: u64,
    /// Packets not found that were not SYNs.
    pub flow_misses: u64,
    /// Flows that left a dead backend.
    pub rehashed: u64,
    /// Packets dropped because no backend takes flows.
    pub no_backend: u64,
}

impl VipStats {
    /// Sums two CPUs'.
    pub fn plus(self, other: VipStats) -> VipStats {
        VipStats {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            new_flows: self.new_flows + other.new_flows,
            flow_hits: self.flow_hits + other.flow_hits,
            flow_misses: self.flow_misses + other.flow_misses,
            rehashed: self.rehashed + other.rehashed,
            no_backend: self.no_backend + other.no_backend,
        }
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: VipStats) -> VipStats {
        VipStats {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            new_flows: self.new_flows.saturating_sub(earlier.new_flows),
            flow_hits: self.flow_hits.saturating_sub(earlier.flow_hits),
            flow_misses: self.flow_misses.saturating_sub(earlier.flow_misses),
            rehashed: self.rehashed.saturating_sub(earlier.rehashed),
            no_backend: self.no_backend.saturating_sub(earlier.no_backend),
        }
    }
}

/// `struct backend_stats`, summed over CPUs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, FromBytes, Immutable, KnownLayout, serde::Serialize,
)]
#[repr(C)]
pub struct BackendStats {
    /// Packets sent to the backend.
    pub packets: u64,
    /// Bytes of those, as they came.
    pub bytes: u64,
    /// Flows that started with it.
    pub new_flows: u64,
}

impl BackendStats {
    /// Sums two CPUs'.
    pub fn plus(self, other: BackendStats) -> BackendStats {
        BackendStats {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            new_flows: self.new_flows + other.new_flows,
        }
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: BackendStats) -> BackendStats {
        BackendStats {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
            new_flows: self.new_flows.saturating_sub(earlier.new_flows),
        }
    }
}

/// Names of `enum reason`, in its order; each counter is in packets.
pub const REASONS: [&str; 14] = [
    "not_ip",
    "vlan",
    "other_mac",
    "not_for_vip",
    "vip_icmp",
    "malformed",
    "fragment_dropped",
    "fragment_hashed",
    "no_backend",
    "too_big_answered",
    "too_big_dropped",
    "icmp_error_forwarded",
    "encap_failed",
    "forwarded",
];
