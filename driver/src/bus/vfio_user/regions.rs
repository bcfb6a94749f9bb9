//! What a server says about a region, checked: nothing is mapped that lies outside the region or that the server could
//! take away under us.

use std::os::fd::{AsFd, OwnedFd};

use millrace_nic_models::vfio_user::wire::{self, CapHeader, SparseArea, SparseHeader};
use zerocopy::FromBytes;

use super::transport::Answer;
use crate::bus::{MmapArea, RegionInfo};
use crate::mem::require_sealed;

/// Mappable areas accepted in one region.
const MAX_AREAS: u32 = 1024;
/// Longest answer about a region that is asked for.
pub(super) const MAX_REPLY: usize = size_of::<wire::RegionInfo>()
    + size_of::<CapHeader>()
    + size_of::<SparseHeader>()
    + MAX_AREAS as usize * size_of::<SparseArea>();
const PAGE: u64 = 4096;

/// A region of the device.
#[derive(Debug, Default)]
pub(super) struct Region {
    pub info: RegionInfo,
    /// The file behind the mappable areas, and where in it the region begins.
    pub file: Option<(OwnedFd, u64)>,
}

/// Takes an answer apart. An error says how it makes no sense.
pub(super) fn parse(device: &str, info: &wire::RegionInfo, mut answer: Answer) -> Result<Region, String> {
    let mut region = Region {
        info: RegionInfo {
            size: info.size,
            readable: info.flags & wire::REGION_FLAG_READ != 0,
            writable: info.flags & wire::REGION_FLAG_WRITE != 0,
            mmap: Vec::new(),
        },
        file: None,
    };
    if info.flags & wire::REGION_FLAG_MMAP == 0 {
        return Ok(region);
    }
    let Some(fd) = answer.fds.pop() else {
        return Ok(region);
    };
    let whole = MmapArea {
        offset: 0,
        len: info.size,
    };
    let areas = sparse_areas(info, &answer.payload)?.unwrap_or_else(|| vec![whole]);
    let mut end = 0;
    for area in &areas {
        let last = area
            .offset
            .checked_add(area.len)
            .filter(|&last| last <= info.size);
        let file_end = last.and_then(|last| last.checked_add(info.offset));
        let aligned = (area.offset | area.len | info.offset).is_multiple_of(PAGE) && area.len > 0;
        match file_end {
            Some(file_end) if aligned => end = end.max(file_end),
            _ => {
                return Err(format!(
                    "{:#x} bytes at {:#x} cannot be mapped",
                    area.len, area.offset
                ));
            }
        }
    }
    match require_sealed(fd.as_fd(), end) {
        Ok(()) => {
            region.info.mmap = areas;
            region.file = Some((fd, info.offset));
        }
        Err(e) => tracing::warn!(
            "{device}: region {} is accessed by message, not mapped: {e}",
            info.index
        ),
    }
    Ok(region)
}

/// The areas of a region's sparse mmap capability; `None` when it has none, so that all of it can be mapped.
fn sparse_areas(info: &wire::RegionInfo, payload: &[u8]) -> Result<Option<Vec<MmapArea>>, String> {
    if info.flags & wire::REGION_FLAG_CAPS == 0 {
        return Ok(None);
    }
    let mut at = info.cap_offset as usize;
    let short = || "its capabilities end too soon".to_owned();
    while at != 0 {
        let bytes = payload.get(at..).ok_or_else(short)?;
        let (cap, rest) = CapHeader::read_from_prefix(bytes).map_err(|_| short())?;
        if cap.id == wire::REGION_CAP_SPARSE_MMAP {
            let (sparse, mut rest) = SparseHeader::read_from_prefix(rest).map_err(|_| short())?;
            if sparse.areas > MAX_AREAS {
                return Err(format!("it claims {} mappable areas", sparse.areas));
            }
            let mut areas = Vec::new();
            for _ in 0..sparse.areas {
                let (area, more) = SparseArea::read_from_prefix(rest).map_err(|_| short())?;
                areas.push(MmapArea {
                    offset: area.offset,
                    len: area.size,
                });
                rest = more;
            }
            return Ok(Some(areas));
        }
        let next = cap.next as usize;
        if next != 0 && next <= at {
            return Err("its capabilities run in a circle".into());
        }
        at = next;
    }
    Ok(None)
}
