//! The vfio-user client: a device behind a Unix socket.
//!
//! After the vfio-user specification (docs/interop/vfio-user.rst of QEMU). BAR pages that the server shares are
//! mapped; writes to the rest of a BAR are posted, as they are on PCI, and everything else waits for its answer.
//! The server is not trusted: memory it shares must be sealed, lengths and ids are checked, and each request has
//! a deadline, after which the device counts as gone.

mod regions;
mod transport;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use millrace_nic_models::vfio_user::wire::{
    self, Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, RegionAccess, SetIrqs, Version,
};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket, socket_with,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{BusError, CONFIG_REGION, Device, IOVA_LIMIT, MappedArea, MmapArea, ROM_REGION, RegionInfo};
use crate::mem::DmaMemory;
use regions::{MAX_REPLY, Region};
use transport::{Answer, Failure, Transport};

/// How long a request may take. A reset is the slowest, and no model takes a second for it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to knock at a server that is busy: one whose last client was killed notices within moments.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
/// Regions of a PCI device that matter here: six BARs, ROM, configuration space.
const REGIONS: u32 = CONFIG_REGION + 1;

#[derive(Debug)]
struct VfioUserDevice {
    name: String,
    transport: Mutex<Transport>,
    watch: UnixStream,
    alive: AtomicBool,
    why_gone: OnceLock<String>,
    peer: Capabilities,
    can_reset: bool,
    regions: Vec<Region>,
    vectors: u32,
}

/// Connects to the vfio-user server that listens on `path`.
///
/// # Errors
/// [`BusError::Unreachable`] when nobody listens, [`BusError::Permission`], [`BusError::Busy`] when the server has
/// another client, [`BusError::Protocol`] when it speaks another version or makes no sense.
pub fn connect(path: &Path) -> Result<Arc<dyn Device>, BusError> {
    let name = format!("vfio-user:{}", path.display());
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match dial(path, deadline).and_then(|socket| from_stream(socket, &name)) {
            Err(BusError::Busy { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10))
            }
            done => return done,
        }
    }
}

/// Speaks vfio-user over a connected socket; `name` is the device string for messages.
pub fn from_stream(stream: UnixStream, name: &str) -> Result<Arc<dyn Device>, BusError> {
    from_stream_with_timeout(stream, name, REQUEST_TIMEOUT)
}

/// As [`from_stream`], with another limit on how long a request may take.
pub fn from_stream_with_timeout(
    stream: UnixStream,
    name: &str,
    timeout: Duration,
) -> Result<Arc<dyn Device>, BusError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |e| BusError::io(name, what, e)
    };
    let mut transport = Transport::new(stream, timeout).map_err(io("cannot set up the socket"))?;
    let watch = transport.watch().map_err(io("cannot set up the socket"))?;
    let peer = negotiate(&mut transport, name)?;
    let mut device = VfioUserDevice {
        name: name.to_owned(),
        transport: Mutex::new(transport),
        watch,
        alive: AtomicBool::new(true),
        why_gone: OnceLock::new(),
        peer,
        can_reset: false,
        regions: Vec::new(),
        vectors: 0,
    };
    device.discover()?;
    Ok(Arc::new(device))
}

/// Connects without waiting for a server that has stopped accepting.
fn dial(path: &Path, deadline: Instant) -> Result<UnixStream, BusError> {
    let unreachable = |e: rustix::io::Errno| BusError::Unreachable {
        path: path.to_owned(),
        source: e.into(),
    };
    let address = SocketAddrUnix::new(path).map_err(unreachable)?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(unreachable)?;
        match connect_socket(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10)); // its queue of waiting clients is full
            }
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
                return Err(BusError::Permission {
                    path: path.to_owned(),
                });
            }
            Err(e) => return Err(unreachable(e)),
        }
    }
}

/// Agrees on a version, and learns what the server can take.
fn negotiate(transport: &mut Transport, name: &str) -> Result<Capabilities, BusError> {
    let protocol = |what: String| BusError::Protocol {
        device: name.to_owned(),
        what,
    };
    let ours = Version {
        major: wire::MAJOR,
        minor: wire::MINOR,
    };
    let offer = Capabilities {
        max_msg_fds: 8,
        write_multiple: false,
        ..Capabilities::OURS
    }
    .encode();
    let answer = match transport.call(Command::Version, &[ours.as_bytes(), &offer], &[]) {
        Ok(answer) => answer,
        Err(Failure::Refused(e)) if e.raw_os_error() == Some(libc::EBUSY) => {
            let path = PathBuf::from(name.strip_prefix("vfio-user:").unwrap_or(name));
            return Err(BusError::Busy {
                device: name.to_owned(),
                path,
            });
        }
        Err(Failure::Refused(e)) => {
            return Err(protocol(format!(
                "it refused version {}.{}: {e}",
                ours.major, ours.minor
            )));
        }
        Err(Failure::Gone(why)) => {
            return Err(protocol(format!(
                "{why} while versions were negotiated; it may speak another version, or serve another client"
            )));
        }
    };
    let Ok((theirs, data)) = Version::read_from_prefix(&answer.payload) else {
        return Err(protocol("its version message is too short".into()));
    };
    if theirs.major != ours.major || theirs.minor > ours.minor {
        return Err(protocol(format!(
            "it speaks version {}.{}, this driver {}.{}",
            theirs.major, theirs.minor, ours.major, ours.minor
        )));
    }
    Capabilities::decode(data).map_err(|e| protocol(e.to_string()))
}

impl VfioUserDevice {
    fn discover(&mut self) -> Result<(), BusError> {
        let ask = DeviceInfo {
            argsz: size_of::<DeviceInfo>() as u32,
            ..DeviceInfo::default()
        };
        let info: DeviceInfo = self.ask(Command::DeviceGetInfo, &ask, "device info")?;
        if info.flags & wire::DEVICE_FLAG_PCI == 0 {
            return Err(self.protocol("its device is no PCI device"));
        }
        if info.num_regions < REGIONS {
            return Err(self.protocol("its device has no configuration space"));
        }
        self.can_reset = info.flags & wire::DEVICE_FLAG_RESET != 0;
        for index in 0..REGIONS {
            let region = self.region_info(index)?;
            self.regions.push(region);
        }
        if info.num_irqs > wire::IRQ_MSIX {
            let ask = IrqInfo {
                argsz: size_of::<IrqInfo>() as u32,
                index: wire::IRQ_MSIX,
                ..IrqInfo::default()
            };
            let msix: IrqInfo = self.ask(Command::DeviceGetIrqInfo, &ask, "interrupt info")?;
            // PCI allows 2048 MSI-X vectors.
            self.vectors = if msix.flags & wire::IRQ_INFO_EVENTFD != 0 {
                msix.count.min(2048)
            } else {
                0
            };
        }
        Ok(())
    }

    fn region_info(&self, index: u32) -> Result<Region, BusError> {
        let base = size_of::<wire::RegionInfo>();
        let mut argsz = base as u32;
        loop {
            let ask = wire::RegionInfo {
                argsz,
                index,
                ..wire::RegionInfo::default()
            };
            let answer = self.call(
                Command::DeviceGetRegionInfo,
                &[ask.as_bytes()],
                &[],
                "region info",
            )?;
            let (info, _) = self.understood(answer.layout::<wire::RegionInfo>())?;
            if info.argsz > argsz && argsz == base as u32 && info.argsz as usize <= MAX_REPLY {
                argsz = info.argsz; // there are capabilities: ask again with room for them
                continue;
            }
            let parsed = regions::parse(&self.name, &info, answer);
            return parsed.map_err(|what| self.protocol(&format!("region {index}: {what}")));
        }
    }

    fn protocol(&self, what: &str) -> BusError {
        BusError::Protocol {
            device: self.name.clone(),
            what: what.to_owned(),
        }
    }

    fn gone(&self) -> BusError {
        let reason = self
            .why_gone
            .get()
            .cloned()
            .unwrap_or_else(|| "it closed the connection".into());
        BusError::Gone {
            device: self.name.clone(),
            reason,
        }
    }

    fn fail(&self, failure: Failure, what: &str) -> BusError {
        match failure {
            Failure::Refused(source) => BusError::Refused {
                device: self.name.clone(),
                what: what.to_owned(),
                source,
            },
            Failure::Gone(why) => {
                let _ = self.why_gone.set(why);
                self.alive.store(false, Ordering::Release);
                // Whatever else is under way ends now.
                let _ = self.watch.shutdown(std::net::Shutdown::Both);
                self.gone()
            }
        }
    }

    fn understood<T>(&self, answer: Result<T, Failure>) -> Result<T, BusError> {
        answer.map_err(|failure| self.fail(failure, "an answer"))
    }

    fn call(
        &self,
        command: Command,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        what: &str,
    ) -> Result<Answer, BusError> {
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.alive.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        transport
            .call(command, payload, fds)
            .map_err(|failure| self.fail(failure, what))
    }

    /// Sends a fixed layout and gets one back.
    fn ask<T: IntoBytes + FromBytes + zerocopy::Immutable>(
        &self,
        command: Command,
        ask: &T,
        what: &str,
    ) -> Result<T, BusError> {
        let answer = self.call(command, &[ask.as_bytes()], &[], what)?;
        self.understood(answer.layout().map(|(v, _)| v))
    }

    fn check(&self, index: u32, offset: u64, len: usize) -> Result<(), BusError> {
        let size = match self.regions.get(index as usize) {
            Some(region) if region.info.size > 0 => region.info.size,
            _ => {
                return Err(BusError::NoRegion {
                    device: self.name.clone(),
                    index,
                });
            }
        };
        let len = len as u64;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(BusError::OutOfRange {
                device: self.name.clone(),
                index,
                offset,
                len,
                size,
            });
        }
        Ok(())
    }

    /// Largest piece that one read or write may carry.
    fn piece(&self) -> usize {
        self.peer.max_data_xfer_size.clamp(4, wire::MAX_TRANSFER as u64) as usize
    }

    fn dma_error(&self, error: BusError, what: &'static str, iova: u64, len: u64) -> BusError {
        match error {
            BusError::Refused { device, source, .. } => BusError::Dma {
                device,
                what,
                iova,
                len,
                source,
            },
            other => other,
        }
    }

    fn set_irq_run(&self, start: u32, count: u32, fds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        let set = SetIrqs {
            argsz: size_of::<SetIrqs>() as u32,
            flags: wire::IRQ_SET_DATA_EVENTFD | wire::IRQ_SET_ACTION_TRIGGER,
            index: wire::IRQ_MSIX,
            start,
            count,
        };
        self.call(Command::DeviceSetIrqs, &[set.as_bytes()], fds, "interrupt set-up")
            .map(drop)
    }
}

impl Device for VfioUserDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn region(&self, index: u32) -> Result<RegionInfo, BusError> {
        match self.regions.get(index as usize) {
            Some(region) => Ok(region.info.clone()),
            None => Err(BusError::NoRegion {
                device: self.name.clone(),
                index,
            }),
        }
    }

    fn map(&self, index: u32) -> Result<Vec<MappedArea>, BusError> {
        let Some(region) = self.regions.get(index as usize) else {
            return Err(BusError::NoRegion {
                device: self.name.clone(),
                index,
            });
        };
        let Some((fd, start)) = &region.file else {
            return Ok(Vec::new());
        };
        let map = |area: &MmapArea| MappedArea::map(fd.as_fd(), start + area.offset, area.offset, area.len);
        let mapped: io::Result<Vec<MappedArea>> = region.info.mmap.iter().map(map).collect();
        mapped.map_err(|e| BusError::io(&self.name, format!("cannot map region {index}"), e))
    }

    fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.check(index, offset, buf.len())?;
        let mut at = offset;
        for part in buf.chunks_mut(self.piece()) {
            let access = RegionAccess {
                offset: at,
                region: index,
                count: part.len() as u32,
            };
            let answer = self.call(Command::RegionRead, &[access.as_bytes()], &[], "a register read")?;
            let (_, data) = self.understood(answer.layout::<RegionAccess>())?;
            if data.len() != part.len() {
                let what = format!("it answered a read of {} bytes with {}", part.len(), data.len());
                return Err(self.fail(Failure::Gone(what), "a register read"));
            }
            part.copy_from_slice(data);
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write(&self, index: u32, offset: u64, data: &[u8]) -> Result<(), BusError> {
        self.check(index, offset, data.len())?;
        let mut at = offset;
        for part in data.chunks(self.piece()) {
            let access = RegionAccess {
                offset: at,
                region: index,
                count: part.len() as u32,
            };
            let payload = [access.as_bytes(), part];
            if index < ROM_REGION {
                // Memory writes are posted on PCI, too; a read of the device is what waits for them.
                let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.alive.load(Ordering::Acquire) {
                    return Err(self.gone());
                }
                transport
                    .post(Command::RegionWrite, &payload)
                    .map_err(|failure| self.fail(failure, "a register write"))?;
            } else {
                self.call(Command::RegionWrite, &payload, &[], "a register write")?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    fn dma_map(&self, iova: u64, mem: &DmaMemory) -> Result<(), BusError> {
        let size = mem.len() as u64;
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: wire::DMA_MAP_READ | wire::DMA_MAP_WRITE,
            offset: 0,
            address: iova,
            size,
        };
        self.call(Command::DmaMap, &[map.as_bytes()], &[mem.fd()], "a DMA map")
            .map(drop)
            .map_err(|e| self.dma_error(e, "map", iova, size))
    }

    fn dma_unmap(&self, iova: u64, len: u64) -> Result<(), BusError> {
        let unmap = DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            address: iova,
            size: len,
        };
        self.call(Command::DmaUnmap, &[unmap.as_bytes()], &[], "a DMA unmap")
            .map(drop)
            .map_err(|e| self.dma_error(e, "unmap", iova, len))
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0..=IOVA_LIMIT - 1]
    }

    fn irq_count(&self) -> u32 {
        self.vectors
    }

    fn set_irqs(&self, first: u32, fds: &[Option<BorrowedFd<'_>>]) -> Result<(), BusError> {
        let end = u32::try_from(fds.len()).ok().and_then(|n| first.checked_add(n));
        if end.is_none_or(|end| end > self.vectors) {
            return Err(BusError::Refused {
                device: self.name.clone(),
                what: format!("{} vectors from {first} on: it has {}", fds.len(), self.vectors),
                source: io::Error::from_raw_os_error(libc::EINVAL),
            });
        }
        let most = self.peer.max_msg_fds.clamp(1, wire::MAX_FDS as u32) as usize;
        let mut start = first;
        // A message connects vectors or disconnects them, never both.
        for run in fds.chunk_by(|a, b| a.is_some() == b.is_some()) {
            for part in run.chunks(most) {
                let some: Vec<BorrowedFd<'_>> = part.iter().copied().flatten().collect();
                self.set_irq_run(start, part.len() as u32, &some)?;
                start += part.len() as u32;
            }
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        if !self.can_reset {
            return Err(BusError::Unsupported {
                device: self.name.clone(),
                what: "reset",
            });
        }
        self.call(Command::DeviceReset, &[], &[], "a reset").map(drop)
    }

    fn is_alive(&self) -> bool {
        if self.alive.load(Ordering::Acquire) && !transport::is_open(&self.watch) {
            let _ = self.why_gone.set("it closed the connection".into());
            self.alive.store(false, Ordering::Release);
        }
        self.alive.load(Ordering::Acquire)
    }
}
