//! Memory that can be given to a device: sealed memfds on hugepages.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Once;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use super::BufferLayout;

/// What can go wrong with memory.
#[derive(Debug, thiserror::Error)]
pub enum MemError {
    /// Not enough hugepages of the size asked for.
    #[error(
        "cannot get {len} bytes in {page} pages: {source}; set pages aside with `millrace-setup hugepages`, or allow smaller pages"
    )]
    NoHugepages {
        /// Bytes asked for.
        len: usize,
        /// Page size asked for.
        page: PageSize,
        /// The system's answer.
        source: io::Error,
    },
    /// Not enough memory of any page size.
    #[error("cannot get {len} bytes of DMA memory: {source}; ask for fewer buffers or free some memory")]
    OutOfMemory {
        /// Bytes asked for.
        len: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// Zero bytes, or more than an address space holds.
    #[error("{0} bytes of DMA memory: ask for at least 1 byte and at most 2^46")]
    Size(usize),
    /// A file descriptor from another process that could shrink under us.
    #[error(
        "the memory behind file descriptor {fd} {what}: use a memfd with F_SEAL_SHRINK that covers the range"
    )]
    Unsealed {
        /// Its number here.
        fd: i32,
        /// What is wrong with it.
        what: String,
    },
    /// Buffers that cannot be.
    #[error("buffers of {layout:?}: {what}")]
    Layout {
        /// What was asked for.
        layout: BufferLayout,
        /// The rule it breaks.
        what: &'static str,
    },
    /// A ring that cannot be.
    #[error(
        "a ring of {size} descriptors at {offset:#x} of {memory:#x} bytes: the size is a power of two, the offset a multiple of 128, and the ring lies inside the memory"
    )]
    Ring {
        /// Where it should start.
        offset: usize,
        /// Descriptors.
        size: u32,
        /// Bytes of memory.
        memory: usize,
    },
    /// All 255 region ids are taken.
    #[error("this process already has 255 buffer regions: close ports that are no longer used")]
    TooManyRegions,
}

/// Size of the pages behind DMA memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageSize {
    /// 1 GiB.
    Huge1G,
    /// 2 MiB.
    Huge2M,
    /// 4 KiB (the system's base page).
    Small,
    /// The largest that does not waste more than it holds and that the host has set aside.
    #[default]
    Best,
}

impl PageSize {
    fn bytes(self) -> usize {
        match self {
            PageSize::Huge1G => 1 << 30,
            PageSize::Huge2M => 2 << 20,
            PageSize::Small | PageSize::Best => rustix::param::page_size(),
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageSize::Huge1G => "1 GiB",
            PageSize::Huge2M => "2 MiB",
            PageSize::Small => "4 KiB",
            PageSize::Best => "any",
        })
    }
}

/// How to allocate.
#[derive(Clone, Debug, Default)]
pub struct AllocOptions {
    /// Page size; an exact one is not replaced by a smaller one.
    pub page: PageSize,
    /// NUMA node the memory should lie on. Best effort: memory elsewhere is better than none.
    pub numa: Option<u32>,
    /// Name that `/proc/PID/maps` shows.
    pub name: String,
}

/// Zeroed memory behind a memfd that can neither shrink nor grow, mapped into this process. The fd is what a device's
/// other side maps.
pub struct DmaMemory {
    map: MmapRaw,
    fd: OwnedFd,
    page: PageSize,
}

impl DmaMemory {
    /// Allocates at least `len` bytes, rounded up to whole pages.
    pub fn alloc(len: usize, options: &AllocOptions) -> Result<Self, MemError> {
        if len == 0 || len > 1 << 46 {
            return Err(MemError::Size(len));
        }
        if options.page != PageSize::Best {
            return Self::with_pages(len, options.page, options).map_err(|source| match options.page {
                PageSize::Small => MemError::OutOfMemory { len, source },
                page => MemError::NoHugepages { len, page, source },
            });
        }
        let huge = [PageSize::Huge1G, PageSize::Huge2M]
            .into_iter()
            .filter(|p| len * 2 >= p.bytes());
        for page in huge {
            match Self::with_pages(len, page, options) {
                Ok(mem) => return Ok(mem),
                Err(e) => tracing::debug!("no {page} pages for {len} bytes of {}: {e}", options.name),
            }
        }
        let mem = Self::with_pages(len, PageSize::Small, options)
            .map_err(|source| MemError::OutOfMemory { len, source })?;
        if len * 2 >= PageSize::Huge2M.bytes() {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::warn!("no free hugepages, DMA memory is on 4 KiB pages and slower; `millrace-setup hugepages` sets some aside");
            });
        }
        Ok(mem)
    }

    fn with_pages(len: usize, page: PageSize, options: &AllocOptions) -> io::Result<Self> {
        let len = len.next_multiple_of(page.bytes());
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        match page {
            PageSize::Huge1G => flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
            PageSize::Huge2M => flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            PageSize::Small | PageSize::Best => {}
        }
        let name: String = format!("millrace-{}", options.name)
            .chars()
            .filter(|c| *c != '\0')
            .take(200)
            .collect();
        let name = CString::new(name).unwrap_or_default();
        let fd = rustix::fs::memfd_create(name.as_c_str(), flags)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        let map = MmapOptions::new().len(len).map_raw(&fd)?;
        if let Some(node) = options.numa {
            prefer_node(&map, node);
        }
        if page == PageSize::Small {
            // The kernel would rather kill other programs than refuse pages of a memfd.
            require_available(len)?;
        }
        // Get every page now: a hugepage that is missing later would be a SIGBUS, here it is an error.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Packet memory in a core dump is large and tells other people's secrets.
        // SAFETY: the range is our own mapping; DONTDUMP changes no contents.
        unsafe { libc::madvise(map.as_mut_ptr().cast(), len, libc::MADV_DONTDUMP) };
        Ok(DmaMemory { map, fd, page })
    }

    /// The memfd. Sealed against shrinking, growing and further seals.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes, a multiple of the page size.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes of one page.
    pub fn page_size(&self) -> usize {
        self.page.bytes()
    }

    /// Address of byte 0 in this process.
    pub fn address(&self) -> usize {
        self.map.as_mut_ptr() as usize
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        // SAFETY: a successful mmap is never at address 0.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr()) }
    }
}

impl fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMemory({:#x} bytes, {} pages)", self.len(), self.page)
    }
}

// SAFETY: `MmapRaw` is a plain shared mapping; this type hands out its address only to code in `mem` and `bus`, which
// makes atomic accesses or exclusive slices by handle.
unsafe impl Sync for DmaMemory {}

/// Fails with ENOMEM if the host has fewer than `len` bytes available (`MemAvailable`, proc_meminfo(5)), with a sixteenth
/// left for everybody else.
fn require_available(len: usize) -> io::Result<()> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let kib: Option<u64> = meminfo.lines().find_map(|l| {
        l.strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    });
    match kib {
        Some(kib) if len as u64 > kib / 16 * 15 * 1024 => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        _ => Ok(()),
    }
}

/// Asks the kernel to take the pages of `map` from `node` as long as it has some (mbind(2), MPOL_PREFERRED).
fn prefer_node(map: &MmapRaw, node: u32) {
    const MPOL_PREFERRED: libc::c_int = 1;
    let mut mask = [0u64; 16];
    let Some(word) = mask.get_mut(node as usize / 64) else {
        return;
    };
    *word = 1 << (node % 64);
    // SAFETY: the range is our own mapping and `mask` outlives the call; the policy changes no contents.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            map.as_mut_ptr(),
            map.len(),
            MPOL_PREFERRED,
            mask.as_ptr(),
            mask.len() * 64,
            0,
        )
    };
    if rc != 0 {
        tracing::debug!(
            "memory policy for node {node} not set: {}",
            io::Error::last_os_error()
        );
    }
}

/// Refuses memory from another process that could be truncated under us, or that does not reach up to `end` bytes.
///
/// # Errors
/// [`MemError::Unsealed`] names what is missing.
pub fn require_sealed(fd: BorrowedFd<'_>, end: u64) -> Result<(), MemError> {
    use std::os::fd::AsRawFd;
    let refuse = |what: String| {
        Err(MemError::Unsealed {
            fd: fd.as_raw_fd(),
            what,
        })
    };
    match rustix::fs::fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        Ok(_) => return refuse("is not sealed against shrinking".into()),
        Err(e) => return refuse(format!("cannot be sealed ({e})")),
    }
    match rustix::fs::fstat(fd) {
        Ok(stat) if stat.st_size as u64 >= end => Ok(()),
        Ok(stat) => refuse(format!("has {} bytes where {end} are needed", stat.st_size)),
        Err(e) => refuse(format!("has no size ({e})")),
    }
}

/// Where a queue's buffers come from.
pub trait MemoryProvider: Send + Sync {
    /// At least `bytes` of memory, on NUMA node `numa` if it can.
    fn provide(&self, bytes: usize, numa: Option<u32>) -> Result<DmaMemory, MemError>;
}

/// Memory from the host's hugepages, or from base pages when there are none.
#[derive(Clone, Debug, Default)]
pub struct Hugepages {
    /// Page size, as in [`AllocOptions`].
    pub page: PageSize,
}

impl MemoryProvider for Hugepages {
    fn provide(&self, bytes: usize, numa: Option<u32>) -> Result<DmaMemory, MemError> {
        DmaMemory::alloc(
            bytes,
            &AllocOptions {
                page: self.page,
                numa,
                name: "buffers".into(),
            },
        )
    }
}
