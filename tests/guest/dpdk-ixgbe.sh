# The scalar paths first, on two ports: a probe takes its time.
# compat: probe on vfio-pci
scenario_testpmd_probes_two_ports() {
    testpmd 2 --force-max-simd-bitwidth=64 || return
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
    quit_testpmd && testpmd 4 || return
    start_ports || return
    for _path in rx tx; do
        grep -q "Vector $_path enabled" /tmp/pmd || { fail "the vector $_path path was not taken"; return; }
    done
    io_forwards
}
# compat: vector paths: macswap forwarding
scenario_vector_macswap() { macswap_forwards; }

# compat: statistics equal what was sent and what left
scenario_statistics_equal_what_was_sent() {
    # Port 2 has been receiving since it was started; what it could not hold it counts as missed. By default testpmd throws
    # away what a queue holds when it starts to forward.
    pmd "set flush_rx off" || return
    ask sent
    counter 1 TX-packets; _tx=$COUNTER
    counter 1 TX-bytes; _tx_bytes=$COUNTER
    pmd "set fwd io" && pmd "set portlist 2,1" && pmd start || return
    all_came() {
        local _before=$_rx
        counter 2 RX-packets && _rx=$COUNTER
        [ "$_rx" = "$_before" ] && [ $_rx -gt 0 ]
    }
    _rx=0
    wait_for 60 all_came
    all_left() { counter 1 TX-packets && [ $((COUNTER - _tx)) -ge $_rx ]; }
    wait_for 20 all_left
    pmd stop || return
    cp /tmp/said /tmp/stopped
    pmd "set flush_rx on" || return
    # What finds the ring of port 1 full is testpmd's to drop, and to count.
    _dropped=$(sed -n 's/.*TX-dropped: *\([0-9]*\).*/\1/p' /tmp/stopped | tail -n 1)
    counter 2 RX-missed; _missed=$COUNTER
    counter 2 RX-bytes; _bytes=$COUNTER
    counter 2 RX-packets; _rx=$COUNTER
    # Starting a port, the driver clears its counters a moment after frames may come.
    _all=$((_rx + _missed))
    [ $_all -le $FINITE ] && [ $_all -ge $((FINITE - 20)) ] || { fail "$FINITE frames sent, $_rx received and $_missed missed"; return; }
    [ $_bytes = $((_rx * 60)) ] || { fail "$_rx frames of 60 bytes are $_bytes"; return; }
    counter 1 TX-packets; _tx=$((COUNTER - _tx))
    counter 1 TX-bytes; _tx_bytes=$((COUNTER - _tx_bytes))
    [ $((_tx + _dropped)) = $_rx ] || { fail "$_rx received, $_tx sent, $_dropped dropped"; return; }
    [ $_tx_bytes = $((_tx * 60)) ] || { fail "$_tx frames of 60 bytes are $_tx_bytes"; return; }
    ask sent || { fail "$ANSWER"; return; }
    set -- $ANSWER
    [ "$1:$5" = "$_tx:0" ] || fail "$_tx sent; $1 on the wire, $5 with wrong checksums"
}
