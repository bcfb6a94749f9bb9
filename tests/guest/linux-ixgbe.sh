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
