//! What a port and its queues share, so that neither outlives the other's rights over a buffer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::bus::Device;
use crate::mem::{Handle, Shadow};

/// Buffers that a dropped queue left in the hands of the device.
///
/// A queue that is dropped instead of being given back cannot return its posted buffers: the device may still
/// write to them. They wait here until the port has stopped the device's side.
#[derive(Debug, Default)]
pub(crate) struct Orphans(Vec<(u16, Shadow)>);

/// Shared by a port and all its queues.
#[derive(Debug)]
pub(crate) struct PortShared {
    device: Arc<dyn Device>,
    closed: AtomicBool,
    orphans: Mutex<Orphans>,
}

impl PortShared {
    pub(crate) fn new(device: Arc<dyn Device>) -> Arc<PortShared> {
        Arc::new(PortShared {
            device,
            closed: AtomicBool::new(false),
            orphans: Mutex::new(Orphans::default()),
        })
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// True once the port has stopped the device for good: queues then find nothing and send nothing.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Leaves a dropped queue's posted buffers with the port; if the device is already quiet they go home.
    pub(crate) fn orphan(&self, queue: u16, shadow: Shadow) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_closed() && shadow.occupied() > 0 {
            orphans.0.push((queue, shadow));
        }
    }

    /// The device's side of `queue` has stopped: buffers that a dropped half of it left behind go home.
    pub(crate) fn release(&self, queue: u16) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.0.retain(|(q, _)| *q != queue);
    }

    /// The whole device has stopped for good.
    pub(crate) fn close(&self) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        orphans.0.clear();
    }
}

/// Whether every handle of a run belongs to the region and lies inside its buffer; the sum of the lengths.
#[inline]
pub(crate) fn checked_len(slots: &[Option<Handle>], region: u8, stride: u32) -> Option<u32> {
    let mut total = 0;
    for slot in slots {
        let handle = slot.as_ref()?;
        let end = u32::from(handle.off) + u32::from(handle.len);
        if handle.region() != region || handle.len == 0 || end > stride {
            return None;
        }
        total += u32::from(handle.len);
    }
    Some(total)
}
