//! Real objects, compiled by clang, through loader and interpreter.

mod common;

use common::{Rig, compile, udp_frame};
use millrace_ebpf::{EngineKind, Errno, Loader, MapFlags, Object, XdpAction, XdpBuff};

fn word(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn counting_program_fills_array_hash_lru_and_percpu_maps() {
    let Some(elf) = compile("counting_program_fills_array_hash_lru_and_percpu_maps", "count") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        for port in [1u16, 2, 2, 9] {
            let (verdict, _) = rig.run(&udp_frame(port));
            let want = if port == 9 { XdpAction::Drop } else { XdpAction::Tx };
            assert_eq!(verdict.action(), want, "{:?}", rig.instance.last_fault());
        }
        assert_eq!(rig.run(&[0; 60]).0.action(), XdpAction::Pass);
        assert_eq!(rig.run(&[0; 20]).0.action(), XdpAction::Pass);
        assert_eq!(
            word(&rig.map("protocols").lookup(&17u32.to_ne_bytes()).unwrap()),
            4
        );
        let totals = rig.map("totals").lookup_percpu(&0u32.to_ne_bytes()).unwrap();
        assert_eq!(totals.iter().map(|v| word(v)).collect::<Vec<_>>(), [6, 0, 0, 0]);
        let key = |port: u16| [port.to_ne_bytes(), [0, 0]].concat();
        let ports = rig.map("ports").lookup(&key(2)).unwrap();
        assert_eq!((word(&ports), word(&ports[8..])), (2, 120));
        assert_eq!(rig.map("ports").lookup(&key(3)), Err(Errno::NOENT));
        assert_eq!(rig.map("ports").iter().count(), 3);
        assert_eq!(word(&rig.map("percpu").lookup_percpu(&key(2)).unwrap()[0]), 2);
        assert_eq!(word(&rig.map(".bss").lookup(&[0; 4]).unwrap()), 6);
        assert_eq!(word(&rig.map(".data").lookup(&[0; 4]).unwrap()), 106);
    }
}

#[test]
fn full_hash_map_gives_e2big_and_lru_evicts() {
    let Some(elf) = compile("full_hash_map_gives_e2big_and_lru_evicts", "count") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        for port in 20..28 {
            assert_eq!(rig.run(&udp_frame(port)).0.action(), XdpAction::Tx);
        }
        assert_eq!(rig.run(&udp_frame(28)).0.action(), XdpAction::Aborted);
        assert_eq!(rig.map("ports").len(), 8);
        assert_eq!(rig.map("recent").len(), 4);
        let update = rig.map("ports").update(&[77, 0, 0, 0], &[0; 16], MapFlags::Any);
        assert_eq!(update, Err(Errno::TOOBIG));
    }
}

#[test]
fn globals_are_set_before_the_program_sees_them() {
    let Some(elf) = compile("globals_are_set_before_the_program_sees_them", "count") else {
        return;
    };
    let object = Object::parse(&elf).unwrap();
    let loaded = Loader::new()
        .global("dropped_port", &5u32.to_ne_bytes())
        .load(&object)
        .unwrap();
    let mut instance = loaded
        .program(None)
        .unwrap()
        .instance(EngineKind::Interp, 0)
        .unwrap();
    assert_eq!(
        common::run(&mut instance, &udp_frame(5)).0.action(),
        XdpAction::Drop
    );
    assert_eq!(
        common::run(&mut instance, &udp_frame(9)).0.action(),
        XdpAction::Tx
    );
    let wrong = Loader::new()
        .global("dropped_port", &[0; 2])
        .load(&object)
        .unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "global variable `dropped_port` is 4 bytes, 2 were given"
    );
    let unknown = Loader::new()
        .global("nope", &[0; 2])
        .load(&object)
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("no global variable `nope`") && unknown.contains("dropped_port"),
        "{unknown}"
    );
    assert_eq!(
        loaded
            .map(".rodata")
            .unwrap()
            .update(&[0; 4], &[0; 4], MapFlags::Any),
        Err(Errno::PERM)
    );
}

#[test]
fn objects_compiled_for_every_instruction_set_version_run_alike() {
    for cpu in ["v1", "v2", "v3", "v4"] {
        let option = format!("-mcpu={cpu}");
        let name = "objects_compiled_for_every_instruction_set_version_run_alike";
        let Some(elf) = common::compile_with(name, "count", &[&option]) else {
            return;
        };
        for mut rig in Rig::each(&elf, None) {
            assert_eq!(
                rig.run(&udp_frame(4)).0.action(),
                XdpAction::Tx,
                "{cpu}: {:?}",
                rig.instance.last_fault()
            );
            assert_eq!(word(&rig.map(".bss").lookup(&[0; 4]).unwrap()), 1);
        }
    }
}

fn frame(first: &[u8]) -> Vec<u8> {
    let mut frame = vec![0u8; 64];
    frame[..first.len()].copy_from_slice(first);
    frame
}

#[test]
fn redirects_name_interface_worker_or_socket() {
    use millrace_ebpf::RedirectKind as Kind;
    let Some(elf) = compile("redirects_name_interface_worker_or_socket", "redirects") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        rig.map("devs")
            .update(&1u32.to_ne_bytes(), &7u32.to_ne_bytes(), MapFlags::Any)
            .unwrap();
        rig.map("devs_by_key")
            .update(&9u32.to_ne_bytes(), &8u64.to_ne_bytes(), MapFlags::Any)
            .unwrap();
        rig.map("cpus")
            .update(&2u32.to_ne_bytes(), &192u32.to_ne_bytes(), MapFlags::Any)
            .unwrap();
        rig.map("socks")
            .update(&0u32.to_ne_bytes(), &5u32.to_ne_bytes(), MapFlags::Any)
            .unwrap();
        let mut go = |bytes: &[u8]| {
            let verdict = rig.run(&frame(bytes)).0;
            (verdict.action(), verdict.redirect.kind, verdict.redirect.target)
        };
        assert_eq!(go(&[0, 3, 0]), (XdpAction::Redirect, Kind::Ifindex, 3));
        assert_eq!(go(&[0, 3, 1]), (XdpAction::Aborted, Kind::None, 0));
        assert_eq!(go(&[1, 1, 0]), (XdpAction::Redirect, Kind::Ifindex, 7));
        assert_eq!(go(&[1, 0, 0]), (XdpAction::Aborted, Kind::None, 0));
        assert_eq!(go(&[1, 0, 2]), (XdpAction::Pass, Kind::None, 0));
        assert_eq!(go(&[1, 1, 4]), (XdpAction::Aborted, Kind::None, 0));
        assert_eq!(go(&[1, 0, 8]), (XdpAction::Redirect, Kind::Broadcast, 0));
        assert_eq!(go(&[2, 9, 0]), (XdpAction::Redirect, Kind::Ifindex, 8));
        assert_eq!(go(&[3, 2, 0]), (XdpAction::Redirect, Kind::Cpu, 2));
        assert_eq!(go(&[3, 3, 1]), (XdpAction::Drop, Kind::None, 0));
        assert_eq!(go(&[4, 0, 0]), (XdpAction::Redirect, Kind::Xsk, 0));
        assert_eq!(go(&[5]), (XdpAction::Redirect, Kind::Xsk, 0));
    }
}

#[test]
fn ring_buffer_records_come_out_in_order_and_discarded_ones_do_not() {
    let Some(elf) = compile(
        "ring_buffer_records_come_out_in_order_and_discarded_ones_do_not",
        "events",
    ) else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        let ring = rig.map("ring").clone();
        for round in 0..100u8 {
            assert_eq!(rig.run(&frame(&[2, round, 5, 0])).0.action(), XdpAction::Tx);
            assert_eq!(rig.run(&frame(&[2, round, 6, 1])).0.action(), XdpAction::Tx);
            let mut records = Vec::new();
            ring.consume(10, |r| records.push(r.to_vec())).unwrap();
            let sizes: Vec<_> = records.iter().map(Vec::len).collect();
            assert_eq!(sizes, [24, 3, 3], "round {round}");
            assert_eq!((word(&records[0]), word(&records[0][8..])), (u64::from(round), 5));
            assert_eq!(records[2], [round, 6, 1]);
        }
        let mut sent = 0;
        while rig.run(&frame(&[2, 1, 1, 0])).0.action() == XdpAction::Tx {
            sent += 1;
            assert!(sent < 1000);
        }
        assert_eq!(ring.consume(1000, |_| ()).unwrap() / 2, sent);
        assert!(ring.lost(0).unwrap() > 0);
    }
}

#[test]
fn perf_events_carry_the_frame_and_need_an_open_ring() {
    let Some(elf) = compile("perf_events_carry_the_frame_and_need_an_open_ring", "events") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        assert_eq!(
            rig.run(&frame(&[3, 20])).0.raw,
            Errno::NOENT.raw_os_error() as u32
        );
        let perf = rig.map("perf").clone();
        perf.open_perf(0, 8192).unwrap();
        assert_eq!(perf.open_perf(0, 8192), Err(Errno::BUSY));
        assert_eq!(rig.run(&frame(&[3, 20])).0.raw, 0);
        assert_eq!(
            rig.run(&frame(&[3, 200])).0.raw,
            Errno::FAULT.raw_os_error() as u32
        );
        let mut records = Vec::new();
        perf.consume_perf(0, 9, |r| records.push(r.to_vec())).unwrap();
        assert_eq!(records, [[&[0u8; 4], &frame(&[3, 20])[..20]].concat()]);
    }
}

#[test]
fn maps_of_maps_lead_to_the_inner_map_and_follow_changes() {
    let Some(elf) = compile("maps_of_maps_lead_to_the_inner_map_and_follow_changes", "events") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        assert_eq!(
            rig.run(&frame(&[1, 0, 5])).0.action(),
            XdpAction::Tx,
            "{:?}",
            rig.instance.last_fault()
        );
        assert_eq!(rig.run(&frame(&[1, 2, 6])).0.action(), XdpAction::Tx);
        assert_eq!(rig.run(&frame(&[1, 1, 6])).0.raw, 100);
        assert_eq!(word(&rig.map("first").lookup(&[0; 4]).unwrap()), 5);
        assert_eq!(word(&rig.map("second").lookup(&[0; 4]).unwrap()), 6);
        let second = rig.map("second").clone();
        rig.map("outer")
            .set_inner(&0u32.to_ne_bytes(), &second, MapFlags::Any)
            .unwrap();
        assert_eq!(rig.run(&frame(&[1, 0, 5])).0.action(), XdpAction::Tx);
        assert_eq!(word(&second.lookup(&[0; 4]).unwrap()), 11);
    }
}

#[test]
fn tail_calls_reach_the_entry_and_stop_after_33() {
    let Some(elf) = compile("tail_calls_reach_the_entry_and_stop_after_33", "calls") else {
        return;
    };
    for mut rig in Rig::each(&elf, Some("calls")) {
        assert_eq!(
            rig.run(&frame(&[3, 1])).0.action(),
            XdpAction::Drop,
            "{:?}",
            rig.instance.last_fault()
        );
        assert_eq!(word(&rig.map("results").lookup(&7u32.to_ne_bytes()).unwrap()), 64);
        assert_eq!(rig.run(&frame(&[3, 2])).0.action(), XdpAction::Tx);
        assert_eq!(
            word(&rig.map("results").lookup(&7u32.to_ne_bytes()).unwrap()),
            64 + 33
        );
        assert_eq!(rig.run(&frame(&[3, 0])).0.action(), XdpAction::Pass);
        rig.map("jumps").delete(&1u32.to_ne_bytes()).unwrap();
        assert_eq!(rig.run(&frame(&[3, 1])).0.action(), XdpAction::Pass);
    }
}

#[test]
fn an_unknown_helper_is_named_with_its_source_line() {
    let Some(elf) = compile(
        "an_unknown_helper_is_named_with_its_source_line",
        "unknown_helper",
    ) else {
        return;
    };
    let loaded = Loader::new().load(&Object::parse(&elf).unwrap()).unwrap();
    let error = loaded.program(Some("wants_node")).unwrap_err().to_string();
    assert!(error.contains("helper get_numa_node_id (#42)"), "{error}");
    assert!(
        error.contains("unknown_helper.bpf.c:") && error.contains("bpf_get_numa_node_id()"),
        "{error}"
    );
    // Its neighbour in the same object runs.
    assert!(loaded.program(Some("passes")).is_ok());
    assert!(
        loaded
            .program(Some("nope"))
            .unwrap_err()
            .to_string()
            .contains("it has: passes")
    );
}

#[test]
fn callbacks_run_as_often_as_they_should() {
    let Some(elf) = compile("callbacks_run_as_often_as_they_should", "calls") else {
        return;
    };
    for mut rig in Rig::each(&elf, Some("calls")) {
        let results = rig.map("results").clone();
        let result = |n: u32| word(&results.lookup(&n.to_ne_bytes()).unwrap());
        for (count, turns) in [(0u8, 0u64), (1, 1), (10, 10), (41, 41), (42, 41), (200, 41)] {
            assert_eq!(
                rig.run(&frame(&[1, count])).0.action(),
                XdpAction::Tx,
                "{:?}",
                rig.instance.last_fault()
            );
            assert_eq!(result(1), turns, "{count} turns");
            assert_eq!(result(2), (0..turns).map(|i| i * i).sum::<u64>(), "{count} turns");
        }
        (0..8u32).for_each(|n| results.update(&n.to_ne_bytes(), &[0; 8], MapFlags::Any).unwrap());
        assert_eq!(
            rig.run(&frame(&[2, 9])).0.action(),
            XdpAction::Tx,
            "{:?}",
            rig.instance.last_fault()
        );
        assert_eq!((result(3), result(4)), (5 + 1, 10 * 1000 + 10 * 9 + 1));
        assert_eq!(result(5), 8);
        let table: u64 = rig.map("table").iter().map(|(_, value)| word(&value)).sum();
        assert_eq!(table, 10 * 9 + 5);
    }
}

#[test]
fn metadata_kfuncs_read_the_write_back_through_the_layout() {
    use millrace_ebpf::{HintField, HintKind, HintLayout, HintSource, Loc, NO_FLAGS, Test, XdpBuff};
    let Some(elf) = compile("metadata_kfuncs_read_the_write_back_through_the_layout", "hints") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        let field = |kind, offset, width, valid| HintField {
            kind,
            loc: Some(Loc {
                offset,
                width,
                shift: 0,
                mask: u64::MAX,
            }),
            flags: NO_FLAGS,
            valid,
            table: None,
            source: HintSource::Hardware,
        };
        let tagged = Some(Test {
            offset: 8,
            width: 1,
            mask: 1,
            value: 1,
            negate: false,
        });
        let mut go = |layout: &HintLayout, raw: &[u8]| {
            rig.instance.set_hints(layout);
            let mut bytes = [0u8; 128];
            let verdict = rig
                .instance
                .run_one(&mut XdpBuff::new(&mut bytes, 64, 64, 0, raw));
            assert_eq!(
                verdict.action(),
                XdpAction::Pass,
                "{:?}",
                rig.instance.last_fault()
            );
            bytes[64..96]
                .as_chunks::<8>()
                .0
                .iter()
                .map(|w| u64::from_le_bytes(*w))
                .collect::<Vec<_>>()
        };
        let missing = |e: Errno| i64::from(-e.raw_os_error()) as u64;
        let none = go(&HintLayout::none(), &[0; 16]);
        assert_eq!(none[..3], [missing(Errno::OPNOTSUPP); 3]);
        let layout = HintLayout::none()
            .with(field(HintKind::RxHash, 0, 4, None))
            .with(field(HintKind::VlanTci, 6, 2, tagged));
        let raw = [0x78, 0x56, 0x34, 0x12, 0, 0, 0x05, 0x20, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            go(&layout, &raw),
            [0x1234_5678, missing(Errno::OPNOTSUPP), 0x2005, 0x8100]
        );
        let untagged = [0x78, 0x56, 0x34, 0x12, 0, 0, 0x05, 0x20, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(go(&layout, &untagged)[2], missing(Errno::NODATA));
        let unless_zero = Some(Test {
            offset: 12,
            width: 1,
            mask: 0xf,
            value: 0,
            negate: true,
        });
        let layout = HintLayout::none().with(field(HintKind::RxHash, 0, 4, unless_zero));
        assert_eq!(go(&layout, &untagged)[0], missing(Errno::NODATA));
        let mut hashed = untagged;
        hashed[12] = 0x36;
        assert_eq!(go(&layout, &hashed)[0], 0x1234_5678);
    }
}

#[test]
fn a_program_array_takes_what_the_verifier_accepts_and_what_is_like_its_callers() {
    let test = "a_program_array_takes_what_the_verifier_accepts_and_what_is_like_its_callers";
    let Some(elf) = compile(test, "refused_jumps") else {
        return;
    };
    for mut rig in Rig::each(&elf, Some("root")) {
        let jumps = rig.map("jumps").clone();
        let loaded = &rig.loaded;
        let put = |index: u32, name: &str| jumps.set_program(index, &loaded.program(Some(name)).unwrap());
        assert_eq!(
            put(2, "wild"),
            Err(Errno::ACCESS),
            "loading it fails in the kernel"
        );
        assert_eq!(put(2, "several"), Err(Errno::INVAL), "frames of several buffers");
        assert_eq!(put(2, "steers"), Err(Errno::INVAL), "another hook");
        assert_eq!(put(4, "good"), Err(Errno::TOOBIG));
        assert_eq!(put(3, "good"), Ok(()));
        let why = loaded.program(Some("several_root")).unwrap_err().to_string();
        assert!(why.contains("not like the programs that jump"), "{why}");
        // Entry 1 named the refused one from the start, and is empty.
        let verdicts: Vec<_> = (0..4)
            .map(|queue| {
                let mut frame = [9u8; 128];
                let mut buf = XdpBuff::new(&mut frame, 64, 60, queue, &[]);
                rig.instance.run_one(&mut buf).action()
            })
            .collect();
        let (tx, pass) = (XdpAction::Tx, XdpAction::Pass);
        assert_eq!(verdicts, [tx, pass, pass, tx]);
    }
}

/// `struct guarded` of `locked.bpf.c`: before, lock, first, second, last, padding.
fn guarded(before: u32, lock: u32, first: u64, second: u64, last: u32) -> Vec<u8> {
    let mut value = [before.to_ne_bytes(), lock.to_ne_bytes()].concat();
    value.extend(first.to_ne_bytes());
    value.extend(second.to_ne_bytes());
    value.extend(last.to_ne_bytes());
    value.extend([0; 4]);
    value
}

#[test]
fn an_update_from_outside_leaves_a_values_spin_lock_alone() {
    let Some(elf) = compile("an_update_from_outside_leaves_a_values_spin_lock_alone", "locked") else {
        return;
    };
    let key = 1u32.to_ne_bytes();
    for mut rig in Rig::each(&elf, None) {
        for (first, name) in [(0u8, "by_index"), (1, "by_key")] {
            let map = rig.map(name).clone();
            let mut frame = [0u8; 60];
            frame[0] = first;
            // A lock that looks taken: were it written, the program would wait for it until it is ended.
            for flags in [MapFlags::Any, MapFlags::Exist] {
                map.update(&key, &guarded(7, 1, 10, 20, 9), flags).unwrap();
                let (verdict, _) = rig.run(&frame);
                assert_eq!(
                    verdict.action(),
                    XdpAction::Pass,
                    "{:?}",
                    rig.instance.last_fault()
                );
                assert_eq!(map.lookup(&key).unwrap(), guarded(7, 0, 11, 21, 9));
            }
            map.update_locked(&key, &guarded(5, 1, 1, 2, 3), MapFlags::Any)
                .unwrap();
            assert_eq!(rig.run(&frame).0.action(), XdpAction::Pass);
            assert_eq!(map.lookup_locked(&key).unwrap(), guarded(5, 0, 2, 3, 3));
        }
    }
}

#[test]
fn locked_updates_answer_with_the_kernels_error_numbers() {
    let Some(elf) = compile("locked_updates_answer_with_the_kernels_error_numbers", "locked") else {
        return;
    };
    let rig = Rig::new(&elf);
    let value = guarded(1, 0, 2, 3, 4);
    let (array, hash) = (rig.map("by_index"), rig.map("by_key"));
    let key = |n: u32| n.to_ne_bytes();
    assert_eq!(
        array.update_locked(&key(2), &value, MapFlags::Any),
        Err(Errno::TOOBIG)
    );
    assert_eq!(
        array.update_locked(&key(1), &value, MapFlags::NoExist),
        Err(Errno::EXIST)
    );
    assert_eq!(array.lookup_locked(&key(2)), Err(Errno::NOENT));
    assert_eq!(hash.lookup_locked(&key(1)), Err(Errno::NOENT));
    assert_eq!(
        hash.update_locked(&key(1), &value, MapFlags::Exist),
        Err(Errno::NOENT)
    );
    assert_eq!(hash.update_locked(&key(1), &value, MapFlags::NoExist), Ok(()));
    assert_eq!(
        hash.update_locked(&key(1), &value, MapFlags::NoExist),
        Err(Errno::EXIST)
    );
    assert_eq!(
        hash.update_locked(&key(1), &value[1..], MapFlags::Any),
        Err(Errno::INVAL)
    );
    assert_eq!(hash.lookup_locked(&key(1)), Ok(value));
    // Values without a lock: BPF_F_LOCK is EINVAL.
    let Some(elf) = compile("locked_updates_answer_with_the_kernels_error_numbers", "count") else {
        return;
    };
    let rig = Rig::new(&elf);
    let plain = rig.map("ports");
    assert_eq!(
        plain.update_locked(&key(1), &[0; 16], MapFlags::Any),
        Err(Errno::INVAL)
    );
    assert_eq!(plain.lookup_locked(&key(1)), Err(Errno::INVAL));
}

/// What is read under the lock is never half of one update and half of another, whoever writes.
#[test]
fn a_locked_lookup_sees_no_update_by_halves() {
    let Some(elf) = compile("a_locked_lookup_sees_no_update_by_halves", "locked") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        for (first, name) in [(0u8, "by_index"), (1, "by_key")] {
            let map = rig.map(name).clone();
            let key = 1u32.to_ne_bytes();
            map.update(&key, &guarded(0, 0, 0, 0, 0), MapFlags::Any).unwrap();
            let mut frame = [0u8; 60];
            frame[0] = first;
            std::thread::scope(|threads| {
                let (other, writes) = (map.clone(), 300u64);
                threads.spawn(move || {
                    for n in 0..writes {
                        let value = guarded(1, 0, n * 1000, n * 1000, 1);
                        other.update_locked(&key, &value, MapFlags::Any).unwrap();
                    }
                });
                for _ in 0..300 {
                    assert_eq!(rig.run(&frame).0.action(), XdpAction::Pass);
                    let seen = map.lookup_locked(&key).unwrap();
                    assert_eq!(word(&seen[8..]), word(&seen[16..]));
                }
            });
        }
    }
}

#[test]
fn a_lookup_among_sockets_finds_those_that_are_there() {
    let Some(elf) = compile("a_lookup_among_sockets_finds_those_that_are_there", "targets") else {
        return;
    };
    for mut rig in Rig::each(&elf, None) {
        let sockets = rig.map("sockets").clone();
        sockets
            .update(&3u32.to_ne_bytes(), &5u32.to_ne_bytes(), MapFlags::Any)
            .unwrap();
        let mut frame = [0u8; 60];
        frame[..2].copy_from_slice(&[3, 2]);
        let (verdict, seen) = rig.run(&frame);
        assert_eq!(verdict.action(), XdpAction::Tx, "{:?}", rig.instance.last_fault());
        assert_eq!(seen[4..8], 5u32.to_ne_bytes());
        sockets.delete(&3u32.to_ne_bytes()).unwrap();
        assert_eq!(rig.run(&frame).0.action(), XdpAction::Pass);
    }
}
