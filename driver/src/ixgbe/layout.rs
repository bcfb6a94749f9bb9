//! What two queues write lies in cache lines of their own: another queue's worker never waits for a line of theirs.

use std::ops::Range;

use crate::harness::{Harness, HarnessConfig};
use crate::queue::{RxBatch, RxFamily, TxFamily};

/// Cache lines are 64 bytes on every x86-64 processor.
const LINE: usize = 64;

/// An owner, what it owns, and where that lies.
type Owned = (String, &'static str, Range<usize>);

fn first_clash(owned: &[Owned]) -> Option<String> {
    let lines = |range: &Range<usize>| (range.start / LINE, range.end.saturating_sub(1) / LINE);
    for (i, (owner, what, range)) in owned.iter().enumerate() {
        for (other, their, theirs) in owned.iter().take(i) {
            let ((a, b), (c, d)) = (lines(range), lines(theirs));
            if owner != other && a <= d && c <= b {
                return Some(format!(
                    "{owner}'s {what} and {other}'s {their} share a cache line"
                ));
            }
        }
    }
    None
}

#[test]
fn what_the_queues_of_one_port_write_is_disjoint_in_cache_lines() {
    // The smallest ring that `path` measures, and one that is smaller than a page.
    for ring in [256, 64] {
        let config = HarnessConfig {
            rx_ring: ring,
            tx_ring: ring,
            buffers: 2 * ring,
            ..HarnessConfig::default()
        };
        // In one vector, as a worker with many queues may hold them.
        let mut pairs = Harness::several(&config, 4).expect("a harness");
        let mut batches: Vec<RxBatch> = (0..4).map(|_| RxBatch::new()).collect();
        let mut owned: Vec<Owned> = Vec::new();
        for (i, ((_, rx, tx), batch)) in pairs.iter_mut().zip(&mut batches).enumerate() {
            let RxFamily::Ixgbe(rx) = &mut rx.inner;
            let TxFamily::Ixgbe(tx) = &mut tx.inner;
            // Receiving and sending may be two workers' jobs too.
            owned.extend(
                rx.written()
                    .into_iter()
                    .map(|(what, range)| (format!("receiver {i}"), what, range)),
            );
            owned.extend(
                tx.written()
                    .into_iter()
                    .map(|(what, range)| (format!("sender {i}"), what, range)),
            );
            let at = std::ptr::from_ref(batch) as usize;
            owned.push((format!("batch {i}"), "batch", at..at + size_of::<RxBatch>()));
        }
        assert_eq!(owned.len(), 4 * (6 + 6 + 1));
        assert!(owned.iter().all(|(.., range)| !range.is_empty()), "{owned:?}");
        assert_eq!(first_clash(&owned), None);
        pairs.iter().for_each(|(nic, ..)| nic.close());
    }
}

#[test]
fn a_shared_line_would_be_noticed() {
    let owned = [
        ("a".to_owned(), "counter", 0x1000..0x1008),
        ("b".to_owned(), "counter", 0x1038..0x1040),
        ("c".to_owned(), "counter", 0x1040..0x1048),
    ];
    assert_eq!(
        first_clash(&owned).as_deref(),
        Some("b's counter and a's counter share a cache line")
    );
    assert_eq!(first_clash(&owned[1..]), None);
}
