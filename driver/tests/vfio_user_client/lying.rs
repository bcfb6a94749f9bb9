//! Servers that break the protocol, each in its own way. The client says what happened, in time, and never panics.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_driver::bus::vfio_user::from_stream_with_timeout;
use millrace_driver::bus::{BusError, Device};
use millrace_nic_models::vfio_user::wire::*;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Patience of a client that is going to be let down.
const SHORT: Duration = Duration::from_millis(300);
/// Patience of the others; only a machine under load needs it.
const LONG: Duration = Duration::from_secs(20);

/// What a server does with one request.
enum Act {
    /// The honest answer.
    Honest,
    /// This payload in an otherwise honest answer, with a descriptor perhaps.
    Payload(Vec<u8>, Option<OwnedFd>),
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// An error.
    Refuse(i32),
    /// Nothing, ever.
    Silence,
    /// Hangs up.
    HangUp,
}

fn bytes<T: IntoBytes + Immutable>(v: &T) -> Vec<u8> {
    v.as_bytes().to_vec()
}

/// What an honest server of a device with one 8 KiB BAR says.
fn honest(header: &Header, payload: &[u8]) -> Vec<u8> {
    match Command::from_number(header.command) {
        Some(Command::Version) => {
            let mut out = bytes(&Version { major: 0, minor: 1 });
            out.extend(Capabilities::OURS.encode());
            out
        }
        Some(Command::DeviceGetInfo) => bytes(&DeviceInfo {
            argsz: 16,
            flags: DEVICE_FLAG_PCI | DEVICE_FLAG_RESET,
            num_regions: 9,
            num_irqs: 5,
        }),
        Some(Command::DeviceGetRegionInfo) => {
            let asked = RegionInfo::read_from_bytes(payload).unwrap();
            let size = if asked.index == 0 { 0x2000 } else { 0x1000 };
            bytes(&RegionInfo {
                argsz: 32,
                flags: 3,
                size,
                ..asked
            })
        }
        Some(Command::DeviceGetIrqInfo) => bytes(&IrqInfo {
            argsz: 16,
            flags: 1,
            index: 2,
            count: 4,
        }),
        Some(Command::RegionRead) => {
            let access = RegionAccess::read_from_bytes(payload).unwrap();
            let mut out = bytes(&access);
            out.resize(out.len() + access.count as usize, 0x11);
            out
        }
        Some(Command::RegionWrite | Command::DmaUnmap) => payload.to_vec(),
        _ => Vec::new(),
    }
}

/// Serves one connection; `act` decides about each request.
fn serve(
    mut socket: UnixStream,
    mut act: impl FnMut(&Header, &[u8]) -> Act + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut keep = Vec::new();
        loop {
            let mut head = [0; HEADER_SIZE];
            if socket.read_exact(&mut head).is_err() {
                return;
            }
            let header = Header::read_from_bytes(&head).unwrap();
            let mut payload = vec![0; header.size as usize - HEADER_SIZE];
            if socket.read_exact(&mut payload).is_err() {
                return;
            }
            let (payload, fd) = match act(&header, &payload) {
                Act::Honest if !header.wants_reply() => continue,
                Act::Honest => (honest(&header, &payload), None),
                Act::Payload(payload, fd) => (payload, fd),
                Act::Raw(raw) => {
                    let _ = socket.write_all(&raw);
                    continue;
                }
                Act::Refuse(errno) => {
                    let _ = socket.write_all(header.refusal(errno).as_bytes());
                    continue;
                }
                Act::Silence => {
                    keep.push(socket.try_clone().unwrap());
                    continue;
                }
                Act::HangUp => return,
            };
            let mut out = bytes(&header.reply(payload.len()));
            out.extend(payload);
            let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let sent =
                rustix::net::sendmsg(&socket, &[IoSlice::new(&out)], &mut control, SendFlags::NOSIGNAL);
            if sent.is_err() {
                return;
            }
        }
    })
}

/// Opens a device on a server that acts so.
fn open(act: impl FnMut(&Header, &[u8]) -> Act + Send + 'static) -> Result<Arc<dyn Device>, BusError> {
    open_in(LONG, act)
}

fn open_in(
    timeout: Duration,
    act: impl FnMut(&Header, &[u8]) -> Act + Send + 'static,
) -> Result<Arc<dyn Device>, BusError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    serve(theirs, act);
    from_stream_with_timeout(ours, "vfio-user:liar", timeout)
}

/// Opens a device on a server that is honest but for one command.
fn open_but(
    command: Command,
    act: impl FnMut(&Header, &[u8]) -> Act + Send + 'static,
) -> Result<Arc<dyn Device>, BusError> {
    open_but_in(LONG, command, act)
}

fn open_but_in(
    timeout: Duration,
    command: Command,
    mut act: impl FnMut(&Header, &[u8]) -> Act + Send + 'static,
) -> Result<Arc<dyn Device>, BusError> {
    open_in(timeout, move |header, payload| {
        if header.command == command as u16 {
            act(header, payload)
        } else {
            Act::Honest
        }
    })
}

fn read(device: &dyn Device) -> Result<[u8; 4], BusError> {
    let mut word = [0; 4];
    device.read(0, 0x10, &mut word).map(|()| word)
}

#[test]
fn the_honest_server_is_understood() {
    let device = open(|_, _| Act::Honest).unwrap();
    assert_eq!(read(&*device).unwrap(), [0x11; 4]);
    assert_eq!(device.irq_count(), 4);
    device.reset().unwrap();
}

#[test]
fn versions_that_do_not_fit_are_refused_with_both_numbers() {
    for version in [Version { major: 1, minor: 0 }, Version { major: 0, minor: 2 }] {
        let error = open_but(Command::Version, move |_, _| {
            let mut out = bytes(&version);
            out.push(0);
            Act::Payload(out, None)
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("{}.{}", version.major, version.minor)) && text.contains("0.1"),
            "{text}"
        );
    }
    for payload in [
        vec![],
        vec![0; 3],
        b"\0\0\0\0{}".to_vec(),
        b"\0\0\0\0{\"capabilities\":1}\0".to_vec(),
    ] {
        let error = open_but(Command::Version, move |_, _| Act::Payload(payload.clone(), None)).unwrap_err();
        assert!(matches!(error, BusError::Protocol { .. }), "{error}");
    }
}

#[test]
fn a_server_that_is_taken_or_hangs_up_at_once_is_named() {
    let busy = open_but(Command::Version, |_, _| Act::Refuse(libc::EBUSY)).unwrap_err();
    assert!(matches!(busy, BusError::Busy { .. }), "{busy}");
    let refused = open_but(Command::Version, |_, _| Act::Refuse(libc::EINVAL)).unwrap_err();
    assert!(matches!(refused, BusError::Protocol { .. }), "{refused}");
    let hung = open_but(Command::Version, |_, _| Act::HangUp).unwrap_err();
    assert!(hung.to_string().contains("closed the connection"), "{hung}");
    let silent = open_but_in(SHORT, Command::Version, |_, _| Act::Silence).unwrap_err();
    assert!(silent.to_string().contains("no answer to Version"), "{silent}");
}

#[test]
fn each_request_has_a_deadline() {
    let device = open_but_in(SHORT * 4, Command::RegionRead, |_, _| Act::Silence).unwrap();
    let began = Instant::now();
    let error = read(&*device).unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("no answer to RegionRead"),
        "{error}"
    );
    assert!(began.elapsed() < LONG);
    assert!(!device.is_alive());
    assert!(device.reset().unwrap_err().is_gone());
}

#[test]
fn half_an_answer_does_not_hold_the_client() {
    let device = open_but_in(SHORT * 4, Command::RegionRead, |header, _| {
        let mut out = bytes(&header.reply(20));
        out.extend([0; 7]);
        Act::Raw(out)
    })
    .unwrap();
    let began = Instant::now();
    assert!(read(&*device).unwrap_err().is_gone());
    assert!(began.elapsed() < LONG);
}

#[test]
fn answers_to_something_else_end_the_connection() {
    let wrong: [fn(&Header) -> Header; 5] = [
        |h| Header {
            id: h.id.wrapping_add(1),
            ..h.reply(20)
        },
        |h| Header {
            command: Command::DeviceReset as u16,
            ..h.reply(20)
        },
        |h| Header {
            size: 3,
            ..h.reply(20)
        },
        |h| Header {
            size: u32::MAX,
            ..h.reply(20)
        },
        |h| Header {
            flags: 7,
            ..h.reply(20)
        },
    ];
    for make in wrong {
        let device = open_but(Command::RegionRead, move |header, _| {
            let mut out = bytes(&make(header));
            out.extend([0; 20]);
            Act::Raw(out)
        })
        .unwrap();
        let error = read(&*device).unwrap_err();
        assert!(error.is_gone(), "{error}");
        assert!(!device.is_alive());
    }
}

#[test]
fn short_and_long_reads_are_not_taken() {
    for len in [0, 8, 16, 19, 21, 4000] {
        let device = open_but(Command::RegionRead, move |_, _| Act::Payload(vec![0; len], None)).unwrap();
        assert!(read(&*device).unwrap_err().is_gone(), "{len}");
    }
}

#[test]
fn a_refusal_keeps_its_errno_and_the_connection() {
    let mut n = 0;
    let device = open_but(Command::RegionRead, move |_, _| {
        n += 1;
        if n % 2 == 1 {
            Act::Refuse([libc::EPERM, 0, -5][n / 2 % 3])
        } else {
            Act::Honest
        }
    })
    .unwrap();
    for errno in [libc::EPERM, libc::EIO] {
        match read(&*device) {
            Err(BusError::Refused { source, .. }) => assert_eq!(source.raw_os_error(), Some(errno)),
            other => panic!("{other:?}"),
        }
        assert!(read(&*device).is_ok() && device.is_alive());
    }
}

#[test]
fn requests_of_the_servers_own_are_turned_down() {
    let device = open_but(Command::RegionRead, |header, payload| {
        let mut out = bytes(&Header::request(1, Command::DmaRead, 16));
        out.extend([0; 16]);
        out.extend(bytes(&Header {
            flags: FLAG_NO_REPLY,
            ..Header::request(2, Command::DmaWrite, 0)
        }));
        let answer = honest(header, payload);
        out.extend(bytes(&header.reply(answer.len())));
        out.extend(answer);
        Act::Raw(out)
    });
    // The server of this test stumbles over the refusal it gets, after it has answered.
    assert_eq!(read(&*device.unwrap()).unwrap(), [0x11; 4]);
}

#[test]
fn a_posted_write_refused_aloud_disturbs_nothing() {
    let device = open_but(Command::RegionWrite, |header, _| {
        assert!(!header.wants_reply());
        Act::Refuse(libc::EINVAL)
    })
    .unwrap();
    for _ in 0..10 {
        device.write(0, 0, &[0; 4]).unwrap();
        assert_eq!(read(&*device).unwrap(), [0x11; 4]);
    }
}

#[test]
fn devices_that_are_none_are_refused() {
    let infos = [
        DeviceInfo {
            argsz: 16,
            flags: DEVICE_FLAG_RESET,
            num_regions: 9,
            num_irqs: 5,
        },
        DeviceInfo {
            argsz: 16,
            flags: DEVICE_FLAG_PCI,
            num_regions: 2,
            num_irqs: 5,
        },
    ];
    for info in infos {
        let error = open_but(Command::DeviceGetInfo, move |_, _| {
            Act::Payload(bytes(&info), None)
        })
        .unwrap_err();
        assert!(matches!(error, BusError::Protocol { .. }), "{error}");
    }
    let error = open_but(Command::DeviceGetInfo, |_, _| Act::Payload(vec![0; 5], None)).unwrap_err();
    assert!(error.is_gone(), "{error}");
    let info = DeviceInfo {
        argsz: 16,
        flags: DEVICE_FLAG_PCI,
        num_regions: u32::MAX,
        num_irqs: 0,
    };
    let device = open_but(Command::DeviceGetInfo, move |_, _| {
        Act::Payload(bytes(&info), None)
    })
    .unwrap();
    assert_eq!(device.irq_count(), 0);
    assert!(matches!(device.reset(), Err(BusError::Unsupported { .. })));
}

fn memfd(len: u64, sealed: bool) -> OwnedFd {
    let fd = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    if sealed {
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    }
    fd
}

/// Opens a device whose BAR 0 (8 KiB) claims these mappable areas in this file.
fn with_areas(areas: &[(u64, u64)], file: (u64, bool), offset: u64) -> Result<Arc<dyn Device>, BusError> {
    let mut caps = bytes(&CapHeader {
        id: REGION_CAP_SPARSE_MMAP,
        version: 1,
        next: 0,
    });
    caps.extend(bytes(&SparseHeader {
        areas: areas.len() as u32,
        reserved: 0,
    }));
    for &(offset, size) in areas {
        caps.extend(bytes(&SparseArea { offset, size }));
    }
    with_caps(caps, 32, file, offset)
}

fn with_caps(
    caps: Vec<u8>,
    cap_offset: u32,
    file: (u64, bool),
    offset: u64,
) -> Result<Arc<dyn Device>, BusError> {
    open_but(Command::DeviceGetRegionInfo, move |_, payload| {
        let asked = RegionInfo::read_from_bytes(payload).unwrap();
        if asked.index != 0 {
            return Act::Honest;
        }
        let argsz = 32 + caps.len() as u32;
        let info = RegionInfo {
            argsz,
            flags: 0xf,
            index: 0,
            cap_offset,
            size: 0x2000,
            offset,
        };
        let mut out = bytes(&info);
        if asked.argsz < argsz {
            return Act::Payload(out, None);
        }
        out.extend(&caps);
        Act::Payload(out, Some(memfd(file.0, file.1)))
    })
}

#[test]
fn good_areas_are_mapped_at_their_offset() {
    let device = with_areas(&[(0x1000, 0x1000)], (0x3000, true), 0x1000).unwrap();
    let areas = device.map(0).unwrap();
    assert_eq!(
        (areas.len(), areas[0].offset(), areas[0].len()),
        (1, 0x1000, 0x1000)
    );
    areas[0].write32(0x1ffc, 1).unwrap();
}

#[test]
fn memory_that_could_be_truncated_under_us_is_not_mapped() {
    for file in [(0x2000, false), (0x1000, true), (0, true)] {
        let device = with_areas(&[(0x1000, 0x1000)], file, 0).unwrap();
        assert!(device.map(0).unwrap().is_empty());
        assert!(device.region(0).unwrap().mmap.is_empty());
        assert_eq!(read(&*device).unwrap(), [0x11; 4], "it still works by message");
    }
}

#[test]
fn areas_that_reach_outside_the_region_are_refused() {
    for area in [
        (0x1000, 0x2000),
        (u64::MAX - 0xfff, 0x1000),
        (0x2000, 0x1000),
        (0, 0),
        (0x10, 0x1000),
        (0, 0x800),
    ] {
        let error = with_areas(&[area], (0x2000, true), 0).unwrap_err();
        assert!(matches!(error, BusError::Protocol { .. }), "{area:x?}: {error}");
    }
    let error = with_areas(&[(0, 0x1000)], (0x2000, true), u64::MAX - 0xfff).unwrap_err();
    assert!(matches!(error, BusError::Protocol { .. }), "{error}");
}

#[test]
fn capability_lists_that_run_astray_are_refused() {
    let cap = |next| {
        bytes(&CapHeader {
            id: 77,
            version: 1,
            next,
        })
    };
    let cases: Vec<(Vec<u8>, u32)> = vec![
        (cap(32), 32),   // in a circle
        (cap(8), 32),    // backwards
        (cap(4000), 32), // off the end
        (cap(36), 33),   // cut short
        (cap(0), 4000),  // starts off the end
        (
            [
                bytes(&CapHeader {
                    id: 1,
                    version: 1,
                    next: 0,
                }),
                vec![0xff; 8],
            ]
            .concat(),
            32,
        ), // too many areas
        (
            [
                bytes(&CapHeader {
                    id: 1,
                    version: 1,
                    next: 0,
                }),
                vec![2, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat(),
            32,
        ),
        (
            bytes(&CapHeader {
                id: 1,
                version: 1,
                next: 0,
            }),
            32,
        ),
    ];
    for (caps, offset) in cases {
        let error = with_caps(caps.clone(), offset, (0x2000, true), 0).unwrap_err();
        assert!(
            matches!(error, BusError::Protocol { .. }),
            "{caps:x?} at {offset}: {error}"
        );
    }
}

#[test]
fn noise_instead_of_answers_never_panics_the_client() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..500 {
        let victim = Command::ALL[(next() % 10) as usize];
        let (flip, at, cut) = (next(), next(), next());
        let opened = open_in(Duration::from_millis(10), move |header, payload| {
            if header.command != victim as u16 {
                return Act::Honest;
            }
            let mut out = bytes(&header.reply(0));
            out.extend(honest(header, payload));
            let len = out.len() as u32;
            out[4..8].copy_from_slice(&len.to_ne_bytes());
            let at = at as usize % out.len();
            out[at] ^= flip as u8 | 1;
            out.truncate(out.len() - cut as usize % 2 * (cut as usize % out.len()));
            Act::Raw(out)
        });
        if let Ok(device) = opened {
            let _ = read(&*device);
            let _ = device.write(7, 0, &[0; 4]);
            let _ = device.reset();
        }
    }
}
