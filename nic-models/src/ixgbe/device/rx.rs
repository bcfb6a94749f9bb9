//! The receive path (datasheet 7.1): MAC checks, filters, queue choice, and writing frames and descriptors to memory.

use std::collections::VecDeque;

use super::core::Core;
use super::fdir::Hit;
use super::filter::{Filters, Pass};
use super::queue::RxQueue;
use super::stats::FCS;
use crate::dma::Fault;
use crate::ixgbe::desc::rx::{self as desc, WriteBack, error, ptype, status};
use crate::ixgbe::regs::{Id, eicr, fdirctrl, hlreg0, maxfrs, rxcsum, vlnctrl};
use crate::packet::{self, Fragment, L3, L4, Parsed, checksum};

/// Shortest frame without its FCS.
const MIN_FRAME: usize = 60;
/// Longest frame with its FCS where jumbo frames are off.
const MAX_STANDARD: usize = 1518;
/// Pause frames go here.
const PAUSE_ADDRESS: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x01];
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
        // A sender's MAC pads; wires made of software do not.
        let mut padded = [0; MIN_FRAME];
        let frame = match frame.len() {
            0..14 => {
                self.tally.rx_any(frame);
                self.file.count(Id::RUC, 0, 1);
                self.counters.rx_bad_length += 1;
                return;
            }
            14..MIN_FRAME => {
                padded[..frame.len()].copy_from_slice(frame);
                &padded[..]
            }
            _ => frame,
        };
        self.tally.rx_any(frame);
        if frame.len() + FCS > self.longest(frame) {
            self.file.count(Id::ROC, 0, 1);
            self.counters.rx_bad_length += 1;
            return;
        }
        self.tally.rx_good(frame);
        if self.is_pause(frame) {
            return;
        }
        let pass = self.filters.pass(&self.file, frame);
        if pass == Pass::No || !self.filters.pass_vlan(&self.file, frame) {
            self.counters.rx_filtered += 1;
            return;
        }
        self.tally.rx_passed(frame);
        let Some((q, back)) = self.classify(frame, pass, loopback) else {
            return;
        };
        if self.buffer.is_empty() && self.deliver(q, frame, back) == Outcome::Done {
            return;
        }
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
            if self.deliver(waiting.queue, &waiting.frame, waiting.back) == Outcome::Wait {
                self.buffer.frames.push_front(waiting);
                break;
            }
            self.buffer.done(waiting);
            moved = true;
        }
        moved
    }

    /// Longest frame that is good, FCS included (8.2.3.22.13): a VLAN tag comes on top.
    fn longest(&self, frame: &[u8]) -> usize {
        let base = if self.file.one(Id::HLREG0) & hlreg0::JUMBOEN != 0 {
            (self.file.one(Id::MAXFRS) >> maxfrs::MFS_SHIFT) as usize
        } else {
            MAX_STANDARD
        };
        let vet = (self.file.one(Id::VLNCTRL) & vlnctrl::VET) as u16;
        base + if packet::vlan::outer(frame, vet).is_some() {
            4
        } else {
            0
        }
    }

    /// Pause frames end in the MAC (there is nothing to pause) and are counted.
    fn is_pause(&mut self, frame: &[u8]) -> bool {
        if frame[..6] != PAUSE_ADDRESS || frame[12..14] != PAUSE_ETHERTYPE.to_be_bytes() {
            return false;
        }
        let on = frame[16..18] == [0, 0];
        self.file
            .count(if on { Id::LXONRXCNT } else { Id::LXOFFRXCNT }, 0, 1);
        true
    }

    /// Parses the frame, checks its checksums and chooses its queue. `None` drops it.
    fn classify(&mut self, frame: &[u8], pass: Pass, loopback: bool) -> Option<(u32, WriteBack)> {
        let p = packet::parse(frame);
        let mut wb = WriteBack {
            ptype: packet_type(&p),
            ..WriteBack::default()
        };
        wb.status_error = checksum_status(frame, &p);
        if wb.status_error & (error::IPE | error::L4E) != 0 {
            self.file.count(Id::XEC, 0, 1);
        }
        if pass == Pass::Inexact {
            wb.status_error |= status::PIF;
        }
        if loopback {
            wb.status_error |= status::LB;
        }
        let q = self.choose_queue(frame, &p, &mut wb)?;
        Some((q, wb))
    }

    /// Queue choice in the order of figure 7-5: ether type, SYN, five tuple, flow director, RSS. `None` drops.
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
    fn deliver(&mut self, q: u32, frame: &[u8], mut wb: WriteBack) -> Outcome {
        let Some(&queue) = self.rx.get(q as usize) else {
            return Outcome::Done;
        };
        if !queue.enabled || queue.halted || queue.buffer == 0 {
            self.counters.rx_queue_off += 1;
            return Outcome::Done;
        }
        let vet = (self.file.one(Id::VLNCTRL) & vlnctrl::VET) as u16;
        let tag = packet::vlan::outer(frame, vet);
        if let Some(tag) = tag {
            wb.status_error |= status::VP;
            wb.vlan = tag.tci;
        }
        // With the tag stripped the frame is two pieces: the addresses and what follows the tag.
        let strip = tag.is_some() && queue.strip_vlan && frame.len() >= 18;
        let (head, body) = if strip {
            (&frame[..12], &frame[16..])
        } else {
            frame.split_at(0)
        };
        let needed = (head.len() + body.len()).div_ceil(queue.buffer) as u32;
        if queue.ring.available() < needed {
            if !queue.drop {
                return Outcome::Wait;
            }
            self.counters.rx_no_descriptor += 1;
            self.file.count(Id::QPRDC, queue.counter, 1);
            return Outcome::Done;
        }
        match self.write_frame(&queue, head, body, needed, wb) {
            Ok(()) => {
                let queue = &mut self.rx[q as usize];
                queue.ring.advance(needed);
                self.rx_touched |= 1 << q;
                self.counters.rx_frames += 1;
                self.counters.rx_stripped += u64::from(strip);
                self.tally.rx_delivered(frame, queue.counter);
            }
            Err(fault) => self.rx_fault(q, fault),
        }
        Outcome::Done
    }

    fn write_frame(
        &self,
        queue: &RxQueue,
        head: &[u8],
        body: &[u8],
        needed: u32,
        wb: WriteBack,
    ) -> Result<(), Fault> {
        let (mut head, mut body) = (head, body);
        for n in 0..needed {
            let at = queue.ring.address(n);
            let posted = self.dma.read_desc16(at)?;
            let buffer = desc::packet_addr(posted);
            let room = queue.buffer;
            // `head` is at most 12 bytes, and buffers are at least 1 KiB.
            let body_len = body.len().min(room - head.len());
            if !head.is_empty() {
                self.dma.write(buffer, head)?;
            }
            self.dma
                .write(buffer.wrapping_add(head.len() as u64), &body[..body_len])?;
            let len = (head.len() + body_len) as u16;
            head = &[];
            body = &body[body_len..];
            let last = n + 1 == needed;
            let back = if queue.legacy {
                legacy(buffer, len, last, &wb)
            } else if last {
                WriteBack {
                    len,
                    status_error: wb.status_error | status::DD | status::EOP,
                    ..wb
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
            self.dma.write_desc16(at, back)?;
        }
        Ok(())
    }
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
fn packet_type(p: &Parsed) -> u16 {
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
fn checksum_status(frame: &[u8], p: &Parsed) -> u32 {
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
