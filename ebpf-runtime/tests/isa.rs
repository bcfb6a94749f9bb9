//! Conformance by instruction, after RFC 9669: each operation over pairs of edge values, against what the RFC's words say
//! written down here once more, and against the Linux kernel where that is permitted.

mod common;
#[path = "common/kernel.rs"]
mod kernel;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_ebpf::{EngineKind, Fault, LoadError, Program};

/// One instruction slot.
fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Vec<u8> {
    let mut slot = vec![code, dst | src << 4];
    slot.extend_from_slice(&off.to_le_bytes());
    slot.extend_from_slice(&imm.to_le_bytes());
    slot
}

/// `rN = 64-bit constant`.
fn imm64(dst: u8, value: u64) -> Vec<u8> {
    [
        op(0x18, dst, 0, 0, value as u32 as i32),
        op(0, 0, 0, 0, (value >> 32) as u32 as i32),
    ]
    .concat()
}

const EXIT: u8 = 0x95;

/// Wraps code that leaves its result in r0: stores r0 into the frame's first 8 bytes. r6 is the frame.
fn program(body: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [
        op(0x61, 6, 1, 0, 0),  // r6 = data
        op(0x61, 7, 1, 4, 0),  // r7 = data_end
        op(0xbf, 8, 6, 0, 0),  // r8 = r6 + 16
        op(0x07, 8, 0, 0, 16), //
        op(0xbd, 8, 7, 2, 0),  // if r8 <= r7 goto body
        op(0xb7, 0, 0, 0, 0),  //
        op(EXIT, 0, 0, 0, 0),
    ]
    .concat();
    out.extend(body.concat());
    out.extend(op(0x7b, 6, 0, 0, 0)); // *(u64 *)r6 = r0
    out.extend(op(0xb7, 0, 0, 0, 2)); // r0 = XDP_PASS
    out.extend(op(EXIT, 0, 0, 0, 0));
    out
}

struct Case {
    what: String,
    program: Arc<Program>,
    want: u64,
}

fn case(what: String, body: &[Vec<u8>], want: u64) -> Case {
    let program =
        Program::from_bytecode("case", &program(body), &[], 1).unwrap_or_else(|e| panic!("{what}: {e}"));
    Case { what, program, want }
}

/// Runs on rbpf those cases that it does not refuse, and says how many it does and why.
fn on_rbpf(name: &str, engine: EngineKind, cases: &[Case]) {
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut ran = 0;
    for case in cases {
        let reason = match case.program.instance(engine, 0) {
            Ok(mut instance) => {
                let (verdict, frame) = common::run(&mut instance, &[0u8; 64]);
                let got = u64::from_le_bytes(frame[..8].try_into().unwrap());
                let right = (verdict.raw, got) == (2, case.want);
                assert!(
                    right,
                    "{} on {}: got {got:#x}, want {:#x}",
                    case.what,
                    engine.name(),
                    case.want
                );
                ran += 1;
                continue;
            }
            Err(LoadError::EngineRefused { reason, .. }) => reason,
            Err(LoadError::Refused(_)) => "the verifier refuses it".into(),
            Err(error @ LoadError::EngineUnavailable(..)) => {
                println!("SKIP {name} (on {}): {error}", engine.name());
                return;
            }
            Err(error) => panic!("{}: {error}", case.what),
        };
        *refused.entry(reason).or_default() += 1;
    }
    println!(
        "{name}: {} runs {ran} of {}; refused: {refused:?}",
        engine.name(),
        cases.len()
    );
}

/// Runs the cases here, and a share of them in the kernel.
fn check(name: &str, cases: &[Case]) {
    for engine in EngineKind::available() {
        for case in cases {
            let mut instance = case.program.instance_unverified_on(engine, 0).unwrap();
            let (verdict, frame) = common::run(&mut instance, &[0u8; 64]);
            let what = format!("{} on {}", case.what, engine.name());
            assert_eq!(verdict.raw, 2, "{what}: {:?}", instance.last_fault());
            let got = u64::from_le_bytes(frame[..8].try_into().unwrap());
            assert_eq!(got, case.want, "{what}: got {got:#x}, want {:#x}", case.want);
        }
    }
    for engine in [EngineKind::Rbpf, EngineKind::RbpfInterp] {
        on_rbpf(name, engine, cases);
    }
    if !kernel::available(&format!("{name} (in the kernel)")) {
        return;
    }
    let mut refused = 0;
    let share = cases.len().div_ceil(1200).max(1);
    for case in cases.iter().step_by(share) {
        match kernel::KernelProgram::load(&case.program) {
            Ok(program) => {
                let out = program.run(&[0u8; 64]).unwrap();
                let got = u64::from_le_bytes(out.frame[..8].try_into().unwrap());
                assert_eq!(
                    got, case.want,
                    "{} in the kernel: {got:#x}, want {:#x}",
                    case.what, case.want
                );
            }
            // Its verifier refuses some constants (a shift by 64, a division by 0).
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused * 4 < cases.len(),
        "{name}: the kernel refuses {refused} of {}",
        cases.len()
    );
}

const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    31,
    32,
    63,
    0x7f,
    0x80,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

type Binary = (&'static str, u8, i16, fn(u64, u64) -> u64, fn(u32, u32) -> u32);

fn binaries() -> Vec<Binary> {
    vec![
        ("add", 0x00, 0, |a, b| a.wrapping_add(b), |a, b| a.wrapping_add(b)),
        ("sub", 0x10, 0, |a, b| a.wrapping_sub(b), |a, b| a.wrapping_sub(b)),
        ("mul", 0x20, 0, |a, b| a.wrapping_mul(b), |a, b| a.wrapping_mul(b)),
        (
            "div",
            0x30,
            0,
            |a, b| a.checked_div(b).unwrap_or(0),
            |a, b| a.checked_div(b).unwrap_or(0),
        ),
        (
            "sdiv",
            0x30,
            1,
            |a, b| {
                if b == 0 {
                    0
                } else {
                    (a as i64).wrapping_div(b as i64) as u64
                }
            },
            |a, b| {
                if b == 0 {
                    0
                } else {
                    (a as i32).wrapping_div(b as i32) as u32
                }
            },
        ),
        ("or", 0x40, 0, |a, b| a | b, |a, b| a | b),
        ("and", 0x50, 0, |a, b| a & b, |a, b| a & b),
        ("lsh", 0x60, 0, |a, b| a << (b & 63), |a, b| a << (b & 31)),
        ("rsh", 0x70, 0, |a, b| a >> (b & 63), |a, b| a >> (b & 31)),
        (
            "mod",
            0x90,
            0,
            |a, b| a.checked_rem(b).unwrap_or(a),
            |a, b| a.checked_rem(b).unwrap_or(a),
        ),
        (
            "smod",
            0x90,
            1,
            |a, b| {
                if b == 0 {
                    a
                } else {
                    (a as i64).wrapping_rem(b as i64) as u64
                }
            },
            |a, b| {
                if b == 0 {
                    a
                } else {
                    (a as i32).wrapping_rem(b as i32) as u32
                }
            },
        ),
        ("xor", 0xa0, 0, |a, b| a ^ b, |a, b| a ^ b),
        ("mov", 0xb0, 0, |_, b| b, |_, b| b),
        (
            "arsh",
            0xc0,
            0,
            |a, b| ((a as i64) >> (b & 63)) as u64,
            |a, b| ((a as i32) >> (b & 31)) as u32,
        ),
    ]
}

#[test]
fn arithmetic_by_register_follows_the_rfc() {
    let mut cases = Vec::new();
    for (name, code, off, wide, narrow) in binaries() {
        for a in EDGES {
            for b in EDGES {
                let set = [imm64(1, a), imm64(2, b)];
                let body = |class| {
                    [
                        set.to_vec(),
                        vec![op(code | 0x08 | class, 1, 2, off, 0), op(0xbf, 0, 1, 0, 0)],
                    ]
                    .concat()
                };
                cases.push(case(format!("{name}64 {a:#x}, {b:#x}"), &body(0x07), wide(a, b)));
                let want = u64::from(narrow(a as u32, b as u32));
                cases.push(case(format!("{name}32 {a:#x}, {b:#x}"), &body(0x04), want));
            }
        }
    }
    check("arithmetic_by_register_follows_the_rfc", &cases);
}

#[test]
fn arithmetic_by_constant_sign_extends_the_constant() {
    let mut cases = Vec::new();
    for (name, code, off, wide, narrow) in binaries() {
        for a in EDGES {
            for b in [0i32, 1, 2, 31, 63, 127, -1, -2, i32::MAX, i32::MIN] {
                let extended = i64::from(b) as u64;
                let shifts = matches!(name, "lsh" | "rsh" | "arsh");
                let body = |class| [imm64(0, a), op(code | class, 0, 0, off, b)];
                if !shifts || (0..64).contains(&b) {
                    cases.push(case(
                        format!("{name}64 {a:#x}, imm {b}"),
                        &body(0x07),
                        wide(a, extended),
                    ));
                }
                if !shifts || (0..32).contains(&b) {
                    let want = u64::from(narrow(a as u32, b as u32));
                    cases.push(case(format!("{name}32 {a:#x}, imm {b}"), &body(0x04), want));
                }
            }
        }
    }
    check("arithmetic_by_constant_sign_extends_the_constant", &cases);
}

#[test]
fn moves_negations_and_byte_swaps_follow_the_rfc() {
    let mut cases = Vec::new();
    for a in EDGES
        .into_iter()
        .chain([0x0123_4567_89ab_cdef, 0x80_8180_8283_8485])
    {
        let unary = |code: u8, off: i16, imm: i32| [imm64(0, a), op(code, 0, 0, off, imm)];
        let mut add =
            |what: &str, body: &[Vec<u8>], want: u64| cases.push(case(format!("{what} {a:#x}"), body, want));
        add("neg64", &unary(0x87, 0, 0), (a as i64).wrapping_neg() as u64);
        add("neg32", &unary(0x84, 0, 0), u64::from((a as u32).wrapping_neg()));
        add("movsx8", &unary(0xbf, 8, 0), a as i8 as u64);
        add("movsx16", &unary(0xbf, 16, 0), a as i16 as u64);
        add("movsx32", &unary(0xbf, 32, 0), a as i32 as u64);
        add("movsx8 w", &unary(0xbc, 8, 0), u64::from(a as i8 as u32));
        add("movsx16 w", &unary(0xbc, 16, 0), u64::from(a as i16 as u32));
        add("le16", &unary(0xd4, 0, 16), u64::from(a as u16));
        add("le32", &unary(0xd4, 0, 32), u64::from(a as u32));
        add("le64", &unary(0xd4, 0, 64), a);
        add("be16", &unary(0xdc, 0, 16), u64::from((a as u16).swap_bytes()));
        add("be32", &unary(0xdc, 0, 32), u64::from((a as u32).swap_bytes()));
        add("be64", &unary(0xdc, 0, 64), a.swap_bytes());
        add("bswap16", &unary(0xd7, 0, 16), u64::from((a as u16).swap_bytes()));
        add("bswap32", &unary(0xd7, 0, 32), u64::from((a as u32).swap_bytes()));
        add("bswap64", &unary(0xd7, 0, 64), a.swap_bytes());
    }
    check("moves_negations_and_byte_swaps_follow_the_rfc", &cases);
}

type Condition = (&'static str, u8, fn(u64, u64) -> bool, fn(u32, u32) -> bool);

#[test]
fn jumps_compare_signed_and_unsigned_in_both_widths() {
    let conditions: [Condition; 11] = [
        ("jeq", 0x10, |a, b| a == b, |a, b| a == b),
        ("jgt", 0x20, |a, b| a > b, |a, b| a > b),
        ("jge", 0x30, |a, b| a >= b, |a, b| a >= b),
        ("jset", 0x40, |a, b| a & b != 0, |a, b| a & b != 0),
        ("jne", 0x50, |a, b| a != b, |a, b| a != b),
        (
            "jsgt",
            0x60,
            |a, b| a as i64 > b as i64,
            |a, b| a as i32 > b as i32,
        ),
        (
            "jsge",
            0x70,
            |a, b| a as i64 >= b as i64,
            |a, b| a as i32 >= b as i32,
        ),
        ("jlt", 0xa0, |a, b| a < b, |a, b| a < b),
        ("jle", 0xb0, |a, b| a <= b, |a, b| a <= b),
        (
            "jslt",
            0xc0,
            |a, b| (a as i64) < b as i64,
            |a, b| (a as i32) < b as i32,
        ),
        (
            "jsle",
            0xd0,
            |a, b| a as i64 <= b as i64,
            |a, b| a as i32 <= b as i32,
        ),
    ];
    let mut cases = Vec::new();
    for (name, code, wide, narrow) in conditions {
        for a in EDGES {
            for b in EDGES {
                let body = |class| {
                    [
                        imm64(1, a),
                        imm64(2, b),
                        op(0xb7, 0, 0, 0, 1),
                        op(code | 0x08 | class, 1, 2, 1, 0),
                        op(0xb7, 0, 0, 0, 0),
                    ]
                };
                cases.push(case(
                    format!("{name}64 {a:#x}, {b:#x}"),
                    &body(0x05),
                    u64::from(wide(a, b)),
                ));
                cases.push(case(
                    format!("{name}32 {a:#x}, {b:#x}"),
                    &body(0x06),
                    u64::from(narrow(a as u32, b as u32)),
                ));
            }
            for b in [0i32, 1, 127, -1, i32::MAX, i32::MIN] {
                let body = |class| {
                    [
                        imm64(1, a),
                        op(0xb7, 0, 0, 0, 1),
                        op(code | class, 1, 0, 1, b),
                        op(0xb7, 0, 0, 0, 0),
                    ]
                };
                let extended = i64::from(b) as u64;
                cases.push(case(
                    format!("{name}64 {a:#x}, imm {b}"),
                    &body(0x05),
                    u64::from(wide(a, extended)),
                ));
                cases.push(case(
                    format!("{name}32 {a:#x}, imm {b}"),
                    &body(0x06),
                    u64::from(narrow(a as u32, b as u32)),
                ));
            }
        }
    }
    let over = [
        op(0xb7, 0, 0, 0, 7),
        op(0x05, 0, 0, 1, 0),
        op(0xb7, 0, 0, 0, 8),
        op(0x06, 0, 0, 0, 1),
        op(0xb7, 0, 0, 0, 9),
    ];
    cases.push(case("ja, gotol".into(), &over, 7));
    check("jumps_compare_signed_and_unsigned_in_both_widths", &cases);
}

#[test]
fn loads_and_stores_of_every_width_zero_or_sign_extend() {
    let mut cases = Vec::new();
    for a in [
        0x0123_4567_89ab_cdefu64,
        0xfedc_ba98_7654_3210,
        0x8080_8080_8080_8080,
        0x7f7f_7f7f_7f7f_7f7f,
    ] {
        // The stack holds a; each load reads its low bytes.
        let load = |code: u8| [imm64(1, a), op(0x7b, 10, 1, -8, 0), op(code, 0, 10, -8, 0)];
        let mut add =
            |what: &str, body: &[Vec<u8>], want: u64| cases.push(case(format!("{what} {a:#x}"), body, want));
        add("ldxb", &load(0x71), u64::from(a as u8));
        add("ldxh", &load(0x69), u64::from(a as u16));
        add("ldxw", &load(0x61), u64::from(a as u32));
        add("ldxdw", &load(0x79), a);
        add("ldsxb", &load(0x91), a as i8 as u64);
        add("ldsxh", &load(0x89), a as i16 as u64);
        add("ldsxw", &load(0x81), a as i32 as u64);
        let store = |code: u8| {
            [
                imm64(1, a),
                op(0x7a, 10, 0, -8, -1),
                op(code, 10, 1, -8, 0),
                op(0x79, 0, 10, -8, 0),
            ]
        };
        add("stxb", &store(0x73), !0xff | a & 0xff);
        add("stxh", &store(0x6b), !0xffff | a & 0xffff);
        add("stxw", &store(0x63), !0xffff_ffff | a & 0xffff_ffff);
        add("stxdw", &store(0x7b), a);
        let constant = |code: u8| {
            [
                op(0x7a, 10, 0, -8, -1),
                op(code, 10, 0, -8, 0x1234_5678),
                op(0x79, 0, 10, -8, 0),
            ]
        };
        add("stb", &constant(0x72), !0xff | 0x78);
        add("sth", &constant(0x6a), !0xffff | 0x5678);
        add("stw", &constant(0x62), !0xffff_ffff | 0x1234_5678);
        add("stdw", &constant(0x7a), 0x1234_5678);
    }
    check("loads_and_stores_of_every_width_zero_or_sign_extend", &cases);
}

#[test]
fn atomics_change_memory_and_fetch_what_was_there() {
    type Change = fn(u64, u64) -> u64;
    let operations: [(&str, i32, Change); 5] = [
        ("add", 0x00, |m, r| m.wrapping_add(r)),
        ("or", 0x40, |m, r| m | r),
        ("and", 0x50, |m, r| m & r),
        ("xor", 0xa0, |m, r| m ^ r),
        ("xchg", 0xe0, |_, r| r),
    ];
    let mut cases = Vec::new();
    for m in [
        0u64,
        5,
        0xffff_ffff,
        0x1_0000_0000,
        u64::MAX,
        0x0123_4567_89ab_cdef,
    ] {
        for r in [0u64, 1, 0xffff_ffff, 0xffff_ffff_0000_0001, u64::MAX] {
            for (name, imm, change) in operations {
                for fetch in [false, true] {
                    if name == "xchg" && !fetch {
                        continue;
                    }
                    let imm = imm | i32::from(fetch);
                    let run = |code: u8, result: Vec<u8>| {
                        [
                            imm64(1, m),
                            imm64(2, r),
                            op(0x7b, 10, 1, -8, 0),
                            op(code, 10, 2, -8, imm),
                            result,
                        ]
                    };
                    let memory = op(0x79, 0, 10, -8, 0);
                    let register = op(0xbf, 0, 2, 0, 0);
                    let what = format!("{name} fetch={fetch} {m:#x}, {r:#x}");
                    let low = u64::from(change(m & 0xffff_ffff, r & 0xffff_ffff) as u32);
                    cases.push(case(
                        format!("{what}: 64-bit memory"),
                        &run(0xdb, memory.clone()),
                        change(m, r),
                    ));
                    cases.push(case(
                        format!("{what}: 32-bit memory"),
                        &run(0xc3, memory),
                        m & !0xffff_ffff | low,
                    ));
                    let (wide, narrow) = if fetch { (m, m & 0xffff_ffff) } else { (r, r) };
                    cases.push(case(
                        format!("{what}: 64-bit register"),
                        &run(0xdb, register.clone()),
                        wide,
                    ));
                    cases.push(case(
                        format!("{what}: 32-bit register"),
                        &run(0xc3, register),
                        narrow,
                    ));
                }
            }
            // Compare and exchange: r0 is what is expected, and gets what was there.
            for expected in [m, m ^ 1, m ^ (1 << 40)] {
                let run = |code: u8, result: Vec<u8>| {
                    [
                        imm64(1, m),
                        imm64(2, r),
                        imm64(0, expected),
                        op(0x7b, 10, 1, -8, 0),
                        op(code, 10, 2, -8, 0xf1),
                        result,
                    ]
                };
                let memory = op(0x79, 0, 10, -8, 0);
                let register = op(0xbf, 0, 0, 0, 0);
                let what = format!("cmpxchg {m:#x}, {r:#x}, expecting {expected:#x}");
                let wide = if expected == m { r } else { m };
                let same = expected as u32 == m as u32;
                let narrow = if same {
                    m & !0xffff_ffff | r & 0xffff_ffff
                } else {
                    m
                };
                cases.push(case(
                    format!("{what}: 64-bit memory"),
                    &run(0xdb, memory.clone()),
                    wide,
                ));
                cases.push(case(format!("{what}: 32-bit memory"), &run(0xc3, memory), narrow));
                cases.push(case(
                    format!("{what}: 64-bit result"),
                    &run(0xdb, register.clone()),
                    m,
                ));
                cases.push(case(
                    format!("{what}: 32-bit result"),
                    &run(0xc3, register),
                    m & 0xffff_ffff,
                ));
            }
        }
    }
    check("atomics_change_memory_and_fetch_what_was_there", &cases);
}

#[test]
fn calls_keep_callee_saved_registers_and_give_each_function_its_stack() {
    let body = [
        op(0xb7, 6, 0, 0, 60),   // r6..r9 survive the call
        op(0xb7, 9, 0, 0, 90),   //
        op(0x7a, 10, 0, -8, 5),  // own stack: 5
        op(0xb7, 1, 0, 0, 1000), // argument
        op(0x85, 0, 1, 0, 5),    // call function
        op(0x79, 1, 10, -8, 0),  // own stack is untouched
        op(0x0f, 0, 1, 0, 0),    //
        op(0x0f, 0, 6, 0, 0),    //
        op(0x0f, 0, 9, 0, 0),    //
        op(EXIT, 0, 0, 0, 0),    //
        op(0x7a, 10, 0, -8, 77), // function: its own stack
        op(0xb7, 6, 0, 0, 1),    // and registers
        op(0xb7, 9, 0, 0, 1),    //
        op(0x79, 0, 10, -8, 0),  //
        op(0x0f, 0, 1, 0, 0),    //
        op(EXIT, 0, 0, 0, 0),
    ]
    .concat();
    let program = Program::from_bytecode("calls", &body, &[], 1).unwrap();
    for engine in EngineKind::available() {
        let mut instance = program.instance_unverified_on(engine, 0).unwrap();
        let (verdict, _) = common::run(&mut instance, &[0; 64]);
        assert_eq!(verdict.raw, 1000 + 77 + 5 + 60 + 90, "{}", engine.name());
    }
}

#[test]
fn endless_loops_and_endless_recursion_end_in_a_fault() {
    let endless = op(0x05, 0, 0, -1, 0);
    let program = Program::from_bytecode("loop", &endless, &[], 1).unwrap();
    for engine in EngineKind::available() {
        let mut instance = program.instance_unverified_on(engine, 0).unwrap();
        instance.set_budget(10_000);
        assert_eq!(common::run(&mut instance, &[0; 64]).0.fault, Fault::Budget);
        assert_eq!(instance.stats().faults, 1);
        if engine == EngineKind::Interp {
            assert_eq!(instance.stats().instructions, 10_000);
        }
    }

    let recursive = [
        op(0x85, 0, 1, 0, 1),
        op(EXIT, 0, 0, 0, 0),
        op(0x85, 0, 1, 0, -1),
        op(EXIT, 0, 0, 0, 0),
    ]
    .concat();
    let program = Program::from_bytecode("recursion", &recursive, &[], 1).unwrap();
    for engine in EngineKind::available() {
        let mut instance = program.instance_unverified_on(engine, 0).unwrap();
        assert_eq!(common::run(&mut instance, &[0; 64]).0.fault, Fault::CallDepth);
    }
}

#[test]
fn wild_accesses_end_in_a_fault_that_names_them() {
    let mut seen = Vec::new();
    for (what, body) in [
        ("null", [op(0xb7, 1, 0, 0, 0), op(0x79, 0, 1, 0, 0)]),
        (
            "below the stack",
            [op(0xbf, 1, 10, 0, 0), op(0x79, 0, 1, -520, 0)],
        ),
        ("above the stack", [op(0xbf, 1, 10, 0, 0), op(0x7b, 1, 10, 0, 0)]),
        ("past the frame", [op(0x61, 1, 1, 4, 0), op(0x71, 0, 1, 0, 0)]),
        (
            "the context as memory",
            [op(0x79, 0, 1, 0, 0), op(0xb7, 0, 0, 0, 0)],
        ),
        (
            "a write to the context",
            [op(0x63, 1, 1, 16, 0), op(0xb7, 0, 0, 0, 0)],
        ),
        (
            "a context field in the middle",
            [op(0x61, 0, 1, 2, 0), op(0xb7, 0, 0, 0, 0)],
        ),
    ] {
        let bytes = [body.concat(), op(EXIT, 0, 0, 0, 0)].concat();
        let program = Program::from_bytecode("wild", &bytes, &[], 1).unwrap();
        let mut told = Vec::new();
        for engine in EngineKind::available() {
            let mut instance = program.instance_unverified_on(engine, 0).unwrap();
            let (verdict, _) = common::run(&mut instance, &[0; 64]);
            assert_eq!(verdict.raw, 0, "{what} on {}", engine.name());
            assert_ne!(verdict.fault, Fault::None, "{what} on {}", engine.name());
            let report = instance.last_fault().unwrap();
            assert_eq!(report.fault, verdict.fault);
            told.push((report.fault, report.insn, report.len));
            seen.push(report.to_string());
        }
        assert!(told.iter().all(|t| *t == told[0]), "{what}: {told:?}");
    }
    assert!(
        seen[0].starts_with("program `wild`, instruction 1: memory access out of bounds (8 bytes at 0x0)"),
        "{seen:?}"
    );
}

#[test]
fn instructions_outside_the_rfc_are_refused_at_load() {
    let refused = |body: &[Vec<u8>], words: &str| {
        let error = Program::from_bytecode("bad", &body.concat(), &[], 1).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{text}");
    };
    let exit = op(EXIT, 0, 0, 0, 0);
    refused(
        &[op(0xff, 0, 0, 0, 0), exit.clone()],
        "not in the instruction set",
    );
    refused(
        &[op(0xb7, 11, 0, 0, 0), exit.clone()],
        "register r11 does not exist",
    );
    refused(&[op(0xb7, 10, 0, 0, 0), exit.clone()], "r10 is read-only");
    refused(&[op(0xb7, 0, 0, 0, 0)], "past the end");
    refused(&[op(0x05, 0, 0, 5, 0), exit.clone()], "outside its function");
    refused(
        &[
            op(0x05, 0, 0, 1, 0),
            op(0x18, 0, 0, 0, 0),
            op(0, 0, 0, 0, 0),
            exit.clone(),
        ],
        "middle of instruction",
    );
    refused(&[op(0x18, 0, 0, 0, 0)], "cut short");
    refused(&[op(0x20, 0, 0, 0, 0), exit.clone()], "socket filters");
    refused(&[op(0xdb, 1, 2, 0, 0x77), exit.clone()], "atomic operation 0x77");
    refused(&[op(0xd4, 0, 0, 0, 17), exit.clone()], "byte swap of 17 bits");
    refused(&[op(0x3f, 0, 1, 5, 0), exit.clone()], "division with offset 5");
    refused(&[op(0x85, 0, 0, 0, 4), exit.clone()], "helper probe_read");
    refused(
        &[op(0x85, 0, 0, 0, 9999), exit.clone()],
        "not in the kernel's table",
    );
    refused(&[op(0x18, 1, 5, 0, 0), op(0, 0, 0, 0, 0), exit.clone()], "kind 9");
    assert!(matches!(
        Program::from_bytecode("bad", &[1, 2, 3], &[], 1),
        Err(LoadError::Unsupported(_))
    ));
}
