//! The system calls of the wires, as safe functions. The only unsafe code of the wires is here.
#![allow(unsafe_code)]

use super::inbox::{HEADROOM, Slot, VNET_LEN};
use crate::packet::Tag;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most messages one [`receive`] or [`send_all`] hands to the kernel.
pub(super) const BATCH: usize = 32;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// An `ifreq` with the interface's name; names too long for the kernel were refused before.
fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    request
}

fn ifreq_ioctl(fd: BorrowedFd<'_>, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each `call` used in this file takes a pointer to an `ifreq`, and `request` is one for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call, std::ptr::from_mut(request)) }).map(drop)
}

/// A socket to ask the kernel about interfaces with.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor that comes back is ours alone.
    unsafe {
        let fd = check(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Interface index (`SIOCGIFINDEX`).
pub(super) fn interface_index(control: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let mut request = ifreq(name);
    ifreq_ioctl(control, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the call filled this member; every bit pattern is an i32.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// Interface flags (`SIOCGIFFLAGS`).
pub(super) fn interface_flags(control: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let mut request = ifreq(name);
    ifreq_ioctl(control, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call filled this member; every bit pattern is an i16.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// Sets and clears interface flags (`SIOCSIFFLAGS`).
pub(super) fn change_interface_flags(
    control: BorrowedFd<'_>,
    name: &str,
    set: i32,
    clear: i32,
) -> io::Result<()> {
    let flags = (interface_flags(control, name)? | set) & !clear;
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ifreq_ioctl(control, libc::SIOCSIFFLAGS, &mut request)
}

/// Sets the MTU (`SIOCSIFMTU`).
pub(super) fn set_interface_mtu(control: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = ifreq(name);
    request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
    ifreq_ioctl(control, libc::SIOCSIFMTU, &mut request)
}

/// MAC address (`SIOCGIFHWADDR`).
pub(super) fn interface_mac(control: BorrowedFd<'_>, name: &str) -> io::Result<[u8; 6]> {
    let mut request = ifreq(name);
    ifreq_ioctl(control, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the call filled this member, a plain array of bytes.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i] as u8))
}

/// Sets the MAC address (`SIOCSIFHWADDR`).
pub(super) fn set_interface_mac(control: BorrowedFd<'_>, name: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = ifreq(name);
    let mut address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    ifreq_ioctl(control, libc::SIOCSIFHWADDR, &mut request)
}

/// Makes the descriptor of `/dev/net/tun` a tap interface called `name`, without packet information, with or without
/// virtio-net headers.
pub(super) fn make_tap(fd: BorrowedFd<'_>, name: &str, vnet_hdr: bool) -> io::Result<()> {
    let mut request = ifreq(name);
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ifreq_ioctl(fd, libc::TUNSETIFF, &mut request)?;
    if vnet_hdr {
        let len = VNET_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ takes a pointer to an int, valid during the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })?;
    }
    Ok(())
}

/// Tells the kernel which offloads the reader of a tap takes: all that we can finish, UDP segmentation where the kernel
/// knows it (6.2 and later).
pub(super) fn set_tap_offloads(fd: BorrowedFd<'_>) -> io::Result<()> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let set = |flags: libc::c_uint| unsafe {
        check(libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        ))
    };
    set(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6)
        .or_else(|_| set(tcp))
        .map(drop)
}

/// An AF_PACKET socket that receives nothing until [`bind_packet`].
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the descriptor that comes back is ours alone.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::socket(
            libc::AF_PACKET,
            kind,
            0,
        ))?))
    }
}

/// Binds an AF_PACKET socket to all protocols of one interface.
pub(super) fn bind_packet(fd: BorrowedFd<'_>, ifindex: i32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data; all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which lives during the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Promiscuous mode for as long as the socket lives.
pub(super) fn join_promiscuous(fd: BorrowedFd<'_>, ifindex: i32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: ifindex,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Sets an integer socket option.
pub(super) fn set_int_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option(fd, level, name, &value)
}

fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which the kernel only reads, during the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) })
        .map(drop)
}

/// Enlarges the socket's buffers past the system's limit where we may, up to the limit otherwise.
pub(super) fn enlarge_buffers(fd: BorrowedFd<'_>, bytes: i32) {
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if set_int_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
            // Without CAP_NET_ADMIN the kernel caps it silently: a smaller buffer only means earlier drops.
            let _ = set_int_option(fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// Frames the kernel has dropped for want of room since the last call (`PACKET_STATISTICS`).
pub(super) fn packet_drops(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: `tpacket_stats` is plain data; all zeroes is a valid value.
    let mut stats: libc::tpacket_stats = unsafe { zeroed() };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the pointers describe `stats` and its length, both alive and writable during the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    })?;
    Ok(u64::from(stats.tp_drops))
}

/// Receives up to [`BATCH`] datagrams into `slots` without waiting; gives how many. With `vnet_hdr` each starts with a
/// virtio-net header, which goes to [`Slot::header`]. No datagram waiting gives 0.
pub(super) fn receive(fd: BorrowedFd<'_>, slots: &mut [Slot], vnet_hdr: bool) -> io::Result<usize> {
    let count = slots.len().min(BATCH);
    let head = if vnet_hdr { VNET_LEN } else { 0 };
    // SAFETY: `iovec` and `mmsghdr` are plain data; all zeroes (null pointers, zero lengths) are valid values.
    let (mut iovecs, mut messages): ([[libc::iovec; 2]; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    for ((slot, iovec), message) in slots.iter_mut().zip(&mut iovecs).zip(&mut messages) {
        let frame = &mut slot.bytes[HEADROOM..];
        iovec[0] = libc::iovec {
            iov_base: slot.header.as_mut_ptr().cast(),
            iov_len: head,
        };
        iovec[1] = libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        };
        message.msg_hdr.msg_iov = iovec.as_mut_ptr();
        message.msg_hdr.msg_iovlen = 2;
        message.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = size_of_val(&slot.control) as _;
    }
    // SAFETY: the first `count` messages point at iovecs, buffers and control space of `slots`, each alive, writable,
    // exclusively borrowed and of the length given, during the call.
    let received = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let received = match check(received) {
        Ok(received) => received as usize,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
        Err(error) => return Err(error),
    };
    for (slot, message) in slots.iter_mut().zip(&messages[..received]) {
        slot.len = (message.msg_len as usize).saturating_sub(head);
        slot.truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        slot.tag = stripped_tag(&message.msg_hdr);
    }
    Ok(received)
}

/// The VLAN tag that the kernel took off the frame (`PACKET_AUXDATA`).
fn stripped_tag(header: &libc::msghdr) -> Option<Tag> {
    // SAFETY: `header` was filled by recvmmsg; its control pointer and length describe initialised, aligned memory of
    // the slot that is still borrowed by the caller. The data is read only where the header says it is long enough.
    let aux = unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        loop {
            let control = message.as_ref()?;
            let wanted = libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as libc::c_uint) as usize;
            if control.cmsg_level == libc::SOL_PACKET
                && control.cmsg_type == libc::PACKET_AUXDATA
                && control.cmsg_len as usize >= wanted
            {
                break libc::CMSG_DATA(message)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned();
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let tpid = if known {
        aux.tp_vlan_tpid
    } else {
        crate::packet::ethertype::VLAN
    };
    Some(Tag {
        tpid,
        tci: aux.tp_vlan_tci,
    })
}

/// Sends up to [`BATCH`] datagrams without waiting, each `prefix` and then the frame; gives how many the kernel took.
/// An error is about the first one.
pub(super) fn send_all<'a>(
    fd: BorrowedFd<'_>,
    prefix: &[u8],
    frames: impl Iterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    // SAFETY: as in `receive`.
    let (mut iovecs, mut messages): ([[libc::iovec; 2]; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    let mut count = 0;
    for ((frame, iovec), message) in frames.zip(&mut iovecs).zip(&mut messages) {
        // The kernel only reads what these point at.
        iovec[0] = libc::iovec {
            iov_base: prefix.as_ptr().cast_mut().cast(),
            iov_len: prefix.len(),
        };
        iovec[1] = libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        };
        message.msg_hdr.msg_iov = iovec.as_mut_ptr();
        message.msg_hdr.msg_iovlen = 2;
        count += 1;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` messages point at iovecs and bytes that are borrowed for the call and only read.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count, flags) })
        .map(|sent| sent as usize)
}

/// Opens `/dev/net/tun`.
pub(super) fn open_tun() -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    Ok(file.into())
}
