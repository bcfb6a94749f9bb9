//! The frames that nearly all traffic consists of: a whole TCP or UDP packet over IPv4, without VLAN tag, IP options or
//! fragments, whose lengths fit each other. Every field stands where it always does, so nothing has to be searched for; what is
//! found is what [`packet::parse`](crate::packet::parse) and the functions behind it find, for any frame.

use super::file::RegFile;
use super::filter::Filters;
use crate::ixgbe::desc::rx::{RssType, error, ptype, status};
use crate::ixgbe::regs::{Id, mrqc};
use crate::packet::{checksum, ipproto};
use crate::toeplitz::Table;

/// Offsets in such a frame.
mod at {
    pub const IP: usize = 14;
    pub const ADDRESSES: usize = IP + 12;
    pub const L4: usize = IP + 20;
}

/// What is known of such a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    /// TCP, or else UDP.
    tcp: bool,
    /// Which checksums were checked, and which of them are wrong (7.1.11).
    pub status_error: u32,
    /// The packet's IP identification.
    pub id: u16,
}

impl Plain {
    /// `None` for any other frame.
    #[inline]
    pub fn of(frame: &[u8]) -> Option<Plain> {
        let head = frame.first_chunk::<60>()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let total = usize::from(word(at::IP + 2));
        // IPv4 with a header of five dwords; no fragment, and all of it there.
        let kind = u32::from_be_bytes([head[12], head[13], head[at::IP], 0]);
        let usual = kind == 0x0800_4500 && word(at::IP + 6) & 0x3fff == 0 && at::IP + total <= frame.len();
        if !usual {
            return None;
        }
        let l4_len = total.checked_sub(20)?;
        let (tcp, covered) = match head[at::IP + 9] {
            ipproto::TCP => {
                let header = usize::from(head[at::L4 + 12] >> 4) * 4;
                (true, (20..=l4_len).contains(&header).then_some(l4_len)?)
            }
            ipproto::UDP => {
                let len = usize::from(word(at::L4 + 4));
                (false, (8..=l4_len).contains(&len).then_some(len)?)
            }
            _ => return None,
        };
        let mut found = status::IPCS;
        if !checksum::is_whole(&head[at::IP..at::L4], 0) {
            found |= error::IPE;
        }
        // UDP need not have a checksum.
        if tcp || word(at::L4 + 6) != 0 {
            found |= status::L4CS;
            let addresses_and_l4 = frame.get(at::ADDRESSES..at::L4 + covered)?;
            // Less than 64 KiB: an IP packet's length is.
            let pseudo = u16::from(head[at::IP + 9]) + covered as u16;
            if !checksum::is_whole(addresses_and_l4, pseudo) {
                found |= error::L4E;
            }
        }
        Some(Plain {
            tcp,
            status_error: found,
            id: word(at::IP + 4),
        })
    }

    /// Packet type (7.1.6.2).
    #[inline]
    pub fn packet_type(&self) -> u16 {
        ptype::IPV4 | if self.tcp { ptype::TCP } else { ptype::UDP }
    }

    /// RSS (7.1.2.8): type and hash; `None` where RSS is off or no field matches.
    #[inline]
    pub fn rss(&self, filters: &mut Filters, file: &RegFile, frame: &[u8]) -> Option<(RssType, u32)> {
        let control = file.one(Id::MRQC);
        if !Filters::rss_is_on(control) {
            return None;
        }
        self.hash(control, filters.table(file)?, frame)
    }

    /// The same where RSS is on and `table` is the key's.
    #[inline(always)]
    pub fn hash(&self, control: u32, table: &Table, frame: &[u8]) -> Option<(RssType, u32)> {
        let (with_ports, kind) = if self.tcp {
            (mrqc::TCP_IPV4, RssType::TcpIpv4)
        } else {
            (mrqc::UDP_IPV4, RssType::UdpIpv4)
        };
        // Both ports follow both addresses.
        let input = frame.get(at::ADDRESSES..)?.first_chunk::<12>()?;
        if control & with_ports != 0 {
            Some((kind, table.hash_fields(input)))
        } else if control & mrqc::IPV4 != 0 {
            Some((RssType::Ipv4, table.hash_fields(input.first_chunk::<8>()?)))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rx::{checksum_status, packet_type};
    use super::*;
    use crate::packet::build::Frame;
    use crate::packet::{self, L4};
    use std::net::Ipv4Addr;

    fn frames() -> Vec<Vec<u8>> {
        let base = || {
            Frame::new()
                .macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
                .ipv4(Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 9, 8, 7))
        };
        let mut frames = Vec::new();
        for len in [0usize, 1, 18, 30, 31, 200] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            frames.push(base().udp(4000, 53).payload(&payload).pad_to(60).build());
            frames.push(
                base()
                    .udp(4000, 53)
                    .no_udp_checksum()
                    .payload(&payload)
                    .pad_to(60)
                    .build(),
            );
            frames.push(base().tcp(4000, 80).payload(&payload).pad_to(60).build());
        }
        frames
    }

    /// Says the same as the general way; true if it said anything.
    fn agrees(frame: &[u8], filters: &mut Filters, file: &RegFile) -> bool {
        let Some(plain) = Plain::of(frame) else {
            return false;
        };
        let p = packet::parse(frame);
        assert_eq!(plain.packet_type(), packet_type(&p), "{frame:02x?}");
        assert_eq!(plain.status_error, checksum_status(frame, &p), "{frame:02x?}");
        assert!(matches!(p.l4, L4::Tcp | L4::Udp) && p.ethertype == 0x0800);
        assert_eq!(plain.rss(filters, file, frame), filters.rss(file, frame, &p));
        true
    }

    #[test]
    fn every_frame_is_told_as_the_general_way_tells_it() {
        let mut filters = Filters::default();
        let mut file = RegFile::new();
        for i in 0..10 {
            file.set(Id::RSSRK, i, 0x9e37_79b9u32.wrapping_mul(i + 1));
        }
        filters.rss_changed();
        let fields = [mrqc::TCP_IPV4, mrqc::IPV4, mrqc::UDP_IPV4];
        let (mut plain, mut other) = (0, 0);
        for mut frame in frames() {
            for set in 0..8u32 {
                let on = fields.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
                let control = on.fold(mrqc::MRQE_RSS, |control, (_, field)| control | field);
                file.set(Id::MRQC, 0, control);
                assert!(agrees(&frame, &mut filters, &file), "{frame:02x?}");
            }
            for at in 12..60 {
                let was = frame[at];
                for value in [
                    0,
                    1,
                    5,
                    7,
                    8,
                    20,
                    0x40,
                    0x45,
                    0x46,
                    0x50,
                    0x80,
                    0xff,
                    was ^ 1,
                    was ^ 0x20,
                ] {
                    frame[at] = value;
                    match agrees(&frame, &mut filters, &file) {
                        true => plain += 1,
                        false => other += 1,
                    }
                }
                frame[at] = was;
            }
            // A frame that ends before its packet does.
            let whole = frame.len();
            frame.truncate(whole.saturating_sub(1).max(60));
            agrees(&frame, &mut filters, &file);
            file.set(Id::MRQC, 0, 0);
            agrees(&frame, &mut filters, &file);
        }
        assert!(plain > 3000 && other > 1000, "{plain} and {other}");
    }
}
