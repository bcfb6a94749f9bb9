//! The life of a queue: `alloc -> start -> stop -> free`, by itself while the rest of the port runs.
//!
//! Life-cycle calls consume the queue. Control asks; the worker moves its queue out at the top of its loop and goes on;
//! control does the register waits and sends the new queue back. A failed step rolls back to the state before it.

use std::sync::Arc;

use crate::bus::DmaMapping;
use crate::mem::{AllocOptions, DescriptorRing16, DmaMemory};
use crate::queue::{RxFamily, RxQueue, TxFamily, TxQueue};

use super::{Port, PortError, QueueRings};

/// A queue as its port sees it.
#[derive(Debug)]
pub(super) enum Slot {
    /// No memory.
    Free,
    /// Rings are allocated and mapped, the device does not use them.
    Idle(RingMemory),
    /// The device uses the rings; the halves are with the port or, if `None`, with a worker.
    Running(RingMemory, Option<Box<(RxQueue, TxQueue)>>),
    /// The device did not stop: only a reset of the port helps. Keeps the rings mapped until then.
    Stuck(RingMemory),
}

/// Both rings of a queue in one piece of DMA memory.
#[derive(Debug)]
pub(super) struct RingMemory {
    /// `None` once the port was closed.
    mapping: Option<DmaMapping>,
    rx: u32,
    tx: u32,
}

impl Slot {
    fn state(&self) -> &'static str {
        match self {
            Slot::Free => "free",
            Slot::Idle(_) => "stopped",
            Slot::Running(_, Some(_)) => "running and with the port",
            Slot::Running(_, None) => "running and with a worker",
            Slot::Stuck(_) => "stuck",
        }
    }

    /// Takes the rings away from the device for good.
    pub(super) fn unmap(&mut self) {
        match self {
            Slot::Free => {}
            Slot::Idle(memory) | Slot::Running(memory, _) | Slot::Stuck(memory) => memory.mapping = None,
        }
    }
}

impl Port {
    /// Allocates and maps the rings of a queue that has none, with `rx` and `tx` descriptors.
    pub fn alloc_queue(&mut self, queue: u16, rx: u16, tx: u16) -> Result<(), PortError> {
        for (what, ring) in [("rx_ring", rx), ("tx_ring", tx)] {
            if !ring.is_power_of_two() || !(64..=4096).contains(&ring) {
                let family = self.family.info().driver;
                let allowed = "a power of two from 64 to 4096";
                return Err(PortError::Config {
                    what,
                    value: ring.into(),
                    family,
                    allowed,
                });
            }
        }
        let slot = self.slot(queue)?;
        if !matches!(slot, Slot::Free) {
            return Err(wrong(queue, slot, "stop and free it first"));
        }
        let (rx, tx) = (u32::from(rx), u32::from(tx));
        let bytes = DescriptorRing16::bytes(rx) + DescriptorRing16::bytes(tx);
        let numa = self.config.numa.or(self.shared.device().numa_node());
        let options = AllocOptions {
            numa,
            name: format!("queue{queue}"),
            ..AllocOptions::default()
        };
        let memory = Arc::new(DmaMemory::alloc(bytes, &options)?);
        let mapping = self.iommu.map(&memory)?;
        *self.slot_mut(queue)? = Slot::Idle(RingMemory {
            mapping: Some(mapping),
            rx,
            tx,
        });
        Ok(())
    }

    /// Starts a queue; allocates its rings first, as the port's configuration says, if it has none. The halves are the
    /// caller's.
    pub fn start_queue(&mut self, queue: u16) -> Result<(RxQueue, TxQueue), PortError> {
        if matches!(self.slot(queue)?, Slot::Free) {
            self.alloc_queue(queue, self.config.rx_ring, self.config.tx_ring)?;
        }
        let (Slot::Idle(memory), Some(buffers)) = (self.slot(queue)?, &self.buffers) else {
            return Err(wrong(queue, self.slot(queue)?, "stop it first"));
        };
        let Some(mapping) = &memory.mapping else {
            return Err(PortError::Closed {
                device: self.shared.device().name().to_owned(),
            });
        };
        let tx_offset = DescriptorRing16::bytes(memory.rx);
        let rings = QueueRings {
            rx: DescriptorRing16::new(mapping.memory().clone(), 0, memory.rx)?,
            tx: DescriptorRing16::new(mapping.memory().clone(), tx_offset, memory.tx)?,
            rx_iova: mapping.iova(),
            tx_iova: mapping.iova() + tx_offset as u64,
            region: self.region.clone(),
            region_iova: buffers.iova(),
            shared: self.shared.clone(),
        };
        // On failure the family has switched the queue off again, and the slot is still idle.
        let halves = self.family.start_queue(queue, rings, &self.config)?;
        let slot = self.slot_mut(queue)?;
        if let Slot::Idle(memory) = std::mem::replace(slot, Slot::Free) {
            *slot = Slot::Running(memory, None);
        }
        Ok(halves)
    }

    /// Takes a running queue out of the port, for a worker.
    pub fn take_queue(&mut self, queue: u16) -> Result<(RxQueue, TxQueue), PortError> {
        match self.slot_mut(queue)? {
            Slot::Running(_, halves @ Some(_)) => match halves.take() {
                Some(halves) => Ok(*halves),
                None => Err(PortError::NoSuchQueue {
                    queue,
                    queues: self.config.queues,
                }),
            },
            slot => Err(wrong(queue, slot, "give it back, or start it, first")),
        }
    }

    /// Gives a running queue back to the port without stopping it.
    pub fn give_back(&mut self, rx: RxQueue, tx: TxQueue) -> Result<(), PortError> {
        let queue = self.own(&rx, &tx)?;
        match self.slot_mut(queue)? {
            Slot::Running(_, halves @ None) => {
                *halves = Some(Box::new((rx, tx)));
                Ok(())
            }
            slot => Err(wrong(queue, slot, "give back each queue once")),
        }
    }

    /// Stops a queue while the others run. Its rings stay allocated, its buffers come home; [`start_queue`]
    /// (Self::start_queue) makes a new one of it.
    ///
    /// # Errors
    /// If the device does not stop the queue it is stuck until [`reset`](Self::reset); its buffers stay away until then.
    pub fn stop_queue(&mut self, rx: RxQueue, tx: TxQueue) -> Result<(), PortError> {
        let queue = self.own(&rx, &tx)?;
        let slot = self.slot_mut(queue)?;
        let memory = match std::mem::replace(slot, Slot::Free) {
            Slot::Running(memory, None) => memory,
            other => {
                *slot = other;
                return Err(wrong(queue, slot, "stop each queue once"));
            }
        };
        let outcome = self.family.stop_queue(queue);
        // The halves leave what the device still held with the shared part; it goes home if the device has let go.
        drop((rx, tx));
        *self.slot_mut(queue)? = match outcome {
            Ok(()) => Slot::Idle(memory),
            Err(_) => Slot::Stuck(memory),
        };
        if outcome.is_ok() {
            self.shared.release(queue);
        }
        outcome
    }

    /// Frees the rings of a stopped queue.
    pub fn free_queue(&mut self, queue: u16) -> Result<(), PortError> {
        match self.slot_mut(queue)? {
            slot @ Slot::Idle(_) => {
                *slot = Slot::Free;
                Ok(())
            }
            Slot::Free => Ok(()),
            slot => Err(wrong(queue, slot, "stop it first")),
        }
    }

    /// Takes every running queue out of the device for a reset; gives their numbers.
    pub(super) fn halt_queues(&mut self) -> Result<Vec<u16>, PortError> {
        let away = self
            .slots
            .iter()
            .position(|s| matches!(s, Slot::Running(_, None)));
        if let Some(queue) = away {
            return Err(wrong(
                queue as u16,
                &self.slots[queue],
                "give it back before the reset",
            ));
        }
        let mut running = Vec::new();
        for queue in 0..self.config.queues {
            let slot = self.slot_mut(queue)?;
            match std::mem::replace(slot, Slot::Free) {
                Slot::Running(memory, Some(halves)) => {
                    running.push(queue);
                    *slot = Slot::Running(memory, None);
                    // A queue that does not stop by itself is stuck until the reset, which is what follows.
                    let (rx, tx) = *halves;
                    if let Err(e) = self.stop_queue(rx, tx) {
                        tracing::warn!("before the reset: {e}");
                    }
                }
                Slot::Stuck(memory) => {
                    running.push(queue);
                    *slot = Slot::Stuck(memory);
                }
                other => *slot = other,
            }
        }
        Ok(running)
    }

    /// The device was reset: what was stuck is stopped.
    pub(super) fn unstick(&mut self) {
        for (queue, slot) in self.slots.iter_mut().enumerate() {
            if let Slot::Stuck(_) = slot
                && let Slot::Stuck(memory) = std::mem::replace(slot, Slot::Free)
            {
                *slot = Slot::Idle(memory);
                self.shared.release(queue as u16);
            }
        }
    }

    /// The number of a queue, if both halves are this port's.
    fn own(&self, rx: &RxQueue, tx: &TxQueue) -> Result<u16, PortError> {
        let (RxFamily::Ixgbe(r), TxFamily::Ixgbe(t)) = (&rx.inner, &tx.inner);
        if r.id() != t.id() || !r.belongs_to(&self.shared) || !t.belongs_to(&self.shared) {
            return Err(PortError::ForeignQueue { queue: rx.id() });
        }
        Ok(r.id())
    }

    fn slot(&self, queue: u16) -> Result<&Slot, PortError> {
        let queues = self.config.queues;
        self.slots
            .get(usize::from(queue))
            .ok_or(PortError::NoSuchQueue { queue, queues })
    }

    fn slot_mut(&mut self, queue: u16) -> Result<&mut Slot, PortError> {
        let queues = self.config.queues;
        self.slots
            .get_mut(usize::from(queue))
            .ok_or(PortError::NoSuchQueue { queue, queues })
    }
}

fn wrong(queue: u16, slot: &Slot, hint: &'static str) -> PortError {
    PortError::QueueState {
        queue,
        state: slot.state(),
        hint,
    }
}
