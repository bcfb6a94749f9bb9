# Linux's own ixgbe on the model. eth0 is the port; modules are loaded by init.
carrier_is_up() { [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ]; }

# Lines that the driver itself prints as a warning or an error.
# (That hashing UDP by ports may reorder fragments is what it says to whoever asks for it.)
driver_complaints() { dmesg -r | grep -E '^<[0-4]>' | grep -iE 'ixgbe|eth0' | grep -v 'enabling UDP RSS' ; }

# compat: Probe, no warning in the kernel log
scenario_probe_without_a_warning() {
    wait_for 10 test -e /sys/class/net/eth0 || { fail "no network interface appeared"; return; }
    _w=$(driver_complaints | head -n 1)
    [ -z "$_w" ] || fail "the driver says: $_w"
}

scenario_mac_address_is_the_models() {
    _mac=$(cat /sys/class/net/eth0/address)
    [ "$_mac" = 52:54:00:82:59:9a ] || fail "address is $_mac"
}

# compat: Link up at 10 Gb/s
scenario_link_comes_up_at_10g() {
    ip link set eth0 up || { fail "ip link set up"; return; }
    wait_for 15 carrier_is_up || { fail "no carrier after 15 s"; return; }
    [ "$(cat /sys/class/net/eth0/speed)" = 10000 ] || fail "speed is $(cat /sys/class/net/eth0/speed)"
}

# compat: Ping over IPv4
scenario_ping_ipv4() {
    ip addr add $SELF4/24 dev eth0
    ping -c 5 -i 0.2 -W 2 $PEER4 > /tmp/ping 2>&1 || { fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"; return; }
    grep -q ' 0% packet loss' /tmp/ping || fail "$(tail -n 2 /tmp/ping | tr '\n' ' ')"
}

# compat: Ping over IPv6
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
    dd if=/dev/zero bs=65536 count=$(($1 * 16)) 2> /dev/null | nc -w 60 $PEER4 5001 | cut -d ' ' -f 1
}
stat() { ethtool -S eth0 | sed -n "s/^ *$1: //p"; }
ZERO10=$(head -c 10485760 /dev/zero | sha256sum | cut -d ' ' -f 1)

# compat: TCP: 100 MB received, checked by hash
scenario_tcp_100_mb_from_the_peer() {
    _got=$(pull 100)
    [ "$_got" = "$HASH100" ] || fail "hash $_got, expected $HASH100"
}

# compat: TCP: 100 MB sent, checked by hash
scenario_tcp_100_mb_to_the_peer() {
    _got=$(push 100)
    [ "$_got" = "$ZERO100" ] || fail "hash '$_got', expected $ZERO100"
}

# compat: Jumbo frames (MTU 9000)
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

# compat: Ring sizes (`-G`)
scenario_ring_sizes_change() {
    ethtool -G eth0 rx 256 tx 128 || { fail "ethtool -G"; return; }
    ethtool -g eth0 | sed -n '/^Current/,$p' | grep -q '^RX:[[:space:]]*256' || { fail "the new size is not reported"; return; }
    wait_for 15 carrier_is_up
    wait_for 5 ping -c 1 -W 1 $PEER4 || { fail "no answer to ping"; return; }
    ethtool -G eth0 rx 512 tx 512
}

# compat: Channels (`-L`)
scenario_channels_change() {
    for _n in 1 2; do
        ethtool -L eth0 combined $_n || { fail "ethtool -L combined $_n"; return; }
        wait_for 15 carrier_is_up
        wait_for 5 ping -c 1 -W 1 $PEER4 || { fail "no answer with $_n channel(s)"; return; }
    done
}

stat() { ethtool -S eth0 | sed -n "s/^ *$1: //p"; }

# counts_now: frames and bytes sent, frames and bytes received, as the port's registers have them (reading them makes the
# driver read the registers).
counts_now() {
    ethtool -S eth0 | awk '{ v[$1] = $2 } END { print v["tx_pkts_nic:"], v["tx_bytes_nic:"], v["rx_pkts_nic:"], v["rx_bytes_nic:"] }'
}

# compat: Statistics equal what was sent
scenario_statistics_equal_what_was_sent() {
    # No address resolution in between. (Busybox's `ip` cannot set neighbours.)
    /opt/ip neigh replace $PEER4 lladdr $PEERMAC dev eth0
    # 14 Ethernet + 20 IP + 8 ICMP + 100 data = 142 bytes a frame, and 4 of FCS, which a port that strips it on receive does
    # not count there. Either side may say something of its own in
    # between (router solicitations, multicast reports), so there are a few tries; a wrong counter is wrong each time.
    for _try in 1 2 3 4; do
        _before=$(counts_now)
        ping -c 50 -i 0.01 -s 100 -q $PEER4 > /dev/null
        _delta=$(echo "$_before $(counts_now)" | awk '{ print $5 - $1, $6 - $2, $7 - $3, $8 - $4 }')
        [ "$_delta" != "50 7300 50 7100" ] || break
        sleep 2
    done
    /opt/ip neigh del $PEER4 dev eth0
    [ "$_delta" = "50 7300 50 7100" ] || fail "sent and received frames and bytes: $_delta, not 50 7300 50 7100"
}
