//! One trial: frames are sent at a rate, and counted where they arrive.
//!
//! One thread sends and receives, so that one clock stamps a frame on both sides. Each frame is a UDP datagram to the
//! echo port between addresses that are set aside for benchmarks (RFC 2544, appendix C); in it stand the trial's number, the
//! frame's own, and the time at which its burst was handed to the driver.

use super::pace::Watch;
use super::ports::Ports;
use crate::{BenchError, clock};
use hdrhistogram::Histogram;
use millrace_driver::queue::{BATCH, RxBatch, RxQueue, TxMeta, TxQueue};
use millrace_nic_models::packet::build::Frame;
use std::net::Ipv4Addr;

/// Frames that are handed over at a time.
const BURST: usize = 32;
/// Headers of Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// What each frame carries behind them: trial, number, time.
const STAMP: usize = 4 + 4 + 8;
/// Bytes of a frame check sequence, which sizes include.
pub const FCS: u16 = 4;
/// So long without a frame sent or received means that something is stuck.
const STUCK_NANOS: u64 = 20_000_000_000;
/// Rounds without a frame after which the processor is offered to others.
const PATIENCE_ROUNDS: u32 = 200;
/// The longest delay that is told apart from longer ones.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Bytes of each frame, FCS included.
    pub size: u16,
    /// Frames.
    pub frames: u64,
    /// Frames a second; `None`: as many as the sender gets rid of.
    pub rate: Option<f64>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sent: u64,
    pub received: u64,
    /// Frames that arrived behind a later one.
    pub reordered: u64,
    /// From the first frame to the last, sent.
    pub sending_nanos: u64,
    /// From the first frame sent to the last received.
    pub nanos: u64,
    /// One-way delays in nanoseconds.
    pub delays: Histogram<u64>,
    /// Share of the trial in which the system had stopped a thread, in percent: none of the times here has it in it.
    pub stopped_percent: f64,
}

impl Outcome {
    /// Frames that never came.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Frames a second, sent.
    pub fn offered_pps(&self) -> f64 {
        self.sent as f64 * 1e9 / self.sending_nanos.max(1) as f64
    }

    /// Frames a second, received.
    pub fn received_pps(&self) -> f64 {
        self.received as f64 * 1e9 / self.nanos.max(1) as f64
    }

    /// In percent of what was sent.
    pub fn loss_percent(&self) -> f64 {
        self.lost() as f64 / self.sent.max(1) as f64 * 100.0
    }
}

/// The frames' first bytes.
fn template(ports: &Ports, size: u16) -> [u8; HEADERS + STAMP] {
    let payload = usize::from(size - FCS) - HEADERS;
    let frame = Frame::new()
        .macs(ports.from.port.mac(), ports.to.port.mac())
        .ipv4(Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 19, 0, 1))
        .udp(49184, 7)
        .no_udp_checksum()
        .payload(&vec![0; payload])
        .build();
    let mut first = [0; HEADERS + STAMP];
    for (to, from) in first.iter_mut().zip(frame) {
        *to = from;
    }
    first
}

/// The sender's side.
struct Sender<'a> {
    tx: &'a mut TxQueue,
    batch: RxBatch,
    first: [u8; HEADERS + STAMP],
    load: Load,
    trial: u32,
    sent: u64,
}

impl Sender<'_> {
    /// Sends what is due at `now`, nanoseconds after the trial began.
    fn send(&mut self, now: u64) {
        let due = match self.load.rate {
            // The first is due at once.
            Some(rate) => (rate * now as f64 / 1e9) as u64 + 1,
            None => u64::MAX,
        };
        let n = due
            .min(self.load.frames)
            .saturating_sub(self.sent)
            .min(BURST as u64) as usize;
        if n == 0 {
            return;
        }
        if self.tx.space() <= n {
            self.tx.reclaim();
            return;
        }
        let got = self.tx.allocate(&mut self.batch, n, self.load.size - FCS);
        let (first, trial, mut number) = (&self.first, self.trial, self.sent as u32);
        self.batch.for_each_head(|frame| {
            let Some(bytes) = frame.first_chunk_mut::<{ HEADERS + STAMP }>() else {
                return;
            };
            *bytes = *first;
            bytes[HEADERS..HEADERS + 4].copy_from_slice(&trial.to_le_bytes());
            bytes[HEADERS + 4..HEADERS + 8].copy_from_slice(&number.to_le_bytes());
            bytes[HEADERS + 8..].copy_from_slice(&now.to_le_bytes());
            number = number.wrapping_add(1);
        });
        self.sent += self.tx.push_frames(&mut self.batch, &ALL[..got], &TxMeta::NONE) as u64;
        self.tx.submit();
    }
}

/// All frames of a batch, by their numbers.
const ALL: [u8; BATCH] = {
    let mut all = [0; BATCH];
    let mut i = 0;
    while i < BATCH {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// The receiver's side.
struct Receiver<'a> {
    rx: &'a mut RxQueue,
    batch: RxBatch,
    trial: u32,
    received: u64,
    reordered: u64,
    next: u32,
    delays: Histogram<u64>,
    timed: bool,
}

impl Receiver<'_> {
    /// Takes what has come; gives how many of the trial's frames. `now` is called when there is something.
    fn receive(&mut self, now: impl FnOnce() -> u64) -> u64 {
        if self.rx.poll(&mut self.batch) == 0 {
            return 0;
        }
        let (before, now) = (self.received, now());
        let Receiver {
            batch,
            trial,
            received,
            reordered,
            next,
            delays,
            timed,
            ..
        } = self;
        batch.for_each_head(|frame| {
            let Some(stamp) = frame.get(HEADERS..).and_then(|f| f.first_chunk::<STAMP>()) else {
                return;
            };
            let [t0, t1, t2, t3, n0, n1, n2, n3, time @ ..] = *stamp;
            if u32::from_le_bytes([t0, t1, t2, t3]) != *trial {
                return;
            }
            let number = u32::from_le_bytes([n0, n1, n2, n3]);
            *reordered += u64::from((number.wrapping_sub(*next) as i32) < 0);
            *next = number.wrapping_add(1);
            *received += 1;
            if *timed {
                delays.saturating_record(now.saturating_sub(u64::from_le_bytes(time)).max(1));
            }
        });
        self.received - before
    }
}

/// Runs a trial. `timed` also keeps each frame's delay, which costs the receiver some time.
pub fn run(ports: &mut Ports, load: Load, timed: bool) -> Result<Outcome, BenchError> {
    // Frames of an earlier trial, or of somebody else, do not count.
    let trial = (clock::wall_nanos() as u32) | 1;
    let first = template(ports, load.size);
    let (running, patience) = (ports.run()?, ports.patience_nanos);
    let (Some(tx), Some(rx)) = (&mut ports.from.tx, &mut ports.to.rx) else {
        return Err(BenchError::QueuesGone);
    };
    let mut sender = Sender {
        tx,
        batch: RxBatch::new(),
        first,
        load,
        trial,
        sent: 0,
    };
    let mut receiver = Receiver {
        rx,
        batch: RxBatch::new(),
        trial,
        received: 0,
        reordered: 0,
        next: 0,
        delays: histogram()?,
        timed,
    };
    let mut watch = Watch::start(running.pace());
    let (mut sent_at, mut last_at, mut idle) = (0, 0, 0u32);
    loop {
        let (time, before) = (watch.round(), sender.sent);
        if sender.sent < load.frames {
            sender.send(time);
        }
        idle += 1;
        if receiver.receive(|| watch.now()) > 0 {
            last_at = watch.now();
            idle = 0;
        }
        if sender.sent > before {
            (sent_at, idle) = (time, 0);
        } else if idle > PATIENCE_ROUNDS && running.needs_this_cpu() {
            std::thread::yield_now();
        }
        if sender.sent >= load.frames
            && (receiver.received >= sender.sent || time > sent_at.max(last_at) + patience)
        {
            break;
        }
        if !sender.tx.is_alive() || !receiver.rx.is_alive() {
            return Err(BenchError::QueuesGone);
        }
        if time > sent_at.max(last_at) + STUCK_NANOS {
            return Err(BenchError::Stuck { sent: sender.sent });
        }
    }
    let (sent, received) = (sender.sent, receiver.received);
    let (reordered, delays) = (receiver.reordered, receiver.delays);
    Ok(Outcome {
        sent,
        received,
        reordered,
        stopped_percent: watch.stopped_percent(),
        sending_nanos: sent_at,
        nanos: last_at,
        delays,
    })
}

/// From a nanosecond to a minute, three significant digits.
fn histogram() -> Result<Histogram<u64>, BenchError> {
    Histogram::new_with_bounds(1, LONGEST_NANOS, 3).map_err(|error| BenchError::Histogram {
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_a_slow_trial_between_models_arrives_in_order() {
        let mut ports = Ports::models(256).unwrap();
        // Where every processor has other work the models may have to wait for their turn.
        ports.patience_nanos = 10_000_000_000;
        for (size, rate) in [(64, Some(20_000.0)), (1518, Some(20_000.0)), (64, None)] {
            let load = Load {
                size,
                frames: 500,
                rate,
            };
            let outcome = run(&mut ports, load, true).unwrap();
            assert_eq!(
                (outcome.sent, outcome.received, outcome.reordered),
                (500, 500, 0),
                "{load:?}"
            );
            assert_eq!(outcome.delays.len(), 500);
            assert!(outcome.delays.max() > 0 && outcome.nanos > 0);
        }
    }

    #[test]
    fn a_frame_has_the_addresses_of_both_ports_and_a_right_ip_header() {
        let ports = Ports::models(256).unwrap();
        let first = template(&ports, 64);
        let parsed = millrace_nic_models::packet::parse(&first);
        assert_eq!(first[..6], ports.to.port.mac());
        assert_eq!(parsed.dst_port(&first), Some(7));
        assert_eq!(
            millrace_nic_models::packet::checksum::verify_ip(&first, &parsed),
            millrace_nic_models::packet::ChecksumStatus::Good
        );
    }
}
