use super::super::{GenSpec, GenWire, Wire, open};
use super::{drain, refused};
use crate::packet::{ChecksumStatus, L3, L4, Parsed, checksum, parse};
use std::collections::HashSet;
use std::time::{Duration, Instant};

fn flow(frame: &[u8], p: &Parsed) -> (Vec<u8>, Option<u16>) {
    (p.src_addr(frame).to_vec(), p.src_port(frame))
}

#[test]
fn every_flow_comes_once_a_round_with_good_checksums() {
    for (proto, l3, l4) in [
        ("udp4", L3::Ipv4, L4::Udp),
        ("tcp4", L3::Ipv4, L4::Tcp),
        ("udp6", L3::Ipv6, L4::Udp),
        ("tcp6", L3::Ipv6, L4::Tcp),
    ] {
        let mut wire = open(&format!(
            "gen:{proto},flows=700,count=1400,size=128,dport=8080,vlan=9"
        ))
        .unwrap();
        assert!(wire.is_source() && wire.fds().is_empty());
        let frames = drain(&mut *wire);
        assert!(!wire.is_source());
        assert_eq!(frames.len(), 1400);
        for round in frames.chunks(700) {
            let mut flows = HashSet::new();
            for frame in round {
                let p = parse(frame);
                assert_eq!((p.l3, p.l4, frame.len(), p.tags()[0].vid()), (l3, l4, 124, 9));
                assert_eq!(p.dst_port(frame), Some(8080));
                assert_ne!(checksum::verify_ip(frame, &p), ChecksumStatus::Bad);
                assert_eq!(checksum::verify_l4(frame, &p), ChecksumStatus::Good);
                flows.insert(flow(frame, &p));
            }
            assert_eq!(flows.len(), 700);
        }
    }
}

#[test]
fn the_seed_decides_the_order_and_nothing_else() {
    let frames =
        |seed| drain(&mut GenWire::open("", &format!("udp4,flows=100,count=100,seed={seed}")).unwrap());
    let (one, again, mut two) = (frames(1), frames(1), frames(2));
    assert_eq!(one, again);
    assert_ne!(one, two);
    two.sort();
    let mut sorted = one.clone();
    sorted.sort();
    assert_eq!(sorted, two);
}

#[test]
fn frames_too_small_for_their_headers_grow_to_them() {
    let frame = GenSpec::parse("", "tcp6,size=64").unwrap().frame(0);
    assert_eq!(frame.len(), 74);
    assert_eq!(GenSpec::parse("", "udp4,size=64").unwrap().frame(0).len(), 60);
    assert_eq!(GenSpec::parse("", "udp4,size=1518").unwrap().frame(0).len(), 1514);
}

#[test]
fn a_rate_is_kept_on_average() {
    let mut wire = GenWire::open("", "udp4,rate=20000").unwrap();
    let start = Instant::now();
    let mut frames = 0u64;
    while start.elapsed() < Duration::from_millis(100) {
        frames += u64::from(wire.recv().unwrap().is_some());
    }
    let most = (start.elapsed().as_secs_f64() * 20_000.0) as u64 + 1;
    assert!(frames <= most, "{frames} frames, at most {most} were due");
    assert!(frames >= 1000, "{frames} frames in 100 ms at 20,000 a second");
}

#[test]
fn a_rate_says_when_the_next_frame_is_due_and_makes_up_for_little() {
    let mut wire = GenWire::open("", "udp4,rate=50").unwrap();
    assert!(wire.due().is_none(), "the first frame is there at once");
    assert!(wire.recv().unwrap().is_some());
    let due = wire.due().expect("a time");
    assert!(due <= Instant::now() + Duration::from_millis(20));
    assert!(wire.recv().unwrap().is_none() || due <= Instant::now());
    // 25 frames were due, of which a tenth of a second's are sent.
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let frames = (0..100).filter(|_| wire.recv().unwrap().is_some()).count();
    let meanwhile = (start.elapsed().as_secs_f64() * 50.0) as usize + 1;
    assert!((5..=6 + meanwhile).contains(&frames), "{frames} frames");
    assert!(GenWire::open("", "udp4").unwrap().due().is_none());
}

#[test]
fn bad_generator_specs_say_what_is_wrong() {
    for (spec, part) in [
        ("gen:", "unknown protocol"),
        ("gen:icmp", "unknown protocol"),
        ("gen:udp4,flows", "not KEY=VALUE"),
        ("gen:udp4,colour=red", "unknown key \"colour\""),
        ("gen:udp4,flows=0", "flows=0"),
        ("gen:udp4,flows=99999999999", "flows=99999999999"),
        ("gen:udp4,flows=x", "flows=x"),
        ("gen:udp4,size=63", "size=63"),
        ("gen:udp4,size=20000", "size=20000"),
        ("gen:udp4,dst=2001:db8::9", "different IP versions"),
        ("gen:udp4,smac=02:00:00:00:00", "MAC address"),
        ("gen:udp4,smac=02:00:00:00:00:01:02", "MAC address"),
        ("gen:udp4,vlan=4095", "reserved"),
        ("gen:udp4,dport=70000", "dport=70000"),
        ("gen:tcp4,flags=fin", "flags=fin"),
        ("gen:udp4,flows=1000000,size=9000", "1 GiB"),
    ] {
        let message = refused(spec).to_string();
        assert!(
            message.contains(part) && message.contains("gen:PROTO"),
            "{message}"
        );
    }
}
