//! Message layouts of the vfio-user protocol, version 0; no I/O here.
//!
//! After the "vfio-user Protocol Specification" (docs/interop/vfio-user.rst of QEMU, docs/vfio-user.rst of
//! libvfio-user) and `<linux/vfio.h>`, whose structures several payloads are. All fields are in host byte
//! order. A message is a [`Header`] and a payload; file descriptors travel as `SCM_RIGHTS` beside it.

use std::fmt;

use serde_json::{Map, Value, json};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version spoken here.
pub const MAJOR: u16 = 0;
/// Newest minor version spoken here.
pub const MINOR: u16 = 1;

/// Most bytes this implementation moves in one read or write message.
pub const MAX_TRANSFER: usize = 64 * 1024;
/// Longest message this implementation accepts.
pub const MAX_MESSAGE: usize = HEADER_SIZE + 64 + MAX_TRANSFER;
/// Most file descriptors this implementation takes with one message.
pub const MAX_FDS: usize = 16;

pub const HEADER_SIZE: usize = size_of::<Header>();

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    Version = 1,
    DmaMap = 2,
    DmaUnmap = 3,
    DeviceGetInfo = 4,
    DeviceGetRegionInfo = 5,
    DeviceGetRegionIoFds = 6,
    DeviceGetIrqInfo = 7,
    DeviceSetIrqs = 8,
    RegionRead = 9,
    RegionWrite = 10,
    DmaRead = 11,
    DmaWrite = 12,
    DeviceReset = 13,
    RegionWriteMulti = 15,
    DeviceFeature = 16,
    MigDataRead = 17,
    MigDataWrite = 18,
}

impl Command {
    pub const ALL: [Command; 17] = [
        Command::Version,
        Command::DmaMap,
        Command::DmaUnmap,
        Command::DeviceGetInfo,
        Command::DeviceGetRegionInfo,
        Command::DeviceGetRegionIoFds,
        Command::DeviceGetIrqInfo,
        Command::DeviceSetIrqs,
        Command::RegionRead,
        Command::RegionWrite,
        Command::DmaRead,
        Command::DmaWrite,
        Command::DeviceReset,
        Command::RegionWriteMulti,
        Command::DeviceFeature,
        Command::MigDataRead,
        Command::MigDataWrite,
    ];

    pub fn from_number(n: u16) -> Option<Command> {
        Command::ALL.into_iter().find(|&c| c as u16 == n)
    }
}

/// Low four bits of [`Header::flags`]: a request, or its answer.
pub const TYPE_MASK: u32 = 0xf;
pub const TYPE_COMMAND: u32 = 0;
pub const TYPE_REPLY: u32 = 1;
/// The sender of a request wants no answer to it.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// The answer is a refusal; [`Header::error`] is an errno.
pub const FLAG_ERROR: u32 = 1 << 5;

/// Begins every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of a request and echoed in the answer.
    pub id: u16,
    pub command: u16,
    /// Of the whole message, with this header.
    pub size: u32,
    pub flags: u32,
    pub error: u32,
}

impl Header {
    /// Header of a request whose payload has `payload` bytes.
    pub fn request(id: u16, command: Command, payload: usize) -> Header {
        let size = (HEADER_SIZE + payload) as u32;
        Header {
            id,
            command: command as u16,
            size,
            flags: TYPE_COMMAND,
            error: 0,
        }
    }

    /// Header of the answer to `self`.
    pub fn reply(&self, payload: usize) -> Header {
        Header {
            size: (HEADER_SIZE + payload) as u32,
            flags: TYPE_REPLY,
            error: 0,
            ..*self
        }
    }

    /// The refusal of `self`; a refusal has no payload.
    pub fn refusal(&self, errno: i32) -> Header {
        let error = errno.unsigned_abs();
        Header {
            size: HEADER_SIZE as u32,
            flags: TYPE_REPLY | FLAG_ERROR,
            error,
            ..*self
        }
    }

    pub fn is_reply(&self) -> bool {
        self.flags & TYPE_MASK == TYPE_REPLY
    }

    pub fn wants_reply(&self) -> bool {
        self.flags & FLAG_NO_REPLY == 0
    }

    pub fn is_error(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }

    /// Payload bytes that follow, if the size makes sense and is no more than `limit` for the message.
    pub fn payload(&self, limit: usize) -> Option<usize> {
        let size = self.size as usize;
        (HEADER_SIZE..=limit).contains(&size).then(|| size - HEADER_SIZE)
    }
}

/// `VFIO_USER_VERSION`; NUL-terminated JSON follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

/// `VFIO_USER_DMA_MAP`; with no or one file descriptor. The answer has no payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub size: u64,
}

pub const DMA_MAP_READ: u32 = 1 << 0;
pub const DMA_MAP_WRITE: u32 = 1 << 1;

/// `VFIO_USER_DMA_UNMAP`, also its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
}

/// Wants the dirty page bitmap of what is unmapped.
pub const DMA_UNMAP_DIRTY_BITMAP: u32 = 1 << 0;
/// Unmaps everything; address and size are 0.
pub const DMA_UNMAP_ALL: u32 = 1 << 1;

/// `VFIO_USER_DEVICE_GET_INFO`, request and answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DeviceInfo {
    pub argsz: u32,
    pub flags: u32,
    pub num_regions: u32,
    pub num_irqs: u32,
}

pub const DEVICE_FLAG_RESET: u32 = 1 << 0;
pub const DEVICE_FLAG_PCI: u32 = 1 << 1;

/// `VFIO_USER_DEVICE_GET_REGION_INFO`, request and answer; capabilities may follow the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub cap_offset: u32,
    pub size: u64,
    /// File offset of the region's offset 0.
    pub offset: u64,
}

pub const REGION_FLAG_READ: u32 = 1 << 0;
pub const REGION_FLAG_WRITE: u32 = 1 << 1;
pub const REGION_FLAG_MMAP: u32 = 1 << 2;
pub const REGION_FLAG_CAPS: u32 = 1 << 3;

/// Begins every capability of a region; offsets count from the start of [`RegionInfo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CapHeader {
    pub id: u16,
    pub version: u16,
    pub next: u32,
}

pub const REGION_CAP_SPARSE_MMAP: u16 = 1;

/// Follows the [`CapHeader`] of a sparse mmap capability; that many [`SparseArea`] follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SparseHeader {
    pub areas: u32,
    pub reserved: u32,
}

/// A part of a region that can be mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SparseArea {
    pub offset: u64,
    pub size: u64,
}

/// `VFIO_USER_DEVICE_GET_IRQ_INFO`, request and answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct IrqInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub count: u32,
}

pub const IRQ_INFO_EVENTFD: u32 = 1 << 0;
pub const IRQ_INFO_MASKABLE: u32 = 1 << 1;
pub const IRQ_INFO_AUTOMASKED: u32 = 1 << 2;
pub const IRQ_INFO_NORESIZE: u32 = 1 << 3;

pub const IRQ_INTX: u32 = 0;
pub const IRQ_MSI: u32 = 1;
pub const IRQ_MSIX: u32 = 2;
pub const IRQ_ERR: u32 = 3;
pub const IRQ_REQ: u32 = 4;
/// Kinds of interrupt of a PCI device.
pub const IRQ_KINDS: u32 = 5;

/// `VFIO_USER_DEVICE_SET_IRQS`; bytes follow for `DATA_BOOL`, eventfds come along for `DATA_EVENTFD`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SetIrqs {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
}

pub const IRQ_SET_DATA_NONE: u32 = 1 << 0;
pub const IRQ_SET_DATA_BOOL: u32 = 1 << 1;
pub const IRQ_SET_DATA_EVENTFD: u32 = 1 << 2;
pub const IRQ_SET_ACTION_MASK: u32 = 1 << 3;
pub const IRQ_SET_ACTION_UNMASK: u32 = 1 << 4;
pub const IRQ_SET_ACTION_TRIGGER: u32 = 1 << 5;

/// `VFIO_USER_REGION_READ` and `_WRITE`; data follow the request of a write and the answer to a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionAccess {
    pub offset: u64,
    pub region: u32,
    pub count: u32,
}

/// `VFIO_USER_REGION_WRITE_MULTI`, request and answer; that many [`MultiWrite`] follow the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MultiHeader {
    pub writes: u64,
}

/// One write of at most eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MultiWrite {
    pub offset: u64,
    pub region: u32,
    pub count: u32,
    pub data: [u8; 8],
}

/// What one side can do, as said in the version message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// File descriptors the sender takes with one message.
    pub max_msg_fds: u32,
    /// Bytes the sender takes in one read or write message.
    pub max_data_xfer_size: u64,
    /// DMA mappings that may exist at once.
    pub max_dma_maps: u32,
    /// Knows `VFIO_USER_REGION_WRITE_MULTI`.
    pub write_multiple: bool,
}

impl Default for Capabilities {
    /// What the specification says to assume when nothing is said.
    fn default() -> Self {
        Capabilities {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65535,
            write_multiple: false,
        }
    }
}

/// Why a version message could not be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCapabilities(String);

impl fmt::Display for BadCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version data: {}", self.0)
    }
}

impl std::error::Error for BadCapabilities {}

impl Capabilities {
    /// What this implementation can do.
    pub const OURS: Capabilities = Capabilities {
        max_msg_fds: MAX_FDS as u32,
        max_data_xfer_size: MAX_TRANSFER as u64,
        max_dma_maps: 65535,
        write_multiple: true,
    };

    /// The bytes that follow [`Version`]: JSON and a NUL.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Map::new();
        capabilities.insert("max_msg_fds".into(), json!(self.max_msg_fds));
        capabilities.insert("max_data_xfer_size".into(), json!(self.max_data_xfer_size));
        capabilities.insert("max_dma_maps".into(), json!(self.max_dma_maps));
        if self.write_multiple {
            capabilities.insert("write_multiple".into(), json!(true));
        }
        let mut bytes = json!({ "capabilities": capabilities }).to_string().into_bytes();
        bytes.push(0);
        bytes
    }

    /// Reads what follows [`Version`]. Nothing, or an object without `capabilities`, means the defaults;
    /// unknown names are left alone.
    pub fn decode(bytes: &[u8]) -> Result<Capabilities, BadCapabilities> {
        let mut out = Capabilities::default();
        let text = match bytes {
            [] => return Ok(out),
            [text @ .., 0] => text,
            _ => return Err(BadCapabilities("the JSON is not NUL-terminated".into())),
        };
        if text.is_empty() {
            return Ok(out);
        }
        let value: Value = serde_json::from_slice(text).map_err(|e| BadCapabilities(e.to_string()))?;
        let Some(top) = value.as_object() else {
            return Err(BadCapabilities("not a JSON object".into()));
        };
        let Some(capabilities) = top.get("capabilities") else {
            return Ok(out);
        };
        let Some(map) = capabilities.as_object() else {
            return Err(BadCapabilities("`capabilities` is not an object".into()));
        };
        if let Some(n) = number(map, "max_msg_fds")? {
            out.max_msg_fds = u32::try_from(n).unwrap_or(u32::MAX);
        }
        if let Some(n) = number(map, "max_data_xfer_size")? {
            out.max_data_xfer_size = n;
        }
        if let Some(n) = number(map, "max_dma_maps")? {
            out.max_dma_maps = u32::try_from(n).unwrap_or(u32::MAX);
        }
        match map.get("write_multiple") {
            None => {}
            Some(Value::Bool(b)) => out.write_multiple = *b,
            Some(_) => return Err(BadCapabilities("`write_multiple` is not true or false".into())),
        }
        Ok(out)
    }
}

fn number(map: &Map<String, Value>, name: &str) -> Result<Option<u64>, BadCapabilities> {
    match map.get(name) {
        None => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) => Ok(Some(n)),
            None => Err(BadCapabilities(format!(
                "`{name}` is not a non-negative whole number"
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_specification() {
        assert_eq!(size_of::<Header>(), 16);
        assert_eq!(size_of::<Version>(), 4);
        assert_eq!(size_of::<DmaMap>(), 32);
        assert_eq!(size_of::<DmaUnmap>(), 24);
        assert_eq!(size_of::<DeviceInfo>(), 16);
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(size_of::<CapHeader>(), 8);
        assert_eq!(size_of::<SparseHeader>(), 8);
        assert_eq!(size_of::<SparseArea>(), 16);
        assert_eq!(size_of::<IrqInfo>(), 16);
        assert_eq!(size_of::<SetIrqs>(), 20);
        assert_eq!(size_of::<RegionAccess>(), 16);
        assert_eq!(size_of::<MultiHeader>(), 8);
        assert_eq!(size_of::<MultiWrite>(), 24);
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let map = DmaMap {
            argsz: 1,
            flags: 2,
            offset: 3,
            address: 4,
            size: 5,
        };
        let b = map.as_bytes();
        assert_eq!((b[0], b[4], b[8], b[16], b[24]), (1, 2, 3, 4, 5));
        let header = Header {
            id: 1,
            command: 2,
            size: 3,
            flags: 4,
            error: 5,
        };
        let b = header.as_bytes();
        assert_eq!((b[0], b[2], b[4], b[8], b[12]), (1, 2, 3, 4, 5));
    }

    #[test]
    fn command_numbers_are_found_and_unknown_ones_are_not() {
        for c in Command::ALL {
            assert_eq!(Command::from_number(c as u16), Some(c));
        }
        for n in [0, 14, 19, u16::MAX] {
            assert_eq!(Command::from_number(n), None);
        }
    }

    #[test]
    fn a_refusal_echoes_id_and_command_and_has_no_payload() {
        let request = Header::request(77, Command::RegionRead, 16);
        let refusal = request.refusal(22);
        assert_eq!(
            (refusal.id, refusal.command, refusal.size, refusal.error),
            (77, 9, 16, 22)
        );
        assert!(refusal.is_reply() && refusal.is_error());
    }

    #[test]
    fn capabilities_survive_a_round_trip() {
        assert_eq!(
            Capabilities::decode(&Capabilities::OURS.encode()),
            Ok(Capabilities::OURS)
        );
    }

    #[test]
    fn missing_capabilities_mean_the_defaults() {
        for bytes in [
            &b""[..],
            b"\0",
            b"{}\0",
            b"{\"capabilities\":{}}\0",
            b"{\"x\":[1]}\0",
        ] {
            assert_eq!(Capabilities::decode(bytes), Ok(Capabilities::default()));
        }
    }

    #[test]
    fn nonsense_capabilities_are_refused() {
        let bad: [&[u8]; 7] = [
            b"{}",
            b"[]\0",
            b"{\"capabilities\":3}\0",
            b"{\"capabilities\":{\"max_msg_fds\":-1}}\0",
            b"{\"capabilities\":{\"max_msg_fds\":\"8\"}}\0",
            b"{\"capabilities\":{\"write_multiple\":1}}\0",
            b"\xff\xfe\0",
        ];
        for bytes in bad {
            assert!(
                Capabilities::decode(bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn what_qemu_offers_is_understood() {
        let qemu = br#"{"capabilities": {"max_data_xfer_size": 1048576, "max_msg_fds": 8, "pgsizes": 4096,
            "max_dma_maps": 65535, "write_multiple": true, "migration": {"pgsize": 4096}}}"#;
        let mut bytes = qemu.to_vec();
        bytes.push(0);
        let caps = Capabilities::decode(&bytes).unwrap();
        assert_eq!(
            (caps.max_msg_fds, caps.max_data_xfer_size, caps.write_multiple),
            (8, 1 << 20, true)
        );
    }
}
