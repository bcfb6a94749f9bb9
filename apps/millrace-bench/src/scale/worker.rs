//! Workers that run at the same time, each with its queue pair.

use crate::path::rig::Rig;
use crate::report::Summary;
use crate::{BenchError, clock};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Turns before anything is measured: every buffer and every slot has been touched.
const WARM_UP: u32 = 16;
/// Fewest turns that a median is made of.
const LEAST_TURNS: usize = 7;

/// What one worker found.
pub struct Measured {
    /// Nanoseconds a packet.
    pub time: Summary,
    /// Core cycles a nanosecond, on its processor.
    pub gigahertz: f64,
}

/// Runs a worker for each rig, turns of `frames` frames each, until every worker's turns have taken `nanos`: none of them is
/// measured while another has already ended.
pub fn run(rigs: Vec<Rig>, frames: u32, nanos: u64) -> Result<Vec<Measured>, BenchError> {
    let start = Barrier::new(rigs.len());
    let at_work = AtomicUsize::new(rigs.len());
    thread::scope(|scope| {
        let mut handles = Vec::new();
        for (i, rig) in rigs.into_iter().enumerate() {
            let worker = Worker { rig, frames, last: 0 };
            let (start, at_work) = (&start, &at_work);
            handles.push(
                thread::Builder::new()
                    .name(format!("worker {i}"))
                    .spawn_scoped(scope, move || {
                        clock::stay_on_nth_cpu(i);
                        worker.work(nanos, start, Measuring::new(at_work))
                    })
                    .map_err(BenchError::Thread)?,
            );
        }
        handles
            .into_iter()
            .map(|handle| handle.join().map_err(|_| BenchError::WorkerGone)?)
            .collect()
    })
}

/// A worker that is still being measured. Once it is no longer, or has failed, the others need not wait for it.
struct Measuring<'a> {
    workers: &'a AtomicUsize,
    over: bool,
}

impl<'a> Measuring<'a> {
    fn new(workers: &'a AtomicUsize) -> Self {
        Measuring { workers, over: false }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.workers.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whether somebody is.
    fn anybody(&self) -> bool {
        self.workers.load(Ordering::Acquire) > 0
    }
}

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker {
    rig: Rig,
    frames: u32,
    /// Frames of the last turn, which the NIC has yet to send.
    last: u32,
}

impl Worker {
    fn turn(&mut self) -> Result<u64, BenchError> {
        self.rig.supply(self.last, self.frames)?;
        self.last = self.frames;
        let start = clock::wall_nanos();
        self.rig.drain(self.frames as usize);
        Ok(clock::wall_nanos() - start)
    }

    fn work(
        mut self,
        nanos: u64,
        start: &Barrier,
        mut measuring: Measuring<'_>,
    ) -> Result<Measured, BenchError> {
        let warm = (0..WARM_UP).try_for_each(|_| self.turn().map(drop));
        let gigahertz = clock::gigahertz();
        let cost = clock::wall_reading_cost();
        start.wait();
        warm?;
        let (mut used, mut samples) = (0, Vec::new());
        while measuring.anybody() {
            let spent = self.turn()?;
            if measuring.over {
                continue;
            }
            samples.push((spent as f64 - cost).max(0.0) / f64::from(self.frames));
            // An interruption is no work, and must not end the measurement.
            used += spent.clamp(1, nanos / LEAST_TURNS as u64 + 1);
            if used >= nanos && samples.len() >= LEAST_TURNS {
                measuring.end();
            }
        }
        Ok(Measured {
            time: Summary::of(&samples),
            gigahertz,
        })
    }
}
