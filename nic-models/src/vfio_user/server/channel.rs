//! One connection: messages in, with their file descriptors, and answers out. Nothing here blocks; what a
//! slow or silent peer leaves unfinished is kept until it completes or its time is up.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::vfio_user::wire::{HEADER_SIZE, Header, MAX_FDS, MAX_MESSAGE};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Disconnect {
    #[error("the client closed the connection")]
    Closed,
    #[error("the client closed the connection in the middle of a message")]
    CutShort,
    #[error("the client sent half a message and nothing more for {0:?}")]
    Stalled(Duration),
    #[error("the client did not read its answers for {0:?}")]
    NotReading(Duration),
    #[error("message header makes no sense: {0}")]
    BadHeader(&'static str),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("socket error: {0}")]
    Socket(#[source] std::io::Error),
}

/// What [`Channel::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// No complete message yet.
    Nothing,
    /// A complete one; see [`Channel::take`].
    Message,
}

/// A complete request.
#[derive(Debug)]
pub(super) struct Request {
    pub header: Header,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    /// More file descriptors came than fit; the kernel closed the rest.
    pub fds_lost: bool,
}

/// The framing state of a connection.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    patience: Duration,
    head: [u8; HEADER_SIZE],
    payload: Vec<u8>,
    /// Bytes of the current message that are here.
    have: usize,
    fds: Vec<OwnedFd>,
    fds_lost: bool,
    /// When the first byte of the current message came.
    since: Option<Instant>,
    out: Vec<u8>,
    out_fds: Vec<OwnedFd>,
    sent: usize,
    out_since: Option<Instant>,
}

impl Channel {
    /// `patience` is how long a message or an answer may stay unfinished.
    pub(super) fn new(socket: UnixStream, patience: Duration) -> Channel {
        Channel {
            socket,
            patience,
            head: [0; HEADER_SIZE],
            payload: Vec::new(),
            have: 0,
            fds: Vec::new(),
            fds_lost: false,
            since: None,
            out: Vec::new(),
            out_fds: Vec::new(),
            sent: 0,
            out_since: None,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// True while an answer waits for room in the socket; no request is read meanwhile.
    pub(super) fn is_sending(&self) -> bool {
        !self.out.is_empty()
    }

    /// When this connection must be looked at again even if its socket stays silent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let since = self.since.into_iter().chain(self.out_since).min()?;
        Some(since + self.patience)
    }

    /// Reads what is there, up to the end of one message.
    pub(super) fn receive(&mut self, now: Instant) -> Result<Received, Disconnect> {
        loop {
            let total = match self.length()? {
                Some(total) if self.have == total => return Ok(Received::Message),
                Some(total) => total,
                None => HEADER_SIZE,
            };
            match self.read_some(total) {
                Ok(0) if self.have == 0 => return Err(Disconnect::Closed),
                Ok(0) => return Err(Disconnect::CutShort),
                Ok(n) => {
                    self.have += n;
                    self.since.get_or_insert(now);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return match self.since {
                        Some(since) if now.duration_since(since) >= self.patience => {
                            Err(Disconnect::Stalled(self.patience))
                        }
                        _ => Ok(Received::Nothing),
                    };
                }
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Disconnect::Closed),
                Err(e) => return Err(Disconnect::Socket(e.into())),
            }
        }
    }

    /// Takes the complete message that [`receive`](Self::receive) announced.
    pub(super) fn take(&mut self) -> Request {
        let header = Header::read_from_bytes(&self.head).unwrap_or_default();
        self.have = 0;
        self.since = None;
        Request {
            header,
            payload: std::mem::take(&mut self.payload),
            fds: std::mem::take(&mut self.fds),
            fds_lost: std::mem::take(&mut self.fds_lost),
        }
    }

    /// Gives a request's buffer back for the next message.
    pub(super) fn recycle(&mut self, request: Request) {
        if self.have == 0 {
            self.payload = request.payload;
        }
    }

    /// Header of the message being received, once it is there.
    pub(super) fn header(&self) -> Option<Header> {
        (self.have >= HEADER_SIZE).then(|| Header::read_from_bytes(&self.head).ok())?
    }

    /// Queues an answer and sends as much of it as goes out at once.
    pub(super) fn send(
        &mut self,
        now: Instant,
        header: Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Disconnect> {
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(payload);
        self.out_fds = fds;
        self.out_since = Some(now);
        self.flush(now)
    }

    /// Goes on sending a queued answer.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), Disconnect> {
        while self.sent < self.out.len() {
            match self.write_some() {
                Ok(n) => {
                    self.sent += n;
                    self.out_fds.clear(); // they went with the first byte
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let since = *self.out_since.get_or_insert(now);
                    return if now.duration_since(since) >= self.patience {
                        Err(Disconnect::NotReading(self.patience))
                    } else {
                        Ok(())
                    };
                }
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Disconnect::Closed),
                Err(e) => return Err(Disconnect::Socket(e.into())),
            }
        }
        self.out.clear();
        self.sent = 0;
        self.out_since = None;
        Ok(())
    }

    /// Length of the message being received, once its header is there and makes sense.
    fn length(&mut self) -> Result<Option<usize>, Disconnect> {
        let Some(header) = self.header() else {
            return Ok(None);
        };
        let Some(payload) = header.payload(MAX_MESSAGE) else {
            return Err(Disconnect::BadHeader(
                "its size is shorter than a header or longer than allowed",
            ));
        };
        self.payload.resize(payload, 0);
        Ok(Some(HEADER_SIZE + payload))
    }

    /// One read of bytes that belong to the current message, and of descriptors that came with them. Reading no
    /// further than the message ends keeps the next message's descriptors with the next message.
    fn read_some(&mut self, total: usize) -> Result<usize, Errno> {
        let into = match self.have.checked_sub(HEADER_SIZE) {
            None => &mut self.head[self.have..],
            Some(at) => &mut self.payload[at..total - HEADER_SIZE],
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                for fd in fds {
                    if self.fds.len() < MAX_FDS {
                        self.fds.push(fd);
                    } else {
                        self.fds_lost = true;
                    }
                }
            }
        }
        self.fds_lost |= got.flags.contains(ReturnFlags::CTRUNC);
        Ok(got.bytes)
    }

    fn write_some(&mut self) -> Result<usize, Errno> {
        let fds: Vec<BorrowedFd<'_>> = self.out_fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::MSGSIZE);
        }
        let data = [IoSlice::new(&self.out[self.sent..])];
        rustix::net::sendmsg(
            &self.socket,
            &data,
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    }
}
