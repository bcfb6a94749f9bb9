//! `link:NAME`: two models back to back, in one process or in two.
//!
//! Each end is a Unix datagram socket bound to an abstract name (unix(7)), the first comer's ending in `.a`, the
//! second's in `.b`, and connected to the other. The link is up while both are there; an end that goes away may come
//! back. Names are private to a network namespace.

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::{MAX_FRAME, SendOutcome, Wire, WireError, sys};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

const USAGE: &str = "link:NAME, the same name at both ends";
const SOCKET_BUFFER: i32 = 8 << 20;
/// How often an end looks whether the other has come or gone.
const PEER_POLL: Duration = Duration::from_millis(20);

/// The wire `link:NAME`.
pub struct LinkWire {
    socket: UnixDatagram,
    peer: SocketAddr,
    inbox: Inbox,
    outbox: Outbox,
    /// When the peer was last looked for, and whether it was there.
    link: Cell<Option<(Instant, bool)>>,
}

impl LinkWire {
    /// Takes the free end of the link.
    pub fn open(spec: &str, name: &str) -> Result<LinkWire, WireError> {
        if name.is_empty() || name.len() > 64 {
            let problem = "a name of 1 to 64 bytes is needed".to_owned();
            return Err(WireError::Malformed {
                spec: spec.to_owned(),
                problem,
                usage: USAGE,
            });
        }
        let system = |call| {
            move |source| WireError::System {
                spec: spec.to_owned(),
                call,
                source,
            }
        };
        let address = |end| {
            SocketAddr::from_abstract_name(format!("millrace-link-{name}.{end}"))
                .map_err(system("socket name"))
        };
        let ends = [address('a')?, address('b')?];
        for (mine, other) in [(0, 1), (1, 0)] {
            let socket = match UnixDatagram::bind_addr(&ends[mine]) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(system("bind")(error)),
            };
            socket.set_nonblocking(true).map_err(system("set non-blocking"))?;
            sys::enlarge_buffers(socket.as_fd(), SOCKET_BUFFER);
            let wire = LinkWire {
                socket,
                peer: ends[other].clone(),
                inbox: Inbox::plain(sys::BATCH),
                outbox: Outbox::default(),
                link: Cell::new(None),
            };
            if wire.connect() {
                // An empty datagram wakes the other end, so that it connects to this one.
                let _ = wire.socket.send(&[]);
            }
            return Ok(wire);
        }
        Err(WireError::Busy {
            what: format!("the link {name:?} has two ends already and"),
        })
    }

    /// Connects to the other end; `false` where there is none.
    fn connect(&self) -> bool {
        let up = self.socket.connect_addr(&self.peer).is_ok();
        self.link.set(Some((Instant::now(), up)));
        up
    }
}

impl Wire for LinkWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(ready) = self.inbox.advance() {
                return Ok(Some(self.inbox.frame(ready)));
            }
            match sys::receive(self.socket.as_fd(), &mut self.inbox.slots, false) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    if self.inbox.slots[..count].iter().any(|slot| slot.len == 0) {
                        self.connect();
                    }
                    self.inbox.filled(count);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.connect();
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        if !self.link_up() || frame.len() > MAX_FRAME {
            self.inbox.counters.send_drops += 1;
            return Ok(SendOutcome::Dropped);
        }
        if self.outbox.push(frame) {
            self.flush()?;
        }
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        let counters = &mut self.inbox.counters;
        self.outbox.flush(
            self.socket.as_fd(),
            &[],
            |_| false,
            |outcome, frames| match outcome {
                SendOutcome::Sent => counters.send_frames += frames,
                SendOutcome::Dropped => counters.send_drops += frames,
            },
        )
    }

    fn link_up(&self) -> bool {
        match self.link.get() {
            Some((when, up)) if when.elapsed() < PEER_POLL => up,
            _ => self.connect(),
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inbox.counters.list()
    }
}
