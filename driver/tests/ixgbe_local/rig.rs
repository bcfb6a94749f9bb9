//! A port on a model that moves only when the test says so, with the test at the other end of the wire.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use millrace_driver::bus::local::LocalDevice;
use millrace_driver::bus::{Device, FaultInjector};
use millrace_driver::port::{Port, PortConfig};
use millrace_driver::queue::{RxBatch, RxQueue, TxQueue};
use millrace_nic_models::ixgbe::device::{Ixgbe82599, IxgbeConfig};
use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::wire::{SendOutcome, Wire};

/// The port's address.
pub const MAC: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
/// The test's address.
pub const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

/// The test's end of the wire.
#[derive(Clone, Default)]
pub struct Peer(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    to_nic: VecDeque<Vec<u8>>,
    from_nic: VecDeque<Vec<u8>>,
    down: bool,
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap()
    }

    pub fn send(&self, frame: impl Into<Vec<u8>>) {
        self.lock().to_nic.push_back(frame.into());
    }

    pub fn received(&self) -> Vec<Vec<u8>> {
        self.lock().from_nic.drain(..).collect()
    }

    pub fn set_link(&self, up: bool) {
        self.lock().down = !up;
    }
}

struct TestWire {
    peer: Peer,
    current: Vec<u8>,
}

impl Wire for TestWire {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        match self.peer.lock().to_nic.pop_front() {
            Some(frame) => self.current = frame,
            None => return Ok(None),
        }
        Ok(Some(&self.current))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        self.peer.lock().from_nic.push_back(frame.to_vec());
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn link_up(&self) -> bool {
        !self.peer.lock().down
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

/// Model, wire and device.
pub struct Rig {
    pub peer: Peer,
    pub device: Arc<LocalDevice>,
}

/// Port settings that suit a model: short waits, and the link up before traffic starts.
pub fn config(queues: u16) -> PortConfig {
    PortConfig {
        queues,
        rx_ring: 128,
        tx_ring: 128,
        link_wait: Duration::from_secs(2),
        deadline: Duration::from_millis(200),
        ..PortConfig::default()
    }
}

pub fn rig() -> Rig {
    let peer = Peer::default();
    let wire = TestWire {
        peer: peer.clone(),
        current: Vec::new(),
    };
    let model = Ixgbe82599::new(IxgbeConfig::new(MAC, Box::new(wire))).expect("a model");
    Rig {
        peer,
        device: LocalDevice::new(Box::new(model)),
    }
}

impl Rig {
    pub fn open(&self, config: PortConfig) -> Port {
        Port::open(self.device.clone(), config).expect("the port opens")
    }

    /// The device behind a fault injector.
    pub fn faulty(&self) -> Arc<FaultInjector> {
        FaultInjector::new(self.device.clone() as Arc<dyn Device>)
    }

    /// Lets the model do everything it can do now.
    pub fn settle(&self) {
        assert!(self.device.settle(10_000), "the model does not come to rest");
    }

    /// One of the model's own counters.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.device.counters();
        counters
            .iter()
            .find(|(n, _)| *n == name)
            .unwrap_or_else(|| panic!("{name}: {counters:?}"))
            .1
    }
}

/// Everything that a queue has now, as bytes and raw write-backs.
pub fn receive(rig: &Rig, rx: &mut RxQueue) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut batch = RxBatch::new();
    let mut out = Vec::new();
    loop {
        rig.settle();
        if rx.poll(&mut batch) == 0 {
            return out;
        }
        for i in 0..batch.len() {
            let bytes = (0..batch.frame_buffers(i))
                .flat_map(|k| batch.chunk(i, k).to_vec())
                .collect();
            out.push((bytes, batch.raw(i).to_vec()));
        }
    }
}

/// Closes the port after the queues were dropped, and every buffer is home.
pub fn all_home(mut port: Port, queues: impl IntoIterator<Item = (RxQueue, TxQueue)>) {
    for (rx, tx) in queues {
        port.give_back(rx, tx).expect("the queue is the port's");
    }
    let region = port.region().clone();
    port.close().expect("the port closes");
    assert_eq!(region.in_flight(), 0, "buffers are lost");
}

/// A UDP frame from the test to the port; `n` varies addresses and ports.
pub fn udp(n: u16) -> Frame {
    let [hi, lo] = n.to_be_bytes();
    Frame::new()
        .macs(PEER, MAC)
        .ipv4([10, 0, hi, lo], [10, 1, 0, 1])
        .udp(1024 + n, 53)
        .payload(&n.to_be_bytes())
}

/// A TCP frame from the test to the port.
pub fn tcp(n: u16) -> Frame {
    let [hi, lo] = n.to_be_bytes();
    Frame::new()
        .macs(PEER, MAC)
        .ipv4([10, 2, hi, lo], [10, 1, 0, 1])
        .tcp(1024 + n, 80)
        .payload(b"GET / HTTP/1.0\r\n\r\n")
}
