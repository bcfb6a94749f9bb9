//! pcapng as a capture writes it: an interface a queue; each frame with `epb_queue`, `epb_verdict` (type 2, Linux eBPF XDP,
//! then the verdict as 64 bits) and, as a comment, the same and the hints in words (draft-ietf-opsawg-pcapng, 4.3).

use super::{Captured, Point};
use millrace_ebpf::XdpAction;
use pcap_file::pcapng::blocks::ENHANCED_PACKET_BLOCK;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{PcapNgWriter, RawBlock};
use pcap_file::{DataLink, Endianness, PcapError};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;

const OPT_ENDOFOPT: u16 = 0;
const OPT_COMMENT: u16 = 1;
const EPB_QUEUE: u16 = 6;
const EPB_VERDICT: u16 = 7;
/// `epb_verdict`'s type for XDP.
const LINUX_EBPF_XDP: u8 = 2;
/// Ten to the power of minus nine.
const NANOSECONDS: u8 = 9;

/// Writes frames of one port.
pub(crate) struct CaptureFile<W: Write> {
    writer: PcapNgWriter<W>,
}

impl<W: Write> CaptureFile<W> {
    /// Begins a file with an interface for each of `queues`.
    pub(crate) fn begin(
        out: W,
        port: &str,
        queues: &[u16],
        point: Point,
        snap: usize,
        filter: &str,
    ) -> Result<CaptureFile<W>, PcapError> {
        let mut writer = PcapNgWriter::with_endianness(out, Endianness::Little)?;
        let point = match point {
            Point::Entry => "entry",
            Point::Exit => "exit",
        };
        for queue in queues {
            let mut options = vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(format!("{port}/{queue}"))),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(format!(
                    "queue {queue} of millrace port {port}, program {point}"
                ))),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ];
            if !filter.is_empty() {
                // Type 0: libpcap's text.
                let text = [&[0], filter.as_bytes()].concat();
                options.push(InterfaceDescriptionOption::IfFilter(Cow::Owned(text)));
            }
            writer.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: snap as u32,
                options,
            })?;
        }
        Ok(CaptureFile { writer })
    }

    /// Writes one frame; `interface` is its queue's place among those of [`begin`](Self::begin).
    pub(crate) fn frame(&mut self, interface: u32, frame: &Captured, data: &[u8]) -> Result<(), PcapError> {
        // Block by hand: the crate's enhanced packet has no way to carry these two options.
        let mut body = Vec::with_capacity(data.len() + 160);
        for word in [
            interface,
            (frame.time >> 32) as u32,
            frame.time as u32,
            data.len() as u32,
            frame.len,
        ] {
            body.extend(word.to_le_bytes());
        }
        padded(&mut body, data);
        option(&mut body, OPT_COMMENT, comment(frame).as_bytes());
        option(&mut body, EPB_QUEUE, &u32::from(frame.queue).to_le_bytes());
        if let Some(raw) = frame.verdict {
            let mut verdict = [LINUX_EBPF_XDP; 9];
            verdict[1..].copy_from_slice(&u64::from(raw).to_le_bytes());
            option(&mut body, EPB_VERDICT, &verdict);
        }
        option(&mut body, OPT_ENDOFOPT, &[]);
        // Type, both lengths and the body.
        let len = body.len() as u32 + 12;
        self.writer.write_raw_block(&RawBlock {
            type_: ENHANCED_PACKET_BLOCK,
            initial_len: len,
            body: Cow::Owned(body),
            trailer_len: len,
        })?;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.writer.get_mut().flush()
    }
}

/// Bytes up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// Queue, verdict and hints in words.
pub(crate) fn comment(frame: &Captured) -> String {
    let mut text = format!("queue={}", frame.queue);
    if let Some(raw) = frame.verdict {
        let known = XdpAction::ALL.into_iter().find(|action| *action as u32 == raw);
        match known {
            Some(action) => text = format!("{text} verdict={}", action.name()),
            None => text = format!("{text} verdict={raw}"),
        }
    }
    if let Some(target) = frame.redirect {
        let _ = write!(text, " redirect={target}");
    }
    for (name, value) in &frame.hints {
        let _ = write!(text, " {name}={value:#x}");
    }
    text
}
