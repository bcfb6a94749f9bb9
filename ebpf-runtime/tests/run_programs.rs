//! Real objects, compiled by clang, through loader and interpreter.

mod common;

use common::{Rig, compile, udp_frame};
use millrace_ebpf::{EngineKind, Errno, Loader, MapFlags, Object, XdpAction};

fn word(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn counting_program_fills_array_hash_lru_and_percpu_maps() {
    let Some(elf) = compile("counting_program_fills_array_hash_lru_and_percpu_maps", "count") else {
        return;
    };
    let mut rig = Rig::new(&elf);
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

#[test]
fn full_hash_map_gives_e2big_and_lru_evicts() {
    let Some(elf) = compile("full_hash_map_gives_e2big_and_lru_evicts", "count") else {
        return;
    };
    let mut rig = Rig::new(&elf);
    for port in 20..28 {
        assert_eq!(rig.run(&udp_frame(port)).0.action(), XdpAction::Tx);
    }
    assert_eq!(rig.run(&udp_frame(28)).0.action(), XdpAction::Aborted);
    assert_eq!(rig.map("ports").len(), 8);
    assert_eq!(rig.map("recent").len(), 4);
    let update = rig.map("ports").update(&[77, 0, 0, 0], &[0; 16], MapFlags::Any);
    assert_eq!(update, Err(Errno::TOOBIG));
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
        let mut rig = Rig::new(&elf);
        assert_eq!(
            rig.run(&udp_frame(4)).0.action(),
            XdpAction::Tx,
            "{cpu}: {:?}",
            rig.instance.last_fault()
        );
        assert_eq!(word(&rig.map(".bss").lookup(&[0; 4]).unwrap()), 1);
    }
}
