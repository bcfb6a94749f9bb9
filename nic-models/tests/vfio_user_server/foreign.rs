//! The client of the `vfio_user` crate on our server.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use millrace_nic_models::device::exerciser::{self, *};
use millrace_nic_models::vfio_user::wire;
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::Client;

use crate::Rig;
use crate::client::memfd;

const TRIGGER: u32 = wire::IRQ_SET_DATA_EVENTFD | wire::IRQ_SET_ACTION_TRIGGER;

fn read32(client: &mut Client, offset: u64) -> u32 {
    let mut word = [0; 4];
    client.region_read(0, offset, &mut word).unwrap();
    u32::from_le_bytes(word)
}

fn write32(client: &mut Client, offset: u64, v: u32) {
    client.region_write(0, offset, &v.to_le_bytes()).unwrap();
}

#[test]
fn the_crates_client_finds_the_device() {
    let rig = Rig::new();
    let mut client = Client::new(&rig.path).unwrap();
    let sizes: Vec<u64> = (0..9).map(|i| client.region(i).unwrap().size).collect();
    assert_eq!(sizes, [BAR0_SIZE, 0, BAR2_SIZE, 0, 0, 0, 0, 4096, 0]);
    let bar2 = client.region(2).unwrap();
    assert_eq!(bar2.flags, 0xf);
    let areas: Vec<_> = bar2.sparse_areas.iter().map(|a| (a.offset, a.size)).collect();
    assert_eq!(areas, [(0x1000, 0x1000), (0x3000, 0x1000)]);
    let file = Arc::clone(bar2.file_offset.as_ref().unwrap().arc());
    rustix::io::pwrite(&*file, b"shared", 0x3000).unwrap();
    let mut text = [0; 6];
    client.region_read(2, 0x3000, &mut text).unwrap();
    assert_eq!(&text, b"shared");
    let msix = client.get_irq_info(wire::IRQ_MSIX).unwrap();
    assert_eq!((msix.index, msix.count), (2, u32::from(VECTORS)));
    assert_eq!(read32(&mut client, exerciser::ID), ID_VALUE);
    client.shutdown().unwrap();
}

#[test]
fn the_crates_client_drives_dma_and_interrupts() {
    let rig = Rig::new();
    let mut client = Client::new(&rig.path).unwrap();
    let memory = memfd(0x2000, true);
    let event: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    client
        .set_irqs(wire::IRQ_MSIX, TRIGGER, 0, 1, &[event.as_raw_fd()])
        .unwrap();
    write32(&mut client, RAISE, 0);
    assert_eq!(rustix::io::read(&event, &mut [0; 8]), Ok(8));
    client
        .dma_map(0x1000, 0x8000, 0x1000, memory.as_raw_fd())
        .unwrap();
    client.region_write(7, 4, &[6, 0]).unwrap();
    write32(&mut client, BASE_LOW, 0x8000);
    write32(&mut client, LENGTH, 16);
    write32(&mut client, PATTERN, 0x3c);
    write32(&mut client, CONTROL, 1);
    while read32(&mut client, ROUNDS) == 0 {}
    let mut bytes = [0; 16];
    rustix::io::pread(&memory, &mut bytes, 0x1000).unwrap();
    assert_eq!(bytes, [0x3c; 16]);
    client.dma_unmap(0x8000, 0x1000).unwrap();
    while read32(&mut client, FAULTS) == 0 {}
    client.reset().unwrap();
    assert_eq!(read32(&mut client, CONTROL), 0);
}

#[test]
fn refusals_do_not_unsettle_the_crates_client() {
    let rig = Rig::new();
    let mut client = Client::new(&rig.path).unwrap();
    let loose = memfd(0x1000, false);
    // Refused with an error that the client does not look at; the next request is understood all the same.
    for _ in 0..10 {
        client.dma_map(0, 0x8000, 0x1000, loose.as_raw_fd()).unwrap();
        client.set_irqs(77, TRIGGER, 0, 1, &[]).unwrap();
        assert_eq!(read32(&mut client, exerciser::ID), ID_VALUE);
    }
}
