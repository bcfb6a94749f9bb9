//! A real NIC through the kernel's VFIO: container, group, device (Documentation/driver-api/vfio.rst).
//!
//! `vfio-ioctls` opens them and maps DMA. Its region accesses and its reset only log a failure, so those are our own, with
//! errors, and so are interrupts (single vectors) and the list of usable I/O virtual addresses.

mod host;
mod ioctl;

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::EventfdFlags;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioRegionInfoCap};

use super::{BusError, CONFIG_REGION, Device, IOVA_LIMIT, MappedArea, MmapArea, RegionInfo};
use crate::mem::DmaMemory;
use host::Host;

/// Opens the PCI device at `bdf` (complete, lower case) through VFIO.
pub fn open(bdf: &str) -> Result<Arc<dyn Device>, BusError> {
    let host = Host::default();
    let group = host.check(bdf)?;
    let name = format!("vfio:{bdf}");
    let refused = |e: VfioError| explain(&name, bdf, host.group_file(group), e);
    let container = Arc::new(VfioContainer::new(None).map_err(refused)?);
    let sysfs = host.device(bdf);
    let device = VfioDevice::new(&sysfs, container.clone(), false).map_err(refused)?;
    let vectors = device
        .get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX)
        .map_or(0, |irq| irq.count);
    let alarm = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| BusError::io(&name, "create an eventfd", e.into()))?;
    let vfio = Vfio {
        numa: host.numa_node(bdf),
        name,
        sysfs,
        container,
        device: ManuallyDrop::new(device),
        vectors,
        irqs: Mutex::new(Irqs {
            fds: Vec::new(),
            enabled: 0,
        }),
        gone: AtomicBool::new(false),
        alarm,
    };
    // One eventfd for both: the device reports an uncorrectable error, or the kernel wants it back (unbind, hot unplug).
    for index in [VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX] {
        if let Err(e) = ioctl::set_irqs(vfio.fd(), index, 0, &[vfio.alarm.as_raw_fd()]) {
            tracing::debug!("{}: interrupt index {index} not connected: {e}", vfio.name);
        }
    }
    Ok(Arc::new(vfio))
}

/// What the errors of opening mean beyond what [`Host::check`] saw: races, and causes that only the kernel knows.
fn explain(name: &str, bdf: &str, group_file: PathBuf, error: VfioError) -> BusError {
    let from_open = |path: PathBuf, e: io::Error| match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => BusError::Permission { path },
        Some(libc::EBUSY) => BusError::Busy {
            device: name.to_owned(),
            path,
        },
        _ => BusError::io(name, format!("open {}", path.display()), e),
    };
    match error {
        VfioError::OpenContainer(e) if e.kind() == io::ErrorKind::NotFound => {
            BusError::NoVfio { bdf: bdf.to_owned() }
        }
        VfioError::OpenContainer(e) => from_open("/dev/vfio/vfio".into(), e),
        VfioError::OpenGroup(e, _) => from_open(group_file, e),
        VfioError::VfioExtension => BusError::NoIommu { bdf: bdf.to_owned() },
        VfioError::GroupSetContainer | VfioError::GroupGetDeviceFD(_)
            if io::Error::last_os_error().raw_os_error() == Some(libc::EBUSY) =>
        {
            BusError::Busy {
                device: name.to_owned(),
                path: group_file,
            }
        }
        other => BusError::io(name, "open the device", io::Error::other(other)),
    }
}

struct Vfio {
    name: String,
    sysfs: PathBuf,
    container: Arc<VfioContainer>,
    /// Dropped by hand, see `drop`.
    device: ManuallyDrop<VfioDevice>,
    numa: Option<u32>,
    vectors: u32,
    irqs: Mutex<Irqs>,
    gone: AtomicBool,
    alarm: OwnedFd,
}

/// MSI-X as the kernel has it now.
struct Irqs {
    fds: Vec<Option<OwnedFd>>,
    /// Vectors `0..enabled` are allocated in the kernel.
    enabled: usize,
}

impl Vfio {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device's file stays open as long as `self.device`.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }

    /// File offset of a region access, checked against the region.
    fn place(&self, index: u32, offset: u64, len: usize) -> Result<u64, BusError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(self.gone("it was removed"));
        }
        let (size, len) = (self.device.get_region_size(index), len as u64);
        if size == 0 {
            return Err(BusError::NoRegion {
                device: self.name.clone(),
                index,
            });
        }
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(BusError::OutOfRange {
                device: self.name.clone(),
                index,
                offset,
                len,
                size,
            });
        }
        Ok(self.device.get_region_offset(index) + offset)
    }

    fn gone(&self, reason: &str) -> BusError {
        BusError::Gone {
            device: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// The result of an access that moves `len` bytes or fails.
    fn moved(&self, what: &str, result: rustix::io::Result<usize>, len: usize) -> Result<(), BusError> {
        match result {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(BusError::io(
                &self.name,
                format!("{what}: {n} of {len} bytes"),
                io::ErrorKind::WriteZero.into(),
            )),
            Err(rustix::io::Errno::NODEV) => {
                self.gone.store(true, Ordering::Release);
                Err(self.gone("the kernel took it away"))
            }
            Err(e) => Err(BusError::io(&self.name, what, e.into())),
        }
    }
}

impl Device for Vfio {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        if index > CONFIG_REGION {
            return Err(BusError::NoRegion {
                device: self.name.clone(),
                index,
            });
        }
        let size = self.device.get_region_size(index);
        let flags = self.device.get_region_flags(index);
        let sparse = self
            .device
            .get_region_caps(index)
            .into_iter()
            .find_map(|cap| match cap {
                VfioRegionInfoCap::SparseMmap(map) => Some(map.areas),
                _ => None,
            });
        // Without a list of parts the whole region can be mapped.
        let mmap = match sparse {
            _ if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 => Vec::new(),
            Some(areas) => areas
                .iter()
                .map(|a| MmapArea {
                    offset: a.offset,
                    len: a.size,
                })
                .collect(),
            None => vec![MmapArea { offset: 0, len: size }],
        };
        Ok(RegionInfo {
            size,
            readable: flags & VFIO_REGION_INFO_FLAG_READ != 0,
            writable: flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
            mmap,
        })
    }

    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError> {
        let base = self.device.get_region_offset(index);
        let map = |area: &MmapArea| MappedArea::map(self.fd(), base + area.offset, area.offset, area.len);
        let areas = self.region(index)?.mmap;
        let mapped: io::Result<Vec<_>> = areas.iter().filter(|a| a.len > 0).map(map).collect();
        mapped.map_err(|e| BusError::io(&self.name, format!("map region {index}"), e))
    }

    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let at = self.place(index, offset, buf.len())?;
        let len = buf.len();
        self.moved("read a region", rustix::io::pread(self.fd(), buf, at), len)
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError> {
        let at = self.place(index, offset, data.len())?;
        self.moved(
            "write a region",
            rustix::io::pwrite(self.fd(), data, at),
            data.len(),
        )
    }

    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError> {
        // SAFETY: the mapping is taken back (or its pages stay pinned) before the memory goes: `DmaMapping` keeps the
        // memory until after the unmap. While it stands, Rust code reaches this memory by atomics (rings) or through a
        // handle of a buffer that is not posted to the device.
        let mapped = unsafe { self.container.vfio_dma_map(iova, mem.len(), mem.base().as_ptr()) };
        let len = mem.len() as u64;
        mapped.map_err(|e| match e {
            VfioError::IommuDmaMap(e) => {
                let source = io::Error::from_raw_os_error(e.errno());
                match memlock_limit() {
                    Some(limit) if e.errno() == libc::ENOMEM => BusError::MemLock { need: len, limit },
                    _ => BusError::Dma {
                        device: self.name.clone(),
                        what: "map",
                        iova,
                        len,
                        source,
                    },
                }
            }
            other => BusError::io(&self.name, "map DMA memory", io::Error::other(other)),
        })
    }

    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError> {
        let dma = |source| BusError::Dma {
            device: self.name.clone(),
            what: "unmap",
            iova,
            len,
            source,
        };
        let size = usize::try_from(len).map_err(|_| dma(io::ErrorKind::InvalidInput.into()))?;
        self.container.vfio_dma_unmap(iova, size).map_err(|e| match e {
            VfioError::IommuDmaUnmap(e) => dma(io::Error::from_raw_os_error(e.errno())),
            other => dma(io::Error::other(other)),
        })
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        // SAFETY: the container's file stays open as long as `self.container`.
        let container = unsafe { BorrowedFd::borrow_raw(self.container.as_raw_fd()) };
        match ioctl::iova_ranges(container) {
            Ok(Some(ranges)) => ranges,
            // All but what x86 reserves for interrupt messages (Intel SDM volume 3, 11.11.1).
            other => {
                tracing::debug!(
                    "{}: the kernel gives no list of usable addresses: {other:?}",
                    self.name
                );
                vec![0..=0xfedf_ffff, 0xfef0_0000..=IOVA_LIMIT - 1]
            }
        }
    }

    fn irq_count(&self) -> u32 {
        self.vectors
    }

    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        let end = (first as usize).saturating_add(fds.len());
        if end > self.vectors as usize {
            return Err(BusError::Refused {
                device: self.name.clone(),
                what: format!("interrupt vectors {first} to {end} of {}", self.vectors),
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        let failed = |e| BusError::io(&self.name, "connect interrupts", e);
        let mut irqs = self.irqs.lock().unwrap_or_else(PoisonError::into_inner);
        if irqs.fds.len() < end {
            irqs.fds.resize_with(end, || None);
        }
        for (slot, fd) in irqs.fds[first as usize..end].iter_mut().zip(fds) {
            *slot = fd.map(|fd| fd.try_clone_to_owned()).transpose().map_err(failed)?;
        }
        let last = irqs.fds.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        let raw: Vec<i32> = irqs
            .fds
            .iter()
            .map(|fd| fd.as_ref().map_or(-1, |fd| fd.as_raw_fd()))
            .collect();
        if last > 0 && end <= irqs.enabled {
            return ioctl::set_irqs(
                self.fd(),
                VFIO_PCI_MSIX_IRQ_INDEX,
                first,
                &raw[first as usize..end],
            )
            .map_err(failed);
        }
        // Kernels before 6.5 fix the number of vectors when MSI-X is switched on; to add some it goes off and on again.
        if irqs.enabled > 0 {
            ioctl::set_irqs(self.fd(), VFIO_PCI_MSIX_IRQ_INDEX, 0, &[]).map_err(failed)?;
            irqs.enabled = 0;
        }
        if last > 0 {
            ioctl::set_irqs(self.fd(), VFIO_PCI_MSIX_IRQ_INDEX, 0, &raw[..last]).map_err(failed)?;
            irqs.enabled = last;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        ioctl::reset(self.fd()).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOTTY | libc::EINVAL) => BusError::Unsupported {
                device: self.name.clone(),
                what: "a function-level reset",
            },
            Some(libc::ENODEV) => self.gone("the kernel took it away"),
            _ => BusError::io(&self.name, "reset", source),
        })
    }

    fn is_alive(&self) -> bool {
        let mut count = [0; 8];
        if rustix::io::read(&self.alarm, &mut count).is_ok() {
            tracing::error!(
                "{}: the device reported a fatal error, or the kernel wants it back",
                self.name
            );
            self.gone.store(true, Ordering::Release);
        }
        !self.gone.load(Ordering::Acquire)
    }

    fn numa_node(&self) -> Option<u32> {
        self.numa
    }
}

impl Drop for Vfio {
    fn drop(&mut self) {
        // `VfioDevice` looks its group up in sysfs when dropped and panics if the device is no longer there. After a
        // surprise removal its file stays open until the process ends instead.
        if self.sysfs.join("iommu_group").exists() {
            // SAFETY: dropped once, here; nothing uses the device afterwards.
            unsafe { ManuallyDrop::drop(&mut self.device) };
        } else {
            tracing::warn!("{} was removed while it was open", self.name);
        }
    }
}

impl fmt::Debug for Vfio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vfio({})", self.name)
    }
}

impl AsFd for Vfio {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// RLIMIT_MEMLOCK, if there is one.
fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_one_clear_line() {
        let message = super::super::open("vfio:ffff:ff:1f.7").unwrap_err().to_string();
        assert!(message.contains("no PCI device ffff:ff:1f.7"), "{message}");
    }

    #[test]
    fn what_the_kernel_says_on_opening_becomes_advice() {
        let explain = |e| explain("vfio:0000:17:00.0", "0000:17:00.0", "/dev/vfio/7".into(), e);
        let os = io::Error::from_raw_os_error;
        let open = |errno| explain(VfioError::OpenGroup(os(errno), "7".into()));
        assert!(matches!(open(libc::EBUSY), BusError::Busy { .. }));
        assert!(open(libc::EBUSY).to_string().contains("fuser /dev/vfio/7"));
        assert!(matches!(open(libc::EACCES), BusError::Permission { .. }));
        assert!(matches!(
            explain(VfioError::OpenContainer(os(libc::ENOENT))),
            BusError::NoVfio { .. }
        ));
        assert!(matches!(
            explain(VfioError::OpenContainer(os(libc::EACCES))),
            BusError::Permission { .. }
        ));
        assert!(matches!(
            explain(VfioError::VfioExtension),
            BusError::NoIommu { .. }
        ));
        assert!(explain(VfioError::GroupViable).to_string().contains("not viable"));
    }
}
