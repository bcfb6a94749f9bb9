//! Every copy does what its row says, whatever it leaves out.

use super::model::*;
use super::players::{self, VARIANTS};
use super::*;

#[test]
fn everybody_takes_all_frames_of_every_turn_and_sends_them() {
    for burst in [1, 5, 32, 64] {
        let (mut players, _) = players::all(burst, 256).unwrap();
        for player in &mut players {
            for _ in 0..20 {
                // Fails if the turn before left anything.
                player.supply().unwrap();
                player.drain();
            }
            player.supply().unwrap();
        }
    }
}

#[test]
fn a_copy_touches_the_frames_that_it_says_it_touches() {
    for variant in VARIANTS {
        for burst in [1, 5, 32] {
            let mut model = Model::new(variant.parts, burst, 256, 4096).unwrap();
            let mut expected = model.mark_frames();
            for turn in 0..30 {
                model.supply(128).unwrap();
                for start in model.waiting() {
                    if has(variant.parts, WRITING) {
                        expected[start..start + 12].rotate_left(6);
                    }
                }
                (variant.forward)(&mut model, 128);
                let what = format!("{}, burst {burst}, turn {turn}", variant.left_out);
                assert!(model.frames() == expected, "{what}: other frames were written to");
                model.check_sent(128, &what);
            }
        }
    }
}

#[test]
fn no_buffer_of_a_copy_is_in_two_places_and_none_is_lost() {
    for variant in VARIANTS
        .iter()
        .filter(|variant| has(variant.parts, RX_RECORD) && has(variant.parts, TX_RECORD))
    {
        let mut model = Model::new(variant.parts, 32, 256, 4096).unwrap();
        for _ in 0..50 {
            model.supply(128).unwrap();
            (variant.forward)(&mut model, 128);
            let mut all = model.buffers();
            let before = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!((all.len(), before), (1024, 1024), "{}", variant.left_out);
        }
    }
}

#[test]
fn instructions_of_a_copy_repeat_and_leaving_out_takes_none_more() {
    let count_of = |variant: &players::Variant| {
        let mut model = Model::new(variant.parts, 32, 256, 4096).unwrap();
        // What circulates has settled by then.
        for _ in 0..36 {
            model.supply(128).unwrap();
            (variant.forward)(&mut model, 128);
        }
        model.supply(128).unwrap();
        step::count(|| (variant.forward)(&mut model, 128)).map(|((), count)| count)
    };
    let counts: Result<Vec<u64>, _> = VARIANTS.iter().map(count_of).collect();
    let counts = match counts {
        Ok(counts) => counts,
        Err(why) => {
            println!("SKIP instructions_of_a_copy_repeat_and_leaving_out_takes_none_more: {why}");
            return;
        }
    };
    let again: Vec<u64> = VARIANTS
        .iter()
        .map(|variant| count_of(variant).unwrap())
        .collect();
    assert_eq!(counts, again);
    for (variant, count) in VARIANTS.iter().zip(&counts) {
        assert!(
            *count <= counts[0] + counts[0] / 20,
            "{}: {count} of {}",
            variant.left_out,
            counts[0]
        );
    }
}
