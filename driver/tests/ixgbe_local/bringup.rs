//! From power-on to a running port, and what it refuses.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use millrace_driver::bus::{BAR0, CONFIG_REGION, Device, ReadFault};
use millrace_driver::port::{Port, PortConfig, PortError};
use millrace_nic_models::ixgbe::regs;

use crate::rig::*;

#[test]
fn a_port_comes_up_with_the_mac_and_version_of_its_eeprom() {
    let rig = rig();
    let mut port = rig.open(config(2));
    assert_eq!(port.mac(), MAC);
    let info = port.driver_info();
    assert_eq!((info.driver, info.vendor, info.device), ("ixgbe", 0x8086, 0x10fb));
    assert!(
        info.firmware.starts_with("0x") && info.firmware.len() == 10,
        "{}",
        info.firmware
    );
    let link = port.link().unwrap();
    assert_eq!((link.up, link.speed_mbps, link.full_duplex), (true, 10_000, true));
    assert!(port.is_alive());
    all_home(port, []);
}

#[test]
fn a_port_without_a_link_opens_all_the_same_and_sees_it_come() {
    let rig = rig();
    rig.peer.set_link(false);
    let mut port = rig.open(PortConfig {
        link_wait: Duration::from_millis(50),
        ..config(1)
    });
    assert!(!port.link().unwrap().up);
    assert_eq!(port.link().unwrap().speed_mbps, 0);
    rig.peer.set_link(true);
    let start = std::time::Instant::now();
    while !port.link().unwrap().up {
        assert!(start.elapsed() < Duration::from_secs(5), "the link does not come");
        rig.device.step();
    }
    all_home(port, []);
}

#[test]
fn a_port_opens_again_and_again_on_the_same_device() {
    let rig = rig();
    for round in 0..5 {
        let mut port = rig.open(config(1));
        let (mut rx, tx) = port.take_queue(0).unwrap();
        rig.peer.send(udp(round).build());
        assert_eq!(receive(&rig, &mut rx).len(), 1);
        all_home(port, [(rx, tx)]);
    }
}

#[test]
fn a_configuration_that_the_device_cannot_have_is_refused_before_it_is_touched() {
    let rig = rig();
    let refused = |change: fn(&mut PortConfig)| {
        let mut config = config(2);
        change(&mut config);
        match Port::open(rig.device.clone(), config) {
            Err(PortError::Config { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|c| c.queues = 0), "queues");
    assert_eq!(refused(|c| c.queues = 17), "queues");
    assert_eq!(refused(|c| c.rx_ring = 100), "rx_ring");
    assert_eq!(refused(|c| c.tx_ring = 8192), "tx_ring");
    assert_eq!(refused(|c| c.mtu = 60), "mtu");
    assert_eq!(refused(|c| c.mtu = 9707), "mtu");
    assert_eq!(refused(|c| c.rss.reta = vec![0, 1, 2]), "rss.reta");
    assert_eq!(refused(|c| c.buffers = 100), "buffers");
    assert_eq!(rig.counter("resets"), 0);
}

#[test]
fn a_device_without_a_judge_is_taken_only_when_told_so() {
    let rig = rig();
    let faulty = rig.faulty();
    let ids = |faulty: &Arc<_>, config| match Port::open(Arc::clone(faulty) as Arc<dyn Device>, config) {
        Ok(port) => {
            drop(port);
            "opened"
        }
        Err(PortError::Untested { .. }) => "untested",
        Err(PortError::UnknownDevice { .. }) => "unknown",
        Err(PortError::NoDriver { .. }) => "no driver",
        Err(other) => panic!("{other}"),
    };
    let untested = || PortConfig {
        untested: true,
        ..config(1)
    };
    faulty.set(CONFIG_REGION, 0, ReadFault::Constant(0x1528_8086));
    assert_eq!(ids(&faulty, config(1)), "untested");
    assert_eq!(ids(&faulty, untested()), "opened");
    faulty.set(CONFIG_REGION, 0, ReadFault::Constant(0x1572_8086));
    assert_eq!(ids(&faulty, untested()), "no driver");
    faulty.set(CONFIG_REGION, 0, ReadFault::Constant(0x1000_1af4));
    assert_eq!(ids(&faulty, untested()), "unknown");
}

#[test]
fn the_register_dump_names_registers_and_leaves_counters_alone() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let dump = port.registers_dump().unwrap();
    let value = |name: &str| {
        dump.iter()
            .find(|r| r.name == name)
            .unwrap_or_else(|| panic!("{name}"))
            .value
    };
    assert_eq!(value("RDLEN[0]"), 128 * 16);
    assert_eq!(
        value("RAL[0]"),
        u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]])
    );
    assert_ne!(value("RXCTRL") & regs::rxctrl::RXEN, 0);
    assert!(dump.iter().all(|r| r.name != "GPRC" && r.name != "SWSM"));
    all_home(port, []);
}

#[test]
fn an_interrupt_wakes_the_worker_once_per_arming() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        interrupts: true,
        interrupt_interval: Duration::ZERO,
        ..config(2)
    });
    let fd = port.irq(1).unwrap().try_clone_to_owned().unwrap();
    assert!(port.irq(2).is_none());
    let fired = || {
        let mut count = [0; 8];
        rustix::io::read(fd.as_fd(), &mut count).is_ok()
    };
    let mut queues: Vec<_> = (0..2).map(|q| port.take_queue(q).unwrap()).collect();
    let mut to_queue_1 = (0..200).map(udp).filter(|f| {
        rig.peer.send(f.build());
        receive(&rig, &mut queues[0].0).is_empty() && receive(&rig, &mut queues[1].0).len() == 1
    });
    let frame = to_queue_1.next().expect("RSS sends some frame to queue 1");
    drop(to_queue_1);
    fired();

    rig.peer.send(frame.build());
    rig.settle();
    assert!(!fired(), "not armed");
    queues[1].0.arm().unwrap();
    rig.settle();
    assert!(
        fired(),
        "a frame that came before arming raises the interrupt at once"
    );
    assert_eq!(receive(&rig, &mut queues[1].0).len(), 1);
    rig.peer.send(frame.build());
    rig.settle();
    assert!(!fired(), "the device masked the vector when it fired");
    assert_eq!(receive(&rig, &mut queues[1].0).len(), 1);
    queues[1].0.arm().unwrap();
    rig.settle();
    fired();
    queues[1].0.arm().unwrap();
    queues[1].0.disarm().unwrap();
    rig.peer.send(frame.build());
    rig.settle();
    assert!(!fired(), "disarmed");
    all_home(port, queues);
}

#[test]
fn a_link_change_raises_the_link_interrupt_until_it_is_acknowledged() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        interrupts: true,
        ..config(1)
    });
    let fd = port.link_irq().unwrap().try_clone_to_owned().unwrap();
    let fired = |limit: Duration| {
        let start = std::time::Instant::now();
        let mut count = [0; 8];
        while start.elapsed() < limit {
            rig.device.step();
            if rustix::io::read(fd.as_fd(), &mut count).is_ok() {
                return true;
            }
        }
        false
    };
    port.ack_link_irq().unwrap();
    fired(Duration::from_millis(50));
    port.ack_link_irq().unwrap();
    for up in [false, true, false] {
        rig.peer.set_link(up);
        assert!(fired(Duration::from_secs(2)), "no interrupt for link {up}");
        assert_eq!(port.link().unwrap().up, up);
        port.ack_link_irq().unwrap();
    }
    all_home(port, []);
}

#[test]
fn a_port_that_wants_more_vectors_than_there_are_says_so() {
    let rig = rig();
    assert!(rig.device.irq_count() >= 17);
    let port = rig.open(PortConfig {
        interrupts: true,
        ..config(16)
    });
    all_home(port, []);
}

#[test]
fn a_device_that_fell_off_the_bus_is_gone() {
    let rig = rig();
    let faulty = rig.faulty();
    faulty.set(
        BAR0,
        u64::from(regs::STATUS.offset),
        ReadFault::Constant(u32::MAX),
    );
    let error = Port::open(faulty, config(1)).unwrap_err();
    assert!(error.is_gone(), "{error}");
}
