# What the port does to tags and checksums, and what comes last.
# compat: VLAN stripping on and off
scenario_vlan_strip() {
    done_without_complaint "vlan set strip off 3" || return
    forward io 3 300 || return
    [ "$TAGGED" = "$SENT" ] || { fail "not stripped: $TAGGED of $SENT tagged"; return; }
    # What a ring still holds was received before.
    pmd "port stop 3" && done_without_complaint "vlan set strip on 3" && start_ports || return
    forward io 3 300 || return
    [ "$TAGGED" = 0 ] || { fail "stripped: $TAGGED of $SENT still tagged"; return; }
    look 3 || return
    _w=$(grep -v 'VLAN tci=0x5 ' /tmp/seen | head -n 1)
    [ -z "$_w" ] || fail "the stripped tag is not reported: $_w"
}

# compat: VLAN filter
scenario_vlan_filter() {
    pmd "port stop 3" && done_without_complaint "vlan set filter on 3" && start_ports || return
    pmd "clear port stats 3" && pmd "set fwd rxonly" && pmd "set portlist 3" && pmd start || return
    sleep 1
    pmd stop || return
    counter 3 RX-packets
    [ "$COUNTER" = 0 ] || { fail "$COUNTER frames of a VLAN that was not asked for"; return; }
    done_without_complaint "rx_vlan add 5 3" && look 3 || return
    done_without_complaint "vlan set filter off 3"
}

# compat: VLAN insertion
scenario_vlan_insert() {
    pmd "port stop 1" && done_without_complaint "tx_vlan set 1 9" && start_ports || return
    # (testpmd's io forwarding asks for no tag.)
    forward macswap 3 300 || return
    [ "$TAGGED:$WRONG" = "$SENT:0" ] || { fail "$TAGGED of $SENT tagged, $WRONG wrong checksums"; return; }
    pmd "port stop 1" && done_without_complaint "tx_vlan reset 1" && start_ports
}

# compat: checksum offload: IPv4, UDP and TCP
scenario_checksum_forwarding() {
    pmd "port stop all" || return
    for _what in ip udp tcp; do done_without_complaint "csum set $_what hw 1" || return; done
    for _port in 0 3; do
        for _what in ipv4 udp tcp; do done_without_complaint "port config $_port rx_offload ${_what}_cksum on" || return; done
    done
    start_ports || return
    for _from in 0 3; do
        forward csum $_from 300 || return
        [ "$WRONG" = 0 ] || { fail "from port $_from: $WRONG of $SENT frames with a wrong checksum"; return; }
        _bad=$(sed -n 's/.*Bad-ipcsum: *\([0-9]*\).*Bad-l4csum: *\([0-9]*\).*/\1\2/p' /tmp/stopped | tr -d '0\n')
        [ -z "$_bad" ] || { fail "the port found bad checksums: $(grep Bad-ipcsum /tmp/stopped | head -n 1)"; return; }
    done
}

# compat: port stop and start
scenario_port_stops_and_starts() {
    for _n in 1 2; do
        pmd "port stop all" && start_ports && io_forwards 200 || return
    done
}

# compat: port reset
scenario_port_reset() {
    pmd "port stop all" && done_without_complaint "port reset 0" && done_without_complaint "port reset 1" || return
    start_ports && io_forwards 200
}

scenario_testpmd_ends_in_good_order() { quit_testpmd; }

scenario_no_complaint_in_the_kernel_log() {
    _w=$(dmesg -r | grep -E '^<[0-4]>' | grep -iE 'vfio|DMAR' | head -n 1)
    [ -z "$_w" ] || fail "$_w"
}
