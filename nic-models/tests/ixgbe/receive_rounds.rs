//! Several frames in one round: what is written back together, and in which order.

use millrace_nic_models::ixgbe::desc::rx::{WriteBack, status};
use millrace_nic_models::ixgbe::regs;

use crate::rig::{Rig, to_port};

/// Puts all frames on the wire, and then runs the model.
fn arrive_together(rig: &mut Rig, frames: &[Vec<u8>]) {
    rig.far.lock().unwrap().to_device.extend(frames.iter().cloned());
    rig.settle();
}

fn numbered(n: u8, len: usize) -> Vec<u8> {
    to_port().udp(1, 2).payload(&vec![n; len]).build()
}

#[test]
fn frames_of_one_and_of_several_buffers_are_written_back_over_the_rings_end() {
    const RING: u32 = 32;
    const START: u32 = 20;
    let mut rig = Rig::running(1, RING);
    for n in 0..START {
        rig.arrive(&numbered(n as u8, 100));
    }
    rig.repost_rx(0, RING);
    rig.write(regs::RDT, 0, START - 1);
    let frames: Vec<Vec<u8>> = (0..12u8)
        .map(|n| numbered(n, if n == 8 { 9000 } else { 100 }))
        .collect();
    arrive_together(&mut rig, &frames);
    let mut at = START;
    for frame in &frames {
        let mut got = Vec::new();
        loop {
            let back = WriteBack::decode(rig.descriptor(Rig::rx_descriptor(0, at)));
            assert_ne!(back.status_error & status::DD, 0, "descriptor {at}");
            got.extend(rig.load(Rig::rx_buffer(0, at), usize::from(back.len)));
            at = (at + 1) % RING;
            if back.status_error & status::EOP != 0 {
                break;
            }
        }
        assert_eq!(got, *frame);
    }
    assert_eq!(rig.peek(regs::RDH, 0), at);
    let next = WriteBack::decode(rig.descriptor(Rig::rx_descriptor(0, at)));
    assert_eq!(next.status_error & status::DD, 0, "nothing behind the last");
}

#[test]
fn what_came_before_a_fault_in_the_same_round_is_written_back() {
    let mut rig = Rig::running(1, 8);
    rig.set_descriptor(Rig::rx_descriptor(0, 3), [0x7fff_0000_0000, 0]);
    let frames: Vec<Vec<u8>> = (0..5).map(|n| numbered(n, 100)).collect();
    arrive_together(&mut rig, &frames);
    let got: Vec<Vec<u8>> = rig.received(0, 0).into_iter().map(|(frame, _)| frame).collect();
    assert_eq!(got, frames[..3]);
    assert_eq!((rig.peek(regs::RDH, 0), rig.counter("rx_dma_faults")), (3, 1));
}
