//! Every boot the lab knows.

use super::dpdk;
use super::fetch::Series;
use super::linux;
use super::scenario::Suite;
use super::vfio;

/// The suites for these kernels, in the order in which they run. `only` keeps the scenarios whose names contain it and
/// those they stand on.
pub fn all(kernels: &[Series], soak: bool, only: Option<&str>) -> Vec<Suite> {
    let mut suites = Vec::new();
    for &series in kernels {
        suites.push((linux::ixgbe(series, soak), &linux::BRING_UP[..]));
        suites.push((linux::ixgbe_mapped(series, soak), &linux::BRING_UP[..]));
        suites.push((vfio::ixgbe(series), &vfio::BRING_UP[..]));
    }
    if kernels.contains(&Series::V6_12) {
        suites.push((dpdk::ixgbe(), &dpdk::BRING_UP[..]));
    }
    suites
        .into_iter()
        .filter_map(|(mut suite, needed)| {
            if let Some(text) = only {
                suite.only(text, needed);
            }
            // With nothing asked for but what the rest stands on, there is no need to boot.
            let asked = only.is_none_or(|text| suite.scenarios.iter().any(|s| s.name.contains(text)));
            asked.then_some(suite)
        })
        .collect()
}
