//! Frames over the kernel's VFIO: pages of both sizes, queues that stop, processes that die, memory that goes. All of it
//! needs an 82599 that receives many flows without end, such as a model on a `gen` wire.

use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_driver::bus::{self, CONFIG_REGION, Device, Registers};
use millrace_driver::mem::{AllocOptions, BufferLayout, DmaMemory, PageSize, Region};
use millrace_driver::port::{Port, PortConfig};
use millrace_driver::queue::{RxBatch, RxQueue, TxMeta, TxQueue};

use crate::{DEVICE, device};

/// How long frames may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// EICS: causes as in EICR, but reading it has no side effects (82599 datasheet 8.2.3.5.2).
const EICS: u32 = 0x808;
/// A PCI exception: the device's access to memory failed (8.2.3.5.1).
const EICR_PCI: u32 = 1 << 18;

type Queue = (RxQueue, TxQueue);

/// The device under test if it is an 82599; else says that the test is skipped.
fn ixgbe(test: &str) -> Option<(Arc<dyn Device>, crate::Turn)> {
    let (dev, turn) = device(test)?;
    let mut ids = [0; 4];
    dev.read(CONFIG_REGION, 0, &mut ids).unwrap();
    if u32::from_le_bytes(ids) == 0x10fb_8086 {
        return Some((dev, turn));
    }
    println!("SKIP {test}: the device is no 82599");
    None
}

fn config(queues: u16) -> PortConfig {
    PortConfig {
        queues,
        rx_ring: 128,
        tx_ring: 128,
        promiscuous: true,
        link_wait: Duration::from_secs(10),
        ..PortConfig::default()
    }
}

fn take_all(port: &mut Port) -> Vec<Queue> {
    (0..port.queues()).map(|q| port.take_queue(q).unwrap()).collect()
}

/// Sends back what has arrived; gives the number of frames received.
fn forward((rx, tx): &mut Queue, batch: &mut RxBatch) -> usize {
    let n = rx.poll(batch);
    let all: Vec<u8> = (0..n as u8).collect();
    tx.push_frames(batch, &all, &TxMeta::default());
    tx.submit();
    tx.reclaim();
    n
}

/// Forwards until every queue has seen `frames` more.
fn forward_on_all(queues: &mut [Queue], frames: usize) {
    let mut batch = RxBatch::new();
    let mut seen = vec![0; queues.len()];
    let deadline = Instant::now() + PATIENCE;
    while seen.iter().any(|n| *n < frames) && Instant::now() < deadline {
        for (queue, seen) in queues.iter_mut().zip(&mut seen) {
            *seen += forward(queue, &mut batch);
        }
    }
    assert!(seen.iter().all(|n| *n >= frames), "{seen:?}");
}

/// Stops every queue and closes the port; no buffer may be missing.
fn all_home(mut port: Port, queues: Vec<Queue>) {
    for (rx, tx) in queues {
        port.stop_queue(rx, tx).unwrap();
    }
    assert_eq!(port.buffers().in_flight, 0, "{:?}", port.buffers());
    port.close().unwrap();
}

fn forwards_with_buffers_on(dev: Arc<dyn Device>, memory: DmaMemory, layout: BufferLayout) {
    let pool = Region::new(Arc::new(memory), layout).unwrap();
    let mut port = Port::open(
        dev,
        PortConfig {
            pool: Some(pool),
            ..config(2)
        },
    )
    .unwrap();
    let mut queues = take_all(&mut port);
    forward_on_all(&mut queues, 500);
    let stats = port.stats().unwrap();
    assert!(stats.rx_packets >= 1000 && stats.tx_packets > 0, "{stats:?}");
    all_home(port, queues);
}

#[test]
fn traffic_flows_with_buffers_on_4_kib_pages() {
    let Some((dev, _turn)) = ixgbe("traffic_flows_with_buffers_on_4_kib_pages") else {
        return;
    };
    let layout = BufferLayout::new(4096);
    let options = AllocOptions {
        page: PageSize::Small,
        ..AllocOptions::default()
    };
    let memory = DmaMemory::alloc(layout.bytes(), &options).unwrap();
    assert_eq!(memory.page_size(), 4096);
    forwards_with_buffers_on(dev, memory, layout);
}

#[test]
fn traffic_flows_with_buffers_on_hugepages() {
    let name = "traffic_flows_with_buffers_on_hugepages";
    let Some((dev, _turn)) = ixgbe(name) else { return };
    let layout = BufferLayout::new(4096);
    let options = AllocOptions {
        page: PageSize::Huge2M,
        ..AllocOptions::default()
    };
    match DmaMemory::alloc(layout.bytes(), &options) {
        Ok(memory) => forwards_with_buffers_on(dev, memory, layout),
        Err(e) => println!("SKIP {name}: {e}"),
    }
}

#[test]
fn a_queue_stops_and_starts_while_the_other_carries_traffic() {
    let name = "a_queue_stops_and_starts_while_the_other_carries_traffic";
    let Some((dev, _turn)) = ixgbe(name) else { return };
    let mut port = Port::open(dev, config(2)).unwrap();
    let mut queues = take_all(&mut port);
    for _ in 0..5 {
        forward_on_all(&mut queues, 50);
        let (rx, tx) = queues.pop().unwrap();
        port.stop_queue(rx, tx).unwrap();
        forward_on_all(&mut queues, 200);
        queues.push(port.start_queue(1).unwrap());
    }
    forward_on_all(&mut queues, 50);
    all_home(port, queues);
}

#[test]
fn a_device_is_reset_under_traffic_and_goes_on() {
    let Some((dev, _turn)) = ixgbe("a_device_is_reset_under_traffic_and_goes_on") else {
        return;
    };
    let mut port = Port::open(dev, config(2)).unwrap();
    for _ in 0..3 {
        let mut queues = take_all(&mut port);
        forward_on_all(&mut queues, 100);
        for (rx, tx) in queues {
            port.give_back(rx, tx).unwrap();
        }
        port.reset().unwrap();
    }
    let mut queues = take_all(&mut port);
    forward_on_all(&mut queues, 100);
    all_home(port, queues);
}

/// Set for the child process that is to be killed.
const VICTIM: &str = "MILLRACE_TEST_VICTIM";

#[test]
fn after_a_process_is_killed_in_mid_traffic_the_next_one_starts_clean() {
    let name = "after_a_process_is_killed_in_mid_traffic_the_next_one_starts_clean";
    if std::env::var_os(VICTIM).is_some() {
        forward_for_ever();
    }
    let Some((dev, _turn)) = ixgbe(name) else { return };
    let spec = dev.name().to_owned();
    drop(dev);
    for _ in 0..2 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("traffic::{name}"), "--nocapture"])
            .env(VICTIM, "1")
            .env(DEVICE, &spec)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let forwarding = lines.any(|line| line.is_ok_and(|l| l.contains("forwarding")));
        // SIGKILL: no destructor runs, the device is at work.
        victim.kill().unwrap();
        let status = victim.wait().unwrap();
        assert!(
            forwarding,
            "the process ended before it saw traffic, with {status}"
        );

        let mut port = Port::open(bus::open(&spec).unwrap(), config(2)).unwrap();
        let mut queues = take_all(&mut port);
        forward_on_all(&mut queues, 200);
        all_home(port, queues);
    }
}

fn forward_for_ever() -> ! {
    let dev = bus::open(&std::env::var(DEVICE).unwrap()).unwrap();
    let mut port = Port::open(dev, config(2)).unwrap();
    let mut queues = take_all(&mut port);
    forward_on_all(&mut queues, 200);
    println!("forwarding");
    loop {
        forward_on_all(&mut queues, 200);
    }
}

/// Memory is taken away behind the driver's back, so what the device writes next goes astray. The frames must not
/// arrive anywhere, the device must notice, and a reset must make it good again.
#[test]
fn the_iommu_stops_a_stray_dma_and_the_port_recovers() {
    let name = "the_iommu_stops_a_stray_dma_and_the_port_recovers";
    let Some((dev, _turn)) = ixgbe(name) else { return };
    let layout = BufferLayout::new(2048);
    let options = AllocOptions {
        page: PageSize::Small,
        ..AllocOptions::default()
    };
    let memory = Arc::new(DmaMemory::alloc(layout.bytes(), &options).unwrap());
    // The port maps its buffers first, at the lowest address it may use.
    let (iova, len) = (2 << 20, memory.len() as u64);
    let pool = Region::new(memory.clone(), layout).unwrap();
    let mut port = Port::open(
        dev.clone(),
        PortConfig {
            pool: Some(pool),
            ..config(1)
        },
    )
    .unwrap();
    let regs = Registers::open(dev.clone(), 0).unwrap();
    let mut queues = take_all(&mut port);
    forward_on_all(&mut queues, 200);
    assert_eq!(regs.read32(EICS).unwrap() & EICR_PCI, 0);

    dev.dma_unmap(iova, len).unwrap();
    let before = vec![0xa5; memory.len()];
    fill(memory.fd(), &before);
    // What had been written back before is still to be had, and goes back to the device, which goes on receiving.
    let mut batch = RxBatch::new();
    let deadline = Instant::now() + PATIENCE;
    while regs.read32(EICS).unwrap() & EICR_PCI == 0 {
        assert!(Instant::now() < deadline, "the device saw nothing wrong");
        queues[0].0.poll(&mut batch);
        batch.clear();
    }
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        queues[0].0.poll(&mut batch);
        batch.clear();
    }
    assert_eq!(queues[0].0.poll(&mut batch), 0, "frames still arrive");
    assert!(
        contents(memory.fd(), memory.len()) == before,
        "the device wrote to memory that was taken from it"
    );

    dev.dma_map(iova, &memory).unwrap();
    let (rx, tx) = queues.remove(0);
    port.give_back(rx, tx).unwrap();
    port.reset().unwrap();
    let mut queues = take_all(&mut port);
    forward_on_all(&mut queues, 200);
    all_home(port, queues);
}

/// Writes through the memfd: to the device's buffers there is no other way.
fn fill(fd: BorrowedFd<'_>, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pwrite(fd, &bytes[at..], at as u64).unwrap();
    }
}

fn contents(fd: BorrowedFd<'_>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        match rustix::io::pread(fd, &mut bytes[at..], at as u64).unwrap() {
            0 => break,
            n => at += n,
        }
    }
    bytes
}
