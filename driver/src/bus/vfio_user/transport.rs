//! Requests and answers over the socket, one at a time, each with a deadline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use millrace_nic_models::vfio_user::wire::{self, Command, HEADER_SIZE, Header};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use zerocopy::{FromBytes, IntoBytes};

/// Descriptors taken with one answer. More than one is never expected.
const MAX_ANSWER_FDS: usize = 8;
/// Other messages that are put aside while an answer is waited for: requests of the server's own, and refusals of
/// posted writes.
const MAX_OTHER_MESSAGES: usize = 4096;

/// What went wrong with a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused; the connection is as good as before.
    Refused(io::Error),
    /// The server is gone, or is treated so from now on, since nothing more can be understood.
    Gone(String),
}

/// An answer: its payload and the descriptors that came with it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Answer {
    /// Reads a fixed layout off the front of the payload.
    pub(super) fn layout<T: FromBytes>(&self) -> Result<(T, &[u8]), Failure> {
        T::read_from_prefix(&self.payload)
            .map_err(|_| Failure::Gone(format!("an answer of {} bytes is too short", self.payload.len())))
    }
}

/// The client's end of a connection.
#[derive(Debug)]
pub(super) struct Transport {
    socket: UnixStream,
    timeout: Duration,
    next_id: u16,
}

impl Transport {
    pub(super) fn new(socket: UnixStream, timeout: Duration) -> io::Result<Transport> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(Transport {
            socket,
            timeout,
            next_id: 0,
        })
    }

    /// A second handle on the socket, to see whether the other side is still there without waiting for the lock.
    pub(super) fn watch(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call(
        &mut self,
        command: Command,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout;
        let header = self.header(command, payload, 0);
        match self.send(&header, payload, fds) {
            Ok(()) => {}
            // A server that turns a client away says why before it hangs up.
            Err(Errno::PIPE | Errno::CONNRESET) if command == Command::Version => {}
            Err(e) => return Err(self.lost(e, command)),
        }
        self.answer(&header, command, deadline)
    }

    /// Sends a request that wants no answer. The server carries it out before any later one.
    pub(super) fn post(&mut self, command: Command, payload: &[&[u8]]) -> Result<(), Failure> {
        let header = self.header(command, payload, wire::FLAG_NO_REPLY);
        self.send(&header, payload, &[])
            .map_err(|e| self.lost(e, command))
    }

    fn header(&mut self, command: Command, payload: &[&[u8]], flags: u32) -> Header {
        self.next_id = self.next_id.wrapping_add(1);
        let len = payload.iter().map(|p| p.len()).sum();
        let header = Header::request(self.next_id, command, len);
        Header {
            flags: header.flags | flags,
            ..header
        }
    }

    fn send(&mut self, header: &Header, payload: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut parts = [header.as_bytes(), &[], &[]];
        for (part, bytes) in parts[1..].iter_mut().zip(payload) {
            *part = bytes;
        }
        let mut parts = parts.map(IoSlice::new);
        let mut parts = &mut parts[..];
        let mut left = header.size as usize;
        let mut fds = fds;
        while left > 0 {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Errno::MSGSIZE);
            }
            match rustix::net::sendmsg(&self.socket, parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    left -= n.min(left);
                    IoSlice::advance_slices(&mut parts, n);
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: &Header, command: Command, deadline: Instant) -> Result<Answer, Failure> {
        for _ in 0..MAX_OTHER_MESSAGES {
            let mut fds = Vec::new();
            let mut head = [0; HEADER_SIZE];
            self.fill(&mut head, &mut fds, command, deadline)?;
            let header = Header::read_from_bytes(&head).unwrap_or_default();
            let Some(len) = header.payload(wire::MAX_MESSAGE) else {
                return Err(Failure::Gone(format!(
                    "it sent a message header with size {}",
                    header.size
                )));
            };
            let mut payload = vec![0; len];
            self.fill(&mut payload, &mut fds, command, deadline)?;
            if !header.is_reply() {
                self.turn_down(&header).map_err(|e| self.lost(e, command))?;
                continue;
            }
            if header.is_error() && header.command == Command::RegionWrite as u16 && header.id != request.id {
                // Some servers refuse a posted write aloud; nobody waits for that.
                tracing::debug!("a posted register write was refused: errno {}", header.error);
                continue;
            }
            // A refusal at the door answers no request in particular.
            let at_the_door = command == Command::Version && header.is_error();
            if header.command != command as u16 || (header.id != request.id && !at_the_door) {
                return Err(Failure::Gone(format!(
                    "it answered command {} with id {} where {command:?} with id {} was asked",
                    header.command, header.id, request.id
                )));
            }
            if header.is_error() {
                let errno = i32::try_from(header.error)
                    .ok()
                    .filter(|&e| (1..4096).contains(&e));
                return Err(Failure::Refused(io::Error::from_raw_os_error(
                    errno.unwrap_or(libc::EIO),
                )));
            }
            return Ok(Answer { payload, fds });
        }
        Err(Failure::Gone(format!(
            "it sent everything but an answer to {command:?}"
        )))
    }

    /// Servers may ask for client memory by message; ours is always shared, so they need not.
    fn turn_down(&mut self, header: &Header) -> Result<(), Errno> {
        if header.wants_reply() {
            self.send(&header.refusal(libc::ENOTSUP), &[], &[])?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        command: Command,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut have = 0;
        while have < buf.len() {
            if have > 0 && Instant::now() >= deadline {
                return Err(self.lost(Errno::AGAIN, command));
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ANSWER_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut buf[have..])];
            match rustix::net::recvmsg(&self.socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) if got.bytes == 0 => return Err(Failure::Gone("it closed the connection".into())),
                Ok(got) => {
                    have += got.bytes;
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(more) = message {
                            fds.extend(more);
                        }
                    }
                }
                Err(Errno::INTR) if Instant::now() < deadline => {}
                Err(e) => return Err(self.lost(e, command)),
            }
        }
        Ok(())
    }

    fn lost(&self, e: Errno, command: Command) -> Failure {
        match e {
            Errno::AGAIN | Errno::INTR => {
                Failure::Gone(format!("no answer to {command:?} in {:?}", self.timeout))
            }
            Errno::PIPE | Errno::CONNRESET => Failure::Gone("it closed the connection".into()),
            e => Failure::Gone(format!("the socket failed: {e}")),
        }
    }
}

/// Whether the other end of a socket still has it open. Never waits and takes no data away.
pub(super) fn is_open(socket: &UnixStream) -> bool {
    let mut byte = [0u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(socket.as_fd(), &mut byte[..], flags) {
        Ok((_, n)) => n > 0,
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}
