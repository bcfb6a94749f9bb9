//! The configuration space as an operating system meets it: enumeration, sizing, capabilities, switches.
#![cfg(feature = "device")]

use millrace_nic_models::device::pci_config::{MsixLayout, PcieInfo};
use millrace_nic_models::device::{BarKind, ConfigEvent, MsixTable, PciConfig, PciIds};
use proptest::prelude::*;

fn nic() -> PciConfig {
    let ids = PciIds {
        vendor: 0x8086,
        device: 0x10fb,
        subsystem_vendor: 0x8086,
        subsystem: 0x0003,
        revision: 1,
        class: 0x020000,
    };
    let msix = MsixLayout {
        vectors: 64,
        table_bar: 4,
        table_offset: 0,
        pba_bar: 4,
        pba_offset: 0x2000,
    };
    PciConfig::builder(ids)
        .bar(0, BarKind::Mem64, 0x2_0000)
        .bar(2, BarKind::Io, 32)
        .bar(4, BarKind::Mem64Prefetch, 0x4000)
        .interrupt_pin(1)
        .power_management(0x40)
        .msix(0x70, msix)
        .pcie(
            0xa0,
            PcieInfo {
                speed: 2,
                width: 8,
                max_payload: 2,
            },
        )
        .serial_number(0x140, 0x0011_22ff_ff33_4455)
        .build()
}

fn read(config: &PciConfig, at: u64) -> u32 {
    let mut word = [0; 4];
    config.read(at, &mut word);
    u32::from_le_bytes(word)
}

fn write(config: &mut PciConfig, at: u64, v: u32) -> Vec<ConfigEvent> {
    config.write(at, &v.to_le_bytes())
}

#[test]
fn the_device_is_enumerated() {
    let config = nic();
    assert_eq!(read(&config, 0), 0x10fb_8086);
    assert_eq!(read(&config, 8), 0x0200_0001);
    assert_eq!(read(&config, 0x2c), 0x0003_8086);
    let mut chain = Vec::new();
    let mut at = read(&config, 0x34) & 0xff;
    while at != 0 {
        let header = read(&config, u64::from(at));
        chain.push((at, header & 0xff));
        at = header >> 8 & 0xff;
    }
    assert_eq!(chain, [(0x40, 0x01), (0x70, 0x11), (0xa0, 0x10)]);
    assert_ne!(
        read(&config, 4) & 1 << 20,
        0,
        "status says that there are capabilities"
    );
    // The extended chain begins at 0x100 whatever comes first.
    assert_eq!(read(&config, 0x100) >> 20, 0x140);
    assert_eq!(read(&config, 0x140), 0x0001_0003);
    assert_eq!(
        u64::from(read(&config, 0x148)) << 32 | u64::from(read(&config, 0x144)),
        0x0011_22ff_ff33_4455
    );
}

#[test]
fn bars_tell_their_size() {
    let mut config = nic();
    for (bar, low) in [(0u64, 0xfffe_0004u32), (2, 0xffff_ffe1), (4, 0xffff_c00c)] {
        assert!(write(&mut config, 0x10 + 4 * bar, u32::MAX).is_empty());
        assert_eq!(read(&config, 0x10 + 4 * bar), low, "BAR {bar}");
    }
    for bar in [1u64, 5] {
        write(&mut config, 0x10 + 4 * bar, u32::MAX);
        assert_eq!(read(&config, 0x10 + 4 * bar), u32::MAX, "upper half in BAR {bar}");
    }
    write(&mut config, 0x1c, u32::MAX);
    assert_eq!(read(&config, 0x1c), 0, "BAR 3 is not there");
    write(&mut config, 0x10, 0xfe12_3456);
    assert_eq!(read(&config, 0x10), 0xfe12_0004);
}

#[test]
fn switches_are_reported_once() {
    let mut config = nic();
    assert_eq!(
        config.write(4, &6u16.to_le_bytes()),
        [ConfigEvent::BusMaster(true)]
    );
    assert!(config.bus_master() && config.memory_enabled());
    assert!(config.write(4, &6u16.to_le_bytes()).is_empty());
    assert_eq!(
        config.write(0x72, &0xc000u16.to_le_bytes()),
        [ConfigEvent::MsixFunctionMask(true), ConfigEvent::MsixEnable(true)]
    );
    assert!(config.msix_enabled());
    assert_eq!(
        config.write(0x73, &[0]),
        [
            ConfigEvent::MsixFunctionMask(false),
            ConfigEvent::MsixEnable(false)
        ]
    );
    assert_eq!(read(&config, 0x70) >> 16, 63, "the table size is read-only");
    assert_eq!(config.write(0x44, &[3]), [ConfigEvent::PowerState(3)]);
    assert_eq!(config.write(0x44, &[0]), [ConfigEvent::PowerState(0)]);
    assert_eq!(config.write(4, &[0, 0]), [ConfigEvent::BusMaster(false)]);
}

#[test]
fn a_function_level_reset_is_announced_and_reads_back_as_zero() {
    let mut config = nic();
    assert_ne!(
        read(&config, 0xa4) & 1 << 28,
        0,
        "the capability says that there is one"
    );
    write(&mut config, 0x10, 0xfe00_0000);
    config.write(4, &[6]);
    assert_eq!(config.write(0xa8, &0xa810u16.to_le_bytes()), [ConfigEvent::Flr]);
    assert_eq!(read(&config, 0xa8) & 1 << 15, 0);
    config.reset();
    assert!(!config.bus_master());
    assert_eq!(read(&config, 0x10), 4);
    assert_eq!(read(&config, 0), 0x10fb_8086);
}

#[test]
fn what_lies_beyond_the_end_reads_zero_and_takes_nothing() {
    let mut config = nic();
    let mut bytes = [0xff; 8];
    config.read(4092, &mut bytes);
    assert_eq!(bytes[4..], [0; 4]);
    config.read(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
    assert!(config.write(4092, &[0xff; 64]).is_empty());
    assert!(config.write(u64::MAX - 2, &[0xff; 64]).is_empty());
}

#[test]
fn the_vector_table_stores_what_is_written() {
    let mut table = MsixTable::new(64);
    assert!(table.is_masked(3));
    table.write(3 * 16, 0xfee0_0000);
    table.write(3 * 16 + 12, u32::MAX);
    assert_eq!((table.read(3 * 16), table.read(3 * 16 + 12)), (0xfee0_0000, 1));
    table.write(3 * 16 + 12, 0);
    assert!(!table.is_masked(3));
    table.set_pending(33, true);
    assert_eq!((table.read_pending(0), table.read_pending(4)), (0, 2));
    table.set_pending(33, false);
    assert_eq!(table.read_pending(4), 0);
    table.write(64 * 16, 1);
    assert_eq!((table.read(64 * 16), table.read_pending(u32::MAX)), (0, 0));
    table.reset();
    assert!(table.is_masked(3) && table.read(3 * 16) == 0);
}

proptest! {
    /// A driver of a neighbouring bit never changes what is read-only.
    #[test]
    fn no_write_changes_what_is_read_only(writes in prop::collection::vec((0..4200u64, prop::collection::vec(any::<u8>(), 1..70)), 1..40)) {
        let fresh = nic();
        let mut config = nic();
        for (at, data) in writes {
            config.write(at, &data);
        }
        for at in [0u64, 8, 0x2c, 0x34, 0x3c + 1, 0xa4, 0xac, 0x140, 0x144, 0x148, 0x74, 0x78] {
            let mut byte = [[0; 1]; 2];
            fresh.read(at, &mut byte[0]);
            config.read(at, &mut byte[1]);
            prop_assert_eq!(byte[0], byte[1], "at {:#x}", at);
        }
    }
}
