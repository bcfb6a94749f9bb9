//! What only compiled code has: a loop over a batch, memory for machine code, facts that checks are left out for.

mod common;

use std::sync::Mutex;

use common::{compile, udp_frame};
use millrace_ebpf::{
    EngineKind, Fault, Loader, Map, MapDef, MapFlags, MapType, Object, Program, Verdict, XdpBuff,
};

/// Machine code is counted for the whole process, so those who make some take turns.
static CODE: Mutex<()> = Mutex::new(());

fn has_jit(test: &str) -> bool {
    let there = EngineKind::available().contains(&EngineKind::Jit);
    if !there {
        println!("SKIP {test}: this build has no JIT");
    }
    there
}

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
    let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
    [code, dst | src << 4, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// Mappings of this process that may be executed, and that may be written as well.
fn mappings() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rights = maps.lines().filter_map(|l| l.split(' ').nth(1));
    rights.fold((0, 0), |(x, wx), r| {
        let (executable, both) = (r.contains('x'), r.contains('x') && r.contains('w'));
        (x + usize::from(executable), wx + usize::from(both))
    })
}

#[test]
fn code_is_given_back_after_a_thousand_replacements() {
    let test = "code_is_given_back_after_a_thousand_replacements";
    let _turn = CODE.lock().unwrap_or_else(|e| e.into_inner());
    if !has_jit(test) {
        return;
    }
    let make = |n: i32| {
        let code = [op(0xb7, 0, 0, 0, n), op(0x95, 0, 0, 0, 0)].concat();
        let program = Program::from_bytecode("number", &code, &[], 2).unwrap();
        assert!(program.compiled().is_none());
        [0, 1].map(|worker| program.instance(EngineKind::Jit, worker).unwrap())
    };
    let before = (millrace_ebpf::executable_bytes(), mappings());
    let mut current = make(0);
    let one = millrace_ebpf::executable_bytes() - before.0;
    assert!(one > 0);
    for n in 1..1000 {
        let mut next = make(n % 5);
        // Old and new side by side, then the old one goes; both workers share the code.
        assert_eq!(millrace_ebpf::executable_bytes() - before.0, 2 * one);
        for instance in &mut next {
            assert_eq!(common::run(instance, &[0; 60]).0.raw, (n % 5) as u32);
            assert!(instance.program().compiled().unwrap().bytes > 0);
        }
        current = next;
    }
    assert_eq!(mappings().1, 0, "memory that is writable and executable");
    drop(current);
    assert_eq!((millrace_ebpf::executable_bytes(), mappings()), before);
}

#[test]
fn a_batch_gives_each_frame_its_own_verdict_and_a_fault_ends_only_its_own_run() {
    let test = "a_batch_gives_each_frame_its_own_verdict_and_a_fault_ends_only_its_own_run";
    let _turn = CODE.lock().unwrap_or_else(|e| e.into_inner());
    if !has_jit(test) {
        return;
    }
    // The verdict is the frame's first byte, read without asking whether there is one; the second byte becomes 7.
    let code = [
        op(0x61, 2, 1, 0, 0),
        op(0x71, 0, 2, 0, 0),
        op(0x72, 2, 0, 1, 7),
        op(0x95, 0, 0, 0, 0),
    ]
    .concat();
    let program = Program::from_bytecode("first", &code, &[], 1).unwrap();
    for engine in EngineKind::available() {
        let mut instance = program.instance_unverified_on(engine, 0).unwrap();
        for count in [0usize, 1, 7, 8, 9, 64, 100] {
            let mut buffers = vec![[0u8; 64]; count];
            let mut verdicts = vec![Verdict::default(); count + 1];
            verdicts[count].raw = 99;
            let mut bufs: Vec<XdpBuff<'_>> = Vec::new();
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer[32] = (i % 5) as u8;
                let len = if i % 10 == 3 { 0 } else { 20 };
                bufs.push(XdpBuff::new(buffer, 32, len, 0, &[]));
            }
            instance.run_batch(&mut bufs, &mut verdicts);
            drop(bufs);
            for (i, verdict) in verdicts[..count].iter().enumerate() {
                let faults = i % 10 == 3;
                let want = if faults { 0 } else { (i % 5) as u32 };
                assert_eq!(verdict.raw, want, "{}: {i} of {count}", engine.name());
                assert_eq!(verdict.fault != Fault::None, faults, "{i} of {count}");
                assert_eq!(buffers[i][33], if faults { 0 } else { 7 });
            }
            assert_eq!(verdicts[count].raw, 99);
        }
        assert_eq!((instance.stats().runs, instance.stats().faults), (189, 20));
    }
}

/// A lookup in a read-only map whose value is then read or written at `off`, checked for null or not.
fn lookup(len: u8, off: i16, store: bool, null_check: bool) -> Vec<u8> {
    let access = match store {
        true => op(0x62 | len, 0, 0, off, 5),
        false => op(0x61 | len, 0, 0, off, 0),
    };
    [
        op(0x62, 10, 0, -4, 1), // key 1
        op(0xbf, 2, 10, 0, 0),
        op(0x07, 2, 0, 0, -4),
        op(0x18, 1, 5, 0, 0),
        op(0, 0, 0, 0, 0),
        op(0x85, 0, 0, 0, 1),
        op(
            if null_check { 0x15 } else { 0x05 },
            0,
            0,
            if null_check { 2 } else { 0 },
            0,
        ),
        access,
        op(0xb7, 0, 0, 0, 2),
        op(0x95, 0, 0, 0, 0),
    ]
    .concat()
}

#[test]
fn values_are_reached_to_their_last_byte_and_no_further() {
    let test = "values_are_reached_to_their_last_byte_and_no_further";
    let _turn = CODE.lock().unwrap_or_else(|e| e.into_inner());
    if !has_jit(test) {
        return;
    }
    const DW: u8 = 0x18;
    const RDONLY_PROG: u32 = 1 << 7;
    for kind in [MapType::Array, MapType::Hash, MapType::PercpuArray] {
        for (max_entries, flags) in [(2, 0), (2, RDONLY_PROG), (1, 0)] {
            let map = std::sync::Arc::new(
                Map::new(
                    &MapDef {
                        name: "m".into(),
                        kind,
                        key_size: 4,
                        value_size: 12,
                        max_entries,
                        flags,
                    },
                    2,
                )
                .unwrap(),
            );
            if kind == MapType::Hash && max_entries == 2 {
                map.update(&1u32.to_ne_bytes(), &[0; 12], MapFlags::Any).unwrap();
            }
            for (off, store, null_check) in (-1..14)
                .flat_map(|off| [(off, false), (off, true)])
                .flat_map(|(off, store)| [(off, store, true), (off, store, false)])
            {
                let code = lookup(DW, off, store, null_check);
                let program = Program::from_bytecode("value", &code, std::slice::from_ref(&map), 2).unwrap();
                let seen: Vec<_> = EngineKind::available()
                    .into_iter()
                    .map(|engine| {
                        let mut instance = program.instance_unverified_on(engine, 1).unwrap();
                        let (verdict, _) = common::run(&mut instance, &[0; 60]);
                        (verdict.raw, verdict.fault, instance.last_fault().map(|f| f.insn))
                    })
                    .collect();
                let what =
                    format!("{kind:?} of {max_entries}, flags {flags:#x}, offset {off}, store {store}");
                assert!(seen.iter().all(|s| *s == seen[0]), "{what}: {seen:?}");
                let there = max_entries == 2;
                let inside = (0..=4).contains(&off) && !(store && flags != 0);
                let fine = if there { inside } else { null_check };
                assert_eq!(seen[0].1 == Fault::None, fine, "{what}: {seen:?}");
            }
        }
    }
}

#[test]
fn compiling_is_timed_and_shared_by_workers() {
    let test = "compiling_is_timed_and_shared_by_workers";
    let _turn = CODE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(elf) = compile(test, "count").filter(|_| has_jit(test)) else {
        return;
    };
    let loaded = Loader::new().cpus(4).load(&Object::parse(&elf).unwrap()).unwrap();
    let program = loaded.program(None).unwrap();
    let before = millrace_ebpf::executable_bytes();
    let mut instances: Vec<_> = (0..4)
        .map(|worker| program.instance(EngineKind::Jit, worker).unwrap())
        .collect();
    let compiled = program.compiled().unwrap();
    assert!(compiled.bytes > 100 && !compiled.time.is_zero(), "{compiled:?}");
    assert_eq!(
        millrace_ebpf::executable_bytes() - before,
        compiled.bytes.next_multiple_of(4096)
    );
    // Each counts in its own value of the per-CPU map.
    for (worker, instance) in instances.iter_mut().enumerate() {
        for _ in 0..=worker {
            common::run(instance, &udp_frame(1));
        }
    }
    let totals = loaded.map("totals").unwrap().lookup_percpu(&[0; 4]).unwrap();
    assert_eq!(totals, [1u64, 2, 3, 4].map(|n| n.to_ne_bytes().to_vec()));
}
