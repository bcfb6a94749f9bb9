//! The listening side: who may connect, one thread a client, limits on size, time and number. A slow or silent client costs
//! its own thread and nothing else.

use super::protocol::{
    ControlError, ErrorCode, IDLE_TIME, MAX_CLIENTS, MAX_REQUEST, MAX_RESPONSE, MESSAGE_TIME, Request,
    Response,
};
use super::registry::ControlRegistry;
use millrace_ebpf::EngineKind;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("instance name {0:?} is not usable; use letters, digits, '-', '_' and '.', at most 64")]
    Name(String),
    #[error("cannot create {path}: {source}; run as root or set MILLRACE_RUN_DIR to a folder of yours")]
    Dir { path: PathBuf, source: io::Error },
    #[error("an instance named {name} runs already ({path}); give this one another name or stop that one")]
    Taken { name: String, path: PathBuf },
    #[error("cannot open the control socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
}

/// Limits, apart so that tests need not wait for the real ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) message: Duration,
    pub(crate) idle: Duration,
    pub(crate) clients: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_bytes: MAX_REQUEST,
            response_bytes: MAX_RESPONSE,
            message: MESSAGE_TIME,
            idle: IDLE_TIME,
            clients: MAX_CLIENTS,
        }
    }
}

/// Whether a process of user `uid` may speak to an instance that user `owner` runs.
pub(crate) fn may_connect(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

/// A control socket of ours; dropping it hangs up on all clients and removes the socket.
pub(crate) struct Server {
    path: PathBuf,
    limits: Limits,
    owner: u32,
    stop: Arc<OwnedFd>,
    listener: Option<UnixListener>,
    thread: Option<JoinHandle<()>>,
    // Held for as long as the name is ours; the kernel lets go of it even when we are killed.
    _lock: File,
}

type Clients = Arc<Mutex<HashMap<u64, (UnixStream, Option<JoinHandle<()>>)>>>;

impl Server {
    /// Takes the name. Clients can connect from now on, and are answered from [`Server::serve`] on: an application adds
    /// verbs of its own in between, and nobody shall see it without them.
    pub(crate) fn bind(dir: &Path, name: &str) -> Result<Server, ServerError> {
        Server::bind_with(dir, name, Limits::default(), rustix::process::geteuid().as_raw())
    }

    pub(crate) fn bind_with(
        dir: &Path,
        name: &str,
        limits: Limits,
        owner: u32,
    ) -> Result<Server, ServerError> {
        let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(usable) {
            return Err(ServerError::Name(name.to_string()));
        }
        fs::create_dir_all(dir).map_err(|source| ServerError::Dir {
            path: dir.to_path_buf(),
            source,
        })?;
        let path = dir.join(format!("{name}.sock"));
        let fail = |source: io::Error| ServerError::Socket {
            path: path.clone(),
            source,
        };
        let lock_path = dir.join(format!("{name}.lock"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.map_err(|source| ServerError::Dir {
            path: lock_path,
            source,
        })?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ServerError::Taken {
                name: name.to_string(),
                path,
            });
        }
        // With the lock held, a socket that is still there belongs to an instance that was killed.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(fail)?;
        // Between bind and this line only the umask decides who may connect; SO_PEERCRED is checked in any case.
        fs::set_permissions(&path, Permissions::from_mode(0o660)).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| fail(e.into()))?);
        Ok(Server {
            path,
            limits,
            owner,
            stop,
            listener: Some(listener),
            thread: None,
            _lock: lock,
        })
    }

    /// Begins to answer, with the verbs of `registry`; those added to it later are there as well.
    pub(crate) fn serve(&mut self, registry: ControlRegistry) -> Result<(), ServerError> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        let (stopped, limits, owner) = (self.stop.clone(), self.limits, self.owner);
        let thread = thread::Builder::new()
            .name("mr-control".into())
            .spawn(move || accept_loop(&listener, &stopped, &registry, limits, owner));
        self.thread = Some(thread.map_err(|source| ServerError::Socket {
            path: self.path.clone(),
            source,
        })?);
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn accept_loop(
    listener: &UnixListener,
    stop: &OwnedFd,
    registry: &ControlRegistry,
    limits: Limits,
    owner: u32,
) {
    let clients = Clients::default();
    let mut next = 0u64;
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                tracing::error!("control socket: {e}; no further clients are served");
                break;
            }
        }
        if !fds[1].revents().is_empty() {
            break;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                next += 1;
                admit(stream, next, &clients, registry, limits, owner);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Out of descriptors: the pending client stays readable, so do not spin on it.
            Err(e) => {
                tracing::warn!("control socket: cannot accept a client: {e}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    let all: Vec<_> = clients
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain()
        .collect();
    for (_, (stream, _)) in &all {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for (_, (_, thread)) in all {
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn admit(
    stream: UnixStream,
    id: u64,
    clients: &Clients,
    registry: &ControlRegistry,
    limits: Limits,
    owner: u32,
) {
    let refuse = |code, message: String| {
        let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        let response = Response::new(0, Err(ControlError::new(code, message)));
        let _ = send(&stream, &response, limits);
    };
    match rustix::net::sockopt::socket_peercred(&stream) {
        Ok(peer) if may_connect(peer.uid.as_raw(), owner) => {}
        Ok(peer) => {
            let uid = peer.uid.as_raw();
            tracing::warn!("control socket: refused uid {uid}");
            return refuse(
                ErrorCode::Denied,
                format!("uid {uid} may not control this instance; use sudo, or uid {owner}"),
            );
        }
        Err(e) => return refuse(ErrorCode::Denied, format!("cannot tell who you are: {e}")),
    }
    let mut table = clients.lock().unwrap_or_else(PoisonError::into_inner);
    if table.len() >= limits.clients {
        return refuse(
            ErrorCode::Busy,
            format!(
                "{} clients are connected already; try again later",
                limits.clients
            ),
        );
    }
    let (Ok(kept), Ok(registry)) = (stream.try_clone(), Ok::<_, io::Error>(registry.clone())) else {
        return refuse(ErrorCode::Failed, "out of file descriptors".into());
    };
    table.insert(id, (kept, None));
    let leave = clients.clone();
    let spawned = thread::Builder::new()
        .name(format!("mr-client-{id}"))
        .spawn(move || {
            serve(&stream, &registry, limits);
            leave.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    match spawned {
        Ok(thread) => {
            if let Some(entry) = table.get_mut(&id) {
                entry.1 = Some(thread);
            }
        }
        Err(e) => {
            table.remove(&id);
            tracing::warn!("control socket: no thread for a client: {e}");
        }
    }
}

enum Line {
    /// The bytes before the newline are in the buffer.
    Complete(usize),
    TooLong,
    TooSlow,
    Closed,
}

fn serve(stream: &UnixStream, registry: &ControlRegistry, limits: Limits) {
    let mut buffer = Vec::new();
    if stream.set_nonblocking(false).is_err() || stream.set_write_timeout(Some(limits.message)).is_err() {
        return;
    }
    loop {
        let (response, go_on) = match read_line(stream, &mut buffer, limits) {
            Line::Complete(len) => {
                let response = answer(&buffer[..len], registry);
                buffer.drain(..=len);
                buffer.shrink_to(64 << 10);
                (response, true)
            }
            Line::TooLong => {
                let message = format!("a request has at most {} bytes", limits.request_bytes);
                (
                    Response::new(0, Err(ControlError::new(ErrorCode::TooLarge, message))),
                    false,
                )
            }
            Line::TooSlow => {
                let message = format!("a request must arrive within {:?}", limits.message);
                (
                    Response::new(0, Err(ControlError::new(ErrorCode::TooSlow, message))),
                    false,
                )
            }
            Line::Closed => return,
        };
        if send(stream, &response, limits).is_err() || !go_on {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_line(stream: &UnixStream, buffer: &mut Vec<u8>, limits: Limits) -> Line {
    let mut searched = 0;
    let mut started = (!buffer.is_empty()).then(Instant::now);
    let idle_since = Instant::now();
    let mut chunk = [0u8; 16 << 10];
    loop {
        if let Some(at) = buffer[searched..].iter().position(|&b| b == b'\n') {
            let len = searched + at;
            return if len < limits.request_bytes {
                Line::Complete(len)
            } else {
                Line::TooLong
            };
        }
        searched = buffer.len();
        if searched >= limits.request_bytes {
            return Line::TooLong;
        }
        let (since, limit) = started.map_or((idle_since, limits.idle), |at| (at, limits.message));
        let left = limit.saturating_sub(since.elapsed());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return if started.is_some() {
                Line::TooSlow
            } else {
                Line::Closed
            };
        }
        match (&mut &*stream).read(&mut chunk) {
            Ok(0) => return Line::Closed,
            Ok(n) => {
                started.get_or_insert_with(Instant::now);
                buffer.extend_from_slice(&chunk[..n]);
            }
            // The time limit is looked at above.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Line::Closed,
        }
    }
}

fn answer(line: &[u8], registry: &ControlRegistry) -> Response {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(e) => {
            let message = format!("not a request: {e}; send one JSON object a line with verb and args");
            return Response::new(0, Err(ControlError::new(ErrorCode::BadRequest, message)));
        }
    };
    if !(request.args.is_null() || request.args.is_object()) {
        let message = "args must be an object such as {\"port\":\"eth0\"}";
        return Response::new(request.id, Err(ControlError::new(ErrorCode::BadRequest, message)));
    }
    // A handler of an application may panic; that is its client's trouble, not the instance's.
    let outcome = catch_unwind(AssertUnwindSafe(|| registry.call(&request.verb, &request.args)));
    let outcome = outcome.unwrap_or_else(|_| {
        tracing::error!("control verb {} panicked", request.verb);
        Err(ControlError::failed(format!(
            "{} failed inside the instance; its log says where",
            request.verb
        )))
    });
    Response::new(request.id, outcome)
}

fn send(stream: &UnixStream, response: &Response, limits: Limits) -> io::Result<()> {
    let mut line = serde_json::to_vec(response).map_err(io::Error::other)?;
    if line.len() >= limits.response_bytes {
        let message = "the answer is too long; ask for less, such as a page of the map";
        let refusal = Response::new(response.id, Err(ControlError::new(ErrorCode::TooLarge, message)));
        line = serde_json::to_vec(&refusal).map_err(io::Error::other)?;
    }
    line.push(b'\n');
    // A write timeout holds for one write(2); a client that takes a byte at a time must not stretch it.
    let deadline = Instant::now() + limits.message;
    let mut rest = &line[..];
    while !rest.is_empty() {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match (&mut &*stream).write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What `version` answers, whatever the application.
pub(crate) fn version(registry: &ControlRegistry) -> Value {
    let mut features: Vec<_> = (EngineKind::available().into_iter())
        .map(EngineKind::name)
        .collect();
    if cfg!(feature = "hwloc") {
        features.push("hwloc");
    }
    serde_json::json!({
        "protocol": super::protocol::PROTOCOL_VERSION,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": rustix::process::getpid().as_raw_nonzero().get(),
        "features": features,
        "max_request": MAX_REQUEST,
        "max_response": MAX_RESPONSE,
        "verbs": registry.verbs(),
    })
}
