//! `pcap:IN[,OUT]`: frames from a capture file, once; what the model sends goes to another.
//!
//! IN may be pcap or pcapng, in either byte order, of link type Ethernet. It is read and checked as a whole when the wire
//! is opened; frames that the capture cut short are left out and counted. Timestamps are not replayed. OUT is a pcap file
//! with nanosecond timestamps. Either may be empty: `pcap:,OUT` only records.

use super::{MAX_FRAME, SendOutcome, Wire, WireError};
use pcap_file::pcap::{PcapHeader, PcapParser};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::SystemTime;

const USAGE: &str = "pcap:IN[,OUT], where IN is an existing capture and OUT is created";
/// The largest capture that is read into memory.
const MAX_CAPTURE: u64 = 4 << 30;
/// The snap length written to OUT.
const SNAP_LEN: u32 = 262_144;

/// The wire `pcap:IN[,OUT]`.
pub struct PcapWire {
    capture: Capture,
    next: usize,
    out: Option<BufWriter<File>>,
    sent: u64,
}

/// The frames of a capture file, one after another.
#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    skipped: u64,
}

impl PcapWire {
    /// Reads IN and creates OUT.
    pub fn open(spec: &str, files: &str) -> Result<PcapWire, WireError> {
        let (input, output) = files.split_once(',').unwrap_or((files, ""));
        if input.is_empty() && output.is_empty() {
            let problem = "no file is named".to_owned();
            return Err(WireError::Malformed {
                spec: spec.to_owned(),
                problem,
                usage: USAGE,
            });
        }
        let capture = if input.is_empty() {
            Capture::default()
        } else {
            Capture::read(Path::new(input))?
        };
        let out = if output.is_empty() {
            None
        } else {
            Some(create(Path::new(output))?)
        };
        Ok(PcapWire {
            capture,
            next: 0,
            out,
            sent: 0,
        })
    }
}

fn capture_error(path: &Path, problem: impl ToString) -> WireError {
    WireError::Capture {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// Creates the file and writes its header.
fn create(path: &Path) -> Result<BufWriter<File>, WireError> {
    let file =
        File::create(path).map_err(|error| capture_error(path, format!("cannot be created: {error}")))?;
    let header = PcapHeader {
        snaplen: SNAP_LEN,
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::Little,
        ..PcapHeader::default()
    };
    let mut out = BufWriter::new(file);
    header
        .write_to(&mut out)
        .map_err(|error| capture_error(path, error))?;
    Ok(out)
}

/// One record: seconds, nanoseconds, captured and original length, the frame.
fn write_record(out: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let len = frame.len() as u32;
    for word in [now.as_secs() as u32, now.subsec_nanos(), len, len] {
        out.write_all(&word.to_le_bytes())?;
    }
    out.write_all(frame)
}

impl Capture {
    fn read(path: &Path) -> Result<Capture, WireError> {
        let unreadable = |error: io::Error| capture_error(path, format!("cannot be read: {error}"));
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_CAPTURE {
            return Err(capture_error(
                path,
                "is longer than 4 GiB; cut it with `editcap -c`",
            ));
        }
        let file = std::fs::read(path).map_err(unreadable)?;
        let mut capture = Capture::default();
        match file.get(..4) {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => capture.read_pcapng(path, &file)?,
            _ => capture.read_pcap(path, &file)?,
        }
        Ok(capture)
    }

    fn read_pcap(&mut self, path: &Path, file: &[u8]) -> Result<(), WireError> {
        let (mut rest, parser) = PcapParser::new(file)
            .map_err(|_| capture_error(path, "is neither pcap nor pcapng; `file` tells what it is"))?;
        self.check_link_type(path, parser.header().datalink)?;
        while !rest.is_empty() {
            let (after, packet) = parser
                .next_raw_packet(rest)
                .map_err(|error| self.cut_short(path, &error))?;
            self.push(&packet.data, packet.orig_len);
            rest = after;
        }
        Ok(())
    }

    fn read_pcapng(&mut self, path: &Path, file: &[u8]) -> Result<(), WireError> {
        let (mut rest, mut parser) = PcapNgParser::new(file)
            .map_err(|error| capture_error(path, format!("has no valid pcapng header: {error}")))?;
        while !rest.is_empty() {
            let (after, block) = parser
                .next_block(rest)
                .map_err(|error| self.cut_short(path, &error))?;
            let link_type = |interface: u32| parser.interfaces().get(interface as usize).map(|i| i.linktype);
            match block {
                Block::EnhancedPacket(packet) => {
                    self.check_link_type(path, link_type(packet.interface_id).unwrap_or(DataLink::NULL))?;
                    self.push(&packet.data, packet.original_len);
                }
                Block::SimplePacket(packet) => {
                    self.check_link_type(path, link_type(0).unwrap_or(DataLink::NULL))?;
                    let len = packet.data.len().min(packet.original_len as usize); // without the block's padding
                    self.push(&packet.data[..len], packet.original_len);
                }
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn check_link_type(&self, path: &Path, link: DataLink) -> Result<(), WireError> {
        if link == DataLink::ETHERNET {
            return Ok(());
        }
        let kind =
            format!("holds frames of link type {link:?}, not Ethernet; capture on an Ethernet interface");
        Err(capture_error(path, kind))
    }

    fn cut_short(&self, path: &Path, error: &PcapError) -> WireError {
        let after = self.ends.len() as u64 + self.skipped;
        capture_error(
            path,
            format!("is damaged after frame {after}: {error}; `tshark -r` shows what can be saved"),
        )
    }

    fn push(&mut self, frame: &[u8], original: u32) {
        if frame.len() < original as usize || frame.len() < 14 || frame.len() > MAX_FRAME {
            self.skipped += 1;
            return;
        }
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }
}

impl Wire for PcapWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(end) = self.capture.ends.get(self.next) else {
            return Ok(None);
        };
        let start = if self.next == 0 {
            0
        } else {
            self.capture.ends[self.next - 1]
        };
        self.next += 1;
        Ok(Some(&self.capture.bytes[start..*end]))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        if let Some(out) = &mut self.out {
            write_record(out, frame)?;
        }
        self.sent += 1;
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }

    fn link_up(&self) -> bool {
        true
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn is_source(&self) -> bool {
        self.next < self.capture.ends.len()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("wire_recv_frames", self.next as u64),
            ("wire_recv_skipped", self.capture.skipped),
            ("wire_send_frames", self.sent),
        ]
    }
}
