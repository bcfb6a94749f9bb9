//! What left through a model's wire: reads the capture file of a `pcap:` wire while the model writes it.

use super::LabError;
use millrace_nic_models::packet::checksum::{self, Status};
use millrace_nic_models::packet::parse;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// pcap's file header, and what comes before each frame: seconds, fraction, captured and original length.
const FILE_HEADER: u64 = 24;
const RECORD_HEADER: usize = 16;

/// Frames of one kind each, since the recording was last looked at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub frames: u64,
    /// With the MAC addresses that the generator puts there.
    pub untouched: u64,
    /// With those two swapped.
    pub swapped: u64,
    /// With a VLAN tag.
    pub tagged: u64,
    /// With a wrong IP, TCP or UDP checksum.
    pub wrong: u64,
}

/// A capture file and how far it has been read.
#[derive(Debug)]
pub struct Recording {
    file: File,
    at: u64,
}

impl Recording {
    /// Of a file that the model has created.
    pub fn open(path: &Path) -> Result<Self, LabError> {
        let file = File::open(path).map_err(LabError::io(format!("opening {}", path.display())))?;
        Ok(Self {
            file,
            at: FILE_HEADER,
        })
    }

    /// Judges what has come since the last call, by the MAC addresses `(source, destination)` of the generator.
    pub fn look(&mut self, macs: ([u8; 6], [u8; 6])) -> std::io::Result<Tally> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        let (mut tally, mut rest) = (Tally::default(), &bytes[..]);
        while let Some((header, frames)) = rest.split_at_checked(RECORD_HEADER) {
            let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
            // The model is in the middle of writing this one.
            let Some((frame, after)) = frames.split_at_checked(len) else {
                break;
            };
            tally.add(frame, macs);
            self.at += (RECORD_HEADER + len) as u64;
            rest = after;
        }
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, frame: &[u8], (source, destination): ([u8; 6], [u8; 6])) {
        self.frames += 1;
        let ends = (frame.get(..6), frame.get(6..12));
        self.untouched += u64::from(ends == (Some(&destination[..]), Some(&source[..])));
        self.swapped += u64::from(ends == (Some(&source[..]), Some(&destination[..])));
        let parsed = parse(frame);
        self.tagged += u64::from(!parsed.tags().is_empty());
        let bad = |status| status == Status::Bad;
        let wrong = bad(checksum::verify_ip(frame, &parsed)) || bad(checksum::verify_l4(frame, &parsed));
        self.wrong += u64::from(wrong);
    }
}
