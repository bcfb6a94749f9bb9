//! What a sender asks the device to do with a frame.

/// Offload requests of one frame. `TxMeta::NONE` sends the bytes as they are.
///
/// Header lengths matter only when something is asked for. Checksum insertion follows the devices' rule: the
/// IPv4 header checksum field must be zero, and the TCP or UDP checksum field must hold the pseudo-header sum
/// (without the length for TSO), not inverted, before the frame is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxMeta {
    /// What to do.
    pub flags: TxFlags,
    /// Tag control information to insert, with [`TxFlags::VLAN`].
    pub vlan_tci: u16,
    /// TCP payload bytes per segment, with [`TxFlags::TSO`].
    pub mss: u16,
    /// Bytes before the network header: 14, or 18 with a tag in the frame.
    pub l2_len: u8,
    /// Bytes of network header with options or extension headers.
    pub l3_len: u16,
    /// Bytes of TCP header, with [`TxFlags::TSO`].
    pub l4_len: u8,
}

impl TxMeta {
    /// Nothing asked for.
    pub const NONE: TxMeta = TxMeta {
        flags: TxFlags(0),
        vlan_tci: 0,
        mss: 0,
        l2_len: 0,
        l3_len: 0,
        l4_len: 0,
    };
}

/// A set of offload requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxFlags(pub u16);

impl TxFlags {
    /// Insert the IPv4 header checksum.
    pub const IP_CHECKSUM: TxFlags = TxFlags(1);
    /// Insert the TCP checksum.
    pub const TCP_CHECKSUM: TxFlags = TxFlags(2);
    /// Insert the UDP checksum.
    pub const UDP_CHECKSUM: TxFlags = TxFlags(4);
    /// Insert the SCTP checksum.
    pub const SCTP_CHECKSUM: TxFlags = TxFlags(8);
    /// The network header is IPv4 (else IPv6).
    pub const IPV4: TxFlags = TxFlags(16);
    /// Insert the tag in [`TxMeta::vlan_tci`].
    pub const VLAN: TxFlags = TxFlags(32);
    /// Cut the TCP payload into segments of [`TxMeta::mss`]; implies the checksums.
    pub const TSO: TxFlags = TxFlags(64);

    /// No request.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Every request in `other` is in `self`.
    #[inline]
    pub const fn contains(self, other: TxFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Some request in `other` is in `self`.
    #[inline]
    pub const fn intersects(self, other: TxFlags) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for TxFlags {
    type Output = TxFlags;

    #[inline]
    fn bitor(self, rhs: TxFlags) -> TxFlags {
        TxFlags(self.0 | rhs.0)
    }
}

impl std::ops::BitOrAssign for TxFlags {
    #[inline]
    fn bitor_assign(&mut self, rhs: TxFlags) {
        self.0 |= rhs.0;
    }
}

/// Why a frame was not taken for transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxRefused {
    /// The ring has no room now: submit, and try again after the device has sent some.
    #[error("the TX ring is full: submit and try again later, or drop the frame")]
    Full,
    /// No free buffer for a copy.
    #[error("no free buffer: give the port more `buffers`")]
    NoBuffers,
    /// The frame can never be sent like this.
    #[error(
        "the frame cannot be sent: it is empty, too long, spans too many buffers, or its buffers belong to another pool"
    )]
    Invalid,
}
