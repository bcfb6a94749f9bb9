# Our driver on the kernel's VFIO, with DMA remapping by an emulated IOMMU. Three 82599s: the first two receive many flows
# without end, the second has its ring pages mapped into the guest, the third is plugged into a small site.
nics() {
    for _d in /sys/bus/pci/devices/*; do
        [ "$(cat $_d/vendor):$(cat $_d/device)" = 0x8086:0x10fb ] && basename $_d
    done
}
driver_of() { basename "$(readlink /sys/bus/pci/devices/$1/driver 2>/dev/null)"; }
set -- $(nics)
TRAPPED=$1 MAPPED=$2 SITE=$3

# Linux's driver takes the first one only: its bring-up is long.
echo 0 > /sys/bus/pci/drivers_autoprobe
/sbin/modprobe ixgbe
echo $TRAPPED > /sys/bus/pci/drivers/ixgbe/bind

# Runs a test of driver/tests/kernel_vfio on a device. A test that skips itself here has failed.
vfio_test() {
    MILLRACE_TEST_VFIO=$1 timeout 90 kernel_vfio --exact "$2" --nocapture > /tmp/test.log 2>&1
    _status=$?
    _skip=$(sed -n 's/^SKIP //p' /tmp/test.log)
    [ -z "$_skip" ] || { fail "skipped: $_skip"; return 1; }
    grep -q '1 passed' /tmp/test.log && [ $_status = 0 ] && return 0
    fail "status $_status: $(grep -A 3 panicked /tmp/test.log | tr '\n' ' ' | cut -c 1-300)"
}

scenario_status_names_the_nics_and_the_iommu() {
    millrace-setup status > /tmp/status || { fail "status $?"; return; }
    grep -q '^IOMMU .*on: yes' /tmp/status || { fail "$(grep '^IOMMU' /tmp/status)"; return; }
    [ "$(grep -c '^NIC .*82599ES' /tmp/status)" = 3 ] || { fail "$(grep -c '^NIC' /tmp/status) NICs"; return; }
    grep "^NIC *$TRAPPED " /tmp/status | grep -q 'driver: ixgbe' || fail "$(grep "^NIC *$TRAPPED" /tmp/status)"
}

scenario_setup_sets_hugepages_aside() {
    millrace-setup hugepages 96M > /tmp/setup.log 2>&1 || { fail "$(tail -n 1 /tmp/setup.log)"; return; }
    [ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages)" = 48 ] || fail "$(grep -i hugepages_free /proc/meminfo)"
}

# compat: millrace-setup takes a port from ixgbe and gives it to vfio-pci
scenario_setup_binds_to_vfio_pci() {
    millrace-setup bind --dry-run $TRAPPED > /tmp/setup.log 2>&1 || { fail "dry run: $(tail -n 1 /tmp/setup.log)"; return; }
    [ "$(driver_of $TRAPPED)" = ixgbe ] || { fail "the dry run took the port"; return; }
    millrace-setup bind $TRAPPED $MAPPED $SITE > /tmp/setup.log 2>&1 || { fail "$(tail -n 1 /tmp/setup.log)"; return; }
    for _nic in $TRAPPED $MAPPED $SITE; do
        [ "$(driver_of $_nic)" = vfio-pci ] || { fail "$_nic has driver '$(driver_of $_nic)'"; return; }
    done
}

# compat: configuration space and registers
scenario_configuration_space_and_registers() {
    vfio_test $TRAPPED configuration_space_and_registers_can_be_read_mapped_and_not
}
scenario_accesses_beyond_a_region_are_errors() {
    vfio_test $TRAPPED accesses_beyond_a_region_are_errors
}
# compat: DMA maps outside the IOMMU's reserved ranges
scenario_memory_is_mapped_outside_reserved_ranges() {
    vfio_test $TRAPPED memory_is_mapped_outside_reserved_ranges_and_can_be_taken_back
}
scenario_a_low_memlock_limit_says_what_to_raise() {
    vfio_test $TRAPPED a_low_limit_on_locked_memory_says_what_to_raise
}
# compat: MSI-X vectors through eventfds
scenario_interrupt_vectors() {
    vfio_test $TRAPPED interrupt_vectors_can_be_connected_added_and_disconnected
}
scenario_a_second_opener_hears_that_it_is_busy() {
    vfio_test $TRAPPED a_reset_leaves_the_device_usable_and_a_second_opener_hears_that_it_is_busy
}

# compat: RX and TX on two queues, an interrupt wakes a sleeper
scenario_two_queues_and_a_sleeper() {
    vfio_test $TRAPPED an_82599_forwards_on_two_queues_and_wakes_a_sleeper
}
# compat: buffers on 4 KiB pages
scenario_buffers_on_4_kib_pages() {
    vfio_test $TRAPPED traffic::traffic_flows_with_buffers_on_4_kib_pages
}
# compat: buffers on 2 MiB pages
scenario_buffers_on_hugepages() {
    vfio_test $TRAPPED traffic::traffic_flows_with_buffers_on_hugepages
}
# compat: a queue stops and starts while another runs
scenario_queue_stops_and_starts() {
    vfio_test $TRAPPED traffic::a_queue_stops_and_starts_while_the_other_carries_traffic
}
# compat: reset under traffic
scenario_reset_under_traffic() {
    vfio_test $TRAPPED traffic::a_device_is_reset_under_traffic_and_goes_on
}
# compat: clean start after kill -9 in mid-traffic
scenario_killed_in_mid_traffic() {
    vfio_test $TRAPPED traffic::after_a_process_is_killed_in_mid_traffic_the_next_one_starts_clean
}
# compat: a stray DMA reaches no memory, and the port recovers
scenario_stray_dma() {
    vfio_test $TRAPPED traffic::the_iommu_stops_a_stray_dma_and_the_port_recovers
}

# compat: ring pages mapped: two queues, an interrupt wakes a sleeper
scenario_mapped_two_queues_and_a_sleeper() {
    vfio_test $MAPPED an_82599_forwards_on_two_queues_and_wakes_a_sleeper
}
# compat: ring pages mapped: a queue stops and starts
scenario_mapped_queue_stops_and_starts() {
    vfio_test $MAPPED traffic::a_queue_stops_and_starts_while_the_other_carries_traffic
}
# compat: ring pages mapped: reset under traffic
scenario_mapped_reset_under_traffic() {
    vfio_test $MAPPED traffic::a_device_is_reset_under_traffic_and_goes_on
}
# compat: ring pages mapped: clean start after kill -9
scenario_mapped_killed_in_mid_traffic() {
    vfio_test $MAPPED traffic::after_a_process_is_killed_in_mid_traffic_the_next_one_starts_clean
}
# compat: ring pages mapped: a stray DMA reaches no memory
scenario_mapped_stray_dma() {
    vfio_test $MAPPED traffic::the_iommu_stops_a_stray_dma_and_the_port_recovers
}

start_l4lb() {
    millrace-l4lb --config /etc/l4lb.toml --device vfio:$SITE --queues 2 --no-pin \
        --exception-tap mrlb0 --tap-address $BALANCER/24 > /tmp/l4lb.log 2>&1 &
    L4LB=$!
    wait_for 60 sh -c "! kill -0 $L4LB || millrace-l4lb status | grep -qw up"
    kill -0 $L4LB 2>/dev/null && millrace-l4lb status | grep -qw up && return 0
    fail "no backend came up: $(tail -n 2 /tmp/l4lb.log | tr '\n' ' ')"
}

# compat: millrace-l4lb serves HTTP
scenario_l4lb_serves_http() {
    ip link set lo up
    /sbin/modprobe tun
    start_l4lb || return
    ask get 40 || fail "40 requests to the VIP: $ANSWER"
}

# compat: millrace-l4lb is killed with SIGKILL and starts again
scenario_l4lb_comes_back_after_kill_9() {
    kill -9 $L4LB
    wait $L4LB 2>/dev/null
    start_l4lb || return
    ask get 40 || { fail "40 requests to the VIP: $ANSWER"; return; }
    kill -TERM $L4LB
    wait $L4LB || fail "status $? after SIGTERM: $(tail -n 1 /tmp/l4lb.log)"
}

# compat: millrace-setup gives a port back to ixgbe
scenario_setup_unbinds() {
    millrace-setup unbind $TRAPPED > /tmp/setup.log 2>&1 || { fail "$(tail -n 1 /tmp/setup.log)"; return; }
    [ "$(driver_of $TRAPPED)" = ixgbe ] || { fail "driver '$(driver_of $TRAPPED)'"; return; }
    wait_for 10 test -e /sys/bus/pci/devices/$TRAPPED/net || fail "no interface appeared"
}

# compat: millrace-setup undo leaves everything as it was
scenario_setup_undoes_the_rest() {
    millrace-setup undo > /tmp/setup.log 2>&1 || { fail "$(tail -n 1 /tmp/setup.log)"; return; }
    [ "$(driver_of $TRAPPED)" = ixgbe ] || { fail "$TRAPPED has driver '$(driver_of $TRAPPED)'"; return; }
    for _nic in $MAPPED $SITE; do
        [ -z "$(driver_of $_nic)" ] || { fail "$_nic has driver '$(driver_of $_nic)'"; return; }
    done
    [ "$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)" = 0 ] || { fail "hugepages stay"; return; }
    millrace-setup status | grep -q '^to undo *0$' || fail "$(millrace-setup status | grep '^to undo')"
}

scenario_no_complaint_in_the_kernel_log() {
    # (What 6.1 has to say of the emulated IOMMU as such is not about us.)
    _w=$(dmesg -r | grep -E '^<[0-4]>' | grep -iE 'vfio|ixgbe|DMAR' | grep -vE 'DMAR: .*(firmware|Scalable Mode)' | head -n 1)
    [ -z "$_w" ] || fail "$_w"
}
