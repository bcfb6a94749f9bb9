# DPDK's testpmd on four 82599s: 0 receives 64 UDP flows without end, 1 receives nothing and what it sends is recorded
# on the host, 2 receives $FINITE frames and no more, 3 receives TCP in VLAN 5 without end.
NICS=
for _d in /sys/bus/pci/devices/*; do
    [ "$(cat $_d/vendor):$(cat $_d/device)" = 0x8086:0x10fb ] || continue
    NICS="$NICS $(basename $_d)"
    echo vfio-pci > $_d/driver_override
    basename $_d > /sys/bus/pci/drivers_probe
done
echo 64 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
mkdir -p /dev/hugepages
mount -t hugetlbfs none /dev/hugepages

# testpmd PORTS [EAL OPTION...]: starts it on the first so many ports, all stopped. What it says is in /tmp/pmd.
testpmd() {
    rm -f /tmp/in /tmp/pmd
    mkfifo /tmp/in
    _allow= PORTS=$1
    for _nic in $(echo $NICS | cut -d ' ' -f 1-$1); do _allow="$_allow -a $_nic"; done
    shift
    # Written line by line, so that what a command says is there when the next prompt is.
    LD_PRELOAD=libstdbuf.so _STDBUF_O=L dpdk-testpmd -l 0,1 -m 96 --no-telemetry -d librte_mempool_ring.so.25 $_allow --log-level=pmd.net.ixgbe.init:debug "$@" \
        -- -i --disable-device-start --rss-udp --nb-cores=1 --total-num-mbufs=16000 --rxd=512 --txd=512 < /tmp/in >> /tmp/pmd 2>&1 &
    PMD=$!
    exec 4> /tmp/in
    is_there() { grep -q 'testpmd> ' /tmp/pmd || ! kill -0 $PMD; }
    wait_for 120 is_there
    grep -q 'testpmd> ' /tmp/pmd && return 0
    fail "testpmd does not start: $(tail -n 3 /tmp/pmd | tr '\n' ' ')"
}

# pmd COMMAND...: one command of testpmd's; what it says is in /tmp/said. False when it does not come back.
pmd() {
    local _size=$(wc -c < /tmp/pmd)
    # In the log it shows where testpmd was when it hung.
    case $1 in show) ;; *) echo "@@ LOG testpmd: $*" ;; esac
    echo "$*" >&4
    # What the driver logs meanwhile may tear the prompt: most of its end will do, and an empty line asks for another.
    prompted() { tail -c +$((_size + 1)) /tmp/pmd | grep -qF 'md> '; }
    came_back() { prompted || ! kill -0 $PMD; }
    wait_for 40 came_back || { echo >&4; wait_for 20 came_back; }
    tail -c +$((_size + 1)) /tmp/pmd | tr -d '\r' > /tmp/said
    prompted && kill -0 $PMD 2>/dev/null && return 0
    fail "testpmd does not come back from '$*': $(tail -n 3 /tmp/said | tr '\n' ' ')"
}

# done_without_complaint COMMAND...: the same, for commands that say so when they cannot.
done_without_complaint() {
    pmd "$@" || return 1
    # (With `():` in them: the driver's own log.)
    grep -v '():' /tmp/said | grep -iE 'fail|error|invalid|bad argument|not (support|stopp|start)' > /tmp/bad || return 0
    fail "'$*': $(head -n 1 /tmp/bad)"
}

quit_testpmd() {
    echo quit >&4
    wait_for 60 sh -c "! kill -0 $PMD"
    exec 4>&-
    wait $PMD && return 0
    fail "testpmd ended with $?: $(tail -n 3 /tmp/pmd | tr '\n' ' ')"
}

what_was_said() { tail -n 30 /tmp/pmd | tr -d '\r'; }

# counter PORT NAME: a figure of `show port stats`.
counter() {
    pmd "show port stats $1" || return 1
    COUNTER=$(sed -n "s/.*$2: *\([0-9]*\).*/\1/p" /tmp/said)
}
# xstat PORT NAME: one of `show port xstats`.
xstat() {
    pmd "show port xstats $1" || return 1
    COUNTER=$(sed -n "s/^$2: *//p" /tmp/said)
}
sent_at_least() { counter 1 TX-packets && [ "$COUNTER" -ge $1 ]; }
links_up() { pmd "show port summary all" && [ "$(grep -c 'net_ixgbe .* up ' /tmp/said)" -ge $PORTS ]; }

# Starts every port (testpmd forwards only then) and waits for the links.
start_ports() {
    pmd "port start all" || return 1
    wait_for 20 links_up && return 0
    fail "links: $(grep net_ixgbe /tmp/said | tr '\n' ' ')"
}

# forward MODE RXPORT FRAMES: forwards from a port to port 1 until so many frames have left. What left is in $SENT
# $UNTOUCHED $SWAPPED $TAGGED $WRONG.
forward() {
    ask sent
    counter 1 TX-packets || return 1
    _goal=$((COUNTER + $3))
    pmd "set fwd $1" && pmd "set portlist $2,1" && pmd start || return 1
    wait_for 30 sent_at_least $_goal
    pmd stop || return 1
    cp /tmp/said /tmp/stopped
    ask sent || { fail "$ANSWER"; return 1; }
    _was=$*
    set -- $ANSWER
    SENT=$1 UNTOUCHED=$2 SWAPPED=$3 TAGGED=$4 WRONG=$5
    set -- $_was
    [ "$SENT" -ge $3 ] || { fail "$SENT of $3 frames left in 30 s"; return 1; }
}
io_forwards() {
    forward io 0 ${1:-200} || return
    [ "$UNTOUCHED:$WRONG" = "$SENT:0" ] || fail "of $SENT frames $UNTOUCHED as they came, $WRONG wrong checksums"
}
macswap_forwards() {
    forward macswap 0 200 || return
    [ "$SWAPPED:$WRONG" = "$SENT:0" ] || fail "of $SENT frames $SWAPPED with addresses swapped, $WRONG wrong checksums"
}

# look PORT: receives for a second; a line for each frame, with what the port said about it, is in /tmp/seen.
look() {
    pmd "set fwd rxonly" && pmd "set portlist $1" && pmd start || return 1
    # First what came before: rings and the port's buffer hold seconds of it.
    sleep 1
    local _from=$(wc -c < /tmp/pmd)
    # Prompts that are written among the frames may be torn, and the driver may log something behind the last one.
    echo "set verbose 1" >&4
    sleep 1
    echo "set verbose 0" >&4
    echo stop >&4
    has_stopped() { tail -c +$((_from + 1)) /tmp/pmd | sed -n '/^Done/,$p' | grep -qF 'md> '; }
    wait_for 60 has_stopped || { fail "testpmd does not stop forwarding"; return 1; }
    tail -c +$((_from + 1)) /tmp/pmd | tr -d '\r' | grep -F 'eceive queue=0x' > /tmp/seen
    : > /tmp/pmd
    [ -s /tmp/seen ] || { fail "port $1 received nothing in a second"; return 1; }
}
