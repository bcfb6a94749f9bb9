# Four queues a port, and which of them a frame lands on.
FLOW="eth / ipv4 src is 10.1.0.8 dst is 10.0.0.1 proto is 17 / udp src is 1024 dst is 80 / end"
# The same without the protocol, which a flow director rule takes from the UDP header.
DIRECTED="eth / ipv4 src is 10.1.0.8 dst is 10.0.0.1 / udp src is 1024 dst is 80 / end"
# Rules that drop may not name ports, says DPDK's driver of the 82599.
ADDRESSES="eth / ipv4 src is 10.1.0.8 dst is 10.0.0.1 / end"

# compat: RSS over four queues: each flow's hash and queue as Toeplitz says
scenario_rss_spreads_as_toeplitz_says() {
    pmd "port stop all" || return
    for _what in "rxq 4" "txq 4"; do done_without_complaint "port config all $_what" || return; done
    start_ports || return
    pmd "show port 0 rss-hash key" || return
    KEY=$(grep -ioE '[0-9a-f]{80}' /tmp/said | tail -n 1)
    [ -n "$KEY" ] || { fail "no key: $(tail -n 3 /tmp/said | tr '\n' ' ')"; return; }
    look 0 || return
    _pairs=$(sed -n 's/.*RSS hash=0x\([0-9a-f]*\) - RSS queue=0x\([0-9a-f]*\).*/\1:\2/p' /tmp/seen | sort -u | tr '\n' ' ')
    [ -n "$_pairs" ] || { fail "no frame has a hash: $(head -n 1 /tmp/seen)"; return; }
    ask rss $KEY 4 $_pairs || fail "$ANSWER"
}

# What RSS says of the one flow: its hash is in $HASH, its queue in $QUEUE, and another queue in $OTHER.
one_flow() {
    [ -n "$KEY" ] || { fail "no RSS key"; return 1; }
    ask flow $KEY 4 7 || { fail "$ANSWER"; return 1; }
    HASH=${ANSWER% *} QUEUE=${ANSWER#* }
    OTHER=$(((QUEUE + 1) % 4))
}
create() {
    pmd "flow create 0 ingress pattern $*" || return 1
    RULE=$(sed -n 's/.*Flow rule #\([0-9]*\) created.*/\1/p' /tmp/said)
    [ -n "$RULE" ] || { fail "$(tail -n 3 /tmp/said | tr '\n' ' ')"; return 1; }
}
destroy() { done_without_complaint "flow destroy 0 rule $RULE"; }
# goes_to QUEUE: whether all the flow's frames in /tmp/seen, of which there are some, are on that queue.
goes_to() {
    grep "RSS hash=0x$HASH " /tmp/seen > /tmp/flow || { fail "no frame of the flow with hash $HASH"; return 1; }
    _w=$(grep -v "eceive queue=0x$1" /tmp/flow | head -n 1)
    [ -z "$_w" ] || { fail "not on queue $1: $_w"; return 1; }
}

# compat: flow rule: a five-tuple to a queue
scenario_flow_rule_five_tuple_to_a_queue() {
    one_flow || return
    create "$FLOW actions queue index $OTHER / end" || return
    look 0 && goes_to $OTHER || return
    destroy && look 0 && goes_to $QUEUE
}

# compat: flow rule: flow director steers
scenario_flow_rule_flow_director_steers() {
    one_flow || return
    # A mark makes it flow director's; the driver of 24.11 has the port report none.
    create "$DIRECTED actions queue index $OTHER / mark id 77 / end" || return
    look 0 && goes_to $OTHER || return
    xstat 0 flow_director_matched_filters || return
    [ "${COUNTER:-0}" -ge $(wc -l < /tmp/flow) ] || { fail "$(wc -l < /tmp/flow) frames steered, $COUNTER matches counted"; return; }
    destroy && look 0 && goes_to $QUEUE
}

# compat: flow rule: flow director drops
scenario_flow_rule_drops() {
    one_flow || return
    create "$ADDRESSES actions drop / end" && look 0 || return
    if grep -q "RSS hash=0x$HASH " /tmp/seen; then fail "the flow is still received"; return; fi
    destroy && look 0 && goes_to $QUEUE
}

# compat: a queue of a running port stops and starts, the others go on
scenario_queue_stops_and_starts() {
    for _n in 1 2 3; do
        done_without_complaint "port 0 rxq 2 stop" && look 0 || return
        if grep -q 'eceive queue=0x2' /tmp/seen; then fail "the stopped queue receives"; return; fi
        for _q in 0 1 3; do
            grep -q "eceive queue=0x$_q" /tmp/seen || { fail "queue $_q receives nothing"; return; }
        done
        done_without_complaint "port 0 rxq 2 start" && look 0 || return
        grep -q 'eceive queue=0x2' /tmp/seen || { fail "the restarted queue receives nothing"; return; }
        done_without_complaint "port 1 txq 0 stop" && done_without_complaint "port 1 txq 0 start" || return
        io_forwards 200 || return
    done
}
