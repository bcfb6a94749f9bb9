//! Flow director's signature filters: what a driver sets for a flow that it sends steers what comes back.

use millrace_nic_models::device::Model;
use millrace_nic_models::ixgbe::regs::{self, fdircmd, fdirctrl};
use millrace_nic_models::packet::build::Frame;

use crate::rig::{MAC, PEER, Rig, to_port};

/// The keys that Linux's and DPDK's drivers use.
const BUCKET_KEY: u32 = 0x3dad_14e2;
const SIGNATURE_KEY: u32 = 0x174d_3614;
/// Flexible bytes at the EtherType, where those drivers have them.
const FLEX_AT_ETHERTYPE: u32 = 6 << fdirctrl::FLEX_SHIFT;

const UDP4: u32 = 1;
const TCP4: u32 = 2;
const TCP6: u32 = 6;

fn v6() -> Frame {
    let address = |last| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last];
    Frame::new().macs(PEER, MAC).ipv6(address(1), address(2))
}

/// A running port with four queues and signature filters on.
fn rig() -> Rig {
    let mut rig = Rig::running(4, 16);
    rig.write(regs::FDIRHKEY, 0, BUCKET_KEY);
    rig.write(regs::FDIRSKEY, 0, SIGNATURE_KEY);
    rig.write(regs::FDIRCTRL, 0, 1 | FLEX_AT_ETHERTYPE);
    rig
}

/// Sends a command the way drivers do it: hash and command in one access of 64 bits.
fn command(rig: &mut Rig, command: u32, hash: u32, flow_type: u32, queue: u32) {
    let command = command
        | fdircmd::FILTER_UPDATE
        | fdircmd::LAST
        | fdircmd::QUEUE_EN
        | flow_type << fdircmd::L4TYPE_SHIFT
        | queue << fdircmd::QUEUE_SHIFT;
    let both = u64::from(command) << 32 | u64::from(hash);
    rig.nic
        .write(0, u64::from(regs::FDIRHASH.at(0)), &both.to_le_bytes())
        .unwrap();
    assert_eq!(rig.read(regs::FDIRCMD) & fdircmd::CMD, 0, "done");
}

#[test]
fn signature_filters_match_the_hashes_that_drivers_compute() {
    // Hashes as DPDK's ixgbe_atr_compute_sig_hash_82599 gives them.
    let flows = [
        (to_port().tcp(443, 5).build(), TCP4, 0x55c6_51da),
        (to_port().tcp(444, 5).build(), TCP4, 0x6cf7_41b1),
        (to_port().vlan(0x2005).tcp(443, 5).build(), TCP4, 0x1a60_21bd),
        (to_port().udp(53, 6).build(), UDP4, 0x31ad_084c),
        (v6().tcp(443, 5).build(), TCP6, 0x57c1_1db2),
    ];
    for (frame, flow_type, hash) in &flows {
        let mut rig = rig();
        let free = rig.read(regs::FDIRFREE);
        command(&mut rig, fdircmd::CMD_ADD, *hash, *flow_type, 3);
        assert_eq!(rig.read(regs::FDIRFREE), free - 1);
        for (other, ..) in &flows {
            rig.arrive(other);
        }
        let steered = rig.received(3, 0);
        assert_eq!(steered.len(), 1, "{hash:08x}");
        assert_eq!(&steered[0].0[..frame.len()], &frame[..]);
        assert_eq!(rig.received(0, 0).len(), flows.len() - 1);
        let counted = (rig.read(regs::FDIRMATCH), rig.read(regs::FDIRMISS));
        assert_eq!(counted, (1, flows.len() as u32 - 1));
    }
}

#[test]
fn a_signature_filter_set_again_moves_its_flow_and_takes_no_more_room() {
    let mut rig = rig();
    let frame = to_port().tcp(443, 5).build();
    command(&mut rig, fdircmd::CMD_ADD, 0x55c6_51da, TCP4, 3);
    let free = rig.read(regs::FDIRFREE);
    command(&mut rig, fdircmd::CMD_ADD, 0x55c6_51da, TCP4, 2);
    assert_eq!(rig.read(regs::FDIRFREE), free);
    rig.arrive(&frame);
    assert_eq!(rig.received(2, 0).len(), 1);
    command(&mut rig, fdircmd::CMD_REMOVE, 0x55c6_51da, TCP4, 0);
    rig.arrive(&frame);
    assert_eq!(rig.received(0, 0).len(), 1);
    assert_eq!(rig.read(regs::FDIRFREE), free + 1);
}

#[test]
fn initialising_flow_director_forgets_its_filters() {
    let mut rig = rig();
    command(&mut rig, fdircmd::CMD_ADD, 0x55c6_51da, TCP4, 3);
    rig.write(regs::FDIRCTRL, 0, 0);
    rig.write(regs::FDIRCTRL, 0, 1 | FLEX_AT_ETHERTYPE);
    rig.arrive(&to_port().tcp(443, 5).build());
    assert_eq!(rig.received(0, 0).len(), 1);
}
