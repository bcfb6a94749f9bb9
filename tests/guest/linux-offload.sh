# Offloads, on and off: the transfer is right either way, and the port did the work exactly when it was told to.

# In /proc/net/snmp: TCP segments with a wrong checksum.
kernel_errors() { awk '/^Tcp: [0-9]/ { print $16 }' /proc/net/snmp; }

# Sends 10 MB and leaves in $COUNTED what the model was asked to do meanwhile.
push_counted() {
    counted tx_segmented tx_checksummed || return 1
    _got=$(push 10)
    [ "$_got" = "$ZERO10" ] || { fail "hash '$_got', expected $ZERO10"; return 1; }
    counted tx_segmented tx_checksummed
}

# compat: TSO on and off
scenario_tcp_with_tso_on_and_off() {
    push_counted || return
    [ "${COUNTED% *}" -gt 0 ] || { fail "TSO is on, and the port segmented nothing"; return; }
    ethtool -K eth0 tso off gso off || { fail "ethtool -K"; return; }
    push_counted || return
    _with_off=$COUNTED
    ethtool -K eth0 tso on gso on
    [ "${_with_off% *}" = 0 ] || { fail "TSO is off, and the port segmented ${_with_off% *} frames"; return; }
    # 10 MB in segments of 1448 bytes
    [ "${_with_off#* }" -ge 7000 ] || fail "checksums are offloaded, and the port inserted ${_with_off#* }"
}

# compat: Transmit checksum offload on and off
scenario_tcp_with_transmit_checksums_off() {
    ethtool -K eth0 tx off > /dev/null || { fail "ethtool -K"; return; }
    push_counted || return
    _with_off=$COUNTED
    ethtool -K eth0 tx on tso on > /dev/null
    [ "$_with_off" = "0 0" ] || fail "offloads are off, and the port segmented and checksummed $_with_off"
}

# compat: Receive checksum offload on and off
scenario_tcp_with_receive_checksums_off() {
    for _k in on off; do
        ethtool -K eth0 rx $_k > /dev/null || { fail "ethtool -K"; return; }
        _got=$(pull 10)
        [ "$_got" = "$HASH10" ] || { fail "rx $_k: hash '$_got', expected $HASH10"; return; }
        # TCP, because the driver does not believe this port's word on UDP: silicon takes a UDP checksum of 0 as wrong.
        _seen=$(stat rx_csum_offload_errors); _kernel=$(kernel_errors)
        ask send proto=tcp4 dport=7 bad=l4 each=30 || { fail "$ANSWER"; return; }
        sleep 1
        _seen=$(($(stat rx_csum_offload_errors) - _seen)); _kernel=$(($(kernel_errors) - _kernel))
        [ $_kernel = 30 ] || { fail "rx $_k: the kernel counted $_kernel of 30 wrong checksums"; return; }
        case $_k:$_seen in
            on:30 | off:0) ;;
            *) fail "rx $_k: the driver saw the port report $_seen of 30 wrong checksums"; return ;;
        esac
    done
    ethtool -K eth0 rx on > /dev/null
}
