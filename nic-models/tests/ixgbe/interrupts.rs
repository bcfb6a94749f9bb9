//! Causes, masks, auto clear and auto mask, moderation, vectors, INTx.

use std::time::Duration;

use millrace_nic_models::device::{Irq, Model, REGION_CONFIG};
use millrace_nic_models::ixgbe::regs::{self, eicr, ivar};

use crate::rig::{Rig, eventfd, taken, to_port};

/// Queue 0 receives on vector 1, transmits on vector 2; other causes on vector 0; all unmasked and auto-cleared.
fn rig() -> (Rig, Vec<std::os::fd::OwnedFd>) {
    let mut rig = Rig::running(1, 16);
    rig.msix_on();
    let fds = (0..3).map(|v| rig.connect(v)).collect();
    rig.write(regs::IVAR, 0, ivar::VALID | 1 | (ivar::VALID | 2) << 8);
    rig.write(regs::IVAR_MISC, 0, (ivar::VALID) << 8);
    rig.write(regs::EIAC, 0, 0x6);
    rig.read(regs::EICR);
    rig.write(regs::EICR, 0, u32::MAX);
    rig.write(regs::EIMS, 0, 0x6 | eicr::LSC);
    rig.settle();
    (rig, fds)
}

fn frame() -> Vec<u8> {
    to_port().udp(1, 1).build()
}

#[test]
fn each_queue_interrupts_on_the_vector_that_ivar_names() {
    let (mut rig, fds) = rig();
    rig.arrive(&frame());
    assert_eq!(fds.iter().map(taken).collect::<Vec<_>>(), [0, 1, 0]);
    rig.transmit(0, 0, &[[0x10_0000, 60 | 0x3 << 20 | 0x29 << 24 | 60 << 46]]);
    assert_eq!(fds.iter().map(taken).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(rig.read(regs::EICS) & 0xffff, 0, "auto-cleared");
}

#[test]
fn a_link_change_interrupts_on_the_other_vector_and_stays_until_it_is_cleared() {
    let (mut rig, fds) = rig();
    rig.far.lock().unwrap().up = false;
    rig.settle();
    assert_eq!(fds.iter().map(taken).collect::<Vec<_>>(), [1, 0, 0]);
    assert_ne!(
        rig.read(regs::EICS) & eicr::LSC,
        0,
        "EICS shows and does not clear"
    );
    rig.write(regs::EICR, 0, eicr::LSC);
    assert_eq!(rig.read(regs::EICS) & eicr::LSC, 0);
    rig.far.lock().unwrap().up = true;
    rig.settle();
    assert_eq!(taken(&fds[0]), 1);
}

#[test]
fn a_masked_cause_waits_and_fires_when_it_is_unmasked() {
    let (mut rig, fds) = rig();
    rig.write(regs::EIMC, 0, 0x2);
    rig.arrive(&frame());
    assert_eq!(taken(&fds[1]), 0);
    assert_ne!(rig.read(regs::EICS) & 0x2, 0);
    rig.write(regs::EIMS, 0, 0x2);
    rig.settle();
    assert_eq!(taken(&fds[1]), 1);
    // The extended mask registers are the same bits.
    rig.write(regs::EIMC_EX, 0, 0x2);
    assert_eq!(rig.read(regs::EIMS) & 0x2, 0);
    rig.write(regs::EIMS_EX, 0, 0x2);
    assert_ne!(rig.read(regs::EIMS) & 0x2, 0);
}

#[test]
fn auto_mask_masks_the_vector_that_fired() {
    let (mut rig, fds) = rig();
    rig.write(regs::EIAM_EX, 0, 0x2);
    rig.arrive(&frame());
    rig.arrive(&frame());
    assert_eq!(taken(&fds[1]), 1, "the second waits for the mask");
    assert_eq!(rig.peek(regs::EIMS_EX, 0) & 0x2, 0);
    rig.write(regs::EIMS_EX, 0, 0x2);
    rig.settle();
    assert_eq!(taken(&fds[1]), 1);
}

#[test]
fn moderation_holds_interrupts_back_and_says_until_when() {
    let (mut rig, fds) = rig();
    // 125 units of 2.048 us: 256 us.
    rig.write(regs::EITR, 1, 125 << 3);
    rig.arrive(&frame());
    assert_eq!(taken(&fds[1]), 1, "the first comes at once");
    rig.arrive(&frame());
    rig.arrive(&frame());
    assert_eq!(taken(&fds[1]), 0, "held back");
    let due = rig.nic.next_timer().unwrap();
    assert_eq!(due - rig.clock.now(), Duration::from_micros(256));
    rig.advance(Duration::from_micros(255));
    rig.settle();
    assert_eq!(taken(&fds[1]), 0);
    rig.advance(Duration::from_micros(1));
    rig.settle();
    assert_eq!(taken(&fds[1]), 1, "one for both frames");
    rig.advance(Duration::from_millis(5));
    rig.settle();
    assert_eq!(taken(&fds[1]), 0, "and nothing without a cause");
}

#[test]
fn software_can_set_causes() {
    let (mut rig, fds) = rig();
    rig.write(regs::EICS, 0, 0x2);
    rig.settle();
    assert_eq!(taken(&fds[1]), 1);
    rig.write(regs::EICS_EX, 0, 0x4);
    rig.settle();
    assert_eq!(taken(&fds[2]), 1);
}

#[test]
fn vectors_above_15_work_through_the_extended_registers() {
    let (mut rig, _fds) = rig();
    let fd = rig.connect(40);
    rig.write(regs::IVAR, 0, ivar::VALID | 40);
    rig.write(regs::EIMS_EX, 1, 1 << 8);
    rig.arrive(&frame());
    rig.arrive(&frame());
    assert_eq!(taken(&fd), 2, "cleared by itself");
}

#[test]
fn reading_eicr_clears_it_but_with_ocd_only_the_other_causes() {
    let (mut rig, _fds) = rig();
    rig.write(regs::EIMC, 0, u32::MAX);
    rig.write(regs::EICS, 0, 0x2 | eicr::LSC);
    assert_eq!(rig.read(regs::EICR), 0x2 | eicr::LSC);
    assert_eq!(rig.read(regs::EICR), 0x2);
    rig.write(regs::GPIE, 0, 0);
    assert_eq!(rig.read(regs::EICR), 0x2);
    assert_eq!(rig.read(regs::EICR), 0);
}

#[test]
fn a_vector_that_is_not_connected_is_pending_and_told_on_connection() {
    let (mut rig, fds) = rig();
    rig.nic.set_irq(Irq::Msix(1), None);
    rig.arrive(&frame());
    let mut pba = [0; 4];
    rig.nic.read(4, 0x2000, &mut pba).unwrap();
    assert_eq!(u32::from_le_bytes(pba), 0x2);
    assert_eq!(taken(&fds[1]), 0);
    let fd = rig.connect(1);
    assert_eq!(taken(&fd), 1);
    rig.nic.read(4, 0x2000, &mut pba).unwrap();
    assert_eq!(u32::from_le_bytes(pba), 0);
}

#[test]
fn the_function_mask_holds_all_vectors() {
    let (mut rig, fds) = rig();
    rig.nic
        .write(REGION_CONFIG, 0x72, &0xc000u16.to_le_bytes())
        .unwrap();
    rig.arrive(&frame());
    assert_eq!(taken(&fds[1]), 0);
    rig.nic
        .write(REGION_CONFIG, 0x72, &0x8000u16.to_le_bytes())
        .unwrap();
    assert_eq!(taken(&fds[1]), 1);
}

#[test]
fn without_msix_everything_goes_to_intx_until_eicr_is_read() {
    let mut rig = Rig::running(1, 16);
    let fd = eventfd();
    rig.nic.set_irq(Irq::Intx, Some(fd.try_clone().unwrap()));
    // Without MULTIPLE_MSIX the entries of IVAR name EICR bits.
    rig.write(regs::IVAR, 0, ivar::VALID);
    rig.read(regs::EICR);
    rig.write(regs::EIMS, 0, 0x1 | eicr::LSC);
    rig.arrive(&frame());
    rig.arrive(&frame());
    assert_eq!(taken(&fd), 1, "asserted once");
    assert_eq!(rig.read(regs::EICR) & 0x1, 0x1);
    rig.arrive(&frame());
    assert_eq!(taken(&fd), 1);
}

#[test]
fn a_reset_silences_everything() {
    let (mut rig, fds) = rig();
    rig.write(regs::EITR, 1, 125 << 3);
    rig.arrive(&frame());
    rig.arrive(&frame());
    rig.write(regs::CTRL, 0, regs::ctrl::RST);
    fds.iter().for_each(|fd| {
        taken(fd);
    });
    rig.advance(Duration::from_secs(1));
    rig.settle();
    assert_eq!(fds.iter().map(taken).collect::<Vec<_>>(), [0, 0, 0]);
    assert_eq!(rig.read(regs::EIMS), 0);
}
