//! The bus over a model in this process: registers, waits, doorbells, DMA mappings, interrupts, surprise removal.
#![cfg(feature = "models")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_driver::bus::local::LocalDevice;
use millrace_driver::bus::{BusError, CONFIG_REGION, Device, FaultInjector, Iommu, ReadFault, Registers};
use millrace_driver::mem::{AllocOptions, DmaMemory, Ring};
use millrace_nic_models::device::{
    AccessError, Identity, Irq, IrqLines, MmapArea, Model, RegionFlags, RegionInfo, WaitFds, Work,
};
use millrace_nic_models::dma::DmaSpace;
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

const CTRL: u32 = 0x00;
const READY: u32 = 0x04;
const BASE: u32 = 0x08;
/// Trapped tail.
const TAIL: u32 = 0x10;
/// The second page is mapped; its first register is another tail.
const MAPPED: u32 = 0x1000;
const DD: u64 = 1 << 32;

/// A machine with one ring of 16-byte descriptors: sets DD in each one up to the tail, then raises vector 0.
struct Ringer {
    regs: [u32; 8],
    page: OwnedFd,
    dma: DmaSpace,
    irqs: IrqLines,
    head: u32,
    busy_steps: u32,
}

impl Ringer {
    fn new() -> Ringer {
        let page = rustix::fs::memfd_create("ringer", MemfdFlags::empty()).unwrap();
        rustix::fs::ftruncate(&page, 4096).unwrap();
        let mut dma = DmaSpace::new();
        dma.set_enabled(true);
        Ringer {
            regs: [0; 8],
            page,
            dma,
            irqs: IrqLines::new(2),
            head: 0,
            busy_steps: 0,
        }
    }

    fn register(index: u32, offset: u64, len: usize) -> Result<usize, AccessError> {
        match (index, offset, len) {
            (0, 0..0x20, 4) => Ok(offset as usize / 4),
            (0, _, 4) => Err(AccessError::OutOfRange {
                index,
                offset,
                len,
                size: 0x2000,
            }),
            (0, ..) => Err(AccessError::BadAccess { index, offset, len }),
            _ => Err(AccessError::NoRegion(index)),
        }
    }
}

impl Model for Ringer {
    fn identity(&self) -> Identity {
        Identity {
            family: "ringer",
            name: "Ringer",
            vendor: 1,
            device: 2,
        }
    }
    fn region(&self, index: u32) -> Option<RegionInfo> {
        let mmap = vec![MmapArea {
            offset: 0x1000,
            size: 0x1000,
        }];
        (index == 0).then_some(RegionInfo {
            size: 0x2000,
            flags: RegionFlags::READ_WRITE_MMAP,
            mmap,
        })
    }
    fn region_fd(&self, index: u32) -> Option<(BorrowedFd<'_>, u64)> {
        // Region offset 0x1000 is file offset 0, so offset 0 of the region lies "before" the file.
        (index == 0).then(|| (self.page.as_fd(), 0x1000u64.wrapping_neg()))
    }
    fn read(&mut self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), AccessError> {
        let at = Self::register(index, offset, buf.len())?;
        buf.copy_from_slice(&self.regs[at].to_le_bytes());
        Ok(())
    }
    fn write(&mut self, index: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        let at = Self::register(index, offset, data.len())?;
        self.regs[at] = u32::from_le_bytes(data.try_into().unwrap());
        if offset == u64::from(CTRL) {
            self.busy_steps = 3;
        }
        Ok(())
    }
    fn msix_vectors(&self) -> u16 {
        2
    }
    fn set_irq(&mut self, irq: Irq, fd: Option<OwnedFd>) {
        self.irqs.set(irq, fd);
    }
    fn reset(&mut self) {
        (self.regs, self.head) = ([0; 8], 0);
    }
    fn dma(&mut self) -> &mut DmaSpace {
        &mut self.dma
    }
    fn step(&mut self) -> Work {
        if self.busy_steps > 0 {
            self.busy_steps -= 1;
            self.regs[READY as usize / 4] = u32::from(self.busy_steps == 0);
            return Work::Busy;
        }
        let mut mapped = [0; 4];
        rustix::io::pread(&self.page, &mut mapped, 0).unwrap();
        let tail = self.regs[TAIL as usize / 4].max(u32::from_le_bytes(mapped));
        if self.head == tail {
            return Work::Idle;
        }
        let base = u64::from(self.regs[BASE as usize / 4]) << 12;
        let at = base + u64::from(self.head) * 16;
        let read = self.dma.read_desc16(at);
        if read
            .and_then(|d| self.dma.write_desc16(at, [d[0] + 1, DD]))
            .is_err()
        {
            self.regs[7] += 1;
        }
        self.head += 1;
        self.irqs.signal(Irq::Msix(0));
        Work::Busy
    }
    fn next_timer(&self) -> Option<Instant> {
        None
    }
    fn wait_fds(&self) -> WaitFds<'_> {
        Vec::new()
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("faults", u64::from(self.regs[7]))]
    }
}

fn names(offset: u32) -> Option<(&'static str, u32)> {
    match offset {
        READY => Some(("READY", 0)),
        0x14..0x1c => Some(("ARRAY", (offset - 0x14) / 4)),
        _ => None,
    }
}

fn device() -> (Arc<LocalDevice>, Registers) {
    let dev = LocalDevice::new(Box::new(Ringer::new()));
    let regs = Registers::open(dev.clone(), 0).unwrap().with_names(names);
    (dev, regs)
}

fn memory() -> Arc<DmaMemory> {
    Arc::new(DmaMemory::alloc(8192, &AllocOptions::default()).unwrap())
}

#[test]
fn a_wait_steps_the_model_until_the_register_is_ready() {
    let (_dev, regs) = device();
    regs.write32(CTRL, 1).unwrap();
    assert_eq!(regs.read32(READY).unwrap(), 0);
    assert_eq!(regs.poll(READY, 1, 1, Duration::from_secs(5)).unwrap(), 1);
    regs.modify32(BASE, 0xff00, 0x1200).unwrap();
    regs.modify32(BASE, 0x00ff, 0x34).unwrap();
    assert_eq!(regs.read32(BASE).unwrap(), 0x1234);
}

#[test]
fn a_register_that_never_gets_ready_is_named_with_its_value_and_the_time() {
    let (dev, _) = device();
    let faulty = FaultInjector::new(dev.clone());
    faulty.set(0, u64::from(READY), ReadFault::Constant(0xdead_0000));
    let regs = Registers::open(faulty.clone(), 0).unwrap().with_names(names);
    assert!(!regs.is_mapped(MAPPED), "nothing passes a fault injector by");
    let error = regs.poll(READY, 1, 1, Duration::from_millis(5)).unwrap_err();
    assert!(matches!(
        error,
        BusError::Timeout {
            seen: 0xdead_0000,
            mask: 1,
            want: 1,
            ..
        }
    ));
    let message = error.to_string();
    assert!(
        message.starts_with("local:ringer: READY is 0xdead0000 after "),
        "{message}"
    );
    assert_eq!(regs.name(0x18), "ARRAY[1]");
    assert_eq!(regs.name(0x1c), "register 0x1c");

    faulty.set(0, u64::from(READY), ReadFault::Stuck { mask: 1, value: 1 });
    assert!(regs.poll(READY, 1, 1, Duration::ZERO).is_ok());
    faulty.set(0, u64::from(READY), ReadFault::Gone);
    assert!(
        regs.poll(READY, 1, 1, Duration::from_secs(5))
            .unwrap_err()
            .is_gone()
    );
    faulty.clear(0, u64::from(READY));
    assert_eq!(regs.read32(READY).unwrap(), 0);
}

#[test]
fn doorbells_reach_the_device_mapped_or_not_and_the_ring_comes_back_done() {
    let (dev, regs) = device();
    let iommu = Iommu::new(dev.clone());
    let mem = memory();
    let mapping = iommu.map(&mem).unwrap();
    let ring: Ring<2> = Ring::new(mem, 0, 8).unwrap();
    regs.write32(BASE, (mapping.iova() >> 12) as u32).unwrap();
    let (trapped, mapped) = (regs.doorbell(TAIL).unwrap(), regs.doorbell(MAPPED).unwrap());
    assert!(!trapped.is_mapped() && mapped.is_mapped());

    ring.put(0, [41, 0]);
    ring.put(1, [7, 0]);
    trapped.ring(1).unwrap();
    assert_eq!(ring.last_acquire(0), 0, "nothing moves before a step");
    assert!(dev.settle(10));
    assert_eq!((ring.get(0), ring.get(1)), ([42, DD], [7, 0]));
    mapped.ring(2).unwrap();
    assert!(dev.settle(10));
    assert_eq!(ring.get(1), [8, DD]);
    assert_eq!(dev.counters(), [("faults", 0)]);
}

#[test]
fn a_mapping_that_is_dropped_is_out_of_the_devices_reach() {
    let (dev, regs) = device();
    let iommu = Iommu::new(dev.clone());
    let mem = memory();
    let mapping = iommu.map(&mem).unwrap();
    let other = iommu.map(&memory()).unwrap();
    assert!(mapping.iova() != 0 && mapping.iova() != other.iova());
    assert_eq!(iommu.mapped(), 16384);
    regs.write32(BASE, (mapping.iova() >> 12) as u32).unwrap();
    let iova = mapping.iova();
    drop(mapping);
    assert_eq!(iommu.mapped(), 8192);
    regs.write32(TAIL, 1).unwrap();
    assert!(dev.settle(10));
    assert_eq!(dev.counters(), [("faults", 1)]);
    assert_eq!(iommu.map(&mem).unwrap().iova(), iova, "the address is free again");
    assert!(dev.dma_unmap(0x4000_0000, 4096).is_err());
}

#[test]
fn interrupts_reach_their_eventfd_until_disconnected() {
    let (dev, regs) = device();
    let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let pending = || {
        let mut count = [0; 8];
        rustix::io::read(&event, &mut count)
            .map(|_| u64::from_ne_bytes(count))
            .unwrap_or(0)
    };
    assert_eq!(dev.irq_count(), 2);
    dev.set_irqs(0, &[Some(event.as_fd()), None]).unwrap();
    regs.write32(TAIL, 2).unwrap();
    assert!(dev.settle(10));
    assert_eq!(pending(), 2);
    dev.set_irqs(0, &[None]).unwrap();
    regs.write32(TAIL, 3).unwrap();
    assert!(dev.settle(10));
    assert_eq!(pending(), 0);
    assert!(
        dev.set_irqs(1, &[None, None])
            .unwrap_err()
            .to_string()
            .contains("interrupt vector 2")
    );
}

#[test]
fn accesses_beyond_the_registers_are_errors() {
    let (dev, regs) = device();
    assert!(matches!(
        Registers::open(dev.clone(), 3),
        Err(BusError::NoRegion { index: 3, .. })
    ));
    assert!(matches!(
        dev.region(CONFIG_REGION),
        Err(BusError::NoRegion { .. })
    ));
    assert!(matches!(regs.read32(0x800), Err(BusError::Refused { .. })));
    assert!(matches!(regs.doorbell(0x2000), Err(BusError::OutOfRange { .. })));
    assert!(matches!(regs.doorbell(2), Err(BusError::OutOfRange { .. })));
    assert!(regs.write32(MAPPED + 0xffc, 5).is_ok() && regs.read32(MAPPED + 0xffc).unwrap() == 5);
    assert!(regs.read32(MAPPED + 0xffe).is_err(), "unaligned");
    dev.reset().unwrap();
}

#[test]
fn after_a_surprise_removal_every_call_says_so_and_teardown_is_clean() {
    let (dev, regs) = device();
    let iommu = Iommu::new(dev.clone());
    let mapping = iommu.map(&memory()).unwrap();
    let bell = regs.doorbell(TAIL).unwrap();
    assert!(dev.is_alive());
    dev.unplug();
    assert!(!dev.is_alive());
    assert!(regs.read32(CTRL).unwrap_err().is_gone());
    assert!(bell.ring(1).unwrap_err().is_gone());
    assert!(dev.reset().unwrap_err().is_gone());
    assert!(iommu.map(&memory()).unwrap_err().is_gone());
    drop(mapping);
    assert_eq!(iommu.mapped(), 0);
}
