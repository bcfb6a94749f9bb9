//! Flow director (datasheet 7.1.2.7): perfect match filters, which compare fields, and signature filters, which compare two
//! hashes of them. Linux's driver keeps the latter as a cache of the flows that it transmits (ATR), so that their other
//! direction arrives on the same queue.

use std::collections::HashMap;

use super::fdir_hash::Flow;
use super::file::RegFile;
use crate::ixgbe::regs::{Id, fdircmd, fdirctrl, fdirm};
use crate::packet::{L3, L4, Parsed};

/// Filters that the smallest memory holds (7.1.2.7.3: 64 KB, perfect match); others are multiples.
const SMALLEST: u32 = 2048;

#[derive(Clone, Copy, Debug)]
struct Filter {
    /// Software's index: FDIRHASH bits 29:16.
    index: u32,
    src: u32,
    dst: u32,
    /// Destination port in the high half.
    ports: u32,
    vlan: u16,
    flex: u16,
    l4: u32,
    ipv6: bool,
    queue: Option<u32>,
    drop: bool,
}

/// What a matching filter does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// Queue, where the filter names one.
    pub queue: Option<u32>,
    /// Drop it.
    pub drop: bool,
    /// Software's index of the filter, or the hashes, for the descriptor.
    pub index: u32,
}

/// What a signature filter compares: hash and signature as FDIRHASH has them, flow type as FDIRCMD has it.
type Signature = (u32, u32);
/// Hash in bits 14:0, signature in bits 30:16.
const SIGNATURE: u32 = 0x7fff_7fff;

/// The filter table.
#[derive(Debug, Default)]
pub(super) struct FlowDirector {
    perfect: Option<bool>,
    capacity: u32,
    /// Signature filters: the queue, and whether to drop.
    signatures: HashMap<Signature, (Option<u32>, bool)>,
    filters: Vec<Filter>,
}

impl FlowDirector {
    /// FDIRCTRL was written: (re)initialises.
    pub fn control(&mut self, value: u32) {
        let alloc = value & fdirctrl::PBALLOC;
        *self = FlowDirector::default();
        if alloc != 0 {
            let perfect = value & fdirctrl::PERFECT_MATCH != 0;
            self.perfect = Some(perfect);
            self.capacity = (SMALLEST << (alloc - 1)) * if perfect { 1 } else { 4 } - 2;
        }
    }

    /// Whether it looks at frames.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.perfect.is_some()
    }

    /// FDIRFREE: free filters.
    pub fn free(&self) -> u32 {
        self.capacity
            .saturating_sub((self.filters.len() + self.signatures.len()) as u32)
    }

    /// FDIRCMD was written: runs the command and gives what the register reads as afterwards.
    pub fn command(&mut self, value: u32, file: &mut RegFile) -> u32 {
        let done = value & !(fdircmd::CMD | fdircmd::FILTER_VALID);
        let index = file.one(Id::FDIRHASH) >> 16 & 0x7fff;
        let Some(perfect) = self.perfect else { return done };
        let signature = (
            file.one(Id::FDIRHASH) & SIGNATURE,
            value >> fdircmd::L4TYPE_SHIFT & 7,
        );
        let queue = (value & fdircmd::QUEUE_EN != 0).then_some(value >> fdircmd::QUEUE_SHIFT & 0x7f);
        let drop = value & fdircmd::DROP != 0;
        match value & fdircmd::CMD {
            fdircmd::CMD_ADD if perfect => {
                let known = self.filters.iter().position(|filter| filter.index == index);
                if known.is_none() && self.free() == 0 {
                    file.count(Id::FDIRFSTAT, 0, 1);
                    return done;
                }
                let filter = Filter {
                    index,
                    src: file.one(Id::FDIRIPSA).swap_bytes(),
                    dst: file.one(Id::FDIRIPDA).swap_bytes(),
                    ports: file.one(Id::FDIRPORT),
                    vlan: file.one(Id::FDIRVLAN) as u16,
                    flex: (file.one(Id::FDIRVLAN) >> 16) as u16,
                    l4: value >> fdircmd::L4TYPE_SHIFT & 3,
                    ipv6: value & fdircmd::IPV6 != 0,
                    queue,
                    drop,
                };
                match known {
                    Some(at) => self.filters[at] = filter,
                    None => self.filters.push(filter),
                }
                file.count(Id::FDIRUSTAT, 0, 1);
                done
            }
            fdircmd::CMD_ADD => {
                if self.free() == 0 && !self.signatures.contains_key(&signature) {
                    file.count(Id::FDIRFSTAT, 0, 1);
                } else {
                    self.signatures.insert(signature, (queue, drop));
                    file.count(Id::FDIRUSTAT, 0, 1);
                }
                done
            }
            fdircmd::CMD_REMOVE => {
                let removed = if perfect {
                    let before = self.filters.len();
                    self.filters.retain(|filter| filter.index != index);
                    before != self.filters.len()
                } else {
                    self.signatures.remove(&signature).is_some()
                };
                file.count(if removed { Id::FDIRUSTAT } else { Id::FDIRFSTAT }, 0, 1 << 16);
                done
            }
            fdircmd::CMD_QUERY
                if self.filters.iter().any(|filter| filter.index == index)
                    || self.signatures.contains_key(&signature) =>
            {
                done | fdircmd::FILTER_VALID
            }
            _ => done,
        }
    }

    /// Looks a frame up; counts a match or a miss. `None` where flow director is off or nothing matches.
    pub fn lookup(&self, file: &mut RegFile, frame: &[u8], p: &Parsed) -> Option<Hit> {
        let perfect = self.perfect.filter(|_| p.is_ip())?;
        let hit = if perfect {
            self.find(file, frame, p)
        } else {
            self.find_signature(file, frame, p)
        };
        file.count(
            if hit.is_some() {
                Id::FDIRMATCH
            } else {
                Id::FDIRMISS
            },
            0,
            1,
        );
        hit
    }

    fn find_signature(&self, file: &RegFile, frame: &[u8], p: &Parsed) -> Option<Hit> {
        if self.signatures.is_empty() {
            return None;
        }
        let mask = file.one(Id::FDIRM);
        let on = |bit| mask & bit == 0;
        let flow_type = l4_type(p) | if p.l3 == L3::Ipv6 { 4 } else { 0 };
        let flow = Flow {
            flow_type,
            tci: p.tags().first().map_or(0, |tag| tag.tci) & vlan_mask(mask),
            addresses: fold(p.src_addr(frame)) ^ fold(p.dst_addr(frame)),
            src_port: p.src_port(frame).unwrap_or(0),
            dst_port: p.dst_port(frame).unwrap_or(0),
            flex: if on(fdirm::FLEX) {
                flexible_bytes(file, frame)
            } else {
                0
            },
        };
        let index = flow.hash(file.one(Id::FDIRHKEY)) | flow.hash(file.one(Id::FDIRSKEY)) << 16;
        let &(queue, drop) = self.signatures.get(&(index, flow_type))?;
        Some(Hit { queue, drop, index })
    }

    fn find(&self, file: &RegFile, frame: &[u8], p: &Parsed) -> Option<Hit> {
        if self.filters.is_empty() {
            return None;
        }
        let word = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
        let ipv6 = p.l3 == L3::Ipv6;
        // IPv6 addresses are matched by hash in silicon; perfect filters here are IPv4's.
        let (src, dst) = if ipv6 {
            (0, 0)
        } else {
            (word(p.src_addr(frame))?, word(p.dst_addr(frame))?)
        };
        let ports =
            u32::from(p.dst_port(frame).unwrap_or(0)) << 16 | u32::from(p.src_port(frame).unwrap_or(0));
        let l4 = l4_type(p);
        let tci = p.tags().first().map_or(0, |tag| tag.tci);
        // The register has them in the order of the wire.
        let flex = flexible_bytes(file, frame).swap_bytes();

        // A one in a mask ignores the bit; port masks are bit-reversed in each half.
        let mask = file.one(Id::FDIRM);
        let on = |bit| mask & bit == 0;
        let src_mask = !file.one(Id::FDIRSIP4M).swap_bytes();
        let dst_mask = !file.one(Id::FDIRDIP4M).swap_bytes();
        let port_mask = match l4 {
            1 => !halves_reversed(file.one(Id::FDIRUDPM)),
            2 => !halves_reversed(file.one(Id::FDIRTCPM)),
            _ => 0,
        };
        let vlan_mask = vlan_mask(mask);
        self.filters
            .iter()
            .find(|filter| {
                filter.ipv6 == ipv6
                    && (filter.src ^ src) & src_mask == 0
                    && (filter.dst ^ dst) & dst_mask == 0
                    && (!on(fdirm::L4P) || filter.l4 == l4)
                    && (filter.ports ^ ports) & port_mask == 0
                    && (filter.vlan ^ tci) & vlan_mask == 0
                    && (!on(fdirm::FLEX) || filter.flex == flex)
            })
            .map(|filter| Hit {
                queue: filter.queue,
                drop: filter.drop,
                index: filter.index,
            })
    }
}

/// L4 type as FDIRCMD has it.
fn l4_type(p: &Parsed) -> u32 {
    match p.l4 {
        L4::Udp => 1,
        L4::Tcp => 2,
        L4::Sctp => 3,
        _ => 0,
    }
}

/// The bits of a tag that FDIRM lets count.
fn vlan_mask(fdirm: u32) -> u16 {
    let on = |bit, bits| if fdirm & bit == 0 { bits } else { 0 };
    on(fdirm::VLANID, 0x0fff) | on(fdirm::VLANP, 0xe000)
}

/// The two bytes that FDIRCTRL says where to find, as a number in network order.
fn flexible_bytes(file: &RegFile, frame: &[u8]) -> u16 {
    let at = (file.one(Id::FDIRCTRL) >> fdirctrl::FLEX_SHIFT & 0x1f) as usize * 2;
    frame
        .get(at..at + 2)
        .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// Exclusive or of an address's dwords.
fn fold(address: &[u8]) -> u32 {
    let dwords = address.as_chunks::<4>().0.iter();
    dwords.fold(0, |sum, &dword| sum ^ u32::from_be_bytes(dword))
}

fn halves_reversed(value: u32) -> u32 {
    u32::from((value as u16).reverse_bits()) | u32::from(((value >> 16) as u16).reverse_bits()) << 16
}
