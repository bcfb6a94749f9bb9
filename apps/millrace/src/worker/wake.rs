//! Waking a worker that sleeps. A worker that polls costs the waker one load, not a system call.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Handle to wake one worker; clones wake the same worker.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: OwnedFd,
    sleeping: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker(Arc::new(Inner {
            event,
            sleeping: AtomicBool::new(false),
        })))
    }

    /// Called after work for the worker was published.
    #[inline]
    pub(crate) fn wake(&self) {
        // SeqCst on both sides (Dekker): either this load sees `sleeping`, or the worker's last look sees the work.
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // The only failure is a full counter, and then the fd is readable already.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// The worker says it is about to sleep; it must look for work once more after this.
    pub(crate) fn prepare_sleep(&self) {
        self.0.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The worker is awake again.
    pub(crate) fn awake(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
        let mut count = [0u8; 8];
        // EAGAIN: it woke for another reason.
        let _ = rustix::io::read(&self.0.event, &mut count);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
