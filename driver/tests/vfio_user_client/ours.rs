//! Our client on our server.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_driver::bus::{self, BusError, Device};
use millrace_driver::mem::{AllocOptions, DmaMemory, PageSize, Ring};
use millrace_nic_models::device::exerciser::{self, *};
use millrace_nic_models::vfio_user::server::{Options, Server};
use rustix::event::{EventfdFlags, eventfd};

/// Our server with an exerciser, on a thread.
struct Rig {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nic.sock");
        let stop = Arc::new(AtomicBool::new(false));
        let server = Server::bind(&path).unwrap();
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut model = Exerciser::new().unwrap();
                server
                    .serve(&mut model, &Options::default(), &stop, &mut |_| {})
                    .unwrap();
            }
        });
        Rig {
            path,
            stop,
            thread: Some(thread),
            _dir: dir,
        }
    }

    fn open(&self) -> Arc<dyn Device> {
        bus::open(&format!("vfio-user:{}", self.path.display())).unwrap()
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read32(device: &dyn Device, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    device.read(0, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn write32(device: &dyn Device, offset: u64, v: u32) {
    device.write(0, offset, &v.to_le_bytes()).unwrap();
}

fn memory(len: usize) -> Arc<DmaMemory> {
    let options = AllocOptions {
        page: PageSize::Small,
        ..AllocOptions::default()
    };
    Arc::new(DmaMemory::alloc(len, &options).unwrap())
}

fn start_engine(device: &dyn Device, iova: u64, len: u32, pattern: u8) {
    device.write(7, 4, &6u16.to_le_bytes()).unwrap();
    write32(device, BASE_LOW, iova as u32);
    write32(device, BASE_HIGH, (iova >> 32) as u32);
    write32(device, LENGTH, len);
    write32(device, PATTERN, u32::from(pattern));
    write32(device, CONTROL, 1);
}

#[test]
fn the_device_is_discovered() {
    let rig = Rig::new();
    let device = rig.open();
    assert!(device.name().starts_with("vfio-user:/"));
    let bar0 = device.region(0).unwrap();
    assert_eq!(
        (bar0.size, bar0.readable, bar0.writable, bar0.mmap.len()),
        (BAR0_SIZE, true, true, 0)
    );
    let bar2 = device.region(2).unwrap();
    let areas: Vec<_> = bar2.mmap.iter().map(|a| (a.offset, a.len)).collect();
    assert_eq!(areas, [(0x1000, 0x1000), (0x3000, 0x1000)]);
    assert_eq!(device.region(1).unwrap().size, 0);
    assert!(matches!(device.region(9), Err(BusError::NoRegion { .. })));
    assert_eq!(device.irq_count(), u32::from(VECTORS));
    let mut ids = [0; 4];
    device.read(7, 0, &mut ids).unwrap();
    assert_eq!(ids, [0x36, 0x1b, 0x05, 0x00]);
    assert!(device.is_alive());
}

#[test]
fn registers_read_back_what_was_posted() {
    let rig = Rig::new();
    let device = rig.open();
    assert_eq!(read32(&*device, exerciser::ID), ID_VALUE);
    for n in 0..1000 {
        write32(&*device, SCRATCH, n);
        assert_eq!(read32(&*device, SCRATCH), n);
    }
    // Many posted in a row: in order, and none lost.
    for n in 0..5000 {
        write32(&*device, SCRATCH, n);
    }
    assert_eq!(read32(&*device, SCRATCH), 4999);
    // Larger than one message may be.
    let mut all = vec![0; 4096];
    device.read(7, 0, &mut all).unwrap();
}

#[test]
fn accesses_outside_a_region_never_leave_the_client() {
    let rig = Rig::new();
    let device = rig.open();
    let mut word = [0; 4];
    for offset in [BAR0_SIZE, BAR0_SIZE - 2, u64::MAX - 1] {
        assert!(matches!(
            device.read(0, offset, &mut word),
            Err(BusError::OutOfRange { .. })
        ));
        assert!(matches!(
            device.write(0, offset, &word),
            Err(BusError::OutOfRange { .. })
        ));
    }
    assert!(matches!(
        device.read(1, 0, &mut word),
        Err(BusError::NoRegion { .. })
    ));
    assert!(matches!(
        device.read(77, 0, &mut word),
        Err(BusError::NoRegion { .. })
    ));
    // Inside, but not as the device wants it.
    assert!(matches!(
        device.read(0, 0, &mut [0; 2]),
        Err(BusError::Refused { .. })
    ));
    // A posted write that the device refuses is not heard of; the connection goes on.
    device.write(0, 0, &[1, 2]).unwrap();
    assert_eq!(read32(&*device, exerciser::ID), ID_VALUE);
}

#[test]
fn mapped_pages_are_the_devices_own() {
    let rig = Rig::new();
    let device = rig.open();
    let areas = device.map(2).unwrap();
    assert_eq!(areas.len(), 2);
    areas[1].write32(0x3ffc, 0x1234_5678).unwrap();
    let mut word = [0; 4];
    device.read(2, 0x3ffc, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0x1234_5678);
    device.write(2, 0x3000, &7u32.to_le_bytes()).unwrap();
    device.read(2, 0x3000, &mut word).unwrap(); // the write was posted
    assert_eq!(areas[1].read32(0x3000), Some(7));
    assert!(device.map(0).unwrap().is_empty());
    // A doorbell without a message, while the model sleeps.
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    device.set_irqs(3, &[Some(fd.as_fd())]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    areas[0].write32(DOORBELL, 4).unwrap();
    assert_eq!(wait(&fd), 1);
}

fn wait(fd: &OwnedFd) -> u64 {
    let began = Instant::now();
    let mut count = [0; 8];
    while rustix::io::read(fd, &mut count).is_err() {
        assert!(began.elapsed() < Duration::from_secs(5), "no interrupt");
        std::thread::yield_now();
    }
    u64::from_ne_bytes(count)
}

#[test]
fn interrupts_are_connected_in_runs_and_disconnected() {
    let rig = Rig::new();
    let device = rig.open();
    let fds: Vec<OwnedFd> = (0..8)
        .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
        .collect();
    let some = |i: usize| Some(fds[i].as_fd());
    device
        .set_irqs(
            0,
            &[some(0), some(1), None, some(3), None, None, some(6), some(7)],
        )
        .unwrap();
    for n in 0..8 {
        write32(&*device, RAISE, n);
    }
    read32(&*device, exerciser::ID);
    let heard: Vec<bool> = fds
        .iter()
        .map(|fd| rustix::io::read(fd, &mut [0; 8]).is_ok())
        .collect();
    assert_eq!(heard, [true, true, false, true, false, false, true, true]);
    device.set_irqs(0, &[None; 8]).unwrap();
    write32(&*device, RAISE, 0);
    read32(&*device, exerciser::ID);
    assert!(rustix::io::read(&fds[0], &mut [0; 8]).is_err());
    assert!(matches!(
        device.set_irqs(7, &[None, None]),
        Err(BusError::Refused { .. })
    ));
    assert!(matches!(
        device.set_irqs(u32::MAX, &[None, None]),
        Err(BusError::Refused { .. })
    ));
}

#[test]
fn dma_reaches_our_memory_until_it_is_unmapped() {
    let rig = Rig::new();
    let device = rig.open();
    let mem = memory(0x4000);
    let ring: Ring<2> = Ring::new(Arc::clone(&mem), 0, 256).unwrap();
    device.dma_map(0x10_0000, &mem).unwrap();
    assert!(matches!(
        device.dma_map(0x10_0000, &mem),
        Err(BusError::Dma { what: "map", .. })
    ));
    for round in 1..200u8 {
        start_engine(&*device, 0x10_0000, 0x1000, round);
        let want = u64::from_ne_bytes([round; 8]);
        let began = Instant::now();
        while ring.last_acquire(255) != want {
            assert!(began.elapsed() < Duration::from_secs(10), "no DMA");
        }
        device.dma_unmap(0x10_0000, mem.len() as u64).unwrap();
        ring.clear();
        read32(&*device, FAULTS);
        assert!(
            (0..256).all(|i| ring.get(i) == [0, 0]),
            "a write landed after the unmap"
        );
        device.dma_map(0x10_0000, &mem).unwrap();
        if round % 3 == 0 {
            device.reset().unwrap();
            ring.clear();
            read32(&*device, FAULTS);
            assert!(
                (0..256).all(|i| ring.get(i) == [0, 0]),
                "a write landed after the reset"
            );
        }
    }
}

#[test]
fn many_threads_share_a_device() {
    let rig = Rig::new();
    let device = rig.open();
    std::thread::scope(|s| {
        for t in 0..4u32 {
            let device = &device;
            s.spawn(move || {
                for n in 0..500 {
                    assert_eq!(read32(&**device, exerciser::ID), ID_VALUE);
                    let mut word = [0; 4];
                    device.write(2, 0x100 + u64::from(t) * 4, &n_of(t, n)).unwrap();
                    device.read(2, 0x100 + u64::from(t) * 4, &mut word).unwrap();
                    assert_eq!(word, n_of(t, n));
                }
            });
        }
    });
}

fn n_of(t: u32, n: u32) -> [u8; 4] {
    (t << 16 | n).to_le_bytes()
}

#[test]
fn a_server_that_goes_away_is_noticed() {
    let mut rig = Rig::new();
    let device = rig.open();
    assert!(device.is_alive());
    rig.stop();
    assert!(!device.is_alive());
    let mem = memory(0x1000);
    let mut word = [0; 4];
    let gone = [
        device.read(0, 0, &mut word).unwrap_err(),
        device.write(0, 4, &word).unwrap_err(),
        device.write(7, 4, &word).unwrap_err(),
        device.reset().unwrap_err(),
        device.dma_map(0, &mem).unwrap_err(),
        device.dma_unmap(0, 0x1000).unwrap_err(),
        device.set_irqs(0, &[None]).unwrap_err(),
    ];
    for error in gone {
        assert!(error.is_gone(), "{error}");
        assert!(error.to_string().contains("closed the connection"), "{error}");
    }
}

#[test]
fn a_second_client_is_told_that_the_device_is_busy() {
    let rig = Rig::new();
    let first = rig.open();
    let spec = format!("vfio-user:{}", rig.path.display());
    let error = bus::open(&spec).unwrap_err();
    assert!(matches!(error, BusError::Busy { .. }), "{error}");
    assert_eq!(read32(&*first, exerciser::ID), ID_VALUE);
    // Once the first is gone the next is let in without further ado.
    drop(first);
    for _ in 0..20 {
        drop(bus::open(&spec).unwrap());
    }
}

#[test]
fn nobody_at_the_socket_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nic.sock");
    let spec = format!("vfio-user:{}", path.display());
    let error = bus::open(&spec).unwrap_err();
    assert!(matches!(error, BusError::Unreachable { .. }), "{error}");
    drop(UnixListener::bind(&path).unwrap()); // a stale socket
    let error = bus::open(&spec).unwrap_err();
    assert!(matches!(error, BusError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("nic-model ixgbe --socket"), "{error}");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap(); // no socket at all
    assert!(matches!(bus::open(&spec), Err(BusError::Unreachable { .. })));
}
