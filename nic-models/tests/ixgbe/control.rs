//! Reset values, resets, semaphores, EEPROM, module, MDIO, link, PCI configuration.

use millrace_nic_models::device::{Model, REGION_CONFIG, Work};
use millrace_nic_models::ixgbe::regs::{self, TABLE, ctrl, eec, eerd, i2cctl, msca, rah, status, swsm};
use millrace_nic_models::regs::Access;

use crate::rig::{MAC, Rig};

fn eeprom(rig: &mut Rig, word: u32) -> u16 {
    rig.write(regs::EERD, 0, word << eerd::ADDR_SHIFT | eerd::START);
    let value = rig.read(regs::EERD);
    assert_ne!(value & eerd::DONE, 0, "word {word:#x}");
    (value >> eerd::DATA_SHIFT) as u16
}

#[test]
fn registers_hold_their_reset_values_after_power_on_and_after_every_kind_of_reset() {
    let behaves = [
        "RAL", "RAH", "RXPBSIZE", "TXPBSIZE", "STATUS", "LINKS", "ESDP", "EEC", "FRTIMER", "EIMC",
        "RAL_COPY", "RAH_COPY", "SWSM",
    ];
    let mut rig = Rig::bare();
    type Reset = fn(&mut Rig);
    let resets: [(&str, Reset); 4] = [
        ("power on", |_| {}),
        ("CTRL.RST", |rig| rig.write(regs::CTRL, 0, ctrl::RST)),
        ("FLR", |rig| {
            rig.nic
                .write(REGION_CONFIG, 0xa8, &0x8000u16.to_le_bytes())
                .unwrap()
        }),
        ("device reset", |rig| rig.nic.reset()),
    ];
    for (how, reset) in resets {
        reset(&mut rig);
        for reg in TABLE.iter().filter(|reg| !behaves.contains(&reg.name)) {
            for i in 0..reg.count {
                assert_eq!(rig.read_at(reg.at(i)), reg.reset, "{}[{i}] after {how}", reg.name);
            }
        }
        assert_eq!(rig.read(regs::RXPBSIZE), 0x80000, "{how}");
        assert_eq!(
            rig.read(regs::CTRL) & (ctrl::RST | ctrl::LRST),
            0,
            "resets clear themselves"
        );
        // Now disturb everything that can be written.
        for reg in TABLE
            .iter()
            .filter(|reg| matches!(reg.access, Access::Rw) && reg.name != "CTRL" && reg.name != "CTRL_COPY")
        {
            for i in 0..reg.count {
                rig.write_at(reg.at(i), 0x5a5a_5a5a & reg.mask);
            }
        }
    }
}

#[test]
fn the_mac_address_comes_from_the_eeprom_again_after_a_reset() {
    let mut rig = Rig::bare();
    let words = [
        eeprom(&mut rig, 0x101),
        eeprom(&mut rig, 0x102),
        eeprom(&mut rig, 0x103),
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    assert_eq!(bytes, MAC);
    for _ in 0..2 {
        assert_eq!(rig.peek(regs::RAL, 0).to_le_bytes(), MAC[..4]);
        let high = rig.peek(regs::RAH, 0);
        assert_eq!(high.to_le_bytes()[..2], MAC[4..]);
        assert_ne!(high & rah::AV, 0);
        rig.write(regs::RAL, 0, 0x1234);
        assert_eq!(
            rig.peek(regs::RAL_COPY, 0),
            0x1234,
            "both places are one register"
        );
        rig.write(regs::CTRL, 0, ctrl::RST);
    }
    assert_eq!(rig.peek(regs::RAH, 1) & rah::AV, 0);
}

#[test]
fn the_software_semaphore_is_taken_by_reading_it() {
    let mut rig = Rig::bare();
    assert_eq!(rig.read(regs::SWSM) & swsm::SMBI, 0, "the first reader has it");
    assert_eq!(rig.read(regs::SWSM) & swsm::SMBI, 1, "the second waits");
    rig.write(regs::SWSM, 0, swsm::SMBI | swsm::SWESMBI);
    assert_ne!(
        rig.read(regs::SWSM) & swsm::SWESMBI,
        0,
        "firmware does not want it"
    );
    rig.write(regs::SW_FW_SYNC, 0, 0x6);
    assert_eq!(rig.read(regs::SW_FW_SYNC), 0x6);
    rig.write(regs::SWSM, 0, 0);
    assert_eq!(rig.read(regs::SWSM) & (swsm::SMBI | swsm::SWESMBI), 0);
}

#[test]
fn the_eeprom_holds_what_drivers_look_for() {
    let mut rig = Rig::bare();
    // Checksum over words 0-0x3f and the sections behind 0x03-0x0e.
    let mut sum = 0u16;
    for word in 0..=0x3f {
        sum = sum.wrapping_add(eeprom(&mut rig, word));
    }
    for pointer in 0x03..0x0f {
        let at = u32::from(eeprom(&mut rig, pointer));
        if at != 0 && at != 0xffff {
            for n in 1..=u32::from(eeprom(&mut rig, at)) {
                sum = sum.wrapping_add(eeprom(&mut rig, at + n));
            }
        }
    }
    assert_eq!(sum, 0xbaba);
    // Firmware block, patch block, version.
    let firmware = u32::from(eeprom(&mut rig, 0x0f));
    let patch = u32::from(eeprom(&mut rig, firmware + 4));
    assert!(eeprom(&mut rig, patch + 7) > 5);
    // SFP init list: kinds 3 to 6 are there, each with a sequence that ends.
    let list = u32::from(eeprom(&mut rig, 0x2b));
    let kinds: Vec<u16> = (0..4).map(|n| eeprom(&mut rig, list + 1 + 2 * n)).collect();
    assert_eq!(kinds, [3, 4, 5, 6]);
    assert_eq!(eeprom(&mut rig, list + 9), 0xffff);
    let sequence = u32::from(eeprom(&mut rig, list + 2));
    assert!((0..8).any(|n| eeprom(&mut rig, sequence + n) == 0xffff));
}

#[test]
fn spi_reads_the_eeprom_through_eec() {
    let mut rig = Rig::bare();
    let size = rig.read(regs::EEC) >> eec::SIZE_SHIFT & 0xf;
    assert_eq!(1 << (size + 6), 8192);
    rig.write(regs::EEC, 0, eec::REQ | eec::CS);
    assert_ne!(rig.read(regs::EEC) & eec::GNT, 0);
    rig.write(regs::EEC, 0, eec::REQ);
    let command = (0x03_u32 << 16) | (0x2b * 2); // READ, byte address
    for n in (0..24).rev() {
        let di = if command >> n & 1 == 1 { eec::DI } else { 0 };
        rig.write(regs::EEC, 0, eec::REQ | di);
        rig.write(regs::EEC, 0, eec::REQ | di | eec::SK);
        rig.write(regs::EEC, 0, eec::REQ | di);
    }
    let mut word = 0u16;
    for _ in 0..16 {
        rig.write(regs::EEC, 0, eec::REQ | eec::SK);
        word = word << 1 | u16::from(rig.read(regs::EEC) & eec::DO != 0);
        rig.write(regs::EEC, 0, eec::REQ);
    }
    rig.write(regs::EEC, 0, 0);
    assert_eq!(word.swap_bytes(), eeprom(&mut rig, 0x2b));
    assert_eq!(rig.read(regs::EEC) & eec::GNT, 0);
}

#[test]
fn i2c_lines_idle_high_and_follow_what_is_driven() {
    let mut rig = Rig::bare();
    assert_eq!(rig.read(regs::I2CCTL), 0xf);
    rig.write(regs::I2CCTL, 0, i2cctl::CLK_OUT);
    assert_eq!(rig.read(regs::I2CCTL) & i2cctl::DATA_IN, 0);
    assert_ne!(
        rig.read(regs::ESDP) & regs::esdp::SDP2,
        0,
        "a module is in the cage"
    );
}

#[test]
fn mdio_commands_are_done_at_once_and_nobody_answers() {
    let mut rig = Rig::bare();
    rig.write(regs::MSCA, 0, 0x0c00_0000 | msca::MDICMD | 7);
    assert_eq!(rig.read(regs::MSCA) & msca::MDICMD, 0);
    assert_eq!(rig.read(regs::MSRWD), 0xffff_0000);
}

#[test]
fn the_link_follows_the_wire() {
    let mut rig = Rig::bare();
    assert_eq!(rig.read(regs::LINKS), 0, "down until the first round");
    rig.step();
    assert_eq!(rig.read(regs::LINKS), 0xf000_0040);
    assert_ne!(rig.read(regs::STATUS) & status::LINK_UP, 0);
    rig.far.lock().unwrap().up = false;
    rig.step();
    assert_eq!(rig.read(regs::LINKS), 0);
    assert_eq!(rig.read(regs::STATUS) & status::LINK_UP, 0);
}

#[test]
fn a_wire_that_breaks_takes_the_link_down_and_nothing_else() {
    let mut rig = Rig::running(1, 8);
    rig.far.lock().unwrap().broken = true;
    rig.settle();
    assert_eq!(rig.read(regs::LINKS), 0);
    assert_eq!(rig.counter("wire_errors"), 1);
    rig.settle();
    assert_eq!(rig.counter("wire_errors"), 1, "it is not asked again");
}

#[test]
fn master_disable_is_acknowledged_in_status_and_stops_dma() {
    let mut rig = Rig::running(1, 8);
    rig.write(regs::CTRL, 0, ctrl::MASTER_DISABLE);
    assert_eq!(rig.read(regs::STATUS) & status::MASTER_ENABLE, 0);
    rig.arrive(&crate::rig::to_port().udp(1, 2).payload(b"x").build());
    assert!(rig.received(0, 0).is_empty());
    assert_eq!(rig.counter("rx_dma_faults"), 0);
}

#[test]
fn flow_director_and_dma_report_themselves_initialised() {
    let mut rig = Rig::bare();
    assert_ne!(rig.read(regs::RDRXCTL) & regs::rdrxctl::DMAIDONE, 0);
    assert_eq!(rig.read(regs::SECRXSTAT) & 1, 1);
    assert_eq!(rig.read(regs::SECTXSTAT) & 1, 1);
    assert_eq!(rig.read(regs::FDIRCTRL) & regs::fdirctrl::INIT_DONE, 0);
    rig.write(regs::FDIRCTRL, 0, 1);
    assert_ne!(rig.read(regs::FDIRCTRL) & regs::fdirctrl::INIT_DONE, 0);
    assert_ne!(rig.read(regs::ANLP1) & 0x000f_0000, 0);
    assert_ne!(rig.read(regs::FWSM) & regs::fwsm::VALID, 0);
}

#[test]
fn the_configuration_space_is_an_x520s() {
    let mut rig = Rig::bare();
    let mut config = [0; 256];
    rig.nic.read(REGION_CONFIG, 0, &mut config).unwrap();
    let word = |at: usize| u16::from_le_bytes([config[at], config[at + 1]]);
    assert_eq!(
        [word(0), word(2), word(0x2c), word(0x2e)],
        [0x8086, 0x10fb, 0x8086, 0x0003]
    );
    assert_eq!(config[0x34], 0x40);
    assert_eq!(
        [config[0x40], config[0x41]],
        [0x01, 0x70],
        "power management, then MSI-X"
    );
    assert_eq!(
        [config[0x70], config[0x71]],
        [0x11, 0xa0],
        "MSI-X, then PCI Express"
    );
    assert_eq!(word(0x72) & 0x7ff, 63, "64 vectors");
    assert_eq!(config[0xa0], 0x10);
    let sizes = [(0, 512 << 10), (2, 32), (4, 16 << 10)];
    for (bar, size) in sizes {
        assert_eq!(rig.nic.region(bar).map(|r| r.size), Some(size), "BAR{bar}");
    }
    assert!(rig.nic.region(1).is_none());
}

#[test]
fn the_io_bar_reaches_the_registers() {
    let mut rig = Rig::bare();
    rig.nic.write(2, 0, &regs::LEDCTL.at(0).to_le_bytes()).unwrap();
    rig.nic.write(2, 4, &0x1234u32.to_le_bytes()).unwrap();
    assert_eq!(rig.read(regs::LEDCTL), 0x1234);
    let mut buf = [0; 4];
    rig.nic.read(2, 4, &mut buf).unwrap();
    assert_eq!(u32::from_le_bytes(buf), 0x1234);
}

#[test]
fn accesses_beyond_a_region_or_of_odd_size_are_refused() {
    let mut rig = Rig::bare();
    let mut buf = [0; 8];
    assert!(rig.nic.read(0, (512 << 10) - 4, &mut buf).is_err());
    assert!(rig.nic.read(0, u64::MAX, &mut buf).is_err());
    assert!(rig.nic.read(3, 0, &mut buf).is_err());
    assert!(rig.nic.write(0, 2, &[0; 4]).is_err());
    assert!(rig.nic.write(0, 0, &[0; 3]).is_err());
    rig.nic.read(0, u64::from(regs::GPRC.at(0)), &mut buf).unwrap();
    rig.nic
        .write(0, u64::from(regs::FDIRHASH.at(0)), &[0; 8])
        .unwrap();
}

#[test]
fn more_queues_than_configured_do_not_enable() {
    let mut rig = Rig::with(|config| config.queues = 2);
    rig.write(regs::RXDCTL, 1, regs::rxdctl::ENABLE);
    rig.write(regs::RXDCTL, 2, regs::rxdctl::ENABLE);
    assert_ne!(rig.peek(regs::RXDCTL, 1) & regs::rxdctl::ENABLE, 0);
    assert_eq!(rig.peek(regs::RXDCTL, 2) & regs::rxdctl::ENABLE, 0);
}

#[test]
fn a_generator_keeps_no_model_awake_that_does_not_receive() {
    let wire = || millrace_nic_models::wire::open("gen:udp4").unwrap();
    let mut idle = Rig::with(|config| config.wire = wire());
    assert_eq!([idle.step(), idle.step(), idle.step()][2], Work::Idle);
    let mut receiving = Rig::with(|config| config.wire = wire());
    receiving.bring_up(1, 8);
    assert_eq!([receiving.step(), receiving.step()], [Work::Busy; 2]);
}

#[test]
fn a_receive_queue_gets_its_head_and_tail_after_it_was_enabled_again() {
    let mut rig = Rig::running(1, 8);
    let frame = crate::rig::to_port().udp(1, 2).payload(b"x").build();
    for _ in 0..5 {
        rig.arrive(&frame);
    }
    assert_eq!(rig.peek(regs::RDH, 0), 5);
    rig.write(regs::RXDCTL, 0, 0);
    assert_eq!(rig.peek(regs::RXDCTL, 0) & regs::rxdctl::ENABLE, 0);
    rig.arrive(&frame);
    // Fresh descriptors, the queue enabled with the old head and tail, and only then new ones: DPDK's order.
    rig.repost_rx(0, 8);
    rig.write(regs::RXDCTL, 0, regs::rxdctl::ENABLE);
    // What comes meanwhile is written nowhere: the old tail would have given it descriptors whose turn comes again.
    rig.arrive(&frame);
    assert_eq!(rig.received(0, 5).len(), 0);
    rig.write(regs::RDH, 0, 0);
    rig.write(regs::RDT, 0, 7);
    for _ in 0..7 {
        rig.arrive(&frame);
    }
    assert_eq!(rig.received(0, 0).len(), 7);
    assert_eq!((rig.peek(regs::RDH, 0), rig.counter("rx_dma_faults")), (7, 0));
}
