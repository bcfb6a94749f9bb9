//! Whatever a client writes, the model answers and does not fall over.

use millrace_nic_models::device::Model;
use millrace_nic_models::ixgbe::desc::tx::{self, Context, Data};
use millrace_nic_models::ixgbe::regs::{self, TABLE, rxdctl, srrctl, txdctl};
use proptest::prelude::*;

use crate::rig::{IOVA, MEMORY, Rig, SCRATCH, to_port};

/// Addresses that are mostly in memory, sometimes at its edge or nowhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![6 => SCRATCH..IOVA + MEMORY, 1 => IOVA + MEMORY - 64..IOVA + MEMORY + 64, 1 => any::<u64>()]
}

fn descriptor() -> impl Strategy<Value = [u64; 2]> {
    let noise = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| [a, b]);
    let data = (address(), 0u16..3000, any::<u8>(), any::<u8>(), 0u32..6000).prop_map(
        |(addr, len, cmd, popts, paylen)| {
            Data {
                addr,
                len,
                cmd,
                popts: popts & 3,
                paylen,
                idx: cmd & 1,
                ..Data::default()
            }
            .encode()
        },
    );
    let context = (0u16..80, 0u8..40, any::<u16>(), 0u8..60, 0u16..3000, 0u8..2).prop_map(
        |(ip_len, mac_len, tucmd, l4_len, mss, idx)| {
            Context {
                ip_len,
                mac_len,
                tucmd,
                l4_len,
                mss,
                idx,
                vlan: mss,
            }
            .encode()
        },
    );
    prop_oneof![1 => noise, 4 => data, 2 => context]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_register_accesses_never_panic(
        accesses in proptest::collection::vec((0usize..TABLE.len(), any::<u32>(), any::<u32>(), any::<bool>()), 1..300),
        doorbells in any::<bool>(),
    ) {
        let mut rig = Rig::with(|config| config.map_doorbells = doorbells);
        rig.bring_up(2, 16);
        for (n, (row, entry, value, write)) in accesses.into_iter().enumerate() {
            let reg = TABLE[row];
            let offset = reg.at(entry % reg.count);
            if write {
                rig.write_at(offset, value);
            } else {
                rig.read_at(offset);
            }
            if n % 8 == 0 {
                rig.far.lock().unwrap().to_device.push_back(to_port().tcp(1, 2).payload(&[1; 700]).build());
                rig.step();
            }
        }
        rig.nic.reset();
        prop_assert_eq!(rig.peek(regs::RXDCTL, 0) & rxdctl::ENABLE, 0);
    }

    #[test]
    fn random_transmit_descriptors_never_panic(
        ring in proptest::collection::vec(descriptor(), 64),
        tail in 0u32..80,
        head in 0u32..80,
    ) {
        let mut rig = Rig::running(1, 64);
        for (i, &desc) in ring.iter().enumerate() {
            rig.set_descriptor(Rig::tx_descriptor(0, i as u32), desc);
        }
        rig.write(regs::TDH, 0, head);
        rig.write(regs::TDT, 0, tail);
        rig.settle();
        // The device works on.
        rig.write(regs::TXDCTL, 0, 0);
        rig.start_tx(0, 64);
        rig.sent();
        let good = Data { addr: SCRATCH, len: 64, cmd: tx::cmd::EOP | tx::cmd::RS, ..Data::default() };
        rig.transmit(0, 0, &[good.encode()]);
        prop_assert_eq!(rig.sent().len(), 1);
        prop_assert_ne!(rig.peek(regs::TXDCTL, 0) & txdctl::ENABLE, 0);
    }

    #[test]
    fn random_frames_and_receive_descriptors_never_panic(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2500), 1..20),
        addresses in proptest::collection::vec(address(), 16),
        buffer in 0u32..32,
        kind in 0u32..8,
        tail in 0u32..20,
        promiscuous in any::<bool>(),
    ) {
        let mut rig = Rig::running(1, 16);
        if promiscuous {
            rig.write(regs::FCTRL, 0, regs::fctrl::UPE | regs::fctrl::MPE | regs::fctrl::BAM);
        }
        rig.write(regs::SRRCTL, 0, buffer | kind << 25 | if tail % 2 == 0 { srrctl::DROP_EN } else { 0 });
        for (i, &addr) in addresses.iter().enumerate() {
            rig.set_descriptor(Rig::rx_descriptor(0, i as u32), [addr, addr]);
        }
        rig.write(regs::RDT, 0, tail);
        for frame in frames {
            rig.arrive(&frame);
        }
    }
}
