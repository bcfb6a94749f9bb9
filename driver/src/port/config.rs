//! What a port is opened with.

use std::sync::Arc;
use std::time::Duration;

use crate::mem::Region;
use crate::steering::MICROSOFT_KEY;

/// Which packets are hashed, and over what. A frame is hashed by the first of its types that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssFields {
    /// IPv4 addresses.
    pub ipv4: bool,
    /// IPv4 addresses and TCP ports.
    pub tcp4: bool,
    /// IPv4 addresses and UDP ports.
    pub udp4: bool,
    /// IPv6 addresses.
    pub ipv6: bool,
    /// IPv6 addresses and TCP ports.
    pub tcp6: bool,
    /// IPv6 addresses and UDP ports.
    pub udp6: bool,
}

impl RssFields {
    /// Addresses and ports of everything.
    pub const ALL: RssFields = RssFields {
        ipv4: true,
        tcp4: true,
        udp4: true,
        ipv6: true,
        tcp6: true,
        udp6: true,
    };
    /// Nothing: everything goes to queue 0.
    pub const NONE: RssFields = RssFields {
        ipv4: false,
        tcp4: false,
        udp4: false,
        ipv6: false,
        tcp6: false,
        udp6: false,
    };
}

/// Receive-side scaling of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssConfig {
    /// Toeplitz key.
    pub key: [u8; 40],
    /// Indirection table. Empty: queues 0, 1, ... in turn. Shorter than the device's table: repeated.
    pub reta: Vec<u16>,
    /// Which fields are hashed.
    pub fields: RssFields,
}

impl Default for RssConfig {
    fn default() -> Self {
        RssConfig {
            key: MICROSOFT_KEY,
            reta: Vec::new(),
            fields: RssFields::ALL,
        }
    }
}

/// Work the device does for software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Verify IPv4, TCP, UDP and SCTP checksums of received frames and report the outcome in the write-back.
    pub rx_checksum: bool,
    /// Take the outer 802.1Q tag off received frames and report it in the write-back. Off by default, so
    /// that programs see tags where they are on the wire.
    pub vlan_strip: bool,
    /// Drop tagged frames whose VLAN was not added with [`Port::add_vlan`](super::Port::add_vlan).
    pub vlan_filter: bool,
}

impl Default for Offloads {
    fn default() -> Self {
        Offloads {
            rx_checksum: true,
            vlan_strip: false,
            vlan_filter: false,
        }
    }
}

/// How a port is brought up. `PortConfig::default()` is one queue pair of 1024 descriptors at MTU 1500.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// RX and TX queue pairs.
    pub queues: u16,
    /// RX descriptors a queue: a power of two from 64 to 4096.
    pub rx_ring: u16,
    /// TX descriptors a queue: a power of two from 64 to 4096.
    pub tx_ring: u16,
    /// Largest IP packet in bytes; the frame limit is this plus Ethernet header and two VLAN tags.
    pub mtu: u16,
    /// Packet buffers of the port; 0 sizes the pool for all rings full and batches in hand.
    pub buffers: usize,
    /// A pool to use instead of one of the port's own; ports that share one can forward to each other
    /// without a copy.
    pub pool: Option<Arc<Region>>,
    /// Receive frames for any destination address.
    pub promiscuous: bool,
    /// Receive all multicast frames. On by default, because IPv6 neighbour discovery needs some.
    pub all_multicast: bool,
    /// Receive-side scaling.
    pub rss: RssConfig,
    /// Offloads.
    pub offloads: Offloads,
    /// One MSI-X vector with an eventfd a queue, so that workers can sleep, and one for link changes.
    pub interrupts: bool,
    /// Shortest time between two interrupts of a queue.
    pub interrupt_interval: Duration,
    /// How long [`Port::open`](super::Port::open) waits for the link; zero does not wait. No link is no error.
    pub link_wait: Duration,
    /// How long each single wait of bring-up, queue life cycle and shutdown may take.
    pub deadline: Duration,
    /// Take devices that nobody has seen this driver work on.
    pub untested: bool,
    /// NUMA node of rings and buffers; `None`: the device's.
    pub numa: Option<u32>,
}

impl Default for PortConfig {
    fn default() -> Self {
        PortConfig {
            queues: 1,
            rx_ring: 1024,
            tx_ring: 1024,
            mtu: 1500,
            buffers: 0,
            pool: None,
            promiscuous: false,
            all_multicast: true,
            rss: RssConfig::default(),
            offloads: Offloads::default(),
            interrupts: false,
            interrupt_interval: Duration::from_micros(50),
            link_wait: Duration::ZERO,
            deadline: Duration::from_secs(1),
            untested: false,
            numa: None,
        }
    }
}
