# Sourced by the guest's init before a suite's scenarios. A scenario is a function `scenario_NAME`; it fails by calling
# `fail REASON` (in the function itself, not in a pipe or subshell) and skips by calling `skip REASON`. The comment
# `# compat: FEATURE` above it gives it a row in the compatibility matrix.
PEER4=10.55.0.1
PEER6=fd55::1
SELF4=10.55.0.2
SELF6=fd55::2

fail() { RESULT="FAIL $NAME: $*"; return 1; }
skip() { RESULT="SKIP $NAME: $*"; return 1; }

# Whole seconds since the guest booted.
now() { read -r _uptime _ < /proc/uptime; echo ${_uptime%.*}; }

# wait_for SECONDS COMMAND...: polls until the command succeeds, at least twice. Commands may wait in turn.
wait_for() {
    local _until=$(($(now) + $1)) _once=1
    shift
    while :; do
        "$@" >/dev/null 2>&1 && return 0
        [ $(now) -lt $_until ] || [ -n "$_once" ] || return 1
        _once=
        sleep 0.1
    done
}

# ask WORDS...: a request to the helper at the far end of the wire; its answer is in $ANSWER. Not in a subshell.
ask() {
    if [ -z "$_asked" ]; then
        stty -F /dev/ttyS1 raw -echo || { ANSWER="no second serial line"; return 1; }
        exec 3<> /dev/ttyS1
        _asked=1
    fi
    echo "$*" >&3
    _status=; ANSWER=
    read -t 30 -r _status ANSWER <&3
    [ "$_status" = ok ] && return 0
    ANSWER="the far end says '$_status $ANSWER' to '$1'"
    return 1
}

# counted NAME...: what the model counted under these names since it was last asked for them is in $COUNTED.
counted() {
    ask model "$@" || { fail "$ANSWER"; return 1; }
    COUNTED=$(echo "$ANSWER $_counted" | awk -v n=$# '{ for (i = 1; i <= n; i++) printf "%s%d", (i == 1 ? "" : " "), $i - $(n + i) }')
    _counted=$ANSWER
}

# What else goes to the log when a scenario fails; suites say.
what_was_said() { :; }

run_all() {
    for NAME in "$@"; do
        RESULT="PASS $NAME"
        scenario_$NAME
        echo "@@ $RESULT"
        case "$RESULT" in FAIL*) { what_was_said; dmesg | tail -n 15; } | sed 's/^/@@ LOG /' ;; esac
    done
}
