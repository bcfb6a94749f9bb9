//! One health check: connect, and for HTTP ask and read the status line. Every step ends at the deadline.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};
use thiserror::Error;

use super::Plan;
use crate::config::CheckKind;

/// Longest status line read.
const STATUS_LINE: usize = 512;

/// Why a check failed.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No connection.
    #[error("connect to {to}: {why}")]
    Connect {
        /// Where.
        to: SocketAddr,
        /// The system's words.
        why: io::Error,
    },
    /// Connected, but no answer.
    #[error("no HTTP answer: {0}")]
    Answer(io::Error),
    /// An answer that is no HTTP.
    #[error("the answer is no HTTP: {0:?}")]
    NotHttp(String),
    /// HTTP, but not what was wanted.
    #[error("HTTP status {0}")]
    Status(u16),
}

impl ProbeError {
    /// Whether the fault is this host's, which says nothing about the backend.
    pub fn is_ours(&self) -> bool {
        use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
        matches!(self, ProbeError::Connect { why, .. } if matches!(why.kind(), AddrNotAvailable | NetworkUnreachable))
    }
}

/// Runs a check; takes no longer than its timeout.
pub fn probe(plan: &Plan) -> Result<(), ProbeError> {
    let deadline = Instant::now() + plan.health.timeout;
    match &plan.health.kind {
        CheckKind::None => Ok(()),
        CheckKind::Tcp => open(plan, deadline).map(drop),
        CheckKind::Http { path, statuses, .. } => {
            let mut stream = open(plan, deadline)?;
            let line = ask(&mut stream, path, &plan.host, deadline).map_err(ProbeError::Answer)?;
            let status = status_of(&line).ok_or(ProbeError::NotHttp(line))?;
            match statuses.iter().any(|(from, to)| (*from..=*to).contains(&status)) {
                true => Ok(()),
                false => Err(ProbeError::Status(status)),
            }
        }
    }
}

fn open(plan: &Plan, deadline: Instant) -> Result<TcpStream, ProbeError> {
    dial(plan.address, plan.source, deadline).map_err(|why| ProbeError::Connect {
        to: plan.address,
        why,
    })
}

/// Connects from a given address, which std cannot.
fn dial(to: SocketAddr, from: Option<IpAddr>, deadline: Instant) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if let Some(from) = from {
        bind(&socket, &SocketAddr::new(from, 0))?;
    }
    match connect(&socket, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            loop {
                let left = left(deadline)?;
                let left = Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                };
                match poll(&mut fds, Some(&left)) {
                    Ok(0) | Err(Errno::INTR) => continue,
                    Ok(_) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
            sockopt::socket_error(&socket)??;
        }
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, path: &str, host: &str, deadline: Instant) -> io::Result<String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: millrace-l4lb\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    let mut chunk = [0; STATUS_LINE];
    while line.len() < STATUS_LINE && !line.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => line.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    let end = line
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(line.len())
        .min(STATUS_LINE);
    Ok(String::from_utf8_lossy(&line[..end]).trim_end().to_owned())
}

/// `HTTP/1.1 200 OK`: RFC 9112, 4.
fn status_of(line: &str) -> Option<u16> {
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|status| status.len() == 3)?.parse().ok()
}

fn left(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(late)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "timed out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_gives_its_status_and_nothing_else_does() {
        assert_eq!(status_of("HTTP/1.1 204 No Content"), Some(204));
        assert_eq!(status_of("HTTP/1.0 500"), Some(500));
        for line in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 20",
            "HTTP/1.1 abc",
            "HTTP/2 200",
            "220 mail ESMTP",
        ] {
            assert_eq!(status_of(line), None, "{line}");
        }
    }
}
