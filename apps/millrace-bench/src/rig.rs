//! One 82599 model, one port and one worker of the framework on its queue pair, all in this thread: the model moves only between
//! the timed sections.

use crate::BenchError;
use crate::clock;
use millrace::{HandWorker, PassAction, PassHandler, PassedFrame};
use millrace_driver::bus::{self, local::LocalDevice};
use millrace_driver::port::{Port, PortConfig};
use millrace_ebpf::Instance;
use millrace_nic_models::device;
use std::sync::Arc;

/// Frames that wait in the ring when a timed section starts: half a ring, so that refilling is part of the section.
const FRAMES: usize = 512;
const RING: u16 = 1024;

/// Everything between the generator and the program's verdicts.
pub struct Rig {
    device: Arc<LocalDevice>,
    worker: Option<HandWorker>,
    port: Port,
    /// Rounds of the model that bring about [`FRAMES`] frames.
    steps: usize,
    /// Frames of a section.
    frames: usize,
}

impl Rig {
    /// Opens the port on a model with the generator `wire` behind it. Without a program every frame is sent back by the
    /// application.
    pub fn new(wire: &str, mac: [u8; 6], program: Option<Instance>) -> Result<Rig, BenchError> {
        let [a, b, c, d, e, f] = mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        // Doorbells are plain stores, as on hardware; trapped they would run the model inside the timed section.
        let model = device::open(&format!("ixgbe?wire={wire}&mac={mac}&queues=1&map-doorbells"))?;
        let device = LocalDevice::new(model);
        let config = PortConfig {
            rx_ring: RING,
            tx_ring: RING,
            promiscuous: true,
            ..PortConfig::default()
        };
        let mut port = Port::open(device.clone() as Arc<dyn bus::Device>, config)?;
        let (rx, tx) = port.take_queue(0)?;
        let on_pass: Option<PassHandler> = match program {
            None => Some(Box::new(send_back)),
            Some(_) => None,
        };
        let worker = Some(HandWorker::new([(rx, tx)], program, on_pass).map_err(BenchError::balancer)?);
        let mut rig = Rig {
            device,
            worker,
            port,
            steps: 1,
            frames: FRAMES,
        };
        rig.find_steps()?;
        Ok(rig)
    }

    /// Asks for sections of another size.
    pub fn set_frames(&mut self, frames: usize) {
        self.steps = (self.steps * frames / self.frames).max(1);
        self.frames = frames;
    }

    /// Lets the model work until enough frames wait.
    pub fn supply(&mut self) {
        for _ in 0..self.steps {
            self.device.step();
        }
    }

    /// Deals with everything that waits; this is what is measured.
    #[inline(never)]
    pub fn drain(&mut self) -> usize {
        let mut frames = 0;
        if let Some(worker) = &mut self.worker {
            loop {
                match worker.round() {
                    0 => break,
                    n => frames += n,
                }
            }
        }
        frames
    }

    /// The worker and what it has counted.
    pub fn worker(&self) -> Option<&HandWorker> {
        self.worker.as_ref()
    }

    fn find_steps(&mut self) -> Result<(), BenchError> {
        // The first rounds find the ring full from the start; the tenth is like all that follow.
        let mut frames = 0;
        for _ in 0..10 {
            self.supply();
            frames = self.drain();
        }
        if frames == 0 {
            return Err(BenchError::NoTraffic {
                counters: format!("{:?}", self.device.counters()),
            });
        }
        self.steps = FRAMES.div_ceil(frames);
        Ok(())
    }

    /// Nanoseconds of CPU time a frame, one value a section, until `nanos` of it are used up.
    pub fn measure(&mut self, nanos: u64, mut progress: impl FnMut(u64)) -> Vec<f64> {
        let cost = clock::reading_cost();
        let (mut used, mut samples) = (0, Vec::new());
        while used < nanos {
            self.supply();
            let start = clock::cpu_nanos();
            let frames = self.drain();
            let spent = (clock::cpu_nanos() - start).saturating_sub(cost);
            used += spent.max(1);
            progress(used.min(nanos));
            if frames > 0 {
                samples.push(spent as f64 / frames as f64);
            }
        }
        samples
    }
}

/// The least that an application does to a frame before it sends it back: its addresses change places.
fn send_back(frame: PassedFrame<'_>) -> PassAction {
    if let Some(addresses) = frame.data.first_chunk_mut::<12>() {
        let was = *addresses;
        addresses[..6].copy_from_slice(&was[6..]);
        addresses[6..].copy_from_slice(&was[..6]);
    }
    PassAction::Transmit
}

impl Drop for Rig {
    fn drop(&mut self) {
        for (rx, tx) in self
            .worker
            .take()
            .map(HandWorker::into_queues)
            .unwrap_or_default()
        {
            // The device is quiesced with the port in any case.
            let _ = self.port.give_back(rx, tx);
        }
    }
}
