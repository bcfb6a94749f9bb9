//! Objects and programs that nobody compiled: whatever the bytes, an error or a bounded run; never a panic.

mod common;

use common::compile;
use millrace_ebpf::{EngineKind, Loader, Object, Program, XdpBuff};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Loads and, when that works, runs every program on a frame.
fn exercise(elf: &[u8]) {
    let Ok(object) = Object::parse(elf) else { return };
    let Ok(loaded) = Loader::new().cpus(2).load(&object) else {
        return;
    };
    for program in loaded.programs() {
        run(program);
    }
}

fn run(program: &std::sync::Arc<Program>) {
    for engine in EngineKind::available() {
        run_on(program, engine);
    }
}

fn run_on(program: &std::sync::Arc<Program>, engine: EngineKind) {
    let Ok(mut instance) = program.instance_unverified_on(engine, 1) else {
        return;
    };
    instance.set_budget(20_000);
    let mut buffer = [0x45u8; 512];
    for len in [14, 60, 200] {
        // The guard bytes around the buffer's middle are checked by the interpreter's own bounds, and by these asserts.
        let (head, rest) = buffer.split_at_mut(32);
        let (frame, tail) = rest.split_at_mut(448);
        let before = (head.to_vec(), tail.to_vec());
        let mut buf = XdpBuff::new(frame, 128, len, 0, &[1, 2, 3, 4]);
        instance.run_one(&mut buf);
        assert!(buf.data_offset() + buf.len() <= 448);
        assert_eq!(before, (head.to_vec(), tail.to_vec()));
    }
}

fn objects(test: &str) -> Option<Vec<Vec<u8>>> {
    ["count", "edges", "calls", "redirects", "events", "arith"]
        .iter()
        .map(|name| compile(test, name))
        .collect()
}

#[test]
fn cut_objects_are_refused_or_run() {
    let Some(objects) = objects("cut_objects_are_refused_or_run") else {
        return;
    };
    for elf in &objects {
        for len in (0..elf.len()).step_by(37) {
            exercise(&elf[..len]);
        }
    }
}

#[test]
fn mutated_objects_are_refused_or_run() {
    let Some(objects) = objects("mutated_objects_are_refused_or_run") else {
        return;
    };
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..12);
    let mut runner = TestRunner::new(Config {
        cases: 3000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&(0..objects.len(), changes), |(which, changes)| {
            let mut elf = objects[which].clone();
            for (at, value, how) in changes {
                let at = at.index(elf.len());
                match how {
                    0 => elf[at] = value,
                    1 => elf[at] ^= 1 << (value & 7),
                    2 => elf[at] = [0, 0x7f, 0x80, 0xff][usize::from(value & 3)],
                    _ => {
                        let end = (at + usize::from(value)).min(elf.len());
                        elf[at..end].fill(0xff);
                    }
                }
            }
            exercise(&elf);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_programs_are_refused_or_run_within_bounds() {
    // Opcodes that exist, so that many programs get past the load.
    const CODES: [u8; 72] = [
        0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x47, 0x4f, 0x57, 0x5f, 0x67, 0x6f, 0x77, 0x7f, 0x87,
        0x97, 0x9f, 0xa7, 0xaf, 0xb7, 0xbf, 0xc7, 0xcf, 0xd7, 0x04, 0x0c, 0x14, 0x34, 0x3c, 0x94, 0x9c, 0xb4,
        0xbc, 0xc4, 0xd4, 0xdc, 0x61, 0x69, 0x71, 0x79, 0x81, 0x89, 0x91, 0x62, 0x6a, 0x72, 0x7a, 0x63, 0x6b,
        0x73, 0x7b, 0xc3, 0xdb, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x45, 0x55, 0x65, 0xa5, 0xb5, 0xc5, 0x16,
        0x26, 0x85, 0x85, 0x95,
    ];
    let slot = (
        0..CODES.len(),
        0..11u8,
        0..11u8,
        -6..12i16,
        prop_oneof![-16..64i32, any::<i32>()],
    );
    let mut runner = TestRunner::new(Config {
        cases: 20_000,
        failure_persistence: None,
        ..Config::default()
    });
    let mut ran = 0u32;
    let counter = std::cell::Cell::new(0u32);
    runner
        .run(&proptest::collection::vec(slot, 1..24), |slots| {
            let mut bytes = Vec::new();
            for (code, dst, src, off, imm) in slots {
                let code = CODES[code];
                let memory = matches!(code & 7, 1..=3);
                let jump = matches!(code & 7, 5 | 6) && code != 0x85 && code != 0x95;
                let dst = if code & 3 == 3 || code & 7 == 4 || code & 7 == 1 {
                    dst % 10
                } else {
                    dst
                };
                let src = if code == 0x85 { src % 2 } else { src };
                let imm = match code {
                    0xd4 | 0xdc | 0xd7 => [16, 32, 64][imm.unsigned_abs() as usize % 3],
                    0xc3 | 0xdb => [0, 1, 0x40, 0x51, 0xa1, 0xe1, 0xf1][imm.unsigned_abs() as usize % 7],
                    0x85 => imm % 210,
                    _ => imm,
                };
                let off = if memory || jump { off } else { 0 };
                bytes.extend([code, dst | src << 4]);
                bytes.extend(off.to_le_bytes());
                bytes.extend(imm.to_le_bytes());
            }
            bytes.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
            if let Ok(program) = Program::from_bytecode("random", &bytes, &[], 2) {
                run(&program);
                counter.set(counter.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    ran += counter.get();
    assert!(
        ran > 500,
        "only {ran} programs got past the load: the generator has become useless"
    );
}
