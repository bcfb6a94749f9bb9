# Linux's own ixgbe on the model. eth0 is the port; modules are loaded by init.
carrier_is_up() { [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ]; }

# Lines that the driver itself prints as a warning or an error.
driver_complaints() { dmesg -r | grep -E '^<[0-4]>' | grep -iE 'ixgbe|eth0' ; }

scenario_probe_without_a_warning() {
    wait_for 10 test -e /sys/class/net/eth0 || { fail "no network interface appeared"; return; }
    _w=$(driver_complaints | head -n 1)
    [ -z "$_w" ] || fail "the driver says: $_w"
}

scenario_mac_address_is_the_models() {
    _mac=$(cat /sys/class/net/eth0/address)
    [ "$_mac" = 52:54:00:82:59:9a ] || fail "address is $_mac"
}

scenario_link_comes_up_at_10g() {
    ip link set eth0 up || { fail "ip link set up"; return; }
    wait_for 15 carrier_is_up || { fail "no carrier after 15 s"; return; }
    [ "$(cat /sys/class/net/eth0/speed)" = 10000 ] || fail "speed is $(cat /sys/class/net/eth0/speed)"
}

scenario_ping_ipv4() {
    ip addr add $SELF4/24 dev eth0
    ping -c 5 -i 0.2 -W 2 $PEER4 > /tmp/ping 2>&1 || { fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"; return; }
    grep -q ' 0% packet loss' /tmp/ping || fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"
}

scenario_ping_ipv6() {
    ip -6 addr add $SELF6/64 dev eth0 nodad 2>/dev/null || ip -6 addr add $SELF6/64 dev eth0
    sleep 2
    ping -6 -c 5 -i 0.2 -W 2 $PEER6 > /tmp/ping 2>&1 || { fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"; return; }
    grep -q ' 0% packet loss' /tmp/ping || fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"
}

# The peer sends 100 MB (10 MB in the variants) whose SHA-256 is $HASH100 ($HASH10), or answers what it got with its hash.
pull() { # pull MEGABYTES: 5100 serves 100 MB, 5010 serves 10 MB
    nc -w 60 $PEER4 $((5000 + $1)) < /dev/null | sha256sum | cut -d ' ' -f 1
}
push() { # push MEGABYTES
    head -c $(($1 * 1048576)) /dev/zero | nc -w 60 $PEER4 5001 | cut -d ' ' -f 1
}
ZERO10=$(head -c 10485760 /dev/zero | sha256sum | cut -d ' ' -f 1)

scenario_tcp_100_mb_from_the_peer() {
    _got=$(pull 100)
    [ "$_got" = "$HASH100" ] || fail "hash $_got, expected $HASH100"
}

scenario_tcp_100_mb_to_the_peer() {
    _got=$(push 100)
    [ "$_got" = "$ZERO100" ] || fail "hash '$_got', expected $ZERO100"
}

scenario_tcp_with_tso_and_gso_off() {
    ethtool -K eth0 tso off gso off || { fail "ethtool -K"; return; }
    _got=$(push 10)
    ethtool -K eth0 tso on gso on
    [ "$_got" = "$ZERO10" ] || fail "hash '$_got', expected $ZERO10"
}

scenario_tcp_with_checksum_offload_off() {
    ethtool -K eth0 rx off tx off || { fail "ethtool -K"; return; }
    _got=$(push 10); _pulled=$(pull 10)
    ethtool -K eth0 rx on tx on tso on
    [ "$_got" = "$ZERO10" ] || { fail "to the peer: hash '$_got', expected $ZERO10"; return; }
    [ "$_pulled" = "$HASH10" ] || fail "from the peer: hash '$_pulled', expected $HASH10"
}

scenario_jumbo_frames() {
    ip link set eth0 mtu 9000 || { fail "mtu 9000"; return; }
    wait_for 15 carrier_is_up || { fail "no carrier after the change"; return; }
    ping -c 3 -s 8900 -W 2 $PEER4 > /tmp/ping 2>&1 || { fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"; return; }
    _got=$(push 10); _pulled=$(pull 10)
    ip link set eth0 mtu 1500
    wait_for 15 carrier_is_up
    [ "$_got" = "$ZERO10" ] || { fail "to the peer: hash '$_got', expected $ZERO10"; return; }
    [ "$_pulled" = "$HASH10" ] || fail "from the peer: hash '$_pulled', expected $HASH10"
}

scenario_vlan_tags_are_inserted_and_stripped() {
    [ "$PEERVLAN" = 1 ] || { skip "the host's kernel has no VLAN interfaces for the peer"; return; }
    ip link add link eth0 name eth0.5 type vlan id 5 || { fail "no VLAN interface"; return; }
    ip addr add 10.56.0.2/24 dev eth0.5
    ip link set eth0.5 up
    for _k in "rxvlan on txvlan on" "rxvlan off txvlan off"; do
        ethtool -K eth0 $_k
        wait_for 15 carrier_is_up
        wait_for 5 ping -c 1 -W 1 10.56.0.1 || { fail "no answer with $_k"; ip link del eth0.5; return; }
    done
    ethtool -K eth0 rxvlan on txvlan on
    ip link del eth0.5
}

scenario_ring_sizes_change() {
    ethtool -G eth0 rx 256 tx 128 || { fail "ethtool -G"; return; }
    ethtool -g eth0 | sed -n '/^Current/,$p' | grep -q '^RX:[[:space:]]*256' || { fail "the new size is not reported"; return; }
    wait_for 15 carrier_is_up
    wait_for 5 ping -c 1 -W 1 $PEER4 || { fail "no answer to ping"; return; }
    ethtool -G eth0 rx 512 tx 512
}

scenario_channels_change() {
    for _n in 1 2; do
        ethtool -L eth0 combined $_n || { fail "ethtool -L combined $_n"; return; }
        wait_for 15 carrier_is_up
        wait_for 5 ping -c 1 -W 1 $PEER4 || { fail "no answer with $_n channel(s)"; return; }
    done
}

stat() { ethtool -S eth0 | sed -n "s/^ *$1: //p"; }

scenario_statistics_equal_what_was_sent() {
    ip neigh replace $PEER4 lladdr $PEERMAC dev eth0
    sleep 3
    _tx=$(stat tx_pkts_nic); _rx=$(stat rx_pkts_nic); _txb=$(stat tx_bytes_nic); _rxb=$(stat rx_bytes_nic)
    ping -c 50 -i 0.01 -s 100 -q $PEER4 > /dev/null
    # The driver reads the registers every two seconds.
    sleep 3
    _dtx=$(($(stat tx_pkts_nic) - _tx)); _drx=$(($(stat rx_pkts_nic) - _rx)); _dtxb=$(($(stat tx_bytes_nic) - _txb))
    ip neigh del $PEER4 dev eth0
    [ "$_dtx" = 50 ] || { fail "50 frames sent, $_dtx counted"; return; }
    # 14 Ethernet + 20 IP + 8 ICMP + 100 data + 4 FCS
    [ "$_dtxb" = 7300 ] || { fail "7300 bytes sent, $_dtxb counted"; return; }
    [ "$_drx" -ge 50 ] && [ "$_drx" -le 52 ] || fail "50 frames received, $_drx counted"
}

scenario_register_dump() {
    ethtool -d eth0 > /tmp/regs 2>&1 || { fail "ethtool -d"; return; }
    grep -q 'LINKS (Link Status register).*0x[0-9A-Fa-f]*' /tmp/regs || fail "no LINKS in the dump: $(head -n 3 /tmp/regs | tr '\n' ' ')"
}

scenario_offline_self_test() {
    ethtool -t eth0 offline > /tmp/selftest 2>&1
    grep -q 'The test result is PASS' /tmp/selftest || { fail "$(tr '\n' ' ' < /tmp/selftest)"; return; }
    wait_for 15 carrier_is_up || fail "no carrier afterwards"
}

scenario_interface_flaps() {
    _flaps=$([ "$SOAK" = 1 ] && echo 50 || echo 10)
    while [ $_flaps -gt 0 ]; do
        ip link set eth0 down; ip link set eth0 up
        wait_for 15 carrier_is_up || { fail "no carrier, $_flaps flaps to go"; return; }
        _flaps=$((_flaps - 1))
    done
    wait_for 5 ping -c 1 -W 1 $PEER4 || fail "no answer to ping"
}

scenario_driver_unloads_and_loads_again() {
    rmmod ixgbe || { fail "rmmod"; return; }
    [ ! -e /sys/class/net/eth0 ] || { fail "eth0 is still there"; return; }
    insmod /modules/ixgbe.ko || { fail "insmod"; return; }
    ip link set eth0 up
    wait_for 15 carrier_is_up || { fail "no carrier after 15 s"; return; }
    ip addr add $SELF4/24 dev eth0
    wait_for 5 ping -c 1 -W 1 $PEER4 || fail "no answer to ping"
}

scenario_no_complaint_in_the_kernel_log() {
    _w=$(driver_complaints | head -n 1)
    [ -z "$_w" ] || fail "the driver says: $_w"
}
