//! DMA memory: sealed, zeroed, named, given back.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use millrace_driver::mem::{AllocOptions, DmaMemory, MemError, PageSize, Ring, require_sealed};
use rustix::fs::{MemfdFlags, SealFlags};

fn small(len: usize, name: &str) -> DmaMemory {
    let options = AllocOptions {
        page: PageSize::Small,
        name: name.into(),
        ..AllocOptions::default()
    };
    DmaMemory::alloc(len, &options).unwrap()
}

fn free_hugepages_2m() -> usize {
    fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .ok()
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(0)
}

#[test]
fn memory_is_sealed_so_that_nobody_can_cut_it_off() {
    let mem = small(10_000, "sealed");
    assert_eq!(mem.len(), 12_288);
    let seals = rustix::fs::fcntl_get_seals(mem.fd()).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    assert_eq!(
        rustix::fs::ftruncate(mem.fd(), 4096),
        Err(rustix::io::Errno::PERM)
    );
    assert_eq!(
        rustix::fs::ftruncate(mem.fd(), 1 << 20),
        Err(rustix::io::Errno::PERM)
    );
    require_sealed(mem.fd(), 12_288).unwrap();
}

#[test]
fn foreign_memory_is_refused_unless_sealed_and_large_enough() {
    let mem = small(4096, "short");
    let message = require_sealed(mem.fd(), 4097).unwrap_err().to_string();
    assert!(
        message.contains("has 4096 bytes where 4097 are needed"),
        "{message}"
    );

    let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&open, 4096).unwrap();
    let message = require_sealed(open.as_fd(), 4096).unwrap_err().to_string();
    assert!(message.contains("not sealed against shrinking"), "{message}");

    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(
        require_sealed(file.as_fd(), 4096),
        Err(MemError::Unsealed { .. })
    ));
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert!(matches!(
        require_sealed(pipe.as_fd(), 1),
        Err(MemError::Unsealed { .. })
    ));
}

#[test]
fn memory_is_in_the_map_while_it_lives_and_gone_afterwards() {
    let maps = || fs::read_to_string("/proc/self/maps").unwrap();
    let name = "memfd:millrace-come-and-go";
    let mem = small(1 << 20, "come-and-go");
    assert!(maps().contains(name));
    drop(mem);
    assert!(!maps().contains(name));
}

#[test]
fn without_hugepages_memory_comes_on_small_pages_or_says_how_to_set_some_aside() {
    // More than any machine has set aside.
    let len = (free_hugepages_2m() + 1) * (2 << 20);
    let exact = AllocOptions {
        page: PageSize::Huge2M,
        ..AllocOptions::default()
    };
    let message = DmaMemory::alloc(len, &exact).unwrap_err().to_string();
    assert!(
        message.contains("2 MiB pages") && message.contains("millrace-setup hugepages"),
        "{message}"
    );

    if free_hugepages_2m() == 0 {
        let mem = DmaMemory::alloc(4 << 20, &AllocOptions::default()).unwrap();
        assert_eq!(mem.page_size(), 4096);
    }
}

#[test]
fn hugepages_are_used_when_there_are_some_and_come_back() {
    let before = free_hugepages_2m();
    if before < 4 {
        println!(
            "SKIP hugepages_are_used_when_there_are_some_and_come_back: {before} free 2 MiB pages, 4 needed"
        );
        return;
    }
    let mem = DmaMemory::alloc(5 << 20, &AllocOptions::default()).unwrap();
    assert_eq!((mem.page_size(), mem.len()), (2 << 20, 6 << 20));
    assert_eq!(free_hugepages_2m(), before - 3);
    let seals = rustix::fs::fcntl_get_seals(mem.fd()).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    drop(mem);
    assert_eq!(free_hugepages_2m(), before);
}

#[test]
fn a_numa_wish_is_a_wish() {
    for node in [0, 1000, u32::MAX] {
        let options = AllocOptions {
            numa: Some(node),
            page: PageSize::Small,
            name: String::new(),
        };
        assert_eq!(DmaMemory::alloc(4096, &options).unwrap().len(), 4096);
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    assert!(matches!(
        DmaMemory::alloc(0, &AllocOptions::default()),
        Err(MemError::Size(0))
    ));
    assert!(matches!(
        DmaMemory::alloc(usize::MAX, &AllocOptions::default()),
        Err(MemError::Size(_))
    ));
    let huge = DmaMemory::alloc(1 << 45, &AllocOptions::default()).unwrap_err();
    assert!(matches!(&huge, MemError::OutOfMemory { .. }), "{huge}");
    assert!(huge.to_string().contains("ask for fewer buffers"), "{huge}");
}

#[test]
fn a_ring_wraps_and_never_leaves_its_memory() {
    let mem = Arc::new(small(8192, "ring"));
    let ring: Ring<2> = Ring::new(mem.clone(), 4096, 256).unwrap();
    assert_eq!(ring.size(), 256);
    assert_eq!(ring.get(0), [0, 0], "zeroed");
    ring.put(255, [1, 2]);
    ring.put(256, [3, 4]);
    assert_eq!(
        (ring.get(u32::MAX), ring.get(0), ring.last_acquire(512)),
        ([1, 2], [3, 4], 4)
    );
    assert_eq!(ring.quad(0, 2), 3, "quadword numbers wrap, too");
    // The other mapping of the same memory sees it at the right place, in the device's byte order.
    let mut bytes = [0; 16];
    io_read(&mem, 4096, &mut bytes);
    assert_eq!(bytes, [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    ring.clear();
    assert_eq!(ring.get(255), [0, 0]);
}

fn io_read(mem: &DmaMemory, at: u64, out: &mut [u8]) {
    assert_eq!(
        rustix::io::pread(mem.fd(), &mut *out, at)
            .map_err(io::Error::from)
            .unwrap(),
        out.len()
    );
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let mem = Arc::new(small(4096, "ring"));
    for (offset, size) in [
        (0, 0),
        (0, 3),
        (64, 8),
        (0, 512),
        (4096, 1),
        (usize::MAX - 127, 8),
    ] {
        let error = Ring::<2>::new(mem.clone(), offset, size).unwrap_err();
        assert!(matches!(error, MemError::Ring { .. }), "{offset} {size}: {error}");
    }
    assert!(Ring::<4>::new(mem.clone(), 0, 128).is_ok());
    assert!(Ring::<4>::new(mem, 128, 128).is_err());
}
