# What comes last: it takes the port down and the driver out.
# compat: Register dump (`-d`)
scenario_register_dump() {
    ethtool -d eth0 > /tmp/regs 2>&1 || { fail "ethtool -d"; return; }
    grep -q 'LINKS (Link Status register).*0x[0-9A-Fa-f]*' /tmp/regs || fail "no LINKS in the dump: $(head -n 3 /tmp/regs | tr '\n' ' ')"
}

# compat: Offline self-test (`-t`)
scenario_offline_self_test() {
    ethtool -t eth0 offline > /tmp/selftest 2>&1
    grep -q 'The test result is PASS' /tmp/selftest || { fail "$(tr '\n' ' ' < /tmp/selftest)"; return; }
    wait_for 15 carrier_is_up || fail "no carrier afterwards"
}

# compat: Interface down and up, 10 times (50 in the soak test)
scenario_interface_flaps() {
    _flaps=$([ "$SOAK" = 1 ] && echo 50 || echo 10)
    while [ $_flaps -gt 0 ]; do
        ip link set eth0 down; ip link set eth0 up
        wait_for 15 carrier_is_up || { fail "no carrier, $_flaps flaps to go"; return; }
        _flaps=$((_flaps - 1))
    done
    wait_for 5 ping -c 1 -W 1 $PEER4 || fail "no answer to ping"
}

# compat: Driver unloads and loads again
scenario_driver_unloads_and_loads_again() {
    rmmod ixgbe || { fail "rmmod"; return; }
    [ ! -e /sys/class/net/eth0 ] || { fail "eth0 is still there"; return; }
    insmod /modules/ixgbe.ko || { fail "insmod"; return; }
    ip link set eth0 up
    wait_for 15 carrier_is_up || { fail "no carrier after 15 s"; return; }
    ip addr add $SELF4/24 dev eth0
    wait_for 5 ping -c 1 -W 1 $PEER4 || fail "no answer to ping"
}

# compat: No warning or error from the driver in the kernel log at the end
scenario_no_complaint_in_the_kernel_log() {
    _w=$(driver_complaints | head -n 1)
    [ -z "$_w" ] || fail "the driver says: $_w"
}
