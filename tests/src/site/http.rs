//! The smallest HTTP/1.1 client that tells one backend from another and knows its own 5-tuple.

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// An open connection to the VIP.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// Our own end.
    pub local: SocketAddr,
    /// The backend that answered the first request, once it is known.
    pub backend: Option<String>,
}

impl Connection {
    /// Connects from a source port of the caller's choice, so that the 5-tuple is known even when this fails.
    pub fn open(local: SocketAddr, vip: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let family = match vip.ip() {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let fd = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(fd.as_fd(), true)?;
        sockopt::set_socket_timeout(fd.as_fd(), sockopt::Timeout::Send, Some(timeout))?;
        bind(&fd, &local)?;
        connect(&fd, &vip)?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self {
            stream: BufReader::new(stream),
            local,
            backend: None,
        })
    }

    /// One request; returns the name of the backend that answered it.
    pub fn get(&mut self, path: &str, keep: bool) -> io::Result<String> {
        let how = if keep { "keep-alive" } else { "close" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: vip\r\nConnection: {how}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    /// Sends a body; returns the name of the backend that answered.
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<String> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: vip\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.stream.get_mut().write_all(body)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<String> {
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("the server answered `{status}`")));
        }
        let (mut length, mut backend) = (0, None);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
                "x-backend" => backend = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        backend.ok_or_else(|| io::Error::other("no X-Backend in the answer"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut raw = Vec::new();
        // A server that never ends its line is cut off.
        let n = self.stream.by_ref().take(8192).read_until(b'\n', &mut raw)?;
        if n == 0 || raw.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&raw).trim_end().to_owned())
    }
}
