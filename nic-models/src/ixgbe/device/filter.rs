//! Which frames get in (datasheet 7.1.1) and which receive queue they go to (7.1.2).

use super::file::RegFile;
use crate::ixgbe::desc::rx::RssType;
use crate::ixgbe::regs::{Id, etqf, etqs, fctrl, ftqf, l34timir, mcstctrl, mrqc, rah, synqf, vlnctrl};
use crate::packet::{Fragment, L3, L4, Parsed};
use crate::toeplitz::{KEY_LEN, Table};

/// How a frame passed the address filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// An exact address, or broadcast.
    Exact,
    /// A hash table or promiscuous mode: software has to look (status bit PIF).
    Inexact,
    /// Not for us.
    No,
}

/// Filter state that is derived from registers, so that a frame does not search 128 of them.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Valid receive addresses.
    addresses: Vec<Address>,
    /// Enabled five tuple filters, highest priority first.
    five_tuples: Vec<u32>,
    /// Whether any ether type filter is on.
    ether_types: bool,
    syn: bool,
    rss: Option<(Box<[u8; KEY_LEN]>, Table)>,
    rss_stale: bool,
}

/// A MAC address as RAL and RAH hold it: the byte that is first on the wire is the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u64);

impl Address {
    const BITS: u64 = 0xffff_ffff_ffff;
    const BROADCAST: Address = Address(Self::BITS);

    pub const fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Address(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// Where a frame is to go. A frame too short to say so goes to 0, which is nobody's address.
    #[inline]
    pub fn of(frame: &[u8]) -> Self {
        Address(
            frame
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes) & Self::BITS),
        )
    }

    fn is_group(self) -> bool {
        self.0 & 1 == 1
    }

    /// The 12 bits that index MTA and UTA (8.2.3.7.3): by MO, bits 47:36, 46:35, 45:34 or 43:32, bit 47 being the most
    /// significant one of the last byte on the wire.
    fn hash_index(self, mo: u32) -> u32 {
        let shift = match mo {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        };
        (self.0 >> 32) as u32 >> shift & 0xfff
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl Filters {
    /// RAL or RAH changed.
    pub fn reload_addresses(&mut self, file: &RegFile) {
        self.addresses.clear();
        for (low, high) in file.all(Id::RAL).iter().zip(file.all(Id::RAH)) {
            if high & rah::AV != 0 {
                self.addresses
                    .push(Address(u64::from(*low) | u64::from(high & 0xffff) << 32));
            }
        }
    }

    /// MRQC or RSSRK changed.
    pub fn rss_changed(&mut self) {
        self.rss_stale = true;
    }

    /// FTQF, SYNQF or ETQF changed.
    pub fn reload_queue_filters(&mut self, file: &RegFile) {
        let on = |(i, &value): (usize, &u32)| (value & ftqf::QUEUE_ENABLE != 0).then_some(i as u32);
        self.five_tuples.clear();
        self.five_tuples
            .extend(file.all(Id::FTQF).iter().enumerate().filter_map(on));
        // Stable: of equal priorities the lower index wins.
        self.five_tuples
            .sort_by_key(|&i| std::cmp::Reverse(file.get(Id::FTQF, i) >> ftqf::PRIORITY_SHIFT & 7));
        self.ether_types = file.all(Id::ETQF).iter().any(|value| value & etqf::ENABLE != 0);
        self.syn = file.one(Id::SYNQF) & synqf::ENABLE != 0;
    }

    /// Address filters (7.1.1.1): unicast, multicast, broadcast.
    #[inline]
    pub fn pass(&self, file: &RegFile, to: Address) -> Pass {
        // Usually it is the first: the port's own.
        if self.addresses.first() == Some(&to) && to != Address::BROADCAST {
            return Pass::Exact;
        }
        self.pass_other(file, to)
    }

    fn pass_other(&self, file: &RegFile, to: Address) -> Pass {
        let control = file.one(Id::FCTRL);
        if to == Address::BROADCAST {
            return if control & fctrl::BAM != 0 {
                Pass::Exact
            } else {
                Pass::No
            };
        }
        if self.addresses.contains(&to) {
            return Pass::Exact;
        }
        let mcst = file.one(Id::MCSTCTRL);
        let hash = to.hash_index(mcst & mcstctrl::MO);
        let in_table = |id| file.get(id, hash >> 5) >> (hash & 31) & 1 == 1;
        let pass = if to.is_group() {
            control & fctrl::MPE != 0 || mcst & mcstctrl::MFE != 0 && in_table(Id::MTA)
        } else {
            control & fctrl::UPE != 0 || in_table(Id::UTA)
        };
        if pass { Pass::Inexact } else { Pass::No }
    }

    /// The port's own address, usually the first, where frames to it pass whatever other registers say: not broadcast, nor any
    /// group's.
    pub fn own_address(&self) -> Option<Address> {
        self.addresses.first().copied().filter(|to| !to.is_group())
    }

    /// VLAN filter (7.1.1.2).
    #[inline]
    pub fn pass_vlan(&self, file: &RegFile, frame: &[u8]) -> bool {
        let control = file.one(Id::VLNCTRL);
        if control & vlnctrl::VFE == 0 {
            return true;
        }
        let (Some(tpid), Some(tci)) = (be16(frame, 12), be16(frame, 14)) else {
            return true;
        };
        if u32::from(tpid) != control & vlnctrl::VET {
            return true;
        }
        if control & vlnctrl::CFIEN != 0 && (control & vlnctrl::CFI != 0) != (tci & 0x1000 != 0) {
            return false;
        }
        let vid = u32::from(tci & 0xfff);
        file.get(Id::VFTA, vid >> 5) >> (vid & 31) & 1 == 1
    }

    /// The ether type filter that matches, as its index.
    #[inline]
    pub fn ether_type(&self, file: &RegFile, ethertype: u16) -> Option<u32> {
        if !self.ether_types {
            return None;
        }
        let wanted = |value: u32| value & etqf::ENABLE != 0 && value & etqf::TYPE == u32::from(ethertype);
        file.all(Id::ETQF)
            .iter()
            .position(|&value| wanted(value))
            .map(|i| i as u32)
    }

    /// Queue of an ether type filter, where it names one.
    pub fn ether_type_queue(file: &RegFile, filter: u32) -> Option<u32> {
        let select = file.get(Id::ETQS, filter);
        (select & etqs::QUEUE_ENABLE != 0).then_some(select >> etqs::QUEUE_SHIFT & 0x7f)
    }

    /// Queue by the SYN filter, when it has the priority asked for (7.1.2.4).
    #[inline]
    pub fn syn_queue(&self, file: &RegFile, frame: &[u8], p: &Parsed, high: bool) -> Option<u32> {
        if !self.syn || p.l4 != L4::Tcp {
            return None;
        }
        let filter = file.one(Id::SYNQF);
        if (filter & synqf::HIGH_PRIORITY != 0) != high {
            return None;
        }
        // SYN set and ACK clear.
        let flags = frame.get(p.l4_off + 13)?;
        (flags & 0x12 == 0x02).then_some(filter >> synqf::QUEUE_SHIFT & 0x7f)
    }

    /// Queue by the five tuple filters (7.1.2.5): IPv4 only, not fragments.
    #[inline]
    pub fn five_tuple_queue(&self, file: &RegFile, frame: &[u8], p: &Parsed) -> Option<u32> {
        if self.five_tuples.is_empty() || p.l3 != L3::Ipv4 || p.fragment != Fragment::No {
            return None;
        }
        let word = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        let (src, dst) = (word(p.src_addr(frame))?, word(p.dst_addr(frame))?);
        let ports = (p.src_port(frame).unwrap_or(0), p.dst_port(frame).unwrap_or(0));
        let protocol = match p.l4 {
            L4::Tcp => 0,
            L4::Udp => 1,
            L4::Sctp => 2,
            _ => 3,
        };
        let hit = self.five_tuples.iter().find(|&&i| {
            let filter = file.get(Id::FTQF, i);
            let ignore = filter >> ftqf::MASK_SHIFT;
            // Addresses and ports stand in the registers in network order.
            let sdp = file.get(Id::SDPQF, i);
            let (sport, dport) = ((sdp as u16).swap_bytes(), ((sdp >> 16) as u16).swap_bytes());
            (ignore & 1 != 0 || file.get(Id::SAQF, i).swap_bytes() == src)
                && (ignore & 2 != 0 || file.get(Id::DAQF, i).swap_bytes() == dst)
                && (ignore & 4 != 0 || sport == ports.0)
                && (ignore & 8 != 0 || dport == ports.1)
                && (ignore & 16 != 0 || filter & ftqf::PROTOCOL == protocol)
        })?;
        Some(file.get(Id::L34TIMIR, *hit) >> l34timir::QUEUE_SHIFT & 0x7f)
    }

    /// Whether no filter of these can say where a TCP or UDP packet goes.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        !self.ether_types && !self.syn && self.five_tuples.is_empty()
    }

    /// Whether MRQC turns RSS on.
    #[inline]
    pub fn rss_is_on(control: u32) -> bool {
        matches!(
            control & mrqc::MRQE,
            mrqc::MRQE_RSS | mrqc::MRQE_RSS_8TC | mrqc::MRQE_RSS_4TC
        )
    }

    /// RSS (7.1.2.8): type and hash; `None` where RSS is off or no field matches.
    #[inline]
    pub fn rss(&mut self, file: &RegFile, frame: &[u8], p: &Parsed) -> Option<(RssType, u32)> {
        let control = file.one(Id::MRQC);
        if !Self::rss_is_on(control) {
            return None;
        }
        let on = |field| control & field != 0;
        let whole = p.fragment == Fragment::No;
        let (kind, ports) = match (p.l3, p.l4) {
            (L3::Ipv4, L4::Tcp) if whole && on(mrqc::TCP_IPV4) => (RssType::TcpIpv4, true),
            (L3::Ipv4, L4::Udp) if whole && on(mrqc::UDP_IPV4) => (RssType::UdpIpv4, true),
            (L3::Ipv4, _) if on(mrqc::IPV4) => (RssType::Ipv4, false),
            (L3::Ipv6, L4::Tcp) if whole && on(mrqc::TCP_IPV6) => (RssType::TcpIpv6, true),
            (L3::Ipv6, L4::Udp) if whole && on(mrqc::UDP_IPV6) => (RssType::UdpIpv6, true),
            (L3::Ipv6, _) if on(mrqc::IPV6) => (RssType::Ipv6, false),
            _ => return None,
        };
        let addresses = p.addresses(frame);
        let ports = if ports {
            frame.get(p.l4_off..p.l4_off + 4)?
        } else {
            &[]
        };
        let table = self.table(file)?;
        let hash = table.hash(addresses) ^ table.hash_from(addresses.len(), ports);
        Some((kind, hash))
    }

    /// The queue RETA holds for a hash: 128 entries of 4 bits.
    #[inline]
    pub fn reta_queue(file: &RegFile, hash: u32) -> u32 {
        let entry = hash & 0x7f;
        file.get(Id::RETA, entry / 4) >> (8 * (entry % 4)) & 0xf
    }

    /// The key's table, rebuilt where the key has changed.
    #[inline]
    pub fn table(&mut self, file: &RegFile) -> Option<&Table> {
        if self.rss_stale || self.rss.is_none() {
            self.rebuild(file);
        }
        self.rss.as_ref().map(|(_, table)| table)
    }

    #[cold]
    fn rebuild(&mut self, file: &RegFile) {
        self.rss_stale = false;
        let mut key = [0u8; KEY_LEN];
        for (chunk, word) in key.chunks_exact_mut(4).zip(file.all(Id::RSSRK)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        if self.rss.as_ref().is_none_or(|(old, _)| **old != key) {
            self.rss = Some((Box::new(key), Table::new(&key)));
        }
    }
}
