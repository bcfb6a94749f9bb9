//! Questions from a guest to the host: the guest's second serial line, a line each way.
//!
//! Scenarios run in the guest, but some of what decides them is on the host: what a client on the network got, what
//! frames left through a model's wire. The shell function `ask` of `lib.sh` sends a line and reads
//! the answer, which starts with `ok` or `error`.

use super::LabError;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The host's end of a guest's second serial line.
#[derive(Debug)]
pub struct Line {
    /// What QEMU connects the line to.
    pub socket: PathBuf,
}

impl Line {
    /// Listens in `dir` and answers every question with one line of `answer`'s, on a thread that ends with the guest.
    pub fn serve(
        dir: &Path,
        mut answer: impl FnMut(&str) -> String + Send + 'static,
    ) -> Result<Self, LabError> {
        let socket = dir.join("line.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)
            .map_err(LabError::io(format!("listening on {}", socket.display())))?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let (stream, _) = listener.accept()?;
            let mut reply = stream.try_clone()?;
            for question in BufReader::new(stream).lines() {
                let text = answer(question?.trim()).replace('\n', " ");
                writeln!(reply, "{text}")?;
            }
            Ok(())
        });
        Ok(Self { socket })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The thread itself waits on a connection that ends with QEMU; without one it ends with this process.
        let _ = std::fs::remove_file(&self.socket);
    }
}
