//! The exception path: an interface of the host's that carries what programs pass, and whose frames go out of the port.
//!
//! Workers write passed frames to the tap themselves. One thread a tap reads frames from the host into a fixed set of
//! vectors and gives them to the worker that owns the TX queue; when all vectors are under way, frames are dropped and counted.

use crate::error::AppError;
use crate::worker::route::Routes;
use crossbeam::queue::ArrayQueue;
use millrace_driver::steering::{MICROSOFT_KEY, flow_hash};
use millrace_nic_models::wire::tap::Tap;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Frames from the host that may be under way to the workers.
const UNDER_WAY: usize = 256;
/// Largest frame read from the tap: the MTU of any port plus Ethernet header and tags fits.
const FRAME: usize = 16 << 10;

/// The tap as workers use it: any of them may write, a frame a call.
#[derive(Debug)]
pub(crate) struct TapPort {
    pub(crate) name: String,
    /// Reads and writes; shared by all workers, for which `Tap` itself is not made.
    fd: OwnedFd,
    /// Frames from the host that no worker could take.
    pub(crate) dropped: AtomicU64,
    /// Frames from the host given to a worker.
    pub(crate) taken: AtomicU64,
}

impl TapPort {
    /// Creates the interface, gives it the port's MAC address and MTU, and brings it up.
    pub(crate) fn open(name: &str, mac: [u8; 6], mtu: u16) -> Result<TapPort, AppError> {
        let fail = |what: &str, reason: String| AppError::Tap {
            name: name.to_string(),
            reason: format!("cannot {what}: {reason}"),
        };
        let tap = Tap::open(name).map_err(|e| fail("open it", e.to_string()))?;
        tap.set_mac(mac)
            .map_err(|e| fail("set its MAC address", e.to_string()))?;
        tap.set_mtu(mtu).map_err(|e| fail("set its MTU", e.to_string()))?;
        tap.set_up(true).map_err(|e| fail("bring it up", e.to_string()))?;
        // The interface lives as long as any descriptor of it.
        let fd = tap.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|e| fail("share it among workers", e.to_string()))?;
        let zero = || AtomicU64::new(0);
        Ok(TapPort {
            name: name.to_string(),
            fd,
            dropped: zero(),
            taken: zero(),
        })
    }

    /// Gives a frame to the host. False: the host did not take it.
    pub(crate) fn write(&self, frame: &[u8]) -> bool {
        loop {
            match rustix::io::write(&self.fd, frame) {
                Ok(n) => return n == frame.len(),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// The next frame of the host's; `None` when none waits.
    fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match rustix::io::read(&self.fd, buffer) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The reading side of a tap; dropping it ends the thread.
pub(crate) struct TapThread {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl TapThread {
    pub(crate) fn start(tap: Arc<TapPort>, port: usize, routes: Arc<Routes>) -> Result<TapThread, AppError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC);
        let stop = Arc::new(event.map_err(|e| AppError::Io {
            what: "eventfd",
            source: e.into(),
        })?);
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name(format!("mr-tap-{}", tap.name))
            .spawn(move || read_loop(&tap, port, &routes, &stopped))
            .map_err(AppError::Thread)?;
        Ok(TapThread {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for TapThread {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_loop(tap: &TapPort, port: usize, routes: &Routes, stop: &OwnedFd) {
    let home = Arc::new(ArrayQueue::new(UNDER_WAY));
    for _ in 0..UNDER_WAY {
        let _ = home.push(Vec::with_capacity(FRAME));
    }
    // Where a frame goes for which there is no vector: it has to be read to be dropped.
    let mut spill = Vec::with_capacity(FRAME);
    let queues = routes.ports.get(port).map_or(1, Vec::len).max(1);
    loop {
        let mut fds = [
            PollFd::new(&tap.fd, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return tracing::error!("tap {}: {e}; the host can no longer send", tap.name),
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        let vector = home.pop();
        let spare = vector.is_some();
        let mut bytes = vector.unwrap_or_else(|| std::mem::take(&mut spill));
        bytes.resize(FRAME, 0);
        let len = tap.read(&mut bytes).unwrap_or_else(|e| {
            // An interface that was taken down can come back; do not spin meanwhile.
            tracing::warn!("tap {}: {e}", tap.name);
            thread::sleep(Duration::from_millis(100));
            None
        });
        bytes.truncate(len.unwrap_or(0));
        let refused = if !spare {
            spill = bytes;
            len.is_some()
        } else if len.is_none() {
            let _ = home.push(bytes);
            false
        } else {
            // A flow stays on one queue, so its frames stay in order.
            let hash = flow_hash(&MICROSOFT_KEY, &bytes).unwrap_or(0);
            let queue = ((u64::from(hash) * queues as u64) >> 32) as u16;
            match routes.inject(port, queue, bytes, &home) {
                Ok(()) => {
                    tap.taken.fetch_add(1, Ordering::Relaxed);
                    false
                }
                Err(bytes) => {
                    let _ = home.push(bytes);
                    true
                }
            }
        };
        if refused {
            tap.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
