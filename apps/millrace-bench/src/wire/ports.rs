//! Two ports with a cable between: models in this process, or whatever ports are named.

use super::pace::Pace;
use crate::{BenchError, clock};
use millrace_driver::bus::{self, Device, local::LocalDevice};
use millrace_driver::port::{Port, PortConfig};
use millrace_driver::queue::{RxQueue, TxQueue};
use millrace_nic_models::device::Work;
use millrace_nic_models::ixgbe::device::{Ixgbe82599, IxgbeConfig};
use millrace_nic_models::wire;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a real link may take to come up.
const LINK_WAIT: Duration = Duration::from_secs(10);
/// How long frames may be under way. RFC 2544 (24) waits for two seconds, for networks; here is a cable.
const PATIENCE_NANOS: u64 = 250_000_000;
/// Addresses of the models.
const MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]];
/// Rounds of both models on the driver's own processor before that is offered to others.
const ROUNDS: u32 = 64;

/// One port with its one queue pair.
pub struct End {
    pub port: Port,
    pub rx: Option<RxQueue>,
    pub tx: Option<TxQueue>,
}

impl End {
    fn open(device: Arc<dyn Device>, ring: u16, link_wait: Duration) -> Result<End, BenchError> {
        let config = PortConfig {
            rx_ring: ring,
            tx_ring: ring,
            link_wait,
            ..PortConfig::default()
        };
        let mut port = Port::open(device, config)?;
        let (rx, tx) = port.take_queue(0)?;
        Ok(End {
            port,
            rx: Some(rx),
            tx: Some(tx),
        })
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let (Some(rx), Some(tx)) = (self.rx.take(), self.tx.take()) {
            // The device is quiesced with the port in any case.
            let _ = self.port.give_back(rx, tx);
        }
    }
}

/// The sending port, the receiving port, and what moves them if they are models.
pub struct Ports {
    pub from: End,
    pub to: End,
    /// After the last frame was sent, so long without one received ends a trial.
    pub patience_nanos: u64,
    models: Option<[Arc<LocalDevice>; 2]>,
    models_cpu: Option<usize>,
}

impl Ports {
    /// Two models of an 82599 with a cable of memory between.
    pub fn models(ring: u16) -> Result<Ports, BenchError> {
        let (a, b) = wire::pair();
        let make = |mac, wire| -> Result<Arc<LocalDevice>, BenchError> {
            let mut config = IxgbeConfig::new(mac, Box::new(wire));
            config.queues = 1;
            // Doorbells are plain stores, as on hardware; trapped they would run the model in the driver's thread.
            config.map_doorbells = true;
            let model = Ixgbe82599::new(config).map_err(|error| BenchError::NoModel {
                reason: error.to_string(),
            })?;
            Ok(LocalDevice::new(Box::new(model)))
        };
        let (from, to) = (make(MACS[0], a)?, make(MACS[1], b)?);
        Ok(Ports {
            from: End::open(from.clone(), ring, Duration::ZERO)?,
            to: End::open(to.clone(), ring, Duration::ZERO)?,
            patience_nanos: PATIENCE_NANOS,
            models: Some([from, to]),
            models_cpu: clock::other_cpu(clock::this_cpu()),
        })
    }

    /// The ports that two device strings name.
    pub fn named(from: &str, to: &str, ring: u16) -> Result<Ports, BenchError> {
        // Both devices first: the link comes up when both ports are there.
        let (from, to) = (bus::open(from)?, bus::open(to)?);
        let mut ports = Ports {
            from: End::open(from, ring, Duration::ZERO)?,
            to: End::open(to, ring, LINK_WAIT)?,
            patience_nanos: PATIENCE_NANOS,
            models: None,
            models_cpu: None,
        };
        for end in [&mut ports.from, &mut ports.to] {
            if !end.port.link()?.up {
                return Err(BenchError::NoLink {
                    port: end.port.driver_info().bus,
                });
            }
        }
        Ok(ports)
    }

    /// The line's frames a second for frames of `size` bytes with FCS; `None` for models, which have no line.
    pub fn line_pps(&mut self, size: u16) -> Result<Option<f64>, BenchError> {
        if self.models.is_some() {
            return Ok(None);
        }
        let speed = f64::from(self.from.port.link()?.speed_mbps) * 1e6;
        // Preamble, start of frame and the gap between frames are 20 bytes (IEEE 802.3).
        Ok((speed > 0.0).then(|| speed / 8.0 / f64::from(size + 20)))
    }

    /// Starts whatever has to run beside the driver; it stops when this is dropped. The models get a processor of their own if
    /// there is one, and are at work when this returns.
    pub fn run(&self) -> Result<Running, BenchError> {
        let Some(models) = self.models.clone() else {
            return Ok(Running::default());
        };
        let stop = Arc::new(AtomicBool::new(false));
        let pace = self.models_cpu.map(|_| Arc::new(Pace::default()));
        let (seen, with, cpu) = (stop.clone(), pace.clone(), self.models_cpu);
        let (ready, started) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("nic-models".to_owned())
            .spawn(move || {
                if let Some(cpu) = cpu {
                    clock::stay_on_cpu(cpu);
                }
                let _ = ready.send(());
                match with {
                    Some(pace) => beside_the_driver(&models, &seen, &pace),
                    None => in_turns_with_the_driver(&models, &seen),
                }
            })
            .map_err(BenchError::Thread)?;
        // Only then the trial's clock may start: a thread is made on its maker's processor.
        let _ = started.recv();
        Ok(Running {
            stop,
            thread: Some(thread),
            pace,
        })
    }

    /// The processor that the models have to themselves; `None` for real ports, and where there is no second one.
    pub fn models_cpu(&self) -> Option<usize> {
        self.models_cpu
    }

    /// The two models, if these are models.
    pub fn model_pair(&self) -> Option<&[Arc<LocalDevice>; 2]> {
        self.models.as_ref()
    }
}

/// Models on a processor of their own, until they are told to stop.
fn beside_the_driver(models: &[Arc<LocalDevice>; 2], stop: &AtomicBool, pace: &Pace) {
    while !stop.load(Ordering::Relaxed) {
        if pace.models_may_move() {
            models[0].step();
            models[1].step();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Models on the processor that the driver needs too.
fn in_turns_with_the_driver(models: &[Arc<LocalDevice>; 2], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut idle = 0;
        for _ in 0..ROUNDS {
            let work = [models[0].step(), models[1].step()];
            idle += u32::from(work == [Work::Idle; 2]);
        }
        if idle == ROUNDS {
            std::thread::yield_now();
        }
    }
}

/// The models at work in a thread of their own.
#[derive(Default)]
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pace: Option<Arc<Pace>>,
}

impl Running {
    /// How driver and models keep pace, where each has a processor.
    pub fn pace(&self) -> Option<&Pace> {
        self.pace.as_deref()
    }

    /// Models have to run on the processor of whoever asks.
    pub fn needs_this_cpu(&self) -> bool {
        self.thread.is_some() && self.pace.is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already; the trial then finds that nothing moves.
            let _ = thread.join();
        }
    }
}
