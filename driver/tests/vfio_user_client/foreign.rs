//! Our client on the server of the `vfio_user` crate.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use millrace_driver::bus::{self, BusError, Device};
use millrace_driver::mem::{AllocOptions, DmaMemory, PageSize};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags};
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
    vfio_region_sparse_mmap_area,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion, SparseArea};

/// What the backend was asked to do.
#[derive(Debug, Default)]
struct Seen {
    maps: Vec<(u64, u64, u64)>,
    unmaps: Vec<(u64, u64)>,
    resets: u32,
    irqs: Vec<(u32, u32, u32, usize)>,
    memory: Option<File>,
    fds: Vec<File>,
}

/// BAR 0 is memory; offset 0xf00 always fails.
struct Backend {
    bytes: Vec<u8>,
    seen: Arc<Mutex<Seen>>,
}

fn refused() -> io::Error {
    rustix::io::Errno::PERM.into()
}

impl ServerBackend for Backend {
    fn region_read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if offset == 0xf00 {
            return Err(refused());
        }
        let at = offset as usize;
        data.copy_from_slice(&self.bytes[at..at + data.len()]);
        Ok(())
    }

    fn region_write(&mut self, _region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0xf00 {
            return Err(refused());
        }
        let at = offset as usize;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        assert_eq!(flags, DmaMapFlags::READ_WRITE);
        let mut seen = self.seen.lock().unwrap();
        if seen.maps.iter().any(|m| m.1 == address) {
            return Err(refused());
        }
        seen.maps.push((offset, address, size));
        seen.memory = fd;
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.seen.lock().unwrap().unmaps.push((address, size));
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.seen.lock().unwrap().resets += 1;
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        seen.irqs.push((index, start, count, fds.len()));
        seen.fds.extend(fds);
        Ok(())
    }
}

struct Rig {
    device: Arc<dyn Device>,
    seen: Arc<Mutex<Seen>>,
    pages: OwnedFd,
    server: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let pages = rustix::fs::memfd_create("bar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&pages, 0x3000).unwrap();
        rustix::fs::fcntl_add_seals(&pages, SealFlags::SHRINK).unwrap();
        let region = |index: u32, size: u64| ServerRegion {
            region_info: vfio_region_info {
                argsz: 32,
                flags: VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                index,
                size,
                ..Default::default()
            },
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        let mut regions: Vec<ServerRegion> = (0..9)
            .map(|i| region(i, [0x1000, 0, 0x3000, 0, 0, 0, 0, 0x1000, 0][i as usize]))
            .collect();
        regions[2].region_info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
        regions[2].sparse_areas = [0x0u64, 0x2000]
            .map(|offset| SparseArea {
                area: vfio_region_sparse_mmap_area { offset, size: 0x1000 },
            })
            .to_vec();
        regions[2].mmap_fd = Some(pages.as_raw_fd());
        let irqs = (0..5)
            .map(|index| IrqInfo {
                index,
                flags: 1,
                count: if index == 2 { 4 } else { 0 },
            })
            .collect();
        let server = Server::new(&path, true, irqs, regions).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut backend = Backend {
            bytes: vec![0; 0x3000],
            seen: Arc::clone(&seen),
        };
        let server = std::thread::spawn(move || server.run(&mut backend).unwrap());
        let device = bus::open(&format!("vfio-user:{}", path.display())).unwrap();
        Rig {
            device,
            seen,
            pages,
            server: Some(server),
            _dir: dir,
        }
    }

    /// Ends the connection; the server must end without an error.
    fn end(mut self) {
        let server = self.server.take().unwrap();
        drop(self.device);
        server.join().unwrap();
    }
}

fn read32(device: &dyn Device, offset: u64) -> Result<u32, BusError> {
    let mut word = [0; 4];
    device
        .read(0, offset, &mut word)
        .map(|()| u32::from_le_bytes(word))
}

#[test]
fn registers_regions_and_interrupts_work_on_the_crates_server() {
    let rig = Rig::new();
    let device = &*rig.device;
    assert_eq!(
        (device.region(0).unwrap().size, device.region(1).unwrap().size),
        (0x1000, 0)
    );
    assert_eq!(device.irq_count(), 4);
    for n in 0..100 {
        device.write(0, 0x10, &n_bytes(n)).unwrap();
        assert_eq!(read32(device, 0x10).unwrap(), n);
    }
    device.write(7, 4, &[6, 0]).unwrap();
    device.reset().unwrap();
    let fds: Vec<OwnedFd> = (0..3)
        .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
        .collect();
    device
        .set_irqs(1, &[Some(fds[0].as_fd()), Some(fds[1].as_fd()), None])
        .unwrap();
    {
        let seen = rig.seen.lock().unwrap();
        assert_eq!(seen.resets, 1);
        // That server takes one descriptor a message.
        assert_eq!(seen.irqs, [(2, 1, 1, 1), (2, 2, 1, 1), (2, 3, 1, 0)]);
        rustix::io::write(&seen.fds[1], &5u64.to_ne_bytes()).unwrap();
    }
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&fds[1], &mut count), Ok(8));
    assert_eq!(u64::from_ne_bytes(count), 5);
    rig.end();
}

fn n_bytes(n: u32) -> [u8; 4] {
    n.to_le_bytes()
}

#[test]
fn its_sparse_areas_are_mapped() {
    let rig = Rig::new();
    let areas = rig.device.map(2).unwrap();
    assert_eq!(
        areas.iter().map(|a| (a.offset(), a.len())).collect::<Vec<_>>(),
        [(0, 0x1000), (0x2000, 0x1000)]
    );
    areas[1].write32(0x2004, 0xfeed).unwrap();
    let mut word = [0; 4];
    rustix::io::pread(&rig.pages, &mut word, 0x2004).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0xfeed);
    rig.end();
}

#[test]
fn its_view_of_our_memory_is_our_memory() {
    let rig = Rig::new();
    let mem = DmaMemory::alloc(
        0x2000,
        &AllocOptions {
            page: PageSize::Small,
            ..AllocOptions::default()
        },
    )
    .unwrap();
    rig.device.dma_map(0x20_0000, &mem).unwrap();
    {
        let seen = rig.seen.lock().unwrap();
        assert_eq!(seen.maps, [(0, 0x20_0000, 0x2000)]);
        seen.memory
            .as_ref()
            .unwrap()
            .write_all_at(b"by DMA", 0x1000)
            .unwrap();
    }
    let mut text = [0; 6];
    rustix::io::pread(mem.fd(), &mut text, 0x1000).unwrap();
    assert_eq!(&text, b"by DMA");
    rig.device.dma_unmap(0x20_0000, 0x2000).unwrap();
    assert_eq!(rig.seen.lock().unwrap().unmaps, [(0x20_0000, 0x2000)]);
    rig.end();
}

#[test]
fn its_errors_are_errors_and_the_connection_goes_on() {
    let rig = Rig::new();
    let device = &*rig.device;
    let mem = DmaMemory::alloc(
        0x1000,
        &AllocOptions {
            page: PageSize::Small,
            ..AllocOptions::default()
        },
    )
    .unwrap();
    device.dma_map(0x20_0000, &mem).unwrap();
    for n in 0..20 {
        // It forgets the errno on the way.
        assert!(matches!(read32(device, 0xf00), Err(BusError::Refused { .. })));
        assert!(matches!(
            device.dma_map(0x20_0000, &mem),
            Err(BusError::Dma { .. })
        ));
        // It answers a posted write that failed, although nobody asked.
        device.write(0, 0xf00, &[0; 4]).unwrap();
        device.write(0, 0x20, &n_bytes(n)).unwrap();
        assert_eq!(read32(device, 0x20).unwrap(), n);
    }
    assert!(device.is_alive());
    rig.end();
}
