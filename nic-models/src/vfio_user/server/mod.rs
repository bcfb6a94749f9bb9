//! The vfio-user server: one thread that answers a client and steps the model, alternately.
//!
//! Because requests are carried out between two steps, and a model keeps no translated address across
//! steps, the answer to an unmap, a reset or a bus-master-off is also the promise that nothing of the old
//! state is in use any more. One client is served at a time; when it goes, its memory is unmapped, its
//! interrupts are disconnected and the device is reset, and the next may come.
//!
//! `channel` frames messages, `session` carries requests out, `irqs` routes interrupts, `socket` minds the
//! socket's file.

mod channel;
mod irqs;
mod session;
mod socket;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

pub use channel::Disconnect;
use session::Session;
pub use socket::{SocketId, remove_stale_socket};

use crate::device::backoff::{Backoff, IdlePolicy, Interest};
use crate::device::{Model, Work};
use crate::dma::Trust;

/// How a busy server shares its time: it looks at the socket this often.
const LOOK_EVERY: Duration = Duration::from_micros(20);
/// How often a busy server looks for another client knocking.
const KNOCK_EVERY: Duration = Duration::from_millis(10);

/// How to serve.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which memory files of a client are accepted.
    pub trust: Trust,
    /// End after the first client has gone.
    pub once: bool,
    pub idle: IdlePolicy,
    /// How long a message or an answer may stay unfinished before the connection is closed.
    pub patience: Duration,
    /// How often to call the observer.
    pub observe_every: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            trust: Trust::Sealed,
            once: false,
            idle: IdlePolicy::default(),
            patience: Duration::from_secs(2),
            observe_every: None,
        }
    }
}

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("socket {path}: another server is listening there; stop it or choose another path")]
    InUse { path: PathBuf },
    #[error("socket {path}: something that is not a socket is there; choose another path")]
    NotASocket { path: PathBuf },
    #[error("socket {path}: cannot {what}: {source}; {}", advice(.source))]
    Bind {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error("cannot accept clients: {0}")]
    Accept(#[source] io::Error),
}

/// What to do about a socket that cannot be made.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its folder first, or choose another path",
        io::ErrorKind::PermissionDenied => "run as root, or choose a folder of yours",
        io::ErrorKind::InvalidInput => "choose a path of at most 107 bytes",
        _ => "choose another path",
    }
}

/// What to call every [`Options::observe_every`]; gets the model, for its counters.
pub type Observer<'a> = &'a mut dyn FnMut(&dyn Model);

/// A listening socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    id: SocketId,
}

impl Server {
    /// Listens at `path` (mode 0660). A socket file that nobody listens at any more is replaced.
    pub fn bind(path: &Path) -> Result<Server, ServeError> {
        let (listener, id) = socket::listen(path)?;
        Ok(Server {
            listener,
            path: path.into(),
            id,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file the socket is, for [`remove_stale_socket`].
    pub fn socket_id(&self) -> SocketId {
        self.id
    }

    /// Serves one client after the other until `stop` is set, or the first has gone with
    /// [`Options::once`]. Without a client the model is stepped all the same, so that it drains its wire.
    pub fn serve(
        &self,
        model: &mut dyn Model,
        options: &Options,
        stop: &AtomicBool,
        observer: Observer<'_>,
    ) -> Result<(), ServeError> {
        run(Some(&self.listener), None, model, options, stop, observer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        socket::remove_own(&self.path, self.id);
    }
}

/// Serves the client at the other end of a connected socket until it goes or `stop` is set.
pub fn serve_connected(
    socket: UnixStream,
    model: &mut dyn Model,
    options: &Options,
    stop: &AtomicBool,
) -> Result<(), ServeError> {
    let options = Options {
        once: true,
        ..*options
    };
    run(
        None,
        Some(Session::new(socket, &options)),
        model,
        &options,
        stop,
        &mut |_| {},
    )
}

fn run(
    listener: Option<&UnixListener>,
    mut session: Option<Session>,
    model: &mut dyn Model,
    options: &Options,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<(), ServeError> {
    let doorbells = model.polls_doorbells();
    let mut backoff = Backoff::new(options.idle);
    let mut now = Instant::now();
    let (mut looked, mut knocked, mut observed) = (now, now, now);
    let mut idle = true;
    let result = loop {
        if stop.load(Ordering::Relaxed) {
            break Ok(());
        }
        now = Instant::now();
        if let Some(s) = &mut session
            && (idle || now.duration_since(looked) >= LOOK_EVERY)
        {
            looked = now;
            match s.service(model, now) {
                Ok(true) => backoff.busy(),
                Ok(false) => {}
                Err(why) => {
                    farewell(session.take(), why, model);
                    if options.once {
                        break Ok(());
                    }
                }
            }
        }
        if let Some(listener) = listener
            && (idle || now.duration_since(knocked) >= KNOCK_EVERY)
        {
            knocked = now;
            match answer_the_door(listener, session.is_some(), options) {
                Ok(Some(new)) => session = Some(new),
                Ok(None) => {}
                Err(e) => break Err(e),
            }
        }
        if let Some(every) = options.observe_every
            && now.duration_since(observed) >= every
        {
            observed = now;
            observer(model);
        }
        idle = model.step() == Work::Idle;
        if idle {
            let mut interests = Vec::with_capacity(2);
            if let Some(s) = &session {
                interests.push(Interest {
                    fd: s.fd(),
                    write: s.is_sending(),
                });
            }
            if let Some(listener) = listener {
                interests.push(Interest {
                    fd: listener.as_fd(),
                    write: false,
                });
            }
            let tick = options.observe_every.map(|every| observed + every);
            let look_again = session
                .as_ref()
                .and_then(Session::deadline)
                .into_iter()
                .chain(tick)
                .min();
            backoff.idle(model, &interests, look_again, doorbells && session.is_some());
        } else {
            backoff.busy();
        }
    };
    if let Some(s) = session {
        s.end(model);
    }
    result
}

fn farewell(session: Option<Session>, why: Disconnect, model: &mut dyn Model) {
    let Some(session) = session else { return };
    let refused = session.refused();
    match why {
        Disconnect::Closed => info!(refused, "client disconnected"),
        why => warn!(refused, "client disconnected: {why}"),
    }
    session.end(model);
}

/// Lets a client in, or turns it away when there is one already.
fn answer_the_door(
    listener: &UnixListener,
    taken: bool,
    options: &Options,
) -> Result<Option<Session>, ServeError> {
    loop {
        match listener.accept() {
            Ok((socket, _)) if taken => {
                warn!("a second client was turned away: one at a time");
                session::turn_away(socket);
            }
            Ok((socket, _)) => {
                info!("client connected");
                return Ok(Some(Session::new(socket, options)));
            }
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                // Out of descriptors or memory: the client in the house goes on being served.
                _ if taken => return Ok(None),
                _ => return Err(ServeError::Accept(e)),
            },
        }
    }
}
