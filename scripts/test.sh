#!/usr/bin/env bash
# Runs the workspace's tests, shows one line a test, and ends with what was skipped and why.
set -uo pipefail
mkdir -p target
log=target/test.log
: > "$log"
status=0
# Every crate with a program also has integration tests, so cargo builds the programs, which tests of other crates start.
features=millrace-nic-models/device,millrace-driver/models
cargo test --workspace --no-fail-fast --features "$features" "$@" -- --show-output 2>&1 | tee "$log" |
    grep --line-buffered -E '^(test |SKIP |test result|error|warning: unused|failures:|thread .* panicked|assertion|  left|  right)|Running|FAILED'
status=${PIPESTATUS[0]}
skipped=$(grep -cE '^SKIP ' "$log" || true)
passed=$(awk '/^test result:/ { p += $4 } END { print p + 0 }' "$log")
failed=$(awk '/^test result:/ { f += $6 } END { print f + 0 }' "$log")
if [ "$skipped" -gt 0 ]; then
    echo "Skipped, by name:"
    grep -E '^SKIP ' "$log" | sort -u | sed 's/^/  /'
fi
if [ "$status" -ne 0 ]; then
    echo "Failures in full (also in $log):"
    # What failing tests printed stands between the line `failures:` and the test's result, backtraces aside.
    awk '/^failures:$/ { on = 1 } /^test result:/ { on = 0 } /^error/ || (on && !/^ +([0-9]+:|at) /)' "$log" | head -n 300
fi
echo "$((passed - skipped)) passed, $failed failed, $skipped skipped"
exit "$status"
