//! Frames collected on their way to a socket.

use super::frames::Frames;
use super::{SendOutcome, sys};
use std::io;
use std::os::fd::BorrowedFd;

/// Up to one batch of frames in one reused buffer.
#[derive(Default)]
pub(super) struct Outbox {
    frames: Frames,
}

impl Outbox {
    /// Adds a frame; `true` when the batch is full and should be flushed.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        self.frames.push(frame);
        self.frames.len() == sys::BATCH
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
        let count = self.frames.len();
        while done < count {
            let frames = (done..count).filter_map(|i| self.frames.get(i));
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
        outcome(SendOutcome::Dropped, (count - done.min(count)) as u64);
        self.frames.clear();
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
