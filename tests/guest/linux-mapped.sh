# With ring pages mapped.

# compat: TCP: 10 MB both ways, checked by hash
scenario_tcp_10_mb_both_ways() {
    _got=$(push 10); _pulled=$(pull 10)
    [ "$_got" = "$ZERO10" ] || { fail "to the peer: hash '$_got', expected $ZERO10"; return; }
    [ "$_pulled" = "$HASH10" ] || fail "from the peer: hash '$_pulled', expected $HASH10"
}
