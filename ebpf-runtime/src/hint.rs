//! Where a queue's receive hints lie in the descriptor write-back that travels beside each frame.
//!
//! The driver of a NIC family describes its write-back once per queue; the runtime's metadata kfuncs read exactly
//! what the description says, so a hint nobody asks for costs nothing.

/// A metadata field that a program can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HintKind {
    /// RSS hash (32 bit).
    RxHash = 0,
    /// What the hash covers, as `enum xdp_rss_hash_type` of the kernel once translated by [`HintField::table`].
    RxHashType,
    /// Receive time stamp, nanoseconds.
    RxTimestamp,
    /// TCI of the VLAN tag that the NIC stripped or saw.
    VlanTci,
    /// Ethertype of that tag (0x8100 or 0x88a8), in host order.
    VlanProto,
    /// Packet type as the family numbers them.
    PacketType,
    /// Mark set by a flow rule.
    Mark,
    /// What the NIC found of the checksums it looked at: [`CSUM_IP_GOOD`], [`CSUM_IP_BAD`], [`CSUM_L4_GOOD`], [`CSUM_L4_BAD`].
    /// Where neither of a pair is set, it did not look.
    CsumStatus,
    /// Length of the frame's header as the NIC parsed it.
    HeaderLen,
    /// A word that the NIC extracted from the packet.
    Extracted,
}

/// Bit of [`HintKind::CsumStatus`]: the IPv4 header's checksum is right.
pub const CSUM_IP_GOOD: u32 = 1 << 0;
/// Bit of [`HintKind::CsumStatus`]: the IPv4 header's checksum is wrong.
pub const CSUM_IP_BAD: u32 = 1 << 1;
/// Bit of [`HintKind::CsumStatus`]: the TCP, UDP or SCTP checksum is right.
pub const CSUM_L4_GOOD: u32 = 1 << 2;
/// Bit of [`HintKind::CsumStatus`]: the TCP, UDP or SCTP checksum is wrong.
pub const CSUM_L4_BAD: u32 = 1 << 3;

/// Tests of a field that is made of flags.
pub const HINT_FLAGS: usize = 4;
/// A field that is not.
pub const NO_FLAGS: [Option<Test>; HINT_FLAGS] = [None; HINT_FLAGS];

/// Number of [`HintKind`]s.
pub const HINT_KINDS: usize = 10;

/// Bits of the write-back: `(load(offset, width) >> shift) & mask`, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loc {
    /// Byte offset in the write-back.
    pub offset: u8,
    /// Bytes to load: 1, 2, 4 or 8.
    pub width: u8,
    /// Right shift after the load.
    pub shift: u8,
    /// Mask after the shift.
    pub mask: u64,
}

/// The field is there only if `load(offset, width) & mask == value`, or only if not, when `negate` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Byte offset in the write-back.
    pub offset: u8,
    /// Bytes to load: 1, 2, 4 or 8.
    pub width: u8,
    /// Bits looked at.
    pub mask: u64,
    /// What they must be, or must not be.
    pub value: u64,
    /// The field is there when the comparison fails, as with a hash that is valid unless its type is 0.
    pub negate: bool,
}

impl Test {
    /// Whether a write-back passes; `None` if it ends before the bytes looked at.
    fn holds(&self, raw: &[u8]) -> Option<bool> {
        let bits = load(raw, self.offset, self.width)?;
        Some((bits & self.mask == self.value) != self.negate)
    }
}

/// Who fills a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HintSource {
    /// The NIC does, in its write-back.
    Hardware,
    /// Software computed it into a further column of the write-back.
    Software,
    /// Nobody: programs are told `-ENODATA` or `-EOPNOTSUPP`.
    #[default]
    Absent,
}

/// One field of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintField {
    /// Which.
    pub kind: HintKind,
    /// Where; `None` when absent or made of flags.
    pub loc: Option<Loc>,
    /// Instead of a place: bit n of the value is set in frames that pass test n.
    pub flags: [Option<Test>; HINT_FLAGS],
    /// When; `None` means always.
    pub valid: Option<Test>,
    /// Translates the raw bits (as an index) into the value programs see; an index past its end means "unknown" (0).
    pub table: Option<&'static [u32]>,
    /// Who fills it.
    pub source: HintSource,
}

/// All fields of a queue's write-back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintLayout {
    family: &'static str,
    fields: [Option<HintField>; HINT_KINDS],
    /// The same fields, made ready for write-backs of 16 bytes and more, as far as they lie in the first 16.
    ready: [Option<Ready>; HINT_KINDS],
}

impl HintLayout {
    /// A layout that has nothing.
    pub fn none() -> HintLayout {
        HintLayout::default()
    }

    /// A layout that has nothing yet, with the name that messages call such queues by: family and descriptor format.
    pub fn named(family: &'static str) -> HintLayout {
        HintLayout {
            family,
            ..HintLayout::default()
        }
    }

    /// What such queues are called; empty where nobody said.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Adds or replaces a field.
    pub fn with(mut self, field: HintField) -> HintLayout {
        self.fields[field.kind as usize] = Some(field);
        self.ready[field.kind as usize] = self.field(field.kind).and_then(Ready::of);
        self
    }

    /// The field of a kind, if the layout has one.
    #[inline]
    pub fn field(&self, kind: HintKind) -> Option<&HintField> {
        self.fields[kind as usize]
            .as_ref()
            .filter(|f| f.source != HintSource::Absent && (f.loc.is_some() || f.flags != NO_FLAGS))
    }

    /// [`HintLayout::read`] where that is a matter of a few instructions; `None` where it is not.
    #[inline(always)]
    pub(crate) fn read_ready(&self, kind: HintKind, raw: &[u8; 16]) -> Option<Option<u64>> {
        match (&self.ready[kind as usize], &self.fields[kind as usize]) {
            (Some(ready), _) => Some(ready.read(raw)),
            (None, None) => Some(None),
            (None, Some(_)) => None,
        }
    }

    /// Reads a field out of a raw write-back: `None` when absent, not valid in this one, or past its end.
    #[inline]
    pub fn read(&self, kind: HintKind, raw: &[u8]) -> Option<u64> {
        match (&self.ready[kind as usize], raw.first_chunk()) {
            (Some(ready), Some(raw)) => ready.read(raw),
            _ => self.field(kind)?.read(raw),
        }
    }
}

/// A field that lies in one of the first two 64-bit words of a write-back, as does what its validity hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ready {
    /// Where the word begins, how far to shift it, what then counts.
    at: (u8, u8, u64),
    /// Where the word begins, which bits of it, and what they must be; or must not be.
    valid: (u8, u64, u64),
    negate: bool,
    table: Option<&'static [u32]>,
}

impl Ready {
    fn of(field: &HintField) -> Option<Ready> {
        /// Where the word begins, the bit in it at which `width` bytes begin, and all bits of so many bytes.
        fn place(offset: u8, width: u8) -> Option<(u8, u8, u64)> {
            let within = offset % 8;
            let fits = offset < 16 && matches!(width, 1 | 2 | 4 | 8) && within + width <= 8;
            fits.then(|| (offset & 8, 8 * within, u64::MAX >> (64 - 8 * u32::from(width))))
        }
        let loc = field.loc?;
        let (word, first, all) = place(loc.offset, loc.width).filter(|_| loc.shift < 8 * loc.width)?;
        let (valid, negate) = match field.valid {
            None => ((0, 0, 0), false),
            Some(test) => {
                let (word, first, all) =
                    place(test.offset, test.width).filter(|(.., all)| test.value <= *all)?;
                (
                    (word, (test.mask & all) << first, test.value << first),
                    test.negate,
                )
            }
        };
        Some(Ready {
            at: (word, first + loc.shift, loc.mask & (all >> loc.shift)),
            valid,
            negate,
            table: field.table,
        })
    }

    #[inline(always)]
    fn read(&self, raw: &[u8; 16]) -> Option<u64> {
        let (at, mask, value) = self.valid;
        if (word(raw, at) & mask == value) == self.negate {
            return None;
        }
        let (at, shift, mask) = self.at;
        let value = word(raw, at) >> (shift & 63) & mask;
        match self.table {
            None => Some(value),
            Some(table) => Some(translated(table, value)),
        }
    }
}

/// The 64-bit word that begins at byte 0 or 8.
#[inline(always)]
fn word(raw: &[u8; 16], at: u8) -> u64 {
    let bytes = raw.get(usize::from(at & 8)..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn translated(table: &[u32], value: u64) -> u64 {
    let at = usize::try_from(value).ok();
    at.and_then(|i| table.get(i)).map_or(0, |v| u64::from(*v))
}

impl HintField {
    /// Its value in a raw write-back: `None` when not valid in this one, or past its end.
    #[inline(never)]
    pub(crate) fn read(&self, raw: &[u8]) -> Option<u64> {
        if let Some(test) = &self.valid
            && !test.holds(raw)?
        {
            return None;
        }
        let value = match self.loc {
            Some(loc) => {
                let bits = load(raw, loc.offset, loc.width)?;
                bits.checked_shr(u32::from(loc.shift)).unwrap_or(0) & loc.mask
            }
            None => self.flagged(raw)?,
        };
        match self.table {
            None => Some(value),
            Some(table) => Some(translated(table, value)),
        }
    }

    fn flagged(&self, raw: &[u8]) -> Option<u64> {
        let mut value = 0;
        for (bit, test) in self.flags.iter().enumerate() {
            if let Some(test) = test {
                value |= u64::from(test.holds(raw)?) << bit;
            }
        }
        (self.flags != NO_FLAGS).then_some(value)
    }
}

#[inline]
fn load(raw: &[u8], offset: u8, width: u8) -> Option<u64> {
    let bytes = raw.get(usize::from(offset)..)?;
    Some(match width {
        1 => u64::from(*bytes.first()?),
        2 => u16::from_le_bytes(*bytes.first_chunk()?).into(),
        4 => u32::from_le_bytes(*bytes.first_chunk()?).into(),
        8 => u64::from_le_bytes(*bytes.first_chunk()?),
        other => {
            let bytes = bytes.get(..usize::from(other))?;
            let mut word = [0u8; 8];
            word.get_mut(..bytes.len())?.copy_from_slice(bytes);
            u64::from_le_bytes(word)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> HintLayout {
        HintLayout::none()
            .with(HintField {
                kind: HintKind::RxHash,
                loc: Some(Loc {
                    offset: 4,
                    width: 4,
                    shift: 0,
                    mask: 0xffff_ffff,
                }),
                flags: NO_FLAGS,
                valid: Some(Test {
                    offset: 0,
                    width: 1,
                    mask: 0x0f,
                    value: 0x01,
                    negate: false,
                }),
                table: None,
                source: HintSource::Hardware,
            })
            .with(HintField {
                kind: HintKind::RxHashType,
                loc: Some(Loc {
                    offset: 0,
                    width: 1,
                    shift: 0,
                    mask: 0x0f,
                }),
                flags: NO_FLAGS,
                valid: None,
                table: Some(&[0, 7]),
                source: HintSource::Hardware,
            })
    }

    #[test]
    fn hint_is_read_where_the_layout_says() {
        let raw = [0x21, 0, 0, 0, 0x78, 0x56, 0x34, 0x12];
        assert_eq!(layout().read(HintKind::RxHash, &raw), Some(0x1234_5678));
        assert_eq!(layout().read(HintKind::RxHashType, &raw), Some(7));
    }

    #[test]
    fn hint_that_fails_its_validity_test_is_absent() {
        assert_eq!(
            layout().read(HintKind::RxHash, &[0x22, 0, 0, 0, 1, 2, 3, 4]),
            None
        );
        assert_eq!(layout().read(HintKind::RxHashType, &[0x22]), Some(0));
    }

    #[test]
    fn a_negated_test_lets_through_everything_but_its_value() {
        let hash = HintField {
            valid: Some(Test {
                offset: 0,
                width: 1,
                mask: 0x0f,
                value: 0,
                negate: true,
            }),
            ..*layout().field(HintKind::RxHash).unwrap()
        };
        let layout = layout().with(hash);
        for byte in 0..=255u8 {
            let there = layout.read(HintKind::RxHash, &[byte, 0, 0, 0, 1, 0, 0, 0]);
            assert_eq!(there, (byte & 0x0f != 0).then_some(1), "{byte:#x}");
        }
        assert_eq!(
            layout.read(HintKind::RxHash, &[]),
            None,
            "too short is not a comparison that fails"
        );
    }

    #[test]
    fn flags_are_set_where_their_tests_hold() {
        let bit = |offset, mask, value| Test {
            offset,
            width: 1,
            mask,
            value,
            negate: false,
        };
        let field = HintField {
            kind: HintKind::CsumStatus,
            loc: None,
            flags: [
                Some(bit(0, 3, 1)),
                Some(bit(0, 3, 3)),
                None,
                Some(bit(1, 0x80, 0x80)),
            ],
            valid: None,
            table: None,
            source: HintSource::Hardware,
        };
        let layout = HintLayout::none().with(field);
        for (raw, wanted) in [
            ([0, 0], 0),
            ([1, 0], 1),
            ([3, 0x7f], 2),
            ([2, 0xff], 8),
            ([7, 0x80], 10),
        ] {
            assert_eq!(layout.read(HintKind::CsumStatus, &raw), Some(wanted), "{raw:x?}");
        }
        assert_eq!(
            layout.read(HintKind::CsumStatus, &[1]),
            None,
            "ends before a byte that is looked at"
        );
        let none = HintField {
            flags: NO_FLAGS,
            ..field
        };
        assert!(
            HintLayout::none()
                .with(none)
                .field(HintKind::CsumStatus)
                .is_none()
        );
    }

    #[test]
    fn hint_past_the_write_back_is_absent() {
        assert_eq!(layout().read(HintKind::RxHash, &[0x21, 0, 0, 0, 1, 2, 3]), None);
        assert_eq!(layout().read(HintKind::VlanTci, &[0; 16]), None);
    }

    proptest::proptest! {
            #[test]
            fn a_field_made_ready_reads_as_the_layout_says(
                (offset, width) in (0u8..20, 1u8..9),
                (shift, mask) in (0u8..64, proptest::prelude::any::<u64>()),
                (at, wide) in (0u8..20, 1u8..9),
                (bits, value, negate) in (0u64..16, 0u64..300, proptest::prelude::any::<bool>()),
                (tested, translated) in proptest::prelude::any::<(bool, bool)>(),
                raw in proptest::collection::vec(0u8..18, 0..34),
            ) {
                let test = Test { offset: at, width: wide, mask: bits, value, negate };
                let field = HintField {
                    kind: HintKind::Mark,
                    loc: Some(Loc { offset, width, shift, mask }),
                    flags: NO_FLAGS,
    valid: tested.then_some(test),
                    table: translated.then_some(&[9, 8, 7]),
                    source: HintSource::Hardware,
                };
                let layout = HintLayout::none().with(field);
                proptest::prop_assert_eq!(layout.read(HintKind::Mark, &raw), field.read(&raw));
            }
        }
}
