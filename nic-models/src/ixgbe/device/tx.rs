//! The transmit path (datasheet 7.2): gathering frames from descriptors, checksums, VLAN tags, segmentation, write-back.

use super::core::Core;
use super::queue::{First, HEADROOM, TxQueue};
use super::stats::Sum;
use crate::dma::{DmaSpace, Fault};
use crate::ixgbe::desc::tx::{self as desc, Context, Data, Legacy, cmd, dtyp, popts, tucmd};
use crate::ixgbe::regs::{Id, dmatxctl};
use crate::packet::segment::{Gso, L4Checksum, Segments, TcpFlagMasks};
use crate::packet::vlan::{self, Tag};
use crate::packet::{self, L4, checksum};
use crate::ring_order;
use crate::wire::{Outgoing, SendOutcome, Wire};

/// Shortest frame without its FCS; the MAC pads to it.
const MIN_FRAME: usize = 60;
/// Descriptors of one queue in a round.
const DESCRIPTORS: u32 = 256;
/// Descriptors fetched at a time.
const BLOCK: usize = 32;

/// A descriptor or frame that silicon would not send: the queue stops (as malicious driver detection does).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("descriptor type {0:#x} is neither context nor data")]
    Type(u8),
    #[error("frame of more than 256 KiB")]
    Gather,
    #[error("frame of {0} bytes")]
    Short(usize),
    #[error("segmentation: {0}")]
    Segment(#[from] packet::segment::SegmentError),
    #[error("payload of {have} bytes where the descriptor says {said}")]
    PayloadLength { have: usize, said: usize },
    #[error("checksum field outside of the frame")]
    Checksum,
    #[error("segmentation of something else than TCP or UDP")]
    SegmentType,
}

impl Core {
    /// Serves every enabled transmit queue for a round.
    pub fn transmit(&mut self, wire: &mut dyn Wire) -> bool {
        if self.file.one(Id::DMATXCTL) & dmatxctl::TE == 0 {
            return false;
        }
        let mut busy = false;
        let mut active = self.tx_active;
        while active != 0 {
            let q = active.trailing_zeros();
            active &= active - 1;
            busy |= self.transmit_queue(wire, q);
        }
        busy
    }

    /// Takes the queue out while it is worked on, so that a frame in its buffer can be looped back.
    fn transmit_queue(&mut self, wire: &mut dyn Wire, q: u32) -> bool {
        let Some(slot) = self.tx.get_mut(q as usize) else {
            return false;
        };
        if slot.halted || slot.ring.available() == 0 {
            return false;
        }
        let mut queue = std::mem::take(slot);
        let told = self.run_queue(wire, &mut queue);
        self.tx[q as usize] = queue;
        match told {
            Ok(true) => self.irq.tx_cause(q as u16),
            Ok(false) => {}
            Err(Stop::Fault(fault)) => self.tx_fault(q, fault),
            Err(Stop::Malformed(error)) => {
                tracing::debug!(queue = q, %error, "malformed transmit descriptor stops the queue");
                self.counters.tx_malformed += 1;
                let queue = &mut self.tx[q as usize];
                queue.halted = true;
                queue.drop_frame();
            }
        }
        true
    }

    /// Whether something was written back that software asked to be told of. Descriptors are fetched in blocks, as the
    /// hardware does (7.2.3.4); each is written back before the next is worked on.
    fn run_queue(&mut self, wire: &mut dyn Wire, queue: &mut TxQueue) -> Result<bool, Stop> {
        let mut round = Round::default();
        let mut todo = queue.ring.available().min(DESCRIPTORS) as usize;
        let mut block = [[0; 2]; BLOCK];
        while todo > 0 {
            let fetched = fetch(&self.dma, queue, &mut block[..todo.min(BLOCK)])?;
            todo -= fetched;
            let mut block = &block[..fetched];
            // All frames of the block are on their way before the first is looked at.
            let window = self.dma.window();
            block.iter().for_each(|descriptor| window.prefetch(descriptor[0]));
            while !block.is_empty() {
                let sent = match wire.outgoing() {
                    Some(mut out) => self.send_direct(&mut out, queue, block, &mut round)?,
                    None => self.send_direct(wire, queue, block, &mut round)?,
                };
                block = &block[sent..];
                if round.frames < super::BUDGET
                    && let [descriptor, more @ ..] = block
                {
                    block = more;
                    let ends = self.take_descriptor(wire, queue, *descriptor)?;
                    round.complete(&self.dma, queue, *descriptor)?;
                    round.frames += usize::from(ends);
                }
                if round.frames >= super::BUDGET {
                    return Ok(round.reported);
                }
            }
        }
        Ok(round.reported)
    }

    /// Frames in one buffer each that are neither segmented nor tagged go from memory straight into the wire's batch, their
    /// checksums filled in there. Gives the number of descriptors that were done: up to the first of another kind, the end of
    /// the wire's room or that of the round.
    #[inline]
    fn send_direct<R: Room + ?Sized>(
        &mut self,
        out: &mut R,
        queue: &mut TxQueue,
        block: &[[u64; 2]],
        round: &mut Round,
    ) -> Result<usize, Stop> {
        if queue.first.is_some() || !self.link || self.loops_back() {
            return Ok(0);
        }
        let mut sent = Sum::default();
        let done = self.send_each(out, queue, block, round, &mut sent);
        if sent.frames != 0 {
            self.counters.tx_frames += u64::from(sent.frames);
            self.tally.tx_sent_by(sent, queue.counter);
        }
        done
    }

    #[inline(always)]
    fn send_each<R: Room + ?Sized>(
        &mut self,
        out: &mut R,
        queue: &mut TxQueue,
        block: &[[u64; 2]],
        round: &mut Round,
        sent: &mut Sum,
    ) -> Result<usize, Stop> {
        let window = self.dma.window();
        for (done, &descriptor) in block.iter().enumerate() {
            let [addr, what] = descriptor;
            let len = usize::from(what as u16);
            if !is_direct(what) || len < 14 || round.frames >= super::BUDGET {
                return Ok(done);
            }
            let size = len.max(MIN_FRAME);
            let Some(room) = out.room(size) else {
                return Ok(done);
            };
            let (frame, padding) = room.split_at_mut(len);
            if !window.read(addr, frame) {
                self.dma.read(addr, frame)?;
            }
            if !padding.is_empty() {
                padding.fill(0);
            }
            if what & OFFLOADS != 0 {
                let data = Data::decode(descriptor);
                checksums(frame, &data, &queue.contexts[usize::from(data.idx & 1)])?;
                self.counters.tx_checksummed += 1;
            }
            self.tally.tx_sent_one(room);
            sent.add(size);
            out.commit(size);
            round.complete(&self.dma, queue, descriptor)?;
            round.frames += 1;
        }
        Ok(block.len())
    }

    /// One descriptor: a context is remembered, data is gathered, the last of a frame sends it. True for that one.
    fn take_descriptor(
        &mut self,
        wire: &mut dyn Wire,
        queue: &mut TxQueue,
        descriptor: [u64; 2],
    ) -> Result<bool, Stop> {
        let (first, addr, len, command) = if desc::is_advanced(descriptor) {
            match desc::dtyp(descriptor) {
                dtyp::CONTEXT => {
                    let context = Context::decode(descriptor);
                    queue.contexts[usize::from(context.idx & 1)] = context;
                    return Ok(false);
                }
                dtyp::DATA => {
                    let data = Data::decode(descriptor);
                    (First::Advanced(data), data.addr, data.len, data.cmd)
                }
                other => return Err(Malformed::Type(other).into()),
            }
        } else {
            let legacy = Legacy::decode(descriptor);
            (First::Legacy(legacy), legacy.addr, legacy.len, legacy.cmd)
        };
        queue.first.get_or_insert(first);
        let room = queue.extend(usize::from(len)).ok_or(Malformed::Gather)?;
        self.dma.read(addr, room)?;
        if command & cmd::EOP == 0 {
            return Ok(false);
        }
        let sent = self.send_gathered(wire, queue, command);
        queue.drop_frame();
        sent?;
        Ok(true)
    }

    /// The frame is complete: offloads, then out.
    fn send_gathered(
        &mut self,
        wire: &mut dyn Wire,
        queue: &mut TxQueue,
        last_command: u8,
    ) -> Result<(), Malformed> {
        let Some(first) = queue.first else { return Ok(()) };
        let end = queue.filled;
        let len = end.saturating_sub(HEADROOM);
        if len < 14 {
            return Err(Malformed::Short(len));
        }
        let counter = queue.counter;
        let tpid = (self.file.one(Id::DMATXCTL) >> dmatxctl::VT_SHIFT) as u16;
        match first {
            First::Legacy(legacy) => {
                let frame = &mut queue.buf[HEADROOM..end];
                if last_command & cmd::IC != 0 {
                    let (start, offset) = (usize::from(legacy.css), usize::from(legacy.cso));
                    legacy_checksum(frame, start, offset).ok_or(Malformed::Checksum)?;
                    self.counters.tx_checksummed += 1;
                }
                let tag = (last_command & cmd::VLE != 0).then_some(Tag {
                    tpid,
                    tci: legacy.vlan,
                });
                self.counters.tx_tagged += u64::from(tag.is_some());
                self.send_buffer(wire, &mut queue.buf[..end], tag, counter);
            }
            First::Advanced(data) => {
                let context = queue.contexts[usize::from(data.idx & 1)];
                let tag = (data.cmd & cmd::VLE != 0).then_some(Tag {
                    tpid,
                    tci: context.vlan,
                });
                self.counters.tx_tagged += u64::from(tag.is_some());
                if data.cmd & cmd::TSE != 0 {
                    self.counters.tx_segmented += 1;
                    return self.send_segments(
                        wire,
                        &queue.buf[HEADROOM..end],
                        &data,
                        &context,
                        tag,
                        counter,
                    );
                }
                checksums(&mut queue.buf[HEADROOM..end], &data, &context)?;
                self.counters.tx_checksummed += u64::from(data.popts & (popts::IXSM | popts::TXSM) != 0);
                self.send_buffer(wire, &mut queue.buf[..end], tag, counter);
            }
        }
        Ok(())
    }

    /// Sends the frame after the headroom of `buf`, with a tag if there is one.
    fn send_buffer(&mut self, wire: &mut dyn Wire, buf: &mut [u8], tag: Option<Tag>, counter: u32) {
        match tag {
            Some(tag) if vlan::insert(buf, tag) => self.send(wire, buf, counter),
            _ => self.send(wire, &buf[HEADROOM..], counter),
        }
    }

    /// Segmentation (7.2.4).
    fn send_segments(
        &mut self,
        wire: &mut dyn Wire,
        frame: &[u8],
        data: &Data,
        context: &Context,
        tag: Option<Tag>,
        counter: u32,
    ) -> Result<(), Malformed> {
        let udp = match context.tucmd & tucmd::L4T {
            tucmd::L4T_UDP => true,
            tucmd::L4T_TCP => false,
            _ => return Err(Malformed::SegmentType),
        };
        let low = self.file.one(Id::DTXTCPFLGL);
        let l3_off = usize::from(context.mac_len);
        let l4_off = l3_off + usize::from(context.ip_len);
        let gso = Gso {
            l3_off,
            l4_off,
            payload_off: l4_off + usize::from(context.l4_len),
            ipv6: context.tucmd & tucmd::IPV4 == 0,
            udp,
            mss: usize::from(context.mss),
            flags: TcpFlagMasks {
                first: (low & 0xfff) as u16,
                middle: (low >> 16 & 0xfff) as u16,
                last: (self.file.one(Id::DTXTCPFLGH) & 0xfff) as u16,
            },
            l4_checksum: L4Checksum::SeedWithoutLength,
        };
        let mut segments = Segments::new(gso, frame)?;
        let (have, said) = (frame.len() - gso.payload_off, data.paylen as usize);
        if have != said {
            return Err(Malformed::PayloadLength { have, said });
        }
        let mut segment = std::mem::take(&mut self.scratch);
        let mut tagged = std::mem::take(&mut self.tagged);
        while segments.next_into(frame, &mut segment) {
            match tag {
                Some(tag) => {
                    tagged.clear();
                    vlan::append_tagged(&mut tagged, &segment, tag);
                    self.send(wire, &tagged, counter);
                }
                None => self.send(wire, &segment, counter),
            }
        }
        self.scratch = segment;
        self.tagged = tagged;
        Ok(())
    }

    /// A finished frame leaves the MAC, padded to the minimum, for the wire or back to the receiver.
    fn send(&mut self, wire: &mut dyn Wire, frame: &[u8], counter: u32) {
        let mut padded = [0; MIN_FRAME];
        let frame = if frame.len() < MIN_FRAME {
            padded[..frame.len()].copy_from_slice(frame);
            &padded[..]
        } else {
            frame
        };
        if self.loops_back() {
            self.tally.tx_sent(frame, counter);
            self.counters.tx_frames += 1;
            self.receive(frame, true);
            return;
        }
        if !self.link {
            self.counters.tx_no_link += 1;
            return;
        }
        self.tally.tx_sent(frame, counter);
        self.counters.tx_frames += 1;
        match wire.send(frame) {
            Ok(SendOutcome::Sent) => {}
            Ok(SendOutcome::Dropped) => self.counters.tx_refused += 1,
            Err(error) => {
                tracing::warn!(%error, "the wire does not take frames any more");
                self.counters.tx_refused += 1;
            }
        }
    }
}

/// How far a queue has got in a round.
#[derive(Debug, Default)]
struct Round {
    /// Frames that are out.
    frames: usize,
    /// Something was written back.
    reported: bool,
}

impl Round {
    /// The descriptor at the queue's head is done: the head moves on, and software is told if it asked for it.
    #[inline(always)]
    fn complete(&mut self, dma: &DmaSpace, queue: &mut TxQueue, descriptor: [u64; 2]) -> Result<(), Fault> {
        let done = queue.ring.index(0);
        queue.ring.advance(1);
        if descriptor[1] & u64::from(cmd::RS) << 24 == 0 {
            return Ok(());
        }
        self.reported = true;
        match queue.write_back {
            Some(address) => dma.store_u32(address, queue.ring.head),
            None => write_back(dma, queue, done, descriptor),
        }
    }
}

/// Where frames get room before they go out: see [`Wire::room`] and [`Wire::commit`].
trait Room {
    fn room(&mut self, len: usize) -> Option<&mut [u8]>;
    fn commit(&mut self, len: usize);
}

impl Room for dyn Wire + '_ {
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        Wire::room(self, len)
    }

    fn commit(&mut self, len: usize) {
        Wire::commit(self, len);
    }
}

impl Room for Outgoing<'_> {
    #[inline(always)]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        Outgoing::room(self, len)
    }

    #[inline(always)]
    fn commit(&mut self, len: usize) {
        Outgoing::commit(self, len);
    }
}

/// Checksums to insert, in an advanced data descriptor's second quadword.
const OFFLOADS: u64 = ((popts::IXSM | popts::TXSM) as u64) << 40;

/// Whether a descriptor, by its second quadword, is the only one of a frame that is neither segmented nor tagged.
#[inline(always)]
fn is_direct(what: u64) -> bool {
    const fn bits(command: u8, kind: u8) -> u64 {
        (command as u64) << 24 | (kind as u64) << 20
    }
    let mask = bits(cmd::DEXT | cmd::EOP | cmd::VLE | cmd::TSE, 0xf);
    what & mask == bits(cmd::DEXT | cmd::EOP, dtyp::DATA)
}

/// Reads descriptors from the queue's head on into `block`, as many as lie there in one piece: at least one.
fn fetch(dma: &DmaSpace, queue: &mut TxQueue, block: &mut [[u64; 2]]) -> Result<usize, Fault> {
    let (head, at) = (queue.ring.index(0) as usize, queue.ring.address(0));
    let ring = dma.ring(&mut queue.place, queue.ring.base, queue.ring.count);
    match ring.and_then(|ring| ring.get(head..)) {
        Some(ring) if !ring.is_empty() => {
            let fetched = block.len().min(ring.len());
            for (to, from) in block[..fetched].iter_mut().zip(&ring[..fetched]) {
                *to = ring_order::fetch(from);
            }
            Ok(fetched)
        }
        _ => {
            // Not in one piece, or not there at all: descriptor by descriptor.
            if let Some(first) = block.first_mut() {
                *first = dma.read_desc16(at)?;
            }
            Ok(1)
        }
    }
}

/// Sets DD in descriptor `index` of the queue's ring.
fn write_back(dma: &DmaSpace, queue: &mut TxQueue, index: u32, descriptor: [u64; 2]) -> Result<(), Fault> {
    let done = [descriptor[0], descriptor[1] | desc::DD];
    let ring = dma.ring(&mut queue.place, queue.ring.base, queue.ring.count);
    match ring.and_then(|ring| ring.get(index as usize)) {
        Some(slot) => {
            ring_order::publish(slot, done);
            Ok(())
        }
        None => {
            let at = u64::from(index) * crate::ixgbe::desc::SIZE as u64;
            dma.write_desc16(queue.ring.base.wrapping_add(at), done)
        }
    }
}

/// Why a queue stops.
enum Stop {
    Fault(Fault),
    Malformed(Malformed),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Stop::Malformed(malformed)
    }
}

/// Checksum insertion of a frame that is not segmented (7.2.5). The L4 field holds the pseudo header's sum.
fn checksums(frame: &mut [u8], data: &Data, context: &Context) -> Result<(), Malformed> {
    if data.popts & (popts::IXSM | popts::TXSM) == 0 {
        return Ok(());
    }
    let l3 = usize::from(context.mac_len);
    let l4 = l3 + usize::from(context.ip_len);
    if data.popts & popts::IXSM != 0 && context.tucmd & tucmd::IPV4 != 0 {
        let header = frame
            .get_mut(l3..l4)
            .filter(|header| header.len() >= 20)
            .ok_or(Malformed::Checksum)?;
        header[10..12].fill(0);
        let value = checksum::checksum(header);
        header[10..12].copy_from_slice(&value.to_be_bytes());
    }
    if data.popts & popts::TXSM != 0 {
        let offset = match context.tucmd & tucmd::L4T {
            tucmd::L4T_TCP => 16,
            tucmd::L4T_UDP => 6,
            _ => return sctp_checksum(frame),
        };
        checksum::finish_checksum(frame, l4, offset).map_err(|_| Malformed::Checksum)?;
    }
    Ok(())
}

/// SCTP's CRC needs no seed, so the packet's own headers say where it goes.
fn sctp_checksum(frame: &mut [u8]) -> Result<(), Malformed> {
    let p = packet::parse(frame);
    if p.l4 == L4::Sctp && checksum::fill_l4(frame, &p) {
        Ok(())
    } else {
        Err(Malformed::Checksum)
    }
}

/// Legacy insertion (7.2.3.2.2): the sum from `start` to the end goes to `offset`, both from the frame's start.
fn legacy_checksum(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let value = checksum::checksum(frame.get(start..)?);
    frame
        .get_mut(offset..offset + 2)?
        .copy_from_slice(&value.to_be_bytes());
    Some(())
}
