//! One client: its requests, carried out on the model in the order they come.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::io::Errno;
use tracing::{debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use super::Options;
use super::channel::{Channel, Disconnect, Received, Request};
use super::irqs::{self, IrqRoutes};
use crate::device::{Model, REGION_COUNT};
use crate::dma::{Prot, Trust};
use crate::vfio_user::wire::{
    self, CapHeader, Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, Header, IrqInfo, MultiHeader,
    MultiWrite, RegionAccess, RegionInfo, SparseArea, SparseHeader, Version,
};

/// Requests handled in a row before the model gets its turn.
const BURST: usize = 32;

/// A connected client.
#[derive(Debug)]
pub(super) struct Session {
    channel: Channel,
    trust: Trust,
    peer: Option<Capabilities>,
    irqs: IrqRoutes,
    /// Payload of the answer being made.
    answer: Vec<u8>,
    refused: u64,
}

impl Session {
    pub(super) fn new(socket: UnixStream, options: &Options) -> Session {
        Session {
            channel: Channel::new(socket, options.patience),
            trust: options.trust,
            peer: None,
            irqs: IrqRoutes::default(),
            answer: Vec::new(),
            refused: 0,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// True while an answer waits for room in the socket.
    pub(super) fn is_sending(&self) -> bool {
        self.channel.is_sending()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.channel.deadline()
    }

    /// Requests that were answered with an error.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Carries out what has arrived. Returns whether there was anything.
    pub(super) fn service(&mut self, model: &mut dyn Model, now: Instant) -> Result<bool, Disconnect> {
        for done in 0..BURST {
            if self.channel.is_sending() {
                self.channel.flush(now)?;
                if self.channel.is_sending() {
                    return Ok(done > 0);
                }
            }
            match self.channel.receive(now) {
                Ok(Received::Nothing) => return Ok(done > 0),
                Ok(Received::Message) => {}
                Err(e) => return Err(self.complain(e, now)),
            }
            let mut request = self.channel.take();
            self.handle(model, &mut request, now)?;
            self.channel.recycle(request);
        }
        Ok(true)
    }

    /// Leaves nothing of the client behind in the model.
    pub(super) fn end(mut self, model: &mut dyn Model) {
        model.dma().set_enabled(false);
        self.irqs.disconnect(model, None);
        model.dma().unmap_all();
        model.reset();
    }

    /// A header whose size makes no sense is still answered, then the connection ends: where the next message
    /// begins is anyone's guess.
    fn complain(&mut self, why: Disconnect, now: Instant) -> Disconnect {
        if let (Disconnect::BadHeader(_), Some(header)) = (&why, self.channel.header())
            && header.flags & wire::TYPE_MASK == wire::TYPE_COMMAND
        {
            let _ = self.channel.send(
                now,
                header.refusal(Errno::MSGSIZE.raw_os_error()),
                &[],
                Vec::new(),
            );
        }
        why
    }

    fn handle(
        &mut self,
        model: &mut dyn Model,
        request: &mut Request,
        now: Instant,
    ) -> Result<(), Disconnect> {
        let header = request.header;
        if header.flags & wire::TYPE_MASK != wire::TYPE_COMMAND {
            return Err(Disconnect::BadHeader(
                "not a request, and we sent none that it could answer",
            ));
        }
        self.answer.clear();
        let command = Command::from_number(header.command);
        let greeted = self.peer.is_some();
        let result = match command {
            _ if request.fds_lost => Err(Errno::INVAL),
            Some(Command::Version) if !greeted => self.version(request),
            Some(command) if greeted => self.carry_out(model, command, request),
            None if greeted => Err(Errno::NOTSUP),
            _ => Err(Errno::INVAL),
        };
        match result {
            Ok(fds) => {
                if header.wants_reply() {
                    let reply = header.reply(self.answer.len());
                    self.channel.send(now, reply, &self.answer, fds)?;
                }
            }
            Err(errno) => {
                self.refused += 1;
                debug!(?command, number = header.command, id = header.id, %errno, "request refused");
                if header.wants_reply() {
                    self.channel
                        .send(now, header.refusal(errno.raw_os_error()), &[], Vec::new())?;
                }
                if self.peer.is_none() {
                    return Err(Disconnect::Protocol(
                        "the client's version message was not acceptable",
                    ));
                }
            }
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        model: &mut dyn Model,
        command: Command,
        request: &mut Request,
    ) -> Result<Vec<OwnedFd>, Errno> {
        let payload = &request.payload[..];
        match command {
            Command::DmaMap => self.dma_map(model, payload, std::mem::take(&mut request.fds))?,
            Command::DmaUnmap => self.dma_unmap(model, payload)?,
            Command::DeviceGetInfo => self.device_info(),
            Command::DeviceGetRegionInfo => return self.region_info(model, payload),
            Command::DeviceGetIrqInfo => {
                let asked: IrqInfo = fixed(payload)?;
                self.put(&irqs::info(model, asked.index)?);
            }
            Command::DeviceSetIrqs => self.irqs.set(model, payload, std::mem::take(&mut request.fds))?,
            Command::RegionRead => self.region_read(model, payload)?,
            Command::RegionWrite => self.region_write(model, payload)?,
            Command::RegionWriteMulti => self.region_write_multi(model, payload)?,
            Command::DeviceReset => model.reset(),
            Command::Version => return Err(Errno::INVAL),
            Command::DeviceGetRegionIoFds
            | Command::DmaRead
            | Command::DmaWrite
            | Command::DeviceFeature
            | Command::MigDataRead
            | Command::MigDataWrite => return Err(Errno::NOTSUP),
        }
        Ok(Vec::new())
    }

    fn put<T: IntoBytes + zerocopy::Immutable>(&mut self, v: &T) {
        self.answer.extend_from_slice(v.as_bytes());
    }

    fn version(&mut self, request: &Request) -> Result<Vec<OwnedFd>, Errno> {
        let (theirs, data) = Version::read_from_prefix(&request.payload).map_err(|_| Errno::INVAL)?;
        if theirs.major != wire::MAJOR {
            warn!(
                major = theirs.major,
                "client speaks another major version of vfio-user"
            );
            return Err(Errno::PROTONOSUPPORT);
        }
        let offered = Capabilities::decode(data).map_err(|error| {
            warn!(%error, "client's capabilities make no sense");
            Errno::INVAL
        })?;
        if !request.header.wants_reply() {
            return Err(Errno::INVAL);
        }
        let write_multiple = offered.write_multiple && Capabilities::OURS.write_multiple;
        self.put(&Version {
            major: wire::MAJOR,
            minor: theirs.minor.min(wire::MINOR),
        });
        let ours = Capabilities {
            write_multiple,
            ..Capabilities::OURS
        };
        self.answer.extend_from_slice(&ours.encode());
        self.peer = Some(offered);
        Ok(Vec::new())
    }

    fn dma_map(&mut self, model: &mut dyn Model, payload: &[u8], mut fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let map: DmaMap = fixed(payload)?;
        let known = wire::DMA_MAP_READ | wire::DMA_MAP_WRITE;
        if fds.len() > 1 || map.flags & !known != 0 || map.flags & known == 0 {
            return Err(Errno::INVAL);
        }
        let prot = Prot {
            read: map.flags & wire::DMA_MAP_READ != 0,
            write: map.flags & wire::DMA_MAP_WRITE != 0,
        };
        let mapped = match fds.pop() {
            Some(fd) => model
                .dma()
                .map(map.address, map.size, fd, map.offset, prot, self.trust),
            None => model.dma().map_without_memory(map.address, map.size, prot),
        };
        mapped.map_err(|error| {
            warn!(%error, "DMA map refused");
            Errno::from_raw_os_error(error.errno())
        })
    }

    fn dma_unmap(&mut self, model: &mut dyn Model, payload: &[u8]) -> Result<(), Errno> {
        let unmap: DmaUnmap = fixed(payload)?;
        match unmap.flags {
            0 => {
                model.dma().unmap(unmap.address, unmap.size);
            }
            wire::DMA_UNMAP_ALL if unmap.address == 0 && unmap.size == 0 => {
                model.dma().unmap_all();
            }
            flags if flags & wire::DMA_UNMAP_DIRTY_BITMAP != 0 => return Err(Errno::NOTSUP),
            _ => return Err(Errno::INVAL),
        }
        self.put(&unmap);
        Ok(())
    }

    fn device_info(&mut self) {
        self.put(&DeviceInfo {
            argsz: size_of::<DeviceInfo>() as u32,
            flags: wire::DEVICE_FLAG_RESET | wire::DEVICE_FLAG_PCI,
            num_regions: REGION_COUNT,
            num_irqs: wire::IRQ_KINDS,
        });
    }

    /// The capabilities and the descriptor go along only if the client left room for all of it; else `argsz`
    /// tells it how much to leave next time.
    fn region_info(&mut self, model: &mut dyn Model, payload: &[u8]) -> Result<Vec<OwnedFd>, Errno> {
        let asked: RegionInfo = fixed(payload)?;
        if asked.index >= REGION_COUNT {
            return Err(Errno::INVAL);
        }
        let base = size_of::<RegionInfo>();
        let mut info = RegionInfo {
            argsz: base as u32,
            index: asked.index,
            ..RegionInfo::default()
        };
        let Some(region) = model.region(asked.index) else {
            self.put(&info);
            return Ok(Vec::new());
        };
        info.size = region.size;
        let flag = |on: bool, bit| if on { bit } else { 0 };
        info.flags = flag(region.flags.read, wire::REGION_FLAG_READ)
            | flag(region.flags.write, wire::REGION_FLAG_WRITE);
        let shared = model
            .region_fd(asked.index)
            .filter(|_| region.flags.mmap && !region.mmap.is_empty());
        let Some((fd, offset)) = shared else {
            self.put(&info);
            return Ok(Vec::new());
        };
        let full = base
            + size_of::<CapHeader>()
            + size_of::<SparseHeader>()
            + region.mmap.len() * size_of::<SparseArea>();
        info.flags |= wire::REGION_FLAG_MMAP | wire::REGION_FLAG_CAPS;
        info.offset = offset;
        info.argsz = full as u32;
        // QEMU checks it even in an answer without room for the capabilities, where the kernel leaves 0.
        info.cap_offset = base as u32;
        if (asked.argsz as usize) < full {
            self.put(&info);
            return Ok(Vec::new());
        }
        let fd = fd.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        self.put(&info);
        self.put(&CapHeader {
            id: wire::REGION_CAP_SPARSE_MMAP,
            version: 1,
            next: 0,
        });
        self.put(&SparseHeader {
            areas: region.mmap.len() as u32,
            reserved: 0,
        });
        for area in &region.mmap {
            self.put(&SparseArea {
                offset: area.offset,
                size: area.size,
            });
        }
        Ok(vec![fd])
    }

    fn region_read(&mut self, model: &mut dyn Model, payload: &[u8]) -> Result<(), Errno> {
        let access: RegionAccess = fixed(payload)?;
        let count = checked_count(access.count)?;
        self.put(&access);
        let at = self.answer.len();
        self.answer.resize(at + count, 0);
        model
            .read(access.region, access.offset, &mut self.answer[at..])
            .map_err(|error| {
                debug!(%error, "register read refused");
                Errno::INVAL
            })
    }

    fn region_write(&mut self, model: &mut dyn Model, payload: &[u8]) -> Result<(), Errno> {
        let (access, data) = RegionAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        if data.len() != checked_count(access.count)? {
            return Err(Errno::INVAL);
        }
        write(model, access.region, access.offset, data)?;
        self.put(&access);
        Ok(())
    }

    fn region_write_multi(&mut self, model: &mut dyn Model, payload: &[u8]) -> Result<(), Errno> {
        let (header, mut rest) = MultiHeader::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        if header.writes.checked_mul(size_of::<MultiWrite>() as u64) != Some(rest.len() as u64) {
            return Err(Errno::INVAL);
        }
        while let Ok((one, more)) = MultiWrite::read_from_prefix(rest) {
            let data = one.data.get(..one.count as usize).ok_or(Errno::INVAL)?;
            write(model, one.region, one.offset, data)?;
            rest = more;
        }
        self.put(&header);
        Ok(())
    }
}

fn write(model: &mut dyn Model, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
    model.write(region, offset, data).map_err(|error| {
        debug!(%error, "register write refused");
        Errno::INVAL
    })
}

fn checked_count(count: u32) -> Result<usize, Errno> {
    let count = count as usize;
    if count == 0 || count > wire::MAX_TRANSFER {
        Err(Errno::INVAL)
    } else {
        Ok(count)
    }
}

/// A payload of fixed layout; what a newer client may have put behind it is left alone.
fn fixed<T: FromBytes>(payload: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(payload)
        .map(|(v, _)| v)
        .map_err(|_| Errno::INVAL)
}

/// Tells a second client that the device is taken, and hangs up.
pub(super) fn turn_away(socket: UnixStream) {
    let refusal = Header::request(0, Command::Version, 0).refusal(Errno::BUSY.raw_os_error());
    let _ = rustix::net::send(
        &socket,
        refusal.as_bytes(),
        rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL,
    );
}
