//! Register pages mapped by the client: doorbells and enables that never reach the model as messages.

use millrace_nic_models::device::Model;
use millrace_nic_models::dma::SharedBar;
use millrace_nic_models::ixgbe::desc::tx::{Data, cmd};
use millrace_nic_models::ixgbe::regs::{self, ctrl, rxdctl, srrctl, txdctl};
use millrace_nic_models::regs::Reg;

use crate::rig::{Rig, SCRATCH, from_port, to_port};

/// The client's mapping of BAR0's shared pages.
struct Pages(SharedBar);

impl Pages {
    fn of(rig: &Rig) -> Pages {
        let (fd, offset) = rig.nic.region_fd(0).expect("mapped pages");
        assert_eq!(offset, 0);
        Pages(SharedBar::attach(fd.try_clone_to_owned().unwrap()).unwrap())
    }
    fn read(&self, reg: Reg, i: u32) -> u32 {
        self.0.load(reg.at(i))
    }
    fn write(&self, reg: Reg, i: u32, value: u32) {
        self.0.store(reg.at(i), value);
    }
}

/// Queues set up by stores alone.
fn start(rig: &mut Rig, pages: &Pages, ring: u32) {
    for i in 0..ring {
        rig.set_descriptor(Rig::rx_descriptor(0, i), [Rig::rx_buffer(0, i), 0]);
    }
    pages.write(regs::RDBAL, 0, Rig::rx_descriptor(0, 0) as u32);
    pages.write(regs::RDLEN, 0, ring * 16);
    pages.write(regs::SRRCTL, 0, srrctl::DESCTYPE_ADV_ONE | srrctl::DROP_EN | 2);
    pages.write(regs::RXDCTL, 0, rxdctl::ENABLE);
    pages.write(regs::RDT, 0, ring - 1);
    pages.write(regs::TDBAL, 0, Rig::tx_descriptor(0, 0) as u32);
    pages.write(regs::TDLEN, 0, ring * 16);
    pages.write(regs::TXDCTL, 0, txdctl::ENABLE);
    rig.step();
}

fn mapped() -> (Rig, Pages) {
    let mut rig = Rig::with(|config| config.map_doorbells = true);
    rig.bring_up(0, 0);
    let pages = Pages::of(&rig);
    (rig, pages)
}

#[test]
fn frames_flow_both_ways_without_one_access_through_the_device() {
    let (mut rig, pages) = mapped();
    start(&mut rig, &pages, 8);
    let frame = to_port().udp(1, 2).payload(&[5; 60]).build();
    for n in 0..20u32 {
        rig.arrive(&frame);
        let at = n % 8;
        assert_eq!(rig.descriptor(Rig::rx_descriptor(0, at))[1] & 3, 3, "frame {n}");
        assert_eq!(pages.read(regs::RDH, 0), (n + 1) % 8);
        rig.set_descriptor(Rig::rx_descriptor(0, at), [Rig::rx_buffer(0, at), 0]);
        pages.write(regs::RDT, 0, at);
    }
    let frame = from_port().udp(1, 2).payload(&[6; 60]).build();
    rig.store(SCRATCH, &frame);
    let data = Data {
        addr: SCRATCH,
        len: frame.len() as u16,
        cmd: cmd::EOP | cmd::RS,
        ..Data::default()
    };
    rig.set_descriptor(Rig::tx_descriptor(0, 0), data.encode());
    pages.write(regs::TDT, 0, 1);
    rig.settle();
    assert_eq!(rig.sent(), [frame]);
    assert_eq!(pages.read(regs::TDH, 0), 1);
}

#[test]
fn only_the_pages_with_queue_registers_are_given_out() {
    let (rig, _) = mapped();
    let areas: Vec<u64> = rig
        .nic
        .region(0)
        .unwrap()
        .mmap
        .iter()
        .map(|area| area.offset)
        .collect();
    assert_eq!(areas, [0x1000, 0x6000]);
    assert!(
        Rig::bare().nic.region(0).unwrap().mmap.is_empty(),
        "trapped by default"
    );
    assert!(Rig::bare().nic.region_fd(0).is_none());
    let all = Rig::with(|config| (config.map_doorbells, config.queues) = (true, 128));
    assert_eq!(all.nic.region(0).unwrap().mmap.len(), 4);
}

#[test]
fn after_a_stop_and_a_read_through_the_device_nothing_is_written() {
    let (mut rig, pages) = mapped();
    start(&mut rig, &pages, 8);
    pages.write(regs::RXDCTL, 0, 0);
    rig.read(regs::STATUS);
    rig.arrive(&to_port().udp(1, 1).build());
    assert!(rig.received(0, 0).is_empty());
    assert_eq!(rig.counter("rx_queue_off"), 1);
    pages.write(regs::RDH, 0, 0);
    pages.write(regs::RXDCTL, 0, rxdctl::ENABLE);
    rig.arrive(&to_port().udp(1, 1).build());
    assert_eq!(rig.received(0, 0).len(), 1);
}

#[test]
fn accesses_through_the_device_and_through_the_pages_see_one_register() {
    let (mut rig, pages) = mapped();
    rig.write(regs::RDBAL, 3, 0x1_0080);
    assert_eq!(pages.read(regs::RDBAL, 3), 0x1_0080);
    rig.write(regs::RDT, 3, 17);
    assert_eq!(pages.read(regs::RDT, 3), 17);
    pages.write(regs::RDT, 3, 18);
    assert_eq!(rig.peek(regs::RDT, 3), 18);
    rig.write(regs::SRRCTL_COPY, 3, 0x0200_0405);
    assert_eq!(pages.read(regs::SRRCTL, 3), 0x0200_0405);
}

#[test]
fn a_reset_shows_in_the_pages() {
    let (mut rig, pages) = mapped();
    start(&mut rig, &pages, 8);
    rig.write(regs::CTRL, 0, ctrl::RST);
    let all = [regs::RXDCTL, regs::RDT, regs::RDBAL, regs::TXDCTL, regs::TDBAL];
    assert_eq!(all.map(|reg| pages.read(reg, 0)), [0; 5]);
    assert_eq!(pages.read(regs::SRRCTL, 0), 0x402);
    rig.arrive(&to_port().udp(1, 1).build());
    assert!(rig.received(0, 0).is_empty());
}

#[test]
fn noise_in_the_pages_faults_at_worst() {
    let (mut rig, pages) = mapped();
    start(&mut rig, &pages, 8);
    for value in [u32::MAX, 0x8000_0000, 0x0200_0000, 7] {
        for offset in (0x1000..0x2000).chain(0x6000..0x7000).step_by(4) {
            let reg = Reg::new("x", offset, millrace_nic_models::regs::Access::Rw, "8.2.3.8");
            pages.write(reg, 0, value ^ offset);
        }
        rig.far
            .lock()
            .unwrap()
            .to_device
            .push_back(to_port().udp(1, 1).build());
        for _ in 0..50 {
            rig.step();
        }
    }
}
