# Sourced by the guest's init before a suite's scenarios. A scenario is a function `scenario_NAME`; it fails by calling
# `fail REASON` (in the function itself, not in a pipe or subshell) and skips by calling `skip REASON`.
PEER4=10.55.0.1
PEER6=fd55::1
SELF4=10.55.0.2
SELF6=fd55::2

fail() { RESULT="FAIL $NAME: $*"; return 1; }
skip() { RESULT="SKIP $NAME: $*"; return 1; }

# wait_for SECONDS COMMAND...: polls until the command succeeds.
wait_for() {
    _tries=$(($1 * 10)); shift
    while [ $_tries -gt 0 ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
        _tries=$((_tries - 1))
    done
    return 1
}

run_all() {
    for NAME in "$@"; do
        RESULT="PASS $NAME"
        scenario_$NAME
        echo "@@ $RESULT"
        case "$RESULT" in FAIL*) dmesg | tail -n 15 | sed 's/^/@@ LOG /' ;; esac
    done
}
