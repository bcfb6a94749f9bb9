//! What the 82599's advanced write-back tells of a frame (7.1.6.2).

use millrace_nic_models::ixgbe::desc::rx::{error, status};

use crate::hint::{HintKind, HintLayout, Loc, Test};
use crate::port::PortConfig;

/// Byte offset of the status and error dword.
const STATUS: u8 = 8;

/// The layout of a queue under `config`. What an offload that is off would give is absent.
pub(crate) fn layout(config: &PortConfig) -> HintLayout {
    let hashed = Test {
        offset: 0,
        width: 1,
        mask: 0xf,
        value: 0,
        negate: true,
    };
    let mut layout = HintLayout::empty("82599 advanced", 16)
        .with(
            HintKind::PacketType,
            Some(Loc {
                offset: 0,
                width: 4,
                shift: 4,
                mask: 0x1fff,
            }),
            None,
        )
        .with(
            HintKind::Length,
            Some(Loc {
                offset: 12,
                width: 2,
                shift: 0,
                mask: 0xffff,
            }),
            None,
        )
        .with(
            HintKind::RssType,
            Some(Loc {
                offset: 0,
                width: 1,
                shift: 0,
                mask: 0xf,
            }),
            None,
        )
        .with(
            HintKind::RssHash,
            Some(Loc {
                offset: 4,
                width: 4,
                shift: 0,
                mask: 0xffff_ffff,
            }),
            Some(hashed),
        )
        .with_software(HintKind::L3Offset)
        .with_software(HintKind::L4Offset);
    if config.offloads.vlan_strip {
        let tci = Loc {
            offset: 14,
            width: 2,
            shift: 0,
            mask: 0xffff,
        };
        layout = layout.with(HintKind::VlanTci, Some(tci), Some(has(status::VP, status::VP)));
    }
    if config.offloads.rx_checksum {
        layout = layout
            .with(
                HintKind::IpChecksumGood,
                None,
                Some(has(status::IPCS | error::IPE, status::IPCS)),
            )
            .with(
                HintKind::IpChecksumBad,
                None,
                Some(has(status::IPCS | error::IPE, status::IPCS | error::IPE)),
            )
            .with(
                HintKind::L4ChecksumGood,
                None,
                Some(has(status::L4CS | error::L4E, status::L4CS)),
            )
            .with(
                HintKind::L4ChecksumBad,
                None,
                Some(has(status::L4CS | error::L4E, status::L4CS | error::L4E)),
            );
    }
    layout
}

fn has(mask: u32, value: u32) -> Test {
    Test {
        offset: STATUS,
        width: 4,
        mask: mask.into(),
        value: value.into(),
        negate: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Source;
    use crate::port::Offloads;
    use millrace_nic_models::ixgbe::desc::rx::{RssType, WriteBack, ptype};

    fn raw(wb: WriteBack) -> Vec<u8> {
        wb.encode().iter().flat_map(|q| q.to_le_bytes()).collect()
    }

    #[test]
    fn the_layout_reads_what_a_write_back_holds() {
        let strip = Offloads {
            vlan_strip: true,
            ..Offloads::default()
        };
        let layout = layout(&PortConfig {
            offloads: strip,
            ..PortConfig::default()
        });
        let wb = WriteBack {
            rss_type: RssType::TcpIpv4 as u8,
            ptype: ptype::IPV4 | ptype::TCP,
            hash: 0xdead_beef,
            status_error: status::DD | status::EOP | status::VP | status::IPCS | status::L4CS | error::L4E,
            len: 1500,
            vlan: 0x2064,
            ..WriteBack::default()
        };
        let raw = raw(wb);
        let get = |kind| layout.get(kind, &raw);
        assert_eq!(
            get(HintKind::PacketType),
            Some(u64::from(ptype::IPV4 | ptype::TCP))
        );
        assert_eq!(get(HintKind::Length), Some(1500));
        assert_eq!(get(HintKind::RssHash), Some(0xdead_beef));
        assert_eq!(get(HintKind::RssType), Some(1));
        assert_eq!(get(HintKind::VlanTci), Some(0x2064));
        assert_eq!(get(HintKind::IpChecksumGood), Some(1));
        assert_eq!(get(HintKind::IpChecksumBad), None);
        assert_eq!(get(HintKind::L4ChecksumGood), None);
        assert_eq!(get(HintKind::L4ChecksumBad), Some(1));
        assert_eq!(get(HintKind::Timestamp), None);
    }

    #[test]
    fn a_frame_that_was_not_hashed_has_no_hash() {
        let layout = layout(&PortConfig::default());
        let raw = raw(WriteBack {
            hash: 7,
            status_error: status::DD,
            ..WriteBack::default()
        });
        assert_eq!(layout.get(HintKind::RssHash, &raw), None);
        assert_eq!(layout.get(HintKind::L4ChecksumGood, &raw), None);
    }

    #[test]
    fn what_is_switched_off_is_absent() {
        let off = Offloads {
            rx_checksum: false,
            ..Offloads::default()
        };
        let layout = layout(&PortConfig {
            offloads: off,
            ..PortConfig::default()
        });
        assert_eq!(layout.field(HintKind::IpChecksumGood).source, Source::Absent);
        assert_eq!(layout.field(HintKind::VlanTci).source, Source::Absent);
        assert_eq!(layout.field(HintKind::L4Offset).source, Source::Software);
        assert_eq!(layout.field(HintKind::RssHash).source, Source::Hardware);
    }
}
