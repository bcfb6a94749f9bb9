//! 802.1Q tags: inserting and stripping them.

use super::{VLAN_HLEN, be16, ethertype, put16};

/// How many tags [`parse`](super::parse) looks through (802.1ad: service and customer tag).
pub const MAX_TAGS: usize = 2;

/// Where a tag stands: after the two MAC addresses.
const TAG_AT: usize = 12;

/// One VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Tag protocol identifier: 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub tci: u16,
}

impl Tag {
    /// An 802.1Q tag.
    pub const fn new(tci: u16) -> Tag {
        Tag {
            tpid: ethertype::VLAN,
            tci,
        }
    }

    /// The VLAN id.
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority code point.
    pub const fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }
}

/// The outermost tag, when its TPID is `tpid`.
#[inline]
pub fn outer(frame: &[u8], tpid: u16) -> Option<Tag> {
    if be16(frame, TAG_AT)? != tpid {
        return None;
    }
    be16(frame, TAG_AT + 2).map(|tci| Tag { tpid, tci })
}

/// Takes the outermost tag off in place when its TPID is `tpid`: the MAC addresses move up by four bytes and the
/// rest of the frame stays where it is. Gives the tag; the frame is now `frame[4..]`. `None`: nothing changed.
pub fn strip(frame: &mut [u8], tpid: u16) -> Option<Tag> {
    if frame.len() < TAG_AT + VLAN_HLEN + 2 {
        return None;
    }
    let tag = outer(frame, tpid)?;
    frame.copy_within(..TAG_AT, VLAN_HLEN);
    Some(tag)
}

/// Puts a tag in place: `buf` holds four free bytes and then the frame; afterwards all of `buf` is the tagged frame.
/// `false`: no whole Ethernet addresses, nothing changed.
pub fn insert(buf: &mut [u8], tag: Tag) -> bool {
    if buf.len() < TAG_AT + VLAN_HLEN {
        return false;
    }
    buf.copy_within(VLAN_HLEN..VLAN_HLEN + TAG_AT, 0);
    put16(buf, TAG_AT, tag.tpid) && put16(buf, TAG_AT + 2, tag.tci)
}

/// Appends the frame with a tag inserted to `out`; a frame too short for a tag is appended as it is.
pub fn append_tagged(out: &mut Vec<u8>, frame: &[u8], tag: Tag) {
    let (macs, rest) = frame.split_at(frame.len().min(TAG_AT));
    out.extend_from_slice(macs);
    if macs.len() == TAG_AT {
        out.extend_from_slice(&tag.tpid.to_be_bytes());
        out.extend_from_slice(&tag.tci.to_be_bytes());
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tag_inserted_then_stripped_leaves_the_frame_as_it_was(
            frame in proptest::collection::vec(any::<u8>(), 14..200), tci: u16, service: bool,
        ) {
            let tag = Tag { tpid: if service { ethertype::QINQ } else { ethertype::VLAN }, tci };
            let mut buf = vec![0; 4];
            buf.extend_from_slice(&frame);
            prop_assert!(insert(&mut buf, tag));
            let mut appended = Vec::new();
            append_tagged(&mut appended, &frame, tag);
            prop_assert_eq!(&buf, &appended);
            prop_assert_eq!(super::super::parse(&buf).vlans[0], tag);
            prop_assert_eq!(strip(&mut buf, tag.tpid), Some(tag));
            prop_assert_eq!(&buf[4..], &frame[..]);
        }
    }

    #[test]
    fn frames_too_short_for_a_tag_are_left_alone() {
        for len in 0..18 {
            let mut frame = vec![0x81; len];
            assert_eq!(strip(&mut frame, 0x8181), None);
            assert_eq!(frame, vec![0x81; len]);
        }
        assert!(!insert(&mut [0; 15], Tag::new(5)));
    }
}
