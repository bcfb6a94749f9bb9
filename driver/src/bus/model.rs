//! `model:` devices: a model on a thread of this process, reached over vfio-user like one in a process of its own.
//!
//! The thread serves one end of a socket pair; the device holds the other. Dropping the device hangs up, which ends the
//! thread after the model has let go of all memory.

use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use millrace_nic_models::device::{self, Model};
use millrace_nic_models::vfio_user::server::{Options, serve_connected};

use super::{BusError, Device, MappedArea, RegionInfo, vfio_user};
use crate::mem::DmaMemory;

/// Makes the model that `model` names (a device string without its `model:`) and starts its thread.
pub fn spawn(model: &str) -> Result<Arc<dyn Device>, BusError> {
    let spec = format!("model:{model}");
    let model = device::open(model).map_err(|e| BusError::Model {
        spec: spec.clone(),
        reason: e.to_string(),
    })?;
    run(spec, model)
}

/// Starts a thread that serves `model`; `name` is the device string for messages.
pub fn run(name: String, mut model: Box<dyn Model>) -> Result<Arc<dyn Device>, BusError> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| BusError::io(&name, "make a socket pair", e))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (thread_stop, thread_name) = (stop.clone(), name.clone());
    let serve = move || {
        if let Err(e) = serve_connected(theirs, model.as_mut(), &Options::default(), &thread_stop) {
            tracing::error!("{thread_name}: the model's thread ended: {e}");
        }
    };
    let thread = std::thread::Builder::new()
        .name("nic-model".into())
        .spawn(serve)
        .map_err(|e| BusError::io(&name, "start the model's thread", e))?;
    let server = Server {
        stop,
        thread: Some(thread),
    };
    let client = vfio_user::from_stream(ours, &name)?;
    Ok(Arc::new(ModelDevice {
        client,
        _server: server,
    }))
}

/// The client's end, and the thread behind it. Fields are dropped in this order: first the connection, then the thread.
struct ModelDevice {
    client: Arc<dyn Device>,
    _server: Server,
}

/// The model's thread; dropping it waits until the thread has ended.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the model's thread panicked");
        }
    }
}

impl Device for ModelDevice {
    fn name(&self) -> &str {
        self.client.name()
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        self.client.region(index)
    }

    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError> {
        self.client.map(index)
    }

    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.client.read(index, offset, buf)
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError> {
        self.client.write(index, offset, data)
    }

    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError> {
        self.client.dma_map(iova, mem)
    }

    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError> {
        self.client.dma_unmap(iova, len)
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.client.iova_ranges()
    }

    fn irq_count(&self) -> u32 {
        self.client.irq_count()
    }

    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        self.client.set_irqs(first, fds)
    }

    fn reset(&self) -> Result<(), BusError> {
        self.client.reset()
    }

    fn is_alive(&self) -> bool {
        self.client.is_alive()
    }

    fn numa_node(&self) -> Option<u32> {
        self.client.numa_node()
    }

    fn relax(&self, round: u32) {
        self.client.relax(round);
    }
}

impl fmt::Debug for ModelDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use crate::bus::open;

    #[test]
    fn a_model_string_that_is_wrong_says_what_is_wrong() {
        for (spec, says) in [
            ("model:e1000", "no such family"),
            ("model:exerciser?speed=9", "`speed` is not known"),
            ("model:exerciser?mac=1", "not a MAC address"),
        ] {
            let message = open(spec).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains(spec), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
