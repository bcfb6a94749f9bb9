//! Each wait for a register, made to fail: the error names the step, the register, the value and the time.

use std::sync::Arc;
use std::time::Duration;

use millrace_driver::bus::{BAR0, BusError, Device, FaultInjector, ReadFault};
use millrace_driver::port::{Port, PortConfig, PortError};
use millrace_nic_models::ixgbe::regs::{
    self, ctrl, eec, eerd, rdrxctl, rxdctl, status, sw_fw_sync, swsm, txdctl,
};
use millrace_nic_models::regs::Reg;

use crate::rig::*;

const DEADLINE: Duration = Duration::from_millis(30);

fn quick(queues: u16) -> PortConfig {
    PortConfig {
        deadline: DEADLINE,
        link_wait: Duration::ZERO,
        ..config(queues)
    }
}

fn stick(device: &FaultInjector, reg: &Reg, i: u32, mask: u32, value: u32) {
    device.set(BAR0, u64::from(reg.at(i)), ReadFault::Stuck { mask, value });
}

/// The error is a timeout of `register` in `step`, after the deadline, and shows the stuck bits.
fn assert_times_out(error: &PortError, step: &str, register: &str) {
    let PortError::Step {
        step: in_step,
        source,
        ..
    } = error
    else {
        panic!("{error}")
    };
    let BusError::Timeout {
        register: name,
        waited,
        seen,
        mask,
        want,
        ..
    } = source
    else {
        panic!("{error}")
    };
    assert_eq!((*in_step, name.as_str()), (step, register));
    assert!(*waited >= DEADLINE && *waited < DEADLINE * 20, "{waited:?}");
    assert_ne!(seen & mask, *want);
    let text = error.to_string();
    assert!(text.contains(step) && text.contains(register), "{text}");
}

/// Opens the port with one register stuck, and sees bring-up time out on it and the device come to rest.
fn open_times_out(reg: &Reg, i: u32, mask: u32, value: u32, step: &str) {
    let rig = rig();
    let faulty = rig.faulty();
    stick(&faulty, reg, i, mask, value);
    let error = Port::open(faulty.clone(), quick(1)).unwrap_err();
    let name = if i == 0 {
        reg.name.to_owned()
    } else {
        format!("{}[{i}]", reg.name)
    };
    assert_times_out(&error, step, &name);
    // Nothing is left mapped or running, and without the fault the same device opens.
    faulty.clear(BAR0, u64::from(reg.at(i)));
    let port = Port::open(faulty, quick(1)).expect("the device is fine again");
    all_home(port, []);
}

#[test]
fn the_wait_for_bus_mastering_to_stop_times_out() {
    let bit = status::MASTER_ENABLE;
    open_times_out(&regs::STATUS, 0, bit, bit, "stop bus mastering before reset");
}

#[test]
fn the_wait_for_the_reset_to_end_times_out() {
    open_times_out(&regs::CTRL, 0, ctrl::RST, ctrl::RST, "reset");
}

#[test]
fn the_wait_for_the_eeprom_auto_read_times_out() {
    open_times_out(&regs::EEC, 0, eec::AUTO_RD, 0, "EEPROM auto read");
}

#[test]
fn the_wait_for_dma_initialisation_times_out() {
    open_times_out(&regs::RDRXCTL, 0, rdrxctl::DMAIDONE, 0, "DMA initialisation");
}

#[test]
fn the_wait_for_an_eeprom_word_times_out() {
    open_times_out(&regs::EERD, 0, eerd::DONE, 0, "read the EEPROM");
}

#[test]
fn the_wait_for_a_receive_queue_to_start_times_out() {
    open_times_out(&regs::RXDCTL, 0, rxdctl::ENABLE, 0, "enable the receive queue");
}

#[test]
fn the_wait_for_a_transmit_queue_to_start_times_out() {
    open_times_out(&regs::TXDCTL, 0, txdctl::ENABLE, 0, "enable the transmit queue");
}

#[test]
fn the_wait_for_the_receive_path_to_be_empty_times_out() {
    open_times_out(&regs::SECRXSTAT, 0, 1, 0, "enable receive");
}

#[test]
fn the_wait_for_the_software_semaphore_times_out() {
    open_times_out(
        &regs::SWSM,
        0,
        swsm::SMBI,
        swsm::SMBI,
        "take the software semaphore",
    );
}

#[test]
fn a_semaphore_that_firmware_keeps_is_named() {
    for (reg, mask, value) in [
        (&regs::SWSM, swsm::SWESMBI, 0),
        (
            &regs::SW_FW_SYNC,
            sw_fw_sync::MAC_CSR << 5,
            sw_fw_sync::MAC_CSR << 5,
        ),
    ] {
        let rig = rig();
        let faulty = rig.faulty();
        stick(&faulty, reg, 0, mask, value);
        let error = Port::open(faulty, quick(1)).unwrap_err();
        let PortError::Semaphore { waited, .. } = &error else {
            panic!("{error}")
        };
        assert!(*waited >= DEADLINE);
    }
}

#[test]
fn the_waits_of_a_queue_stop_time_out_and_a_reset_frees_the_queue() {
    for (reg, mask, step) in [
        (&regs::RXDCTL, rxdctl::ENABLE, "stop the receive queue"),
        (&regs::TXDCTL, txdctl::ENABLE, "stop the transmit queue"),
    ] {
        let rig = rig();
        let faulty = rig.faulty();
        let mut port = Port::open(faulty.clone() as Arc<dyn Device>, quick(2)).unwrap();
        let (rx, tx) = port.take_queue(1).unwrap();
        stick(&faulty, reg, 1, mask, mask);
        let error = port.stop_queue(rx, tx).unwrap_err();
        assert_times_out(&error, step, &format!("{}[1]", reg.name));
        assert!(matches!(
            port.start_queue(1),
            Err(PortError::QueueState { state: "stuck", .. })
        ));
        assert!(
            port.buffers().in_flight >= 2 * 127,
            "the device may still use the stuck queue's buffers"
        );
        faulty.clear(BAR0, u64::from(reg.at(1)));
        port.reset().unwrap();
        let halves = port.take_queue(1).expect("the queue runs again");
        all_home(port, [halves]);
    }
}

#[test]
fn a_failed_queue_start_rolls_back_and_can_be_tried_again() {
    let rig = rig();
    let faulty = rig.faulty();
    let mut port = Port::open(faulty.clone() as Arc<dyn Device>, quick(2)).unwrap();
    let (rx, tx) = port.take_queue(1).unwrap();
    port.stop_queue(rx, tx).unwrap();
    let home = port.buffers().home;
    for (reg, step) in [
        (&regs::RXDCTL, "enable the receive queue"),
        (&regs::TXDCTL, "enable the transmit queue"),
    ] {
        stick(&faulty, reg, 1, rxdctl::ENABLE, 0);
        let error = port.start_queue(1).unwrap_err();
        assert_times_out(&error, step, &format!("{}[1]", reg.name));
        assert_eq!(port.buffers().home, home);
        faulty.clear(BAR0, u64::from(reg.at(1)));
    }
    let mut halves = port.start_queue(1).unwrap();
    let mut others = port.take_queue(0).unwrap();
    for n in 0..50 {
        rig.peer.send(udp(n).build());
    }
    let seen = receive(&rig, &mut halves.0).len() + receive(&rig, &mut others.0).len();
    assert_eq!(seen, 50);
    all_home(port, [others, halves]);
}

#[test]
fn closing_a_port_whose_device_does_not_stop_says_so_and_takes_the_memory_away() {
    let rig = rig();
    let faulty = rig.faulty();
    let mut port = Port::open(faulty.clone() as Arc<dyn Device>, quick(1)).unwrap();
    let (rx, tx) = port.take_queue(0).unwrap();
    stick(
        &faulty,
        &regs::STATUS,
        0,
        status::MASTER_ENABLE,
        status::MASTER_ENABLE,
    );
    let region = port.region().clone();
    let error = port.close().unwrap_err();
    assert_times_out(&error, "stop bus mastering", "STATUS");
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0);
    let faults = rig.counter("rx_dma_faults");
    rig.peer.send(udp(1).build());
    rig.settle();
    assert_eq!(
        rig.counter("rx_dma_faults"),
        faults,
        "bus mastering is off as well: nothing is even tried"
    );
}

#[test]
fn an_unplugged_device_brings_the_port_down_with_an_error() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    rig.device.unplug();
    assert!(!port.is_alive());
    let mut batch = millrace_driver::queue::RxBatch::new();
    assert_eq!(rx.poll(&mut batch), 0);
    tx.push_copy(&[0; 60], &Default::default()).unwrap();
    tx.submit();
    assert!(!rx.is_alive() && !tx.is_alive());
    assert!(port.link().unwrap_err().is_gone());
    let region = port.region().clone();
    assert!(port.close().unwrap_err().is_gone());
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0);
}
