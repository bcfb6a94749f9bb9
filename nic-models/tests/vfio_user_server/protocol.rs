//! Each command: what it answers when all is well, and when it is not.

use std::os::fd::{AsFd, OwnedFd};

use millrace_nic_models::device::exerciser::{self, *};
use millrace_nic_models::vfio_user::wire::{self, *};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::{FromBytes, IntoBytes};

use crate::Rig;
use crate::client::{Client, memfd};

const EVENT: u32 = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER;

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK).unwrap()
}

/// Events counted so far; 0 when none.
fn taken(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

#[test]
fn version_is_agreed_and_an_older_minor_is_taken() {
    let rig = Rig::new();
    for minor in [0, 1, 9] {
        let mut client = Client::silent(rig.connect());
        let mut payload = Version { major: 0, minor }.as_bytes().to_vec();
        payload.extend(Capabilities::default().encode());
        let mut answer = client.call(Command::Version, &payload, &[]);
        while answer.header.is_error() {
            std::thread::sleep(std::time::Duration::from_millis(5)); // the last client is not gone yet
            client = Client::silent(rig.connect());
            answer = client.call(Command::Version, &payload, &[]);
        }
        let (version, rest) = Version::read_from_prefix(&answer.payload).unwrap();
        assert_eq!((version.major, version.minor), (0, minor.min(1)));
        let caps = Capabilities::decode(rest).unwrap();
        assert!(
            !caps.write_multiple,
            "nothing may be offered that the client did not offer"
        );
        assert_eq!(caps.max_msg_fds, wire::MAX_FDS as u32);
    }
}

#[test]
fn another_major_version_is_refused_and_the_next_client_served() {
    let rig = Rig::new();
    let mut client = Client::silent(rig.connect());
    let mut payload = Version { major: 1, minor: 0 }.as_bytes().to_vec();
    payload.push(0);
    let refusal = client.call(Command::Version, &payload, &[]);
    assert_eq!(refusal.errno(), libc::EPROTONOSUPPORT);
    assert!(client.is_closed());
    rig.client();
}

#[test]
fn nothing_is_answered_before_the_version() {
    let rig = Rig::new();
    let mut client = Client::silent(rig.connect());
    let info = client.ask(Command::DeviceGetInfo, &DeviceInfo::default());
    assert_eq!(info.errno(), libc::EINVAL);
    assert!(client.is_closed());
}

#[test]
fn the_version_is_agreed_once() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.hello().errno(), libc::EINVAL);
    assert_eq!(client.read32(0, exerciser::ID), ID_VALUE);
}

#[test]
fn the_device_tells_what_it_is() {
    let rig = Rig::new();
    let mut client = rig.client();
    let info: DeviceInfo = client.ask(Command::DeviceGetInfo, &DeviceInfo::default()).ok();
    assert_eq!(
        (info.argsz, info.flags),
        (16, DEVICE_FLAG_RESET | DEVICE_FLAG_PCI)
    );
    assert_eq!((info.num_regions, info.num_irqs), (9, 5));
    for (index, count) in [
        (IRQ_INTX, 1),
        (IRQ_MSI, 0),
        (IRQ_MSIX, 8),
        (IRQ_ERR, 1),
        (IRQ_REQ, 1),
    ] {
        let info: IrqInfo = client
            .ask(
                Command::DeviceGetIrqInfo,
                &IrqInfo {
                    index,
                    ..IrqInfo::default()
                },
            )
            .ok();
        assert_eq!((info.index, info.count), (index, count));
        assert_ne!(info.flags & IRQ_INFO_EVENTFD, 0);
    }
    let none = client.ask(
        Command::DeviceGetIrqInfo,
        &IrqInfo {
            index: 5,
            ..IrqInfo::default()
        },
    );
    assert_eq!(none.errno(), libc::EINVAL);
}

#[test]
fn region_info_grows_to_what_the_client_has_room_for() {
    let rig = Rig::new();
    let mut client = rig.client();
    let ask = |client: &mut Client, index, argsz| {
        let answer = client.ask(
            Command::DeviceGetRegionInfo,
            &RegionInfo {
                index,
                argsz,
                ..RegionInfo::default()
            },
        );
        (answer.ok::<RegionInfo>(), answer.payload)
    };
    let (bar0, payload) = ask(&mut client, 0, 32);
    assert_eq!(
        (bar0.size, bar0.flags, bar0.argsz, payload.len()),
        (4096, 3, 32, 32)
    );
    let (absent, _) = ask(&mut client, 1, 32);
    assert_eq!((absent.size, absent.flags), (0, 0));
    let (short, payload) = ask(&mut client, 2, 32);
    // Where the capabilities will be: QEMU takes 0 for a mistake.
    assert_eq!((short.argsz, short.cap_offset, payload.len()), (80, 32, 32));
    assert_eq!(short.flags, 0xf);
    let (full, payload) = ask(&mut client, 2, 80);
    assert_eq!((full.argsz, full.cap_offset, payload.len()), (80, 32, 80));
    let (cap, rest) = CapHeader::read_from_prefix(&payload[32..]).unwrap();
    assert_eq!((cap.id, cap.version, cap.next), (REGION_CAP_SPARSE_MMAP, 1, 0));
    let (sparse, rest) = SparseHeader::read_from_prefix(rest).unwrap();
    assert_eq!(sparse.areas, 2);
    let areas: Vec<_> = rest
        .chunks(16)
        .map(|c| SparseArea::read_from_bytes(c).unwrap())
        .collect();
    assert_eq!((areas[0].offset, areas[0].size), (0x1000, 0x1000));
    assert_eq!((areas[1].offset, areas[1].size), (0x3000, 0x1000));
    let bad = client.ask(
        Command::DeviceGetRegionInfo,
        &RegionInfo {
            index: 9,
            ..RegionInfo::default()
        },
    );
    assert_eq!(bad.errno(), libc::EINVAL);
}

#[test]
fn registers_are_read_and_written() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.read32(0, exerciser::ID), ID_VALUE);
    client.write32(0, SCRATCH, 0xdead_beef);
    assert_eq!(client.read32(0, SCRATCH), 0xdead_beef);
    for (offset, count) in [
        (0u64, 0u32),
        (0, 2),
        (2, 4),
        (0x1000, 4),
        (0xffe, 4),
        (u64::MAX - 1, 4),
        (0, u32::MAX),
    ] {
        let read = client.ask(
            Command::RegionRead,
            &RegionAccess {
                offset,
                region: 0,
                count,
            },
        );
        assert_eq!(read.errno(), libc::EINVAL, "read of {count} bytes at {offset:#x}");
    }
    let absent = client.ask(
        Command::RegionRead,
        &RegionAccess {
            offset: 0,
            region: 1,
            count: 4,
        },
    );
    assert_eq!(absent.errno(), libc::EINVAL);
    assert_eq!(client.write(0, SCRATCH, &[1, 2]).errno(), libc::EINVAL);
    // The count does not match the data.
    let payload = RegionAccess {
        offset: SCRATCH,
        region: 0,
        count: 4,
    };
    assert_eq!(client.ask(Command::RegionWrite, &payload).errno(), libc::EINVAL);
}

#[test]
fn configuration_space_takes_accesses_of_any_size() {
    let rig = Rig::new();
    let mut client = rig.client();
    let all = client.read(7, 0, 4096);
    assert_eq!(all[..4], [0x36, 0x1b, 0x05, 0x00]);
    for size in [1, 2, 3, 4, 5, 8, 16, 64, 256, 4096] {
        client.write(7, 0, &vec![0; size]).accepted();
    }
    // BAR sizing.
    client.write(7, 0x10, &[0xff; 4]).accepted();
    assert_eq!(client.read32(7, 0x10), 0xffff_f000);
    client.write(7, 0x18, &[0xff; 8]).accepted();
    assert_eq!(client.read(7, 0x18, 8), (!0x3fffu64 | 4).to_le_bytes());
    assert_eq!(client.read(7, 0, 2), [0x36, 0x1b]);
}

#[test]
fn several_writes_go_in_one_message() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut payload = MultiHeader { writes: 2 }.as_bytes().to_vec();
    for (offset, v) in [(SCRATCH, 7u32), (PATTERN, 9)] {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&v.to_le_bytes());
        payload.extend_from_slice(
            MultiWrite {
                offset,
                region: 0,
                count: 4,
                data,
            }
            .as_bytes(),
        );
    }
    let answer: MultiHeader = client.call(Command::RegionWriteMulti, &payload, &[]).ok();
    assert_eq!(answer.writes, 2);
    assert_eq!((client.read32(0, SCRATCH), client.read32(0, PATTERN)), (7, 9));
    payload[0] = 3;
    assert_eq!(
        client.call(Command::RegionWriteMulti, &payload, &[]).errno(),
        libc::EINVAL
    );
}

#[test]
fn requests_that_want_no_reply_get_none_and_are_done_in_order() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut payload = RegionAccess {
        offset: SCRATCH,
        region: 0,
        count: 4,
    }
    .as_bytes()
    .to_vec();
    payload.extend_from_slice(&5u32.to_le_bytes());
    let mut header = Header::request(9, Command::RegionWrite, payload.len());
    header.flags |= FLAG_NO_REPLY;
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    // A refused one gets none either.
    let mut bad = Header::request(10, Command::DmaRead, 0);
    bad.flags |= FLAG_NO_REPLY;
    bytes.extend_from_slice(bad.as_bytes());
    client.send_bytes(&bytes, &[]);
    assert_eq!(client.read32(0, SCRATCH), 5);
}

#[test]
fn what_is_not_offered_is_refused_with_enotsup() {
    let rig = Rig::new();
    let mut client = rig.client();
    let refused = [
        Command::DeviceGetRegionIoFds,
        Command::DmaRead,
        Command::DmaWrite,
        Command::DeviceFeature,
        Command::MigDataRead,
        Command::MigDataWrite,
    ];
    for command in refused {
        assert_eq!(
            client.call(command, &[0; 32], &[]).errno(),
            libc::ENOTSUP,
            "{command:?}"
        );
    }
    let mut header = Header::request(1, Command::Version, 0);
    header.command = 999;
    client.send_bytes(header.as_bytes(), &[]);
    let answer = client.receive();
    assert_eq!((answer.header.command, answer.errno()), (999, libc::ENOTSUP));
}

#[test]
fn dma_maps_are_checked() {
    let rig = Rig::new();
    let mut client = rig.client();
    let sealed = memfd(0x4000, true);
    let loose = memfd(0x4000, false);
    assert_eq!(client.dma_map(loose.as_fd(), 0, 0, 0x1000).errno(), libc::EPERM);
    assert_eq!(
        client.dma_map(sealed.as_fd(), 0x3000, 0, 0x2000).errno(),
        libc::EINVAL
    );
    assert_eq!(
        client
            .dma_map(sealed.as_fd(), u64::MAX - 0xfff, 0, 0x1000)
            .errno(),
        libc::EINVAL
    );
    assert_eq!(
        client
            .dma_map(sealed.as_fd(), 0, u64::MAX - 0xfff, 0x2000)
            .errno(),
        libc::EINVAL
    );
    assert_eq!(client.dma_map(sealed.as_fd(), 0, 0, 0).errno(), libc::EINVAL);
    assert_eq!(
        client.dma_map(sealed.as_fd(), 0, 0x10, 0x1000).errno(),
        libc::EINVAL
    );
    client.dma_map(sealed.as_fd(), 0, 0x10000, 0x2000).accepted();
    assert_eq!(
        client.dma_map(sealed.as_fd(), 0x2000, 0x11000, 0x1000).errno(),
        libc::EEXIST
    );
    client.dma_map(sealed.as_fd(), 0x2000, 0x12000, 0x1000).accepted();
    let map = DmaMap {
        argsz: 32,
        flags: 3,
        offset: 0,
        address: 0x20000,
        size: 0x1000,
    };
    assert_eq!(
        client
            .call(Command::DmaMap, map.as_bytes(), &[sealed.as_fd(), sealed.as_fd()])
            .errno(),
        libc::EINVAL
    );
    for flags in [0, 4, 7] {
        let map = DmaMap { flags, ..map };
        assert_eq!(
            client
                .call(Command::DmaMap, map.as_bytes(), &[sealed.as_fd()])
                .errno(),
            libc::EINVAL
        );
    }
    let pipe = rustix::pipe::pipe().unwrap();
    assert_eq!(
        client.dma_map(pipe.0.as_fd(), 0, 0x30000, 0x1000).errno(),
        libc::EPERM
    );
}

#[test]
fn what_qemu_does_to_dma_maps_is_tolerated() {
    let rig = Rig::new();
    let mut client = rig.client();
    // A ROM range without memory behind it.
    let rom = DmaMap {
        argsz: 32,
        flags: DMA_MAP_READ,
        offset: 0,
        address: 0xc0000,
        size: 0x20000,
    };
    client.ask(Command::DmaMap, &rom).accepted();
    // What is not mapped, and a range nearly as large as the address space.
    client.dma_unmap(0x100_0000, 0x1000).accepted();
    let huge: DmaUnmap = client.dma_unmap(0xfef0_0000, 0xffff_ffff_0110_0000).ok();
    assert_eq!((huge.address, huge.size), (0xfef0_0000, 0xffff_ffff_0110_0000));
    client.dma_unmap(0, u64::MAX).accepted();
    // All at once, but no dirty page bitmaps.
    let all = DmaUnmap {
        argsz: 24,
        flags: DMA_UNMAP_ALL,
        address: 0,
        size: 0,
    };
    client.ask(Command::DmaUnmap, &all).accepted();
    let dirty = DmaUnmap {
        argsz: 24,
        flags: DMA_UNMAP_DIRTY_BITMAP,
        address: 0,
        size: 0x1000,
    };
    assert_eq!(client.ask(Command::DmaUnmap, &dirty).errno(), libc::ENOTSUP);
    let odd = DmaUnmap {
        flags: DMA_UNMAP_ALL,
        address: 0x1000,
        size: 0x1000,
        argsz: 24,
    };
    assert_eq!(client.ask(Command::DmaUnmap, &odd).errno(), libc::EINVAL);
    // SET_IRQS with an eventfd flag, a count of 1 and no descriptor: disconnects.
    client.set_irqs(EVENT, IRQ_MSIX, 0, 1, &[]).accepted();
}

#[test]
fn interrupts_reach_their_eventfds() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fds = [event(), event(), event()];
    client
        .set_irqs(EVENT, IRQ_MSIX, 2, 3, &[&fds[0], &fds[1], &fds[2]])
        .accepted();
    client.write32(0, RAISE, 3);
    client.write32(0, RAISE, 3);
    client.write32(0, RAISE, 4);
    client.write32(0, RAISE, 5); // not connected
    client.write32(0, RAISE, 60000); // no such vector
    assert_eq!(fds.each_ref().map(taken), [0, 2, 1]);
    client.set_irqs(EVENT, IRQ_MSIX, 3, 1, &[]).accepted();
    client.write32(0, RAISE, 3);
    client.write32(0, RAISE, 2);
    assert_eq!(fds.each_ref().map(taken), [1, 0, 0]);
    // The client raises some itself.
    let fire = IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER;
    client.set_irqs(fire, IRQ_MSIX, 2, 3, &[]).accepted();
    assert_eq!(fds.each_ref().map(taken), [1, 0, 1]);
    let set = SetIrqs {
        argsz: 23,
        flags: IRQ_SET_DATA_BOOL | IRQ_SET_ACTION_TRIGGER,
        index: IRQ_MSIX,
        start: 2,
        count: 3,
    };
    let mut payload = set.as_bytes().to_vec();
    payload.extend([0, 1, 1]);
    client.call(Command::DeviceSetIrqs, &payload, &[]).accepted();
    assert_eq!(fds.each_ref().map(taken), [0, 0, 1]);
    // Count 0 without data takes all of them away.
    client.set_irqs(fire, IRQ_MSIX, 0, 0, &[]).accepted();
    client.write32(0, RAISE, 2);
    client.write32(0, RAISE, 4);
    assert_eq!(fds.each_ref().map(taken), [0, 0, 0]);
    let intx = event();
    client.set_irqs(EVENT, IRQ_INTX, 0, 1, &[&intx]).accepted();
    client.write32(0, RAISE, RAISE_INTX);
    assert_eq!(taken(&intx), 1);
}

#[test]
fn a_masked_interrupt_waits_until_it_is_unmasked() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fd = event();
    client.set_irqs(EVENT, IRQ_MSIX, 1, 1, &[&fd]).accepted();
    client
        .set_irqs(IRQ_SET_DATA_NONE | IRQ_SET_ACTION_MASK, IRQ_MSIX, 1, 1, &[])
        .accepted();
    client.write32(0, RAISE, 1);
    client.write32(0, RAISE, 1);
    assert_eq!(taken(&fd), 0);
    client
        .set_irqs(IRQ_SET_DATA_NONE | IRQ_SET_ACTION_UNMASK, IRQ_MSIX, 1, 1, &[])
        .accepted();
    assert_eq!(taken(&fd), 1);
    client.write32(0, RAISE, 1);
    assert_eq!(taken(&fd), 1);
}

#[test]
fn bad_interrupt_requests_are_refused() {
    let rig = Rig::new();
    let mut client = rig.client();
    let fd = event();
    let file = memfd(64, true);
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let mut refused = |flags, index, start, count, fds: &[&OwnedFd], errno| {
        let answer = client.set_irqs(flags, index, start, count, fds);
        assert_eq!(
            answer.errno(),
            errno,
            "flags {flags:#x} index {index} start {start} count {count}"
        );
    };
    refused(EVENT, IRQ_MSIX, 8, 1, &[&fd], libc::EINVAL);
    refused(EVENT, IRQ_MSIX, 7, 2, &[&fd, &fd], libc::EINVAL);
    refused(EVENT, IRQ_MSIX, u32::MAX, 2, &[], libc::EINVAL);
    refused(EVENT, IRQ_MSIX, 0, 2, &[&fd], libc::EINVAL);
    refused(EVENT, IRQ_MSI, 0, 1, &[&fd], libc::EINVAL);
    refused(EVENT, 17, 0, 1, &[&fd], libc::EINVAL);
    refused(EVENT, IRQ_MSIX, 0, 1, &[&file], libc::EINVAL);
    refused(EVENT, IRQ_MSIX, 0, 1, &[&pipe], libc::EINVAL);
    refused(
        IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_UNMASK,
        IRQ_INTX,
        0,
        1,
        &[&fd],
        libc::ENOTSUP,
    );
    refused(
        IRQ_SET_DATA_BOOL | IRQ_SET_ACTION_TRIGGER,
        IRQ_MSIX,
        0,
        4,
        &[],
        libc::EINVAL,
    );
    refused(
        IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER,
        IRQ_MSIX,
        0,
        1,
        &[&fd],
        libc::EINVAL,
    );
    refused(IRQ_SET_DATA_NONE, IRQ_MSIX, 0, 1, &[], libc::EINVAL);
    refused(IRQ_SET_ACTION_TRIGGER, IRQ_MSIX, 0, 1, &[], libc::EINVAL);
    refused(EVENT | IRQ_SET_DATA_NONE, IRQ_MSIX, 0, 1, &[&fd], libc::EINVAL);
    refused(EVENT | IRQ_SET_ACTION_MASK, IRQ_MSIX, 0, 1, &[&fd], libc::ENOTSUP);
}

#[test]
fn the_engine_writes_client_memory_and_stops_at_a_reset() {
    let rig = Rig::new();
    let mut client = rig.client();
    let memory = memfd(0x2000, true);
    client
        .dma_map(memory.as_fd(), 0x1000, 0x4_0000_0000, 0x1000)
        .accepted();
    client.write32(0, BASE_LOW, 0);
    client.write32(0, BASE_HIGH, 4);
    client.write32(0, LENGTH, 0x1000);
    client.write32(0, PATTERN, 0xa5);
    client.write32(0, CONTROL, 1);
    // Bus mastering is off: nothing but faults.
    while client.read32(0, FAULTS) == 0 {}
    assert_eq!(client.read32(0, ROUNDS), 0);
    client.bus_master(true);
    while client.read32(0, ROUNDS) == 0 {}
    let mut page = [0; 0x1000];
    rustix::io::pread(&memory, &mut page, 0x1000).unwrap();
    assert!(page.iter().all(|&b| b == 0xa5));
    rustix::io::pread(&memory, &mut page, 0).unwrap();
    assert!(
        page.iter().all(|&b| b == 0),
        "nothing outside the mapping was touched"
    );
    client.reset();
    assert_eq!(client.read32(0, CONTROL), 0);
}
