//! A behaving PCI configuration space: identification, BAR sizing, and the capabilities a NIC has
//! (power management, MSI-X, PCI Express with function-level reset).
//!
//! Layouts after PCI Local Bus 3.0 chapter 6, PCI Power Management 1.2 chapter 3 and PCI Express
//! Base 2.0 chapter 7.

/// Size of the PCI Express configuration space in bytes.
pub const CONFIG_SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Status bits a one clears: the parity and abort errors.
const STATUS_W1C: u16 = 0xf900;
const BAR0: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

const CAP_POWER: u8 = 0x01;
const CAP_PCIE: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;
const EXT_CAP_SERIAL: u16 = 0x0003;

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
const DEVCAP_FLR: u32 = 1 << 28;
const DEVCTL_FLR: u16 = 1 << 15;

/// The numbers a PCI device is recognised by.
#[derive(Clone, Copy, Debug)]
pub struct PciIds {
    pub vendor: u16,
    pub device: u16,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
    pub revision: u8,
    /// Base class, sub-class, programming interface: `0x020000` is an Ethernet controller.
    pub class: u32,
}

/// What kind of window a BAR opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    Mem32,
    /// Takes this BAR and the next.
    Mem64,
    /// 64-bit and prefetchable.
    Mem64Prefetch,
    Io,
}

/// Something a configuration write made happen, for the model to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigEvent {
    /// Bus mastering was switched; off means no DMA and no MSI-X from now on.
    BusMaster(bool),
    /// Initiate Function Level Reset was written. The model resets itself and calls [`PciConfig::reset`].
    Flr,
    /// The MSI-X enable bit changed.
    MsixEnable(bool),
    /// The MSI-X function mask bit changed.
    MsixFunctionMask(bool),
    /// Power state D0 (0) to D3hot (3).
    PowerState(u8),
}

/// Where the parts of the MSI-X structure are.
#[derive(Clone, Copy, Debug)]
pub struct MsixLayout {
    pub vectors: u16,
    /// BAR that holds the table, and the table's offset in it (a multiple of 8).
    pub table_bar: u8,
    pub table_offset: u32,
    /// BAR that holds the pending bit array, and its offset in it (a multiple of 8).
    pub pba_bar: u8,
    pub pba_offset: u32,
}

/// What the PCI Express capability tells.
#[derive(Clone, Copy, Debug)]
pub struct PcieInfo {
    /// Maximum link speed, Link Capabilities encoding: 1 = 2.5 GT/s, 2 = 5, 3 = 8.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
    /// Maximum payload supported, encoding: 0 = 128 bytes, 2 = 512.
    pub max_payload: u8,
}

/// Puts a configuration space together; see [`PciConfig::builder`].
#[derive(Debug)]
pub struct PciConfigBuilder {
    config: PciConfig,
    last_capability: usize,
    last_extended: Option<usize>,
}

/// A configuration space that answers reads and writes as hardware does.
#[derive(Debug, Clone)]
pub struct PciConfig {
    bytes: Box<[u8; CONFIG_SIZE]>,
    /// Values after reset.
    initial: Box<[u8; CONFIG_SIZE]>,
    /// Bits that software may write.
    writable: Box<[u8; CONFIG_SIZE]>,
    /// Bits that a written one clears.
    clear: Box<[u8; CONFIG_SIZE]>,
    power: Option<usize>,
    msix: Option<usize>,
    pcie: Option<usize>,
}

impl PciConfig {
    pub fn builder(ids: PciIds) -> PciConfigBuilder {
        let zero = || Box::new([0u8; CONFIG_SIZE]);
        let config = PciConfig {
            bytes: zero(),
            initial: zero(),
            writable: zero(),
            clear: zero(),
            power: None,
            msix: None,
            pcie: None,
        };
        PciConfigBuilder {
            config,
            last_capability: CAPABILITY_POINTER,
            last_extended: None,
        }
        .identity(ids)
    }

    /// Reads any number of bytes anywhere; beyond the end reads zero.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        for (i, b) in buf.iter_mut().enumerate() {
            *b = at(offset, i).map_or(0, |at| self.bytes[at]);
        }
    }

    /// Writes any number of bytes anywhere; read-only bits and what lies beyond the end are left alone.
    /// Returns what the write made happen, in the order the model should act on it.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<ConfigEvent> {
        let before = self.watched();
        for (i, &b) in data.iter().enumerate() {
            if let Some(at) = at(offset, i) {
                let (w, c) = (self.writable[at], self.clear[at]);
                self.bytes[at] = (self.bytes[at] & !w & !(b & c)) | (b & w);
            }
        }
        let after = self.watched();
        let mut events = Vec::new();
        if before.bus_master != after.bus_master {
            events.push(ConfigEvent::BusMaster(after.bus_master));
        }
        if before.msix_mask != after.msix_mask {
            events.push(ConfigEvent::MsixFunctionMask(after.msix_mask));
        }
        if before.msix_enable != after.msix_enable {
            events.push(ConfigEvent::MsixEnable(after.msix_enable));
        }
        if before.power != after.power {
            events.push(ConfigEvent::PowerState(after.power));
        }
        if let Some(pcie) = self.pcie {
            let devctl = self.u16(pcie + 8);
            if devctl & DEVCTL_FLR != 0 {
                self.set_u16(pcie + 8, devctl & !DEVCTL_FLR); // always reads back as 0
                events.push(ConfigEvent::Flr);
            }
        }
        events
    }

    /// Puts every writable register back to its reset value.
    pub fn reset(&mut self) {
        self.bytes = self.initial.clone();
    }

    pub fn bus_master(&self) -> bool {
        self.u16(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    pub fn memory_enabled(&self) -> bool {
        self.u16(COMMAND) & COMMAND_MEMORY != 0
    }

    pub fn intx_disabled(&self) -> bool {
        self.u16(COMMAND) & COMMAND_INTX_DISABLE != 0
    }

    pub fn msix_enabled(&self) -> bool {
        self.watched().msix_enable
    }

    /// Sets or clears Transactions Pending in the PCI Express Device Status register.
    pub fn set_transactions_pending(&mut self, pending: bool) {
        if let Some(pcie) = self.pcie {
            let status = self.u16(pcie + 10);
            self.set_u16(
                pcie + 10,
                if pending {
                    status | 1 << 5
                } else {
                    status & !(1 << 5)
                },
            );
        }
    }

    fn watched(&self) -> Watched {
        let msix = self.msix.map_or(0, |at| self.u16(at + 2));
        Watched {
            bus_master: self.bus_master(),
            msix_enable: msix & MSIX_ENABLE != 0,
            msix_mask: msix & MSIX_FUNCTION_MASK != 0,
            power: self.power.map_or(0, |at| self.bytes[at + 4] & 3),
        }
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set_u16(&mut self, at: usize, v: u16) {
        self.bytes[at..at + 2].copy_from_slice(&v.to_le_bytes());
    }
}

struct Watched {
    bus_master: bool,
    msix_enable: bool,
    msix_mask: bool,
    power: u8,
}

fn at(offset: u64, i: usize) -> Option<usize> {
    let at = usize::try_from(offset).ok()?.checked_add(i)?;
    (at < CONFIG_SIZE).then_some(at)
}

impl PciConfigBuilder {
    fn identity(mut self, ids: PciIds) -> Self {
        self.put16(0x00, ids.vendor);
        self.put16(0x02, ids.device);
        self.allow16(
            COMMAND,
            COMMAND_IO
                | COMMAND_MEMORY
                | COMMAND_BUS_MASTER
                | COMMAND_PARITY
                | COMMAND_SERR
                | COMMAND_INTX_DISABLE,
        );
        for (i, b) in STATUS_W1C.to_le_bytes().into_iter().enumerate() {
            self.config.clear[STATUS + i] = b;
        }
        self.put32(0x08, ids.class << 8 | u32::from(ids.revision));
        self.config.writable[0x0c] = 0xff; // cache line size
        self.put16(0x2c, ids.subsystem_vendor);
        self.put16(0x2e, ids.subsystem);
        self.config.writable[INTERRUPT_LINE] = 0xff;
        self
    }

    /// A BAR of `size` bytes (a power of two, at least 16; at least 32 for I/O BARs to be useful).
    pub fn bar(mut self, index: u8, kind: BarKind, size: u64) -> Self {
        debug_assert!(size.is_power_of_two() && size >= 16 && index < 6);
        let at = BAR0 + 4 * usize::from(index);
        let flags = match kind {
            BarKind::Mem32 => 0x0,
            BarKind::Mem64 => 0x4,
            BarKind::Mem64Prefetch => 0xc,
            BarKind::Io => 0x1,
        };
        let mask = !(size - 1);
        self.put32(at, flags);
        self.allow32(at, mask as u32 & if kind == BarKind::Io { !0x3 } else { !0xf });
        if matches!(kind, BarKind::Mem64 | BarKind::Mem64Prefetch) {
            self.allow32(at + 4, (mask >> 32) as u32);
        }
        self
    }

    /// Interrupt pin: 1 = INTA#.
    pub fn interrupt_pin(mut self, pin: u8) -> Self {
        self.config.bytes[INTERRUPT_PIN] = pin;
        self
    }

    /// Power management capability at `at`: version 3, states D0 and D3hot.
    pub fn power_management(mut self, at: u8) -> Self {
        let at = self.capability(at, CAP_POWER);
        self.put16(at + 2, 0x0003);
        self.put16(at + 4, 1 << 3); // No_Soft_Reset
        self.allow16(at + 4, 0x0103); // PowerState, PME_En
        self.config.clear[at + 5] = 0x80; // PME_Status
        self.config.power = Some(at);
        self
    }

    /// MSI-X capability at `at`.
    pub fn msix(mut self, at: u8, layout: MsixLayout) -> Self {
        let at = self.capability(at, CAP_MSIX);
        self.put16(at + 2, layout.vectors.saturating_sub(1) & 0x7ff);
        self.allow16(at + 2, MSIX_ENABLE | MSIX_FUNCTION_MASK);
        self.put32(at + 4, layout.table_offset & !7 | u32::from(layout.table_bar & 7));
        self.put32(at + 8, layout.pba_offset & !7 | u32::from(layout.pba_bar & 7));
        self.config.msix = Some(at);
        self
    }

    /// PCI Express endpoint capability (version 2) at `at`, with function-level reset.
    pub fn pcie(mut self, at: u8, info: PcieInfo) -> Self {
        let at = self.capability(at, CAP_PCIE);
        let link = u16::from(info.width & 0x3f) << 4 | u16::from(info.speed & 0xf);
        self.put16(at + 2, 0x0002); // endpoint, version 2
        self.put32(at + 4, DEVCAP_FLR | 1 << 15 | u32::from(info.max_payload & 7)); // role-based errors
        self.put16(at + 8, 0x2810); // relaxed ordering, no snoop, read requests of 512 bytes
        self.allow16(at + 8, 0xffff);
        self.config.clear[at + 10] = 0x0f; // errors detected
        self.put32(at + 12, u32::from(link) | 3 << 10);
        self.allow16(at + 16, 0x01fb);
        self.put16(at + 18, link | 1 << 12); // slot clock
        self.put32(at + 36, 0x1f); // completion timeout ranges and disable
        self.allow16(at + 40, 0x001f);
        self.put16(at + 48, u16::from(info.speed & 0xf));
        self.allow16(at + 48, 0x000f);
        self.config.pcie = Some(at);
        self
    }

    /// Device serial number, an extended capability at `at` (0x100 or above).
    pub fn serial_number(mut self, at: u16, serial: u64) -> Self {
        let at = self.extended_capability(at, EXT_CAP_SERIAL, 1);
        self.put32(at + 4, serial as u32);
        self.put32(at + 8, (serial >> 32) as u32);
        self
    }

    /// A read-only value, for what the other methods do not cover.
    pub fn read_only(mut self, at: u16, bytes: &[u8]) -> Self {
        let at = usize::from(at);
        if let Some(to) = self.config.bytes.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        self
    }

    pub fn build(mut self) -> PciConfig {
        self.config.initial = self.config.bytes.clone();
        self.config
    }

    fn capability(&mut self, at: u8, id: u8) -> usize {
        debug_assert!(at >= 0x40 && at.is_multiple_of(4));
        self.config.bytes[self.last_capability] = at;
        let at = usize::from(at);
        self.config.bytes[at] = id;
        self.last_capability = at + 1;
        let status = self.config.u16(STATUS);
        self.put16(STATUS, status | STATUS_CAPABILITIES);
        at
    }

    /// The chain starts at 0x100; a first capability elsewhere is reached through a null one there.
    fn extended_capability(&mut self, at: u16, id: u16, version: u8) -> usize {
        debug_assert!(at >= 0x100 && at.is_multiple_of(4));
        let place = usize::from(at);
        let previous = match self.last_extended {
            Some(previous) => Some(previous),
            None if place != 0x100 => {
                self.put32(0x100, 0);
                Some(0x100)
            }
            None => None,
        };
        if let Some(previous) = previous {
            let header = self.config.u16(previous + 2) & 0xf;
            self.put16(previous + 2, header | at << 4);
        }
        self.put32(place, u32::from(id) | u32::from(version) << 16);
        self.last_extended = Some(place);
        place
    }

    fn put16(&mut self, at: usize, v: u16) {
        self.config.set_u16(at, v);
    }

    fn put32(&mut self, at: usize, v: u32) {
        self.config.bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.config.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn allow32(&mut self, at: usize, mask: u32) {
        self.config.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    }
}

/// Storage for an MSI-X table and pending bit array, as plain registers.
///
/// A VFIO client connects vectors with `SET_IRQS` and never programs the table (a virtual machine
/// monitor keeps the guest's table to itself), so the mask bits stored here gate nothing.
#[derive(Debug, Clone)]
pub struct MsixTable {
    entries: Vec<[u32; 4]>,
    pending: Vec<u32>,
}

impl MsixTable {
    pub fn new(vectors: u16) -> MsixTable {
        let words = usize::from(vectors).div_ceil(64) * 2;
        MsixTable {
            entries: vec![[0, 0, 0, 1]; usize::from(vectors)],
            pending: vec![0; words],
        }
    }

    /// Reads a double word of the table; beyond it reads zero.
    pub fn read(&self, offset: u32) -> u32 {
        let offset = offset as usize;
        self.entries.get(offset / 16).map_or(0, |e| e[offset / 4 % 4])
    }

    /// Writes a double word of the table.
    pub fn write(&mut self, offset: u32, v: u32) {
        let (offset, word) = (offset as usize, offset as usize / 4 % 4);
        if let Some(e) = self.entries.get_mut(offset / 16) {
            e[word] = if word == 3 { v & 1 } else { v };
        }
    }

    /// Reads a double word of the pending bit array.
    pub fn read_pending(&self, offset: u32) -> u32 {
        self.pending.get(offset as usize / 4).copied().unwrap_or(0)
    }

    /// Marks a vector pending or not.
    pub fn set_pending(&mut self, vector: u16, pending: bool) {
        if let Some(word) = self.pending.get_mut(usize::from(vector / 32)) {
            let bit = 1 << (vector % 32);
            *word = if pending { *word | bit } else { *word & !bit };
        }
    }

    /// Whether software masked the vector in the table.
    pub fn is_masked(&self, vector: u16) -> bool {
        self.entries
            .get(usize::from(vector))
            .is_none_or(|e| e[3] & 1 != 0)
    }

    pub fn reset(&mut self) {
        *self = MsixTable::new(self.entries.len() as u16);
    }
}
