//! Frames that a wire takes and hands over together end as those do that it is asked for one by one: in memory, in every
//! register and counter, and on the wire.

use std::io;
use std::os::fd::BorrowedFd;

use millrace_nic_models::device::Model;
use millrace_nic_models::ixgbe::desc::tx::{Context, Data, cmd, popts, tucmd};
use millrace_nic_models::ixgbe::regs::{
    self, TABLE, etqf, fctrl, hlreg0, mrqc, rxcsum, rxdctl, srrctl, synqf, vlnctrl,
};
use millrace_nic_models::packet::build::Frame;
use millrace_nic_models::wire::{PairWire, SendOutcome, Wire, pair};
use proptest::prelude::*;

use crate::rig::{MAC, PEER, Rig, SCRATCH};

const QUEUES: u32 = 4;
const RING: u32 = 32;

/// A wire that is asked for each frame.
struct OneByOne(PairWire);

impl Wire for OneByOne {
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        self.0.recv()
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        self.0.send(frame)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
    fn link_up(&self) -> bool {
        self.0.link_up()
    }
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0.fds()
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.0.counters()
    }
}

/// Numbers that look random and are the same for both sides.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % n
    }
    /// Once in `n` times.
    fn rare(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// Two ports that differ in how their wire is asked, and the far ends of both wires.
fn both() -> [(Rig, PairWire); 2] {
    [true, false].map(|together| {
        let (near, far) = pair();
        let rig = Rig::with(|config| {
            config.wire = if together {
                Box::new(near)
            } else {
                Box::new(OneByOne(near))
            };
        });
        (rig, far)
    })
}

fn address(numbers: &mut Numbers) -> [u8; 6] {
    match numbers.below(12) {
        0 => [0xff; 6],
        1 => [0x01, 0x00, 0x5e, 0, 0, 1],
        2 => [0x01, 0x80, 0xc2, 0, 0, 1],
        3 => [2, 0, 0, 0, 0, 9],
        _ => MAC,
    }
}

fn frame(numbers: &mut Numbers) -> Vec<u8> {
    let mut frame = Frame::new().macs(PEER, address(numbers));
    if numbers.rare(8) {
        frame = frame.vlan(numbers.below(4096) as u16);
    }
    frame = if numbers.rare(8) {
        let (a, b) = (numbers.below(65536) as u16, numbers.below(65536) as u16);
        frame.ipv6([0xfd00, 0, 0, 0, 0, 0, 0, a], [0xfd00, 0, 0, 0, 0, 0, 1, b])
    } else {
        let [a, b] = [numbers.below(256) as u8, numbers.below(256) as u8];
        frame
            .ipv4([10, 0, a, 1], [10, 1, 0, b])
            .ip_id(numbers.below(65536) as u16)
    };
    if numbers.rare(12) {
        frame = frame.fragment(numbers.below(3) as u16, numbers.rare(2));
    }
    let (from, to) = (numbers.below(65536) as u16, numbers.below(65536) as u16);
    frame = match numbers.below(8) {
        0 => frame.ping(from, to),
        1..=3 => frame.tcp(from, to).flags(numbers.below(64) as u16),
        _ => frame.udp(from, to),
    };
    if numbers.rare(6) {
        frame = frame.no_udp_checksum();
    }
    if numbers.rare(8) {
        frame = frame.bad_l4_checksum();
    }
    if numbers.rare(8) {
        frame = frame.bad_ip_checksum();
    }
    let len = match numbers.below(8) {
        0 => numbers.below(2600),
        1 => 1400 + numbers.below(100),
        _ => numbers.below(120),
    };
    let mut bytes = frame.payload(&numbers.bytes(len)).build();
    if numbers.rare(30) {
        bytes.truncate(numbers.below(bytes.len() as u64) as usize);
    } else if !numbers.rare(20) && bytes.len() < 60 {
        bytes.resize(60, 0);
    }
    bytes
}

/// Registers as a driver might have written them.
fn configure(rig: &mut Rig, numbers: &mut Numbers) {
    rig.bring_up(QUEUES, RING);
    rig.write(
        regs::FCTRL,
        0,
        [0, fctrl::BAM, fctrl::UPE, fctrl::MPE][numbers.below(4) as usize],
    );
    if numbers.rare(2) {
        let mac = rig.read(regs::HLREG0);
        rig.write(regs::HLREG0, 0, mac & !hlreg0::JUMBOEN);
    }
    for i in 0..10 {
        rig.write(regs::RSSRK, i, 0x9e37_79b9u32.wrapping_mul(i + 1));
    }
    let fields = [
        0,
        mrqc::IPV4,
        mrqc::TCP_IPV4 | mrqc::IPV4,
        mrqc::TCP_IPV4 | mrqc::UDP_IPV4 | mrqc::IPV6,
    ];
    let rss = if numbers.rare(6) { 0 } else { mrqc::MRQE_RSS };
    rig.write(regs::MRQC, 0, rss | fields[numbers.below(4) as usize]);
    for i in 0..32 {
        // One queue more than there are.
        let spread = (0..4).fold(0, |word, n| word | ((4 * i + n) % (QUEUES + 1)) << (8 * n));
        rig.write(regs::RETA, i, spread);
    }
    rig.write(regs::RXCSUM, 0, if numbers.rare(3) { 0 } else { rxcsum::PCSD });
    let vet = if numbers.rare(8) { 0x0800 } else { 0x8100 };
    rig.write(
        regs::VLNCTRL,
        0,
        vet | if numbers.rare(4) { vlnctrl::VFE } else { 0 },
    );
    rig.write(regs::RQSMR, 0, 0x0102_0300);
    if numbers.rare(8) {
        rig.write(regs::ETQF, 0, etqf::ENABLE | 0x86dd);
    }
    if numbers.rare(8) {
        rig.write(regs::SYNQF, 0, synqf::ENABLE | 2 << synqf::QUEUE_SHIFT);
    }
    let kinds = [
        srrctl::DESCTYPE_ADV_ONE | srrctl::DROP_EN | 2,
        srrctl::DESCTYPE_ADV_ONE | 2,
        srrctl::DESCTYPE_ADV_ONE | srrctl::DROP_EN | 1,
        srrctl::DESCTYPE_LEGACY | 2,
    ];
    for q in 0..QUEUES {
        let kind = if numbers.rare(3) {
            kinds[numbers.below(4) as usize]
        } else {
            kinds[0]
        };
        rig.write(regs::SRRCTL, q, kind);
    }
    if numbers.rare(6) {
        rig.write(regs::RXDCTL, 3, 0);
    } else if numbers.rare(3) {
        rig.write(regs::RXDCTL, 3, rxdctl::ENABLE | rxdctl::VME);
    }
}

/// Everything that can be read, statistics cleared by it.
fn registers(rig: &mut Rig) -> Vec<(&'static str, u32, u32)> {
    let mut values = Vec::new();
    for reg in TABLE {
        for i in 0..reg.count {
            values.push((reg.name, i, rig.peek(**reg, i)));
        }
    }
    values
}

fn same_state(a: &mut Rig, b: &mut Rig) {
    assert_eq!(registers(a), registers(b));
    assert_eq!(a.nic.counters(), b.nic.counters());
}

/// Ring and buffers of a receive queue.
fn memory(rig: &Rig, q: u32) -> (Vec<u8>, Vec<u8>) {
    (
        rig.load(Rig::rx_descriptor(q, 0), RING as usize * 16),
        rig.load(Rig::rx_buffer(q, 0), RING as usize * 2048),
    )
}

fn arrive(seed: u64) {
    let mut ports = both();
    for (rig, _) in &mut ports {
        configure(rig, &mut Numbers(seed));
    }
    let mut numbers = Numbers(seed);
    for _ in 0..8 {
        let burst: Vec<Vec<u8>> = (0..numbers.below(90)).map(|_| frame(&mut numbers)).collect();
        let reposted = numbers.below(u64::from(RING)) as u32;
        let off = numbers.rare(12).then(|| numbers.below(u64::from(QUEUES)) as u32);
        for (rig, far) in &mut ports {
            for bytes in &burst {
                far.send(bytes).unwrap();
            }
            far.flush().unwrap();
            rig.step();
            if let Some(q) = off {
                rig.write(regs::RXDCTL, q, 0);
            }
            rig.step();
        }
        let [(a, _), (b, _)] = &mut ports;
        for q in 0..QUEUES {
            assert!(memory(a, q) == memory(b, q), "memory of queue {q}");
        }
        same_state(a, b);
        for (rig, _) in &mut ports {
            for q in 0..QUEUES {
                let head = rig.peek(regs::RDH, q);
                let tail = (head + reposted) % RING;
                let mut at = rig.peek(regs::RDT, q);
                while at != tail {
                    rig.set_descriptor(Rig::rx_descriptor(q, at), [Rig::rx_buffer(q, at), 0]);
                    at = (at + 1) % RING;
                }
                rig.write(regs::RDT, q, tail);
            }
        }
    }
}

/// Descriptors of a burst: most are frames of one buffer, some in several, with checksums, tags or to be cut.
fn descriptors(numbers: &mut Numbers) -> Vec<[u64; 2]> {
    let mut list = Vec::new();
    for _ in 0..numbers.below(12) {
        let udp = numbers.rare(2);
        let l4 = if udp { tucmd::L4T_UDP } else { tucmd::L4T_TCP };
        let context = Context {
            mac_len: 14,
            ip_len: 20,
            tucmd: tucmd::IPV4 | l4,
            vlan: numbers.below(4096) as u16,
            l4_len: if udp { 8 } else { 20 },
            mss: 100,
            ..Context::default()
        };
        let len = 60 + numbers.below(1400) as u16;
        let mut data = Data {
            addr: SCRATCH + numbers.below(4000),
            len,
            cmd: cmd::EOP | cmd::IFCS | cmd::DEXT,
            paylen: u32::from(len),
            ..Data::default()
        };
        if numbers.rare(3) {
            data.cmd |= cmd::RS;
        }
        match numbers.below(10) {
            0 => {
                list.push(context.encode());
                data.popts = [popts::IXSM, popts::TXSM, popts::IXSM | popts::TXSM][numbers.below(3) as usize];
            }
            1 => {
                list.push(context.encode());
                data.cmd |= cmd::VLE;
            }
            2 => {
                list.push(context.encode());
                data.cmd |= cmd::TSE;
                data.popts = popts::IXSM | popts::TXSM;
                data.paylen = u32::from(len) - 34 - u32::from(context.l4_len);
            }
            3 => {
                let mut first = data;
                first.cmd &= !cmd::EOP;
                list.push(first.encode());
            }
            4 => data.len = 14 + numbers.below(50) as u16,
            5 if numbers.rare(20) => data.len = 13,
            5 if numbers.rare(20) => data.addr = 1 << 40,
            _ => {}
        }
        list.push(data.encode());
    }
    list
}

fn send(seed: u64) {
    let mut ports = both();
    let mut numbers = Numbers(seed);
    let content = numbers.bytes(8192);
    let counter = numbers.below(16) as u32;
    let head_write_back = numbers.rare(4);
    for (rig, _) in &mut ports {
        rig.bring_up(QUEUES, RING);
        rig.store(SCRATCH, &content);
        rig.write(regs::TQSM, 0, counter);
        if head_write_back {
            rig.write(regs::TDWBAH, 1, 0);
            rig.write(regs::TDWBAL, 1, (SCRATCH + 0x1_0000) as u32 | 1);
        }
    }
    let mut tails = [0u32; 2];
    for _ in 0..30 {
        let q = numbers.below(2) as u32;
        let list = descriptors(&mut numbers);
        let late = numbers.rare(6);
        let tail = &mut tails[q as usize];
        for (n, descriptor) in list.iter().enumerate() {
            let at = (*tail + n as u32) % RING;
            ports
                .iter()
                .for_each(|(rig, _)| rig.set_descriptor(Rig::tx_descriptor(q, at), *descriptor));
        }
        *tail = (*tail + list.len() as u32) % RING;
        let mut arrived = Vec::new();
        for (rig, far) in &mut ports {
            rig.write(regs::TDT, q, *tail);
            rig.step();
            rig.step();
            let mut frames = Vec::new();
            // Now and then the far end does not look.
            while let (false, Some(frame)) = (late, far.recv().unwrap()) {
                frames.push(frame.to_vec());
            }
            arrived.push((
                frames,
                rig.load(Rig::tx_descriptor(q, 0), RING as usize * 16),
                rig.load(SCRATCH + 0x1_0000, 4),
            ));
        }
        assert!(arrived[0] == arrived[1], "frames or descriptors of queue {q}");
        let [(a, _), (b, _)] = &mut ports;
        same_state(a, b);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn frames_received_together_end_as_those_received_one_by_one(seed in 1u64..) {
        arrive(seed);
    }

    #[test]
    fn frames_sent_together_go_out_as_those_sent_one_by_one(seed in 1u64..) {
        send(seed);
    }
}
