//! Where the two halves meet: the driver describes its write-backs in its words, the runtime reads hints in its own.

use millrace_driver::hint as driver;
use millrace_ebpf as runtime;
use runtime::{HintField, HintKind, HintSource};

/// `enum xdp_rss_hash_type` (include/net/xdp.h) by the 82599's RSS type (datasheet 7.1.6, "RSS Type"): L3_IPV4 is bit 0,
/// L3_IPV6 bit 1, L3_DYNHDR bit 2, L4 bit 3, L4_TCP bit 4, L4_UDP bit 5.
const RSS_TYPES_82599: [u32; 10] = [
    0,         // none
    0b01_1001, // IPv4 TCP
    0b00_0001, // IPv4
    0b01_1010, // IPv6 TCP
    0b00_0110, // IPv6 with extension headers
    0b00_0010, // IPv6
    0b01_1110, // IPv6 with extension headers, TCP
    0b10_1001, // IPv4 UDP
    0b10_1010, // IPv6 UDP
    0b10_1110, // IPv6 with extension headers, UDP
];

/// The runtime's layout of what the driver's queue gives. Fields that a program cannot ask for are left out.
pub(crate) fn translate(layout: &driver::HintLayout) -> runtime::HintLayout {
    let mut out = runtime::HintLayout::named(layout.family);
    for field in layout.fields() {
        let Some(kind) = kind(field.kind) else { continue };
        let source = match field.source {
            driver::Source::Hardware => HintSource::Hardware,
            // Software columns do not travel with the write-back yet.
            driver::Source::Software | driver::Source::Absent => continue,
        };
        let Some(loc) = field.loc else { continue };
        out = out.with(HintField {
            kind,
            loc: Some(runtime::Loc {
                offset: loc.offset,
                width: loc.width,
                shift: loc.shift,
                mask: loc.mask,
            }),
            flags: runtime::NO_FLAGS,
            valid: field.valid.map(test),
            table: match kind {
                HintKind::RxHashType if layout.family.starts_with("82599") => Some(&RSS_TYPES_82599),
                _ => None,
            },
            source,
        });
    }
    match checksums(layout) {
        Some(field) => out.with(field),
        None => out,
    }
}

/// What the driver has as a test each is one field for programs.
fn checksums(layout: &driver::HintLayout) -> Option<HintField> {
    // In the order of `CSUM_IP_GOOD` and its fellows.
    let kinds = [
        driver::HintKind::IpChecksumGood,
        driver::HintKind::IpChecksumBad,
        driver::HintKind::L4ChecksumGood,
        driver::HintKind::L4ChecksumBad,
    ];
    let flags = kinds.map(|kind| {
        let field = layout.field(kind);
        let there = field.source == driver::Source::Hardware;
        field.valid.filter(|_| there).map(test)
    });
    (flags != runtime::NO_FLAGS).then_some(HintField {
        kind: HintKind::CsumStatus,
        loc: None,
        flags,
        valid: None,
        table: None,
        source: HintSource::Hardware,
    })
}

fn test(test: driver::Test) -> runtime::Test {
    runtime::Test {
        offset: test.offset,
        width: test.width,
        mask: test.mask,
        value: test.value,
        negate: test.negate,
    }
}

fn kind(kind: driver::HintKind) -> Option<HintKind> {
    Some(match kind {
        driver::HintKind::PacketType => HintKind::PacketType,
        driver::HintKind::HeaderLength => HintKind::HeaderLen,
        driver::HintKind::RssHash => HintKind::RxHash,
        driver::HintKind::RssType => HintKind::RxHashType,
        driver::HintKind::VlanTci => HintKind::VlanTci,
        driver::HintKind::Timestamp => HintKind::RxTimestamp,
        driver::HintKind::FlowMark => HintKind::Mark,
        driver::HintKind::Extracted0 => HintKind::Extracted,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOC: driver::Loc = driver::Loc {
        offset: 4,
        width: 4,
        shift: 0,
        mask: 0xffff_ffff,
    };

    fn layout(valid: Option<driver::Test>) -> runtime::HintLayout {
        let type_at = driver::Loc {
            offset: 0,
            width: 1,
            shift: 0,
            mask: 0xf,
        };
        translate(
            &driver::HintLayout::empty("82599 advanced", 16)
                .with(driver::HintKind::RssHash, Some(LOC), valid)
                .with(driver::HintKind::RssType, Some(type_at), None)
                .with_software(driver::HintKind::FlowMark),
        )
    }

    fn raw(rss_type: u8) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[0] = rss_type;
        raw[4..8].copy_from_slice(&0xfeed_beefu32.to_le_bytes());
        raw
    }

    #[test]
    fn a_program_reads_the_hash_and_its_type_where_the_driver_says_they_are() {
        let layout = layout(None);
        assert_eq!(layout.read(HintKind::RxHash, &raw(1)), Some(0xfeed_beef));
        // XDP_RSS_TYPE_L4_IPV4_UDP of the kernel: L3_IPV4, L4, L4_UDP.
        assert_eq!(layout.read(HintKind::RxHashType, &raw(7)), Some(0b10_1001));
        assert_eq!(layout.read(HintKind::RxHashType, &raw(0)), Some(0));
        assert_eq!(
            layout.read(HintKind::Mark, &raw(0)),
            None,
            "software columns are not there"
        );
    }

    #[test]
    fn a_validity_test_keeps_its_sense() {
        let layout = |negate| {
            layout(Some(driver::Test {
                offset: 0,
                width: 1,
                mask: 0xf,
                value: 0,
                negate,
            }))
        };
        for (rss_type, negated, plain) in [(0x10, None, Some(0xfeed_beef)), (0x11, Some(0xfeed_beef), None)] {
            assert_eq!(layout(true).read(HintKind::RxHash, &raw(rss_type)), negated);
            assert_eq!(layout(false).read(HintKind::RxHash, &raw(rss_type)), plain);
        }
    }
}
