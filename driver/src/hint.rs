//! Where a queue's metadata lies: a [`HintLayout`] describes the raw RX write-backs of one queue.
//!
//! A batch carries the 16 or 32 bytes that the NIC wrote back beside each handle and nothing is decoded on
//! the way. A consumer that wants a field looks it up here once (name to offset, width, shift, mask and
//! validity test) and then pays one load per packet; a field nobody asks for costs nothing.
//!
//! The raw bytes are the two (or four) little-endian quadwords of the descriptor in the order in which they
//! lie in memory, so offsets are byte offsets into the descriptor as the datasheet prints it.

/// The well-known fields. The discriminant is the index into a layout's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HintKind {
    /// The device's own packet-type code; [`HintLayout::family`] says whose.
    PacketType = 0,
    /// Bytes of the buffer that this descriptor filled (not of the whole frame when it spans buffers).
    Length,
    /// Bytes of the header part, when header split or header detection gives it.
    HeaderLength,
    /// 32-bit RSS hash.
    RssHash,
    /// The device's code for what was hashed; zero means "no hash".
    RssType,
    /// TCI of the tag that the device stripped.
    VlanTci,
    /// TCI of the inner tag, where two are stripped.
    VlanInnerTci,
    /// Boolean: the device checked the IPv4 header checksum and found it right.
    IpChecksumGood,
    /// Boolean: the device checked the IPv4 header checksum and found it wrong.
    IpChecksumBad,
    /// Boolean: the device checked the TCP, UDP or SCTP checksum and found it right.
    L4ChecksumGood,
    /// Boolean: the device checked the TCP, UDP or SCTP checksum and found it wrong.
    L4ChecksumBad,
    /// Receive time in the device's clock.
    Timestamp,
    /// The mark of the flow rule that matched.
    FlowMark,
    /// Offset of the network header in bytes.
    L3Offset,
    /// Offset of the transport header in bytes.
    L4Offset,
    /// First extracted field of a flexible profile (E810); the next ones follow.
    Extracted0,
    /// Second extracted field.
    Extracted1,
    /// Third extracted field.
    Extracted2,
    /// Fourth extracted field.
    Extracted3,
}

impl HintKind {
    /// Every kind, in table order.
    pub const ALL: [HintKind; 19] = [
        HintKind::PacketType,
        HintKind::Length,
        HintKind::HeaderLength,
        HintKind::RssHash,
        HintKind::RssType,
        HintKind::VlanTci,
        HintKind::VlanInnerTci,
        HintKind::IpChecksumGood,
        HintKind::IpChecksumBad,
        HintKind::L4ChecksumGood,
        HintKind::L4ChecksumBad,
        HintKind::Timestamp,
        HintKind::FlowMark,
        HintKind::L3Offset,
        HintKind::L4Offset,
        HintKind::Extracted0,
        HintKind::Extracted1,
        HintKind::Extracted2,
        HintKind::Extracted3,
    ];

    /// A short stable name, for tables and control messages.
    pub const fn name(self) -> &'static str {
        match self {
            HintKind::PacketType => "ptype",
            HintKind::Length => "length",
            HintKind::HeaderLength => "header_length",
            HintKind::RssHash => "rx_hash",
            HintKind::RssType => "rss_type",
            HintKind::VlanTci => "vlan_tci",
            HintKind::VlanInnerTci => "vlan_inner_tci",
            HintKind::IpChecksumGood => "ip_csum_good",
            HintKind::IpChecksumBad => "ip_csum_bad",
            HintKind::L4ChecksumGood => "l4_csum_good",
            HintKind::L4ChecksumBad => "l4_csum_bad",
            HintKind::Timestamp => "rx_timestamp",
            HintKind::FlowMark => "flow_mark",
            HintKind::L3Offset => "l3_offset",
            HintKind::L4Offset => "l4_offset",
            HintKind::Extracted0 => "extracted0",
            HintKind::Extracted1 => "extracted1",
            HintKind::Extracted2 => "extracted2",
            HintKind::Extracted3 => "extracted3",
        }
    }
}

/// Who gives a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Source {
    /// The device wrote it into the descriptor.
    Hardware,
    /// Software computes it when asked; it lies in a further column, not in the raw bytes.
    Software,
    /// This queue does not have it.
    #[default]
    Absent,
}

/// Place of a value: `(load_le(raw[offset..offset + width]) >> shift) & mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loc {
    /// Byte offset into the raw write-back.
    pub offset: u8,
    /// Bytes to load, little-endian: 1, 2, 4 or 8.
    pub width: u8,
    /// Bits to shift right after the load.
    pub shift: u8,
    /// Mask after the shift.
    pub mask: u64,
}

impl Loc {
    /// Loads the value; `None` if the raw bytes are shorter than the layout says.
    #[inline]
    pub fn load(&self, raw: &[u8]) -> Option<u64> {
        Some((load_le(raw, self.offset, self.width)? >> self.shift) & self.mask)
    }
}

/// A validity test: `load_le(raw[offset..offset + width]) & mask == value`, inverted if `negate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Byte offset into the raw write-back.
    pub offset: u8,
    /// Bytes to load, little-endian: 1, 2, 4 or 8.
    pub width: u8,
    /// Bits that matter.
    pub mask: u64,
    /// What they must be (or must not be).
    pub value: u64,
    /// The field is valid when the comparison fails.
    pub negate: bool,
}

impl Test {
    /// Whether the test holds; `false` if the raw bytes are too short.
    #[inline]
    pub fn holds(&self, raw: &[u8]) -> bool {
        match load_le(raw, self.offset, self.width) {
            Some(v) => ((v & self.mask) == self.value) != self.negate,
            None => false,
        }
    }
}

fn load_le(raw: &[u8], offset: u8, width: u8) -> Option<u64> {
    let start = usize::from(offset);
    let bytes = raw.get(start..start + usize::from(width))?;
    let mut le = [0u8; 8];
    le.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(le))
}

/// One field of a layout. A boolean field has a test and no location: the test is its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which field this is.
    pub kind: HintKind,
    /// Where its value lies; `None` for booleans and for fields that are not in the raw bytes.
    pub loc: Option<Loc>,
    /// When it is valid; `None` means always (if it is present at all).
    pub valid: Option<Test>,
    /// Who gives it.
    pub source: Source,
}

impl Field {
    const fn absent(kind: HintKind) -> Field {
        Field {
            kind,
            loc: None,
            valid: None,
            source: Source::Absent,
        }
    }
}

/// The layout of one queue's raw write-backs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintLayout {
    /// Family and descriptor format, such as `82599 advanced`.
    pub family: &'static str,
    /// Bytes of raw write-back per descriptor: 16 or 32.
    pub raw_len: u8,
    fields: [Field; HintKind::ALL.len()],
}

impl HintLayout {
    /// A layout without any field.
    pub const fn empty(family: &'static str, raw_len: u8) -> HintLayout {
        let mut fields = [Field::absent(HintKind::PacketType); HintKind::ALL.len()];
        let mut i = 0;
        while i < fields.len() {
            fields[i] = Field::absent(HintKind::ALL[i]);
            i += 1;
        }
        HintLayout {
            family,
            raw_len,
            fields,
        }
    }

    /// Adds a field that the hardware gives.
    pub const fn with(mut self, kind: HintKind, loc: Option<Loc>, valid: Option<Test>) -> HintLayout {
        self.fields[kind as usize] = Field {
            kind,
            loc,
            valid,
            source: Source::Hardware,
        };
        self
    }

    /// Marks a field as computed by software on demand.
    pub const fn with_software(mut self, kind: HintKind) -> HintLayout {
        self.fields[kind as usize] = Field {
            kind,
            loc: None,
            valid: None,
            source: Source::Software,
        };
        self
    }

    /// Marks a field as absent, for instance because the offload is switched off.
    pub const fn without(mut self, kind: HintKind) -> HintLayout {
        self.fields[kind as usize] = Field::absent(kind);
        self
    }

    /// The entry of one field.
    #[inline]
    pub const fn field(&self, kind: HintKind) -> &Field {
        &self.fields[kind as usize]
    }

    /// All entries, in the order of [`HintKind::ALL`].
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// A field as [`HintReader`] reads it; `None` where it is absent, software-only or a boolean, or lies across two words.
    pub fn reader(&self, kind: HintKind) -> Option<HintReader> {
        let field = self.field(kind);
        let loc = field.loc.filter(|_| field.source == Source::Hardware)?;
        let (word, shift) = place(loc.offset, loc.width).filter(|_| loc.shift < 8 * loc.width)?;
        let test = match field.valid {
            None => WordTest {
                word: 0,
                mask: 0,
                value: 0,
                negate: false,
            },
            Some(test) => {
                let (word, shift) = place(test.offset, test.width)?;
                WordTest {
                    word,
                    mask: (test.mask & bytes(test.width)) << shift,
                    value: test
                        .value
                        .checked_shl(shift)
                        .filter(|_| test.value <= bytes(test.width))?,
                    negate: test.negate,
                }
            }
        };
        Some(HintReader {
            word,
            shift: shift + u32::from(loc.shift),
            mask: loc.mask & (bytes(loc.width) >> loc.shift),
            test,
        })
    }

    /// Reads one field from a raw write-back: its value, `1` for a boolean that holds, or `None` when the
    /// field is absent, software-only or not valid for this packet. The slow, obvious way; engines inline
    /// [`Field::loc`] and [`Field::valid`] instead.
    pub fn get(&self, kind: HintKind, raw: &[u8]) -> Option<u64> {
        let field = self.field(kind);
        if field.source != Source::Hardware || field.valid.is_some_and(|t| !t.holds(raw)) {
            return None;
        }
        match field.loc {
            Some(loc) => loc.load(raw),
            None => Some(1),
        }
    }
}

/// The word and the bit in it at which `width` bytes begin, if they end in that word.
fn place(offset: u8, width: u8) -> Option<(usize, u32)> {
    let within = offset % 8;
    (width > 0 && within + width <= 8).then_some((usize::from(offset / 8), 8 * u32::from(within)))
}

/// All bits of `width` bytes.
fn bytes(width: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(width.clamp(1, 8)))
}

/// One field of a layout, made ready for many write-backs: see [`HintLayout::reader`]. It reads write-backs as 64-bit words, as
/// [`RxBatch::raws16`](crate::queue::RxBatch::raws16) gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintReader {
    word: usize,
    shift: u32,
    mask: u64,
    test: WordTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WordTest {
    word: usize,
    mask: u64,
    value: u64,
    negate: bool,
}

impl HintReader {
    /// The value; `None` where it is not valid for this packet or the write-back is shorter than the layout says.
    #[inline]
    pub fn read(&self, raw: &[u64]) -> Option<u64> {
        let WordTest {
            word,
            mask,
            value,
            negate,
        } = self.test;
        if (raw.get(word)? & mask == value) == negate {
            return None;
        }
        Some((raw.get(self.word)? >> (self.shift & 63)) & self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_discriminants() {
        for (i, kind) in HintKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i, "{}", kind.name());
        }
        let layout = HintLayout::empty("test", 16);
        for (field, kind) in layout.fields().iter().zip(HintKind::ALL) {
            assert_eq!(field.kind, kind);
            assert_eq!(field.source, Source::Absent);
        }
    }

    #[test]
    fn a_field_is_loaded_only_when_its_test_holds() {
        let layout = HintLayout::empty("test", 16).with(
            HintKind::VlanTci,
            Some(Loc {
                offset: 14,
                width: 2,
                shift: 0,
                mask: 0xfff,
            }),
            Some(Test {
                offset: 8,
                width: 4,
                mask: 8,
                value: 8,
                negate: false,
            }),
        );
        let mut raw = [0u8; 16];
        raw[14] = 0x34;
        raw[15] = 0xf2;
        assert_eq!(layout.get(HintKind::VlanTci, &raw), None);
        raw[8] = 8;
        assert_eq!(layout.get(HintKind::VlanTci, &raw), Some(0x234));
        assert_eq!(layout.get(HintKind::RssHash, &raw), None);
    }

    #[test]
    fn short_raw_bytes_give_nothing_instead_of_a_panic() {
        let loc = Loc {
            offset: 14,
            width: 8,
            shift: 0,
            mask: u64::MAX,
        };
        assert_eq!(loc.load(&[0; 16]), None);
        assert!(
            !Test {
                offset: 15,
                width: 2,
                mask: 0,
                value: 0,
                negate: false
            }
            .holds(&[0; 16])
        );
    }

    proptest::proptest! {
        #[test]
        fn a_reader_gives_what_the_layout_gives(
            (offset, width) in (0u8..16, proptest::sample::select(vec![1u8, 2, 4, 8])),
            (shift, mask) in (0u8..64, proptest::prelude::any::<u64>()),
            (at, wide) in (0u8..16, proptest::sample::select(vec![1u8, 2, 4, 8])),
            (bits, value, negate) in (0u64..16, 0u64..16, proptest::prelude::any::<bool>()),
            tested in proptest::prelude::any::<bool>(),
            words in proptest::prelude::any::<[u64; 2]>(),
        ) {
            let test = Test { offset: at, width: wide, mask: bits, value, negate };
            let loc = Loc { offset, width, shift, mask };
            let layout = HintLayout::empty("test", 16).with(HintKind::RssHash, Some(loc), tested.then_some(test));
            if let Some(reader) = layout.reader(HintKind::RssHash) {
                let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                proptest::prop_assert_eq!(reader.read(&words), layout.get(HintKind::RssHash, &raw));
                proptest::prop_assert_eq!(reader.read(&[]), None);
            } else {
                let across = |offset: u8, width: u8| offset % 8 + width > 8;
                let why = across(offset, width) || tested && across(at, wide) || shift >= 8 * width;
                proptest::prop_assert!(why);
            }
        }
    }
}
