#!/usr/bin/env bash
# The demonstration. STAY=1 leaves it up at the end; REQUESTS=N changes how many requests are made.
set -euo pipefail
args=(--requests "${REQUESTS:-4000}")
[ "${STAY:-0}" = 0 ] || args+=(--stay)
if [ "$(id -u)" -ne 0 ]; then
    echo "run: asking for root through sudo, to make network namespaces and a tap device"
    exec sudo -- target/demo/main-job "${args[@]}"
fi
exec target/demo/main-job "${args[@]}"
