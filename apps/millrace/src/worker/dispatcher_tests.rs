//! Chains beside the dispatcher that xdp-tools installs: its own bytecode, with the places of its programs filled in.

use millrace_driver::queue::BATCH;
use millrace_ebpf::{EngineKind, Instance, Loader, Object, Program, RunConfig, Verdict, XdpBuff};

use super::chain::Attached;
use crate::debian;

/// Programs in the dispatcher's chain; it has places for ten.
const PROGRAMS: usize = 3;
/// What each may say: every verdict, what is none, an empty place's 31, and numbers that a shift would cut.
const RESULTS: [i32; 10] = [0, 1, 2, 3, 4, 5, 31, 34, 66, -1];

/// `XDP_DISPATCHER_RETVAL` in each place: `r2 = 31; *(u32 *)(r10 - 4) = r2`, which the place then returns.
const PLACE: [u8; 16] = [0xb7, 2, 0, 0, 31, 0, 0, 0, 0x63, 0x2a, 0xfc, 0xff, 0, 0, 0, 0];

/// `struct xdp_dispatcher_config` of version 2 (xdp-tools, headers/xdp/prog_dispatcher.h).
fn config(actions: [u32; PROGRAMS]) -> Vec<u8> {
    let mut bytes = vec![236, 2, PROGRAMS as u8, 0];
    let all = actions
        .iter()
        .map(|a| a | 1 << 31)
        .chain(std::iter::repeat(0))
        .take(10);
    bytes.extend(all.flat_map(u32::to_ne_bytes));
    // Priorities and flags: for libxdp, not for the dispatcher.
    bytes.resize(4 + 3 * 40, 0);
    bytes
}

/// The dispatcher, each place saying what it is told to.
fn dispatcher(object: &[u8], says: [i32; PROGRAMS], actions: [u32; PROGRAMS]) -> Instance {
    let mut object = object.to_vec();
    let places: Vec<usize> = (0..object.len() - PLACE.len())
        .filter(|at| object[*at..].starts_with(&PLACE))
        .collect();
    assert!(places.len() >= PROGRAMS, "the dispatcher's places look different");
    for (at, says) in places.iter().zip(says) {
        object[at + 4..at + 8].copy_from_slice(&says.to_le_bytes());
    }
    let object = Object::parse(&object).expect("an object");
    let loader = Loader::new().global("conf", &config(actions));
    let program = loader
        .load(&object)
        .expect("loads")
        .program(Some("xdp_dispatcher"));
    let program = program.expect("the dispatcher");
    program.instance(EngineKind::Interp, 0).expect("accepted")
}

/// A program that says one thing.
fn saying(result: i32) -> Instance {
    let mut code = vec![0xb4, 0, 0, 0];
    code.extend(result.to_le_bytes());
    code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let program = Program::from_bytecode("says", &code, &[], 1).expect("a program");
    program.instance(EngineKind::Interp, 0).expect("accepted")
}

#[test]
fn a_chain_decides_as_the_bytecode_of_libxdps_dispatcher() {
    let test = "a_chain_decides_as_the_bytecode_of_libxdps_dispatcher";
    let found = debian::libxdp().map(|all| all.into_iter().find(|p| p.ends_with("xdp-dispatcher.o")));
    let object = match found {
        Ok(Some(path)) => std::fs::read(path).expect("readable"),
        Ok(None) => return println!("SKIP {test}: libxdp1 brings no xdp-dispatcher.o"),
        Err(e) => return println!("SKIP {test}: {e}"),
    };
    let masks = [
        [1 << 2, 1 << 2, 1 << 2],
        [1 << 3, 0x1f, 0],
        [1 << 1 | 1 << 2, 1, 1 << 4],
    ];
    let combinations = RESULTS.len().pow(PROGRAMS as u32);
    let mut compared = 0;
    for actions in masks {
        for n in 0..combinations {
            let result = |i: u32| RESULTS[n / RESULTS.len().pow(i) % RESULTS.len()];
            let says = [result(0), result(1), result(2)];
            let mut frame = [0; 64];
            let mut theirs = [Verdict::default()];
            let mut buffs = [XdpBuff::new(&mut frame, 0, 64, 0, &[])];
            dispatcher(&object, says, actions).run_batch(&mut buffs, &mut theirs);
            let links = says.iter().zip(actions).map(|(says, actions)| {
                let priority = 50;
                (saying(*says), RunConfig { priority, actions })
            });
            let mut verdicts = [Verdict::default(); BATCH];
            let mut buffs = [XdpBuff::new(&mut frame, 0, 64, 0, &[])];
            Attached::chain(links.collect()).run(&mut buffs, &mut verdicts);
            assert_eq!(verdicts[0].raw, theirs[0].raw, "{says:?} with {actions:x?}");
            compared += 1;
        }
    }
    assert_eq!(compared, masks.len() * combinations);
}
