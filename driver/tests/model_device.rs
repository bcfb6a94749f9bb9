//! `model:` devices: a model on a thread of this process. One test, because it counts the threads of the process.
#![cfg(feature = "models")]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_driver::bus::{self, CONFIG_REGION, Iommu};
use millrace_driver::mem::{AllocOptions, DmaMemory};

fn model_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|t| fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name.trim() == "nic-model"))
        .count()
}

/// A thread that was joined stands in /proc for a moment more: the kernel tells of its end before it takes it off the list.
fn model_threads_become(n: usize) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while model_threads() != n && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    model_threads() == n
}

#[test]
fn a_model_in_this_process_starts_answers_and_ends_with_its_device() {
    assert!(bus::open("model:ixgbe?wire=tap:").is_err(), "no interface");
    assert_eq!(model_threads(), 0, "a model that could not be made has no thread");

    let dev = bus::open("model:exerciser").unwrap();
    assert_eq!((dev.name(), model_threads()), ("model:exerciser", 1));
    let mut ids = [0; 4];
    dev.read(CONFIG_REGION, 0, &mut ids).unwrap();
    assert_ne!(ids, [0xff; 4]);
    let iommu = Iommu::new(dev.clone());
    let mem = Arc::new(
        DmaMemory::alloc(
            8192,
            &AllocOptions {
                name: "model-test".into(),
                ..Default::default()
            },
        )
        .unwrap(),
    );
    let mapping = iommu.map(&mem).unwrap();
    dev.reset().unwrap();
    assert!(dev.is_alive());
    // Two in one process do not disturb each other.
    let second = bus::open("model:exerciser").unwrap();
    assert_eq!(model_threads(), 2);
    drop(second);
    assert!(model_threads_become(1), "the second one's thread is still there");

    drop((mapping, iommu));
    drop(dev);
    assert!(model_threads_become(0), "the device's thread outlives it");
    drop(mem);
    assert!(
        !fs::read_to_string("/proc/self/maps")
            .unwrap()
            .contains("model-test"),
        "no memory stays mapped"
    );
}
