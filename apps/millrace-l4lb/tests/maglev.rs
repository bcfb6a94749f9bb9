//! Properties of the Maglev table over many sets of backends.

use std::net::{IpAddr, Ipv4Addr};

use millrace_l4lb::maglev::{Member, NOBODY, SLOTS, identity, table};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn member(address: u32, weight: u32) -> Member {
    Member {
        identity: identity(IpAddr::V4(Ipv4Addr::from(address))),
        weight,
        usable: true,
    }
}

/// A table as identities, so that lists in different orders can be compared.
fn owners(members: &[Member]) -> Vec<Option<u64>> {
    let owner = |slot: u16| (slot != NOBODY).then(|| members[usize::from(slot)].identity);
    table(members).into_iter().map(owner).collect()
}

fn sets() -> impl Strategy<Value = Vec<Member>> {
    btree_set(any::<u32>(), 2..60).prop_flat_map(|addresses| {
        vec(1..=20u32, addresses.len()).prop_map(move |weights| {
            addresses
                .iter()
                .zip(weights)
                .map(|(address, weight)| member(*address, weight))
                .collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_slot_is_taken_and_shares_follow_weights_within_2_percent(members in sets()) {
        let owners = owners(&members);
        prop_assert_eq!(owners.len(), SLOTS);
        let total: u32 = members.iter().map(|member| member.weight).sum();
        for member in &members {
            let got = owners.iter().filter(|owner| **owner == Some(member.identity)).count() as f64;
            let want = SLOTS as f64 * f64::from(member.weight) / f64::from(total);
            prop_assert!((got - want).abs() <= (want * 0.02).max(1.5), "{} slots, {} wanted", got, want);
        }
    }

    #[test]
    fn neither_order_nor_history_matters(members in sets(), turn in any::<prop::sample::Index>()) {
        let mut turned = members.clone();
        turned.rotate_left(turn.index(members.len()));
        prop_assert_eq!(owners(&members), owners(&turned));
    }

    #[test]
    fn whoever_stops_taking_flows_moves_only_his_own(members in sets(), who in any::<prop::sample::Index>()) {
        let before = owners(&members);
        let mut after = members.clone();
        let gone = who.index(members.len());
        after[gone].usable = false;
        for (was, is) in before.iter().zip(owners(&after)) {
            if *was == Some(members[gone].identity) {
                prop_assert!(is.is_some() && is != *was);
            } else {
                prop_assert_eq!(*was, is);
            }
        }
    }

    #[test]
    fn removing_one_of_3_to_60_equals_moves_at_most_1_percent_of_the_others(
        addresses in btree_set(any::<u32>(), 3..60),
        who in any::<prop::sample::Index>(),
    ) {
        let members: Vec<_> = addresses.iter().map(|address| member(*address, 1)).collect();
        let before = owners(&members);
        let mut rest = members.clone();
        let gone = rest.remove(who.index(members.len())).identity;
        let after = owners(&rest);
        let others = before.iter().zip(&after).filter(|(was, _)| **was != Some(gone));
        let (all, moved) = others.fold((0u32, 0u32), |(all, moved), (was, is)| (all + 1, moved + u32::from(was != is)));
        prop_assert!(f64::from(moved) <= f64::from(all) * 0.01, "{} of {}", moved, all);
    }
}
