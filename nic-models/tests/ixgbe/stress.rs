//! Resets and stops under traffic.

use millrace_nic_models::device::{Model, Work};
use millrace_nic_models::ixgbe::regs::{self, ctrl, rxdctl, srrctl};

use crate::rig::{Rig, to_port};

#[test]
fn a_reset_under_traffic_leaves_memory_alone_and_the_next_bring_up_works() {
    let mut rig = Rig::running(2, 16);
    for round in 0..50 {
        for _ in 0..round % 20 {
            rig.far
                .lock()
                .unwrap()
                .to_device
                .push_back(to_port().udp(1, 1).build());
        }
        if round % 3 == 0 {
            rig.step();
        }
        match round % 2 {
            0 => rig.write(regs::CTRL, 0, ctrl::RST),
            _ => rig.nic.reset(),
        }
        for i in 0..16 {
            rig.set_descriptor(Rig::rx_descriptor(0, i), [Rig::rx_buffer(0, i), 0]);
        }
        rig.settle();
        assert!(rig.received(0, 0).is_empty(), "nothing lands after a reset");
        rig.set_bus_master(true);
        rig.bring_up(2, 16);
        rig.arrive(&to_port().udp(1, 1).build());
        assert_eq!(rig.received(0, 0).len(), 1, "round {round}");
    }
}

#[test]
fn one_queue_stops_and_starts_while_the_other_runs() {
    let mut rig = Rig::running(2, 16);
    rig.write(regs::ETQF, 0, 0x0800 | regs::etqf::ENABLE);
    rig.write(
        regs::ETQS,
        0,
        regs::etqs::QUEUE_ENABLE | 1 << regs::etqs::QUEUE_SHIFT,
    );
    for round in 0..10 {
        rig.write(regs::RXDCTL, 0, 0);
        assert_eq!(rig.peek(regs::RXDCTL, 0) & rxdctl::ENABLE, 0);
        rig.arrive(&to_port().udp(1, 1).build());
        rig.start_rx(0, 16, srrctl::DESCTYPE_ADV_ONE | 2);
        assert_eq!(rig.received(1, 0).len(), round + 1);
    }
}

#[test]
fn a_round_is_bounded_however_much_waits() {
    let mut rig = Rig::running(1, 2048);
    for _ in 0..1000 {
        rig.far
            .lock()
            .unwrap()
            .to_device
            .push_back(to_port().udp(1, 1).build());
    }
    assert_eq!(rig.step(), Work::Busy);
    assert!(rig.received(0, 0).len() <= 64);
    rig.settle();
    assert_eq!(rig.read(regs::GPRC), 1000);
}
