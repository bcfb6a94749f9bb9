use super::super::{SendOutcome, Wire, pair};
use super::drain;

#[test]
fn frames_cross_a_pair_in_order_and_each_way() {
    let (mut a, mut b) = pair();
    let frames: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 60 + usize::from(i) * 10]).collect();
    for half in frames.chunks(50) {
        for frame in half {
            assert_eq!(a.send(frame).unwrap(), SendOutcome::Sent);
            assert_eq!(b.send(frame).unwrap(), SendOutcome::Sent);
        }
        // Two batches meet in the mailbox.
        a.flush().unwrap();
        b.flush().unwrap();
    }
    assert_eq!(drain(&mut b), frames);
    assert_eq!(drain(&mut a), frames);
    assert_eq!(drain(&mut b), Vec::<Vec<u8>>::new());
}

#[test]
fn what_was_not_flushed_has_not_arrived() {
    let (mut a, mut b) = pair();
    a.send(&[1; 60]).unwrap();
    assert_eq!(drain(&mut b), Vec::<Vec<u8>>::new());
    a.flush().unwrap();
    assert_eq!(drain(&mut b), [vec![1; 60]]);
}

#[test]
fn a_far_side_that_does_not_keep_up_costs_frames_which_are_counted() {
    let (mut a, mut b) = pair();
    let outcomes: Vec<_> = (0..5000u32).map(|i| a.send(&i.to_le_bytes()).unwrap()).collect();
    a.flush().unwrap();
    let dropped = outcomes.iter().filter(|o| **o == SendOutcome::Dropped).count();
    assert!(dropped > 0);
    let mut arrived = drain(&mut b);
    a.flush().unwrap();
    arrived.extend(drain(&mut b));
    assert_eq!(arrived.len(), 5000 - dropped);
    assert!(a.counters().contains(&("wire_send_drops", dropped as u64)));
    let numbers: Vec<_> = arrived
        .iter()
        .map(|f| u32::from_le_bytes(f[..].try_into().unwrap()))
        .collect();
    assert!(numbers.is_sorted());
}

#[test]
fn an_end_without_its_other_has_no_link() {
    let (a, b) = pair();
    assert!(a.link_up() && b.link_up());
    drop(b);
    assert!(!a.link_up());
}
