//! Maglev hashing (Eisenbud et al., NSDI 2016, 3.4) with weights.
//!
//! A table depends on who the members are, not on their order or on history: two balancers with the same file and the same view
//! of their backends, or one before and after a restart, have the same table. It is made in two steps: a base over all members,
//! then the slots of those that take no flows are given to the others. So a backend that goes down, drains or comes back moves
//! nobody else's slots; only a change of the list does (by 0.1 to 0.6 % of the others' slots).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// Slots of a table, a prime.
pub const SLOTS: usize = 65537;

/// What a slot holds when nobody takes flows.
pub const NOBODY: u16 = u16::MAX;

/// One backend in the eyes of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is, see [`identity`].
    pub identity: u64,
    /// Its share of the slots is `weight / sum of weights`.
    pub weight: u32,
    /// Whether it takes new flows now.
    pub usable: bool,
}

/// splitmix64's finisher, a bijection that spreads every bit.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A backend's identity in every table: its address.
pub fn identity(address: IpAddr) -> u64 {
    let word = |x: u128| mix((x as u64) ^ mix((x >> 64) as u64 ^ 0x6d69_6c6c_7261_6365));
    match address {
        IpAddr::V4(v4) => word(u128::from(u32::from(v4))),
        IpAddr::V6(v6) => word(u128::from(v6)).rotate_left(17),
    }
}

/// Rounds of the permutation; four make it look random, the rest is margin.
const ROUNDS: usize = 6;

/// The order in which a member asks for slots: a random-looking permutation of them, drawn from its identity.
///
/// The paper walks from an offset in steps of a skip. Two members with related skips then chase each other through the whole
/// table, and removing one shifts a large part of the other's slots (10 % in one of 200 random sets of ten). So the walk is
/// a Feistel network over the first 65,536 slots instead, with the last slot put somewhere into it.
struct Preference {
    rounds: [[u8; 256]; ROUNDS],
    last_slot_at: usize,
    next: usize,
}

impl Preference {
    fn of(identity: u64) -> Preference {
        let mut rounds = [[0; 256]; ROUNDS];
        let mut state = identity;
        for chunk in rounds.as_flattened_mut().chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&mix(state).to_le_bytes());
        }
        Preference {
            rounds,
            last_slot_at: (mix(identity ^ 0xa5a5_a5a5) % SLOTS as u64) as usize,
            next: 0,
        }
    }

    fn take(&mut self) -> usize {
        let at = self.next;
        self.next = (self.next + 1) % SLOTS;
        if at == self.last_slot_at {
            return SLOTS - 1;
        }
        let at = if at > self.last_slot_at { at - 1 } else { at };
        let (mut left, mut right) = ((at >> 8) as u8, at as u8);
        for round in &self.rounds {
            (left, right) = (right, left ^ round[usize::from(right)]);
        }
        usize::from(left) << 8 | usize::from(right)
    }
}

/// Makes the table: for each slot the index of a member in `members`, or [`NOBODY`] everywhere when none is usable.
///
/// Members beyond 65,535 and members of weight 0 get no slot.
pub fn table(members: &[Member]) -> Vec<u16> {
    let mut order: Vec<usize> = (0..members.len().min(NOBODY as usize))
        .filter(|&i| members[i].weight > 0)
        .collect();
    order.sort_by_key(|&i| members[i].identity);

    let mut slots = vec![NOBODY; SLOTS];
    let mut filled = vec![0u64; members.len()];
    fill(&mut slots, &mut filled, members, &order);

    order.retain(|&i| members[i].usable);
    if order.len() < members.len() {
        for slot in &mut slots {
            if *slot != NOBODY && !members[*slot as usize].usable {
                *slot = NOBODY;
            }
        }
        fill(&mut slots, &mut filled, members, &order);
    }
    slots
}

/// Gives every free slot to somebody in `order`: always to the one that is furthest behind its weight.
fn fill(slots: &mut [u16], filled: &mut [u64], members: &[Member], order: &[usize]) {
    let due = |filled: u64, weight: u32| ((filled + 1) << 32) / u64::from(weight);
    let mut preferences: Vec<Preference> = order
        .iter()
        .map(|&i| Preference::of(members[i].identity))
        .collect();
    let mut queue: BinaryHeap<_> = order
        .iter()
        .enumerate()
        .map(|(rank, &i)| Reverse((due(filled[i], members[i].weight), rank)))
        .collect();
    let mut free = slots.iter().filter(|slot| **slot == NOBODY).count();
    while free > 0 {
        let Some(Reverse((_, rank))) = queue.pop() else {
            return;
        };
        let member = order[rank];
        loop {
            let slot = preferences[rank].take();
            if slots[slot] == NOBODY {
                slots[slot] = member as u16;
                break;
            }
        }
        filled[member] += 1;
        free -= 1;
        queue.push(Reverse((due(filled[member], members[member].weight), rank)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn members(weights: &[u32]) -> Vec<Member> {
        let of = |(i, weight): (usize, &u32)| Member {
            identity: identity(IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + i as u32))),
            weight: *weight,
            usable: true,
        };
        weights.iter().enumerate().map(of).collect()
    }

    #[test]
    fn slots_follow_the_weights_to_one_part_in_a_thousand() {
        for weights in [
            vec![1; 3],
            vec![1; 10],
            vec![1; 50],
            vec![1, 2, 3],
            vec![100, 1, 50, 7],
            vec![1000, 1],
        ] {
            let members = members(&weights);
            let table = table(&members);
            let total: u32 = weights.iter().sum();
            for (i, weight) in weights.iter().enumerate() {
                let got = table.iter().filter(|slot| **slot == i as u16).count() as f64;
                let want = SLOTS as f64 * f64::from(*weight) / f64::from(total);
                assert!(
                    (got - want).abs() <= (want / 1000.0).max(1.5),
                    "weights {weights:?}: {i} has {got}, not {want}"
                );
            }
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let forward = members(&[1, 2, 3, 4]);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let last = forward.len() as u16 - 1;
        let turned: Vec<u16> = table(&backward).into_iter().map(|slot| last - slot).collect();
        assert_eq!(table(&forward), turned);
    }

    #[test]
    fn removing_one_from_the_list_moves_at_most_one_percent_of_the_others() {
        for n in [3, 10, 50] {
            let all = members(&vec![1; n]);
            let before = table(&all);
            for gone in 0..n.min(5) {
                let mut rest = all.clone();
                rest.remove(gone);
                let after = table(&rest);
                let others = before.iter().filter(|slot| **slot != gone as u16).count();
                let same =
                    |(was, is): &(&u16, &u16)| all[**was as usize].identity == rest[**is as usize].identity;
                let kept = before.iter().zip(&after).filter(same).count();
                let moved = (others - kept) as f64 / others as f64;
                assert!(moved <= 0.01, "{n} backends, {gone} removed: {moved}");
            }
        }
    }

    #[test]
    fn a_backend_that_takes_no_flows_moves_nobody_else() {
        let all = members(&[3, 1, 2, 5]);
        let before = table(&all);
        let mut down = all.clone();
        down[2].usable = false;
        let after = table(&down);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(was, is)| if *was == 2 { *is != 2 } else { is == was })
        );
        for (i, weight) in [(0, 3.0), (1, 1.0), (3, 5.0)] {
            let got = after.iter().filter(|slot| **slot == i).count() as f64;
            let want = SLOTS as f64 * weight / 9.0;
            assert!(
                (got - want).abs() <= want / 1000.0 + 1.0,
                "{i} has {got}, not {want}"
            );
        }
    }

    #[test]
    fn a_preference_names_every_slot_once() {
        for i in 0..20 {
            let mut preference = Preference::of(mix(i));
            let mut seen = vec![false; SLOTS];
            for _ in 0..SLOTS {
                assert!(!std::mem::replace(&mut seen[preference.take()], true));
            }
        }
    }

    #[test]
    fn nobody_usable_leaves_the_table_empty() {
        assert!(table(&[]).iter().all(|slot| *slot == NOBODY));
        let mut one = members(&[1]);
        one[0].usable = false;
        assert!(table(&one).iter().all(|slot| *slot == NOBODY));
    }
}
