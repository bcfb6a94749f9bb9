//! Wires without the kernel's networking: the inbox, captures, links, pairs, the generator, bad specs.

mod r#gen;
mod inbox;
mod link;
mod pair;
mod pcap;

use super::{Wire, WireError, open};

/// Everything that waits on a wire.
fn drain(wire: &mut dyn Wire) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = wire.recv().unwrap() {
        frames.push(frame.to_vec());
    }
    frames
}

fn refused(spec: &str) -> WireError {
    match open(spec) {
        Ok(_) => panic!("{spec} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn an_unknown_wire_is_told_which_there_are() {
    for spec in ["", "tpa:x", "null:x", "socket:/tmp/x"] {
        let message = refused(spec).to_string();
        for kind in ["tap:", "packet:", "pcap:", "link:", "gen:", "null"] {
            assert!(message.contains(kind), "{message}");
        }
    }
}

#[test]
fn bad_interface_names_are_refused_before_the_kernel_is_asked() {
    for kind in ["tap", "packet"] {
        for name in ["", "sixteen-chars-ab", "a/b", "a b", ".."] {
            let error = refused(&format!("{kind}:{name}"));
            assert!(matches!(error, WireError::Malformed { .. }), "{error}");
            assert!(
                error
                    .to_string()
                    .contains(if kind == "tap" { "tap:NAME" } else { "packet:IFACE" })
            );
        }
    }
}

#[test]
fn a_missing_interface_says_where_to_look() {
    let error = refused("packet:mr-no-such-if");
    assert!(matches!(error, WireError::NoInterface { .. }), "{error}");
    assert!(error.to_string().contains("ip netns exec"));
}

#[test]
fn the_null_wire_is_up_swallows_and_stays_silent() {
    let mut wire = open("null").unwrap();
    wire.send(&[0; 60]).unwrap();
    assert!(wire.link_up() && !wire.is_source() && wire.fds().is_empty());
    assert_eq!(wire.recv().unwrap(), None);
    assert_eq!(
        wire.counters(),
        [("wire_sent_frames", 1), ("wire_sent_bytes", 60)]
    );
}
