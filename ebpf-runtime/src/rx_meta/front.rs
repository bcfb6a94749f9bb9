//! What happens to a frame: the struct is put in front of it before a program runs, and taken away behind it.
//!
//! The struct goes below whatever metadata the frame has, so that it begins at `data_meta`. While the program runs it is
//! metadata as any other: it moves along with `bpf_xdp_adjust_head` and stays where it is when `bpf_xdp_adjust_meta` adds
//! more. A program that leaves the area as long as it got it has put nothing of its own there, and the struct is taken
//! off; what a program did put there stays, with the struct, for those that run after it.

use crate::hint::HintField;
use crate::mem::packet;
use crate::{HintKind, HintLayout, XdpBuff};

use super::RxMeta;

/// Ethertype of a tag whose protocol the device does not tell.
const ETH_P_8021Q: u64 = 0x8100;

/// How one field comes from a raw write-back.
#[derive(Debug)]
struct Step {
    field: HintField,
    /// The tag's protocol, whose own place may be unknown; `field` is then the tag.
    proto: Option<Option<HintField>>,
    at: usize,
    size: usize,
    bit: u32,
}

impl Step {
    fn read(&self, raw: &[u8]) -> Option<u64> {
        let value = self.field.read(raw)?;
        match &self.proto {
            None => Some(value),
            Some(proto) => {
                let proto = proto.as_ref().and_then(|field| field.read(raw));
                Some(u64::from((proto.unwrap_or(ETH_P_8021Q) as u16).to_be()))
            }
        }
    }
}

/// Writes a program's struct in front of frames.
#[derive(Debug)]
pub(crate) struct Front {
    steps: Vec<Step>,
    size: usize,
    /// Where the mask of valid fields lies.
    valid: Option<usize>,
    /// Frames that had no room for it.
    pub no_room: u64,
}

impl Front {
    /// For a program's struct, out of write-backs of this layout; `None` if it has no field.
    pub fn new(meta: &RxMeta, layout: &HintLayout) -> Option<Front> {
        let mut front = Front {
            steps: Vec::new(),
            size: meta.size() as usize,
            valid: None,
            no_room: 0,
        };
        for field in meta.fields() {
            let Some(kind) = field.kind else {
                front.valid = Some(field.offset as usize);
                continue;
            };
            let is_proto = kind == HintKind::VlanProto;
            let from = if is_proto { HintKind::VlanTci } else { kind };
            // A layout that lacks it: it is 0 and not valid in any frame.
            if let Some(from) = layout.field(from) {
                front.steps.push(Step {
                    field: *from,
                    proto: is_proto.then(|| layout.field(kind).copied()),
                    at: field.offset as usize,
                    size: field.size as usize,
                    bit: 1 << kind as u32,
                });
            }
        }
        (front.size > 0).then_some(front)
    }

    /// Puts it in front of a frame; gives the length of the frame's metadata then. Where there is no room, `data_meta` stays
    /// where it is, the program's comparison with `data` fails, and this is `None`.
    #[inline]
    pub fn put(&mut self, buf: &mut XdpBuff<'_>) -> Option<usize> {
        let raw = packet::hints(buf);
        let Some(out) = packet::put_meta(buf, self.size) else {
            self.no_room += 1;
            return None;
        };
        out.fill(0);
        let mut valid = 0u32;
        for step in &self.steps {
            if let Some(value) = step.read(raw) {
                valid |= step.bit;
                store(out, step.at, step.size, value);
            }
        }
        if let Some(at) = self.valid {
            store(out, at, 4, valid.into());
        }
        Some(buf.meta_len())
    }

    /// Takes it off again unless the program has changed how much metadata there is.
    #[inline]
    pub fn take(&self, buf: &mut XdpBuff<'_>, put: Option<usize>) {
        if put.is_some_and(|len| len == buf.meta_len()) {
            packet::take_meta(buf, self.size);
        }
    }
}

fn store(out: &mut [u8], at: usize, size: usize, value: u64) {
    if let Some(to) = out.get_mut(at..at + size) {
        to.copy_from_slice(&value.to_ne_bytes()[..size]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{asked, field, layout};
    use super::*;

    const RAW: [u8; 16] = [1, 0, 0x64, 0x20, 4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1];

    fn front(names: &[&str], layout: &HintLayout) -> Front {
        let meta = RxMeta::new(asked(names), Some(layout));
        Front::new(&meta, layout).expect("some field")
    }

    fn meta_of(frame: &[u8], from: usize) -> Vec<u8> {
        frame[from..256].to_vec()
    }

    #[test]
    fn fields_come_from_the_write_back_and_absent_ones_are_zero_and_not_valid() {
        let mut front = front(&["rx_hash", "valid", "vlan_tci", "vlan_proto"], &layout());
        for (tagged, tail) in [(1, [0x64, 0x20, 0x81, 0]), (0, [0; 4])] {
            let mut raw = RAW;
            raw[0] = tagged;
            let mut frame = [0xee; 512];
            let mut buf = XdpBuff::new(&mut frame, 256, 64, 0, &raw);
            let put = front.put(&mut buf);
            assert_eq!((put, buf.meta_len(), buf.data_offset()), (Some(12), 12, 256));
            front.take(&mut buf, put);
            assert_eq!(buf.meta_len(), 0);
            let valid: u32 = if tagged == 1 { 0b11001 } else { 1 };
            let wanted = [&[4, 3, 2, 1], &valid.to_ne_bytes()[..], &tail].concat();
            assert_eq!(meta_of(&frame, 244), wanted);
            assert_eq!(frame[243], 0xee);
        }
    }

    #[test]
    fn a_write_back_that_is_cut_short_gives_what_it_has() {
        let mut front = front(&["rx_hash", "rx_timestamp", "valid"], &layout());
        let mut frame = [0u8; 512];
        let mut buf = XdpBuff::new(&mut frame, 256, 64, 0, &RAW[..9]);
        front.put(&mut buf).expect("room");
        assert_eq!(meta_of(&frame, 240)[8..], [4, 3, 2, 1, 1, 0, 0, 0]);
        assert_eq!(meta_of(&frame, 240)[..8], [0; 8], "the time stamp is cut off");
    }

    #[test]
    fn metadata_of_a_program_before_stays_behind_the_struct_and_what_is_added_stays_too() {
        let mut front = front(&["rx_hash"], &layout());
        let mut frame = [0u8; 512];
        let mut buf = XdpBuff::new(&mut frame, 256, 64, 0, &RAW);
        packet::put_meta(&mut buf, 8).expect("room").fill(0x77);
        let put = front.put(&mut buf);
        assert_eq!(put, Some(12));
        packet::adjust_head(&mut buf, -8).expect("headroom");
        front.take(&mut buf, put);
        assert_eq!(buf.meta_len(), 8, "moved along with the head, and taken off");
        let put = front.put(&mut buf);
        packet::adjust_meta(&mut buf, -4).expect("room");
        front.take(&mut buf, put);
        assert_eq!(
            buf.meta_len(),
            16,
            "the program added four bytes, so all of it stays"
        );
        assert_eq!(frame[240..248], [0x77; 8]);
        assert_eq!(frame[236..240], [4, 3, 2, 1]);
    }

    #[test]
    fn a_frame_without_headroom_gets_none_and_is_counted() {
        let mut front = front(&["rx_hash"], &layout());
        let mut frame = [9u8; 128];
        for (headroom, fits) in [(0, false), (40, false), (43, false), (44, true)] {
            let mut buf = XdpBuff::new(&mut frame, headroom, 64, 0, &RAW);
            let put = front.put(&mut buf);
            assert_eq!(put.is_some(), fits, "{headroom} bytes of headroom");
            front.take(&mut buf, put);
            assert_eq!(buf.meta_len(), 0);
        }
        assert_eq!(front.no_room, 3);
    }

    #[test]
    fn a_queue_that_lacks_a_field_after_all_leaves_it_zero() {
        let meta = RxMeta::new(asked(&["rx_hash", "rx_timestamp", "valid"]), Some(&layout()));
        let other = HintLayout::named("other").with(field(HintKind::RxHash, 0, 4));
        let mut front = Front::new(&meta, &other).expect("fields");
        let mut frame = [0xee; 512];
        let mut buf = XdpBuff::new(&mut frame, 256, 64, 0, &RAW);
        front.put(&mut buf).expect("room");
        assert_eq!(
            frame[240..256],
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x64, 0x20, 1, 0, 0, 0]
        );
    }
}
