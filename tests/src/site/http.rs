//! The smallest HTTP/1.1 client that tells one backend from another and knows its own 5-tuple, and a server for POSTs.

use crate::netns::Netns;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// An open connection to the VIP.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// Our own end.
    pub local: SocketAddr,
    /// The backend that answered the first request, once it is known.
    pub backend: Option<String>,
    /// What the server said of the last body it got (`X-Body`).
    pub body: Option<String>,
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
            body: None,
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
                "x-body" => self.body = Some(value.trim().to_owned()),
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

/// A server that takes POSTs whole and answers 200 with its name, and the body's length and [`checksum`] in `X-Body`;
/// nginx would answer before it has read the body.
#[derive(Debug)]
pub struct PostServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PostServer {
    /// Listens on `port`, v4 and v6, inside the namespace.
    pub fn start(name: &str, ns: &Netns, port: u16) -> io::Result<Self> {
        let link = std::fs::File::open(format!("/run/netns/{}", ns.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let listener = enter(&link)
                .and_then(|()| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
            match listener.and_then(|l| l.set_nonblocking(true).map(|()| l)) {
                Ok(listener) => {
                    let _ = ready.send(Ok(()));
                    accept(&listener, &name, &stopped);
                }
                Err(e) => drop(ready.send(Err(e))),
            }
        });
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for PostServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread into a network namespace.
pub fn enter(link: &std::fs::File) -> io::Result<()> {
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(link.as_fd(), kind)?)
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                // A client that fails is the client's to report.
                let _ = serve(stream, name);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn serve(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.by_ref().take(8192).read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let text = format!("{} {}", body.len(), checksum(&body));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nX-Backend: {name}\r\nX-Body: {text}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.get_mut().write_all(answer.as_bytes())
}

/// FNV-1a, 64 bits: tells a body that arrived whole from one that did not.
pub fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}
