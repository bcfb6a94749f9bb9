//! The kernel's VFIO on a real (or emulated) PCI device with MSI-X. Needs a device bound to vfio-pci, named by its address in
//! MILLRACE_TEST_VFIO; without one every test says that it is skipped. The guest lab runs this in a guest with an IOMMU.

mod traffic;

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_driver::bus::{self, BusError, CONFIG_REGION, Device, IOVA_LIMIT, Iommu, Registers};
use millrace_driver::mem::{AllocOptions, DmaMemory, PageSize};
use millrace_driver::port::{Port, PortConfig};
use millrace_driver::queue::{RxBatch, TxMeta};
use rustix::event::EventfdFlags;

/// Names the device under test.
const DEVICE: &str = "MILLRACE_TEST_VFIO";

/// A VFIO group can be open once; tests take turns.
static TURN: Mutex<()> = Mutex::new(());

type Turn = MutexGuard<'static, ()>;

/// Opens the device, or says that the test is skipped.
fn device(test: &str) -> Option<(Arc<dyn Device>, Turn)> {
    let Ok(bdf) = std::env::var(DEVICE) else {
        println!("SKIP {test}: {DEVICE} does not name a PCI device bound to vfio-pci");
        return None;
    };
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Some((bus::open(&bdf).unwrap(), turn))
}

/// Switches memory accesses and bus mastering on (PCI command register).
fn enable(dev: &dyn Device) {
    let mut command = [0; 2];
    dev.read(CONFIG_REGION, 4, &mut command).unwrap();
    dev.write(CONFIG_REGION, 4, &[command[0] | 6, command[1]])
        .unwrap();
    dev.read(CONFIG_REGION, 4, &mut command).unwrap();
    assert_eq!(command[0] & 6, 6);
}

#[test]
fn configuration_space_and_registers_can_be_read_mapped_and_not() {
    let Some((dev, _turn)) = device("configuration_space_and_registers_can_be_read_mapped_and_not") else {
        return;
    };
    enable(dev.as_ref());
    let mut vendor = [0; 2];
    dev.read(CONFIG_REGION, 0, &mut vendor).unwrap();
    assert_eq!(u16::from_le_bytes(vendor), 0x8086);
    let bar = dev.region(0).unwrap();
    assert!(bar.size >= 4096 && bar.readable && bar.writable, "{bar:?}");
    assert!(bar.mmap.iter().all(|a| a.offset + a.len <= bar.size));

    let regs = Registers::open(dev.clone(), 0).unwrap();
    // STATUS, the same on every Intel NIC since the 8254x.
    let mut trapped = [0; 4];
    dev.read(0, 8, &mut trapped).unwrap();
    assert_eq!(regs.read32(8).unwrap(), u32::from_le_bytes(trapped));
    assert!(regs.is_mapped(8), "{:?}", dev.map(0));
    assert!(
        regs.poll(8, 0, 1, Duration::from_millis(1)).is_ok(),
        "an empty mask is always met"
    );
    let error = regs
        .poll(8, u32::MAX, !regs.read32(8).unwrap(), Duration::from_millis(2))
        .unwrap_err();
    assert!(matches!(error, BusError::Timeout { .. }), "{error}");
}

#[test]
fn accesses_beyond_a_region_are_errors() {
    let Some((dev, _turn)) = device("accesses_beyond_a_region_are_errors") else {
        return;
    };
    let size = dev.region(0).unwrap().size;
    let mut word = [0; 4];
    assert!(matches!(
        dev.read(0, size, &mut word),
        Err(BusError::OutOfRange { .. })
    ));
    assert!(matches!(
        dev.read(0, u64::MAX, &mut word),
        Err(BusError::OutOfRange { .. })
    ));
    assert!(matches!(dev.write(99, 0, &word), Err(BusError::NoRegion { .. })));
    assert!(matches!(dev.region(99), Err(BusError::NoRegion { .. })));
}

#[test]
fn memory_is_mapped_outside_reserved_ranges_and_can_be_taken_back() {
    let Some((dev, _turn)) = device("memory_is_mapped_outside_reserved_ranges_and_can_be_taken_back") else {
        return;
    };
    let ranges = dev.iova_ranges();
    assert!(!ranges.is_empty());
    assert!(
        ranges.iter().all(|r| !r.contains(&0xfee0_0000)),
        "the interrupt range is left out: {ranges:x?}"
    );
    let iommu = Iommu::new(dev.clone());
    let options = AllocOptions {
        page: PageSize::Small,
        name: "vfio-test".into(),
        ..AllocOptions::default()
    };
    let mem = Arc::new(DmaMemory::alloc(4 << 20, &options).unwrap());
    let mapping = iommu.map(&mem).unwrap();
    assert!(mapping.iova() >= 2 << 20 && mapping.iova() + (4 << 20) <= IOVA_LIMIT);
    assert!(
        matches!(dev.dma_map(mapping.iova(), &mem), Err(BusError::Dma { .. })),
        "the address is taken"
    );
    let iova = mapping.iova();
    drop(mapping);
    dev.dma_map(iova, &mem).unwrap();
    dev.dma_unmap(iova, 4 << 20).unwrap();
    assert!(dev.dma_unmap(iova, 4 << 20).is_err());
    assert!(dev.dma_map(1 << 60, &mem).is_err());
}

#[test]
fn interrupt_vectors_can_be_connected_added_and_disconnected() {
    let Some((dev, _turn)) = device("interrupt_vectors_can_be_connected_added_and_disconnected") else {
        return;
    };
    enable(dev.as_ref());
    let vectors = dev.irq_count();
    assert!(vectors >= 2);
    let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let some = Some(event.as_fd());
    dev.set_irqs(0, &[some]).unwrap();
    dev.set_irqs(1, &vec![some; vectors as usize - 1]).unwrap();
    dev.set_irqs(0, &[None, some]).unwrap();
    dev.set_irqs(0, &vec![None; vectors as usize]).unwrap();
    dev.set_irqs(0, &[some, some]).unwrap();
    assert!(matches!(
        dev.set_irqs(vectors, &[some]),
        Err(BusError::Refused { .. })
    ));
}

#[test]
fn a_reset_leaves_the_device_usable_and_a_second_opener_hears_that_it_is_busy() {
    let name = "a_reset_leaves_the_device_usable_and_a_second_opener_hears_that_it_is_busy";
    let Some((dev, _turn)) = device(name) else { return };
    match dev.reset() {
        Ok(()) => {}
        Err(e) => assert!(matches!(e, BusError::Unsupported { .. }), "{e}"),
    }
    enable(dev.as_ref());
    assert!(Registers::open(dev.clone(), 0).unwrap().read32(8).is_ok());
    assert!(dev.is_alive());
    let error = bus::open(dev.name()).unwrap_err();
    assert!(matches!(error, BusError::Busy { .. }), "{error}");
    let name = dev.name().to_owned();
    drop(dev);
    bus::open(&name).unwrap();
}

#[test]
fn a_low_limit_on_locked_memory_says_what_to_raise() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some((dev, _turn)) = device("a_low_limit_on_locked_memory_says_what_to_raise") else {
        return;
    };
    let before = getrlimit(Resource::Memlock);
    setrlimit(
        Resource::Memlock,
        Rlimit {
            current: Some(64 << 10),
            maximum: before.maximum,
        },
    )
    .unwrap();
    let mem = DmaMemory::alloc(
        1 << 20,
        &AllocOptions {
            page: PageSize::Small,
            ..AllocOptions::default()
        },
    )
    .unwrap();
    let result = dev.dma_map(2 << 20, &mem);
    setrlimit(Resource::Memlock, before).unwrap();
    match result {
        // Who has CAP_IPC_LOCK is not held to the limit.
        Ok(()) => dev.dma_unmap(2 << 20, 1 << 20).unwrap(),
        Err(e) => assert!(matches!(e, BusError::MemLock { limit: 65536, .. }), "{e}"),
    }
}

/// Needs an 82599 that receives many flows, such as a model on a `gen` wire.
#[test]
fn an_82599_forwards_on_two_queues_and_wakes_a_sleeper() {
    let name = "an_82599_forwards_on_two_queues_and_wakes_a_sleeper";
    let Some((dev, _turn)) = device(name) else { return };
    let mut ids = [0; 4];
    dev.read(CONFIG_REGION, 0, &mut ids).unwrap();
    if u32::from_le_bytes(ids) != 0x10fb_8086 {
        println!("SKIP {name}: the device is no 82599");
        return;
    }
    let config = PortConfig {
        queues: 2,
        promiscuous: true,
        interrupts: true,
        link_wait: Duration::from_secs(10),
        ..PortConfig::default()
    };
    let mut port = Port::open(dev, config).unwrap();
    assert!(port.link().unwrap().up);
    let (mut batch, meta) = (RxBatch::new(), TxMeta::default());
    let mut received = [0; 2];
    let mut queues = [port.take_queue(0).unwrap(), port.take_queue(1).unwrap()];
    let deadline = Instant::now() + Duration::from_secs(60);
    while received.iter().any(|n| *n < 1000) && Instant::now() < deadline {
        for (i, (rx, tx)) in queues.iter_mut().enumerate() {
            let n = rx.poll(&mut batch);
            received[i] += n;
            let sent: Vec<u8> = (0..n as u8).collect();
            tx.push_frames(&mut batch, &sent, &meta);
            tx.submit();
        }
    }
    assert!(received.iter().all(|n| *n >= 1000), "{received:?}");

    // Empty the queue, arm, and sleep until the next frame.
    let (rx, _) = &mut queues[0];
    rx.arm().unwrap();
    let irq = port.irq(0).unwrap();
    let mut wait = [rustix::event::PollFd::new(&irq, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut wait, Some(&timeout)).unwrap(),
        1,
        "no interrupt"
    );
    rx.disarm().unwrap();
    batch.clear();
    for (rx, tx) in queues {
        port.stop_queue(rx, tx).unwrap();
    }
    // Not rx_packets, which the counters of the queues make: they lie in the pages that a model may give out for mapping,
    // where nothing counts.
    let stats = port.xstats().unwrap();
    let counted = |name| stats.iter().find(|s| s.0 == name).map_or(0, |s| s.1);
    assert!(counted("gprc") >= 2000 && counted("gptc") > 0, "{stats:?}");
    assert_eq!(port.buffers().in_flight, 0, "{:?}", port.buffers());
    port.close().unwrap();
}
