//! A machine that cannot fetch: every scenario is skipped by name, with what is missing.

use millrace_tests::process::sibling;
use std::process::Command;

#[test]
fn without_registries_the_lab_says_what_it_cannot_fetch_and_skips_by_name() {
    const NAME: &str = "without_registries_the_lab_says_what_it_cannot_fetch_and_skips_by_name";
    let isolated = Command::new("unshare").args(["--net", "true"]).status();
    if !isolated.is_ok_and(|status| status.success()) {
        println!("SKIP {NAME}: needs root for a network namespace without a network");
        return;
    }
    let cache = tempfile::tempdir().expect("a temporary folder");
    let out = Command::new("unshare")
        .arg("--net")
        .arg(sibling("guest-lab").expect("the lab"))
        .args(["--kernel", "6.12"])
        .env("MILLRACE_CACHE", cache.path())
        .output()
        .expect("the lab runs");
    let text = String::from_utf8_lossy(&out.stdout);
    for scenario in [
        "linux-6.12/ixgbe/link_comes_up_at_10g",
        "linux-6.12/ixgbe-mapped/link_comes_up_at_10g",
        "millrace-6.12/ixgbe/two_queues_and_a_sleeper",
        "dpdk-24.11/ixgbe/vector_io",
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("SKIP {scenario}: ")));
        let line = line.unwrap_or_else(|| panic!("no line for {scenario} in:\n{text}"));
        assert!(line.contains("cannot fetch qemu-system-x86"), "{line}");
    }
    // Skipped is neither passed nor failed, for every scenario.
    let skips = text.lines().filter(|line| line.starts_with("SKIP ")).count();
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(last, format!("0 passed, 0 failed, {skips} skipped"), "{text}");
    assert!(out.status.success(), "{text}");
}
