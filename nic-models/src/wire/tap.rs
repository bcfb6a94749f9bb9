//! `tap:NAME`: a tap interface of the kernel; its IP stack is what the model is plugged into.
//!
//! [`Tap`] is the interface itself, which programs also use as the way to the host's stack; [`TapWire`] is the wire,
//! which asks the kernel for GSO frames and partial checksums and finishes them.

use super::inbox::{Inbox, VNET_LEN};
use super::interface::{Interface, check_name};
use super::{SendOutcome, Wire, WireError, sys};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const USAGE: &str = "tap:NAME";
/// Frames read in one go.
const READ_BATCH: usize = 16;

/// A tap interface: frames the kernel sends to it are read here, frames written here are received by the kernel. It
/// goes away when dropped, unless it was made persistent beforehand (`ip tuntap add`).
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    interface: Interface,
    vnet_hdr: bool,
}

impl Tap {
    /// Creates the interface or attaches to a persistent one, without virtio-net headers: what is read are plain
    /// frames with finished checksums.
    pub fn open(name: &str) -> Result<Tap, WireError> {
        Tap::open_with(&format!("tap:{name}"), name, false)
    }

    fn open_with(spec: &str, name: &str, vnet_hdr: bool) -> Result<Tap, WireError> {
        check_name(spec, name, USAGE)?;
        let system = |call, source| WireError::System {
            spec: spec.to_owned(),
            call,
            source,
        };
        let permission = || WireError::Permission {
            action: format!("create or attach to the tap interface {name:?}"),
            capability: "cap_net_admin",
        };
        let fd = sys::open_tun().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => permission(),
            _ => system(
                "open /dev/net/tun (is the tun module loaded? `modprobe tun`)",
                error,
            ),
        })?;
        sys::make_tap(fd.as_fd(), name, vnet_hdr).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => permission(),
            Some(libc::EBUSY) => WireError::Busy {
                what: format!("the tap interface {name:?}"),
            },
            Some(libc::EINVAL) => WireError::Busy {
                what: format!("{name:?} is an interface that is no single-queue tap; it"),
            },
            _ => system("TUNSETIFF", error),
        })?;
        if vnet_hdr {
            sys::set_tap_offloads(fd.as_fd()).map_err(|error| system("TUNSETOFFLOAD", error))?;
        }
        let interface = Interface::new(name).map_err(|error| system("socket", error))?;
        Ok(Tap {
            fd,
            interface,
            vnet_hdr,
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.interface.name()
    }

    /// The interface's index in this network namespace.
    pub fn index(&self) -> io::Result<u32> {
        self.interface.index().map(|index| index as u32)
    }

    /// The kernel side's MAC address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        self.interface.mac()
    }

    /// Sets the kernel side's MAC address.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.interface.set_mac(mac)
    }

    /// Sets the kernel side's MTU.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.interface.set_mtu(mtu)
    }

    /// Brings the kernel side up or down.
    pub fn set_up(&self, up: bool) -> io::Result<()> {
        self.interface.set_up(up)
    }

    /// Reads one frame from the kernel into `buf`; gives its length, or `None` when none waits. Bytes that do not fit are
    /// lost, as `read(2)` has it.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut header = [0; VNET_LEN];
        self.read_with_header(&mut header, buf)
    }

    fn read_with_header(&self, header: &mut [u8; VNET_LEN], buf: &mut [u8]) -> io::Result<Option<usize>> {
        let result = if self.vnet_hdr {
            let mut parts = [IoSliceMut::new(&mut header[..]), IoSliceMut::new(buf)];
            rustix::io::readv(&self.fd, &mut parts).map(|len| len.saturating_sub(VNET_LEN))
        } else {
            rustix::io::read(&self.fd, buf)
        };
        match result {
            Ok(len) => Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives one frame to the kernel. Dropped where the interface is down or the kernel refuses the frame.
    pub fn write(&self, frame: &[u8]) -> io::Result<SendOutcome> {
        let result = if self.vnet_hdr {
            rustix::io::writev(&self.fd, &[IoSlice::new(&[0; VNET_LEN]), IoSlice::new(frame)])
        } else {
            rustix::io::write(&self.fd, frame)
        };
        match result {
            Ok(_) => Ok(SendOutcome::Sent),
            Err(rustix::io::Errno::BADFD) => Err(rustix::io::Errno::BADFD.into()),
            Err(_) => Ok(SendOutcome::Dropped),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The wire `tap:NAME`.
pub struct TapWire {
    tap: Tap,
    inbox: Inbox,
}

impl TapWire {
    /// Creates or attaches to the interface and brings it up.
    pub fn open(spec: &str, name: &str) -> Result<TapWire, WireError> {
        let tap = Tap::open_with(spec, name, true)?;
        tap.set_up(true).map_err(|source| WireError::System {
            spec: spec.to_owned(),
            call: "bring the interface up",
            source,
        })?;
        Ok(TapWire {
            tap,
            inbox: Inbox::for_gso(READ_BATCH),
        })
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut count = 0;
        for slot in &mut self.inbox.slots {
            // The tap puts VLAN tags into the frame itself.
            let (_, frame) = slot.bytes.split_at_mut(super::inbox::HEADROOM);
            match self.tap.read_with_header(&mut slot.header, frame) {
                Ok(Some(len)) => slot.len = len,
                Ok(None) => break,
                Err(_) if count > 0 => break, // it will come again with the next call
                Err(error) => return Err(error),
            }
            count += 1;
        }
        Ok(count)
    }
}

impl Wire for TapWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if let Some(ready) = self.inbox.advance() {
                return Ok(Some(self.inbox.frame(ready)));
            }
            match self.fill()? {
                0 => return Ok(None),
                count => self.inbox.filled(count),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        let outcome = self.tap.write(frame)?;
        match outcome {
            SendOutcome::Sent => self.inbox.counters.send_frames += 1,
            SendOutcome::Dropped => self.inbox.counters.send_drops += 1,
        }
        Ok(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn link_up(&self) -> bool {
        self.tap.interface.running()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.tap.as_fd()]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inbox.counters.list()
    }
}
