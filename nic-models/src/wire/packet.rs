//! `packet:IFACE`: an AF_PACKET socket on an interface, typically one end of a veth pair, so that a whole network
//! namespace talks through a model (packet(7)).
//!
//! The socket is promiscuous, does not see what it sends itself, and speaks virtio-net headers, so frames arrive as the
//! sender's kernel handed them down: with partial checksums, as GSO frames of 64 KB, with VLAN tags in metadata. The
//! inbox makes wire frames of them.

use super::inbox::{Inbox, VNET_LEN};
use super::interface::{Interface, check_name};
use super::outbox::Outbox;
use super::{SendOutcome, Wire, WireError, sys};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const USAGE: &str = "packet:IFACE";
/// Socket buffer: some 100 GSO frames, or thousands of small ones.
const SOCKET_BUFFER: i32 = 8 << 20;

/// The wire `packet:IFACE`.
pub struct PacketWire {
    fd: OwnedFd,
    interface: Interface,
    inbox: Inbox,
    outbox: Outbox,
    kernel_drops: Cell<u64>,
}

impl PacketWire {
    /// Opens the socket on an interface of this network namespace.
    pub fn open(spec: &str, name: &str) -> Result<PacketWire, WireError> {
        check_name(spec, name, USAGE)?;
        let system = |call| {
            move |source| WireError::System {
                spec: spec.to_owned(),
                call,
                source,
            }
        };
        let interface = Interface::new(name).map_err(system("socket"))?;
        let index = interface.index().map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => WireError::NoInterface {
                name: name.to_owned(),
            },
            _ => system("SIOCGIFINDEX")(error),
        })?;
        let fd = sys::packet_socket().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => WireError::Permission {
                action: format!("open a packet socket on {name:?}"),
                capability: "cap_net_raw",
            },
            _ => system("socket(AF_PACKET)")(error),
        })?;
        for (option, call) in [
            (libc::PACKET_VNET_HDR, "PACKET_VNET_HDR"),
            (libc::PACKET_AUXDATA, "PACKET_AUXDATA"),
            (
                libc::PACKET_IGNORE_OUTGOING,
                "PACKET_IGNORE_OUTGOING (Linux 4.20 or later)",
            ),
            (libc::PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS"),
        ] {
            sys::set_int_option(fd.as_fd(), libc::SOL_PACKET, option, 1).map_err(system(call))?;
        }
        sys::enlarge_buffers(fd.as_fd(), SOCKET_BUFFER);
        sys::join_promiscuous(fd.as_fd(), index).map_err(system("PACKET_ADD_MEMBERSHIP"))?;
        sys::bind_packet(fd.as_fd(), index).map_err(system("bind"))?;
        Ok(PacketWire {
            fd,
            interface,
            inbox: Inbox::for_gso(sys::BATCH),
            outbox: Outbox::default(),
            kernel_drops: Cell::new(0),
        })
    }
}

impl Wire for PacketWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(ready) = self.inbox.advance() {
                return Ok(Some(self.inbox.frame(ready)));
            }
            match sys::receive(self.fd.as_fd(), &mut self.inbox.slots, true) {
                Ok(0) => return Ok(None),
                Ok(count) => self.inbox.filled(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
                // Said once when the interface goes down or away; after "down" the socket works again by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) && self.interface.exists() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        if self.outbox.push(frame) {
            self.flush()?;
        }
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        let counters = &mut self.inbox.counters;
        let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV));
        // A zero virtio-net header: nothing left for the kernel to finish.
        self.outbox.flush(
            self.fd.as_fd(),
            &[0; VNET_LEN],
            gone,
            |outcome, frames| match outcome {
                SendOutcome::Sent => counters.send_frames += frames,
                SendOutcome::Dropped => counters.send_drops += frames,
            },
        )
    }

    fn link_up(&self) -> bool {
        self.interface.running()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.fd.as_fd()]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let new = sys::packet_drops(self.fd.as_fd()).unwrap_or(0);
        self.kernel_drops.set(self.kernel_drops.get() + new);
        let mut list = self.inbox.counters.list();
        list.push(("wire_recv_drop_kernel", self.kernel_drops.get()));
        list
    }
}
