use super::super::{SendOutcome, WireError, open};
use super::{drain, refused};
use std::thread::sleep;
use std::time::Duration;

/// A link name that no other test or run uses.
fn unique(name: &str) -> String {
    format!("link:mr-net-{name}-{}", std::process::id())
}

#[test]
fn frames_cross_a_link_in_both_directions_and_in_order() {
    let spec = unique("cross");
    let mut a = open(&spec).unwrap();
    assert!(!a.link_up());
    assert_eq!(a.send(&[1; 60]).unwrap(), SendOutcome::Dropped);
    let mut b = open(&spec).unwrap();
    assert!(b.link_up());
    assert_eq!(drain(&mut *a), Vec::<Vec<u8>>::new(), "the greeting is no frame");
    assert!(a.link_up());

    let frames: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 60 + usize::from(i) * 10]).collect();
    for frame in &frames {
        assert_eq!(a.send(frame).unwrap(), SendOutcome::Sent);
        assert_eq!(b.send(frame).unwrap(), SendOutcome::Sent);
    }
    a.flush().unwrap();
    b.flush().unwrap();
    assert_eq!(drain(&mut *b), frames);
    assert_eq!(drain(&mut *a), frames);
}

#[test]
fn a_third_end_is_refused() {
    let spec = unique("third");
    let _ends = (open(&spec).unwrap(), open(&spec).unwrap());
    let error = refused(&spec);
    assert!(matches!(error, WireError::Busy { .. }), "{error}");
}

#[test]
fn an_end_that_goes_away_takes_the_link_down_and_may_come_back() {
    let spec = unique("again");
    let mut a = open(&spec).unwrap();
    let mut b = open(&spec).unwrap();
    b.send(&[2; 60]).unwrap();
    b.flush().unwrap();
    drop(b);
    assert_eq!(drain(&mut *a), [vec![2; 60]], "what was under way still arrives");
    sleep(Duration::from_millis(50));
    assert!(!a.link_up());
    assert_eq!(a.send(&[3; 60]).unwrap(), SendOutcome::Dropped);

    let mut c = open(&spec).unwrap();
    assert!(c.link_up());
    drain(&mut *a);
    assert!(a.link_up());
    a.send(&[4; 60]).unwrap();
    a.flush().unwrap();
    assert_eq!(drain(&mut *c), [vec![4; 60]]);
}

#[test]
fn a_flooded_link_drops_instead_of_blocking() {
    let spec = unique("flood");
    let mut a = open(&spec).unwrap();
    let _b = open(&spec).unwrap();
    drain(&mut *a);
    for _ in 0..200_000 {
        a.send(&[0; 60]).unwrap();
    }
    a.flush().unwrap();
    let counters: std::collections::BTreeMap<_, _> = a.counters().into_iter().collect();
    assert!(counters["wire_send_drops"] > 0);
    assert_eq!(
        counters["wire_send_frames"] + counters["wire_send_drops"],
        200_000
    );
}

#[test]
fn a_link_without_a_name_is_refused() {
    assert!(matches!(refused("link:"), WireError::Malformed { .. }));
}
