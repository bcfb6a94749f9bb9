//! A host made by hand: memory the device can reach, rings in it, and a wire whose far end the test holds.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_nic_models::device::{Irq, Model, REGION_CONFIG, Work};
use millrace_nic_models::dma::{DmaSpace, Prot, Trust};
use millrace_nic_models::ixgbe::desc::rx::WriteBack;
use millrace_nic_models::ixgbe::device::{Clock, Ixgbe82599, IxgbeConfig, ManualClock};
use millrace_nic_models::ixgbe::regs::{self, fctrl, rxctrl, rxdctl, srrctl, txdctl};
use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::regs::Reg;
use millrace_nic_models::wire::{SendOutcome, Wire};

pub const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x82, 0x59, 0x9a];
pub const PEER: [u8; 6] = [0x52, 0x54, 0x00, 0x00, 0x00, 0x01];

/// Where the host's memory appears to the device.
pub const IOVA: u64 = 0x10_0000;
pub const MEMORY: u64 = 32 << 20;
/// Rings of queue n, 64 KiB each, receive then transmit.
const RX_RINGS: u64 = IOVA;
const TX_RINGS: u64 = IOVA + (4 << 20);
/// Receive buffers of queue n.
const RX_BUFFERS: u64 = IOVA + (8 << 20);
/// Free for tests.
pub const SCRATCH: u64 = IOVA + (24 << 20);

/// What the test's end of the wire sees and gives.
#[derive(Default)]
pub struct Far {
    pub to_device: VecDeque<Vec<u8>>,
    pub from_device: VecDeque<Vec<u8>>,
    pub up: bool,
    pub broken: bool,
    /// The wire takes whole frames only: none may be filled in its own memory.
    pub no_room: bool,
}

struct TestWire {
    far: Arc<Mutex<Far>>,
    current: Vec<u8>,
    /// Memory for the next frame.
    room: Vec<u8>,
    /// A network: it has something to poll, so frames do not wait for a receiver that is off.
    event: OwnedFd,
}

impl Wire for TestWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        let mut far = self.far.lock().unwrap();
        if far.broken {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        match far.to_device.pop_front() {
            Some(frame) => {
                self.current = frame;
                Ok(Some(&self.current))
            }
            None => Ok(None),
        }
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        self.far.lock().unwrap().from_device.push_back(frame.to_vec());
        Ok(SendOutcome::Sent)
    }
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.far.lock().unwrap().no_room {
            return None;
        }
        // What an earlier frame may have left there.
        self.room = vec![0xa5; len];
        Some(&mut self.room)
    }
    fn commit(&mut self, len: usize) {
        self.room.truncate(len);
        let frame = std::mem::take(&mut self.room);
        self.far.lock().unwrap().from_device.push_back(frame);
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn link_up(&self) -> bool {
        self.far.lock().unwrap().up
    }
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![std::os::fd::AsFd::as_fd(&self.event)]
    }
}

/// The host, the device and the far end.
pub struct Rig {
    pub nic: Ixgbe82599,
    pub clock: ManualClock,
    pub far: Arc<Mutex<Far>>,
    memory: DmaSpace,
    file: OwnedFd,
}

/// A memory file that cannot shrink.
fn memory_file(len: u64) -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags};
    let fd = rustix::fs::memfd_create("rig", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    fd
}

pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap()
}

/// How often an eventfd was signalled since the last look.
pub fn taken(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

impl Rig {
    /// A powered port with its memory mapped and bus mastering on; no queues yet.
    pub fn bare() -> Rig {
        Rig::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut IxgbeConfig)) -> Rig {
        let far = Arc::new(Mutex::new(Far {
            up: true,
            ..Far::default()
        }));
        let wire = TestWire {
            far: far.clone(),
            current: Vec::new(),
            room: Vec::new(),
            event: eventfd(),
        };
        let clock = ManualClock::default();
        let mut config = IxgbeConfig::new(MAC, Box::new(wire));
        config.clock = Clock::Manual(clock.clone());
        change(&mut config);
        let nic = Ixgbe82599::new(config).unwrap();
        let file = memory_file(MEMORY);
        let mut memory = DmaSpace::new();
        memory.set_enabled(true);
        memory
            .map(
                IOVA,
                MEMORY,
                file.try_clone().unwrap(),
                0,
                Prot::READ_WRITE,
                Trust::Sealed,
            )
            .unwrap();
        let mut rig = Rig {
            nic,
            clock,
            far,
            memory,
            file,
        };
        rig.map_memory();
        rig.set_bus_master(true);
        rig
    }

    /// A port with `queues` running pairs: RX buffers of 2 KiB, rings of `ring` descriptors, receive on, link up.
    pub fn running(queues: u32, ring: u32) -> Rig {
        let mut rig = Rig::bare();
        rig.bring_up(queues, ring);
        rig
    }

    pub fn bring_up(&mut self, queues: u32, ring: u32) {
        self.write(regs::FCTRL, 0, fctrl::BAM);
        let mac = self.read(regs::HLREG0);
        self.write(regs::HLREG0, 0, mac | regs::hlreg0::JUMBOEN);
        self.write(regs::MAXFRS, 0, 9728 << 16);
        self.write(regs::RXCSUM, 0, regs::rxcsum::PCSD);
        let dma = self.read(regs::DMATXCTL);
        self.write(regs::DMATXCTL, 0, dma | regs::dmatxctl::TE);
        for q in 0..queues {
            self.start_rx(q, ring, srrctl::DESCTYPE_ADV_ONE | srrctl::DROP_EN | 2);
            self.start_tx(q, ring);
        }
        self.write(regs::RXCTRL, 0, rxctrl::RXEN);
        self.step();
    }

    pub fn map_memory(&mut self) {
        let fd = self.file.try_clone().unwrap();
        self.nic
            .dma()
            .map(IOVA, MEMORY, fd, 0, Prot::READ_WRITE, Trust::Sealed)
            .unwrap();
    }

    pub fn set_bus_master(&mut self, on: bool) {
        let command: u16 = if on { 0x0006 } else { 0x0002 };
        self.nic.write(REGION_CONFIG, 4, &command.to_le_bytes()).unwrap();
    }

    // Registers

    pub fn read_at(&mut self, offset: u32) -> u32 {
        let mut buf = [0; 4];
        self.nic.read(0, u64::from(offset), &mut buf).unwrap();
        u32::from_le_bytes(buf)
    }

    pub fn write_at(&mut self, offset: u32, value: u32) {
        self.nic
            .write(0, u64::from(offset), &value.to_le_bytes())
            .unwrap();
    }

    pub fn read(&mut self, reg: Reg) -> u32 {
        self.read_at(reg.at(0))
    }

    pub fn peek(&mut self, reg: Reg, i: u32) -> u32 {
        self.read_at(reg.at(i))
    }

    pub fn write(&mut self, reg: Reg, i: u32, value: u32) {
        self.write_at(reg.at(i), value);
    }

    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.nic.counters();
        counters
            .iter()
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("no counter {name}"))
            .1
    }

    // Rounds

    pub fn step(&mut self) -> Work {
        self.nic.step()
    }

    /// Steps until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.step() == Work::Idle {
                return;
            }
        }
        panic!("the model never gets idle");
    }

    pub fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    pub fn connect(&mut self, vector: u16) -> OwnedFd {
        let fd = eventfd();
        self.nic.set_irq(Irq::Msix(vector), Some(fd.try_clone().unwrap()));
        fd
    }

    /// MSI-X on, in the configuration space and in GPIE, as a driver with several vectors does.
    pub fn msix_on(&mut self) {
        self.nic
            .write(REGION_CONFIG, 0x72, &0x8000u16.to_le_bytes())
            .unwrap();
        use regs::gpie::{EIAME, MULTIPLE_MSIX, OCD, PBA_SUPPORT};
        self.write(regs::GPIE, 0, MULTIPLE_MSIX | OCD | PBA_SUPPORT | EIAME);
    }

    // Memory

    pub fn load(&self, iova: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(iova, &mut bytes).unwrap();
        bytes
    }

    pub fn store(&self, iova: u64, bytes: &[u8]) {
        self.memory.write(iova, bytes).unwrap();
    }

    pub fn descriptor(&self, iova: u64) -> [u64; 2] {
        self.memory.read_desc16(iova).unwrap()
    }

    pub fn set_descriptor(&self, iova: u64, value: [u64; 2]) {
        self.memory.write_desc16(iova, value).unwrap();
    }

    // Queues

    pub fn rx_descriptor(q: u32, i: u32) -> u64 {
        RX_RINGS + u64::from(q) * 0x1_0000 + u64::from(i) * 16
    }

    pub fn tx_descriptor(q: u32, i: u32) -> u64 {
        TX_RINGS + u64::from(q) * 0x1_0000 + u64::from(i) * 16
    }

    pub fn rx_buffer(q: u32, i: u32) -> u64 {
        RX_BUFFERS + u64::from(q) * 0x4_0000 + u64::from(i) * 2048
    }

    /// Posts all but one descriptor of a fresh ring and enables the queue.
    /// Puts an empty buffer into each descriptor.
    pub fn repost_rx(&mut self, q: u32, ring: u32) {
        for i in 0..ring {
            self.set_descriptor(Rig::rx_descriptor(q, i), [Rig::rx_buffer(q, i), 0]);
        }
    }

    pub fn start_rx(&mut self, q: u32, ring: u32, control: u32) {
        self.repost_rx(q, ring);
        self.write(regs::RDBAL, q, Rig::rx_descriptor(q, 0) as u32);
        self.write(regs::RDBAH, q, 0);
        self.write(regs::RDLEN, q, ring * 16);
        self.write(regs::RDH, q, 0);
        self.write(regs::RDT, q, 0);
        self.write(regs::SRRCTL, q, control);
        self.write(regs::RXDCTL, q, rxdctl::ENABLE);
        assert_ne!(self.peek(regs::RXDCTL, q) & rxdctl::ENABLE, 0);
        self.write(regs::RDT, q, ring - 1);
    }

    pub fn start_tx(&mut self, q: u32, ring: u32) {
        for i in 0..ring {
            self.set_descriptor(Rig::tx_descriptor(q, i), [0, 0]);
        }
        self.write(regs::TDBAL, q, Rig::tx_descriptor(q, 0) as u32);
        self.write(regs::TDBAH, q, 0);
        self.write(regs::TDLEN, q, ring * 16);
        self.write(regs::TDH, q, 0);
        self.write(regs::TDT, q, 0);
        self.write(regs::TXDCTL, q, txdctl::ENABLE);
        assert_ne!(self.peek(regs::TXDCTL, q) & txdctl::ENABLE, 0);
    }

    /// Descriptors the device has written back, from entry `from` on, as frames with their last write-back.
    pub fn received(&self, q: u32, from: u32) -> Vec<(Vec<u8>, WriteBack)> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        for i in from.. {
            let wb = WriteBack::decode(self.descriptor(Rig::rx_descriptor(q, i)));
            // A posted descriptor has quadword 1 zero.
            if wb.status_error & 1 == 0 {
                break;
            }
            frame.extend(self.load(Rig::rx_buffer(q, i), usize::from(wb.len)));
            if wb.status_error & 2 != 0 {
                frames.push((std::mem::take(&mut frame), wb));
            }
        }
        assert!(frame.is_empty(), "a frame without its end");
        frames
    }

    /// Puts a frame on the wire and runs the model.
    pub fn arrive(&mut self, frame: &[u8]) {
        self.far.lock().unwrap().to_device.push_back(frame.to_vec());
        self.settle();
    }

    /// A frame through queue 0, which must have nothing in it yet.
    pub fn arrive_alone(&mut self, frame: &[u8]) -> (Vec<u8>, WriteBack) {
        self.arrive(frame);
        let mut got = self.received(0, 0);
        assert_eq!(got.len(), 1, "one frame expected");
        got.remove(0)
    }

    /// Writes descriptors from entry `at` on, rings the tail behind them and runs the model.
    pub fn transmit(&mut self, q: u32, at: u32, descriptors: &[[u64; 2]]) {
        for (n, &descriptor) in descriptors.iter().enumerate() {
            self.set_descriptor(Rig::tx_descriptor(q, at + n as u32), descriptor);
        }
        self.write(regs::TDT, q, at + descriptors.len() as u32);
        self.settle();
    }

    /// What went out since the last look.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.far.lock().unwrap().from_device.drain(..).collect()
    }
}

/// A frame to the port.
pub fn to_port() -> Frame {
    Frame::new().macs(PEER, MAC).ipv4([10, 0, 0, 1], [10, 0, 0, 2])
}

/// A frame from the port.
pub fn from_port() -> Frame {
    Frame::new().macs(MAC, PEER).ipv4([10, 0, 0, 2], [10, 0, 0, 1])
}
