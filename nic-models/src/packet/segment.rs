//! Cutting one big TCP or UDP packet into frames: TSO and USO of a NIC, GSO of the kernel.
//!
//! ```
//! # use millrace_nic_models::packet::{build::Frame, segment::{Gso, segment}};
//! let big = Frame::new().ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tcp(1000, 80).payload(&[7; 4000]).build();
//! let gso = Gso::of_frame(&big, 1448)?;
//! let mut buf = Vec::new(); // reused: nothing is allocated per segment
//! let mut lens = Vec::new();
//! segment(&big, &gso, &mut buf, |frame| lens.push(frame.len()))?;
//! assert_eq!(lens, [1502, 1502, 1158]);
//! # Ok::<(), millrace_nic_models::packet::segment::SegmentError>(())
//! ```

use super::checksum::{self, fold};
use super::{L3, L4, be16, parse, put16};
use thiserror::Error;

/// TCP flag bits as they stand in the 16-bit word at offset 12 of the header.
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u16 = 0x001;
    /// Synchronise.
    pub const SYN: u16 = 0x002;
    /// Reset.
    pub const RST: u16 = 0x004;
    /// Push.
    pub const PSH: u16 = 0x008;
    /// Acknowledgement.
    pub const ACK: u16 = 0x010;
    /// ECN echo.
    pub const ECE: u16 = 0x040;
    /// Congestion window reduced.
    pub const CWR: u16 = 0x080;
}

/// Which TCP flags each segment keeps, as a 12-bit mask. The 82599 has these in registers (DTXTCPFLGL, DTXTCPFLGH);
/// the kernel's GSO does the same with fixed values, which are the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlagMasks {
    /// For the first of several segments.
    pub first: u16,
    /// For those between.
    pub middle: u16,
    /// For the last of several segments.
    pub last: u16,
}

impl Default for TcpFlagMasks {
    fn default() -> TcpFlagMasks {
        use tcp_flags::{CWR, FIN, PSH};
        TcpFlagMasks {
            first: 0xfff & !(FIN | PSH),
            middle: 0xfff & !(FIN | PSH | CWR),
            last: 0xfff & !CWR,
        }
    }
}

/// What to do about the L4 checksum of each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum L4Checksum {
    /// Compute it from the packet's addresses.
    #[default]
    Compute,
    /// The field of the big packet holds the pseudo header's sum without the length, not inverted, as NICs want it for
    /// TSO; a sender that got it wrong sends wrong checksums.
    SeedWithoutLength,
}

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Segment size 0.
    #[error("segment size is zero; the sender must give the payload bytes per segment")]
    ZeroMss,
    /// Neither TCP nor UDP over IP.
    #[error("not a TCP or UDP packet over IPv4 or IPv6, cannot be cut into segments")]
    Protocol,
    /// Header lengths beyond the packet, or too small for the protocol.
    #[error("headers of {headers} bytes (L3 at {l3}, L4 at {l4}) do not fit a packet of {len} bytes")]
    Headers {
        /// Where the IP header starts.
        l3: usize,
        /// Where the TCP or UDP header starts.
        l4: usize,
        /// Where the payload starts.
        headers: usize,
        /// Length of the packet.
        len: usize,
    },
    /// One segment's IP packet would pass 65,535 bytes.
    #[error("segments of {mss} payload bytes do not fit an IP packet")]
    TooBig {
        /// The segment size asked for.
        mss: usize,
    },
}

/// How to cut: header offsets and segment size. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Where the IP header starts.
    pub l3_off: usize,
    /// Where the TCP or UDP header starts.
    pub l4_off: usize,
    /// Where the payload starts.
    pub payload_off: usize,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// UDP rather than TCP.
    pub udp: bool,
    /// Payload bytes per segment, the last one takes the rest.
    pub mss: usize,
    /// TCP flags of the segments.
    pub flags: TcpFlagMasks,
    /// L4 checksums of the segments.
    pub l4_checksum: L4Checksum,
}

impl Gso {
    /// Reads the header lengths from the frame itself, as the kernel's GSO does.
    pub fn of_frame(frame: &[u8], mss: usize) -> Result<Gso, SegmentError> {
        let p = parse(frame);
        let ipv6 = match p.l3 {
            L3::Ipv4 => false,
            L3::Ipv6 => true,
            _ => return Err(SegmentError::Protocol),
        };
        let udp = match p.l4 {
            L4::Tcp => false,
            L4::Udp => true,
            _ => return Err(SegmentError::Protocol),
        };
        let gso = Gso {
            l3_off: p.l2_len,
            l4_off: p.l4_off,
            payload_off: p.l4_off + p.l4_len,
            ipv6,
            udp,
            mss,
            flags: TcpFlagMasks::default(),
            l4_checksum: L4Checksum::Compute,
        };
        gso.check(frame)?;
        Ok(gso)
    }

    /// Headers lie inside the frame in the right order, and each segment is a legal IP packet.
    fn check(&self, frame: &[u8]) -> Result<(), SegmentError> {
        let error = SegmentError::Headers {
            l3: self.l3_off,
            l4: self.l4_off,
            headers: self.payload_off,
            len: frame.len(),
        };
        if self.mss == 0 {
            return Err(SegmentError::ZeroMss);
        }
        let l3_min = if self.ipv6 { 40 } else { 20 };
        let l4_min = if self.udp { 8 } else { 20 };
        let fits = |from: usize, min: usize, to: usize| from.checked_add(min).is_some_and(|end| end <= to);
        if !fits(self.l3_off, l3_min, self.l4_off)
            || !fits(self.l4_off, l4_min, self.payload_off)
            || self.payload_off > frame.len()
        {
            return Err(error);
        }
        let biggest = self.mss.min(frame.len() - self.payload_off);
        if self.payload_off - self.l3_off + biggest > 0xffff {
            return Err(SegmentError::TooBig { mss: self.mss });
        }
        Ok(())
    }
}

/// A cut in progress: gives one segment at a time into a buffer of the caller's, holding no borrow in between.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    gso: Gso,
    /// Length of the frame it was made for.
    len: usize,
    /// Where the next segment's payload starts.
    next: usize,
    /// Number of the next segment.
    index: usize,
    ip_id: u16,
    tcp_seq: u32,
    tcp_word: u16,
    /// Pseudo header's sum without the length.
    seed: u32,
}

impl Segments {
    /// Checks header lengths against the frame and gets ready to cut it.
    pub fn new(gso: Gso, frame: &[u8]) -> Result<Segments, SegmentError> {
        gso.check(frame)?;
        let word = |off: usize| be16(frame, off).unwrap_or(0);
        let (l3, l4) = (gso.l3_off, gso.l4_off);
        let seed = match gso.l4_checksum {
            L4Checksum::SeedWithoutLength => u32::from(word(l4 + if gso.udp { 6 } else { 16 })),
            L4Checksum::Compute => {
                let addresses = if gso.ipv6 {
                    l3 + 8..l3 + 40
                } else {
                    l3 + 12..l3 + 20
                };
                let proto = if gso.udp {
                    super::ipproto::UDP
                } else {
                    super::ipproto::TCP
                };
                checksum::sum(&frame[addresses]) + u32::from(proto)
            }
        };
        Ok(Segments {
            gso,
            len: frame.len(),
            next: gso.payload_off,
            index: 0,
            ip_id: word(l3 + 4),
            tcp_seq: u32::from(word(l4 + 4)) << 16 | u32::from(word(l4 + 6)),
            tcp_word: word(l4 + 12),
            seed,
        })
    }

    /// How many segments the frame makes in all; at least one.
    pub fn count(&self) -> usize {
        (self.len - self.gso.payload_off).div_ceil(self.gso.mss).max(1)
    }

    /// Writes the next segment of `frame` (the one given to [`Segments::new`]) into `out`, replacing what is there.
    /// `false` when there is none left. Allocates only where `out` is too small.
    pub fn next_into(&mut self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        let Gso {
            l3_off,
            l4_off,
            payload_off,
            ipv6,
            udp,
            mss,
            flags,
            ..
        } = self.gso;
        if self.index == self.count() || frame.len() != self.len {
            return false;
        }
        let end = (self.next + mss).min(self.len);
        out.clear();
        out.extend_from_slice(&frame[..payload_off]);
        out.extend_from_slice(&frame[self.next..end]);

        let packet_len = out.len() - l3_off;
        let l4_len = out.len() - l4_off;
        if ipv6 {
            put16(out, l3_off + 4, (packet_len - 40) as u16);
        } else {
            put16(out, l3_off + 2, packet_len as u16);
            put16(out, l3_off + 4, self.ip_id.wrapping_add(self.index as u16));
            put16(out, l3_off + 10, 0);
            let value = checksum::checksum(&out[l3_off..l4_off]);
            put16(out, l3_off + 10, value);
        }
        let field = if udp {
            put16(out, l4_off + 4, l4_len as u16);
            l4_off + 6
        } else {
            let seq = self.tcp_seq.wrapping_add((self.next - payload_off) as u32);
            out[l4_off + 4..l4_off + 8].copy_from_slice(&seq.to_be_bytes());
            let keep = match (self.index == 0, end == self.len) {
                (true, true) => 0xfff,
                (true, false) => flags.first,
                (false, false) => flags.middle,
                (false, true) => flags.last,
            };
            put16(out, l4_off + 12, self.tcp_word & (keep | 0xf000));
            l4_off + 16
        };
        put16(out, field, 0);
        let total = u32::from(fold(self.seed)) + l4_len as u32 + checksum::sum(&out[l4_off..]);
        let value = match checksum::finish(total) {
            0 if udp => 0xffff,
            value => value,
        };
        put16(out, field, value);

        self.next = end;
        self.index += 1;
        true
    }
}

/// Cuts `frame` and hands each segment to `each`; gives their number. `buf` is scratch space to be reused.
pub fn segment(
    frame: &[u8],
    gso: &Gso,
    buf: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> Result<usize, SegmentError> {
    let mut segments = Segments::new(*gso, frame)?;
    while segments.next_into(frame, buf) {
        each(buf);
    }
    Ok(segments.count())
}
