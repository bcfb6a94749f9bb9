# VLANs. The far end sends frames with tags and counts the answers that carry the same tag, so that no kernel but the
# guest's has a part in it.
VLAN5="proto=icmp4 src=10.56.0.1 dst=10.56.0.2 vlan=5 each=20"

vlan_up() { # vlan_up ID
    ip link add link eth0 name eth0.$1 type vlan id $1 || { fail "no VLAN interface $1"; return 1; }
    ip link set eth0.$1 up
}

# compat: VLAN: ping through a tagged interface, tags stripped and inserted by the port or by the kernel
scenario_vlan_ping_with_offloads_on_and_off() {
    vlan_up 5 || return
    ip addr add 10.56.0.2/24 dev eth0.5
    for _set in "on on" "off off" "on off" "off on"; do
        _rx=${_set% *}; _tx=${_set#* }
        settle ethtool -K eth0 rxvlan $_rx txvlan $_tx || return
        /opt/ip neigh replace 10.56.0.1 lladdr $PEERMAC dev eth0.5
        counted rx_stripped tx_tagged || return
        ask echo $VLAN5 || { fail "$ANSWER"; return; }
        [ "$ANSWER" = 20 ] || { fail "$ANSWER of 20 pings answered with rxvlan $_rx txvlan $_tx"; return; }
        counted rx_stripped tx_tagged || return
        _stripped=${COUNTED% *}; _tagged=${COUNTED#* }
        [ $_rx:$(($_stripped >= 20)) = on:1 ] || [ $_rx:$_stripped = off:0 ] || { fail "rxvlan $_rx: the port stripped $_stripped tags"; return; }
        [ $_tx:$(($_tagged >= 20)) = on:1 ] || [ $_tx:$_tagged = off:0 ] || { fail "txvlan $_tx: the port inserted $_tagged tags"; return; }
    done
    settle ethtool -K eth0 rxvlan on txvlan on
}

# compat: VLAN: frames of a tag that is not configured are filtered
scenario_vlan_filter() {
    rx_now() { cat /sys/class/net/eth0/statistics/rx_packets; }
    _before=$(rx_now)
    ask send proto=icmp4 vlan=6 each=50 || { fail "$ANSWER"; return; }
    sleep 1
    _got=$(($(rx_now) - _before))
    [ $_got -lt 10 ] || { fail "$_got frames of VLAN 6 came in, which is not configured"; return; }
    vlan_up 6 || return
    _before=$(rx_now)
    ask send proto=icmp4 vlan=6 each=50 || { fail "$ANSWER"; return; }
    sleep 1
    _got=$(($(rx_now) - _before))
    [ $_got -ge 50 ] || { fail "$_got of 50 frames of VLAN 6 came in, which is configured"; return; }
    ip link del eth0.6
    _before=$(rx_now)
    ask send proto=icmp4 vlan=6 each=50 || { fail "$ANSWER"; return; }
    sleep 1
    _got=$(($(rx_now) - _before))
    ip link del eth0.5
    [ $_got -lt 10 ] || fail "$_got frames of VLAN 6 came in after it was removed"
}
