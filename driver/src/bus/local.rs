//! A model in this process, stepped by hand.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_nic_models::device::{Irq, Model, Work};
use millrace_nic_models::dma::{Prot, Trust};

use super::{BusError, Device, IOVA_LIMIT, MappedArea, MmapArea, RegionInfo};
use crate::mem::DmaMemory;

/// A device model in this process. It moves only when [`LocalDevice::step`] is called, and while the driver waits for a
/// register, so a test sees every state in between.
pub struct LocalDevice {
    name: String,
    vectors: u16,
    gone: AtomicBool,
    model: Mutex<Box<dyn Model>>,
}

impl LocalDevice {
    /// Wraps a model.
    pub fn new(model: Box<dyn Model>) -> Arc<Self> {
        let name = format!("local:{}", model.identity().family);
        let vectors = model.msix_vectors();
        Arc::new(LocalDevice {
            name,
            vectors,
            gone: AtomicBool::new(false),
            model: Mutex::new(model),
        })
    }

    /// One bounded round of the model's work.
    pub fn step(&self) -> Work {
        self.lock().step()
    }

    /// Steps until the model has nothing left to do, at most `limit` times. True if it came to rest.
    pub fn settle(&self, limit: usize) -> bool {
        (0..limit).any(|_| self.step() == Work::Idle)
    }

    /// The model's own diagnostics.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.lock().counters()
    }

    /// Calls `f` with the model, for what a test does to the hardware behind the driver's back.
    pub fn with_model<R>(&self, f: impl FnOnce(&mut dyn Model) -> R) -> R {
        f(self.lock().as_mut())
    }

    /// Takes the device away, as a surprise removal does: every later call gives [`BusError::Gone`].
    pub fn unplug(&self) {
        let mut model = self.lock();
        self.gone.store(true, Ordering::Release);
        model.dma().unmap_all();
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Model>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Result<MutexGuard<'_, Box<dyn Model>>, BusError> {
        let model = self.lock();
        if self.gone.load(Ordering::Acquire) {
            return Err(BusError::Gone {
                device: self.name.clone(),
                reason: "it was unplugged".into(),
            });
        }
        Ok(model)
    }

    fn info(&self, model: &dyn Model, index: u32) -> Result<RegionInfo, BusError> {
        let info = model.region(index).ok_or_else(|| BusError::NoRegion {
            device: self.name.clone(),
            index,
        })?;
        let mmap = info
            .mmap
            .iter()
            .map(|a| MmapArea {
                offset: a.offset,
                len: a.size,
            })
            .collect();
        Ok(RegionInfo {
            size: info.size,
            readable: info.flags.read,
            writable: info.flags.write,
            mmap,
        })
    }

    fn refused(&self, what: String, errno: i32) -> BusError {
        BusError::Refused {
            device: self.name.clone(),
            what,
            source: io::Error::from_raw_os_error(errno),
        }
    }
}

impl Device for LocalDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        self.info(self.live()?.as_ref(), index)
    }

    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError> {
        let model = self.live()?;
        let info = self.info(model.as_ref(), index)?;
        let Some((fd, base)) = model.region_fd(index) else {
            return Ok(Vec::new());
        };
        info.mmap
            .iter()
            .map(|area| {
                MappedArea::map(fd, base.wrapping_add(area.offset), area.offset, area.len)
                    .map_err(|e| BusError::io(&self.name, format!("map region {index}"), e))
            })
            .collect()
    }

    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let len = buf.len();
        self.live()?.read(index, offset, buf).map_err(|e| {
            tracing::debug!("{}: {e}", self.name);
            self.refused(
                format!("a read of {len} bytes at {offset:#x} of region {index}"),
                libc::EINVAL,
            )
        })
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError> {
        self.live()?.write(index, offset, data).map_err(|e| {
            tracing::debug!("{}: {e}", self.name);
            self.refused(
                format!("a write of {} bytes at {offset:#x} of region {index}", data.len()),
                libc::EINVAL,
            )
        })
    }

    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError> {
        let mut model = self.live()?;
        let len = mem.len() as u64;
        let dma = |source| BusError::Dma {
            device: self.name.clone(),
            what: "map",
            iova,
            len,
            source,
        };
        let fd = mem.fd().try_clone_to_owned().map_err(dma)?;
        model
            .dma()
            .map(iova, len, fd, 0, Prot::READ_WRITE, Trust::Sealed)
            .map_err(|e| {
                tracing::debug!("{}: {e}", self.name);
                dma(io::Error::from_raw_os_error(e.errno()))
            })
    }

    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError> {
        match self.live()?.dma().unmap(iova, len) {
            done if done == len => Ok(()),
            _ => Err(BusError::Dma {
                device: self.name.clone(),
                what: "unmap",
                iova,
                len,
                source: io::Error::from_raw_os_error(libc::ENOENT),
            }),
        }
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=IOVA_LIMIT - 1]
    }

    fn irq_count(&self) -> u32 {
        u32::from(self.vectors)
    }

    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        let mut model = self.live()?;
        for (vector, fd) in (first..).zip(fds) {
            let vector = u16::try_from(vector)
                .ok()
                .filter(|v| *v < self.vectors)
                .ok_or_else(|| self.refused(format!("interrupt vector {vector}"), libc::EINVAL))?;
            let fd = fd.map(|fd| fd.try_clone_to_owned()).transpose();
            let fd = fd.map_err(|e| BusError::io(&self.name, "duplicate an eventfd", e))?;
            model.set_irq(Irq::Msix(vector), fd);
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        self.live()?.reset();
        Ok(())
    }

    fn is_alive(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }

    fn relax(&self, _round: u32) {
        self.step();
    }
}

impl fmt::Debug for LocalDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalDevice({})", self.name)
    }
}
