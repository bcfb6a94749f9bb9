//! Rings built by hand, with the caller playing the NIC: for tests of the hot path and for benches, which time the
//! driver's side alone while the "NIC" works between the timed sections.
//!
//! [`Harness::new`] gives real [`RxQueue`]s and [`TxQueue`]s of the 82599 over real descriptor rings, and the two halves
//! of the played NIC: [`RxNic`] writes back what the driver posted, [`TxNic`] takes what the driver sent. The halves are
//! `Send`, so one thread may only receive and another only send. Registers are plain mapped memory.

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use millrace_nic_models::ixgbe::desc::rx::{WriteBack, status};
use millrace_nic_models::ixgbe::desc::tx::{self, cmd, dtyp};
use millrace_nic_models::ixgbe::regs;

use crate::bus::{BusError, Device, MappedArea, MmapArea, RegionInfo, Registers};
use crate::ixgbe::{RxParts, RxRing, TxParts, TxRing, hints};
use crate::mem::{AllocOptions, BufferLayout, DescriptorRing16, DmaMemory, FreeStack, PageSize, Region};
use crate::port::{PortConfig, PortError, rx_buffer_len};
use crate::queue::{PortShared, RxBatch, RxFamily, RxQueue, TxFamily, TxQueue};
use crate::simd::CpuPath;

/// Where the played NIC sees the packet buffers.
const BUFFERS_AT: u64 = 1 << 32;
const FREE: u8 = 0;
const FILLED: u8 = 1;

/// What a harness is built with.
#[derive(Clone, Debug)]
pub struct HarnessConfig {
    /// RX descriptors, a power of two.
    pub rx_ring: u32,
    /// TX descriptors, a power of two.
    pub tx_ring: u32,
    /// Packet buffers.
    pub buffers: u32,
    /// Pages of buffers and rings. [`RxNic::receive_frame`] and [`TxNic::sent`] need [`PageSize::Small`].
    pub page: PageSize,
    /// Every received frame will be sent: then a buffer that is posted while its frame is under way, or sent without
    /// having been received, is an error.
    pub forward_only: bool,
    /// The code that the queues run for every packet.
    pub path: CpuPath,
    /// What lies in every buffer at first, where received data begins; a played NIC that only writes descriptors receives it.
    pub frame: Vec<u8>,
}

impl Default for HarnessConfig {
    fn default() -> Self {
        HarnessConfig {
            rx_ring: 1024,
            tx_ring: 1024,
            buffers: 4096,
            page: PageSize::Small,
            forward_only: false,
            path: CpuPath::best(),
            frame: Vec::new(),
        }
    }
}

/// A played NIC with one queue pair. Keep it until the queues are gone.
#[derive(Debug)]
pub struct Harness {
    /// The receive half.
    pub rx: RxNic,
    /// The transmit half.
    pub tx: TxNic,
    region: Arc<Region>,
    shared: Arc<PortShared>,
}

/// The half that receives from the wire.
#[derive(Debug)]
pub struct RxNic {
    ring: DescriptorRing16,
    registers: MappedArea,
    /// Offset of the queue's tail register.
    tail: u32,
    head: u32,
    wire: Wire,
}

/// The half that sends to the wire.
#[derive(Debug)]
pub struct TxNic {
    ring: DescriptorRing16,
    registers: MappedArea,
    /// Offset of the queue's tail register.
    tail: u32,
    head: u32,
    wire: Wire,
}

/// Access to the packet buffers as a device has it, and a record of who has which.
#[derive(Clone, Debug)]
struct Wire {
    memory: Arc<DmaMemory>,
    layout: BufferLayout,
    /// `FILLED` from the write-back of a buffer until it is sent.
    states: Arc<[AtomicU8]>,
    strict: bool,
}

/// One descriptor that the driver sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// An advanced context descriptor.
    Context(tx::Context),
    /// An advanced data descriptor.
    Data(tx::Data),
}

/// A mistake of the driver that the played NIC noticed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HarnessError {
    /// A descriptor points outside the packet buffers.
    #[error("descriptor {slot} points at {addr:#x}, which is in no packet buffer")]
    WildAddress {
        /// Ring slot.
        slot: u32,
        /// The address in it.
        addr: u64,
    },
    /// A buffer was posted while it was still in use, or sent twice.
    #[error("buffer {buffer} is used twice: descriptor {slot} names it while it is {state}")]
    UsedTwice {
        /// Ring slot.
        slot: u32,
        /// Index of the buffer.
        buffer: u32,
        /// `filled and not sent` or `not filled`.
        state: &'static str,
    },
    /// The frame or the memory cannot be written by the played NIC.
    #[error("the played NIC cannot reach the packet: {0}")]
    Memory(String),
}

impl Harness {
    /// A played NIC with one queue pair of ring sizes and buffers as `config` says; all RX descriptors are posted.
    pub fn new(config: &HarnessConfig) -> Result<(Harness, RxQueue, TxQueue), PortError> {
        let (device, region) = (Arc::new(Played::new()?), Harness::region_for(config)?);
        let shared = PortShared::new(device.clone());
        Harness::on(config, &region, &device, &shared, 0)
    }

    /// `n` queue pairs of one port, which share its buffers; the halves of the played NIC that serve them can go to threads
    /// of their own. `config` says what one queue pair has.
    pub fn several(config: &HarnessConfig, n: u16) -> Result<Vec<(Harness, RxQueue, TxQueue)>, PortError> {
        let region = Harness::region_for(&HarnessConfig {
            buffers: config.buffers.saturating_mul(u32::from(n)),
            ..config.clone()
        })?;
        let device = Arc::new(Played::new()?);
        let shared = PortShared::new(device.clone());
        (0..n)
            .map(|id| Harness::on(config, &region, &device, &shared, id))
            .collect()
    }

    fn region_for(config: &HarnessConfig) -> Result<Arc<Region>, PortError> {
        let layout = BufferLayout::new(config.buffers);
        let options = AllocOptions {
            page: config.page,
            numa: None,
            name: "harness-buffers".to_owned(),
        };
        let memory = Arc::new(DmaMemory::alloc(layout.bytes(), &options)?);
        let region = Region::new(memory, layout)?;
        if !config.frame.is_empty() {
            lay(&region, &config.frame);
        }
        Ok(region)
    }

    /// Queue pair `id` of a port.
    fn on(
        config: &HarnessConfig,
        region: &Arc<Region>,
        device: &Arc<Played>,
        shared: &Arc<PortShared>,
        id: u16,
    ) -> Result<(Harness, RxQueue, TxQueue), PortError> {
        let (layout, memory) = (*region.layout(), region.memory().clone());
        let options = AllocOptions {
            page: config.page,
            numa: None,
            name: "harness-rings".to_owned(),
        };
        let rx_bytes = DescriptorRing16::bytes(config.rx_ring);
        let ring_bytes = rx_bytes + DescriptorRing16::bytes(config.tx_ring);
        let rings = Arc::new(DmaMemory::alloc(ring_bytes, &options)?);
        let registers = Registers::open(device.clone(), 0)?;
        let (rdt, tdt) = (regs::RDT.at(u32::from(id)), regs::TDT.at(u32::from(id)));
        let rx_ring = || DescriptorRing16::new(rings.clone(), 0, config.rx_ring);
        let tx_ring = || DescriptorRing16::new(rings.clone(), rx_bytes, config.tx_ring);
        let mut rx = RxRing::new(RxParts {
            id,
            ring: rx_ring()?,
            doorbell: registers.doorbell(rdt)?,
            region: region.clone(),
            iova: BUFFERS_AT,
            buffer_len: rx_buffer_len(&layout),
            shared: shared.clone(),
            irq: None,
            hints: hints::layout(&PortConfig::default()),
            path: config.path,
        });
        let tx = TxRing::new(TxParts {
            id,
            ring: tx_ring()?,
            doorbell: registers.doorbell(tdt)?,
            region: region.clone(),
            iova: BUFFERS_AT,
            shared: shared.clone(),
            path: config.path,
        });
        rx.fill()?;
        let states = (0..layout.count).map(|_| AtomicU8::new(FREE)).collect();
        let wire = Wire {
            memory,
            layout,
            states,
            strict: config.forward_only,
        };
        let area = device.area()?;
        let harness = Harness {
            rx: RxNic {
                ring: rx_ring()?,
                registers: area.clone(),
                tail: rdt,
                head: 0,
                wire: wire.clone(),
            },
            tx: TxNic {
                ring: tx_ring()?,
                registers: area,
                tail: tdt,
                head: 0,
                wire,
            },
            region: region.clone(),
            shared: shared.clone(),
        };
        Ok((
            harness,
            RxQueue {
                inner: RxFamily::Ixgbe(rx),
            },
            TxQueue {
                inner: TxFamily::Ixgbe(tx),
            },
        ))
    }

    /// The packet buffers.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The played NIC lets go of everything: queues find nothing more, and what they drop goes home.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Both halves, to be moved to threads of their own.
    pub fn split(self) -> (RxNic, TxNic, Closer) {
        (
            self.rx,
            self.tx,
            Closer {
                region: self.region,
                shared: self.shared,
            },
        )
    }
}

/// Reads the driver's own records of a queue pair and a batch, so that they lie in this core's caches: for a bench that has
/// pushed out everything, and wants out only what a NIC would have written. Gives a number that depends on all of it.
pub fn recall(rx: &RxQueue, tx: &TxQueue, batch: &RxBatch) -> u64 {
    let (RxFamily::Ixgbe(rx), TxFamily::Ixgbe(tx)) = (&rx.inner, &tx.inner);
    rx.recall().wrapping_add(tx.recall()).wrapping_add(batch.recall())
}

/// Writes a frame, as far as it fits, into every buffer of a region.
fn lay(region: &Arc<Region>, frame: &[u8]) {
    let layout = *region.layout();
    let len = frame.len().min(usize::from(rx_buffer_len(&layout)));
    let mut stack = FreeStack::new(region.clone());
    let mut all = Vec::new();
    while let Some(mut handle) = stack.pop() {
        handle.set_data(layout.headroom, len as u16);
        region.data_mut(&mut handle).copy_from_slice(&frame[..len]);
        all.push(handle);
    }
    stack.push_all(all);
}

/// What is left of a [`Harness`] whose halves went to other threads.
#[derive(Debug)]
pub struct Closer {
    region: Arc<Region>,
    shared: Arc<PortShared>,
}

impl Closer {
    /// As [`Harness::close`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// The packet buffers.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

/// The write-back of a good frame of `len` bytes in one buffer.
pub fn good(len: u16) -> WriteBack {
    WriteBack {
        status_error: status::DD | status::EOP,
        len,
        ..WriteBack::default()
    }
}

impl RxNic {
    /// Descriptors that the driver has posted and the NIC has not used.
    pub fn posted(&self) -> u32 {
        let tail = self.registers.read32(u64::from(self.tail)).unwrap_or(0);
        // Pairs with the fence in the doorbell.
        fence(Ordering::Acquire);
        tail.wrapping_sub(self.head) & (self.ring.size() - 1)
    }

    /// Writes back up to `max` posted descriptors, each with what `frame` makes of its number in this call, without
    /// touching the buffers. Gives how many there were.
    pub fn receive(
        &mut self,
        max: u32,
        mut frame: impl FnMut(u32) -> WriteBack,
    ) -> Result<u32, HarnessError> {
        let n = max.min(self.posted());
        for i in 0..n {
            self.write_back(frame(i).encode())?;
        }
        Ok(n)
    }

    /// As [`receive`](Self::receive) with the same bits for every descriptor and no checks: what a bench calls.
    pub fn receive_same(&mut self, max: u32, bits: [u64; 2]) -> u32 {
        let n = max.min(self.posted());
        for _ in 0..n {
            self.store(bits);
        }
        n
    }

    /// Receives a frame as the device would: into one posted buffer after the other, `DD` in each, `EOP` in the last.
    /// Gives `false`, and does nothing, if too few descriptors are posted. The memory must not lie on hugepages, whose memfds
    /// cannot be written like files.
    pub fn receive_frame(&mut self, frame: &[u8], mut last: WriteBack) -> Result<bool, HarnessError> {
        let room = usize::from(rx_buffer_len(&self.wire.layout));
        let chunks = frame.chunks(room);
        if chunks.len() > self.posted() as usize {
            return Ok(false);
        }
        let count = chunks.len();
        for (i, chunk) in chunks.enumerate() {
            let addr = self.ring.quad(self.head, 0);
            self.wire.buffer(self.head, addr)?;
            self.wire.write(addr - BUFFERS_AT, chunk)?;
            last.len = chunk.len() as u16;
            last.status_error |= status::DD | status::EOP;
            let wb = if i + 1 == count {
                last
            } else {
                WriteBack {
                    status_error: status::DD,
                    len: chunk.len() as u16,
                    ..WriteBack::default()
                }
            };
            self.write_back(wb.encode())?;
        }
        Ok(true)
    }

    /// Writes any bits back to the next posted descriptor: what a lying device does.
    pub fn write_back(&mut self, bits: [u64; 2]) -> Result<(), HarnessError> {
        let buffer = self.wire.buffer(self.head, self.ring.quad(self.head, 0))?;
        self.wire
            .turn(self.head, buffer, FREE, FILLED, "filled and not sent")?;
        self.store(bits);
        Ok(())
    }

    fn store(&mut self, bits: [u64; 2]) {
        self.ring.put_quad(self.head, 0, bits[0]);
        // The quadword with DD last, with Release, as a device stores it.
        fence(Ordering::Release);
        self.ring.put_quad(self.head, 1, bits[1]);
        self.head = self.head.wrapping_add(1);
    }
}

impl TxNic {
    /// Descriptors that the driver has sent and the NIC has not taken.
    pub fn queued(&self) -> u32 {
        let tail = self.registers.read32(u64::from(self.tail)).unwrap_or(0);
        fence(Ordering::Acquire);
        tail.wrapping_sub(self.head) & (self.ring.size() - 1)
    }

    /// Takes up to `max` descriptors, checks each buffer, and reports done where the driver asked for it. `seen` gets
    /// each descriptor.
    pub fn transmit(&mut self, max: u32, mut seen: impl FnMut(Sent)) -> Result<u32, HarnessError> {
        let n = max.min(self.queued());
        for _ in 0..n {
            let bits = self.ring.get(self.head);
            if tx::dtyp(bits) == dtyp::CONTEXT {
                seen(Sent::Context(tx::Context::decode(bits)));
            } else {
                let data = tx::Data::decode(bits);
                let buffer = self.wire.buffer(self.head, data.addr)?;
                self.wire.turn(self.head, buffer, FILLED, FREE, "not filled")?;
                seen(Sent::Data(data));
            }
            self.done(bits[1]);
        }
        Ok(n)
    }

    /// Takes everything queued without looking at it: what a bench calls.
    pub fn transmit_all(&mut self) -> u32 {
        let n = self.queued();
        for _ in 0..n {
            self.done(self.ring.quad(self.head, 1));
        }
        n
    }

    /// The bytes of a data descriptor.
    pub fn sent(&self, data: &tx::Data) -> Result<Vec<u8>, HarnessError> {
        let mut bytes = vec![0; usize::from(data.len)];
        self.wire.read(data.addr.wrapping_sub(BUFFERS_AT), &mut bytes)?;
        Ok(bytes)
    }

    fn done(&mut self, q1: u64) {
        if q1 >> 24 & u64::from(cmd::RS) != 0 {
            fence(Ordering::Release);
            self.ring.put_quad(self.head, 1, q1 | tx::DD);
        }
        self.head = self.head.wrapping_add(1);
    }
}

impl Wire {
    /// Index of the buffer that an address lies in.
    fn buffer(&self, slot: u32, addr: u64) -> Result<u32, HarnessError> {
        let buffer = addr
            .checked_sub(BUFFERS_AT)
            .map(|at| at / u64::from(self.layout.stride));
        match buffer {
            Some(b) if b < u64::from(self.layout.count) => Ok(b as u32),
            _ => Err(HarnessError::WildAddress { slot, addr }),
        }
    }

    fn turn(
        &self,
        slot: u32,
        buffer: u32,
        from: u8,
        to: u8,
        state: &'static str,
    ) -> Result<(), HarnessError> {
        match self.states.get(buffer as usize) {
            Some(s) if s.swap(to, Ordering::Relaxed) == from || !self.strict => Ok(()),
            _ => Err(HarnessError::UsedTwice { slot, buffer, state }),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), HarnessError> {
        rustix::io::pwrite(self.memory.fd(), bytes, at)
            .map(drop)
            .map_err(|e| HarnessError::Memory(e.to_string()))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), HarnessError> {
        rustix::io::pread(self.memory.fd(), bytes, at)
            .map(drop)
            .map_err(|e| HarnessError::Memory(e.to_string()))
    }
}

/// A device that is nothing but mapped registers.
#[derive(Debug)]
struct Played {
    registers: DmaMemory,
}

impl Played {
    fn new() -> Result<Played, PortError> {
        let options = AllocOptions {
            page: PageSize::Small,
            numa: None,
            name: "harness-registers".to_owned(),
        };
        Ok(Played {
            registers: DmaMemory::alloc(regs::DECODED as usize, &options)?,
        })
    }

    fn area(&self) -> Result<MappedArea, BusError> {
        MappedArea::map(self.registers.fd(), 0, 0, self.registers.len() as u64)
            .map_err(|e| BusError::io(self.name(), "mapping the played registers", e))
    }

    fn unsupported<T>(&self, what: &'static str) -> Result<T, BusError> {
        Err(BusError::Unsupported {
            device: self.name().to_owned(),
            what,
        })
    }
}

impl Device for Played {
    fn name(&self) -> &str {
        "played 82599"
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        if index != 0 {
            return Ok(RegionInfo::default());
        }
        let size = self.registers.len() as u64;
        let mmap = vec![MmapArea { offset: 0, len: size }];
        Ok(RegionInfo {
            size,
            readable: true,
            writable: true,
            mmap,
        })
    }

    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError> {
        if index == 0 {
            Ok(vec![self.area()?])
        } else {
            Ok(Vec::new())
        }
    }

    fn read(&self, _: u32, _: u64, _: &mut [u8]) -> Result<(), BusError> {
        self.unsupported("reads other than of mapped registers")
    }

    fn write(&self, _: u32, _: u64, _: &[u8]) -> Result<(), BusError> {
        self.unsupported("writes other than of mapped registers")
    }

    fn dma_map(&self, _: u64, _: &DmaMemory) -> Result<(), BusError> {
        Ok(())
    }

    fn dma_unmap(&self, _: u64, _: u64) -> Result<(), BusError> {
        Ok(())
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=u64::MAX]
    }

    fn irq_count(&self) -> u32 {
        0
    }

    fn set_irqs(&self, _: u32, _: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        Ok(())
    }

    fn is_alive(&self) -> bool {
        true
    }
}
