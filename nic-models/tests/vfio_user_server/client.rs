//! A bare vfio-user client for tests: it sends exactly the bytes it is told to.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use millrace_nic_models::vfio_user::wire::{
    self, Capabilities, Command, DmaMap, DmaUnmap, HEADER_SIZE, Header, RegionAccess, SetIrqs, Version,
};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub struct Client {
    pub socket: UnixStream,
    next_id: u16,
}

/// An answer: its header and payload.
#[derive(Debug)]
pub struct Answer {
    pub header: Header,
    pub payload: Vec<u8>,
}

impl Answer {
    /// The errno of a refusal; panics on success.
    pub fn errno(&self) -> i32 {
        assert!(self.header.is_error(), "no refusal: {:?}", self.header);
        assert_eq!(self.header.size as usize, HEADER_SIZE, "a refusal has no payload");
        self.header.error as i32
    }

    pub fn ok<T: FromBytes>(&self) -> T {
        assert!(!self.header.is_error(), "refused: {:?}", self.header);
        T::read_from_prefix(&self.payload)
            .map(|(v, _)| v)
            .map_err(|_| "short answer")
            .unwrap()
    }

    pub fn accepted(&self) {
        assert!(!self.header.is_error(), "refused: {:?}", self.header);
    }
}

impl Client {
    /// Wraps a connection; nothing is said yet.
    pub fn silent(socket: UnixStream) -> Client {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { socket, next_id: 100 }
    }

    /// Wraps a connection and says hello.
    pub fn new(socket: UnixStream) -> Client {
        let mut client = Client::silent(socket);
        client.hello().accepted();
        client
    }

    pub fn hello(&mut self) -> Answer {
        let mut payload = Version { major: 0, minor: 1 }.as_bytes().to_vec();
        payload.extend(Capabilities::OURS.encode());
        self.call(Command::Version, &payload, &[])
    }

    pub fn call(&mut self, command: Command, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Answer {
        let header = self.send(command, payload, fds);
        let answer = self.receive();
        assert_eq!(
            (answer.header.id, answer.header.command),
            (header.id, header.command)
        );
        answer
    }

    pub fn ask<T: IntoBytes + Immutable>(&mut self, command: Command, payload: &T) -> Answer {
        self.call(command, payload.as_bytes(), &[])
    }

    pub fn send(&mut self, command: Command, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Header {
        self.next_id = self.next_id.wrapping_add(1);
        let header = Header::request(self.next_id, command, payload.len());
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        self.send_bytes(&bytes, fds);
        header
    }

    pub fn send_bytes(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = rustix::net::sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        assert_eq!(sent, Ok(bytes.len()));
    }

    pub fn receive(&mut self) -> Answer {
        let mut head = [0; HEADER_SIZE];
        self.socket.read_exact(&mut head).unwrap();
        let header = Header::read_from_bytes(&head).unwrap();
        assert!(header.is_reply(), "{header:?}");
        let mut payload = vec![0; header.size as usize - HEADER_SIZE];
        self.socket.read_exact(&mut payload).unwrap();
        Answer { header, payload }
    }

    /// True once the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let answer = self.ask(
            Command::RegionRead,
            &RegionAccess {
                offset,
                region,
                count,
            },
        );
        let echoed: RegionAccess = answer.ok();
        assert_eq!(
            (echoed.offset, echoed.region, echoed.count),
            (offset, region, count)
        );
        answer.payload[size_of::<RegionAccess>()..].to_vec()
    }

    pub fn read32(&mut self, region: u32, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(region, offset, 4).try_into().unwrap())
    }

    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Answer {
        let mut payload = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        }
        .as_bytes()
        .to_vec();
        payload.extend_from_slice(data);
        self.call(Command::RegionWrite, &payload, &[])
    }

    pub fn write32(&mut self, region: u32, offset: u64, v: u32) {
        self.write(region, offset, &v.to_le_bytes()).accepted();
    }

    pub fn bus_master(&mut self, on: bool) {
        self.write(7, 4, &(if on { 6u16 } else { 2 }).to_le_bytes())
            .accepted();
    }

    pub fn dma_map(&mut self, fd: BorrowedFd<'_>, offset: u64, address: u64, size: u64) -> Answer {
        let map = DmaMap {
            argsz: 32,
            flags: wire::DMA_MAP_READ | wire::DMA_MAP_WRITE,
            offset,
            address,
            size,
        };
        self.call(Command::DmaMap, map.as_bytes(), &[fd])
    }

    pub fn dma_unmap(&mut self, address: u64, size: u64) -> Answer {
        self.ask(
            Command::DmaUnmap,
            &DmaUnmap {
                argsz: 24,
                flags: 0,
                address,
                size,
            },
        )
    }

    pub fn set_irqs(&mut self, flags: u32, index: u32, start: u32, count: u32, fds: &[&OwnedFd]) -> Answer {
        let set = SetIrqs {
            argsz: 20,
            flags,
            index,
            start,
            count,
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        self.call(Command::DeviceSetIrqs, set.as_bytes(), &fds)
    }

    pub fn reset(&mut self) {
        self.call(Command::DeviceReset, &[], &[]).accepted();
    }
}

/// A memfd of `len` bytes.
pub fn memfd(len: u64, sealed: bool) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    if sealed {
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    }
    fd
}
