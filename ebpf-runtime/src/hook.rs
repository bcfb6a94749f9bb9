//! Where a program runs: in front of a receive queue with `struct xdp_md`, or where a TX queue is chosen with
//! `struct __sk_buff`. What either may call, and what a steering program sees.

use std::fmt;
use std::str::FromStr;

use crate::insn::{self, Insn};
use crate::mem::packet;
use crate::{LoadError, XdpBuff};

/// The kind of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Hook {
    /// Decides about received frames; its context is `struct xdp_md`.
    #[default]
    Xdp,
    /// Chooses the TX queue of frames to send; its context is `struct __sk_buff`. It may read the frame, not write it.
    /// What it returns is an int: negative for no opinion, else a queue.
    Steering,
}

/// Sections whose programs are steering programs unless the loader is told otherwise; also with `/...` or a number
/// behind them, as in `tc/egress` and `socket1`.
const STEERING: &[&str] = &[
    "xps",
    "socket",
    "socket_filter",
    "tc",
    "tcx",
    "classifier",
    "action",
];

impl Hook {
    /// The hook that a program in this ELF section is meant for. Unknown sections are taken for XDP; a loader can be told
    /// otherwise.
    pub fn of_section(section: &str) -> Hook {
        let base = section.split('/').next().unwrap_or_default();
        let base = base.trim_end_matches(|c: char| c.is_ascii_digit());
        if STEERING.contains(&base) {
            Hook::Steering
        } else {
            Hook::Xdp
        }
    }

    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Xdp => "xdp",
            Hook::Steering => "xps",
        }
    }

    /// Why a program of this kind may not call what the instruction calls.
    pub(crate) fn forbids(self, insn: Insn) -> Option<&'static str> {
        match (self, insn.src, insn.imm) {
            (Hook::Xdp, insn::CALL_HELPER, 26 | 34) => {
                Some("is for steering programs; XDP programs have data pointers and bpf_xdp_load_bytes")
            }
            (Hook::Steering, insn::CALL_HELPER, 23 | 44 | 51 | 54 | 65 | 188..=190) => {
                Some("is for XDP programs; a steering program only reads the frame and returns a queue")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Hook {
    type Err = LoadError;

    /// Takes the names of program types that users of tc and bpftool know, too.
    fn from_str(s: &str) -> Result<Hook, LoadError> {
        match s {
            "xdp" => Ok(Hook::Xdp),
            "xps" | "socket" | "tc" | "classifier" | "action" => Ok(Hook::Steering),
            other => Err(LoadError::Unsupported(format!(
                "unknown program type `{other}`; there are xdp and xps (also written socket, tc, classifier)"
            ))),
        }
    }
}

/// What a steering program is told about a frame besides its bytes, by the fields' names in `struct __sk_buff`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkbInfo {
    /// Length of the whole frame; its first buffer may hold less.
    pub len: u32,
    /// Flow mark, when hardware gave one.
    pub mark: u32,
    /// RX queue plus one, as the kernel records it; 0 for a frame that was not received.
    pub queue_mapping: u32,
    /// EtherType in network byte order.
    pub protocol: u32,
    /// Port the frame came from, 0 for the host.
    pub ingress_ifindex: u32,
    /// Port the frame leaves through.
    pub ifindex: u32,
    /// Flow hash.
    pub hash: u32,
}

/// Bytes of `struct __sk_buff` (linux/bpf.h).
pub(crate) const SKB_SIZE: u64 = 192;

/// Offsets of fields that are pointers in truth.
pub(crate) const SKB_DATA: u64 = 76;
pub(crate) const SKB_DATA_END: u64 = 80;
pub(crate) const SKB_DATA_META: u64 = 140;

/// `struct __sk_buff` in memory, in 64-bit words.
#[derive(Debug, Clone)]
pub(crate) struct SkBuff(pub [u64; SKB_SIZE as usize / 8]);

impl SkBuff {
    pub fn new() -> Box<SkBuff> {
        Box::new(SkBuff([0; SKB_SIZE as usize / 8]))
    }

    /// Describes the next frame; what the last program wrote is gone.
    pub fn fill(&mut self, info: &SkbInfo) {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        self.0 = [0; SKB_SIZE as usize / 8];
        self.0[0] = u64::from(info.len);
        self.0[1] = pair(info.mark, info.queue_mapping);
        self.0[2] = u64::from(info.protocol);
        self.0[4] = pair(0, info.ingress_ifindex);
        self.0[5] = u64::from(info.ifindex);
        self.0[8] = pair(0, info.hash);
        // wire_len
        self.0[20] = u64::from(info.len);
    }

    /// The 32 bits at an offset that is a multiple of 4.
    pub fn word(&self, off: u64) -> u32 {
        let pair = self.0.get(off as usize / 8).copied().unwrap_or(0);
        if off.is_multiple_of(8) {
            pair as u32
        } else {
            (pair >> 32) as u32
        }
    }

    /// A 32-bit load by a program: pointer fields yield real pointers.
    pub fn load(&self, buf: &XdpBuff<'_>, off: u64) -> u64 {
        match off {
            SKB_DATA => buf.data.addr() as u64,
            SKB_DATA_END => buf.data_end.addr() as u64,
            SKB_DATA_META => buf.data_meta.addr() as u64,
            _ => self.word(off).into(),
        }
    }
}

/// Where a steering program may read or write its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkbField {
    Data,
    DataEnd,
    DataMeta,
    /// A number; whether it may be written.
    Number {
        writable: bool,
    },
}

/// The field that an access of `size` bytes at `off` touches; `None` when it is none, or more than one.
pub(crate) fn skb_field(off: i64, size: u32) -> Option<SkbField> {
    let (off, size) = (u64::try_from(off).ok()?, u64::from(size));
    let whole = |at| off == at && size == 4;
    match off {
        SKB_DATA => return whole(SKB_DATA).then_some(SkbField::Data),
        SKB_DATA_END => return whole(SKB_DATA_END).then_some(SkbField::DataEnd),
        SKB_DATA_META => return whole(SKB_DATA_META).then_some(SkbField::DataMeta),
        _ => {}
    }
    if !off.is_multiple_of(size) {
        return None;
    }
    let number = |writable| Some(SkbField::Number { writable });
    match off {
        // cb[5] is bytes; of the others a write takes the whole field.
        48..68 if off + size <= 68 => number(true),
        8..16 | 32..36 | 44..48 | 72..76 if size <= 4 => number(size == 4),
        0..8 | 16..32 | 36..44 | 68..72 | 84..88 | 160..168 | 176..180 if size <= 4 => number(false),
        // tstamp and hwtstamp have 64 bits.
        152..160 | 184..192 => number(false),
        180 if size == 1 => number(false),
        _ => None,
    }
}

/// `bpf_skb_load_bytes(skb, offset, to, len)`: the bytes asked for, or nothing (`-EFAULT`).
pub(crate) fn skb_bytes<'b>(buf: &'b XdpBuff<'_>, offset: u64, len: u64) -> Option<&'b [u8]> {
    let (offset, len) = (u64::from(offset as u32), u64::from(len as u32));
    // The kernel's limit on the offset (net/core/filter.c).
    if offset > i32::MAX as u64 {
        return None;
    }
    packet::bytes(buf).get(offset as usize..(offset + len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_names_of_tc_and_socket_programs_mean_steering_and_unknown_ones_xdp() {
        for section in [
            "xps",
            "xps/a",
            "tc",
            "tc/egress",
            "tcx/ingress",
            "classifier",
            "action",
            "socket",
            "socket1",
        ] {
            assert_eq!(Hook::of_section(section), Hook::Steering, "{section}");
        }
        for section in [
            "xdp",
            "xdp.frags/x",
            "prog",
            "2/1",
            "",
            "tcp",
            "sockops",
            "xdp_tc",
        ] {
            assert_eq!(Hook::of_section(section), Hook::Xdp, "{section}");
        }
    }

    #[test]
    fn fields_lie_where_linux_bpf_h_has_them() {
        let mut skb = SkBuff::new();
        skb.fill(&SkbInfo {
            len: 60,
            mark: 1,
            queue_mapping: 2,
            protocol: 3,
            ingress_ifindex: 4,
            ifindex: 5,
            hash: 6,
        });
        let at = |off| skb.word(off);
        assert_eq!([at(0), at(8), at(12), at(16)], [60, 1, 2, 3]);
        assert_eq!([at(36), at(40), at(68), at(160)], [4, 5, 6, 60]);
        assert_eq!([at(4), at(20), at(48), at(188)], [0; 4]);
    }

    #[test]
    fn an_access_lies_within_one_field() {
        assert_eq!(skb_field(76, 4), Some(SkbField::Data));
        assert_eq!(skb_field(140, 4), Some(SkbField::DataMeta));
        for (off, size) in [
            (76, 8),
            (76, 2),
            (77, 1),
            (78, 2),
            (82, 2),
            (80, 8),
            (64, 8),
            (68, 8),
            (144, 8),
            (88, 4),
            (192, 4),
            (-4, 4),
        ] {
            assert_eq!(skb_field(off, size), None, "{size} bytes at {off}");
        }
        for (off, size) in [(48, 8), (56, 8), (67, 1), (8, 4), (12, 4)] {
            assert_eq!(
                skb_field(off, size),
                Some(SkbField::Number { writable: true }),
                "{off}"
            );
        }
        for (off, size) in [(0, 4), (1, 1), (16, 2), (152, 8), (9, 1), (180, 1)] {
            assert_eq!(
                skb_field(off, size),
                Some(SkbField::Number { writable: false }),
                "{off}"
            );
        }
    }
}
