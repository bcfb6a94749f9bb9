//! The vfio-user server, seen by a client that sends whatever bytes it likes.
#![cfg(feature = "device")]

mod client;
mod foreign;
mod hostile;
mod protocol;
mod quiesce;
mod serve;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use client::Client;
use millrace_nic_models::device::exerciser::Exerciser;
use millrace_nic_models::vfio_user::server::{Options, Server};

/// A server with an exerciser on a thread of its own.
struct Rig {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(Options {
            patience: Duration::from_millis(300),
            ..Options::default()
        })
    }

    fn with(options: Options) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nic.sock");
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server::bind(&path).unwrap();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut model = Exerciser::new().unwrap();
                server.serve(&mut model, &options, &stop, &mut |_| {}).unwrap();
            }
        });
        Rig {
            path,
            stop,
            thread: Some(thread),
            _dir: dir,
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    /// A client that has said hello. The one before may not be noticed as gone yet: then this waits.
    fn client(&self) -> Client {
        for _ in 0..200 {
            let mut client = Client::silent(self.connect());
            let welcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.hello()));
            match welcome {
                Ok(answer) if !answer.header.is_error() => return client,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("the server does not take a new client");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server panicked");
            assert!(!self.path.exists(), "the socket is still there");
        }
    }
}
