//! Frames collected on their way to a socket.

use super::{SendOutcome, sys};
use std::io;
use std::os::fd::BorrowedFd;

/// Up to one batch of frames in one reused buffer.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    /// Adds a frame; `true` when the batch is full and should be flushed.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
        self.ends.len() == sys::BATCH
    }

    /// Sends all frames, each behind `prefix`. A frame the kernel does not take is dropped and the rest still tried;
    /// `outcome` hears about runs of frames. An error for which `fatal` holds ends the flush.
    pub(super) fn flush(
        &mut self,
        fd: BorrowedFd<'_>,
        prefix: &[u8],
        fatal: impl Fn(&io::Error) -> bool,
        mut outcome: impl FnMut(SendOutcome, u64),
    ) -> io::Result<()> {
        let mut done = 0;
        let mut result = Ok(());
        while done < self.ends.len() {
            let frames = (done..self.ends.len()).map(|i| {
                let start = if i == 0 { 0 } else { self.ends[i - 1] };
                &self.bytes[start..self.ends[i]]
            });
            match sys::send_all(fd, prefix, frames) {
                Ok(sent) => {
                    outcome(SendOutcome::Sent, sent as u64);
                    done += sent.max(1);
                }
                Err(error) if fatal(&error) => {
                    result = Err(error);
                    break;
                }
                Err(error) if one_frame_only(&error) => {
                    outcome(SendOutcome::Dropped, 1);
                    done += 1;
                }
                Err(_) => break, // no room or no carrier: the rest would meet the same
            }
        }
        outcome(
            SendOutcome::Dropped,
            (self.ends.len() - done.min(self.ends.len())) as u64,
        );
        self.bytes.clear();
        self.ends.clear();
        result
    }
}

/// Errors about one frame, not about the way.
fn one_frame_only(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMSGSIZE | libc::EINVAL | libc::EINTR)
    )
}
