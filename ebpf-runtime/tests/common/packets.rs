//! Frames of many kinds for programs that nobody knows.
#![allow(dead_code)]

/// Deterministic bytes.
pub fn noise(seed: u64) -> impl FnMut() -> u8 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    }
}

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS[..], &kind.to_be_bytes(), payload].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet; `options` words of no operation follow its header.
pub fn ipv4(protocol: u8, options: u8, ttl: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + 4 * usize::from(options);
    let mut packet = vec![0; header];
    packet[0] = 0x45 + options;
    packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = ttl;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
    packet[20..].fill(1);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn udp(source: u16, to: u16, len: usize) -> Vec<u8> {
    let mut next = noise(u64::from(to));
    let mut segment = [
        source.to_be_bytes(),
        to.to_be_bytes(),
        ((8 + len) as u16).to_be_bytes(),
        [0; 2],
    ]
    .concat();
    segment.extend((0..len).map(|_| next()));
    segment
}

fn tcp(source: u16, to: u16, flags: u8, options: &[u8], len: usize) -> Vec<u8> {
    let mut segment = [source.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend([
        (5 + options.len() as u8 / 4) << 4,
        flags,
        0x20,
        0,
        0x12,
        0x34,
        0,
        0,
    ]);
    segment.extend(options);
    segment.extend((0..len).map(|i| i as u8));
    segment
}

/// Some thirty frames.
pub fn frames() -> Vec<Vec<u8>> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    let mut all = Vec::new();
    for (source, to) in [(1234, 53), (1234, 80), (7, 9), (4000, 6081), (4000, 4789)] {
        all.push(ethernet(IPV4, &ipv4(17, 0, 64, 0, &udp(source, to, 30))));
    }
    for (flags, len) in [(0x02, 0), (0x10, 40), (0x11, 0), (0x04, 0), (0x12, 0)] {
        all.push(ethernet(
            IPV4,
            &ipv4(6, 0, 64, 0, &tcp(1234, 80, flags, &[], len)),
        ));
    }
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7, 0xfd, 4, 0x12, 0x34];
    all.push(ethernet(
        IPV4,
        &ipv4(6, 0, 64, 0, &tcp(1234, 443, 2, &options, 8)),
    ));
    let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    all.push(ethernet(IPV4, &ipv4(1, 0, 64, 0, &echo)));
    all.push(ethernet(IPV4, &ipv4(17, 2, 64, 0, &udp(1234, 53, 20))));
    all.push(ethernet(IPV4, &ipv4(17, 0, 1, 0, &udp(1234, 53, 20))));
    all.push(ethernet(IPV4, &ipv4(17, 0, 64, 0x2000, &udp(1234, 53, 24))));
    all.push(ethernet(IPV4, &ipv4(17, 0, 64, 0x0010, &[7; 24])));
    all.push(ethernet(
        IPV4,
        &ipv4(4, 0, 64, 0, &ipv4(17, 0, 64, 0, &udp(1, 2, 18))),
    ));
    all.push(ethernet(
        IPV4,
        &ipv4(
            47,
            0,
            64,
            0,
            &[&[0, 0, 8, 0][..], &ipv4(6, 0, 64, 0, &tcp(1, 2, 2, &[], 0))].concat(),
        ),
    ));
    all.push(ethernet(IPV4, &ipv4(17, 0, 64, 0, &udp(1234, 53, 1200))));
    all.push(ethernet(IPV6, &ipv6(17, &udp(1234, 53, 30))));
    all.push(ethernet(IPV6, &ipv6(6, &tcp(1234, 80, 2, &options, 4))));
    all.push(ethernet(IPV6, &ipv6(58, &[128, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9])));
    all.push(ethernet(
        IPV6,
        &ipv6(0, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(1234, 53, 12)].concat()),
    ));
    all.push(ethernet(IPV6, &ipv6(41, &ipv6(17, &udp(1, 2, 16)))));
    all.push(ethernet(
        0x0806,
        &[&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 38]].concat(),
    ));
    let tagged = |tag: u16, inner: &[u8]| [&[0, 42][..], &tag.to_be_bytes(), inner].concat();
    let inner = ipv4(17, 0, 64, 0, &udp(1234, 53, 26));
    all.push(ethernet(0x8100, &tagged(IPV4, &inner)));
    all.push(ethernet(0x88a8, &tagged(0x8100, &tagged(IPV4, &inner))));
    all.push(ethernet(0x8100, &tagged(IPV6, &ipv6(6, &tcp(5, 6, 16, &[], 20)))));
    all.push(ethernet(IPV4, &[]));
    all.push(ethernet(IPV4, &ipv4(17, 0, 64, 0, &[])));
    all.push(ethernet(IPV6, &[0x60; 12]));
    for (seed, len) in [(1, 14), (2, 60), (3, 61), (4, 333)] {
        let mut next = noise(seed);
        all.push((0..len).map(|_| next()).collect());
    }
    all
}
