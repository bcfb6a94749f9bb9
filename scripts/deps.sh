#!/usr/bin/env bash
# Installs what building, testing and the demonstration need. Idempotent; says what it installs and why; starts no
# service. Usage: scripts/deps.sh [--dry-run]
set -euo pipefail

dry_run=0
case "${1:-}" in
    "") ;;
    --dry-run) dry_run=1 ;;
    *) echo "usage: scripts/deps.sh [--dry-run]" >&2; exit 2 ;;
esac

# package|why
needs() {
    cat <<'TXT'
gcc|links Rust programs
libc6-dev|the C library's headers and start files
make|runs the targets of the Makefile
pkg-config|finds hwloc for the hwloc2 crate
libhwloc-dev|core and NUMA placement of workers
clang-19|compiles the XDP programs to BPF bytecode
libbpf-dev|the headers that XDP programs include
iproute2|network namespaces of the demonstration and of the tests
iputils-ping|reachability checks in the tests
tshark|judges the frames we send, in the tests
curl|a request of your own while the demonstration stays up
nginx-light|the HTTP servers behind the balancer in the demonstration
TXT
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

if ! command -v cargo >/dev/null 2>&1; then
    echo "deps: no cargo found; install the Rust toolchain first (https://rustup.rs)" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: no apt-get found; install the packages below by hand, then go on:" >&2
    needs | awk -F'|' '{ printf "  %-16s %s\n", $1, $2 }' >&2
    exit 1
fi

missing=()
while IFS='|' read -r package why; do
    installed "$package" || { missing+=("$package"); printf 'deps: %-16s %s\n' "$package" "$why"; }
done < <(needs)

if [ ${#missing[@]} -eq 0 ]; then
    echo "deps: everything is there"
    exit 0
fi
[ $dry_run -eq 0 ] || { echo "deps: --dry-run, nothing was installed"; exit 0; }

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "deps: installing packages needs root, and there is no sudo; as root run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "deps: asking for root through sudo, to install the packages above"
    as_root=(sudo)
fi

had_nginx=0
for p in nginx nginx-light nginx-full nginx-extras; do installed "$p" && had_nginx=1; done

# A policy-rc.d that says no keeps package scripts from starting services; an existing one is left alone.
policy=/usr/sbin/policy-rc.d
made_policy=0
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
    made_policy=1
fi
cleanup() { [ $made_policy -eq 0 ] || "${as_root[@]}" rm -f $policy; }
trap cleanup EXIT

log=$(mktemp)
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1
}
echo "deps: installing ${#missing[@]} package(s)"
if ! install; then
    # The package lists may be absent or old.
    "${as_root[@]}" apt-get update >"$log" 2>&1 || { tail -n 5 "$log" >&2; echo "deps: apt-get update failed" >&2; exit 1; }
    install || { tail -n 15 "$log" >&2; echo "deps: apt-get install failed" >&2; exit 1; }
fi
rm -f "$log"

# nginx is only used by hand-written configurations in namespaces of ours: it need not start with the machine.
if [ $had_nginx -eq 0 ] && [ -d /run/systemd/system ]; then
    "${as_root[@]}" systemctl disable nginx >/dev/null 2>&1 || true
fi
echo "deps: done"
