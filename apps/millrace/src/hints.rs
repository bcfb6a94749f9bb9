//! Where the two halves meet: the driver describes its write-backs in its words, the runtime reads hints in its own.

use millrace_driver::hint as driver;
use millrace_ebpf as runtime;
use runtime::{HintField, HintKind, HintSource};

/// The runtime's layout of what the driver's queue gives. Fields that a program cannot ask for are left out.
pub(crate) fn translate(layout: &driver::HintLayout) -> runtime::HintLayout {
    let mut out = runtime::HintLayout::none();
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
            valid: field.valid.map(|test| runtime::Test {
                offset: test.offset,
                width: test.width,
                mask: test.mask,
                value: test.value,
            }),
            table: None,
            source,
        });
    }
    out
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
