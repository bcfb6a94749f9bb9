//! The receive path (datasheet 7.1): MAC checks, filters, queue choice, and writing frames and descriptors to memory.

use std::collections::VecDeque;

use super::core::Core;
use super::fdir::Hit;
use super::filter::{Address, Filters, Pass};
use super::plain::Plain;
use super::queue::RxQueue;
use super::stats::FCS;
use crate::dma::{DmaSpace, Fault};
use crate::ixgbe::desc::rx::{self as desc, WriteBack, error, ptype, status};
use crate::ixgbe::regs::{Id, eicr, fdirctrl, hlreg0, maxfrs, rxcsum, vlnctrl};
use crate::packet::{self, Fragment, L3, L4, Parsed, checksum};
use crate::ring_order;

/// Shortest frame without its FCS.
pub(super) const MIN_FRAME: usize = 60;
/// Longest frame with its FCS where jumbo frames are off.
const MAX_STANDARD: usize = 1518;
/// Pause frames go here: 01:80:c2:00:00:01, as [`Address`] has it.
const PAUSE_ADDRESS: Address = Address::from_bytes([0x01, 0x80, 0xc2, 0x00, 0x00, 0x01]);
const PAUSE_ETHERTYPE: u16 = 0x8808;

/// Frames that wait for descriptors of a queue without DROP_EN. Everything behind them waits too: it is one FIFO.
#[derive(Debug, Default)]
pub(super) struct PacketBuffer {
    frames: VecDeque<Waiting>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    frame: Vec<u8>,
    queue: u32,
    back: WriteBack,
}

impl PacketBuffer {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }

    fn push(&mut self, frame: &[u8], queue: u32, back: WriteBack) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.bytes += frame.len();
        self.frames.push_back(Waiting {
            frame: copy,
            queue,
            back,
        });
    }

    fn done(&mut self, waiting: Waiting) {
        self.bytes -= waiting.frame.len();
        if self.spare.len() < 64 {
            self.spare.push(waiting.frame);
        }
    }
}

/// What became of a frame that was given to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// In memory, or lost for good and counted.
    Done,
    /// The queue has no descriptors and does not drop.
    Wait,
}

impl Core {
    /// A frame comes from the wire or, looped back, from the transmitter.
    pub fn receive(&mut self, frame: &[u8], loopback: bool) {
        if frame.len() < MIN_FRAME {
            self.receive_short(frame, loopback);
        } else {
            self.receive_whole(frame, loopback);
        }
    }

    /// A frame shorter than any on a real wire. A sender's MAC pads; wires made of software do not.
    #[cold]
    fn receive_short(&mut self, frame: &[u8], loopback: bool) {
        if frame.len() < packet::ETH_HLEN {
            self.tally.rx_any(frame);
            self.tally.rx_bad(frame);
            self.file.count(Id::RUC, 0, 1);
            self.counters.rx_bad_length += 1;
            return;
        }
        let mut padded = [0; MIN_FRAME];
        padded[..frame.len()].copy_from_slice(frame);
        self.receive_whole(&padded, loopback);
    }

    /// A frame of at least [`MIN_FRAME`] bytes.
    fn receive_whole(&mut self, frame: &[u8], loopback: bool) {
        self.tally.rx_any(frame);
        let vet = (self.file.one(Id::VLNCTRL) & vlnctrl::VET) as u16;
        let tag = packet::vlan::outer(frame, vet);
        if frame.len() + FCS > self.longest(tag.is_some()) {
            self.tally.rx_bad(frame);
            self.file.count(Id::ROC, 0, 1);
            self.counters.rx_bad_length += 1;
            return;
        }
        let to = Address::of(frame);
        if to == PAUSE_ADDRESS && self.is_pause(frame) {
            self.tally.rx_stopped(frame);
            return;
        }
        let pass = self.filters.pass(&self.file, to);
        if pass == Pass::No || !self.filters.pass_vlan(&self.file, frame) {
            self.tally.rx_stopped(frame);
            self.counters.rx_filtered += 1;
            return;
        }
        self.tally.rx_passed(frame);
        let mut back = WriteBack::default();
        if let Some(tag) = tag {
            back.status_error = status::VP;
            back.vlan = tag.tci;
        }
        let Some(q) = self.classify(frame, pass, loopback, &mut back) else {
            return;
        };
        if self.buffer.is_empty() && self.deliver(q, frame, &back) == Outcome::Done {
            return;
        }
        self.keep(q, frame, back);
    }

    /// A frame that has to wait for descriptors, or behind one that does.
    #[cold]
    fn keep(&mut self, q: u32, frame: &[u8], back: WriteBack) {
        // RXPBSIZE counts KiB from bit 10 on, so masked it is bytes.
        if self.buffer.bytes + frame.len() > self.file.get(Id::RXPBSIZE, 0) as usize {
            self.file.count(Id::RXMPC, 0, 1);
            self.counters.rx_missed += 1;
            self.irq.other_cause(eicr::RX_MISS);
            return;
        }
        self.buffer.push(frame, q, back);
    }

    /// Gives waiting frames to their queues, in order; stops at the first that still has to wait.
    pub fn drain_buffer(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..super::BUDGET {
            let Some(waiting) = self.buffer.frames.pop_front() else {
                break;
            };
            if self.deliver(waiting.queue, &waiting.frame, &waiting.back) == Outcome::Wait {
                self.buffer.frames.push_front(waiting);
                break;
            }
            self.buffer.done(waiting);
            moved = true;
        }
        moved
    }

    /// Longest frame that is good, FCS included (8.2.3.22.13): a VLAN tag comes on top.
    #[inline]
    pub(super) fn longest(&self, tagged: bool) -> usize {
        let base = if self.file.one(Id::HLREG0) & hlreg0::JUMBOEN != 0 {
            (self.file.one(Id::MAXFRS) >> maxfrs::MFS_SHIFT) as usize
        } else {
            MAX_STANDARD
        };
        base + if tagged { packet::VLAN_HLEN } else { 0 }
    }

    /// Whether a frame to [`PAUSE_ADDRESS`] is a pause frame: these end in the MAC (there is nothing to pause) and are
    /// counted.
    fn is_pause(&mut self, frame: &[u8]) -> bool {
        if frame[12..14] != PAUSE_ETHERTYPE.to_be_bytes() {
            return false;
        }
        let on = frame[16..18] == [0, 0];
        self.file
            .count(if on { Id::LXONRXCNT } else { Id::LXOFFRXCNT }, 0, 1);
        true
    }

    /// Finds out what the frame is, checks its checksums and chooses its queue. `None` drops it.
    #[inline]
    fn classify(&mut self, frame: &[u8], pass: Pass, loopback: bool, wb: &mut WriteBack) -> Option<u32> {
        if pass == Pass::Inexact {
            wb.status_error |= status::PIF;
        }
        if loopback {
            wb.status_error |= status::LB;
        }
        if self.filters.is_quiet()
            && !self.fdir.is_on()
            && let Some(plain) = Plain::of(frame)
        {
            return Some(self.classify_plain(frame, plain, wb));
        }
        self.classify_any(frame, wb)
    }

    /// Most frames, where nothing but RSS chooses a queue.
    #[inline]
    fn classify_plain(&mut self, frame: &[u8], plain: Plain, wb: &mut WriteBack) -> u32 {
        wb.ptype = plain.packet_type();
        wb.status_error |= plain.status_error;
        if wb.status_error & (error::IPE | error::L4E) != 0 {
            self.file.count(Id::XEC, 0, 1);
        }
        let rss = plain.rss(&mut self.filters, &self.file, frame);
        if self.file.one(Id::RXCSUM) & rxcsum::PCSD == 0 {
            wb.hash = u32::from(plain.id);
        } else if let Some((kind, hash)) = rss {
            wb.rss_type = kind as u8;
            wb.hash = hash;
        }
        rss.map_or(0, |(_, hash)| Filters::reta_queue(&self.file, hash))
    }

    /// Any frame.
    fn classify_any(&mut self, frame: &[u8], wb: &mut WriteBack) -> Option<u32> {
        let p = packet::parse(frame);
        wb.ptype = packet_type(&p);
        wb.status_error |= checksum_status(frame, &p);
        if wb.status_error & (error::IPE | error::L4E) != 0 {
            self.file.count(Id::XEC, 0, 1);
        }
        self.choose_queue(frame, &p, wb)
    }

    /// Queue choice in the order of figure 7-5: ether type, SYN, five tuple, flow director, RSS. `None` drops.
    #[inline]
    fn choose_queue(&mut self, frame: &[u8], p: &Parsed, wb: &mut WriteBack) -> Option<u32> {
        let mut queue = None;
        let ether_type = self.filters.ether_type(&self.file, p.ethertype);
        if let Some(filter) = ether_type {
            wb.ptype = ptype::ETQF | filter as u16;
            queue = Filters::ether_type_queue(&self.file, filter);
        } else {
            queue = queue
                .or_else(|| self.filters.syn_queue(&self.file, frame, p, true))
                .or_else(|| self.filters.five_tuple_queue(&self.file, frame, p))
                .or_else(|| self.filters.syn_queue(&self.file, frame, p, false));
        }
        let rss = if ether_type.is_none() {
            self.filters.rss(&self.file, frame, p)
        } else {
            None
        };
        let hash_wanted = self.file.one(Id::RXCSUM) & rxcsum::PCSD != 0;
        if let Some((kind, hash)) = rss
            && hash_wanted
        {
            wb.rss_type = kind as u8;
            wb.hash = hash;
        }
        if !hash_wanted && p.l3 == L3::Ipv4 {
            // IP identification in the low half of that field; the fragment checksum would be the high half.
            let id = frame
                .get(p.l2_len + 4..p.l2_len + 6)
                .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
            wb.hash = u32::from(id);
        }
        if queue.is_none()
            && let Some(Hit {
                queue: directed,
                drop,
                index,
            }) = self.fdir.lookup(&mut self.file, frame, p)
        {
            if self.file.one(Id::FDIRCTRL) & (fdirctrl::REPORT_STATUS | fdirctrl::REPORT_STATUS_ALWAYS) != 0 {
                wb.status_error |= status::FLM;
                wb.hash = index;
                wb.rss_type = 0xf;
            }
            if drop {
                return None;
            }
            queue = directed;
        }
        Some(
            queue
                .or(rss.map(|(_, hash)| Filters::reta_queue(&self.file, hash)))
                .unwrap_or(0),
        )
    }

    /// Writes the frame into the queue's buffers and its descriptors back.
    fn deliver(&mut self, q: u32, frame: &[u8], wb: &WriteBack) -> Outcome {
        let Some(queue) = self.rx.get_mut(q as usize) else {
            return Outcome::Done;
        };
        if !queue.enabled || queue.halted || queue.buffer == 0 {
            self.counters.rx_queue_off += 1;
            return Outcome::Done;
        }
        // With the tag stripped the frame is two pieces: the addresses and what follows the tag.
        let strip = wb.status_error & status::VP != 0 && queue.strip_vlan && frame.len() >= 18;
        let (head, body) = if strip {
            (&frame[..12], &frame[16..])
        } else {
            frame.split_at(0)
        };
        let len = head.len() + body.len();
        let needed = if len <= queue.buffer {
            1
        } else {
            len.div_ceil(queue.buffer) as u32
        };
        if queue.ring.available() < needed {
            if !queue.drop {
                return Outcome::Wait;
            }
            self.counters.rx_no_descriptor += 1;
            self.file.count(Id::QPRDC, queue.counter, 1);
            return Outcome::Done;
        }
        let written = if needed == 1 && !queue.legacy {
            write_one(&self.dma, queue, head, body, wb)
        } else {
            write_frame(&self.dma, queue, head, body, needed, wb)
        };
        match written {
            Ok(()) => {
                queue.ring.advance(needed);
                self.rx_touched |= 1 << q;
                self.counters.rx_frames += 1;
                self.counters.rx_stripped += u64::from(strip);
                self.tally.rx_delivered(frame.len(), queue.counter);
            }
            Err(fault) => self.rx_fault(q, fault),
        }
        Outcome::Done
    }
}

/// Fills one buffer with a frame's two pieces, which fit; its descriptor is written back at the end of the round.
#[inline]
fn write_one(
    dma: &DmaSpace,
    queue: &mut RxQueue,
    head: &[u8],
    body: &[u8],
    wb: &WriteBack,
) -> Result<(), Fault> {
    let cursor = queue.ring;
    let ring = dma.ring(&mut queue.place, cursor.base, cursor.count);
    // Where the ring does not lie in one piece each descriptor is looked up by itself.
    let slot = ring.and_then(|ring| ring.get(cursor.index(0) as usize));
    let posted = match slot {
        Some(slot) => ring_order::fetch(slot),
        None => dma.read_desc16(cursor.address(0))?,
    };
    let mut buffer = desc::packet_addr(posted);
    if !head.is_empty() {
        dma.write(buffer, head)?;
        buffer = buffer.wrapping_add(head.len() as u64);
    }
    dma.write(buffer, body)?;
    let back = WriteBack {
        len: (head.len() + body.len()) as u16,
        status_error: wb.status_error | status::DD | status::EOP,
        ..*wb
    }
    .encode();
    if slot.is_some() {
        queue.backs.push(back);
        return Ok(());
    }
    queue.write_back(dma)?;
    dma.write_desc16(cursor.address(0), back)
}

/// Fills buffers with a frame's two pieces and writes their descriptors back, `needed` of them.
fn write_frame(
    dma: &DmaSpace,
    queue: &mut RxQueue,
    mut head: &[u8],
    mut body: &[u8],
    needed: u32,
    wb: &WriteBack,
) -> Result<(), Fault> {
    // In order.
    queue.write_back(dma)?;
    let cursor = queue.ring;
    let ring = dma.ring(&mut queue.place, cursor.base, cursor.count);
    for n in 0..needed {
        // Where the ring does not lie in one piece each descriptor is looked up by itself.
        let slot = ring.and_then(|ring| ring.get(cursor.index(n) as usize));
        let posted = match slot {
            Some(slot) => ring_order::fetch(slot),
            None => dma.read_desc16(cursor.address(n))?,
        };
        let buffer = desc::packet_addr(posted);
        // `head` is at most 12 bytes, and buffers are at least 1 KiB.
        let body_len = body.len().min(queue.buffer - head.len());
        if !head.is_empty() {
            dma.write(buffer, head)?;
        }
        dma.write(buffer.wrapping_add(head.len() as u64), &body[..body_len])?;
        let len = (head.len() + body_len) as u16;
        head = &[];
        body = &body[body_len..];
        let last = n + 1 == needed;
        let back = if queue.legacy {
            legacy(buffer, len, last, wb)
        } else if last {
            WriteBack {
                len,
                status_error: wb.status_error | status::DD | status::EOP,
                ..*wb
            }
            .encode()
        } else {
            WriteBack {
                len,
                status_error: status::DD,
                ..WriteBack::default()
            }
            .encode()
        };
        match slot {
            Some(slot) => ring_order::publish(slot, back),
            None => dma.write_desc16(cursor.address(n), back)?,
        }
    }
    Ok(())
}

/// Legacy write-back (7.1.5): one status and one error byte.
fn legacy(buffer: u64, len: u16, last: bool, wb: &WriteBack) -> [u64; 2] {
    let mut state = status::DD as u8;
    let mut errors = 0;
    if last {
        state |= (status::EOP | wb.status_error & 0xf8) as u8;
        errors = (wb.status_error >> 24) as u8;
    }
    desc::legacy_write_back(buffer, len, 0, state, errors, if last { wb.vlan } else { 0 })
}

/// Packet type bits (7.1.6.2).
#[inline]
pub(super) fn packet_type(p: &Parsed) -> u16 {
    let l3 = match p.l3 {
        L3::Ipv4 if p.ipv4_options() => ptype::IPV4 | ptype::IPV4E,
        L3::Ipv4 => ptype::IPV4,
        L3::Ipv6 if p.ipv6_ext => ptype::IPV6 | ptype::IPV6E,
        L3::Ipv6 => ptype::IPV6,
        L3::None | L3::Arp => return 0,
    };
    let l4 = match p.l4 {
        _ if p.fragment != Fragment::No => 0,
        L4::Tcp => ptype::TCP,
        L4::Udp => ptype::UDP,
        L4::Sctp => ptype::SCTP,
        L4::Esp => ptype::ESP,
        _ => 0,
    };
    l3 | l4
}

/// Checksum offload (7.1.11): which checksums were checked, and which of them are wrong.
#[inline]
pub(super) fn checksum_status(frame: &[u8], p: &Parsed) -> u32 {
    let ip = match checksum::verify_ip(frame, p) {
        checksum::Status::Good => status::IPCS,
        checksum::Status::Bad => status::IPCS | error::IPE,
        checksum::Status::None => 0,
    };
    let l4 = match checksum::verify_l4(frame, p) {
        checksum::Status::Good => status::L4CS,
        checksum::Status::Bad => status::L4CS | error::L4E,
        checksum::Status::None => 0,
    };
    ip | l4
}
