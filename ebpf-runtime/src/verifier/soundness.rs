//! Runs held against what the verifier recorded: at each step the machine must be in one of the states that it saw for
//! that instruction, and no accepted program may trip a check of the interpreter.

use std::sync::Arc;

use super::state::{Kind, Reg};
use super::trace::{Trace, Visited};
use super::{Limits, live, proto, verify_with};
use crate::insn;
use crate::interp::{Core, Interp, Machine, Watch};
use crate::maps::{BPF_F_RDONLY_PROG, MapDef, MapFlags};
use crate::mem::space::CTX_ADDR;
use crate::{Fault, Map, MapType, Program, XdpBuff};

#[path = "../../tests/common/generate.rs"]
mod generate;

use generate::Random;

struct Watcher<'a> {
    trace: &'a Trace,
    live: &'a [live::Regs],
    maps: &'a [Arc<Map>],
    /// Whether numbers on which nothing depends are compared too.
    exact: bool,
    steps: u64,
    wrong: Option<String>,
}

impl Watch for Watcher<'_> {
    fn step(&mut self, pc: usize, machine: &Machine, core: &Core, buf: &XdpBuff<'_>) {
        self.steps += 1;
        if self.wrong.is_some() {
            return;
        }
        let visits = self.trace.visits.get(pc).map_or(&[][..], Vec::as_slice);
        let fits = visits.iter().any(|v| self.fits(v, pc, machine, core, buf));
        if !fits {
            let seen: Vec<_> = visits
                .iter()
                .take(6)
                .map(|v| format!("  depth {}: {}", v.depth, show(&v.regs)))
                .collect();
            self.wrong = Some(format!(
                "instruction {pc} at depth {} with {:x?}, data {:x} end {:x} fp {:x}: none of {} recorded states\n{}",
                machine.depth,
                &machine.regs[..11],
                buf.data.addr(),
                buf.data_end.addr(),
                core.space.frame_pointer(machine.depth),
                visits.len(),
                seen.join("\n")
            ));
        }
    }
}

fn show(regs: &[Reg; 11]) -> String {
    let all: Vec<_> = regs
        .iter()
        .enumerate()
        .map(|(i, r)| format!("r{i}={r}"))
        .collect();
    all.join(", ")
}

impl Watcher<'_> {
    fn fits(&self, seen: &Visited, pc: usize, machine: &Machine, core: &Core, buf: &XdpBuff<'_>) -> bool {
        seen.depth == machine.depth
            && (0..11).all(|n| {
                let dead = n < 10 && self.live[pc] & (1 << n) == 0;
                dead || self.holds(&seen.regs[n], seen.depended[n], machine.regs[n], core, buf)
            })
    }

    /// Whether a register's value is one that the description allows.
    fn holds(&self, reg: &Reg, depended: bool, value: u64, core: &Core, buf: &XdpBuff<'_>) -> bool {
        if reg.or_null && value == 0 {
            return true;
        }
        let rest = |base: u64| value.wrapping_sub(base).wrapping_sub(i64::from(reg.off) as u64);
        match reg.kind {
            Kind::Uninit
            | Kind::Stale
            | Kind::PacketBits
            | Kind::Func(_)
            | Kind::MapKey(_)
            | Kind::MapPtr(_) => true,
            Kind::Scalar => !(depended || self.exact) || reg.value.contains(value),
            Kind::Ctx => value == CTX_ADDR,
            Kind::Stack(frame) => reg.value.contains(rest(core.space.frame_pointer(frame.into()))),
            Kind::Packet => {
                let variable = rest(buf.data.addr() as u64);
                reg.value.contains(variable)
                    && (reg.range == 0 || variable.wrapping_add(reg.range.into()) <= buf.len() as u64)
            }
            Kind::Meta => reg.value.contains(rest(buf.data_meta.addr() as u64)),
            Kind::PacketEnd => value == buf.data_end.addr() as u64,
            Kind::MapValue(map) => {
                let map = &self.maps[map.index as usize];
                match reg.value.known() {
                    Some(v) => {
                        let base = rest(v);
                        map.range_at(base).is_some_and(|r| r.addr() == base)
                    }
                    None => map
                        .range_at(value)
                        .is_none_or(|r| reg.value.contains(rest(r.addr()))),
                }
            }
            Kind::Record(_) => value != 0,
        }
    }
}

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
    let fixed = make("fixed", MapType::Array, 4, 16, 1, BPF_F_RDONLY_PROG);
    let words: Vec<u8> = [0u32, 1, 2, 300].iter().flat_map(|w| w.to_ne_bytes()).collect();
    fixed.update(&[0; 4], &words, MapFlags::Any).unwrap();
    fixed.freeze().unwrap();
    let hash = make("hash", MapType::Hash, 4, 16, 8, 0);
    for key in 0..3u32 {
        hash.update(&key.to_ne_bytes(), &[key as u8; 16], MapFlags::Any)
            .unwrap();
    }
    vec![
        make("array", MapType::Array, 4, 64, 4, 0),
        hash,
        make("ring", MapType::Ringbuf, 0, 0, 4096, 0),
        fixed,
    ]
}

#[derive(Default, Debug)]
struct Tally {
    programs: u64,
    loaded: u64,
    accepted: u64,
    runs: u64,
    steps: u64,
}

/// Verifies and runs `count` programs; `exact` compares all numbers, without it only those that something depends on.
fn soak(count: u64, seed: u64, exact: bool) -> Tally {
    let maps = maps();
    let mut tally = Tally::default();
    let limits = Limits {
        instructions: 20_000,
        exact,
        ..Limits::default()
    };
    for n in 0..count {
        let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(n));
        let bytes = generate::program(&mut random, true);
        tally.programs += 1;
        let Ok(program) = Program::from_bytecode("random", &bytes, &maps, 1) else {
            continue;
        };
        tally.loaded += 1;
        let mut trace = Trace::default();
        let Ok(verified) = verify_with(program.body(), program.collection(), limits, Some(&mut trace)) else {
            continue;
        };
        tally.accepted += 1;
        let live = live::live(&program.body().insns, proto::arguments);
        let functions = program.body().functions.iter().zip(&verified.functions);
        let zeroed = functions
            .filter(|(_, f)| f.zero)
            .map(|((start, _), _)| *start)
            .collect();
        let _ = program.body().zeroed.set(zeroed);
        let looping = program
            .body()
            .insns
            .iter()
            .any(|i| i.code == insn::CALL && i.imm == 181);
        let mut interp = Interp::new(&program, 0);
        interp.core.budget = 1 << 17;
        let mut watcher = Watcher {
            trace: &trace,
            live: &live,
            maps: &maps,
            exact,
            steps: 0,
            wrong: None,
        };
        for len in [14, 20, 34, 54, 61, 200, 1000] {
            let mut buffer: Vec<u8> = (0..1400).map(|_| random.next() as u8).collect();
            let mut buf = XdpBuff::new(&mut buffer, 128, len, 0, &[]);
            let verdict = interp.run_watched(&mut buf, &mut watcher);
            tally.runs += 1;
            let told = || format!("program {n} of seed {seed}, {len} bytes, exact {exact}");
            // bpf_loop ends, but may take longer than the interpreter's budget.
            let patient = looping && verdict.fault == Fault::Budget;
            assert!(
                verdict.fault == Fault::None || patient,
                "{}: {:?}",
                told(),
                interp.last_fault()
            );
            if let Some(wrong) = &watcher.wrong {
                panic!("{}: {wrong}", told());
            }
        }
        let _ = maps[generate::RING as usize].consume(usize::MAX, |_| {});
        tally.steps += watcher.steps;
    }
    println!("{tally:?}");
    tally
}

fn count(short: u64) -> u64 {
    let soak = std::env::var("MILLRACE_SOAK").is_ok_and(|v| v == "1");
    if soak { 500_000 } else { short }
}

#[test]
fn runs_stay_within_what_the_verifier_recorded() {
    let tally = soak(count(16_000), 1, false);
    assert!(
        tally.accepted * 2 > tally.programs,
        "the generator has become useless: {tally:?}"
    );
}

#[test]
fn runs_stay_within_the_recorded_ranges_of_every_number() {
    let tally = soak(count(4_000), 2, true);
    assert!(
        tally.accepted * 2 > tally.programs,
        "the generator has become useless: {tally:?}"
    );
}
