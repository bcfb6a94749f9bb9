//! The 82599's descriptors as two quadwords: receive (datasheet 7.1.6) and transmit (7.2.3).
//!
//! A descriptor is `[u64; 2]` in host order of little-endian memory. The accessors are total: any bits give a value.

/// Bytes of every descriptor.
pub const SIZE: usize = 16;

/// Receive descriptors: read format, advanced write-back, legacy write-back.
pub mod rx {
    /// Advanced read format (7.1.6.1): what software posts.
    pub fn read(packet_addr: u64, header_addr: u64) -> [u64; 2] {
        [packet_addr, header_addr & !1]
    }

    /// Packet buffer address of a posted descriptor.
    #[inline]
    pub fn packet_addr(desc: [u64; 2]) -> u64 {
        desc[0]
    }

    /// Header buffer address of a posted descriptor; bit 0 is DD and must be posted as 0.
    #[inline]
    pub fn header_addr(desc: [u64; 2]) -> u64 {
        desc[1] & !1
    }

    /// RSS type (7.1.6.2, table 7-15), bits 3:0 of the write-back.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum RssType {
        /// No hash.
        None = 0,
        /// TCP over IPv4.
        TcpIpv4 = 1,
        /// IPv4.
        Ipv4 = 2,
        /// TCP over IPv6.
        TcpIpv6 = 3,
        /// IPv6.
        Ipv6 = 5,
        /// UDP over IPv4.
        UdpIpv4 = 7,
        /// UDP over IPv6.
        UdpIpv6 = 8,
    }

    /// Packet type (7.1.6.2), bits 16:4 of the write-back, here shifted down to bit 0.
    pub mod ptype {
        /// IPv4 header present.
        pub const IPV4: u16 = 1;
        /// IPv4 with options.
        pub const IPV4E: u16 = 1 << 1;
        /// IPv6 header present.
        pub const IPV6: u16 = 1 << 2;
        /// IPv6 with extension headers.
        pub const IPV6E: u16 = 1 << 3;
        /// TCP.
        pub const TCP: u16 = 1 << 4;
        /// UDP.
        pub const UDP: u16 = 1 << 5;
        /// SCTP.
        pub const SCTP: u16 = 1 << 6;
        /// NFS.
        pub const NFS: u16 = 1 << 7;
        /// IPsec ESP.
        pub const ESP: u16 = 1 << 8;
        /// IPsec AH.
        pub const AH: u16 = 1 << 9;
        /// LinkSec.
        pub const LINKSEC: u16 = 1 << 10;
        /// An ether type filter matched: bits 2:0 hold which.
        pub const ETQF: u16 = 1 << 11;
        /// VLAN packet (read with the status bit VP).
        pub const VPKT: u16 = 1 << 12;
    }

    /// Extended status (7.1.6.2), bits 19:0 of quadword 1.
    pub mod status {
        /// Descriptor done.
        pub const DD: u32 = 1;
        /// Last descriptor of the frame.
        pub const EOP: u32 = 1 << 1;
        /// Flow director matched.
        pub const FLM: u32 = 1 << 2;
        /// VLAN tag stripped into the descriptor.
        pub const VP: u32 = 1 << 3;
        /// Not checked (fragment): UDP checksum field valid.
        pub const UDPCS: u32 = 1 << 4;
        /// TCP, UDP or SCTP checksum checked.
        pub const L4CS: u32 = 1 << 5;
        /// IPv4 header checksum checked.
        pub const IPCS: u32 = 1 << 6;
        /// Passed by an inexact filter: multicast or unicast hash, or promiscuous.
        pub const PIF: u32 = 1 << 7;
        /// Outer VLAN found.
        pub const VEXT: u32 = 1 << 9;
        /// UDP fragment checksum valid.
        pub const UDPV: u32 = 1 << 10;
        /// Caused an immediate interrupt.
        pub const LLINT: u32 = 1 << 11;
        /// Time stamped.
        pub const TS: u32 = 1 << 16;
        /// Security processing done.
        pub const SECP: u32 = 1 << 17;
        /// Looped back.
        pub const LB: u32 = 1 << 18;
    }

    /// Extended error (7.1.6.2), bits 31:20 of quadword 1, here as masks over the low dword of it.
    pub mod error {
        /// Header buffer overflow.
        pub const HBO: u32 = 1 << 23;
        /// MAC error (CRC, length, over- or undersize).
        pub const RXE: u32 = 1 << 29;
        /// TCP, UDP or SCTP checksum wrong.
        pub const L4E: u32 = 1 << 30;
        /// IPv4 header checksum wrong.
        pub const IPE: u32 = 1 << 31;
    }

    /// What the device writes back (advanced, 7.1.6.2). A plain struct: [`WriteBack::encode`] packs it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteBack {
        /// RSS type.
        pub rss_type: u8,
        /// Packet type, see [`ptype`].
        pub ptype: u16,
        /// Receive side coalescing count.
        pub rsc_count: u8,
        /// Header length, bytes, where split.
        pub hdr_len: u16,
        /// The header is in the header buffer.
        pub sph: bool,
        /// RSS hash, or fragment checksum and IP id.
        pub hash: u32,
        /// Status and errors.
        pub status_error: u32,
        /// Bytes in this descriptor's packet buffer.
        pub len: u16,
        /// VLAN tag control information.
        pub vlan: u16,
    }

    impl WriteBack {
        /// Packs the fields.
        #[inline]
        pub fn encode(&self) -> [u64; 2] {
            let info = u32::from(self.rss_type & 0xf)
                | u32::from(self.ptype & 0x1fff) << 4
                | u32::from(self.rsc_count & 0xf) << 17
                | u32::from(self.hdr_len & 0x3ff) << 21
                | u32::from(self.sph) << 31;
            [
                u64::from(info) | u64::from(self.hash) << 32,
                u64::from(self.status_error) | u64::from(self.len) << 32 | u64::from(self.vlan) << 48,
            ]
        }

        /// Unpacks a written-back descriptor.
        #[inline]
        pub fn decode(desc: [u64; 2]) -> Self {
            WriteBack {
                rss_type: (desc[0] & 0xf) as u8,
                ptype: (desc[0] >> 4 & 0x1fff) as u16,
                rsc_count: (desc[0] >> 17 & 0xf) as u8,
                hdr_len: (desc[0] >> 21 & 0x3ff) as u16,
                sph: desc[0] >> 31 & 1 == 1,
                hash: (desc[0] >> 32) as u32,
                status_error: desc[1] as u32,
                len: (desc[1] >> 32) as u16,
                vlan: (desc[1] >> 48) as u16,
            }
        }
    }

    /// Legacy write-back (7.1.5): length, fragment checksum, status, errors, VLAN, in quadword 1; quadword 0 keeps the
    /// buffer address.
    #[inline]
    pub fn legacy_write_back(
        buffer: u64,
        len: u16,
        checksum: u16,
        status: u8,
        errors: u8,
        vlan: u16,
    ) -> [u64; 2] {
        [
            buffer,
            u64::from(len)
                | u64::from(checksum) << 16
                | u64::from(status) << 32
                | u64::from(errors) << 40
                | u64::from(vlan) << 48,
        ]
    }
}

/// Transmit descriptors: legacy, advanced context, advanced data.
pub mod tx {
    /// Command byte, bits 31:24 of quadword 1 (legacy and advanced).
    pub mod cmd {
        /// End of packet.
        pub const EOP: u8 = 1;
        /// Insert FCS.
        pub const IFCS: u8 = 1 << 1;
        /// Insert checksum (legacy).
        pub const IC: u8 = 1 << 2;
        /// Report status: write DD back.
        pub const RS: u8 = 1 << 3;
        /// Advanced descriptor.
        pub const DEXT: u8 = 1 << 5;
        /// Insert the VLAN tag.
        pub const VLE: u8 = 1 << 6;
        /// TCP segmentation (advanced).
        pub const TSE: u8 = 1 << 7;
    }

    /// Advanced descriptor type, bits 23:20 of quadword 1.
    pub mod dtyp {
        /// Context.
        pub const CONTEXT: u8 = 0x2;
        /// Data.
        pub const DATA: u8 = 0x3;
    }

    /// Packet options, bits 45:40 of an advanced data descriptor.
    pub mod popts {
        /// Insert the IPv4 header checksum.
        pub const IXSM: u8 = 1;
        /// Insert the L4 checksum.
        pub const TXSM: u8 = 1 << 1;
        /// IPsec offload.
        pub const IPSEC: u8 = 1 << 2;
    }

    /// TUCMD of a context descriptor, bits 19:9 of quadword 1 shifted down to bit 0.
    pub mod tucmd {
        /// IPv4 (else IPv6).
        pub const IPV4: u16 = 1 << 1;
        /// L4 type.
        pub const L4T: u16 = 0x3 << 2;
        /// UDP.
        pub const L4T_UDP: u16 = 0;
        /// TCP.
        pub const L4T_TCP: u16 = 1 << 2;
        /// SCTP.
        pub const L4T_SCTP: u16 = 2 << 2;
    }

    /// Descriptor done: status bit 0 of the write-back, bit 32 of quadword 1.
    pub const DD: u64 = 1 << 32;
    /// Largest buffer of one descriptor, bytes (7.2.3.2.2).
    pub const MAX_BUFFER: usize = 15872;

    /// An advanced context (7.2.3.2.3): offsets and sizes that following data descriptors use.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Context {
        /// IP header length, bytes.
        pub ip_len: u16,
        /// MAC header length, bytes.
        pub mac_len: u8,
        /// VLAN tag to insert where a data descriptor sets VLE.
        pub vlan: u16,
        /// See [`tucmd`].
        pub tucmd: u16,
        /// L4 header length, bytes (segmentation).
        pub l4_len: u8,
        /// Segment payload size, bytes.
        pub mss: u16,
        /// Context slot, 0 or 1.
        pub idx: u8,
    }

    impl Context {
        /// Packs the context.
        #[inline]
        pub fn encode(&self) -> [u64; 2] {
            [
                u64::from(self.ip_len & 0x1ff)
                    | u64::from(self.mac_len & 0x7f) << 9
                    | u64::from(self.vlan) << 16,
                u64::from(self.tucmd & 0x7ff) << 9
                    | u64::from(dtyp::CONTEXT) << 20
                    | u64::from(cmd::DEXT) << 24
                    | u64::from(self.idx & 1) << 36
                    | u64::from(self.l4_len) << 40
                    | u64::from(self.mss) << 48,
            ]
        }

        /// Unpacks a context descriptor.
        #[inline]
        pub fn decode(desc: [u64; 2]) -> Self {
            Context {
                ip_len: (desc[0] & 0x1ff) as u16,
                mac_len: (desc[0] >> 9 & 0x7f) as u8,
                vlan: (desc[0] >> 16) as u16,
                tucmd: (desc[1] >> 9 & 0x7ff) as u16,
                idx: (desc[1] >> 36 & 1) as u8,
                l4_len: (desc[1] >> 40) as u8,
                mss: (desc[1] >> 48) as u16,
            }
        }
    }

    /// An advanced data descriptor (7.2.3.2.4).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Data {
        /// Buffer address.
        pub addr: u64,
        /// Bytes in the buffer.
        pub len: u16,
        /// MAC options: bit 0 LinkSec, bit 1 time stamp.
        pub mac: u8,
        /// Command; see [`cmd`]. DEXT is set by [`Data::encode`].
        pub cmd: u8,
        /// Context slot.
        pub idx: u8,
        /// The context applies (CC, check context).
        pub cc: bool,
        /// See [`popts`].
        pub popts: u8,
        /// Payload bytes of the whole frame: without headers where it is segmented.
        pub paylen: u32,
    }

    impl Data {
        /// Packs the descriptor.
        #[inline]
        pub fn encode(&self) -> [u64; 2] {
            [
                self.addr,
                u64::from(self.len)
                    | u64::from(self.mac & 0x3) << 18
                    | u64::from(dtyp::DATA) << 20
                    | u64::from(self.cmd | cmd::DEXT) << 24
                    | u64::from(self.idx & 1) << 36
                    | u64::from(self.cc) << 39
                    | u64::from(self.popts & 0x3f) << 40
                    | u64::from(self.paylen & 0x3ffff) << 46,
            ]
        }

        /// Unpacks an advanced data descriptor.
        #[inline]
        pub fn decode(desc: [u64; 2]) -> Self {
            Data {
                addr: desc[0],
                len: desc[1] as u16,
                mac: (desc[1] >> 18 & 0x3) as u8,
                cmd: (desc[1] >> 24) as u8,
                idx: (desc[1] >> 36 & 1) as u8,
                cc: desc[1] >> 39 & 1 == 1,
                popts: (desc[1] >> 40 & 0x3f) as u8,
                paylen: (desc[1] >> 46) as u32,
            }
        }
    }

    /// A legacy descriptor (7.2.3.2.2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Legacy {
        /// Buffer address.
        pub addr: u64,
        /// Bytes in the buffer.
        pub len: u16,
        /// Where the inserted checksum goes.
        pub cso: u8,
        /// Command; see [`cmd`].
        pub cmd: u8,
        /// Where the checksum starts.
        pub css: u8,
        /// VLAN tag.
        pub vlan: u16,
    }

    impl Legacy {
        /// Packs the descriptor.
        #[inline]
        pub fn encode(&self) -> [u64; 2] {
            [
                self.addr,
                u64::from(self.len)
                    | u64::from(self.cso) << 16
                    | u64::from(self.cmd & !cmd::DEXT) << 24
                    | u64::from(self.css) << 40
                    | u64::from(self.vlan) << 48,
            ]
        }

        /// Unpacks a legacy descriptor.
        #[inline]
        pub fn decode(desc: [u64; 2]) -> Self {
            Legacy {
                addr: desc[0],
                len: desc[1] as u16,
                cso: (desc[1] >> 16) as u8,
                cmd: (desc[1] >> 24) as u8,
                css: (desc[1] >> 40) as u8,
                vlan: (desc[1] >> 48) as u16,
            }
        }
    }

    /// Whether the descriptor is advanced (DEXT).
    #[inline]
    pub fn is_advanced(desc: [u64; 2]) -> bool {
        desc[1] >> 24 & u64::from(cmd::DEXT) != 0
    }

    /// Descriptor type of an advanced descriptor.
    #[inline]
    pub fn dtyp(desc: [u64; 2]) -> u8 {
        (desc[1] >> 20 & 0xf) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn receive_write_backs_survive_the_round_trip(q0: u64, q1: u64) {
            prop_assert_eq!(rx::WriteBack::decode([q0, q1]).encode(), [q0, q1]);
        }

        #[test]
        fn transmit_descriptors_survive_the_round_trip(q0: u64, q1: u64) {
            let context = tx::Context::decode([q0, q1]);
            prop_assert_eq!(tx::Context::decode(context.encode()), context);
            let mut data = tx::Data::decode([q0, q1]);
            data.cmd |= tx::cmd::DEXT;
            prop_assert_eq!(tx::Data::decode(data.encode()), data);
            let mut legacy = tx::Legacy::decode([q0, q1]);
            legacy.cmd &= !tx::cmd::DEXT;
            prop_assert_eq!(tx::Legacy::decode(legacy.encode()), legacy);
        }
    }

    #[test]
    fn the_data_descriptor_lays_out_as_the_datasheet_draws_it() {
        let data = tx::Data {
            addr: 0x1122_3344_5566_7788,
            len: 0x4321,
            cmd: tx::cmd::EOP | tx::cmd::RS,
            popts: tx::popts::IXSM,
            paylen: 0x12345,
            ..Default::default()
        };
        let [q0, q1] = data.encode();
        assert_eq!(q0, 0x1122_3344_5566_7788);
        assert_eq!(q1 & 0xffff, 0x4321);
        assert_eq!(q1 >> 20 & 0xf, 3, "DTYP");
        assert_eq!(q1 >> 24 & 0xff, 0x29, "DCMD: EOP, RS, DEXT");
        assert_eq!(q1 >> 40 & 0x3f, 1, "POPTS");
        assert_eq!(q1 >> 46, 0x12345, "PAYLEN");
    }
}
