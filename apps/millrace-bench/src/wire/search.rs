//! Binary searches of RFC 2544: the highest rate, or the longest burst, that loses nothing.

/// What a trial at some load gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// The load was carried.
    pub passed: bool,
    /// How much of it was, in the load's own unit.
    pub carried: f64,
}

/// The highest load up to `most` for which `trial` passes, to within `resolution` (a share of `most`); 0 if none does.
///
/// The first failure says how much got through, and that is tried next: mostly it is close to the answer.
pub fn highest<E>(
    most: f64,
    resolution: f64,
    mut trial: impl FnMut(f64) -> Result<Tried, E>,
) -> Result<f64, E> {
    let step = most * resolution;
    let (mut low, mut high) = (0.0, most);
    let first = trial(most)?;
    if first.passed {
        return Ok(most);
    }
    let mut next = first.carried.clamp(step, most - step);
    while high - low > step {
        if trial(next)?.passed {
            low = next;
        } else {
            high = next;
        }
        next = (low + high) / 2.0;
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A line that carries up to `limit`, and `beyond` of it when it is offered more.
    fn search(most: f64, limit: f64, beyond: f64) -> (f64, usize) {
        let mut trials = 0;
        let found = highest::<Infallible>(most, 0.01, |load| {
            trials += 1;
            let passed = load <= limit;
            let carried = if passed { load } else { limit * beyond };
            Ok(Tried { passed, carried })
        });
        (found.unwrap_or_else(|never| match never {}), trials)
    }

    #[test]
    fn a_line_that_carries_everything_is_found_at_once() {
        assert_eq!(search(1000.0, 1000.0, 1.0), (1000.0, 1));
    }

    #[test]
    fn the_limit_is_found_to_within_the_resolution() {
        for limit in [3.0, 17.0, 250.0, 500.0, 640.0, 999.0] {
            for beyond in [0.2, 0.9, 1.0] {
                let (found, trials) = search(1000.0, limit, beyond);
                assert!(found <= limit && limit - found <= 10.0, "{found} for {limit}");
                assert!(trials <= 12, "{trials} trials for {limit}");
            }
        }
    }

    #[test]
    fn a_line_that_carries_nothing_gives_nothing() {
        assert_eq!(search(1000.0, -1.0, 0.0).0, 0.0);
    }

    #[test]
    fn a_trial_that_cannot_be_run_ends_the_search() {
        assert_eq!(highest(10.0, 0.1, |_| Err("no link")), Err("no link"));
    }
}
