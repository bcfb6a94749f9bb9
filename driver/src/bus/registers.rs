//! A BAR as 32-bit registers.

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use super::{BusError, Device, MappedArea};

/// Gives the name of the register at an offset, for error messages: its name and, in an array, its index.
pub type RegisterName = fn(u32) -> Option<(&'static str, u32)>;

/// The registers of one BAR. What is mapped is read and written in place; the rest goes through the device.
#[derive(Clone)]
pub struct Registers {
    dev: Arc<dyn Device>,
    index: u32,
    size: u64,
    areas: Arc<[MappedArea]>,
    names: Option<RegisterName>,
}

impl Registers {
    /// Opens BAR `index` and maps what can be mapped.
    pub fn open(dev: Arc<dyn Device>, index: u32) -> Result<Self, BusError> {
        let info = dev.region(index)?;
        if info.size == 0 {
            return Err(BusError::NoRegion {
                device: dev.name().to_owned(),
                index,
            });
        }
        let areas = dev.map(index)?.into();
        Ok(Registers {
            dev,
            index,
            size: info.size,
            areas,
            names: None,
        })
    }

    /// Names registers in errors by `names`, usually a family's table lookup.
    pub fn with_names(mut self, names: RegisterName) -> Self {
        self.names = Some(names);
        self
    }

    /// The device these registers belong to.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.dev
    }

    /// Size of the BAR in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True if the register at `offset` is mapped, so that an access costs no call to the device.
    pub fn is_mapped(&self, offset: u32) -> bool {
        self.areas.iter().any(|a| a.register(u64::from(offset)).is_some())
    }

    /// Reads a register.
    pub fn read32(&self, offset: u32) -> Result<u32, BusError> {
        if let Some(value) = self.areas.iter().find_map(|a| a.read32(u64::from(offset))) {
            return Ok(value);
        }
        let mut buf = [0; 4];
        self.dev.read(self.index, u64::from(offset), &mut buf)?;
        Ok(u32::from_le_bytes(buf))
    }

    /// Writes a register.
    pub fn write32(&self, offset: u32, value: u32) -> Result<(), BusError> {
        if self
            .areas
            .iter()
            .any(|a| a.write32(u64::from(offset), value).is_some())
        {
            return Ok(());
        }
        self.dev
            .write(self.index, u64::from(offset), &value.to_le_bytes())
    }

    /// Reads, replaces the bits under `mask` by those of `value`, and writes back.
    pub fn modify32(&self, offset: u32, mask: u32, value: u32) -> Result<(), BusError> {
        let old = self.read32(offset)?;
        self.write32(offset, (old & !mask) | (value & mask))
    }

    /// Waits until the register reads `want` under `mask`, for at most `timeout`. Gives the value read.
    ///
    /// # Errors
    /// [`BusError::Timeout`] names the register, the last value and the time waited.
    pub fn poll(&self, offset: u32, mask: u32, want: u32, timeout: Duration) -> Result<u32, BusError> {
        let start = Instant::now();
        let mut round = 0;
        loop {
            let seen = self.read32(offset)?;
            if seen & mask == want & mask {
                return Ok(seen);
            }
            let waited = start.elapsed();
            if waited >= timeout {
                let device = self.dev.name().to_owned();
                return Err(BusError::Timeout {
                    device,
                    register: self.name(offset),
                    seen,
                    mask,
                    want,
                    waited,
                });
            }
            self.dev.relax(round);
            round = round.saturating_add(1);
        }
    }

    /// A handle on one register that a worker writes once a batch.
    pub fn doorbell(&self, offset: u32) -> Result<Doorbell, BusError> {
        if u64::from(offset) + 4 > self.size || !offset.is_multiple_of(4) {
            return Err(BusError::OutOfRange {
                device: self.dev.name().to_owned(),
                index: self.index,
                offset: u64::from(offset),
                len: 4,
                size: self.size,
            });
        }
        let mapped = self
            .areas
            .iter()
            .find_map(|a| Some((a.register(u64::from(offset))?, a.clone())));
        Ok(match mapped {
            Some((at, area)) => Doorbell(Bell::Mapped { at, _area: area }),
            None => Doorbell(Bell::Device {
                dev: self.dev.clone(),
                index: self.index,
                offset: u64::from(offset),
            }),
        })
    }

    /// `NAME`, `NAME[3]` or `register 0x1234` for the register at `offset`.
    pub fn name(&self, offset: u32) -> String {
        match self.names.and_then(|names| names(offset)) {
            Some((name, 0)) => name.to_owned(),
            Some((name, index)) => format!("{name}[{index}]"),
            None => format!("register {offset:#x}"),
        }
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers")
            .field("device", &self.dev.name())
            .field("region", &self.index)
            .finish()
    }
}

/// One register that tells the device about new descriptors: a queue's tail.
#[derive(Debug)]
pub struct Doorbell(Bell);

enum Bell {
    Mapped {
        at: NonNull<u32>,
        _area: MappedArea,
    },
    Memory(Arc<AtomicU32>),
    Device {
        dev: Arc<dyn Device>,
        index: u32,
        offset: u64,
    },
}

// SAFETY: `at` points into `_area`, which the bell keeps mapped and which any thread may access; a bell is not shared.
unsafe impl Send for Bell {}

impl Doorbell {
    /// Publishes all earlier writes to rings and buffers, then writes `value` to the register.
    ///
    /// # Errors
    /// Only a device behind a call (not mapped) can fail, with [`BusError::Gone`] when the other side went away.
    #[inline]
    pub fn ring(&self, value: u32) -> Result<(), BusError> {
        // Pairs with the Acquire with which the device (or model) loads the tail: descriptors stored before the fence
        // are visible to whoever sees the new tail.
        fence(Ordering::Release);
        match &self.0 {
            Bell::Mapped { at, .. } => {
                // SAFETY: `at` lies inside the area that `self` keeps mapped and is aligned.
                unsafe { at.write_volatile(value.to_le()) };
                Ok(())
            }
            Bell::Memory(word) => {
                word.store(value, Ordering::Relaxed);
                Ok(())
            }
            Bell::Device { dev, index, offset } => dev.write(*index, *offset, &value.to_le_bytes()),
        }
    }

    /// As [`ring`](Self::ring), if that is a plain store to a mapped register; else it does nothing and gives `false`.
    #[inline(always)]
    pub fn ring_mapped(&self, value: u32) -> bool {
        let Bell::Mapped { at, .. } = &self.0 else {
            return false;
        };
        // As in `ring`.
        fence(Ordering::Release);
        // SAFETY: `at` lies inside the area that `self` keeps mapped and is aligned.
        unsafe { at.write_volatile(value.to_le()) };
        true
    }

    /// Where a mapped register lies, for tests of the layout.
    #[cfg(all(test, feature = "models"))]
    pub(crate) fn addresses(&self) -> std::ops::Range<usize> {
        match &self.0 {
            Bell::Mapped { at, .. } => at.as_ptr() as usize..at.as_ptr() as usize + 4,
            _ => 0..0,
        }
    }

    /// True when ringing is a plain store.
    pub fn is_mapped(&self) -> bool {
        !matches!(self.0, Bell::Device { .. })
    }

    /// A doorbell over plain memory, for rings that are built by hand and whose device is the caller.
    pub fn memory(word: Arc<AtomicU32>) -> Self {
        Doorbell(Bell::Memory(word))
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bell::Mapped { .. } => f.write_str("mapped"),
            Bell::Memory(_) => f.write_str("memory"),
            Bell::Device { dev, offset, .. } => write!(f, "{}+{offset:#x}", dev.name()),
        }
    }
}
