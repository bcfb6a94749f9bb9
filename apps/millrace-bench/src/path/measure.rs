//! One case: the driver's turns, the floor's between them, and instructions.

use super::case::{Case, Scenario, State};
use super::floor::Floor;
use super::peer::{Absent, Peer};
use super::rig::{Rig, STAGES, Stage, Unwatched, Watch};
use super::worker::ByWorker;
use crate::report::{Summary, round};
use crate::{BenchError, clock, step};
use memmap2::{Advice, MmapMut};
use serde::Serialize;
use std::hint::black_box;

/// Fewest turns that a median is made of.
const LEAST_TURNS: usize = 7;
/// A peer takes a turn with one in so many of ours.
const PEERS_EVERY: usize = 16;
/// Times round the ring before anything is measured: every buffer and every slot has been touched.
const WARM_UP: u32 = 8;

/// What was measured of a case.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Nanoseconds a packet.
    pub time: Summary,
    /// The floor's, from turns between the driver's.
    pub floor: Summary,
    /// The peers', also from turns between, in the order in which they were given; or why there are none.
    pub peers: Vec<Result<Summary, Absent>>,
    /// Core cycles a nanosecond, meanwhile.
    pub gigahertz: f64,
}

/// A stage's share.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// `receive`, `program`, `sort`, `work`, `push` or `submit`.
    pub stage: &'static str,
    /// Core cycles a packet.
    pub cycles_per_packet: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
}

/// Whose turns are measured.
enum Player {
    /// The driver's queues, used as a scenario has it.
    Queues(Box<Rig>),
    /// A worker of the framework.
    Worker(Box<ByWorker>),
}

impl Player {
    fn new(case: &Case) -> Result<Player, BenchError> {
        Ok(match case.scenario {
            Scenario::Worker => Player::Worker(Box::new(ByWorker::new(case)?)),
            _ => Player::Queues(Box::new(Rig::new(case)?)),
        })
    }

    fn page_bytes(&self) -> usize {
        match self {
            Player::Queues(rig) => rig.page_bytes(),
            Player::Worker(worker) => worker.page_bytes(),
        }
    }

    fn supply(&mut self, before: u32, frames: u32) -> Result<(), BenchError> {
        match self {
            Player::Queues(rig) => rig.supply(before, frames),
            Player::Worker(worker) => worker.supply(before, frames),
        }
    }

    fn recall(&self) {
        match self {
            Player::Queues(rig) => rig.recall(),
            Player::Worker(worker) => worker.recall(),
        }
    }

    #[inline]
    fn drain(&mut self, frames: usize) {
        match self {
            Player::Queues(rig) => rig.drain(frames),
            Player::Worker(worker) => worker.drain_with(frames, &mut Unwatched),
        }
    }

    fn drain_with(&mut self, frames: usize, watch: &mut impl Watch) {
        match self {
            Player::Queues(rig) => rig.drain_with(frames, watch),
            Player::Worker(worker) => worker.drain_with(frames, watch),
        }
    }
}

/// The driver's turns, with the NIC's between them.
pub struct Turns {
    player: Player,
    floor: Floor,
    /// Memory that is read to push out everything else, and whether what the driver keeps for itself comes back.
    thrash: Option<MmapMut>,
    recall: bool,
    /// Frames of a turn: half a ring.
    frames: u32,
    /// Frames of the last turn, which the NIC has yet to send.
    last: u32,
}

impl Turns {
    pub fn new(case: &Case) -> Result<Turns, BenchError> {
        let bytes = match case.state {
            State::Warm => 0,
            State::L3 => 2 * clock::cache_bytes(2),
            State::Cold => 2 * clock::cache_bytes(3),
        };
        let player = Player::new(case)?;
        let mut turns = Turns {
            floor: Floor::new(case, player.page_bytes())?,
            player,
            thrash: (bytes > 0).then(|| thrash(bytes)).transpose()?,
            recall: case.state == State::L3,
            frames: case.ring / 2,
            last: 0,
        };
        for _ in 0..2 * WARM_UP {
            turns.turn(Player::drain)?;
            turns.floor_turn(Floor::drain);
        }
        Ok(turns)
    }

    /// Bytes of a page of the packet buffers.
    pub fn page_bytes(&self) -> usize {
        self.player.page_bytes()
    }

    fn turn<T>(&mut self, turn: impl FnOnce(&mut Player, usize) -> T) -> Result<T, BenchError> {
        self.player.supply(self.last, self.frames)?;
        self.last = self.frames;
        self.push_out();
        if self.recall {
            self.player.recall();
        }
        Ok(turn(&mut self.player, self.frames as usize))
    }

    fn floor_turn<T>(&mut self, turn: impl FnOnce(&mut Floor, usize) -> T) -> T {
        self.floor.supply(self.frames as usize);
        self.push_out();
        turn(&mut self.floor, self.frames as usize)
    }

    /// Reads so much memory that what lay in the caches above no longer does.
    fn push_out(&mut self) {
        if let Some(thrash) = &mut self.thrash {
            for line in thrash.iter_mut().step_by(64) {
                *line = line.wrapping_add(1);
            }
            black_box(thrash.first());
        }
    }

    /// Times turns of driver, floor and peers until the driver's have taken `nanos`.
    pub fn measure(
        &mut self,
        nanos: u64,
        peers: &mut [Result<Peer, Absent>],
        mut progress: impl FnMut(u64),
    ) -> Result<Measured, BenchError> {
        let cost = clock::wall_reading_cost();
        let per_frame = |nanos: u64, frames: u32| (nanos as f64 - cost).max(0.0) / f64::from(frames);
        let before = clock::gigahertz();
        let (mut used, mut ours, mut floors) = (0, Vec::new(), Vec::new());
        let mut theirs: Vec<Vec<f64>> = vec![Vec::new(); peers.len()];
        while used < nanos || ours.len() < LEAST_TURNS {
            let spent = self.turn(|player, frames| {
                let start = clock::wall_nanos();
                player.drain(frames);
                clock::wall_nanos() - start
            })?;
            let floor = self.floor_turn(|floor, frames| {
                let start = clock::wall_nanos();
                floor.drain(frames);
                clock::wall_nanos() - start
            });
            ours.push(per_frame(spent, self.frames));
            floors.push(per_frame(floor, self.frames));
            // A peer's turn costs two switches of processes, so it comes with some of ours only.
            let theirs_too = ours.len() % PEERS_EVERY == 1;
            for (peer, samples) in peers.iter_mut().zip(&mut theirs).filter(|_| theirs_too) {
                if let Ok(one) = peer {
                    match one.nanos_per_packet(cost) {
                        Ok(nanos) => samples.push(nanos),
                        Err(why) => *peer = Err(why),
                    }
                }
            }
            // An interruption is no work, and must not end the measurement.
            used += spent.clamp(1, nanos / LEAST_TURNS as u64);
            progress(used.min(nanos));
        }
        Ok(Measured {
            time: Summary::of(&ours),
            floor: Summary::of(&floors),
            peers: peers
                .iter()
                .zip(&theirs)
                .map(|(peer, samples)| match peer {
                    Ok(_) => Ok(Summary::of(samples)),
                    Err(why) => Err(why.clone()),
                })
                .collect(),
            gigahertz: before.max(clock::gigahertz()),
        })
    }

    /// Instructions a frame, by single steps over a turn.
    pub fn instructions(&mut self) -> Result<f64, BenchError> {
        let counted = self.turn(|player, frames| step::count(|| player.drain(frames)))?;
        let ((), count) = counted.map_err(BenchError::Counting)?;
        Ok(count as f64 / f64::from(self.frames))
    }

    /// What each stage takes.
    pub fn breakdown(&mut self, count: bool) -> Result<Vec<Share>, BenchError> {
        const TURNS: usize = 200;
        let cost = clock::wall_reading_cost();
        let gigahertz = clock::gigahertz();
        let mut nanos: [Vec<f64>; STAGES] = Default::default();
        for _ in 0..TURNS {
            let mut watch = Timed {
                nanos: [0; STAGES],
                times: [0; STAGES],
            };
            self.turn(|player, frames| player.drain_with(frames, &mut watch))?;
            for ((all, nanos), times) in nanos.iter_mut().zip(watch.nanos).zip(watch.times) {
                let own = nanos as f64 - cost * f64::from(times);
                all.push(own.max(0.0) / f64::from(self.frames));
            }
        }
        let mut counted = Counted {
            counts: [0; STAGES],
            failure: None,
        };
        if count {
            self.turn(|player, frames| player.drain_with(frames, &mut counted))?;
            if let Some(error) = counted.failure {
                return Err(BenchError::Counting(error));
            }
        }
        let shares = Stage::ALL.iter().zip(&nanos).zip(counted.counts);
        let ran = |nanos: &[f64]| nanos.iter().any(|nanos| *nanos > 0.0);
        Ok(shares
            .filter(|((_, nanos), instructions)| *instructions > 0 || ran(nanos))
            .map(|((stage, nanos), instructions)| Share {
                stage: stage.name(),
                cycles_per_packet: round(Summary::of(nanos).median * gigahertz),
                instructions_per_packet: count.then(|| round(instructions as f64 / f64::from(self.frames))),
            })
            .collect())
    }
}

/// Memory to push out what lies in the caches, on large pages if the system gives some: small ones would also push out most
/// of what the processor knows of pages, which no NIC does.
fn thrash(bytes: usize) -> Result<MmapMut, BenchError> {
    let mut memory =
        MmapMut::map_anon(bytes.next_multiple_of(2 << 20) + (2 << 20)).map_err(BenchError::Memory)?;
    // Only a request: without it the bench measures a little more than it should.
    let _ = memory.advise(Advice::HugePage);
    memory.fill(1);
    Ok(memory)
}

struct Timed {
    nanos: [u64; STAGES],
    times: [u32; STAGES],
}

impl Watch for Timed {
    #[inline(always)]
    fn stage<T>(&mut self, stage: Stage, part: impl FnOnce() -> T) -> T {
        let start = clock::wall_nanos();
        let result = part();
        self.nanos[stage as usize] += clock::wall_nanos() - start;
        self.times[stage as usize] += 1;
        result
    }
}

struct Counted {
    counts: [u64; STAGES],
    failure: Option<std::io::Error>,
}

impl Watch for Counted {
    fn stage<T>(&mut self, stage: Stage, part: impl FnOnce() -> T) -> T {
        let mut result = None;
        let mut part = Some(part);
        let outcome = step::count(|| {
            if let Some(part) = part.take() {
                result = Some(part());
            }
        });
        match outcome {
            Ok(((), count)) => self.counts[stage as usize] += count,
            Err(error) => self.failure = Some(error),
        }
        match (result, part) {
            (Some(result), _) => result,
            // Counting never began.
            (None, Some(part)) => Unwatched.stage(stage, part),
            (None, None) => unreachable!("the part ran and gave its result"),
        }
    }
}
