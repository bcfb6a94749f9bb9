//! A wire with nothing at the other end.

use super::{SendOutcome, Wire};
use std::io;
use std::os::fd::BorrowedFd;

/// Swallows and counts what it is given; nothing ever arrives. Its link is up.
#[derive(Debug, Default)]
pub struct Null {
    frames: u64,
    bytes: u64,
}

impl Wire for Null {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        Ok(None)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn link_up(&self) -> bool {
        true
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("wire_sent_frames", self.frames), ("wire_sent_bytes", self.bytes)]
    }
}
