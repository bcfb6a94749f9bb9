//! Kernel functions beyond the kernel's own: further metadata, and the hashes that choose queues.

mod common;

use common::{Rig, compile};
use millrace_ebpf::{HintField, HintKind, HintLayout, HintSource, Loc, NO_FLAGS, XdpAction, XdpBuff};

fn layout() -> HintLayout {
    let kinds = [
        (HintKind::PacketType, 0, 0xff),
        (HintKind::Mark, 4, 0xffff_ffff),
        (HintKind::HeaderLen, 2, 0xffff),
        (HintKind::Extracted, 8, 0xffff),
    ];
    kinds
        .into_iter()
        .fold(HintLayout::none(), |layout, (kind, offset, mask)| {
            layout.with(HintField {
                kind,
                loc: Some(Loc {
                    offset,
                    width: 4,
                    shift: 0,
                    mask,
                }),
                flags: NO_FLAGS,
                valid: None,
                table: None,
                source: HintSource::Hardware,
            })
        })
}

#[test]
fn further_metadata_and_hashes_reach_the_program_on_every_engine() {
    let test = "further_metadata_and_hashes_reach_the_program_on_every_engine";
    let Some(elf) = compile(test, "kfuncs") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        rig.instance.set_hints(&layout());
        let mut bytes = [0u8; 128];
        // 66.9.149.187:2794 to 161.142.100.80:1766, of "Verifying the RSS Hash Calculation".
        let flow = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        bytes[96..108].copy_from_slice(&flow);
        let raw = [0x21, 0, 54, 0, 0x78, 0x56, 0x34, 0x12, 0xcd, 0xab, 9, 9];
        let mut buf = XdpBuff::new(&mut bytes, 64, 64, 0, &raw);
        let verdict = rig.instance.run_one(&mut buf);
        assert_eq!(
            verdict.action(),
            XdpAction::Pass,
            "{:?}",
            rig.instance.last_fault()
        );
        let words: Vec<u32> = bytes[64..96]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|w| u32::from_le_bytes(*w))
            .collect();
        assert_eq!(words[0], 0x51cc_c178, "Toeplitz, as published");
        assert_ne!(words[1], words[0]);
        let xor = 0x4209_95bb ^ 0xa18e_6450 ^ 0x0aea_06e6;
        assert_eq!(words[2], xor, "XOR in network order");
        // The layout has no checksum status.
        assert_eq!(words[3..], [0x21, 0x1234_5678, u32::MAX, 54, 0xabcd]);
    }
}
