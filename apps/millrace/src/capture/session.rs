//! Control's side of captures: one at a time on a queue, ended by the client, or when nobody reads it any more.

use super::filter::Filter;
use super::tap::{HINTS, Ring, Tap};
use super::{Captured, Point};
use crate::app::AppHandle;
use crate::app::handle::Core;
use crate::config::QueueSel;
use crate::error::AppError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// A capture that nobody reads for so long has lost its client.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that the records of a capture may hold, and how many they are at most.
const ROOM: usize = 16 << 20;
const RECORDS: usize = 4096;
/// Bytes of frames in one answer, at least one frame.
const ANSWER: usize = 4 << 20;

/// What a capture is to look at.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) port: String,
    pub(crate) queues: QueueSel,
    pub(crate) point: Point,
    /// Bytes kept of each frame.
    pub(crate) snap: usize,
    pub(crate) filter: Filter,
}

struct Session {
    port: String,
    queues: QueueSel,
    ring: Arc<Ring>,
    read: Instant,
}

/// The captures of an application.
#[derive(Default)]
pub(crate) struct Captures {
    sessions: Mutex<(u64, BTreeMap<u64, Session>)>,
}

/// What a read gave.
pub(crate) struct Part {
    pub(crate) frames: Vec<Captured>,
    pub(crate) matched: u64,
    pub(crate) dropped: u64,
}

impl Captures {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Session>)> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppHandle {
    /// Starts a capture; gives its number and how many frames may wait.
    pub(crate) fn capture_start(&self, wanted: &Wanted) -> Result<(u64, usize), AppError> {
        let records = (ROOM / wanted.snap.max(1)).clamp(16, RECORDS);
        let ring = Ring::new(records, wanted.snap);
        self.set_captures(&wanted.port, wanted.queues, |hints| {
            Some(Tap::new(
                wanted.point,
                wanted.snap,
                wanted.filter.clone(),
                hints.clone(),
                ring.clone(),
            ))
        })?;
        let mut sessions = self.0.captures.lock();
        sessions.0 += 1;
        let id = sessions.0;
        sessions.1.insert(
            id,
            Session {
                port: wanted.port.clone(),
                queues: wanted.queues,
                ring,
                read: Instant::now(),
            },
        );
        drop(sessions);
        let core = Arc::downgrade(&self.0);
        let watch = thread::Builder::new()
            .name(format!("mr-capture-{id}"))
            .spawn(move || watch(&core, id));
        if let Err(error) = watch {
            let _ = self.capture_stop(id);
            return Err(AppError::Thread(error));
        }
        Ok((id, records))
    }

    /// Takes what has been captured since the last read; waits for the first frame at most `wait`.
    pub(crate) fn capture_read(&self, id: u64, wait: Duration) -> Result<Part, AppError> {
        let begun = Instant::now();
        let ring = {
            let mut sessions = self.0.captures.lock();
            let session = sessions.1.get_mut(&id).ok_or(AppError::NoCapture(id))?;
            session.read = begun;
            session.ring.clone()
        };
        while ring.full.is_empty() && begun.elapsed() < wait {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(take(&ring))
    }

    /// Ends a capture; gives what was still waiting.
    pub(crate) fn capture_stop(&self, id: u64) -> Result<Part, AppError> {
        let session = self.0.captures.lock().1.remove(&id);
        let session = session.ok_or(AppError::NoCapture(id))?;
        self.set_captures(&session.port, session.queues, |_| None)?;
        Ok(take(&session.ring))
    }
}

fn take(ring: &Ring) -> Part {
    let mut frames = Vec::new();
    let mut bytes = 0;
    while bytes < ANSWER
        && let Some(record) = ring.full.pop()
    {
        bytes += record.data.len();
        let hints = HINTS.iter().zip(record.hints);
        frames.push(Captured {
            time: record.time,
            queue: record.queue,
            len: record.len,
            data: STANDARD.encode(&record.data),
            verdict: record.verdict.map(|verdict| verdict.raw),
            redirect: record.redirect(),
            hints: hints
                .filter_map(|((_, name), value)| Some(((*name).to_string(), value?)))
                .collect(),
        });
        let _ = ring.empty.push(record);
    }
    Part {
        frames,
        matched: ring.matched.load(Ordering::Relaxed),
        dropped: ring.dropped.load(Ordering::Relaxed),
    }
}

/// Ends a capture whose client has gone.
fn watch(core: &Weak<Core>, id: u64) {
    loop {
        thread::sleep(Duration::from_millis(500));
        let Some(core) = core.upgrade() else { return };
        let unread = match core.captures.lock().1.get(&id) {
            None => return,
            Some(session) => session.read.elapsed() > PATIENCE,
        };
        if unread {
            tracing::info!("capture {id}: nobody reads it; ended");
            let _ = AppHandle(core).capture_stop(id);
            return;
        }
    }
}
