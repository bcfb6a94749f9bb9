//! The same programs on the same frames, here and in the Linux kernel: verdicts, frames and map contents must be equal.

mod common;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/rings.rs"]
mod rings;

use std::sync::Arc;

use common::{compile_with, udp_frame};
use kernel::{KernelMap, KernelProgram, available, stay_on_one_cpu};
use millrace_ebpf::{EngineKind, Loader, Map, MapDef, MapFlags, MapType, Object, Program};
use rings::{PerfReader, Reader, RingReader};

/// Deterministic bytes.
fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    }
}

/// Frames that begin with each of `firsts` and each of `seconds`, the rest noise.
fn frames(firsts: &[u8], seconds: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (i, first) in firsts.iter().enumerate() {
        for (j, second) in seconds.iter().enumerate() {
            let mut next = noise((i * 100 + j) as u64 + 1);
            let mut frame: Vec<u8> = (0..64 + (i * 7 + j * 13) % 60).map(|_| next()).collect();
            frame[0] = *first;
            frame[1] = *second;
            out.push(frame);
        }
    }
    out
}

/// Runs the frames through both and compares after each, for each engine.
fn compare(programs: &[(EngineKind, Arc<Program>)], frames: &[Vec<u8>], what: &str) {
    for (engine, program) in programs {
        compare_on(*engine, program, frames, &format!("{what} on {}", engine.name()));
    }
}

fn compare_on(engine: EngineKind, program: &Arc<Program>, frames: &[Vec<u8>], what: &str) {
    let kernel =
        KernelProgram::load(program).unwrap_or_else(|e| panic!("{what}: the kernel refuses it: {e}"));
    let mut instance = program.instance(engine, 0).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        let theirs = kernel
            .run(frame)
            .unwrap_or_else(|e| panic!("{what}, frame {n}: {e}"));
        // A test run gives the frame with its metadata.
        let (verdict, _, bytes) = common::run_meta(&mut instance, frame);
        assert_eq!(
            verdict.raw,
            theirs.verdict,
            "{what}, frame {n} {frame:02x?}: {:?}",
            instance.last_fault()
        );
        assert!(
            bytes == theirs.frame,
            "{what}, frame {n}:\nours   {bytes:02x?}\nkernel {:02x?}",
            theirs.frame
        );
        compare_maps(program, &kernel.maps, &format!("{what}, frame {n}"));
    }
}

fn compare_maps(program: &Arc<Program>, theirs: &[KernelMap], what: &str) {
    for (ours, theirs) in program.maps().iter().zip(theirs) {
        if !matches!(ours.kind(), MapType::Array | MapType::Hash | MapType::LpmTrie) {
            continue;
        }
        for (key, value) in ours.iter() {
            let kernel = theirs.lookup(&key);
            assert_eq!(
                Some(&value),
                kernel.as_ref(),
                "{what}: map {} key {key:02x?}",
                ours.name()
            );
        }
    }
}

/// The program once for each engine, each with maps of its own.
fn programs(elf: &[u8], program: Option<&str>) -> Vec<(EngineKind, Arc<Program>)> {
    let load = |engine| {
        let loaded = Loader::new().load(&Object::parse(elf).unwrap()).unwrap();
        (engine, loaded.program(program).unwrap())
    };
    EngineKind::available().into_iter().map(load).collect()
}

#[test]
fn counting_agrees_with_the_kernel() {
    let name = "counting_agrees_with_the_kernel";
    if !available(name) {
        return;
    }
    for cpu in ["v1", "v2", "v3", "v4"] {
        let Some(elf) = compile_with(name, "count", &[&format!("-mcpu={cpu}")]) else {
            return;
        };
        let mut all: Vec<_> = (0..24)
            .map(|i| udp_frame([1, 2, 9, 53, 80, 443][i % 6]))
            .collect();
        all.extend(frames(&[0, 8], &[1, 2]));
        compare(&programs(&elf, None), &all, &format!("count {cpu}"));
    }
}

#[test]
fn arithmetic_agrees_with_the_kernel() {
    let name = "arithmetic_agrees_with_the_kernel";
    if !available(name) {
        return;
    }
    let edges: [u64; 12] = [
        0,
        1,
        2,
        31,
        63,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
    ];
    let mut all = Vec::new();
    for a in edges {
        for b in edges {
            let words = [a, b, a ^ b.rotate_left(32), b.wrapping_sub(a)];
            let mut frame: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            frame.resize(60, 0x5a);
            all.push(frame);
        }
    }
    for cpu in ["v1", "v2", "v3", "v4"] {
        let Some(elf) = compile_with(name, "arith", &[&format!("-mcpu={cpu}")]) else {
            return;
        };
        compare(&programs(&elf, None), &all, &format!("arith {cpu}"));
    }
}

#[test]
fn moving_edges_agrees_with_the_kernel() {
    let name = "moving_edges_agrees_with_the_kernel";
    if !available(name) {
        return;
    }
    for cpu in ["v1", "v3", "v4"] {
        let Some(elf) = compile_with(name, "edges", &[&format!("-mcpu={cpu}")]) else {
            return;
        };
        let by = [0, 1, 3, 4, 8, 14, 40, 60, 100, 127, 128, 200, 216, 240, 252, 255];
        compare(
            &programs(&elf, None),
            &frames(&[0, 1, 2, 3, 4, 5, 6], &by),
            &format!("edges {cpu}"),
        );
    }
}

#[test]
fn calls_agree_with_the_kernel() {
    let name = "calls_agree_with_the_kernel";
    if !available(name) {
        return;
    }
    // Callbacks would need function information in BTF, which the oracle does not hand over.
    for cpu in ["v1", "v3", "v4"] {
        let options = [&format!("-mcpu={cpu}"), "-DWITHOUT_CALLBACKS"];
        let Some(elf) = compile_with(name, "calls", &options) else {
            return;
        };
        compare(
            &programs(&elf, Some("calls")),
            &frames(&[0, 4], &[0, 1, 2, 5, 39, 40, 41, 127, 128, 200, 255]),
            &format!("calls {cpu}"),
        );
    }
}

#[test]
fn tail_calls_agree_with_the_kernel() {
    let name = "tail_calls_agree_with_the_kernel";
    if !available(name) {
        return;
    }
    let Some(elf) = compile_with(name, "calls", &["-mcpu=v3", "-DWITHOUT_CALLBACKS"]) else {
        return;
    };
    EngineKind::available()
        .into_iter()
        .for_each(|engine| tail_calls_agree(engine, &elf));
}

fn tail_calls_agree(engine: EngineKind, elf: &[u8]) {
    let loaded = Loader::new().load(&Object::parse(elf).unwrap()).unwrap();
    let again = loaded.program(Some("tail_again")).unwrap();
    let target = loaded.program(Some("tail_target")).unwrap();
    let main = loaded.program(Some("calls")).unwrap();

    // The kernel's programs must share one set of maps, so the callees are loaded over the caller's.
    let kernel = KernelProgram::load(&main).unwrap();
    let load_over = |p: &Arc<Program>| KernelProgram::load_with(p, &kernel.maps).unwrap();
    let (k_target, k_again) = (load_over(&target), load_over(&again));
    let at = main.maps().iter().position(|m| m.name() == "jumps").unwrap();
    kernel.maps[at]
        .update(&1u32.to_ne_bytes(), &k_target.fd().to_ne_bytes())
        .unwrap();
    kernel.maps[at]
        .update(&2u32.to_ne_bytes(), &k_again.fd().to_ne_bytes())
        .unwrap();
    let mut instance = main.instance(engine, 0).unwrap();
    for frame in frames(&[3], &[0, 1, 2, 3, 4, 200]) {
        let theirs = kernel.run(&frame).unwrap();
        let (verdict, _) = common::run(&mut instance, &frame);
        assert_eq!(
            verdict.raw,
            theirs.verdict,
            "entry {}: {:?}",
            frame[1],
            instance.last_fault()
        );
        compare_maps(&main, &kernel.maps, &format!("entry {}", frame[1]));
    }
}

#[test]
fn prefix_matches_agree_with_the_kernel() {
    let name = "prefix_matches_agree_with_the_kernel";
    if !available(name) {
        return;
    }
    let Some(elf) = compile_with(name, "events", &["-mcpu=v3"]) else {
        return;
    };
    let programs = programs(&elf, None);
    let prefixes: [(u32, [u8; 4], u32); 8] = [
        (0, [0, 0, 0, 0], 1),
        (8, [10, 0, 0, 0], 2),
        (16, [10, 1, 0, 0], 3),
        (24, [10, 1, 2, 0], 4),
        (32, [10, 1, 2, 3], 5),
        (9, [10, 128, 0, 0], 6),
        (31, [192, 168, 0, 2], 7),
        (1, [128, 0, 0, 0], 8),
    ];
    for (len, addr, hop) in prefixes {
        let key = [len.to_ne_bytes(), addr].concat();
        for (_, program) in &programs {
            let routes = program.maps().into_iter().find(|m| m.name() == "routes").unwrap();
            routes.update(&key, &hop.to_ne_bytes(), MapFlags::Any).unwrap();
        }
    }
    let addresses: [[u8; 4]; 12] = [
        [10, 1, 2, 3],
        [10, 1, 2, 4],
        [10, 1, 3, 3],
        [10, 2, 2, 3],
        [10, 128, 0, 1],
        [10, 127, 0, 1],
        [11, 0, 0, 1],
        [192, 168, 0, 2],
        [192, 168, 0, 3],
        [192, 168, 0, 4],
        [255, 255, 255, 255],
        [0, 0, 0, 0],
    ];
    let mut all = Vec::new();
    for address in addresses {
        let mut frame = vec![0u8; 60];
        frame[1..5].copy_from_slice(&address);
        all.push(frame);
    }
    let text = |s: &[u8]| [&[4u8], s, &[0; 59][s.len()..]].concat();
    all.extend([text(b"abcd"), text(b"abcx"), text(b"ab"), text(b"abcde")]);
    compare(&programs, &all, "events");
}

#[test]
fn lookups_of_redirect_targets_agree_with_the_kernel() {
    let name = "lookups_of_redirect_targets_agree_with_the_kernel";
    if !available(name) {
        return;
    }
    let Some(elf) = compile_with(name, "targets", &["-mcpu=v3"]) else {
        return;
    };
    // Interface 1 is the loopback device, which every network namespace has.
    let loopback = [1u32.to_ne_bytes(), [0; 4]].concat();
    for (engine, program) in programs(&elf, None) {
        let kernel = KernelProgram::load(&program).unwrap_or_else(|e| panic!("{e}"));
        let mut instance = program.instance(engine, 0).unwrap();
        let mut filled = 0;
        for (ours, theirs) in program.maps().iter().zip(&kernel.maps) {
            if matches!(ours.kind(), MapType::Devmap | MapType::DevmapHash) {
                for key in [1u32, 3] {
                    ours.update(&key.to_ne_bytes(), &loopback, MapFlags::Any).unwrap();
                    theirs.update(&key.to_ne_bytes(), &loopback).unwrap();
                    filled += 1;
                }
            }
        }
        assert_eq!(filled, 4);
        let mut found = 0;
        for frame in frames(&[0, 1, 2, 3, 4, 200], &[0, 1, 2]) {
            let theirs = kernel.run(&frame).unwrap();
            let (verdict, bytes) = common::run(&mut instance, &frame);
            let ours = (verdict.raw, &bytes);
            assert_eq!(
                ours,
                (theirs.verdict, &theirs.frame),
                "key {}, map {} on {}",
                frame[0],
                frame[1],
                engine.name()
            );
            found += u32::from(verdict.raw == 3);
        }
        assert_eq!(found, 4, "on {}", engine.name());
    }
}

/// A program that calls a map helper with a key and a value on its stack.
fn calls_helper(id: i32, map: &Arc<Map>) -> Arc<Program> {
    let mut code = Vec::new();
    let mut insn = |op: u8, regs: u8, off: i16, imm: i32| {
        code.extend([op, regs]);
        code.extend(off.to_le_bytes());
        code.extend(imm.to_le_bytes());
    };
    insn(0x7a, 0x0a, -8, 0); // *(u64 *)(r10 - 8) = 0
    insn(0x7a, 0x0a, -16, 0);
    insn(0x18, 0x51, 0, 0); // r1 = map 0
    insn(0, 0, 0, 0);
    insn(0xbf, 0xa2, 0, 0);
    insn(0x07, 0x02, 0, -8); // r2 = r10 - 8
    insn(0xbf, 0xa3, 0, 0);
    insn(0x07, 0x03, 0, -16); // r3 = r10 - 16
    insn(0xb7, 0x04, 0, 0);
    insn(0x85, 0, 0, id);
    insn(0xb7, 0x00, 0, 2); // return XDP_PASS
    insn(0x95, 0, 0, 0);
    Program::from_bytecode("asks", &code, std::slice::from_ref(map), 1).unwrap()
}

#[test]
fn which_maps_of_targets_programs_may_ask_agrees_with_the_kernel() {
    let name = "which_maps_of_targets_programs_may_ask_agrees_with_the_kernel";
    if !available(name) {
        return;
    }
    let mut taken = Vec::new();
    for kind in [
        MapType::Devmap,
        MapType::DevmapHash,
        MapType::Cpumap,
        MapType::Xskmap,
        MapType::ProgArray,
    ] {
        for (id, helper) in [(1, "lookup"), (2, "update"), (3, "delete")] {
            let def = MapDef {
                name: "targets".into(),
                kind,
                key_size: 4,
                value_size: 4,
                max_entries: 4,
                flags: 0,
            };
            let map = Arc::new(Map::new(&def, 1).unwrap());
            let program = calls_helper(id, &map);
            let (ours, theirs) = (program.verify(), KernelProgram::load(&program));
            let why = theirs.as_ref().err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "{helper} in a {}: {why}",
                kind.name()
            );
            if theirs.is_ok() {
                taken.push((helper, kind));
            }
        }
    }
    // A CPUMAP, of which one might expect a `struct bpf_cpumap_val`, is not among them.
    let asked = [MapType::Devmap, MapType::DevmapHash, MapType::Xskmap];
    assert_eq!(taken, asked.map(|kind| ("lookup", kind)));
}

#[test]
fn records_that_consumers_read_agree_with_the_kernel() {
    let name = "records_that_consumers_read_agree_with_the_kernel";
    if !available(name) {
        return;
    }
    let Some(elf) = compile_with(name, "events", &["-mcpu=v3"]) else {
        return;
    };
    let cpu = stay_on_one_cpu().unwrap();
    for engine in EngineKind::available() {
        let loaded = Loader::new()
            .cpus(cpu + 1)
            .load(&Object::parse(&elf).unwrap())
            .unwrap();
        let program = loaded.program(None).unwrap();
        let kernel = KernelProgram::load(&program).unwrap_or_else(|e| panic!("{e}"));
        let maps = program.maps();
        let at = |kind| maps.iter().position(|m| m.kind() == kind).unwrap();
        let (ring, perf) = (at(MapType::Ringbuf), at(MapType::PerfEventArray));
        let their_perf = match PerfReader::open(cpu) {
            Ok(reader) => reader,
            Err(e) => return println!("SKIP {name}: perf_event_open(2) is not permitted here ({e})"),
        };
        kernel.maps[perf]
            .update(&cpu.to_ne_bytes(), &their_perf.fd().to_ne_bytes())
            .unwrap();
        maps[perf].open_perf(cpu, 1 << 16).unwrap();
        let their_ring = RingReader::open(kernel.maps[ring].fd(), 4096).unwrap();
        let (their_ring, their_perf) = (Reader::Ring(their_ring), Reader::Perf(their_perf));
        let mut instance = program.instance(engine, cpu).unwrap();
        let (mut records, mut samples) = (0, 0);
        // Many enough that positions wrap round the ring, which keeps some of them until the consumer comes.
        for round in 0..40usize {
            for frame in frames(&[2, 3], &[0, 1, 5, 60, 61]) {
                let theirs = kernel.run(&frame).unwrap();
                let (verdict, _) = common::run(&mut instance, &frame);
                assert_eq!(verdict.raw, theirs.verdict, "{frame:02x?} on {}", engine.name());
            }
            if round % 3 != 2 {
                continue;
            }
            let what = format!("round {round} on {}", engine.name());
            let (mut ours, theirs) = (Vec::new(), their_ring.take());
            maps[ring].consume(1000, |r| ours.push(r.to_vec())).unwrap();
            assert!(
                their_ring.same(&theirs, &ours),
                "{what}: {ours:02x?}\n{theirs:02x?}"
            );
            records += ours.len();
            let (mut ours, theirs) = (Vec::new(), their_perf.take());
            maps[perf]
                .consume_perf(cpu, 1000, |r| ours.push(r.to_vec()))
                .unwrap();
            assert!(
                their_perf.same(&theirs, &ours),
                "{what}: {ours:02x?}\n{theirs:02x?}"
            );
            samples += ours.len();
        }
        assert!(
            records > 100 && samples > 100,
            "{records} records, {samples} samples"
        );
    }
}
