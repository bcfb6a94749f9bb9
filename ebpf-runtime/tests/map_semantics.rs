//! Maps by hand: the kernel's error numbers, iteration while changing, and many threads at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millrace_ebpf::{EngineKind, Errno, Map, MapDef, MapFlags, MapType, Program, XdpBuff};

fn map(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Map {
    Map::new(
        &MapDef {
            name: "m".into(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
        },
        3,
    )
    .unwrap()
}

fn k(n: u32) -> [u8; 4] {
    n.to_ne_bytes()
}

#[test]
fn arrays_answer_with_the_kernels_error_numbers() {
    let m = map(MapType::Array, 4, 12, 3);
    assert_eq!(m.lookup(&k(2)), Ok(vec![0; 12]));
    assert_eq!(m.lookup(&k(3)), Err(Errno::NOENT));
    assert_eq!(m.update(&k(3), &[1; 12], MapFlags::Any), Err(Errno::TOOBIG));
    assert_eq!(m.update(&k(1), &[1; 12], MapFlags::NoExist), Err(Errno::EXIST));
    assert_eq!(m.update(&k(1), &[1; 11], MapFlags::Any), Err(Errno::INVAL));
    assert_eq!(m.update(&[0; 3], &[1; 12], MapFlags::Any), Err(Errno::INVAL));
    assert_eq!(m.update(&k(1), &[1; 12], MapFlags::Exist), Ok(()));
    assert_eq!(m.lookup(&k(1)), Ok(vec![1; 12]));
    assert_eq!(m.lookup(&k(0)), Ok(vec![0; 12]));
    assert_eq!(m.delete(&k(1)), Err(Errno::INVAL));
    assert_eq!(m.next_key(None), Ok(k(0).to_vec()));
    assert_eq!(m.next_key(Some(&k(9))), Ok(k(0).to_vec()));
    assert_eq!(m.next_key(Some(&k(2))), Err(Errno::NOENT));
}

#[test]
fn hashes_answer_with_the_kernels_error_numbers() {
    for kind in [MapType::Hash, MapType::PercpuHash] {
        let m = map(kind, 4, 8, 2);
        let value = if kind == MapType::Hash {
            vec![7; 8]
        } else {
            vec![7; 24]
        };
        assert_eq!(m.lookup(&k(1)), Err(Errno::NOENT));
        assert_eq!(m.update(&k(1), &value, MapFlags::Exist), Err(Errno::NOENT));
        assert_eq!(m.update(&k(1), &value, MapFlags::NoExist), Ok(()));
        assert_eq!(m.update(&k(1), &value, MapFlags::NoExist), Err(Errno::EXIST));
        assert_eq!(m.update(&k(1), &value, MapFlags::Exist), Ok(()));
        assert_eq!(m.update(&k(2), &value, MapFlags::Any), Ok(()));
        assert_eq!(m.update(&k(3), &value, MapFlags::Any), Err(Errno::TOOBIG));
        assert_eq!(m.update(&k(2), &value[1..], MapFlags::Any), Err(Errno::INVAL));
        assert_eq!(m.delete(&k(3)), Err(Errno::NOENT));
        assert_eq!(m.delete(&k(1)), Ok(()));
        assert_eq!(m.update(&k(3), &value, MapFlags::Any), Ok(()));
        assert_eq!(m.len(), 2);
        assert_eq!(m.lookup(&k(3)), Ok(value));
    }
}

#[test]
fn a_full_lru_keeps_what_is_used() {
    let m = map(MapType::LruHash, 4, 8, 100);
    let program = toucher(&m_arc(&m));
    drop(program);
    for n in 0..1000u32 {
        m.update(&k(n), &[1; 8], MapFlags::Any).unwrap();
        assert!(m.len() <= 100);
    }
    assert_eq!(m.iter().count(), 100);
    assert!(m.lookup(&k(999)).is_ok());
}

// A map handle for tests that only need its shape.
fn m_arc(m: &Map) -> Arc<Map> {
    Arc::new(Map::new(m.def(), m.cpus()).unwrap())
}

/// A program that looks up the key in the frame's first 4 bytes and adds 1 to the value's first word.
fn toucher(map: &Arc<Map>) -> Arc<Program> {
    let code: [[u8; 8]; 19] = [
        [0x61, 0x16, 0, 0, 0, 0, 0, 0], // r6 = data
        [0x61, 0x17, 4, 0, 0, 0, 0, 0], // r7 = data_end
        [0xbf, 0x60, 0, 0, 0, 0, 0, 0], // r0 = r6 + 4
        [0x07, 0x00, 0, 0, 4, 0, 0, 0],
        [0x2d, 0x70, 12, 0, 0, 0, 0, 0],      // if r0 > r7 goto +12
        [0x61, 0x60, 0, 0, 0, 0, 0, 0],       // r0 = key
        [0x63, 0x0a, 0xfc, 0xff, 0, 0, 0, 0], // *(u32 *)(r10 - 4) = r0
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],       // r2 = r10 - 4
        [0x07, 0x02, 0, 0, 0xfc, 0xff, 0xff, 0xff],
        [0x18, 0x51, 0, 0, 0, 0, 0, 0], // r1 = map 0
        [0; 8],
        [0x85, 0, 0, 0, 1, 0, 0, 0],    // call bpf_map_lookup_elem
        [0x15, 0x00, 4, 0, 0, 0, 0, 0], // if r0 == 0 goto +4
        [0xb7, 0x01, 0, 0, 1, 0, 0, 0], // r1 = 1
        [0xdb, 0x10, 0, 0, 0, 0, 0, 0], // lock *(u64 *)r0 += r1
        [0xb7, 0x00, 0, 0, 2, 0, 0, 0], // r0 = XDP_PASS
        [0x95, 0, 0, 0, 0, 0, 0, 0],
        [0xb7, 0x00, 0, 0, 1, 0, 0, 0], // r0 = XDP_DROP
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    Program::from_bytecode("toucher", &code.concat(), std::slice::from_ref(map), 3).unwrap()
}

#[test]
fn lookups_by_programs_save_lru_entries_from_eviction() {
    let m = Arc::new(map(MapType::LruHash, 4, 8, 64));
    let program = toucher(&m);
    let mut instance = program.instance(EngineKind::Interp, 0).unwrap();
    let mut touch = |n: u32| {
        let mut frame = [0u8; 64];
        frame[..4].copy_from_slice(&k(n));
        instance.run_one(&mut XdpBuff::new(&mut frame, 0, 64, 0, &[])).raw
    };
    for n in 0..64 {
        m.update(&k(n), &[0; 8], MapFlags::Any).unwrap();
    }
    for round in 1..50 {
        for n in 0..8 {
            assert_eq!(touch(n), 2, "entry {n} was evicted in round {round}");
        }
        for n in 0..8 {
            m.update(&k(1000 + round * 8 + n), &[0; 8], MapFlags::Any)
                .unwrap();
        }
    }
    assert_eq!(m.len(), 64);
}

#[test]
fn iteration_survives_deletion_of_the_key_it_stands_on() {
    let m = map(MapType::Hash, 4, 8, 500);
    for n in 0..500 {
        m.update(&k(n), &[0; 8], MapFlags::Any).unwrap();
    }
    let keys: BTreeSet<Vec<u8>> = m.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 500);
    let mut seen = 0;
    while let Ok(key) = m.next_key(None) {
        m.delete(&key).unwrap();
        assert!(m.next_key(Some(&key)).is_ok() || m.is_empty());
        seen += 1;
    }
    assert_eq!(seen, 500);
}

#[test]
fn per_cpu_values_are_each_workers_own() {
    for kind in [MapType::PercpuArray, MapType::PercpuHash, MapType::LruPercpuHash] {
        let m = Arc::new(map(kind, 4, 8, 4));
        m.update_percpu(&k(1), &vec![vec![0; 8]; 3], MapFlags::Any)
            .unwrap();
        let program = toucher(&m);
        for worker in 0..3 {
            let mut instance = program.instance(EngineKind::Interp, worker).unwrap();
            let mut frame = [0u8; 64];
            frame[..4].copy_from_slice(&k(1));
            for _ in 0..=worker {
                instance.run_one(&mut XdpBuff::new(&mut frame, 0, 64, 0, &[]));
            }
        }
        let values = m.lookup_percpu(&k(1)).unwrap();
        assert_eq!(
            values.iter().map(|v| v[0]).collect::<Vec<_>>(),
            [1, 2, 3],
            "{kind:?}"
        );
        assert_eq!(
            m.update_percpu(&k(1), &[vec![0; 8]], MapFlags::Any),
            Err(Errno::INVAL)
        );
        assert!(program.instance(EngineKind::Interp, 3).is_err());
    }
}

#[test]
fn prefixes_iterate_delete_and_replace() {
    let m = map(MapType::LpmTrie, 8, 4, 5);
    let p = |len: u32, a: [u8; 4]| [len.to_ne_bytes(), a].concat();
    assert_eq!(
        m.update(&p(33, [0; 4]), &[0; 4], MapFlags::Any),
        Err(Errno::INVAL)
    );
    for (i, key) in [
        p(0, [0; 4]),
        p(8, [10, 0, 0, 0]),
        p(16, [10, 1, 0, 0]),
        p(16, [10, 2, 0, 0]),
        p(32, [10, 1, 2, 3]),
    ]
    .iter()
    .enumerate()
    {
        m.update(key, &k(i as u32), MapFlags::NoExist).unwrap();
    }
    assert_eq!(
        m.update(&p(8, [11, 0, 0, 0]), &[0; 4], MapFlags::Any),
        Err(Errno::NOSPC)
    );
    assert_eq!(m.update(&p(8, [10, 9, 9, 9]), &k(77), MapFlags::Exist), Ok(()));
    assert_eq!(m.lookup(&p(32, [10, 3, 0, 0])), Ok(k(77).to_vec()));
    assert_eq!(m.iter().count(), 5);
    assert_eq!(m.delete(&p(16, [10, 1, 0, 0])), Ok(()));
    assert_eq!(m.delete(&p(16, [10, 1, 0, 0])), Err(Errno::NOENT));
    assert_eq!(m.lookup(&p(32, [10, 1, 2, 3])), Ok(k(4).to_vec()));
    assert_eq!(m.lookup(&p(32, [10, 1, 2, 4])), Ok(k(77).to_vec()));
    while let Ok(key) = m.next_key(None) {
        m.delete(&key).unwrap();
    }
    assert_eq!(m.lookup(&p(32, [10, 1, 2, 3])), Err(Errno::NOENT));
    assert!(m.is_empty());
}

#[test]
fn lookups_stay_right_while_a_control_thread_changes_the_map() {
    for kind in [MapType::Hash, MapType::LruHash, MapType::LpmTrie] {
        let prefix = kind == MapType::LpmTrie;
        let m = Arc::new(map(kind, if prefix { 8 } else { 4 }, 16, 4096));
        let key = move |n: u32| {
            if prefix {
                [32u32.to_ne_bytes(), n.to_be_bytes()].concat()
            } else {
                k(n).to_vec()
            }
        };
        // Keys below 64 stay; the others come and go. Each value repeats its key.
        let value = |n: u32| n.to_ne_bytes().repeat(4);
        for n in 0..64 {
            m.update(&key(n), &value(n), MapFlags::Any).unwrap();
        }
        let stop = AtomicBool::new(false);
        let looked = AtomicU64::new(0);
        std::thread::scope(|s| {
            for worker in 0..2u32 {
                let (m, stop, looked) = (&m, &stop, &looked);
                s.spawn(move || {
                    let mut n = worker;
                    while !stop.load(Ordering::Relaxed) {
                        n = (n * 5 + 1) % 64;
                        let got = m.lookup(&key(n)).expect("a key that stays");
                        assert_eq!(got[..4], value(n)[..4], "{kind:?}: another key's value");
                        looked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for round in 0..30u32 {
                while looked.load(Ordering::Relaxed) < u64::from(round) * 100 {
                    std::thread::yield_now();
                }
                for n in 64..256 {
                    m.update(&key(n + round), &value(n + round), MapFlags::Any)
                        .unwrap();
                }
                for n in 0..64 {
                    m.update(&key(n), &value(n), MapFlags::Exist).unwrap();
                }
                for n in 64..256 {
                    m.delete(&key(n + round)).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(m.len(), 64, "{kind:?}");
        assert!(looked.load(Ordering::Relaxed) > 100);
    }
}

#[test]
fn counts_of_many_workers_add_up() {
    let m = Arc::new(map(MapType::Hash, 4, 8, 16));
    m.update(&k(5), &[0; 8], MapFlags::Any).unwrap();
    let program = toucher(&m);
    std::thread::scope(|s| {
        for worker in 0..3 {
            let program = &program;
            s.spawn(move || {
                let mut instance = program.instance(EngineKind::Interp, worker).unwrap();
                let mut frame = [0u8; 64];
                frame[..4].copy_from_slice(&k(5));
                for _ in 0..20_000 {
                    assert_eq!(
                        instance.run_one(&mut XdpBuff::new(&mut frame, 0, 64, 0, &[])).raw,
                        2
                    );
                }
            });
        }
    });
    assert_eq!(m.lookup(&k(5)).unwrap(), 60_000u64.to_ne_bytes());
}

#[test]
fn definitions_that_make_no_sense_are_refused() {
    let refused = |kind, key_size, value_size, max_entries| {
        let def = MapDef {
            name: "m".into(),
            kind,
            key_size,
            value_size,
            max_entries,
            flags: 0,
        };
        Map::new(&def, 1).unwrap_err().to_string()
    };
    assert!(refused(MapType::Array, 8, 8, 1).contains("key size 8"));
    assert!(refused(MapType::Array, 4, 8, 0).contains("max_entries is 0"));
    assert!(refused(MapType::Hash, 4, 0, 1).contains("value size 0"));
    assert!(refused(MapType::Hash, 513, 8, 1).contains("key size 513"));
    assert!(refused(MapType::Ringbuf, 0, 0, 5000).contains("power of two"));
    assert!(refused(MapType::Hash, 4, 1 << 20, u32::MAX).contains("no memory"));
}
