#!/usr/bin/env bash
# Instructions a packet against the committed baseline. Where the baseline does not know this compiler or profile, the
# commit before is built and measured instead (the last commit, if there are changes that are not committed).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO:-cargo}
baseline=apps/millrace-bench/baseline.json
# What the bench ends with when the baseline has no counts of such a build.
unknown=3
cd "$root"

gate() { "$cargo" run -q --release -p millrace-bench -- path --gate "$1"; }

code=0
gate "$baseline" || code=$?
[ $code -eq $unknown ] || exit $code

if git diff --quiet HEAD -- 2>/dev/null; then before=HEAD^; else before=HEAD; fi
if ! commit=$(git rev-parse -q --verify "$before^{commit}" 2>/dev/null); then
    echo "gate: there is no commit before this one to compare with; only the limits were judged"
    exit 0
fi
work=$(mktemp -d)
cleanup() { git worktree remove --force "$work/tree" >/dev/null 2>&1 || true; rm -rf "$work"; }
trap cleanup EXIT
git worktree add -q --detach "$work/tree" "$commit"
echo "gate: building and counting $(git log -1 --format='%h (%s)' "$commit") instead"
(cd "$work/tree" && CARGO_TARGET_DIR="$root/target/before" "$cargo" run -q --release -p millrace-bench -- path --write-baseline "$work/before.json")
code=0
gate "$work/before.json" || code=$?
if [ $code -eq $unknown ]; then
    echo "gate: the commit before has no counts either"
    exit 0
fi
exit $code
