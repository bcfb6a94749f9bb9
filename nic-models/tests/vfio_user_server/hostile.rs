//! Clients that send nonsense, stop half way, or never read.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use millrace_nic_models::device::exerciser::{self, *};
use millrace_nic_models::vfio_user::wire::*;
use zerocopy::IntoBytes;

use crate::Rig;
use crate::client::{Client, memfd};

/// xorshift64*: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// A good request to start from.
fn good(numbers: &mut Numbers) -> Vec<u8> {
    let mut payload = Vec::new();
    let command = Command::ALL[numbers.below(Command::ALL.len())];
    match command {
        Command::Version => {
            payload.extend_from_slice(Version { major: 0, minor: 1 }.as_bytes());
            payload.extend(Capabilities::OURS.encode());
        }
        Command::DmaMap => {
            let map = DmaMap {
                argsz: 32,
                flags: 3,
                offset: 0,
                address: numbers.next() & !0xfff,
                size: 0x1000,
            };
            payload.extend_from_slice(map.as_bytes());
        }
        Command::DmaUnmap => {
            let unmap = DmaUnmap {
                argsz: 24,
                flags: 0,
                address: numbers.next() & !0xfff,
                size: numbers.next(),
            };
            payload.extend_from_slice(unmap.as_bytes());
        }
        Command::DeviceGetInfo => payload.extend_from_slice(DeviceInfo::default().as_bytes()),
        Command::DeviceGetRegionInfo => {
            let index = numbers.below(10) as u32;
            payload.extend_from_slice(
                RegionInfo {
                    argsz: 80,
                    index,
                    ..RegionInfo::default()
                }
                .as_bytes(),
            );
        }
        Command::DeviceGetIrqInfo => {
            payload.extend_from_slice(
                IrqInfo {
                    index: numbers.below(6) as u32,
                    ..IrqInfo::default()
                }
                .as_bytes(),
            );
        }
        Command::DeviceSetIrqs => {
            let flags = 1 << numbers.below(3) | 8 << numbers.below(3);
            let set = SetIrqs {
                argsz: 20,
                flags,
                index: 2,
                start: numbers.below(8) as u32,
                count: 1,
            };
            payload.extend_from_slice(set.as_bytes());
        }
        Command::RegionRead => {
            let region = [0, 2, 7][numbers.below(3)];
            let access = RegionAccess {
                offset: numbers.below(0x4000) as u64,
                region,
                count: 4,
            };
            payload.extend_from_slice(access.as_bytes());
        }
        Command::RegionWrite => {
            let region = [0, 2, 7][numbers.below(3)];
            let access = RegionAccess {
                offset: numbers.below(0x4000) as u64,
                region,
                count: 4,
            };
            payload.extend_from_slice(access.as_bytes());
            payload.extend_from_slice(&(numbers.next() as u32).to_le_bytes());
        }
        Command::RegionWriteMulti => {
            payload.extend_from_slice(MultiHeader { writes: 1 }.as_bytes());
            let one = MultiWrite {
                offset: 4,
                region: 0,
                count: 4,
                data: [1; 8],
            };
            payload.extend_from_slice(one.as_bytes());
        }
        _ => payload.resize(numbers.below(64), 0x5a),
    }
    let mut bytes = Header::request(numbers.next() as u16, command, payload.len())
        .as_bytes()
        .to_vec();
    bytes.extend(payload);
    bytes
}

/// Spoils it: noise in the header, noise in the payload, a length that is not true, an end too soon.
fn spoil(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    match numbers.below(6) {
        0 => {
            for _ in 0..=numbers.below(4) {
                let at = numbers.below(HEADER_SIZE);
                bytes[at] = numbers.next() as u8;
            }
        }
        1 => {
            for _ in 0..=numbers.below(8) {
                let at = numbers.below(bytes.len());
                bytes[at] ^= 1 << numbers.below(8);
            }
        }
        2 => {
            let size = [0u32, 1, 15, 16, 17, 0x1_0000, 0x2_0000, 0x7fff_ffff, u32::MAX][numbers.below(9)];
            bytes[4..8].copy_from_slice(&size.to_ne_bytes());
        }
        3 => {
            let keep = numbers.below(bytes.len());
            bytes.truncate(keep);
        }
        4 => {
            // A true length with a payload that is too short or too long for the command.
            bytes.resize(HEADER_SIZE + numbers.below(100), 0xff);
            let size = bytes.len() as u32;
            bytes[4..8].copy_from_slice(&size.to_ne_bytes());
        }
        _ => {
            let noise = numbers.below(200);
            *bytes = (0..noise).map(|_| numbers.next() as u8).collect();
        }
    }
}

#[test]
fn ten_thousand_malformed_or_cut_messages_leave_the_server_serving() {
    let rig = Rig::new();
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let file = memfd(0x2000, true);
    let mut client = rig.client();
    let mut connections = 1;
    for round in 0..10_000 {
        let mut bytes = good(&mut numbers);
        spoil(&mut bytes, &mut numbers);
        let fds: Vec<BorrowedFd<'_>> = match numbers.below(8) {
            0 => vec![file.as_fd()],
            1 => (0..numbers.below(100)).map(|_| file.as_fd()).collect(),
            _ => Vec::new(),
        };
        client.send_raw(&bytes, &fds);
        // Sometimes more follows on the same connection, else it ends here, perhaps in the middle of a message.
        if numbers.below(4) != 0 {
            drop(client);
            client = if numbers.below(8) == 0 {
                rig.stranger()
            } else {
                rig.client()
            };
            connections += 1;
        }
        if round % 500 == 499 {
            drop(client);
            client = rig.client();
            assert_eq!(
                client.read32(0, exerciser::ID),
                ID_VALUE,
                "after {round} messages"
            );
        }
    }
    assert!(connections > 5000);
}

#[test]
fn a_header_that_makes_no_sense_is_answered_and_ends_that_connection_only() {
    let rig = Rig::new();
    for size in [0u32, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
        let mut client = rig.client();
        let header = Header {
            size,
            ..Header::request(7, Command::RegionRead, 0)
        };
        client.send_bytes(header.as_bytes(), &[]);
        let answer = client.receive();
        assert_eq!((answer.header.id, answer.errno()), (7, libc::EMSGSIZE));
        assert!(client.is_closed());
    }
    // An answer to a question we never asked.
    let mut client = rig.client();
    let header = Header {
        flags: TYPE_REPLY,
        ..Header::request(7, Command::DmaRead, 0)
    };
    client.send_bytes(header.as_bytes(), &[]);
    assert!(client.is_closed());
    assert_eq!(rig.client().read32(0, exerciser::ID), ID_VALUE);
}

#[test]
fn a_client_that_sends_half_a_message_stops_neither_the_model_nor_the_next_client() {
    let rig = Rig::new();
    let memory = memfd(0x1000, true);
    for cut in [1, 15, 16, 20, 31] {
        let mut client = rig.client();
        start_engine(&mut client, &memory);
        let mut bytes = Header::request(1, Command::RegionRead, 16).as_bytes().to_vec();
        bytes.extend_from_slice(
            RegionAccess {
                offset: 0,
                region: 0,
                count: 4,
            }
            .as_bytes(),
        );
        let began = Instant::now();
        client.send_bytes(&bytes[..cut], &[]);
        // The engine goes on meanwhile.
        for _ in 0..3 {
            rustix::io::pwrite(&memory, &[0; 64], 0).unwrap();
            wait_for(&memory, 0x77);
        }
        assert!(client.is_closed(), "cut after {cut} bytes");
        let waited = began.elapsed();
        assert!(
            waited >= Duration::from_millis(250) && waited < Duration::from_secs(8),
            "{waited:?}"
        );
    }
    assert_eq!(rig.client().read32(0, exerciser::ID), ID_VALUE);
}

#[test]
fn a_message_that_dribbles_in_byte_by_byte_is_understood() {
    let rig = Rig::with(Default::default());
    let mut client = rig.client();
    let mut bytes = Header::request(5, Command::RegionRead, 16).as_bytes().to_vec();
    bytes.extend_from_slice(
        RegionAccess {
            offset: 0,
            region: 0,
            count: 4,
        }
        .as_bytes(),
    );
    for byte in bytes {
        client.send_bytes(&[byte], &[]);
        std::thread::sleep(Duration::from_millis(1));
    }
    let answer = client.receive();
    assert_eq!(answer.header.id, 5);
    assert_eq!(answer.payload[16..], ID_VALUE.to_le_bytes());
}

#[test]
fn a_client_that_never_reads_its_answers_is_let_go() {
    let rig = Rig::new();
    let memory = memfd(0x1000, true);
    let mut client = rig.client();
    start_engine(&mut client, &memory);
    let mut one = Header::request(5, Command::RegionRead, 16).as_bytes().to_vec();
    one.extend_from_slice(
        RegionAccess {
            offset: 0,
            region: 7,
            count: 4096,
        }
        .as_bytes(),
    );
    client
        .socket
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let began = Instant::now();
    let ended = loop {
        if let Err(e) = client.socket.write_all(&one) {
            break e;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never let go");
    };
    assert!(
        matches!(
            ended.kind(),
            std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
        ),
        "{ended}"
    );
    assert_eq!(rig.client().read32(0, exerciser::ID), ID_VALUE);
}

#[test]
fn too_many_descriptors_are_refused_and_none_stays_open() {
    let rig = Rig::new();
    let mut client = rig.client();
    let file = memfd(0x1000, true);
    let map = DmaMap {
        argsz: 32,
        flags: 3,
        offset: 0,
        address: 0,
        size: 0x1000,
    };
    let many: Vec<BorrowedFd<'_>> = (0..200).map(|_| file.as_fd()).collect();
    let before = open_files();
    for _ in 0..50 {
        assert_eq!(
            client.call(Command::DmaMap, map.as_bytes(), &many).errno(),
            libc::EINVAL
        );
        assert_eq!(
            client
                .call(Command::DeviceGetInfo, &[0; 16], &[file.as_fd()])
                .header
                .error,
            0
        );
    }
    // Other tests of this process open files too: a leak would show as thousands.
    assert!(
        open_files() < before + 500,
        "{} files were open, now {}",
        before,
        open_files()
    );
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn start_engine(client: &mut Client, memory: &OwnedFd) {
    client.reset();
    client.bus_master(true);
    client.dma_map(memory.as_fd(), 0, 0x1000, 0x1000).accepted();
    client.write32(0, BASE_LOW, 0x1000);
    client.write32(0, LENGTH, 64);
    client.write32(0, PATTERN, 0x77);
    client.write32(0, CONTROL, 1);
    wait_for(memory, 0x77);
}

fn wait_for(memory: &OwnedFd, pattern: u8) {
    let began = Instant::now();
    let mut byte = [0; 1];
    loop {
        rustix::io::pread(memory, &mut byte, 0).unwrap();
        if byte[0] == pattern {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "the engine stands still"
        );
        std::thread::sleep(Duration::from_micros(100));
    }
}

impl Client {
    /// Sends, whatever becomes of it: the server may have hung up already.
    fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        use std::mem::MaybeUninit;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(rustix::net::SendAncillaryMessage::ScmRights(fds));
        }
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        let _ = rustix::net::sendmsg(&self.socket, &[std::io::IoSlice::new(bytes)], &mut control, flags);
        // Read what is there, so that the server never waits for us.
        let _ = self.socket.set_nonblocking(true);
        let mut sink = [0; 4096];
        while matches!(self.socket.read(&mut sink), Ok(1..)) {}
        let _ = self.socket.set_nonblocking(false);
    }
}

impl Rig {
    /// A client that has not said hello, let in and not turned away.
    fn stranger(&self) -> Client {
        loop {
            let mut client = Client::silent(self.connect());
            client
                .socket
                .set_read_timeout(Some(Duration::from_millis(2)))
                .unwrap();
            if client.socket.read(&mut [0; 16]).is_err() {
                client
                    .socket
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                return client;
            }
        }
    }
}
