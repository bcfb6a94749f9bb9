//! The same generated programs before our verifier and the kernel's: whom does each refuse?

mod common;
#[path = "common/generate.rs"]
mod generate;
#[path = "common/kernel.rs"]
mod kernel;

use std::collections::BTreeMap;
use std::sync::Arc;

use generate::Random;
use kernel::{KernelProgram, available};
use millrace_ebpf::maps::BPF_F_RDONLY_PROG;
use millrace_ebpf::{EngineKind, Fault, LoadError, Map, MapDef, MapFlags, MapType, Program, XdpBuff};

fn maps() -> Vec<Arc<Map>> {
    let make = |name: &str, kind, key_size, value_size, max_entries, flags| {
        let def = MapDef {
            name: name.into(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
        };
        Arc::new(Map::new(&def, 1).unwrap())
    };
    let fixed = make(".rodata", MapType::Array, 4, 16, 1, BPF_F_RDONLY_PROG);
    let words: Vec<u8> = [0u32, 1, 2, 300].iter().flat_map(|w| w.to_ne_bytes()).collect();
    fixed.update(&[0; 4], &words, MapFlags::Any).unwrap();
    fixed.freeze().unwrap();
    vec![
        make("array", MapType::Array, 4, 64, 4, 0),
        make("hash", MapType::Hash, 4, 16, 8, 0),
        make("ring", MapType::Ringbuf, 0, 0, 4096, 0),
        fixed,
    ]
}

/// A message without what differs from program to program.
fn class(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('N') => {}
            '0'..='9' => out.push('N'),
            c => out.push(c),
        }
    }
    out
}

/// Reasons for which the kernel refuses programs that are safe here: what its message's class has in it, and why.
const EXPLAINED: [(&str, &str); 7] = [
    ("reserved fields", "fields that no engine reads may hold anything"),
    ("bpf_ld_imm", "likewise the fields of a 64-bit load"),
    ("unreachable insn", "what no path reaches never runs"),
    ("btf_id", "likewise a call of a kernel function that is not here"),
    ("misaligned stack access", "engines access the stack bytewise"),
    ("subtraction from stack pointer", "it is followed here"),
    ("!read_ok", "helpers that return nothing give a number here"),
];

/// Marks the class of a program with an instruction about which more is known here than there: a quotient or remainder,
/// a shift by a register, a number compared with itself, a pointer that equals data_end, a number of less than 8 bytes
/// kept on the stack, null given to a helper as memory of size 0.
const TIGHTER: &str = " (with what is known better here)";

fn known_better(code: &[u8]) -> bool {
    code.as_chunks::<8>().0.iter().any(|i| {
        let (class, op, by_register) = (i[0] & 7, i[0] & 0xf0, i[0] & 8 != 0);
        match class {
            4 | 7 => matches!(op, 0x30 | 0x90) || (matches!(op, 0x60 | 0x70 | 0xc0) && by_register),
            2 | 3 => i[0] & 0x18 != 0x18 && i[1] & 15 == 10,
            5 | 6 => {
                let same = i[1] & 15 == i[1] >> 4 || matches!(op, 0x10 | 0x50);
                (by_register && same) || (i[0] == 0x85 && i[4] == 28)
            }
            _ => false,
        }
    })
}

/// Runs a program that only we accept: it must not trip a check of the interpreter.
fn checked_run(program: &Arc<Program>, n: u64) {
    let mut instance = program.instance(EngineKind::Interp, 0).unwrap();
    let mut random = Random::new(n);
    for len in [14, 20, 34, 54, 61, 200, 1000] {
        let frame: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let (verdict, _) = common::run(&mut instance, &frame);
        assert_eq!(
            verdict.fault,
            Fault::None,
            "program {n}: {:?}",
            instance.last_fault()
        );
    }
}

#[test]
fn what_the_kernel_refuses_and_we_accept_is_explained() {
    let test = "what_the_kernel_refuses_and_we_accept_is_explained";
    if !available(test) {
        return;
    }
    let soak = std::env::var("MILLRACE_SOAK").is_ok_and(|v| v == "1");
    let count = if soak { 200_000 } else { 3_000 };
    let maps = maps();
    let first = {
        let code = [[0xb7u8, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]].concat();
        Program::from_bytecode("first", &code, &maps, 1).unwrap()
    };
    let theirs = KernelProgram::load(&first).unwrap();
    let (mut both, mut kernel_accepts, mut ours, mut complex) = (0u32, 0u32, 0u32, 0u32);
    let mut stricter: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    let mut looser: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for n in 0..count {
        let bytes = generate::program(&mut Random::new(n + 77_000_000), false);
        let Ok(program) = Program::from_bytecode("random", &bytes, &maps, 1) else {
            continue;
        };
        let we = program.verify();
        // The kernel can take minutes over a loop that does not end.
        if we.as_ref().is_err_and(|e| e.to_string().contains("too complex")) {
            complex += 1;
            continue;
        }
        let they = KernelProgram::load_with(&program, &theirs.maps);
        ours += u32::from(we.is_ok());
        kernel_accepts += u32::from(they.is_ok());
        match (&we, &they) {
            (Ok(_), Ok(_)) => both += 1,
            (Err(LoadError::Refused(refusal)), Ok(_)) => {
                let entry = stricter.entry(class(&refusal.what)).or_insert((0, n));
                entry.0 += 1;
            }
            (Ok(_), Err(log)) => {
                let lines: Vec<_> = log
                    .lines()
                    .filter(|l| !l.starts_with("processed") && !l.starts_with("verification"))
                    .collect();
                checked_run(&program, n);
                let tighter = if known_better(&bytes) { TIGHTER } else { "" };
                let name = class(lines.last().unwrap_or(&"")) + tighter;
                let entry = looser.entry(name).or_insert((0, n));
                entry.0 += 1;
            }
            _ => {}
        }
    }
    println!(
        "{count} programs: the kernel accepts {kernel_accepts}, we accept {ours}, both {both}; {complex} too complex for us"
    );
    println!("the kernel accepts, we refuse:");
    for (class, (n, example)) in &stricter {
        println!("  {n} (such as {example}): {class}");
    }
    println!("we accept, the kernel refuses:");
    let mut unexplained = Vec::new();
    for (class, (n, example)) in &looser {
        let known = EXPLAINED.iter().find(|(has, _)| class.contains(has)).map(|w| w.1);
        let why = known.or(class
            .ends_with(TIGHTER)
            .then_some("the kernel walks paths or ranges that cannot be"));
        println!("  {n} (such as {example}): {class} -- {}", why.unwrap_or("?"));
        if why.is_none() {
            unexplained.push((class, n, example));
        }
    }
    assert!(
        f64::from(both) >= 0.95 * f64::from(kernel_accepts),
        "{both} of {kernel_accepts}"
    );
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

/// The kernel turns the field of a `struct bpf_xdp_sock` into another access than that of a map value, so it refuses one load that
/// meets both. Here both are memory that an engine reads as it is.
#[test]
fn one_load_may_meet_a_socket_and_a_map_value() {
    let i = |code: u8, regs: u8, off: i16, imm: i32| {
        let (o, m) = (off.to_le_bytes(), imm.to_le_bytes());
        [code, regs, o[0], o[1], m[0], m[1], m[2], m[3]]
    };
    let map = |kind, value_size| {
        let def = MapDef {
            name: "map".into(),
            kind,
            key_size: 4,
            value_size,
            max_entries: 4,
            flags: 0,
        };
        Arc::new(Map::new(&def, 1).unwrap())
    };
    let maps = [map(MapType::Xskmap, 4), map(MapType::Array, 8)];
    // r7 = rx_queue_index; the key 0 lies on the stack.
    let code = [
        i(0x61, 0x17, 16, 0),
        i(0x62, 0x0a, -4, 0),
        i(0xbf, 0xa2, 0, 0),
        i(0x07, 0x02, 0, -4),
        // Odd queues look into the array, even ones into the XSKMAP.
        i(0x57, 0x07, 0, 1),
        i(0x55, 0x07, 3, 0),
        i(0x18, 0x51, 0, 0),
        i(0, 0, 0, 0),
        i(0x05, 0, 2, 0),
        i(0x18, 0x51, 0, 1),
        i(0, 0, 0, 0),
        i(0x85, 0, 0, 1),
        i(0x15, 0x00, 1, 0),
        // Either pointer.
        i(0x61, 0x00, 0, 0),
        i(0x95, 0, 0, 0),
    ];
    let program = Program::from_bytecode("either", &code.concat(), &maps, 1).unwrap();
    program.verify().unwrap();
    maps[0]
        .update(&[0; 4], &2u32.to_ne_bytes(), MapFlags::Any)
        .unwrap();
    maps[1]
        .update(&[0; 4], &3u64.to_ne_bytes(), MapFlags::Any)
        .unwrap();
    for engine in [EngineKind::Interp, EngineKind::default()] {
        let mut instance = program.instance(engine, 0).unwrap();
        for (queue, expected) in [(0, 2), (1, 3), (2, 2)] {
            let mut frame = [0u8; 64];
            let verdict = instance.run_one(&mut XdpBuff::new(&mut frame, 0, 64, queue, &[]));
            assert_eq!(
                (verdict.raw, verdict.fault),
                (expected, Fault::None),
                "{engine:?}"
            );
        }
    }
    if available("one_load_may_meet_a_socket_and_a_map_value") {
        let refused = KernelProgram::load(&program).err().unwrap_or_default();
        assert!(refused.contains("same insn cannot be used"), "{refused}");
    }
}
