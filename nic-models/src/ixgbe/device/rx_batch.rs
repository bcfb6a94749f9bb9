//! Frames that a wire hands over together: most of them need nothing but RSS to find their queue, and what the registers say
//! about those is looked up once. Any other takes the way of [`Core::receive`], and what happens to each is the same on both.

use super::core::Core;
use super::filter::{Address, Filters};
use super::plain::Plain;
use super::rx::MIN_FRAME;
use super::stats::FCS;
use crate::ixgbe::desc::rx::{self as desc, RssType, WriteBack, error, status};
use crate::ixgbe::regs::{Id, rxcsum, vlnctrl};
use crate::packet;
use crate::ring_order;
use crate::wire::Batch;

/// How many descriptors ahead of the head buffers are taken away from the processor that had them last, and descriptors.
const BUFFERS_AHEAD: u32 = 8;
const DESCRIPTORS_AHEAD: u32 = 16;
/// Descriptors in a cache line.
const LINE: u32 = 4;

/// What the registers say about plain frames to the port's own address; software cannot change them before the round ends.
#[derive(Clone, Copy, Debug)]
struct Gate {
    own: Address,
    /// Longest frame that is good, without FCS.
    longest: usize,
    /// MRQC where RSS is on.
    rss: Option<u32>,
    /// RXCSUM: write-backs hold the hash, not the IP identification.
    hash_wanted: bool,
}

impl Core {
    /// Frames from the wire.
    pub fn receive_batch(&mut self, mut frames: Batch<'_>) {
        let gate = self.gate();
        loop {
            let odd = match &gate {
                // Behind a frame that waits for descriptors all others wait.
                Some(gate) if self.buffer.is_empty() => self.receive_plain(gate, &mut frames),
                _ => frames.next(),
            };
            let Some(odd) = odd else { return };
            self.receive(odd, false);
        }
    }

    /// `None` where no frame is as plain as that.
    fn gate(&self) -> Option<Gate> {
        // Where IPv4's ether type marks VLAN tags nothing is IPv4.
        let tagged = self.file.one(Id::VLNCTRL) & vlnctrl::VET == u32::from(packet::ethertype::IPV4);
        if tagged || !self.filters.is_quiet() || self.fdir.is_on() {
            return None;
        }
        let control = self.file.one(Id::MRQC);
        Some(Gate {
            own: self.filters.own_address()?,
            longest: self.longest(false).checked_sub(FCS)?,
            rss: Some(control).filter(|&control| Filters::rss_is_on(control)),
            hash_wanted: self.file.one(Id::RXCSUM) & rxcsum::PCSD != 0,
        })
    }

    /// Delivers plain frames up to the first of another kind, or whose queue is not there for it, and gives that one back.
    fn receive_plain<'a>(&mut self, gate: &Gate, frames: &mut Batch<'a>) -> Option<&'a [u8]> {
        let table = match gate.rss {
            Some(control) => self.filters.table(&self.file).map(|table| (control, table)),
            None => None,
        };
        let window = self.dma.window();
        for frame in frames {
            let fits = (MIN_FRAME..=gate.longest).contains(&frame.len()) && Address::of(frame) == gate.own;
            let Some(plain) = (if fits { Plain::of(frame) } else { None }) else {
                return Some(frame);
            };
            let rss = table.and_then(|(control, table)| plain.hash(control, table, frame));
            let q = rss.map_or(0, |(_, hash)| Filters::reta_queue(&self.file, hash));
            let Some(queue) = self.rx.get_mut(q as usize) else {
                return Some(frame);
            };
            let available = queue.ring.available();
            if frame.len() > queue.longest_in_one() || available == 0 {
                return Some(frame);
            }
            let cursor = queue.ring;
            let Some(ring) = self.dma.ring(&mut queue.place, cursor.base, cursor.count) else {
                return Some(frame);
            };
            let Some(slot) = ring.get(cursor.head as usize) else {
                return Some(frame);
            };
            if !window.write(desc::packet_addr(ring_order::fetch(slot)), frame) {
                return Some(frame);
            }
            if available > BUFFERS_AHEAD
                && let Some(slot) = ring.get(cursor.index(BUFFERS_AHEAD) as usize)
            {
                window.prefetch_to_write(desc::packet_addr(ring_order::fetch(slot)));
            }
            if cursor.head.is_multiple_of(LINE)
                && let Some(slot) = ring.get((cursor.head + DESCRIPTORS_AHEAD) as usize)
            {
                crate::dma::prefetch_slot(slot);
            }
            let (kind, hash) = match rss {
                _ if !gate.hash_wanted => (RssType::None, u32::from(plain.id)),
                Some(found) => found,
                None => (RssType::None, 0),
            };
            let back = WriteBack {
                rss_type: kind as u8,
                ptype: plain.packet_type(),
                hash,
                status_error: plain.status_error | status::DD | status::EOP,
                len: frame.len() as u16,
                ..WriteBack::default()
            };
            queue.backs.push(back.encode());
            queue.ring.advance(1);
            self.rx_touched |= 1 << q;
            self.counters.rx_frames += 1;
            self.tally.rx_straight(frame, queue.counter);
            if plain.status_error & (error::IPE | error::L4E) != 0 {
                self.file.count(Id::XEC, 0, 1);
            }
        }
        None
    }
}
