//! What a model's port is plugged into.
//!
//! One string names a wire: `tap:NAME`, `packet:IFACE`, `pcap:IN[,OUT]`, `link:NAME`, `gen:SPEC`, `null`; [`open`] makes
//! it. [`pair`] joins two models of one process by memory alone. A wire hands over whole Ethernet frames as a switch port would: VLAN tags in place, checksums finished, nothing
//! longer than its frame limit. The kernel's shortcuts (partial checksums, 64 KB GSO frames, stripped tags) end here
//! and never reach a model.

mod error;
mod frames;
mod r#gen;
mod inbox;
mod interface;
mod link;
mod null;
mod outbox;
mod packet;
mod pair;
mod pcap;
mod sys;
pub mod tap;
#[cfg(test)]
mod tests;

pub use error::WireError;
pub use frames::{Batch, Outgoing};
pub use r#gen::{GenSpec, GenWire};
pub use link::LinkWire;
pub use null::Null;
pub use packet::PacketWire;
pub use pair::{PairWire, pair};
pub use pcap::PcapWire;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// The longest frame that any wire hands over or takes, in bytes without FCS: what the 82599 can receive (its
/// datasheet gives jumbo frames of up to 15.5 KB with FCS). Longer ones are dropped and counted.
pub const MAX_FRAME: usize = 15_872 - 4;

/// What became of a frame given to [`Wire::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// On its way (or in a batch that [`Wire::flush`] completes).
    Sent,
    /// Not sent: the other side is down, has no room, or does not take such a frame.
    Dropped,
}

/// The network behind a model's port. One thread owns it; no call blocks.
pub trait Wire: Send {
    /// The next frame from the network, valid until the next call; `None` when nothing waits. An error means that the
    /// wire is gone for good.
    fn recv(&mut self) -> io::Result<Option<&[u8]>>;

    /// Up to `max` of the frames that [`Wire::recv`] would give one by one: all of them count as handed over. `None`, or none in
    /// it: [`Wire::recv`] has to be asked.
    fn recv_batch(&mut self, max: usize) -> Option<Batch<'_>> {
        let _ = max;
        None
    }

    /// Gives a frame to the network. It may sit in a batch until [`Wire::flush`].
    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome>;

    /// Memory for a frame of `len` bytes in the batch that [`Wire::flush`] completes, with anything in it: whoever fills all of
    /// it and then calls [`Wire::commit`] has sent the frame with one copy less. Without that call nothing is sent. `None`
    /// where [`Wire::send`] has to do it: there is no such memory, or what it would say is "dropped".
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let _ = len;
        None
    }

    /// Sends the first `len` bytes of the memory that [`Wire::room`] gave just before.
    fn commit(&mut self, len: usize) {
        let _ = len;
    }

    /// For many frames at once what [`Wire::room`] and [`Wire::commit`] are for one. `None`: those have to be asked.
    fn outgoing(&mut self) -> Option<Outgoing<'_>> {
        None
    }

    /// Sends what [`Wire::send`] has collected.
    fn flush(&mut self) -> io::Result<()>;

    /// Whether the far side has a carrier.
    fn link_up(&self) -> bool;

    /// What to poll while idle: readable means that [`Wire::recv`] has something. Empty where nothing ever arrives or
    /// something always does.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Whether the wire makes traffic by itself, so that its model must not sleep while it receives.
    fn is_source(&self) -> bool {
        false
    }

    /// Of a source that keeps a rate: when its next frame comes, so that its model may sleep till then. `None`: at once.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Diagnostics: name and value of each counter.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Opens the wire that `spec` names.
pub fn open(spec: &str) -> Result<Box<dyn Wire>, WireError> {
    let (kind, rest) = spec.split_once(':').unwrap_or((spec, ""));
    Ok(match kind {
        "tap" => Box::new(tap::TapWire::open(spec, rest)?),
        "packet" => Box::new(PacketWire::open(spec, rest)?),
        "pcap" => Box::new(PcapWire::open(spec, rest)?),
        "link" => Box::new(LinkWire::open(spec, rest)?),
        "gen" => Box::new(GenWire::open(spec, rest)?),
        "null" if rest.is_empty() => Box::new(Null::default()),
        _ => {
            return Err(WireError::UnknownKind {
                spec: spec.to_owned(),
            });
        }
    })
}
