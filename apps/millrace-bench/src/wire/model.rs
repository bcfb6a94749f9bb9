//! The models alone: driver and models take turns in one thread, and the models' turns are timed.

use super::ports::Ports;
use super::trial::FCS;
use crate::report::Summary;
use crate::{BenchError, clock, step};
use millrace_driver::queue::{BATCH, RxBatch, TxMeta};
use millrace_nic_models::packet::build::Frame;
use std::net::Ipv4Addr;

/// Frames of a turn.
const FRAMES: usize = 256;
/// Rounds in which models surely come to rest.
const ROUNDS: usize = 32;
/// Frames before anything is measured.
const WARM_UP: usize = 20_000;

/// What the models take for a frame: fetched by the sender, carried over, and delivered by the receiver.
pub struct Measured {
    pub nanos: Summary,
    /// `None` where this processor cannot be single-stepped.
    pub instructions: Option<f64>,
}

/// Measures for `millis` milliseconds of the models' time, and counts one turn's instructions behind that.
pub fn measure(ports: &mut Ports, size: u16, millis: u64) -> Result<Measured, BenchError> {
    let Some(models) = ports.model_pair().cloned() else {
        return Err(BenchError::OnlyModels);
    };
    let frame = Frame::new()
        .macs(ports.from.port.mac(), ports.to.port.mac())
        .ipv4(Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 19, 0, 1))
        .udp(49184, 7)
        .payload(&vec![0; usize::from(size - FCS) - 42])
        .build();
    let (Some(tx), Some(rx)) = (&mut ports.from.tx, &mut ports.to.rx) else {
        return Err(BenchError::QueuesGone);
    };
    let mut batch = RxBatch::new();
    let all: Vec<u8> = (0..BATCH as u8).collect();
    let cost = clock::wall_reading_cost();
    let (mut samples, mut done, mut used) = (Vec::new(), 0, 0);
    let mut instructions = None;
    let mut counted = false;
    // The turn behind the last one that is timed is counted.
    while !counted {
        let timed = used < millis * 1_000_000;
        let mut sent = 0;
        while sent < FRAMES {
            let n = tx.allocate(&mut batch, BATCH, size - FCS);
            batch.for_each_head(|bytes| {
                bytes.iter_mut().zip(&frame).for_each(|(to, from)| *to = *from);
            });
            match tx.push_frames(&mut batch, &all[..n], &TxMeta::NONE) {
                0 => break,
                n => sent += n,
            }
            tx.submit();
        }
        // A round moves a batch.
        let rounds = || {
            for _ in 0..sent.div_ceil(BATCH) {
                models[0].step();
                models[1].step();
            }
        };
        let (mut count, start) = (None, clock::wall_nanos());
        if timed {
            rounds();
        } else {
            count = step::count(rounds).ok().map(|((), count)| count);
            counted = true;
        }
        let spent = clock::wall_nanos() - start;
        let mut received = 0;
        loop {
            match rx.poll(&mut batch) {
                0 => break,
                n => received += n,
            }
        }
        done += received;
        if received < sent || received == 0 {
            // The rest comes with the next turn; this one is no sample.
            for model in &models {
                model.settle(ROUNDS);
            }
            while rx.poll(&mut batch) > 0 {}
            used += spent.max(1);
            continue;
        }
        instructions = count.map(|count| count as f64 / received as f64);
        if timed && done > WARM_UP {
            samples.push((spent as f64 - cost).max(0.0) / received as f64);
            used += spent.max(1);
        }
    }
    if samples.is_empty() {
        return Err(BenchError::NoTraffic {
            counters: format!("{:?}, {:?}", models[0].counters(), models[1].counters()),
        });
    }
    Ok(Measured {
        nanos: Summary::of(&samples),
        instructions,
    })
}
