//! The struct of a queue's metadata: programs compiled once, loaded for queues with different layouts.

mod common;

use common::{HEADROOM, compile, compile_with};
use millrace_ebpf::{
    EngineKind, Errno, HintField, HintKind, HintLayout, HintSource, Instance, LoadError, Loaded, Loader, Loc,
    NO_FLAGS, Object, Test, Verdict, XdpAction, XdpBuff,
};

/// What a slot of the frame holds where there was nothing to put.
const NONE: u64 = u64::MAX;
/// Kinds in the order of the slots that `both` fills.
const KINDS: [HintKind; 10] = [
    HintKind::RxHash,
    HintKind::RxHashType,
    HintKind::RxTimestamp,
    HintKind::VlanTci,
    HintKind::VlanProto,
    HintKind::PacketType,
    HintKind::Mark,
    HintKind::CsumStatus,
    HintKind::HeaderLen,
    HintKind::Extracted,
];

fn field(kind: HintKind, offset: u8, width: u8, shift: u8, mask: u64) -> HintField {
    HintField {
        kind,
        loc: Some(Loc {
            offset,
            width,
            shift,
            mask,
        }),
        flags: NO_FLAGS,
        valid: None,
        table: None,
        source: HintSource::Hardware,
    }
}

fn when(field: HintField, offset: u8, mask: u64, value: u64, negate: bool) -> HintField {
    let test = Test {
        offset,
        width: 1,
        mask,
        value,
        negate,
    };
    HintField {
        valid: Some(test),
        ..field
    }
}

/// The 82599's advanced write-back (datasheet 7.1.6.2) with VLAN stripping: RSS type and packet type, hash, status, tag, and what it
/// found of checksums (IPCS and L4CS in the status, IPE and L4E in the errors).
fn intel() -> HintLayout {
    let checked = |mask, value| {
        Some(Test {
            offset: 8,
            width: 4,
            mask,
            value,
            negate: false,
        })
    };
    let (ip, l4) = (1 << 6, 1 << 5);
    let (ip_bad, l4_bad) = (ip | 1 << 31, l4 | 1 << 30);
    HintLayout::named("82599 advanced")
        .with(field(HintKind::PacketType, 0, 4, 4, 0x1fff))
        .with(HintField {
            table: Some(&[0, 0x19, 1, 0x1a, 6, 2, 0x1e, 0x29, 0x2a, 0x2e]),
            ..field(HintKind::RxHashType, 0, 1, 0, 0xf)
        })
        .with(when(field(HintKind::RxHash, 4, 4, 0, u64::MAX), 0, 0xf, 0, true))
        .with(when(field(HintKind::VlanTci, 14, 2, 0, 0xffff), 8, 8, 8, false))
        .with(HintField {
            loc: None,
            flags: [
                checked(ip_bad, ip),
                checked(ip_bad, ip_bad),
                checked(l4_bad, l4),
                checked(l4_bad, l4_bad),
            ],
            ..field(HintKind::CsumStatus, 0, 4, 0, 0)
        })
}

/// A write-back of 32 bytes in which everything lies elsewhere, and other things lie.
fn other() -> HintLayout {
    HintLayout::named("made-up flexible")
        .with(when(
            field(HintKind::RxTimestamp, 16, 8, 0, u64::MAX),
            31,
            1,
            1,
            false,
        ))
        .with(field(HintKind::RxHash, 24, 4, 0, u64::MAX))
        .with(when(
            field(HintKind::Mark, 8, 4, 4, 0xfff_ffff),
            0,
            0x80,
            0,
            false,
        ))
        .with(field(HintKind::HeaderLen, 3, 1, 0, 0xff))
        .with(field(HintKind::Extracted, 12, 2, 0, 0xffff))
        .with(field(HintKind::CsumStatus, 2, 1, 6, 3))
        .with(when(field(HintKind::VlanTci, 28, 2, 0, 0xffff), 0, 4, 4, false))
        .with(field(HintKind::VlanProto, 4, 2, 0, 0xffff))
}

fn load(elf: &[u8], layout: Option<&HintLayout>) -> Loaded {
    let loader = Loader::new();
    let loader = match layout {
        Some(layout) => loader.hints(layout),
        None => loader,
    };
    loader.load(&Object::parse(elf).unwrap()).unwrap()
}

fn instance(loaded: &Loaded, name: &str, engine: EngineKind, layout: &HintLayout) -> Instance {
    let program = loaded.program(Some(name)).unwrap();
    let mut instance = program.instance(engine, 0).unwrap();
    instance.set_hints(layout);
    instance
}

/// The frame as a program left it, with what lies before it, and the metadata it kept.
fn run(instance: &mut Instance, raw: &[u8]) -> (Verdict, Vec<u64>, usize) {
    let mut buffer = [0u8; HEADROOM + 256];
    let mut buf = XdpBuff::new(&mut buffer, HEADROOM, 256, 0, raw);
    let verdict = instance.run_one(&mut buf);
    let (start, meta) = (buf.data_offset(), buf.meta_len());
    let slots = buffer[start..].as_chunks::<8>().0;
    (
        verdict,
        slots.iter().map(|s| u64::from_le_bytes(*s)).collect(),
        meta,
    )
}

/// Write-backs of many kinds, cut short ones among them.
fn write_backs() -> Vec<Vec<u8>> {
    let mut state = 7u64;
    let mut all: Vec<Vec<u8>> = (0..64)
        .map(|_| {
            (0..32)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect()
        })
        .collect();
    all.extend([vec![0; 32], vec![0xff; 32], vec![0xff; 9], vec![]]);
    all
}

#[test]
fn the_struct_says_what_the_kernel_functions_say_for_two_layouts_on_each_engine() {
    let test = "the_struct_says_what_the_kernel_functions_say_for_two_layouts_on_each_engine";
    for cpu in ["-mcpu=v2", "-mcpu=v3"] {
        let Some(elf) = compile_with(test, "rx_meta", &[cpu]) else {
            return;
        };
        for layout in [intel(), other()] {
            for engine in EngineKind::available() {
                let mut instance = instance(&load(&elf, Some(&layout)), "both", engine, &layout);
                let (mut seen, mut there) = (0, 0);
                for raw in write_backs() {
                    let (verdict, slots, meta) = run(&mut instance, &raw);
                    assert_eq!(verdict.action(), XdpAction::Pass, "{:?}", instance.last_fault());
                    assert_eq!(meta, 0, "the struct is gone behind the program");
                    let valid = slots[10];
                    for (n, kind) in KINDS.into_iter().enumerate() {
                        let what = format!("{kind:?} on {engine:?}, {}, {raw:02x?}", layout.family());
                        let (ours, kernels) = (slots[n], slots[16 + n]);
                        // What comes along with the tag has a meaning wherever there is one.
                        let gives = match kind {
                            HintKind::VlanProto => HintKind::VlanTci,
                            kind => kind,
                        };
                        if layout.field(gives).is_none() {
                            assert_eq!(ours, NONE, "{what}: does not exist");
                            assert_eq!(valid >> kind as u64 & 1, 0, "{what}");
                            continue;
                        }
                        seen += 1;
                        if valid >> kind as u64 & 1 == 0 {
                            assert_eq!((ours, layout.read(gives, &raw)), (0, None), "{what}");
                            // A type is told along with a hash only, a protocol with a tag only.
                            let alone = !matches!(kind, HintKind::RxHashType | HintKind::VlanProto);
                            assert!(!alone || kernels == NONE, "{what}");
                            continue;
                        }
                        there += 1;
                        if kind != HintKind::VlanProto {
                            assert_eq!(Some(ours), layout.read(kind, &raw), "{what}");
                        }
                        if kind != HintKind::RxHashType || slots[16] != NONE {
                            assert_eq!(ours, kernels, "{what}");
                        }
                    }
                }
                assert!(seen > there && there > seen / 2, "{there} of {seen}");
            }
        }
    }
}

#[test]
fn a_field_that_no_queue_of_the_kind_gives_is_refused_unless_the_program_asks_first() {
    let test = "a_field_that_no_queue_of_the_kind_gives_is_refused_unless_the_program_asks_first";
    let Some(elf) = compile(test, "refused_rx_meta") else {
        return;
    };
    let loaded = load(&elf, Some(&intel()));
    let careless = loaded.program(Some("careless")).unwrap();
    let Err(LoadError::Refused(refusal)) = careless.verify() else {
        panic!("it reads a mark, which the 82599 does not give");
    };
    assert!(
        refusal.what.contains("millrace_rx_meta.mark") && refusal.what.contains("82599"),
        "{refusal}"
    );
    assert!(
        refusal.remedy.contains("bpf_core_field_exists(m->mark)"),
        "{refusal}"
    );
    assert!(
        refusal.remedy.contains("rx_hash, rx_hash_type, packet_type"),
        "{refusal}"
    );
    let line = refusal.line.as_ref().expect("a source line");
    assert!(line.text.contains("m->mark == 7"), "{line}");
    assert!(
        load(&elf, Some(&other()))
            .program(Some("careless"))
            .unwrap()
            .verify()
            .is_ok()
    );
    let nowhere = load(&elf, None);
    let error = nowhere.program(Some("headlong")).unwrap().verify().unwrap_err();
    assert!(error.to_string().contains("--hints"), "{error}");
    assert!(loaded.program(Some("headlong")).unwrap().verify().is_ok());
}

#[test]
fn a_program_loaded_for_no_queue_finds_no_struct_and_runs() {
    let Some(elf) = compile(
        "a_program_loaded_for_no_queue_finds_no_struct_and_runs",
        "rx_meta",
    ) else {
        return;
    };
    let loaded = load(&elf, None);
    for engine in EngineKind::available() {
        for name in ["both", "flavour", "moves"] {
            let mut instance = instance(&loaded, name, engine, &intel());
            let (verdict, ..) = run(&mut instance, &[0xff; 16]);
            assert_eq!(
                verdict.action(),
                XdpAction::Tx,
                "{name}: says so if it finds none"
            );
        }
    }
}

#[test]
fn the_struct_moves_with_the_head_and_what_a_program_adds_stays_for_the_next() {
    let test = "the_struct_moves_with_the_head_and_what_a_program_adds_stays_for_the_next";
    let Some(elf) = compile(test, "rx_meta") else {
        return;
    };
    let layout = intel();
    let loaded = load(&elf, Some(&layout));
    let raw = [1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef, 0xff, 0, 0, 0, 0, 0, 5, 6];
    for engine in EngineKind::available() {
        let mut buffer = [0u8; HEADROOM + 256];
        let mut buf = XdpBuff::new(&mut buffer, HEADROOM, 128, 0, &raw);
        let plain = |buf: &mut XdpBuff<'_>| instance(&loaded, "plain", engine, &layout).run_one(buf).action();
        let mut moves = instance(&loaded, "moves", engine, &layout);
        assert_eq!(
            plain(&mut buf),
            XdpAction::Pass,
            "a program that does not ask sees none"
        );
        assert_eq!(moves.run_one(&mut buf).action(), XdpAction::Pass);
        let size = moves.program().rx_meta().unwrap().size() as usize;
        assert_eq!((buf.data_offset(), buf.meta_len()), (HEADROOM - 8, size + 4));
        assert_eq!(
            plain(&mut buf),
            XdpAction::Drop,
            "it sees what the program before it has put there"
        );
        // The next one's struct lies before that, and goes again.
        let mut both = instance(&loaded, "both", engine, &layout);
        let mut longer = XdpBuff::new(&mut buffer, HEADROOM, 256, 0, &raw);
        assert_eq!(moves.run_one(&mut longer).action(), XdpAction::Pass);
        let before = longer.meta_len();
        assert_eq!(both.run_one(&mut longer).action(), XdpAction::Pass);
        assert_eq!(longer.meta_len(), before);
        let mine = HEADROOM - 8 - before;
        assert_eq!(buffer[mine..mine + 4], [0x44, 0x33, 0x22, 0x11]);
        assert_eq!(
            buffer[HEADROOM - 8..HEADROOM - 4],
            [0xde, 0xad, 0xbe, 0xef],
            "slot 0: the hash"
        );
    }
}

#[test]
fn a_tail_call_finds_the_struct_of_the_program_that_called_it() {
    let Some(elf) = compile(
        "a_tail_call_finds_the_struct_of_the_program_that_called_it",
        "rx_meta",
    ) else {
        return;
    };
    for layout in [intel(), other()] {
        let loaded = load(&elf, Some(&layout));
        let leaves = loaded.map("leaves").unwrap();
        leaves
            .set_program(0, &loaded.program(Some("leaf")).unwrap())
            .unwrap();
        for engine in EngineKind::available() {
            let mut root = instance(&loaded, "root", engine, &layout);
            let raw: Vec<u8> = (1..33).collect();
            let (verdict, slots, meta) = run(&mut root, &raw);
            assert_eq!((verdict.action(), meta), (XdpAction::Pass, 0));
            let hash = layout.read(HintKind::RxHash, &raw);
            assert_eq!(Some(slots[0]), hash, "{engine:?}, {}", layout.family());
        }
    }
}

#[test]
fn programs_with_different_structs_do_not_jump_to_each_other() {
    let test = "programs_with_different_structs_do_not_jump_to_each_other";
    let Some(elf) = compile(test, "rx_meta") else {
        return;
    };
    let loaded = load(&elf, Some(&intel()));
    let leaves = loaded.map("leaves").unwrap();
    let theirs = Loader::new()
        .hints(&other())
        .reuse_map("leaves", leaves.clone())
        .load(&Object::parse(&elf).unwrap())
        .unwrap();
    let root = theirs.program(Some("root")).unwrap_err().to_string();
    assert!(root.contains("millrace_rx_meta"), "{root}");
    let put = |name: &str| leaves.set_program(1, &theirs.program(Some(name)).unwrap());
    assert_eq!(put("leaf"), Err(Errno::INVAL), "it would find another struct");
    assert_eq!(put("plain"), Ok(()), "it reads none");
}

#[test]
fn a_flavour_with_other_sizes_reads_the_same_field() {
    let Some(elf) = compile("a_flavour_with_other_sizes_reads_the_same_field", "rx_meta") else {
        return;
    };
    for layout in [intel(), other()] {
        let loaded = load(&elf, Some(&layout));
        let program = loaded.program(Some("flavour")).unwrap();
        let hash = program
            .rx_meta()
            .unwrap()
            .fields()
            .iter()
            .find(|f| f.name == "rx_hash");
        let at = hash.expect("a hash").offset;
        for engine in EngineKind::available() {
            let mut flavour = instance(&loaded, "flavour", engine, &layout);
            let raw = [0xf5; 32];
            let (verdict, slots, _) = run(&mut flavour, &raw);
            assert_eq!(verdict.action(), XdpAction::Pass);
            assert_eq!(slots[..4], [0xf5f5_f5f5, 4, 0xf5f5_f5f5, at.into()], "{engine:?}");
        }
        // Those that are there to compare with run it as well, or say that they do not.
        for engine in [EngineKind::Rbpf, EngineKind::RbpfInterp] {
            match program.instance(engine, 0) {
                Ok(mut flavour) => {
                    flavour.set_hints(&layout);
                    let (verdict, slots, _) = run(&mut flavour, &[0xf5; 32]);
                    assert_eq!(
                        (verdict.action(), slots[0]),
                        (XdpAction::Pass, 0xf5f5_f5f5),
                        "{engine:?}"
                    );
                }
                Err(error) => println!("{}: {error}", engine.name()),
            }
        }
    }
}

#[test]
fn batches_and_frames_without_headroom_are_told_apart_frame_by_frame() {
    let Some(elf) = compile(
        "batches_and_frames_without_headroom_are_told_apart_frame_by_frame",
        "rx_meta",
    ) else {
        return;
    };
    let layout = intel();
    let loaded = load(&elf, Some(&layout));
    for engine in EngineKind::available() {
        let mut both = instance(&loaded, "both", engine, &layout);
        let mut frames = vec![[0u8; 512]; 150];
        let raws: Vec<[u8; 16]> = (0..150u8)
            .map(|n| [1, 0, 0, 0, n, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0])
            .collect();
        let mut bufs: Vec<_> = (frames.iter_mut().zip(&raws).enumerate())
            .map(|(n, (frame, raw))| XdpBuff::new(frame, if n % 3 == 0 { 48 } else { 128 }, 256, 0, raw))
            .collect();
        let mut verdicts = vec![Verdict::default(); 150];
        both.run_batch(&mut bufs, &mut verdicts);
        assert!(bufs.iter().all(|buf| buf.meta_len() == 0));
        for (n, (verdict, frame)) in verdicts.iter().zip(&frames).enumerate() {
            let wanted = if n % 3 == 0 {
                XdpAction::Tx
            } else {
                XdpAction::Pass
            };
            assert_eq!(verdict.action(), wanted, "frame {n}");
            if n % 3 != 0 {
                assert_eq!(frame[128..132], [n as u8, 7, 7, 7], "frame {n}");
            }
        }
        assert_eq!(both.stats().no_meta_room, 50);
    }
}

#[test]
fn a_program_fits_queues_with_its_struct_and_no_others() {
    let Some(elf) = compile("a_program_fits_queues_with_its_struct_and_no_others", "rx_meta") else {
        return;
    };
    let loaded = load(&elf, Some(&intel()));
    let both = loaded.program(Some("both")).unwrap();
    assert!(both.fits_hints(&intel()).is_ok());
    let error = both.fits_hints(&other()).unwrap_err().to_string();
    assert!(
        error.contains("82599 advanced") && error.contains("made-up flexible"),
        "{error}"
    );
    let plain = loaded.program(Some("plain")).unwrap();
    assert!(
        plain.rx_meta().is_none() && plain.fits_hints(&other()).is_ok(),
        "it reads nothing"
    );
}
