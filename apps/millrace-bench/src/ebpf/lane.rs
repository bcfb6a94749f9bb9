//! One engine on one case: its programs, and what each round of them took.

use std::sync::Arc;

use millrace_ebpf::kernel::KernelProgram;
use millrace_ebpf::{EngineKind, Instance, InstanceStats, LoadError, Program, Verdict, XdpBuff};

use super::cases::{self, Case, Subject};
use crate::{BenchError, clock};

/// Frames of a batch, as the workers have them.
pub const BATCH: usize = 64;
/// From one frame's buffer to the next, as in the driver, and where the frame begins in it.
pub const BUFFER: usize = 2112;
const HEADROOM: usize = 256;
/// A buffer begins at a multiple of this, as in the driver.
const LINE: usize = 64;
/// Turns that a `_many` program makes.
const TURNS: f64 = 100.0;
/// How long one program is timed before the next one's turn, in nanoseconds: so long that reading the clock does not matter, and
/// shorter than the machine stays as fast as it is.
const SECTION: u64 = 200_000;
/// The same in the kernel, where every call sets up memory and a queue for its runs first, which takes some 50 microseconds.
const KERNEL_SECTION: u64 = 4_000_000;

/// What a row is measured on.
enum Runner {
    Ours {
        once: Box<Instance>,
        many: Option<Box<Instance>>,
    },
    Kernel {
        once: KernelProgram,
        many: Option<KernelProgram>,
        /// The shortest call that ran the program once: what is taken off longer ones.
        call: u64,
    },
}

/// What one round took, in nanoseconds a run; infinite where the engine has no such thing.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// The program's own work.
    pub own: f64,
    /// A frame a call.
    pub single: f64,
    /// A batch a call.
    pub batch: f64,
}

/// An engine's programs of a case.
pub struct Lane {
    pub case: &'static str,
    pub engine: &'static str,
    runner: Runner,
    /// What a call costs by itself, where the case has no program of many turns.
    nothing: Option<Box<Lane>>,
    sections: [Section; 3],
    /// The rounds so far.
    pub rounds: Vec<Round>,
    /// The shortest times of all rounds, of what a call costs by itself too.
    best: Round,
}

impl Lane {
    pub fn new(case: &Case, engine: &'static str) -> Result<Lane, BenchError> {
        let subject = Subject::load(case)?;
        let runner = if engine == "kernel" {
            let maps = subject.in_kernel()?;
            let load =
                |program: &Arc<Program>| KernelProgram::load(program, &maps).map_err(BenchError::Kernel);
            Runner::Kernel {
                once: load(&subject.once)?,
                many: subject.many.as_ref().map(load).transpose()?,
                call: u64::MAX,
            }
        } else {
            let kind: EngineKind = engine.parse()?;
            let instance = |program: &Arc<Program>| {
                let mut instance = program.instance(kind, 0)?;
                instance.set_hints(&cases::layout());
                Ok::<_, LoadError>(Box::new(instance))
            };
            Runner::Ours {
                once: instance(&subject.once)?,
                many: subject.many.as_ref().map(instance).transpose()?,
            }
        };
        let length = match runner {
            Runner::Ours { .. } => SECTION,
            Runner::Kernel { .. } => KERNEL_SECTION,
        };
        let nothing = match case.name == cases::drop().name || subject.many.is_some() {
            true => None,
            false => Some(Box::new(Lane::new(cases::drop(), engine)?)),
        };
        let mut lane = Lane {
            case: case.name,
            engine,
            runner,
            nothing,
            sections: [Section { length, turns: 1 }; 3],
            rounds: Vec::new(),
            best: Round {
                own: f64::INFINITY,
                single: f64::INFINITY,
                batch: f64::INFINITY,
            },
        };
        lane.check(case)?;
        Ok(lane)
    }

    /// A number about a program that did something else would mean nothing.
    fn check(&mut self, case: &Case) -> Result<(), BenchError> {
        let frame = cases::frame();
        let mut seen = Vec::new();
        match &mut self.runner {
            Runner::Ours { once, many } => {
                for instance in [Some(once), many.as_mut()].into_iter().flatten() {
                    let mut arena = Frames::new(1, &frame);
                    for _ in 0..3 {
                        arena.bufs(|bufs| seen.push(instance.run_one(&mut bufs[0]).raw));
                    }
                }
            }
            Runner::Kernel { once, many, .. } => {
                for program in [Some(once), many.as_mut()].into_iter().flatten() {
                    seen.push(program.run(&frame, 3).map_err(BenchError::Kernel)?);
                }
            }
        }
        if seen.iter().all(|v| *v == case.verdict) {
            return Ok(());
        }
        Err(BenchError::WrongOutcome {
            case: case.name,
            outcome: format!("{} gives {seen:?}, not {}", self.engine, case.verdict),
        })
    }

    /// Times each of its programs once.
    pub fn round(&mut self, bufs: &mut [XdpBuff<'_>], frame: &[u8]) -> Result<(), BenchError> {
        let nothing = match &mut self.nothing {
            Some(nothing) => nothing.single(&mut bufs[..1], frame)?,
            None => 0.0,
        };
        let single = self.single(bufs, frame)?;
        let [_, batch_section, many_section] = &mut self.sections;
        let mut verdicts = [Verdict::default(); BATCH];
        let (mut batch, mut many_turns) = (f64::INFINITY, None);
        match &mut self.runner {
            Runner::Kernel { many, call, .. } => {
                if let Some(many) = many {
                    let each = many_section.time(*call, |turns| in_kernel(many, frame, turns))?;
                    many_turns = Some(each);
                }
            }
            Runner::Ours { once, many } => {
                let each = batch_section.time(0, |turns| {
                    for _ in 0..turns {
                        once.run_batch(bufs, &mut verdicts);
                    }
                    Ok(())
                })?;
                batch = each / bufs.len() as f64;
                if let Some(many) = many {
                    let each = many_section.time(0, |turns| {
                        for _ in 0..turns {
                            verdicts[0] = many.run_one(&mut bufs[0]);
                        }
                        Ok(())
                    })?;
                    many_turns = Some(each);
                }
            }
        }
        std::hint::black_box(&verdicts);
        let own = many_turns.map_or(single - nothing, |each| each / TURNS);
        self.rounds.push(Round { own, single, batch });
        self.best.single = self.best.single.min(single);
        self.best.batch = self.best.batch.min(batch);
        self.best.own = match (&self.nothing, many_turns) {
            (_, Some(_)) => self.best.own.min(own),
            // A short time less a long one, of the same round, would be too short.
            (Some(nothing), None) => self.best.single - nothing.best.single,
            (None, None) => self.best.single,
        };
        Ok(())
    }

    /// A frame a call.
    fn single(&mut self, bufs: &mut [XdpBuff<'_>], frame: &[u8]) -> Result<f64, BenchError> {
        let section = &mut self.sections[0];
        let each = match &mut self.runner {
            Runner::Kernel { once, call, .. } => {
                let begun = clock::cpu_nanos();
                in_kernel(once, frame, 1)?;
                *call = (*call).min(clock::cpu_nanos() - begun);
                section.time(*call, |turns| in_kernel(once, frame, turns))
            }
            Runner::Ours { once, .. } => section.time(0, |turns| {
                let mut verdict = Verdict::default();
                for _ in 0..turns {
                    verdict = once.run_one(&mut bufs[0]);
                }
                std::hint::black_box(&verdict);
                Ok(())
            }),
        }?;
        self.best.single = self.best.single.min(each);
        Ok(each)
    }

    /// The shortest times.
    pub fn best(&self) -> Round {
        self.best
    }

    /// The engine's own instance that runs the program once, which the kernel has not.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        match &mut self.runner {
            Runner::Ours { once, .. } => Some(once.as_mut()),
            Runner::Kernel { .. } => None,
        }
    }

    /// BPF instructions of a run's own work, where the engine counts them.
    pub fn instructions(&self) -> Option<f64> {
        let each = |stats: InstanceStats, turns| stats.instructions as f64 / stats.runs.max(1) as f64 / turns;
        let counted = match &self.runner {
            Runner::Ours { many: Some(many), .. } => each(many.stats(), TURNS),
            Runner::Ours { once, .. } => each(once.stats(), 1.0),
            Runner::Kernel { .. } => 0.0,
        };
        (counted != 0.0).then_some(counted)
    }
}

fn in_kernel(program: &KernelProgram, frame: &[u8], turns: u64) -> Result<(), BenchError> {
    let turns = u32::try_from(turns).unwrap_or(u32::MAX);
    program.run(frame, turns).map_err(BenchError::Kernel)?;
    Ok(())
}

/// What is timed round after round, each time for about as long.
#[derive(Clone, Copy)]
struct Section {
    /// Nanoseconds.
    length: u64,
    /// How often it took that long the last time.
    turns: u64,
}

impl Section {
    /// Nanoseconds of one turn, where all of them take `fixed` nanoseconds more.
    fn time(
        &mut self,
        fixed: u64,
        mut turns: impl FnMut(u64) -> Result<(), BenchError>,
    ) -> Result<f64, BenchError> {
        loop {
            let begun = clock::cpu_nanos();
            turns(self.turns)?;
            let took = (clock::cpu_nanos() - begun).saturating_sub(fixed);
            let each = took as f64 / self.turns as f64;
            if took > 2 * self.length {
                self.turns = (self.turns / 2).max(1);
            } else if took <= self.length / 2 {
                self.turns = self.turns.saturating_mul(2).min(u64::from(u32::MAX));
                continue;
            }
            return Ok(each);
        }
    }
}

/// Buffers with a frame in each.
pub struct Frames {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Frames {
    pub fn new(count: usize, frame: &[u8]) -> Frames {
        let mut memory = vec![0; count.max(1) * BUFFER + LINE];
        let start = memory.as_ptr().addr().next_multiple_of(LINE) - memory.as_ptr().addr();
        for buffer in memory[start..].chunks_exact_mut(BUFFER) {
            buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        }
        Frames {
            memory,
            start,
            len: frame.len(),
        }
    }

    /// All of them, as programs see them.
    pub fn bufs<T>(&mut self, f: impl FnOnce(&mut [XdpBuff<'_>]) -> T) -> T {
        let len = self.len;
        let mut bufs: Vec<_> = self.memory[self.start..]
            .chunks_exact_mut(BUFFER)
            .map(|buffer| XdpBuff::new(buffer, HEADROOM, len, 0, &cases::WRITE_BACK))
            .collect();
        f(&mut bufs)
    }

    /// Goes through all frames twice; gives the nanoseconds a frame of the faster pass.
    pub fn pass(&mut self, instance: &mut Instance, batch: bool) -> f64 {
        let mut best = f64::INFINITY;
        self.bufs(|bufs| {
            let mut verdicts = [Verdict::default(); BATCH];
            for _ in 0..2 {
                let begun = clock::cpu_nanos();
                for some in bufs.chunks_mut(BATCH) {
                    if batch {
                        instance.run_batch(some, &mut verdicts);
                    } else {
                        for (buf, verdict) in some.iter_mut().zip(&mut verdicts) {
                            *verdict = instance.run_one(buf);
                        }
                    }
                }
                best = best.min((clock::cpu_nanos() - begun) as f64 / bufs.len() as f64);
            }
            std::hint::black_box(&verdicts);
        });
        best
    }
}
