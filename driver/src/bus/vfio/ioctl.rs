//! The VFIO requests that `vfio-ioctls` leaves out or whose failure it only logs (linux/vfio.h).

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, VFIO_TYPE,
};

/// `_IO(VFIO_TYPE, VFIO_BASE + n)`: VFIO's requests carry no size, each structure starts with its own.
const fn request(n: u32) -> libc::Ioctl {
    (((VFIO_TYPE as u32) << 8) | (VFIO_BASE + n)) as libc::Ioctl
}

const DEVICE_SET_IRQS: libc::Ioctl = request(10);
const DEVICE_RESET: libc::Ioctl = request(11);
const IOMMU_GET_INFO: libc::Ioctl = request(12);

/// Function-level reset, or the strongest reset the kernel has for the device.
pub fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_RESET) })
}

/// Connects interrupts `first..` of index `index` to eventfds; -1 disconnects. With no fds at all, switches the index off.
pub fn set_irqs(device: BorrowedFd<'_>, index: u32, first: u32, fds: &[i32]) -> io::Result<()> {
    let data = if fds.is_empty() {
        VFIO_IRQ_SET_DATA_NONE
    } else {
        VFIO_IRQ_SET_DATA_EVENTFD
    };
    let argsz = (5 + fds.len()) * 4;
    // struct vfio_irq_set: argsz, flags, index, start, count, then the fds.
    let mut set = vec![
        argsz as u32,
        data | VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        first,
        fds.len() as u32,
    ];
    set.extend(fds.iter().map(|fd| *fd as u32));
    // SAFETY: `set` is a complete vfio_irq_set of `argsz` bytes; the kernel only reads it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), DEVICE_SET_IRQS, set.as_ptr()) })
}

/// The I/O virtual addresses that a container may map; `None` if the kernel does not tell (before 5.4).
pub fn iova_ranges(container: BorrowedFd<'_>) -> io::Result<Option<Vec<RangeInclusive<u64>>>> {
    // The kernel writes the size it needs into argsz when the buffer is too small.
    let mut info = vec![0u64; HEADER / 8];
    for _ in 0..3 {
        let size = info.len() * 8;
        info[0] = size as u64;
        // SAFETY: the buffer is writable, aligned for the structure, and argsz (its first field) says its size.
        check(unsafe { libc::ioctl(container.as_raw_fd(), IOMMU_GET_INFO, info.as_mut_ptr()) })?;
        let need = info[0] as u32 as usize;
        if need <= size {
            let bytes: Vec<u8> = info.iter().flat_map(|q| q.to_ne_bytes()).collect();
            return Ok(parse_ranges(&bytes));
        }
        info = vec![0; need.div_ceil(8)];
    }
    Ok(None)
}

/// Size of `struct vfio_iommu_type1_info`: argsz, flags, page sizes (64 bits), capability offset, padding.
const HEADER: usize = 24;

/// Walks the capability chain of a `vfio_iommu_type1_info` to the list of usable ranges.
fn parse_ranges(info: &[u8]) -> Option<Vec<RangeInclusive<u64>>> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    if u32_at(4)? & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let mut at = u32_at(16)? as usize;
    // Each capability: id (16 bits), version (16 bits), offset of the next. A chain never goes back.
    while at >= HEADER {
        let id = u32_at(at)? & 0xffff;
        if id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE {
            let count = u32_at(at + 8)? as usize;
            return (0..count)
                .map(|i| Some(u64_at(at + 16 + 16 * i)?..=u64_at(at + 24 + 16 * i)?))
                .collect();
        }
        let next = u32_at(at + 4)? as usize;
        at = if next > at { next } else { 0 };
    }
    None
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(flags: u32, cap_offset: u32, rest: &[u32]) -> Vec<u8> {
        let head = [0, flags, 0, 0, cap_offset, 0];
        head.iter().chain(rest).flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn iova_ranges_are_found_behind_other_capabilities() {
        let mut rest = vec![3 | 1 << 16, 24 + 16, 0, 0];
        rest.extend([1 | 1 << 16, 0, 2, 0]);
        rest.extend([0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, 0xffff_ffff, 0x1ff]);
        let ranges = parse_ranges(&info(2, 24, &rest)).unwrap();
        assert_eq!(ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0x1ff_ffff_ffff]);
    }

    #[test]
    fn a_kernel_that_tells_no_ranges_gives_none() {
        assert_eq!(parse_ranges(&info(0, 24, &[1, 0, 0, 0])), None);
        assert_eq!(parse_ranges(&info(2, 0, &[])), None);
    }

    #[test]
    fn a_broken_chain_ends() {
        assert_eq!(
            parse_ranges(&info(2, 24, &[3, 24, 0, 0])),
            None,
            "points at itself"
        );
        assert_eq!(
            parse_ranges(&info(2, 24, &[1, 0, 9, 0])),
            None,
            "more ranges than bytes"
        );
        assert_eq!(parse_ranges(&info(2, 9999, &[])), None);
        assert_eq!(parse_ranges(&[]), None);
    }

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(
            (DEVICE_SET_IRQS, DEVICE_RESET, IOMMU_GET_INFO),
            (0x3b6e, 0x3b6f, 0x3b70)
        );
    }
}
