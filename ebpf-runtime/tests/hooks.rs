//! Context accesses: one instruction that reads the context on one path and the stack on another, and the context of
//! steering programs.

mod common;

use common::compile;
use millrace_ebpf::{EngineKind, Hook, Loader, Object, Program, SkbInfo, XdpBuff};

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, dst | src << 4, o[0], o[1], i[0], i[1], i[2], i[3]]
}

#[test]
fn a_load_that_reaches_context_or_stack_by_path_reads_the_right_one_on_every_engine() {
    // jeq and jne: whichever path the verifier walks last, its facts must not stand for the other.
    for (jump, context_when_zero) in [(0x15, true), (0x55, false)] {
        let code = [
            op(0x61, 2, 1, 16, 0),  // r2 = rx_queue_index
            op(0x7a, 10, 0, -8, 7), // *(u64 *)(r10 - 8) = 7
            op(0xbf, 3, 1, 0, 0),   // r3 = ctx
            op(jump, 2, 0, 2, 0),   // if r2 == 0 (or != 0) skip two
            op(0xbf, 3, 10, 0, 0),  // r3 = r10
            op(0x07, 3, 0, 0, -24), // r3 -= 24
            op(0x61, 0, 3, 16, 0),  // r0 = *(u32 *)(r3 + 16): rx_queue_index, or what lies at r10 - 8
            op(0x95, 0, 0, 0, 0),
        ]
        .concat();
        let program = Program::from_bytecode("mixed", &code, &[], 1).unwrap();
        let Ok(_) = program.verify() else {
            // The kernel refuses it; so may we.
            continue;
        };
        for engine in EngineKind::available() {
            let mut instance = program.instance(engine, 0).unwrap();
            for queue in [0u32, 5] {
                let mut frame = [0u8; 64];
                let verdict = instance.run_one(&mut XdpBuff::new(&mut frame, 0, 64, queue, &[]));
                let context = (queue == 0) == context_when_zero;
                let wanted = if context { queue } else { 7 };
                assert_eq!(
                    verdict.raw,
                    wanted,
                    "{} queue {queue} jump {jump:#x}",
                    engine.name()
                );
            }
        }
    }
}

#[test]
fn a_steering_program_reads_its_context_whole_and_in_parts_and_keeps_notes_in_it() {
    let test = "a_steering_program_reads_its_context_whole_and_in_parts_and_keeps_notes_in_it";
    let (Some(elf), Some(refused)) = (compile(test, "steering"), compile(test, "refused_steering")) else {
        return;
    };
    let refused = Loader::new().load(&Object::parse(&refused).unwrap()).unwrap();
    let info = SkbInfo {
        len: 1000,
        mark: 0xaabb_ccdd,
        queue_mapping: 3,
        protocol: u32::from(0x86ddu16.to_be()),
        ingress_ifindex: 2,
        ifindex: 4,
        hash: 0x1234_5678,
    };
    for engine in EngineKind::available() {
        let loaded = Loader::new().load(&Object::parse(&elf).unwrap()).unwrap();
        let program = loaded.program(Some("whole_and_parts")).unwrap();
        assert_eq!(program.hook(), Hook::Steering);
        let mut instance = program.instance(engine, 0).unwrap();
        for _ in 0..3 {
            let mut frame = [9u8; 128];
            let mut buf = XdpBuff::new(&mut frame, 32, 64, 2, &[]);
            assert_eq!(instance.steer(&mut buf, &info), Some(-7), "{}", engine.name());
        }
        for bad in [
            "beyond_a_field",
            "between_fields",
            "leaks_a_pointer",
            "writes_what_is_not_its_own",
        ] {
            let error = refused
                .program(Some(bad))
                .unwrap()
                .verify()
                .unwrap_err()
                .to_string();
            assert!(error.contains("context"), "{bad}: {error}");
        }
        // An XDP program is no steering program.
        let xdp = loaded.program(Some("xdp_program")).unwrap();
        let mut xdp = xdp.instance(engine, 0).unwrap();
        let mut frame = [0u8; 64];
        assert_eq!(
            xdp.steer(&mut XdpBuff::new(&mut frame, 0, 64, 0, &[]), &info),
            None
        );
    }
}
