//! A PCI device that is no NIC: registers, a DMA engine, interrupts, shared memory. It exists to exercise
//! clients and servers: what it does is simple enough that a test can tell right from wrong.
//!
//! BAR 0, 4 KiB, 32-bit registers (all trapped):
//!
//! | offset | register | |
//! |---|---|---|
//! | 0x00 | `ID` | reads [`ID_VALUE`] |
//! | 0x04 | `SCRATCH` | reads what was written |
//! | 0x08 | `CONTROL` | bit 0: write the pattern over and over while set |
//! | 0x0c | `RAISE` | writing n raises MSI-X vector n, writing 0x100 raises INTx |
//! | 0x10 | `BASE_LOW`, 0x14 `BASE_HIGH` | IOVA the engine writes to |
//! | 0x18 | `LENGTH` | bytes the engine writes, at most 64 KiB |
//! | 0x1c | `PATTERN` | byte the engine writes |
//! | 0x20 | `ROUNDS` | times the engine wrote it all |
//! | 0x24 | `FAULTS` | times it met a fault |
//!
//! BAR 2, 16 KiB of plain memory; the second and the last page can be mapped. Storing n + 1 at 0x1000 raises
//! vector n and clears the word: a doorbell without a message.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::pci_config::{MsixLayout, PcieInfo};
use super::{
    AccessError, BarKind, ConfigEvent, Identity, Irq, IrqLines, MmapArea, Model, PciConfig, PciIds,
    REGION_CONFIG, RegionFlags, RegionInfo, WaitFds, Work,
};
use crate::dma::DmaSpace;

/// What `ID` reads.
pub const ID_VALUE: u32 = 0x4558_4552;
pub const ID: u64 = 0x00;
pub const SCRATCH: u64 = 0x04;
pub const CONTROL: u64 = 0x08;
pub const RAISE: u64 = 0x0c;
pub const BASE_LOW: u64 = 0x10;
pub const BASE_HIGH: u64 = 0x14;
pub const LENGTH: u64 = 0x18;
pub const PATTERN: u64 = 0x1c;
pub const ROUNDS: u64 = 0x20;
pub const FAULTS: u64 = 0x24;
/// Value for `RAISE` that raises INTx.
pub const RAISE_INTX: u32 = 0x100;

/// MSI-X vectors.
pub const VECTORS: u16 = 8;
pub const BAR0_SIZE: u64 = 0x1000;
pub const BAR2_SIZE: u64 = 0x4000;
/// Offset of the doorbell word in BAR 2.
pub const DOORBELL: u64 = 0x1000;
/// Most that `LENGTH` can be.
pub const MAX_LENGTH: u32 = 64 * 1024;

/// The device.
#[derive(Debug)]
pub struct Exerciser {
    config: PciConfig,
    irqs: IrqLines,
    dma: DmaSpace,
    memory: OwnedFd,
    scratch: u32,
    running: bool,
    base: u64,
    length: u32,
    pattern: u8,
    rounds: u32,
    faults: u32,
}

impl Exerciser {
    /// Fails only when the system has no memory for BAR 2.
    pub fn new() -> Result<Exerciser, Errno> {
        let memory = rustix::fs::memfd_create("exerciser", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memory, BAR2_SIZE)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let ids = PciIds {
            vendor: 0x1b36, // Red Hat's QEMU vendor id, whose device 0x0005 is a PCI test device
            device: 0x0005,
            subsystem_vendor: 0,
            subsystem: 0,
            revision: 0,
            class: 0x00_ff00,
        };
        let msix = MsixLayout {
            vectors: VECTORS,
            table_bar: 0,
            table_offset: 0x800,
            pba_bar: 0,
            pba_offset: 0xc00,
        };
        let config = PciConfig::builder(ids)
            .bar(0, BarKind::Mem32, BAR0_SIZE)
            .bar(2, BarKind::Mem64, BAR2_SIZE)
            .interrupt_pin(1)
            .power_management(0x40)
            .msix(0x50, msix)
            .pcie(
                0x60,
                PcieInfo {
                    speed: 1,
                    width: 1,
                    max_payload: 0,
                },
            )
            .build();
        Ok(Exerciser {
            config,
            irqs: IrqLines::new(VECTORS),
            dma: DmaSpace::new(),
            memory,
            scratch: 0,
            running: false,
            base: 0,
            length: 0,
            pattern: 0,
            rounds: 0,
            faults: 0,
        })
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            ID => ID_VALUE,
            SCRATCH => self.scratch,
            CONTROL => u32::from(self.running),
            BASE_LOW => self.base as u32,
            BASE_HIGH => (self.base >> 32) as u32,
            LENGTH => self.length,
            PATTERN => u32::from(self.pattern),
            ROUNDS => self.rounds,
            FAULTS => self.faults,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, v: u32) {
        match offset {
            SCRATCH => self.scratch = v,
            CONTROL => self.running = v & 1 != 0,
            RAISE if v == RAISE_INTX => {
                self.irqs.signal(Irq::Intx);
            }
            RAISE => {
                self.irqs.signal(Irq::Msix(v as u16));
            }
            BASE_LOW => self.base = self.base & !0xffff_ffff | u64::from(v),
            BASE_HIGH => self.base = self.base & 0xffff_ffff | u64::from(v) << 32,
            LENGTH => self.length = v.min(MAX_LENGTH),
            PATTERN => self.pattern = v as u8,
            _ => {}
        }
    }

    fn check(&self, index: u32, offset: u64, len: usize) -> Result<(), AccessError> {
        let size = self.region(index).ok_or(AccessError::NoRegion(index))?.size;
        let out = AccessError::OutOfRange {
            index,
            offset,
            len,
            size,
        };
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(out);
        }
        if index == 0 && (len != 4 || !offset.is_multiple_of(4)) {
            return Err(AccessError::BadAccess { index, offset, len });
        }
        Ok(())
    }

    fn ring_doorbell(&mut self) -> bool {
        let mut word = [0; 4];
        if rustix::io::pread(&self.memory, &mut word, DOORBELL) != Ok(4) || word == [0; 4] {
            return false;
        }
        let _ = rustix::io::pwrite(&self.memory, &[0; 4], DOORBELL);
        self.irqs.signal(Irq::Msix((u32::from_ne_bytes(word) - 1) as u16));
        true
    }
}

impl Model for Exerciser {
    fn identity(&self) -> Identity {
        Identity {
            family: "exerciser",
            name: "exerciser",
            vendor: 0x1b36,
            device: 0x0005,
        }
    }

    fn region(&self, index: u32) -> Option<RegionInfo> {
        let plain = |size| {
            Some(RegionInfo {
                size,
                flags: RegionFlags::READ_WRITE,
                mmap: Vec::new(),
            })
        };
        match index {
            0 => plain(BAR0_SIZE),
            2 => Some(RegionInfo {
                size: BAR2_SIZE,
                flags: RegionFlags::READ_WRITE_MMAP,
                mmap: vec![
                    MmapArea {
                        offset: 0x1000,
                        size: 0x1000,
                    },
                    MmapArea {
                        offset: 0x3000,
                        size: 0x1000,
                    },
                ],
            }),
            REGION_CONFIG => plain(4096),
            _ => None,
        }
    }

    fn region_fd(&self, index: u32) -> Option<(BorrowedFd<'_>, u64)> {
        (index == 2).then(|| (self.memory.as_fd(), 0))
    }

    fn read(&mut self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), AccessError> {
        self.check(index, offset, buf.len())?;
        match index {
            0 => buf.copy_from_slice(&self.register(offset).to_le_bytes()),
            2 => {
                let _ = rustix::io::pread(&self.memory, buf, offset);
            }
            _ => self.config.read(offset, buf),
        }
        Ok(())
    }

    fn write(&mut self, index: u32, offset: u64, data: &[u8]) -> Result<(), AccessError> {
        self.check(index, offset, data.len())?;
        match (index, data) {
            (0, &[a, b, c, d]) => self.set_register(offset, u32::from_le_bytes([a, b, c, d])),
            (2, data) => {
                let _ = rustix::io::pwrite(&self.memory, data, offset);
            }
            _ => {
                for event in self.config.write(offset, data) {
                    match event {
                        ConfigEvent::BusMaster(on) => self.dma.set_enabled(on),
                        ConfigEvent::Flr => self.reset(),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn msix_vectors(&self) -> u16 {
        VECTORS
    }

    fn set_irq(&mut self, irq: Irq, fd: Option<OwnedFd>) {
        self.irqs.set(irq, fd);
    }

    fn reset(&mut self) {
        self.config.reset();
        self.dma.set_enabled(false);
        self.scratch = 0;
        self.running = false;
        self.base = 0;
        self.length = 0;
        self.pattern = 0;
        let _ = rustix::io::pwrite(&self.memory, &[0; 4], DOORBELL);
    }

    fn dma(&mut self) -> &mut DmaSpace {
        &mut self.dma
    }

    fn step(&mut self) -> Work {
        let rang = self.ring_doorbell();
        if !self.running {
            return if rang { Work::Busy } else { Work::Idle };
        }
        let data = [self.pattern; 4096];
        let mut at = 0;
        while at < self.length {
            let n = (self.length - at).min(data.len() as u32);
            if self
                .dma
                .write(self.base.wrapping_add(u64::from(at)), &data[..n as usize])
                .is_err()
            {
                self.faults = self.faults.wrapping_add(1);
                return Work::Busy;
            }
            at += n;
        }
        self.rounds = self.rounds.wrapping_add(1);
        Work::Busy
    }

    fn next_timer(&self) -> Option<Instant> {
        None
    }

    fn wait_fds(&self) -> WaitFds<'_> {
        Vec::new()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("dma_rounds", u64::from(self.rounds)),
            ("dma_faults", u64::from(self.faults)),
            ("irqs_raised", self.irqs.raised()),
            ("irqs_dropped", self.irqs.dropped()),
        ]
    }
}
