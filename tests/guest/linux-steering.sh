# Which queue a frame lands on: ATR, RSS with the key and the table that ethtool prints, and ntuple rules.

# One line a queue: its number and how many frames it took.
queues_now() { ethtool -S eth0 | sed -n 's/^ *rx_queue_\([0-9]*\)_packets: /\1 /p'; }
rss_key() { ethtool -x eth0 | grep -A 1 'RSS hash key' | tail -n 1; }
rss_table() { ethtool -x eth0 | awk '/^ *[0-9]+:/ { for (i = 2; i <= NF; i++) printf "%s,", $i }'; }

# queues_took "QUEUE:COUNT ...": whether, since /tmp/before was written, these queues took that many frames and no other
# took any. A few more are the network's own (neighbour discovery); flows are of at least 10 frames.
queues_took() {
    queues_now > /tmp/after
    WRONG=$(awk -v want="$1" '
        BEGIN { n = split(want, pairs, " "); for (i = 1; i <= n; i++) { split(pairs[i], p, ":"); wanted[p[1]] = p[2] } }
        NR == FNR { before[$1] = $2; next }
        { took = $2 - before[$1]; if (took < wanted[$1] + 0 || took > wanted[$1] + 6) printf "queue %s took %d, not %d; ", $1, took, wanted[$1] }
    ' /tmp/before /tmp/after)
    [ -z "$WRONG" ]
}

# lands_as_predicted FIELDS FRAMES...: the far end computes where each frame belongs.
lands_as_predicted() {
    queues_now > /tmp/before
    ask rss "$(rss_key)" "$(rss_table)" "$@" || { fail "$ANSWER"; return 1; }
    [ "$ANSWER" != "${ANSWER#* }" ] || [ "$ONE_QUEUE" = 1 ] || { fail "all flows on queue $ANSWER prove nothing"; return 1; }
    wait_for 5 queues_took "$ANSWER" || { fail "$* with $(rss_table | cut -c 1-16)...: $WRONG"; return 1; }
}

# settle COMMAND...: a change that may restart the port.
settle() {
    "$@" > /tmp/settle 2>&1 || { fail "$*: $(tr '\n' ' ' < /tmp/settle)"; return 1; }
    wait_for 15 carrier_is_up || { fail "no carrier after $*"; return 1; }
}

TCP4="proto=tcp4 flows=48 each=10"

# compat: ATR: signature filters that the driver sets for what it sends match what comes back
scenario_atr_matches_what_comes_back() {
    settle ethtool -L eth0 combined 4 || return
    settle ethtool -K eth0 ntuple off || return
    _before=$(stat fdir_match)
    _got=$(push 10)
    [ "$_got" = "$ZERO10" ] || { fail "to the peer: hash '$_got', expected $ZERO10"; return; }
    _matched=$(($(stat fdir_match) - _before))
    [ $_matched -ge 50 ] || fail "of the acknowledgements of 10 MB $_matched matched a filter"
}

# compat: RSS: TCP over IPv4 and IPv6 land where Toeplitz and the table say
scenario_rss_lands_where_toeplitz_says() {
    settle ethtool -L eth0 combined 4 || return
    settle ethtool -K eth0 ntuple on || return
    sleep 1
    ethtool -x eth0 > /tmp/rss 2>&1 || { fail "ethtool -x: $(tr '\n' ' ' < /tmp/rss)"; return; }
    lands_as_predicted ports $TCP4 || return
    lands_as_predicted ports proto=tcp6 flows=48 each=10
}

# compat: RSS: UDP by addresses, and by ports where `rx-flow-hash` says so
scenario_rss_hash_fields_of_udp() {
    # The key is the kernel's own choice, and few addresses may well share a queue under it.
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 vary=addr src=10.55.0.100 flows=24 each=10 || return
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 flows=24 each=10 || return
    settle ethtool -N eth0 rx-flow-hash udp4 sdfn || return
    lands_as_predicted ports proto=udp4 flows=48 each=10 || return
    settle ethtool -N eth0 rx-flow-hash udp4 sd || return
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 flows=24 each=10
}

# compat: RSS: indirection table (`-X equal`, `weight`, `default`)
scenario_rss_indirection_table() {
    settle ethtool -X eth0 weight 1 0 0 3 || return
    [ "$(rss_table | tr ',' '\n' | sort | uniq -c | tr -s ' \n' ' ')" = " 32 0 96 3 " ] || { fail "weight 1 0 0 3 reads back as $(rss_table)"; return; }
    lands_as_predicted ports $TCP4 || return
    settle ethtool -X eth0 equal 2 || return
    # Under one in 64 of the keys that the kernel may choose, all these ports share one of two queues.
    ONE_QUEUE=1 lands_as_predicted ports $TCP4 || return
    settle ethtool -X eth0 default || return
    lands_as_predicted ports $TCP4
}

# compat: RSS: hash key (`-X hkey`)
scenario_rss_hash_key() {
    _old=$(rss_key)
    _key=$(awk 'BEGIN { srand(82599); for (i = 0; i < 40; i++) printf "%s%02x", (i ? ":" : ""), int(rand() * 256) }')
    settle ethtool -X eth0 hkey "$_key" || return
    [ "$(rss_key)" = "$_key" ] || { fail "the key reads back as $(rss_key)"; return; }
    lands_as_predicted ports $TCP4 || return
    settle ethtool -X eth0 hkey "$_old" || return
    lands_as_predicted ports $TCP4
}

# rule ARGUMENTS...: adds an ntuple rule; its number is in $RULE.
rule() {
    ethtool -N eth0 "$@" > /tmp/rule 2>&1 || { fail "ethtool -N $*: $(tr '\n' ' ' < /tmp/rule)"; return 1; }
    RULE=$(sed -n 's/^Added rule with ID //p' /tmp/rule)
    ethtool -n eth0 2>/dev/null | grep -q "^Filter: $RULE" || { fail "ethtool -n does not list rule $RULE"; return 1; }
}

# steered FRAMES-COUNT-PAIRS FRAMES...: sends and looks where they went.
steered() {
    _where=$1; shift
    queues_now > /tmp/before
    ask send "$@" || { fail "$ANSWER"; return 1; }
    if [ -n "$_where" ]; then
        wait_for 5 queues_took "$_where" || { fail "$*: $WRONG"; return 1; }
    else
        sleep 1
        queues_took "" || { fail "$* were not dropped: $WRONG"; return 1; }
    fi
}

# compat: ntuple rules steer to a queue, are listed and deleted
scenario_ntuple_rules_steer() {
    rule flow-type tcp4 dst-port 443 action 2 || return
    _first=$RULE
    steered 2:240 proto=tcp4 dport=443 flows=24 each=10 || return
    rule flow-type tcp4 dst-port 444 action 3 || return
    steered 3:240 proto=tcp4 dport=444 flows=24 each=10 || return
    # What no rule names goes where RSS says.
    lands_as_predicted ports $TCP4 dport=445 || return
    ethtool -N eth0 delete "$_first" || { fail "delete $_first"; return; }
    ! ethtool -n eth0 2>/dev/null | grep -q "^Filter: $_first" || { fail "rule $_first is still listed"; return; }
    lands_as_predicted ports $TCP4 dport=443 || return
    steered 3:240 proto=tcp4 dport=444 flows=24 each=10 || return
    ethtool -N eth0 delete "$RULE" || fail "delete $RULE"
}

# compat: ntuple rules drop (`action -1`)
scenario_ntuple_rules_drop() {
    rule flow-type udp4 src-ip $PEER4 dst-ip $SELF4 dst-port 666 action -1 || return
    steered "" proto=udp4 dport=666 flows=8 each=10 || return
    queues_now > /tmp/before
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 dport=667 flows=8 each=10 || return
    ethtool -N eth0 delete "$RULE" || { fail "delete $RULE"; return; }
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 dport=666 flows=8 each=10
}

# compat: ntuple rules match a whole five-tuple
scenario_ntuple_rule_for_one_flow() {
    rule flow-type udp4 src-ip $PEER4 dst-ip $SELF4 src-port 20003 dst-port 5000 action 1 || return
    ONE_QUEUE=1 lands_as_predicted addresses proto=udp4 dport=5000 sport=20004 flows=8 each=10 || return
    steered 1:10 proto=udp4 dport=5000 sport=20003 each=10 || return
    ethtool -N eth0 delete "$RULE" || fail "delete $RULE"
}
