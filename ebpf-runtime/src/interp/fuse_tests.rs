//! Operations held against the instructions that they stand for, one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::insn::{self, Insn};
use crate::interp::unit::op;
use crate::interp::{Core, Interp, Machine, Watch};
use crate::maps::{MapDef, MapFlags};
use crate::{Fault, Map, MapType, Program, XdpBuff};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Sees to it that each instruction runs by itself.
struct Steps;

impl Watch for Steps {
    fn step(&mut self, _: usize, _: &Machine, _: &Core, _: &XdpBuff<'_>) {}
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

const LOAD32: u8 = 0x61;
const LOAD64: u8 = 0x79;
const STORE64: u8 = 0x7b;

/// Where programs keep their context and a map's value, below r10; lines use what is further down.
const CONTEXT: i16 = -8;
const VALUE: i16 = -16;

/// r6 context, r7 data, r8 a map's value, r9 an address in the frame.
fn bases() -> Vec<Insn> {
    vec![
        insn(LOAD64, 6, 10, CONTEXT, 0),
        insn(LOAD32, 7, 6, 0, 0),
        insn(LOAD64, 8, 10, VALUE, 0),
        insn(0xbf, 9, 10, 0, 0),
        insn(0x07, 9, 0, 0, -64),
    ]
}

fn prologue() -> Vec<Insn> {
    let mut code = vec![insn(STORE64, 10, 1, CONTEXT, 0), insn(0x62, 10, 0, -24, 0)];
    code.extend(lookup());
    code.push(insn(STORE64, 10, 0, VALUE, 0));
    code.extend((0..6).map(|n| insn(0xb7, n, 0, 0, i32::from(n) * 0x0108_0301)));
    code.extend(bases());
    code
}

fn lookup() -> Vec<Insn> {
    vec![
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, -24),
        insn(insn::LD_IMM64, 1, insn::IMM_MAP, 0, 0),
        insn(0, 0, 0, 0, 0),
        insn(insn::CALL, 0, 0, 0, 1),
    ]
}

/// An instruction of this kind; memory is at `off`, in the frame further down.
fn member(code: Code, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    let byte = |code: Code| (0..=255).find(|b| Code::plain(*b) == code).unwrap();
    let below = off - 96;
    tidy(match code {
        Frame32 => insn(LOAD32, dst, 10, below, 0),
        ToFrame8R => insn(byte(Store8R), 10, src, below, 0),
        ToFrame16R => insn(byte(Store16R), 10, src, below, 0),
        ToFrame32R => insn(byte(Store32R), 10, src, below, 0),
        ToFrame64R => insn(STORE64, 10, src, below, 0),
        _ => insn(byte(code), dst, src, off, imm),
    })
}

/// Without what the instruction has no use for.
fn tidy(one: Insn) -> Insn {
    let class = one.class();
    let register = one.code & 0x08 != 0;
    match class {
        insn::LDX | insn::STX => Insn { imm: 0, ..one },
        _ if matches!(one.code, insn::JA | insn::EXIT) => insn(one.code, 0, 0, 0, 0),
        _ if register => Insn {
            off: 0,
            imm: 0,
            ..one
        },
        _ => Insn {
            off: 0,
            src: 0,
            ..one
        },
    }
}

/// A line as a form has it.
fn sample(form: &Form, random: &mut Random) -> Vec<Insn> {
    if form.code == LookupAt {
        return lookup();
    }
    let numbers = [0, 1, 2, 3, 4, 5];
    loop {
        let base = random.pick(&[6, 7, 7, 7, 8, 8, 9, 1]);
        let (a, b) = (
            random.pick(&numbers),
            if random.chance(25) {
                base
            } else {
                random.pick(&numbers)
            },
        );
        let near = random.pick(&[0i16, 4, 12, 40]);
        let imm = random.pick(&[8, 16, 24, 3, 0xff, -20]);
        let c = random.pick(&numbers);
        // Longer ones would hardly come up by chance.
        let shape: &[(u8, u8, i16, i32)] = match form.code {
            HalfUp | HalfUpJne | HalfUpJeq => &[
                (a, base, 0, 0),
                (b, base, 1, 0),
                (b, 0, 0, 8),
                (b, a, 0, 0),
                (b, 0, 0, 0x0100 + imm),
            ],
            HalfDown => &[(a, base, 1, 0), (a, 0, 0, 8), (b, base, 0, 0), (a, b, 0, 0)],
            Upper => &[
                (a, base, 0, 0),
                (a, 0, 0, 16),
                (b, base, 1, 0),
                (b, 0, 0, 24),
                (b, a, 0, 0),
                (b, c, 0, 0),
            ],
            Rotate32 => &[
                (a, base, 0, 0),
                (a, 0, 0, imm),
                (b, base, 0, 0),
                (b, 0, 0, 32 - imm),
                (b, a, 0, 0),
            ],
            _ => &[],
        };
        for _ in 0..50 {
            let registers = [a, b, base];
            let mut line = Vec::new();
            for (at, codes) in form.line.iter().enumerate() {
                let by_chance = (
                    random.pick(&registers),
                    random.pick(&registers),
                    random.pick(&[0, 0, 1]),
                    random.pick(&[imm, 5]),
                );
                let (dst, src, off, imm) = shape.get(at).copied().unwrap_or(by_chance);
                line.push(member(random.pick(codes), dst, src, near + off, imm));
            }
            if form.matches(&ops(&line)) {
                return line;
            }
        }
    }
}

fn ops(line: &[Insn]) -> [Op; REACH] {
    std::array::from_fn(|at| line.get(at).map_or(Op::UNKNOWN, |insn| op(*insn, at)))
}

/// Lines of all kinds, some of them with an instruction changed, and jumps in among them.
fn program(samples: &[Vec<Insn>], random: &mut Random) -> Vec<Insn> {
    let mut code = prologue();
    for _ in 0..4 + random.below(10) {
        match random.below(10) {
            0..=3 => code.extend(bases()),
            4 => code.extend([insn(LOAD32, 4, 6, 4, 0), insn(LOAD32, 7, 6, 0, 0)]),
            5 => code.extend([insn(LOAD32, 7, 6, 0, 0), insn(LOAD32, 5, 6, 4, 0)]),
            _ => {}
        }
        let mut line = samples[random.below(samples.len() as u64) as usize].clone();
        if random.chance(20) && !line.iter().any(|i| i.is_wide()) {
            let at = random.below(line.len() as u64) as usize;
            line[at].src = random.pick(&[0, 1, 3, 7, 9]);
            line[at].off += random.pick(&[0, 0, 1, 200]);
            line[at] = tidy(line[at]);
        }
        code.extend(line);
    }
    code.extend([insn(0xb4, 0, 0, 0, 2), insn(insn::EXIT, 0, 0, 0, 0)]);
    let wide = |code: &[Insn], at: usize| at > 0 && code[at - 1].is_wide();
    for at in 0..code.len() {
        let one = code[at];
        let jumps = one.class() == insn::JMP && !matches!(one.code, insn::CALL | insn::EXIT);
        if !jumps && one.class() != insn::JMP32 {
            continue;
        }
        let to = loop {
            let back = if random.chance(15) { 12 } else { 0 };
            let to = (at + 1 + random.below(14) as usize).saturating_sub(back);
            if to < code.len() && !wide(&code, to) {
                break to;
            }
        };
        code[at].off = (to as i64 - at as i64 - 1) as i16;
    }
    code
}

fn map() -> Arc<Map> {
    let def = MapDef {
        name: "values".into(),
        kind: MapType::Array,
        key_size: 4,
        value_size: 64,
        max_entries: 2,
        flags: 0,
    };
    Arc::new(Map::new(&def, 1).unwrap())
}

fn load(code: &[Insn], map: &Arc<Map>) -> Interp {
    let bytes: Vec<u8> = code.iter().flat_map(|insn| encoded(*insn)).collect();
    let program = Program::from_bytecode("lines", &bytes, std::slice::from_ref(map), 1);
    Interp::new(&program.unwrap_or_else(|e| panic!("{e}: {code:?}")), 0)
}

/// Maps are named by their index.
fn encoded(mut insn: Insn) -> [u8; 8] {
    if insn.is_wide() && insn.src == insn::IMM_MAP {
        insn.src = 5;
    }
    insn.encode()
}

/// All that a run leaves behind.
#[derive(Debug, PartialEq)]
struct Left {
    fault: Fault,
    raw: u32,
    report: Option<(usize, u64, u64)>,
    regs: [u64; 11],
    instructions: u64,
    frame: Vec<u8>,
    value: Vec<u8>,
    stack: Vec<u64>,
}

fn run(interp: &mut Interp, map: &Map, buffer: &mut [u8], len: usize, watch: &mut impl Watch) -> Left {
    for (i, byte) in buffer.iter_mut().enumerate() {
        *byte = i as u8;
    }
    let value: Vec<u8> = (100..164).collect();
    map.update(&[0; 4], &value, MapFlags::Any).unwrap();
    interp.core.space.set_depth(0);
    interp.core.space.clear_frame(0);
    interp.fault = None;
    let before = interp.stats.instructions;
    let mut buf = XdpBuff::new(buffer, 64, len, 0, &[]);
    let verdict = interp.run_watched(&mut buf, watch);
    let top = interp.core.space.frame_pointer(0);
    let stack = (1..=64).map(|n| interp.core.space.load::<8>(&buf, top - 8 * n).unwrap());
    Left {
        fault: verdict.fault,
        raw: verdict.raw,
        stack: stack.collect(),
        report: interp.last_fault().map(|r| (r.insn, r.addr, r.len)),
        regs: *interp.machine.regs.first_chunk().unwrap(),
        instructions: interp.stats.instructions - before,
        value: map.lookup(&[0; 4]).unwrap(),
        frame: buffer.to_vec(),
    }
}

/// Runs both ways with each of the budgets; gives how the run with the largest ended.
fn same(interp: &mut Interp, map: &Map, len: usize, what: &dyn Fn() -> String) -> Left {
    let mut buffer = vec![0; 256];
    interp.core.budget = 300;
    let full = run(interp, map, &mut buffer, len, &mut Steps);
    let end = full.instructions;
    for budget in [1, 2, end / 3, end / 2, end.saturating_sub(1), end, 300] {
        interp.core.budget = budget;
        let steps = run(interp, map, &mut buffer, len, &mut Steps);
        let fused = run(interp, map, &mut buffer, len, &mut ());
        assert_eq!(fused, steps, "{} with {budget} instructions, {len} bytes", what());
    }
    full
}

#[test]
fn lines_done_at_once_leave_what_their_instructions_leave_one_by_one() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let samples: Vec<Vec<Insn>> = FORMS
        .iter()
        .flat_map(|form| (0..8).map(|_| sample(form, &mut random)).collect::<Vec<_>>())
        .collect();
    let map = map();
    let mut chosen = BTreeSet::new();
    let mut ends = [0u32; 3];
    for n in 0..1500 {
        let code = program(&samples, &mut random);
        let mut interp = load(&code, &map);
        for op in interp.units[0].code.iter().filter(|op| op.code != op.plain) {
            chosen.insert(op.code as u8);
        }
        for len in [100, 44, random.below(44) as usize] {
            let left = same(&mut interp, &map, len, &|| format!("program {n}: {code:#?}"));
            ends[match left.fault {
                Fault::None => 0,
                Fault::Budget => 1,
                _ => 2,
            }] += 1;
        }
    }
    for form in FORMS {
        assert!(
            chosen.contains(&(form.code as u8)),
            "{:?} never came up",
            form.code
        );
    }
    for edge in [Data, DataEnd, DataAndEnd, EndAndData] {
        assert!(chosen.contains(&(edge as u8)), "{edge:?} never came up");
    }
    assert!(
        ends.iter().all(|n| *n > 50),
        "the generator has become useless: {ends:?}"
    );
}

/// `*(u8 *)(r7 + to) = *(u8 *)(r7 + 2)`, which is one operation, and what it is in.
fn copying(to: i16) -> (Vec<Insn>, usize) {
    let mut code = prologue();
    let at = code.len();
    code.extend([
        insn(0x71, 1, 7, 2, 0),
        insn(0x73, 7, 1, to, 0),
        insn(0xb4, 0, 0, 0, 2),
        insn(insn::EXIT, 0, 0, 0, 0),
    ]);
    (code, at)
}

#[test]
fn fault_inside_a_line_is_told_of_the_instruction_that_made_it() {
    let map = map();
    for (to, len, behind) in [(90, 80, 1), (1, 2, 0)] {
        let (code, at) = copying(to);
        let mut interp = load(&code, &map);
        assert_eq!(interp.units[0].code[at].code, Copy8);
        let left = same(&mut interp, &map, len, &|| format!("copying to {to}"));
        let (insn, _, size) = left.report.unwrap();
        assert_eq!((left.fault, insn, size), (Fault::OutOfBounds, at + behind, 1));
    }
}

#[test]
fn jump_into_a_line_does_what_is_left_of_it() {
    let map = map();
    let (mut code, at) = copying(3);
    code.insert(at, insn(insn::JA, 0, 0, 1, 0));
    let mut interp = load(&code, &map);
    assert_eq!(interp.units[0].code[at + 1].code, Copy8);
    let left = same(&mut interp, &map, 80, &|| "jump to the store".into());
    assert_eq!(left.fault, Fault::None);
    // r1 as the prologue left it.
    assert_eq!(left.frame[64 + 3], 0x01);
}

#[test]
fn budget_that_ends_before_a_lines_jump_is_told_of_the_jump() {
    let map = map();
    let mut code = prologue();
    let at = code.len();
    code.extend([
        insn(0x07, 3, 0, 0, 1),
        insn(0x55, 3, 0, -2, 7),
        insn(insn::EXIT, 0, 0, 0, 0),
    ]);
    let mut interp = load(&code, &map);
    assert_eq!(interp.units[0].code[at].code, StepJne64);
    let left = same(&mut interp, &map, 80, &|| "a loop without end".into());
    assert_eq!((left.fault, left.instructions), (Fault::Budget, 300));
    assert_eq!(left.report.map(|r| r.0), Some(at));
}
