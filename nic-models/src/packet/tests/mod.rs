//! The packet functions against known answers, against each other, against noise, and against Wireshark.

mod checksum;
mod parse;
mod segment;
mod tshark;

use super::build::Frame;
use proptest::prelude::*;

const A6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
const B6: [u16; 8] = [0x2001, 0xdb8, 0, 1, 0xffff, 0x8000, 0, 2];

/// Any well-formed frame that the builder can make with TCP, UDP or SCTP in it.
fn any_frame() -> impl Strategy<Value = Frame> {
    let payload = proptest::collection::vec(any::<u8>(), 0..300);
    let options = proptest::collection::vec(any::<u8>(), 0..30);
    (
        any::<bool>(),
        0..3usize,
        0..3u8,
        options,
        payload,
        any::<[u16; 3]>(),
    )
        .prop_map(|(v6, tags, l4, options, payload, [a, b, c])| {
            let mut frame = Frame::new();
            for tag in 0..tags {
                frame = frame.vlan(c.wrapping_add(tag as u16));
            }
            frame = if v6 {
                frame.ipv6(A6, B6)
            } else {
                frame.ipv4([10, 1, 2, 3], [192, 168, 255, 254])
            };
            frame = frame.options(&options).ip_id(a);
            frame = match l4 {
                0 => frame.tcp(a, b).tcp_options(&options).seq(u32::from(a) << 16, 7),
                1 => frame.udp(a, b),
                _ => frame.sctp(a, b),
            };
            frame.payload(&payload)
        })
}
