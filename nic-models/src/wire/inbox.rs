//! Frames as the kernel hands them over, and what makes them frames as a switch port would send them.
//!
//! A batch of datagrams is received into slots; each is then finished: a stripped VLAN tag goes back in, a partial
//! checksum is completed, a GSO frame is cut into segments that come out one by one.

use super::MAX_FRAME;
use crate::packet::segment::{Gso, Segments};
use crate::packet::{Tag, VLAN_HLEN, checksum, vlan};

/// Length of `struct virtio_net_hdr` (virtio 1.2 section 5.1.6, without `num_buffers`).
pub(super) const VNET_LEN: usize = 10;
/// Free bytes in front of a received frame, for a VLAN tag.
pub(super) const HEADROOM: usize = VLAN_HLEN;
/// A GSO frame: the largest IP packet, with an Ethernet header and two tags.
const SLOT_FRAME: usize = 65_535 + 14 + 2 * VLAN_HLEN;

/// Bits and values of the virtio-net header.
mod vnet {
    pub const F_NEEDS_CSUM: u8 = 1;
    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;
    pub const GSO_ECN: u8 = 0x80;
}

/// Room for one datagram and what the kernel says about it.
pub(super) struct Slot {
    /// The virtio-net header, zero where there is none.
    pub header: [u8; VNET_LEN],
    /// Headroom, then the frame.
    pub bytes: Vec<u8>,
    /// Space for control messages, aligned as they need it.
    pub control: [u64; 8],
    /// Length of the frame.
    pub len: usize,
    /// A tag that the kernel took off.
    pub tag: Option<Tag>,
    /// The datagram was longer than the slot.
    pub truncated: bool,
}

impl Slot {
    fn new(frame_len: usize) -> Slot {
        Slot {
            header: [0; VNET_LEN],
            bytes: vec![0; HEADROOM + frame_len],
            control: [0; 8],
            len: 0,
            tag: None,
            truncated: false,
        }
    }
}

/// What became of received datagrams; all in frames or datagrams since the wire was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Frames given to the model, each segment counted.
    pub recv_frames: u64,
    /// GSO frames cut.
    pub recv_gso: u64,
    /// Partial checksums finished (segments not counted).
    pub recv_checksums: u64,
    /// Tags put back.
    pub recv_tags: u64,
    /// Dropped: longer than the wire's frame limit.
    pub drop_oversize: u64,
    /// Dropped: shorter than an Ethernet header.
    pub drop_runt: u64,
    /// Dropped: a GSO kind or header that cannot be cut.
    pub drop_gso: u64,
    /// Dropped: a partial checksum outside its frame.
    pub drop_checksum: u64,
    /// Frames given to the kernel.
    pub send_frames: u64,
    /// Frames that the kernel did not take.
    pub send_drops: u64,
}

impl Counters {
    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("wire_recv_frames", self.recv_frames),
            ("wire_recv_gso", self.recv_gso),
            ("wire_recv_checksums_finished", self.recv_checksums),
            ("wire_recv_tags_restored", self.recv_tags),
            ("wire_recv_drop_oversize", self.drop_oversize),
            ("wire_recv_drop_runt", self.drop_runt),
            ("wire_recv_drop_gso", self.drop_gso),
            ("wire_recv_drop_checksum", self.drop_checksum),
            ("wire_send_frames", self.send_frames),
            ("wire_send_drops", self.send_drops),
        ]
    }
}

/// Where the next frame lies.
#[derive(Clone, Copy)]
pub(super) enum Ready {
    /// In a slot, from an offset, for a length.
    Slot(usize, usize, usize),
    /// In the segment buffer.
    Segment,
}

/// Received datagrams on their way to being frames.
pub(super) struct Inbox {
    /// To be filled by the wire when [`Inbox::is_empty`].
    pub slots: Vec<Slot>,
    count: usize,
    next: usize,
    cut: Option<Segments>,
    segment: Vec<u8>,
    pub counters: Counters,
}

impl Inbox {
    /// For datagrams that may be GSO frames.
    pub(super) fn for_gso(slots: usize) -> Inbox {
        Inbox::with_slots(slots, SLOT_FRAME)
    }

    /// For datagrams that are plain frames.
    pub(super) fn plain(slots: usize) -> Inbox {
        Inbox::with_slots(slots, MAX_FRAME + 1)
    }

    fn with_slots(slots: usize, frame_len: usize) -> Inbox {
        Inbox {
            slots: (0..slots).map(|_| Slot::new(frame_len)).collect(),
            count: 0,
            next: 0,
            cut: None,
            segment: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The wire has filled the first `count` slots.
    pub(super) fn filled(&mut self, count: usize) {
        (self.count, self.next) = (count.min(self.slots.len()), 0);
    }

    /// Finishes the next frame; `None` when all that was received is used up.
    pub(super) fn advance(&mut self) -> Option<Ready> {
        loop {
            if let Some(cut) = &mut self.cut {
                // The slot being cut is the one before `next`.
                let slot = &self.slots[self.next - 1];
                if cut.next_into(&slot.bytes[HEADROOM..HEADROOM + slot.len], &mut self.segment) {
                    if let Some(tag) = slot.tag {
                        // The slot's frame was cut as it came, so the tag goes into each segment.
                        self.segment.splice(12..12, tag_bytes(tag));
                    }
                    self.counters.recv_frames += 1;
                    return Some(Ready::Segment);
                }
                self.cut = None;
            }
            if self.next == self.count {
                return None;
            }
            self.next += 1;
            if let Some(ready) = self.finish(self.next - 1) {
                self.counters.recv_frames += 1;
                return Some(ready);
            }
        }
    }

    /// The frame that [`Inbox::advance`] found.
    pub(super) fn frame(&self, ready: Ready) -> &[u8] {
        match ready {
            Ready::Slot(slot, start, len) => &self.slots[slot].bytes[start..start + len],
            Ready::Segment => &self.segment,
        }
    }

    /// Makes a whole frame of a slot; `None` after starting to cut it or dropping it.
    fn finish(&mut self, index: usize) -> Option<Ready> {
        let (slot, counters) = (&mut self.slots[index], &mut self.counters);
        if slot.truncated || slot.len > slot.bytes.len() - HEADROOM {
            counters.drop_oversize += 1;
            return None;
        }
        if slot.len < 14 {
            counters.drop_runt += 1;
            return None;
        }
        let word = |at: usize| usize::from(u16::from_ne_bytes([slot.header[at], slot.header[at + 1]]));
        let (gso_size, csum_start, csum_offset) = (word(4), word(6), word(8));
        let gso_type = slot.header[1] & !vnet::GSO_ECN;
        let tag_len = if slot.tag.is_some() { VLAN_HLEN } else { 0 };
        let frame = &mut slot.bytes[HEADROOM..HEADROOM + slot.len];

        if gso_type != vnet::GSO_NONE {
            let segments = Gso::of_frame(frame, gso_size).ok().filter(|gso| match gso_type {
                vnet::GSO_TCPV4 => !gso.udp && !gso.ipv6,
                vnet::GSO_TCPV6 => !gso.udp && gso.ipv6,
                vnet::GSO_UDP_L4 => gso.udp,
                _ => false,
            });
            match segments {
                Some(gso) if gso.payload_off + gso_size + tag_len > MAX_FRAME => counters.drop_oversize += 1,
                Some(gso) => {
                    counters.recv_gso += 1;
                    counters.recv_tags += u64::from(slot.tag.is_some());
                    self.cut = Segments::new(gso, frame).ok();
                }
                None => counters.drop_gso += 1,
            }
            return None; // `advance` looks at `cut` before the next slot
        }
        if slot.len + tag_len > MAX_FRAME {
            counters.drop_oversize += 1;
            return None;
        }
        if slot.header[0] & vnet::F_NEEDS_CSUM != 0 {
            if checksum::finish_checksum(frame, csum_start, csum_offset).is_err() {
                counters.drop_checksum += 1;
                return None;
            }
            counters.recv_checksums += 1;
        }
        let start = HEADROOM - tag_len;
        if let Some(tag) = slot.tag {
            counters.recv_tags += 1;
            vlan::insert(&mut slot.bytes[start..HEADROOM + slot.len], tag);
        }
        Some(Ready::Slot(index, start, slot.len + tag_len))
    }
}

fn tag_bytes(tag: Tag) -> [u8; 4] {
    let ([a, b], [c, d]) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
    [a, b, c, d]
}
