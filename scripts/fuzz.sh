#!/usr/bin/env bash
# Generated programs, many of them: 1,000,000 under the verifier's watch, 50,000 on every engine over 200 frames each,
# 200,000 before the kernel's verifier. Ends with what was counted; docs/verifier.md says what is asked.
set -uo pipefail
mkdir -p target
log=target/fuzz.log
features=millrace-nic-models/device,millrace-driver/models
export MILLRACE_SOAK=1
export MILLRACE_FUZZ_PROGRAMS=${MILLRACE_FUZZ_PROGRAMS:-50000}
export MILLRACE_FUZZ_FRAMES=${MILLRACE_FUZZ_FRAMES:-200}
cargo test --workspace --no-fail-fast --features "$features" --lib --test engines_agree --test kernel_verdicts -- --show-output \
    runs_stay_within generated_programs_do_the_same what_the_kernel_refuses > "$log" 2>&1
status=$?
grep -E '^(test .*(runs_stay|generated_programs|what_the_kernel)|SKIP|Tally|[0-9]+ programs|rbpf:|the kernel accepts|we accept|  [0-9]+|thread|error|seed)' "$log"
exit "$status"
