//! The DMA space against a simple picture of it: a map from page to page.
#![cfg(feature = "device")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use millrace_nic_models::dma::{DmaError, DmaSpace, FaultKind, MAX_REGIONS, Prot, Trust};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags};

const PAGE: u64 = 4096;

fn memfd(len: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("dma", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    fd
}

fn space() -> DmaSpace {
    let mut space = DmaSpace::new();
    space.set_enabled(true);
    space
}

fn map(space: &mut DmaSpace, iova: u64, len: u64, fd: &OwnedFd, offset: u64) -> Result<(), DmaError> {
    space.map(
        iova,
        len,
        fd.try_clone().unwrap(),
        offset,
        Prot::READ_WRITE,
        Trust::Sealed,
    )
}

fn kind<T: std::fmt::Debug>(result: Result<T, millrace_nic_models::dma::Fault>) -> FaultKind {
    result.unwrap_err().kind
}

#[test]
fn many_small_maps_of_one_file_share_one_mapping_of_it() {
    let fd = memfd(1024 * PAGE);
    let mut space = space();
    for n in 0..1024 {
        // In another order than the file's.
        map(
            &mut space,
            0x1_0000_0000 + n * PAGE,
            PAGE,
            &fd,
            (n ^ 0x155) * PAGE,
        )
        .unwrap();
    }
    assert_eq!((space.mappings(), space.files()), (1024, 1));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(
        maps.lines()
            .filter(|l| l.contains("memfd:dma") && l.contains(&inode(&fd)))
            .count(),
        1
    );
    for n in 0..1024 {
        space.store_u32(0x1_0000_0000 + n * PAGE, n as u32).unwrap();
        let mut word = [0; 4];
        rustix::io::pread(&fd, &mut word, (n ^ 0x155) * PAGE).unwrap();
        assert_eq!(u32::from_le_bytes(word), n as u32);
    }
    // A frame across pages that lie apart in the file.
    let frame: Vec<u8> = (0..9000).map(|i| i as u8).collect();
    space.write(0x1_0000_0123, &frame).unwrap();
    let mut back = vec![0; 9000];
    space.read(0x1_0000_0123, &mut back).unwrap();
    assert_eq!(frame, back);
    assert_eq!(space.unmap(0x1_0000_0000, 1024 * PAGE), 1024 * PAGE);
    assert_eq!((space.mappings(), space.files()), (0, 0));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        !maps
            .lines()
            .any(|l| l.contains("memfd:dma") && l.contains(&inode(&fd)))
    );
}

fn inode(fd: &OwnedFd) -> String {
    format!(" {} ", rustix::fs::fstat(fd).unwrap().st_ino)
}

#[test]
fn two_files_are_two_mappings_and_go_one_by_one() {
    let (a, b) = (memfd(2 * PAGE), memfd(2 * PAGE));
    let mut space = space();
    map(&mut space, 0, PAGE, &a, 0).unwrap();
    map(&mut space, PAGE, PAGE, &b, 0).unwrap();
    map(&mut space, 2 * PAGE, PAGE, &a, PAGE).unwrap();
    assert_eq!(space.files(), 2);
    space.unmap(0, PAGE);
    assert_eq!(space.files(), 2);
    space.unmap(PAGE, PAGE);
    assert_eq!(space.files(), 1);
    space.store_u32(2 * PAGE, 1).unwrap();
    assert_eq!(space.unmap_all(), PAGE);
    assert_eq!(space.files(), 0);
}

#[test]
fn what_was_checked_is_what_is_used() {
    let fd = memfd(PAGE);
    let mut space = space();
    assert!(matches!(
        map(&mut space, 0, 2 * PAGE, &fd, 0),
        Err(DmaError::PastFileEnd { .. })
    ));
    assert!(matches!(
        map(&mut space, 0, PAGE, &fd, PAGE),
        Err(DmaError::PastFileEnd { .. })
    ));
    assert!(matches!(
        map(&mut space, u64::MAX - PAGE + 1, 2 * PAGE, &fd, 0),
        Err(DmaError::Wraps { .. })
    ));
    assert!(matches!(
        map(&mut space, 0, 100, &fd, 0),
        Err(DmaError::NotPages { .. })
    ));
    assert!(matches!(
        map(&mut space, 0, 0, &fd, 0),
        Err(DmaError::NotPages { .. })
    ));
    // The last page of the address space is a page like any other.
    map(&mut space, u64::MAX - PAGE + 1, PAGE, &fd, 0).unwrap();
    space.store_u64_release(u64::MAX - 7, 5).unwrap();
    assert_eq!(kind(space.write(u64::MAX - 3, &[0; 8])), FaultKind::NotMapped);
    assert_eq!(space.unmap(0x1000, u64::MAX), PAGE);
    // Growing later is fine: the file is mapped anew for what lies beyond.
    map(&mut space, 0, PAGE, &fd, 0).unwrap();
    rustix::fs::ftruncate(&fd, 2 * PAGE).unwrap();
    map(&mut space, PAGE, PAGE, &fd, PAGE).unwrap();
    space.write(PAGE - 4, b"straddle").unwrap();
    let mut text = [0; 8];
    rustix::io::pread(&fd, &mut text, PAGE - 4).unwrap();
    assert_eq!(&text, b"straddle");
}

#[test]
fn a_file_that_can_shrink_needs_trust() {
    let fd = rustix::fs::memfd_create("loose", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, PAGE).unwrap();
    let mut space = space();
    assert!(matches!(
        map(&mut space, 0, PAGE, &fd, 0),
        Err(DmaError::NotSealed { .. })
    ));
    space
        .map(0, PAGE, fd.try_clone().unwrap(), 0, Prot::READ_WRITE, Trust::Any)
        .unwrap();
    // Trust is about shrinking, not about sizes.
    let past = space.map(PAGE, PAGE, fd, PAGE, Prot::READ_WRITE, Trust::Any);
    assert!(matches!(past, Err(DmaError::PastFileEnd { .. })));
}

#[test]
fn permissions_alignment_and_the_bus_master_gate_are_kept() {
    let fd = memfd(4 * PAGE);
    let mut space = space();
    space
        .map(0, PAGE, fd.try_clone().unwrap(), 0, Prot::READ, Trust::Sealed)
        .unwrap();
    let write_only = Prot {
        read: false,
        write: true,
    };
    space
        .map(
            PAGE,
            PAGE,
            fd.try_clone().unwrap(),
            PAGE,
            write_only,
            Trust::Sealed,
        )
        .unwrap();
    space
        .map_without_memory(2 * PAGE, PAGE, Prot::READ_WRITE)
        .unwrap();
    assert_eq!(kind(space.write(0, &[1])), FaultKind::Permission);
    assert_eq!(kind(space.read(PAGE, &mut [0])), FaultKind::Permission);
    assert_eq!(kind(space.load_u32(2 * PAGE)), FaultKind::NoMemory);
    assert_eq!(kind(space.load_u32(3 * PAGE)), FaultKind::NotMapped);
    assert_eq!(kind(space.read_desc16(8)), FaultKind::Misaligned);
    assert_eq!(kind(space.write_desc16(PAGE + 8, [0; 2])), FaultKind::Misaligned);
    assert_eq!(kind(space.load_u64_acquire(4)), FaultKind::Misaligned);
    // A write that would fault half way writes nothing at all.
    assert_eq!(kind(space.write(2 * PAGE - 4, &[0xff; 8])), FaultKind::NoMemory);
    let mut word = [1; 4];
    rustix::io::pread(&fd, &mut word, 2 * PAGE - 4).unwrap();
    assert_eq!(word, [0; 4]);
    assert!(space.is_mapped(0, PAGE, Prot::READ) && !space.is_mapped(0, PAGE + 1, Prot::READ));
    space.set_enabled(false);
    assert_eq!(kind(space.read(0, &mut [0])), FaultKind::Disabled);
    assert_eq!(kind(space.write(PAGE, &[0])), FaultKind::Disabled);
    assert!(space.write(PAGE, &[]).is_ok(), "no bytes, no access");
    space.set_enabled(true);
    assert!(space.read(0, &mut [0]).is_ok());
}

#[test]
fn a_read_only_descriptor_serves_read_only_maps() {
    let fd = memfd(PAGE);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let read_only: OwnedFd = std::fs::File::open(path).unwrap().into();
    let mut space = space();
    let refused = space.map(
        0,
        PAGE,
        read_only.try_clone().unwrap(),
        0,
        Prot::READ_WRITE,
        Trust::Sealed,
    );
    assert!(matches!(refused, Err(DmaError::Io { .. })));
    space
        .map(0, PAGE, read_only, 0, Prot::READ, Trust::Sealed)
        .unwrap();
    assert!(space.load_u32(0).is_ok());
    // The writable descriptor of the same file gets a mapping of its own.
    map(&mut space, PAGE, PAGE, &fd, 0).unwrap();
    space.store_u32(PAGE, 77).unwrap();
    assert_eq!(space.load_u32(0), Ok(77));
    assert_eq!(space.files(), 2);
}

#[test]
fn there_is_a_limit_to_mappings() {
    let fd = memfd(PAGE);
    let mut space = space();
    for n in 0..MAX_REGIONS as u64 {
        map(&mut space, n * 2 * PAGE, PAGE, &fd, 0).unwrap();
    }
    let end = MAX_REGIONS as u64 * 2 * PAGE;
    assert!(matches!(
        map(&mut space, end, PAGE, &fd, 0),
        Err(DmaError::TooMany { .. })
    ));
    space.unmap(0, PAGE);
    map(&mut space, end, PAGE, &fd, 0).unwrap();
}

/// Pages of a small corner of the address space, so that operations meet.
const WORLD: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Map {
        at: u64,
        pages: u64,
        file: usize,
        offset: u64,
        base: u64,
    },
    Unmap {
        at: u64,
        pages: u64,
        base: u64,
    },
    UnmapHuge {
        at: u64,
        base: u64,
    },
    UnmapAll,
    Write {
        at: u64,
        len: usize,
        base: u64,
        value: u8,
    },
    Word {
        at: u64,
        base: u64,
        value: u32,
    },
}

/// Where the corner lies: at the bottom, in the middle, at the very top of the address space.
fn bases() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1 << 39), Just(0u64.wrapping_sub(WORLD * PAGE))]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..WORLD + 2, 1..6u64, 0..2usize, 0..10u64, bases())
            .prop_map(|(at, pages, file, offset, base)| Op::Map { at, pages, file, offset, base }),
        3 => (0..WORLD, 1..8u64, bases()).prop_map(|(at, pages, base)| Op::Unmap { at, pages, base }),
        1 => (0..WORLD, bases()).prop_map(|(at, base)| Op::UnmapHuge { at, base }),
        1 => Just(Op::UnmapAll),
        6 => (0..WORLD * PAGE, 1..3 * PAGE as usize, bases(), any::<u8>())
            .prop_map(|(at, len, base, value)| Op::Write { at, len, base, value }),
        3 => (0..WORLD * PAGE / 4, bases(), any::<u32>())
            .prop_map(|(at, base, value)| Op::Word { at: at * 4, base, value }),
    ]
}

const FILE_PAGES: u64 = 10;

/// The simple picture: which page of which file each mapped page is, and what the files hold.
struct Picture {
    pages: BTreeMap<u64, (usize, u64)>,
    files: [Vec<u8>; 2],
}

impl Picture {
    fn byte(&self, iova: u64) -> Option<(usize, usize)> {
        let &(file, page) = self.pages.get(&(iova / PAGE))?;
        Some((file, (page * PAGE + iova % PAGE) as usize))
    }

    fn range(&self, iova: u64, len: usize) -> Option<Vec<(usize, usize)>> {
        (0..len as u64)
            .map(|i| iova.checked_add(i).and_then(|at| self.byte(at)))
            .collect()
    }

    /// Whether a map is possible, as the errors would say it.
    fn can_map(&self, iova: u64, pages: u64, offset: u64) -> bool {
        let fits = iova.checked_add(pages * PAGE - 1).is_some() && offset + pages <= FILE_PAGES;
        fits && (0..pages).all(|i| !self.pages.contains_key(&(iova / PAGE + i)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_of_maps_unmaps_and_accesses_matches_the_picture(ops in prop::collection::vec(ops(), 1..60)) {
        let fds = [memfd(FILE_PAGES * PAGE), memfd(FILE_PAGES * PAGE)];
        let mut space = space();
        let empty = || vec![0; (FILE_PAGES * PAGE) as usize];
        let mut picture = Picture { pages: BTreeMap::new(), files: [empty(), empty()] };
        for op in ops {
            match op {
                Op::Map { at, pages, file, offset, base } => {
                    let iova = base.wrapping_add(at * PAGE);
                    let done = map(&mut space, iova, pages * PAGE, &fds[file], offset * PAGE);
                    prop_assert_eq!(done.is_ok(), picture.can_map(iova, pages, offset), "{:?}", done);
                    if done.is_ok() {
                        picture.pages.extend((0..pages).map(|i| (iova / PAGE + i, (file, offset + i))));
                    }
                }
                Op::Unmap { at, pages, base } => {
                    let iova = base.wrapping_add(at * PAGE);
                    let bytes = space.unmap(iova, pages * PAGE);
                    let last = iova.saturating_add(pages * PAGE - 1) / PAGE;
                    let before = picture.pages.len();
                    picture.pages.retain(|&page, _| !(iova / PAGE..=last).contains(&page));
                    prop_assert_eq!(bytes, (before - picture.pages.len()) as u64 * PAGE);
                }
                Op::UnmapHuge { at, base } => {
                    let iova = base.wrapping_add(at * PAGE);
                    space.unmap(iova, u64::MAX);
                    picture.pages.retain(|&page, _| page < iova / PAGE);
                }
                Op::UnmapAll => {
                    prop_assert_eq!(space.unmap_all(), picture.pages.len() as u64 * PAGE);
                    picture.pages.clear();
                }
                Op::Write { at, len, base, value } => {
                    let iova = base.wrapping_add(at);
                    let data: Vec<u8> = (0..len).map(|i| value.wrapping_add(i as u8)).collect();
                    let bytes = picture.range(iova, len);
                    prop_assert_eq!(space.write(iova, &data).is_ok(), bytes.is_some());
                    for ((file, at), b) in bytes.into_iter().flatten().zip(&data) {
                        picture.files[file][at] = *b;
                    }
                    let mut back = vec![0; len];
                    match picture.range(iova, len) {
                        Some(bytes) => {
                            prop_assert!(space.read(iova, &mut back).is_ok());
                            let want: Vec<u8> = bytes.iter().map(|&(f, at)| picture.files[f][at]).collect();
                            prop_assert_eq!(back, want);
                        }
                        None => prop_assert!(space.read(iova, &mut back).is_err()),
                    }
                }
                Op::Word { at, base, value } => {
                    let iova = base.wrapping_add(at);
                    let bytes = picture.range(iova, 4);
                    prop_assert_eq!(space.store_u32(iova, value).is_ok(), bytes.is_some());
                    if let Some(bytes) = bytes {
                        for ((file, at), b) in bytes.into_iter().zip(value.to_le_bytes()) {
                            picture.files[file][at] = b;
                        }
                        prop_assert_eq!(space.load_u32(iova), Ok(value));
                    }
                }
            }
            let used: std::collections::BTreeSet<usize> = picture.pages.values().map(|p| p.0).collect();
            prop_assert_eq!(space.files(), used.len());
        }
        for (fd, want) in fds.iter().zip(&picture.files) {
            let mut all = empty();
            rustix::io::pread(fd, &mut all, 0).unwrap();
            prop_assert_eq!(&all, want);
        }
    }
}
