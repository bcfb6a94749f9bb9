//! Queues that stop and start while others run, resets, and the quiet after the end.

use millrace_driver::port::{Port, PortConfig, PortError};
use millrace_driver::queue::{RxBatch, TxMeta};

use crate::rig::*;

#[test]
fn a_queue_stops_and_starts_while_the_other_carries_traffic() {
    let rig = rig();
    let mut port = rig.open(config(2));
    let (mut rx0, mut tx0) = port.take_queue(0).unwrap();
    let mut other = Some(port.take_queue(1).unwrap());
    let mut seen = 0;
    for round in 0..20u16 {
        for n in 0..40 {
            rig.peer.send(udp(round * 40 + n).build());
            tx0.push_copy(&udp(n).build(), &TxMeta::NONE).unwrap();
        }
        tx0.submit();
        match other.take() {
            Some((mut rx1, tx1)) => {
                seen += receive(&rig, &mut rx1).len();
                port.stop_queue(rx1, tx1).unwrap();
            }
            None => other = Some(port.start_queue(1).unwrap()),
        }
        seen += receive(&rig, &mut rx0).len();
        if let Some((rx1, _)) = &mut other {
            seen += receive(&rig, rx1).len();
        }
        tx0.reclaim();
        assert_eq!(rig.peer.received().len(), 40);
    }
    assert_eq!(
        seen, 800,
        "frames for the stopped queue go to the running one, none is lost"
    );
    let halves = other.unwrap_or_else(|| port.start_queue(1).unwrap());
    all_home(port, [(rx0, tx0), halves]);
}

#[test]
fn a_stopped_queue_can_be_freed_and_come_back_with_other_ring_sizes() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (rx, tx) = port.take_queue(0).unwrap();
    assert!(matches!(port.free_queue(0), Err(PortError::QueueState { .. })));
    port.stop_queue(rx, tx).unwrap();
    assert_eq!(port.buffers().in_flight, 0);
    assert!(matches!(
        port.alloc_queue(0, 256, 256),
        Err(PortError::QueueState { .. })
    ));
    port.free_queue(0).unwrap();
    port.free_queue(0).unwrap();
    assert!(matches!(
        port.alloc_queue(0, 100, 256),
        Err(PortError::Config { what: "rx_ring", .. })
    ));
    port.alloc_queue(0, 256, 512).unwrap();
    let (mut rx, tx) = port.start_queue(0).unwrap();
    assert_eq!((rx.ring_size(), tx.ring_size()), (256, 512));
    rig.peer.send(udp(1).build());
    assert_eq!(receive(&rig, &mut rx).len(), 1);
    all_home(port, [(rx, tx)]);
}

#[test]
fn life_cycle_calls_in_the_wrong_order_are_refused_and_change_nothing() {
    let rig = rig();
    let mut port = rig.open(config(2));
    assert!(matches!(
        port.take_queue(2),
        Err(PortError::NoSuchQueue { queue: 2, queues: 2 })
    ));
    let halves = port.take_queue(0).unwrap();
    assert!(matches!(port.take_queue(0), Err(PortError::QueueState { .. })));
    assert!(matches!(port.start_queue(0), Err(PortError::QueueState { .. })));
    assert!(matches!(
        port.reset(),
        Err(PortError::QueueState { queue: 0, .. })
    ));
    port.give_back(halves.0, halves.1).unwrap();
    let (rx0, _tx0) = port.take_queue(0).unwrap();
    let (_rx1, tx1) = port.take_queue(1).unwrap();
    assert!(matches!(
        port.stop_queue(rx0, tx1),
        Err(PortError::ForeignQueue { .. })
    ));
    let other = crate::rig::rig();
    let mut other_port = other.open(config(1));
    let (rx, tx) = other_port.take_queue(0).unwrap();
    assert!(matches!(
        port.give_back(rx, tx),
        Err(PortError::ForeignQueue { .. })
    ));
}

#[test]
fn a_port_is_reset_under_traffic_and_goes_on() {
    let rig = rig();
    let mut port = rig.open(PortConfig {
        promiscuous: false,
        ..config(2)
    });
    let extra = [2, 0, 0, 0, 0, 77];
    port.add_mac(extra).unwrap();
    for round in 0..5 {
        let mut queues: Vec<_> = (0..2).map(|q| port.take_queue(q).unwrap()).collect();
        for n in 0..100 {
            rig.peer.send(udp(n).build());
            queues[usize::from(n % 2)]
                .1
                .push_copy(&udp(n).build(), &TxMeta::NONE)
                .unwrap();
        }
        for (_, tx) in &mut queues {
            tx.submit();
        }
        // Some of it has arrived, some is on its way, some waits on the wire.
        rig.device.step();
        for (rx, tx) in queues {
            port.give_back(rx, tx).unwrap();
        }
        port.reset().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(
            port.buffers().in_flight,
            2 * 128,
            "round {round}: only what lies in the receive rings is away"
        );
        let mut queues: Vec<_> = (0..2).map(|q| port.take_queue(q).unwrap()).collect();
        wait_for_link(&rig, &mut port);
        queues.iter_mut().for_each(|(rx, _)| drop(receive(&rig, rx)));
        rig.peer.received();
        rig.peer.send(udp(1).macs(PEER, extra).build());
        let seen: usize = queues.iter_mut().map(|(rx, _)| receive(&rig, rx).len()).sum();
        assert_eq!(seen, 1, "round {round}: the added address survives the reset");
        queues[1].1.push_copy(&udp(5).build(), &TxMeta::NONE).unwrap();
        queues[1].1.submit();
        rig.settle();
        assert_eq!(rig.peer.received(), [udp(5).pad_to(60).build()]);
        for (rx, tx) in queues {
            port.give_back(rx, tx).unwrap();
        }
    }
    all_home(port, []);
}

fn wait_for_link(rig: &Rig, port: &mut Port) {
    let start = std::time::Instant::now();
    while !port.link().unwrap().up {
        assert!(start.elapsed().as_secs() < 5, "the link does not come back");
        rig.device.step();
    }
}

#[test]
fn nothing_is_written_to_memory_after_the_port_is_closed() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (rx, tx) = port.take_queue(0).unwrap();
    let region = port.region().clone();
    for n in 0..30 {
        rig.peer.send(udp(n).build());
    }
    rig.device.step();
    port.close().unwrap();
    // Every buffer is home now; mark them all and let the device try.
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0);
    let mut stack = millrace_driver::mem::FreeStack::new(region.clone());
    let mut handles: Vec<_> = std::iter::from_fn(|| stack.pop()).collect();
    assert_eq!(handles.len(), region.count() as usize);
    handles.iter_mut().for_each(|h| region.buffer_mut(h).fill(0xa5));
    let faults = rig.counter("rx_dma_faults") + rig.counter("tx_dma_faults");
    for n in 0..200 {
        rig.peer.send(udp(n).build());
    }
    rig.settle();
    assert!(
        handles
            .iter()
            .all(|h| region.buffer(h).iter().all(|b| *b == 0xa5)),
        "the device wrote after the close"
    );
    assert_eq!(
        rig.counter("rx_dma_faults") + rig.counter("tx_dma_faults"),
        faults,
        "and it did not even try"
    );
}

#[test]
fn queues_that_outlive_their_port_are_harmless() {
    let rig = rig();
    let mut port = rig.open(config(1));
    let (mut rx, mut tx) = port.take_queue(0).unwrap();
    let region = port.region().clone();
    drop(port);
    assert_eq!(rx.poll(&mut RxBatch::new()), 0);
    tx.push_copy(&[1; 60], &TxMeta::NONE).unwrap();
    assert_eq!(tx.submit(), 0);
    assert!(!rx.is_alive());
    drop((rx, tx));
    assert_eq!(region.in_flight(), 0);
}

#[test]
fn a_queue_that_was_dropped_instead_of_given_back_costs_no_buffer_in_the_end() {
    let rig = rig();
    let mut port = rig.open(config(2));
    let region = port.region().clone();
    let (rx, tx) = port.take_queue(0).unwrap();
    drop((rx, tx));
    assert_eq!(port.buffers().in_flight, 2 * 128);
    // The device goes on writing into the dropped queue's buffers; nobody else has them meanwhile.
    for n in 0..300 {
        rig.peer.send(udp(n).build());
    }
    rig.settle();
    port.close().unwrap();
    assert_eq!(region.in_flight(), 0);
}
