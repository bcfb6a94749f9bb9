# DPDK's testpmd on two 82599s: 0 receives UDP flows without end, 1 receives nothing and what it sends is recorded on the
# host.
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

# testpmd [EAL OPTION...]: starts it with all ports stopped. What it says is in /tmp/pmd.
testpmd() {
    rm -f /tmp/in
    mkfifo /tmp/in
    _allow=
    for _nic in $NICS; do _allow="$_allow -a $_nic"; done
    # Written line by line, so that what a command says is there when the next prompt is.
    LD_PRELOAD=libstdbuf.so _STDBUF_O=L dpdk-testpmd -l 0,1 -m 96 --no-telemetry -d librte_mempool_ring.so.25 $_allow --log-level=pmd.net.ixgbe.init:debug "$@" \
        -- -i --disable-device-start --nb-cores=1 --total-num-mbufs=12000 --rxd=512 --txd=512 < /tmp/in > /tmp/pmd 2>&1 &
    PMD=$!
    exec 4> /tmp/in
    wait_for 120 sh -c "! kill -0 $PMD || grep -q 'testpmd> ' /tmp/pmd"
    grep -q 'testpmd> ' /tmp/pmd
}

# pmd COMMAND...: one command of testpmd's; what it says is in /tmp/said. False when it does not come back.
pmd() {
    _prompts=$(grep -c 'testpmd> ' /tmp/pmd)
    _size=$(wc -c < /tmp/pmd)
    echo "$*" >&4
    wait_for 60 sh -c "! kill -0 $PMD || [ \$(grep -c 'testpmd> ' /tmp/pmd) -gt $_prompts ]"
    tail -c +$((_size + 1)) /tmp/pmd | tr -d '\r' > /tmp/said
    kill -0 $PMD 2>/dev/null && [ $(grep -c 'testpmd> ' /tmp/pmd) -gt $_prompts ] && return 0
    fail "testpmd does not come back from '$*': $(tail -n 3 /tmp/said | tr '\n' ' ')"
}

quit_testpmd() {
    echo quit >&4
    wait_for 60 sh -c "! kill -0 $PMD"
    exec 4>&-
    wait $PMD && return 0
    fail "testpmd ended with $?: $(tail -n 3 /tmp/pmd | tr '\n' ' ')"
}

# counter PORT NAME: a figure of `show port stats`.
counter() {
    pmd "show port stats $1" || return 1
    COUNTER=$(sed -n "s/.*$2: *\([0-9]*\).*/\1/p" /tmp/said)
}
sent_at_least() { counter 1 TX-packets && [ "$COUNTER" -ge $1 ]; }
links_up() { pmd "show port summary all" && [ "$(grep -c 'net_ixgbe .* up ' /tmp/said)" -ge $1 ]; }

# Starts every port (testpmd forwards only then) and waits for the links.
start_ports() {
    pmd "port start all" || return 1
    wait_for 20 links_up $(echo $NICS | wc -w) && return 0
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
    forward io 0 1000 || return
    [ "$UNTOUCHED:$WRONG" = "$SENT:0" ] || fail "of $SENT frames $UNTOUCHED as they came, $WRONG wrong checksums"
}
macswap_forwards() {
    forward macswap 0 1000 || return
    [ "$SWAPPED:$WRONG" = "$SENT:0" ] || fail "of $SENT frames $SWAPPED with addresses swapped, $WRONG wrong checksums"
}

# compat: probe on vfio-pci
scenario_testpmd_probes_two_ports() {
    testpmd --force-max-simd-bitwidth=64 || { fail "$(tail -n 3 /tmp/pmd | tr '\n' ' ')"; return; }
    pmd "show port summary all" || return
    [ "$(grep -c 'net_ixgbe' /tmp/said)" = 2 ] || { fail "$(tail -n 6 /tmp/said | tr '\n' ' ')"; return; }
    _w=$(grep -iE 'EAL: (error|cannot|fail)|ixgbe.*(fail|error)' /tmp/pmd | head -n 1)
    [ -z "$_w" ] || fail "$_w"
}

# compat: link at 10 Gb/s
scenario_link_comes_up_at_10g() {
    start_ports || return
    grep -q '10 Gbps' /tmp/said || fail "$(tail -n 6 /tmp/said | tr '\n' ' ')"
}

# compat: scalar paths: io forwarding
scenario_scalar_io() {
    if grep -qE 'Vector (rx|tx) enabled' /tmp/pmd; then fail "the vector path was taken"; return; fi
    io_forwards
}
# compat: scalar paths: macswap forwarding
scenario_scalar_macswap() { macswap_forwards; }

# compat: vector paths: io forwarding
scenario_vector_io() {
    quit_testpmd || return
    testpmd || { fail "$(tail -n 3 /tmp/pmd | tr '\n' ' ')"; return; }
    start_ports || return
    for _path in rx tx; do
        grep -q "Vector $_path enabled" /tmp/pmd || { fail "the vector $_path path was not taken"; return; }
    done
    io_forwards
}
# compat: vector paths: macswap forwarding
scenario_vector_macswap() { macswap_forwards; }

# compat: port stop and start
scenario_port_stops_and_starts() {
    for _n in 1 2; do
        pmd "port stop all" && start_ports || return
        io_forwards || return
    done
}

scenario_testpmd_ends_in_good_order() { quit_testpmd; }

scenario_no_complaint_in_the_kernel_log() {
    _w=$(dmesg -r | grep -E '^<[0-4]>' | grep -iE 'vfio|DMAR' | head -n 1)
    [ -z "$_w" ] || fail "$_w"
}
