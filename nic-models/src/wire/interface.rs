//! A network interface of the kernel, by name.

use super::{WireError, sys};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the answer to "is it up" is believed.
const LINK_POLL: Duration = Duration::from_millis(100);

/// An interface and a socket to ask about it.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    control: OwnedFd,
    /// When the link was last looked at, and how it was.
    link: Cell<Option<(Instant, bool)>>,
}

impl Interface {
    pub(super) fn new(name: &str) -> io::Result<Interface> {
        Ok(Interface {
            name: name.to_owned(),
            control: sys::control_socket()?,
            link: Cell::new(None),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> io::Result<i32> {
        sys::interface_index(self.control.as_fd(), &self.name)
    }

    pub(super) fn mac(&self) -> io::Result<[u8; 6]> {
        sys::interface_mac(self.control.as_fd(), &self.name)
    }

    pub(super) fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        sys::set_interface_mac(self.control.as_fd(), &self.name, mac)
    }

    pub(super) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        sys::set_interface_mtu(self.control.as_fd(), &self.name, mtu)
    }

    pub(super) fn set_up(&self, up: bool) -> io::Result<()> {
        let (set, clear) = if up { (libc::IFF_UP, 0) } else { (0, libc::IFF_UP) };
        self.link.set(None);
        sys::change_interface_flags(self.control.as_fd(), &self.name, set, clear)
    }

    /// Administratively up and with a carrier; asked at most every 100 ms.
    pub(super) fn running(&self) -> bool {
        let now = Instant::now();
        if let Some((when, up)) = self.link.get()
            && now.duration_since(when) < LINK_POLL
        {
            return up;
        }
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        let up =
            sys::interface_flags(self.control.as_fd(), &self.name).is_ok_and(|flags| flags & both == both);
        self.link.set(Some((now, up)));
        up
    }

    /// Whether it is still there.
    pub(super) fn exists(&self) -> bool {
        self.index().is_ok()
    }
}

/// Refuses names that the kernel cannot hold.
pub(super) fn check_name(spec: &str, name: &str, usage: &'static str) -> Result<(), WireError> {
    let problem = if name.is_empty() {
        "the interface name is missing"
    } else if name.len() >= libc::IFNAMSIZ {
        "interface names have at most 15 characters"
    } else if name.contains(['/', ' ', '\0', ':']) || name == "." || name == ".." {
        "interface names have no slash, colon or blank"
    } else {
        return Ok(());
    };
    Err(WireError::Malformed {
        spec: spec.to_owned(),
        problem: problem.to_owned(),
        usage,
    })
}
