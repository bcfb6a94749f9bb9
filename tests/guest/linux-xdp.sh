# Native XDP in the guest's driver: the object was compiled outside and is attached by iproute2.

# In /proc/net/snmp: datagrams that reached the stack for a port nobody listens on.
no_ports() { awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp; }

# compat: Native XDP: PASS, DROP and TX
scenario_native_xdp_pass_drop_and_tx() {
    [ -z "$NOXDP" ] || { skip "$NOXDP"; return; }
    /opt/ip link set dev eth0 xdpdrv obj /xdp.o sec xdp > /tmp/xdp 2>&1 || { fail "attach: $(tr '\n' ' ' < /tmp/xdp)"; return; }
    wait_for 15 carrier_is_up || { fail "no carrier after the attach"; return; }
    /opt/ip link show dev eth0 | grep -q 'prog/xdp' || { fail "no program is shown"; return; }
    _before=$(no_ports)
    ask send proto=udp4 dport=7000 flows=4 each=25 || { fail "$ANSWER"; return; }
    sleep 1
    _passed=$(($(no_ports) - _before))
    [ $_passed = 100 ] || { fail "XDP_PASS: $_passed of 100 frames reached the stack"; return; }
    _before=$(no_ports); queues_now > /tmp/before
    ask send proto=udp4 dport=7001 flows=4 each=25 || { fail "$ANSWER"; return; }
    sleep 1
    _passed=$(($(no_ports) - _before))
    [ $_passed = 0 ] || { fail "XDP_DROP: $_passed of 100 frames reached the stack"; return; }
    _took=$(queues_now | awk 'NR == FNR { b[$1] = $2; next } { n += $2 - b[$1] } END { print n }' /tmp/before -)
    [ "$_took" -ge 100 ] || { fail "XDP_DROP: only $_took of 100 frames came in at all"; return; }
    _before=$(no_ports)
    ask echo proto=udp4 dport=7002 flows=4 each=25 || { fail "$ANSWER"; return; }
    _back=$ANSWER
    [ "$_back" = 100 ] || { fail "XDP_TX: $_back of 100 frames came back"; return; }
    _passed=$(($(no_ports) - _before))
    [ $_passed = 0 ] || { fail "XDP_TX: $_passed of 100 frames reached the stack"; return; }
    wait_for 5 ping -c 1 -W 1 $PEER4 || { fail "no answer to ping with the program attached"; return; }
    /opt/ip link set dev eth0 xdpdrv off || { fail "detach"; return; }
    wait_for 15 carrier_is_up || { fail "no carrier after the detach"; return; }
    _before=$(no_ports)
    ask send proto=udp4 dport=7001 flows=4 each=25 || { fail "$ANSWER"; return; }
    sleep 1
    _passed=$(($(no_ports) - _before))
    [ $_passed = 100 ] || fail "detached: $_passed of 100 frames reached the stack"
}
