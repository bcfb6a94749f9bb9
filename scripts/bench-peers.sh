#!/usr/bin/env bash
# Builds the peers of `millrace-bench path` into a folder that git ignores: DPDK's ixgbe burst functions, out of Debian's own
# source package, linked with the libraries of its -dev package. Both are fetched through apt, unpacked and never
# installed; nothing of them is part of this repository. Usage: scripts/bench-peers.sh [DIR]
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/.cache/peers}
shim=$root/apps/millrace-bench/peers/dpdk-ixgbe.c
mkdir -p "$dir"
cd "$dir"
say() { printf 'bench-peers: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

for tool in apt-get dpkg-deb gcc tar xz; do
    command -v $tool >/dev/null 2>&1 || fail "there is no $tool here, so there will be no DPDK rows"
done

# The sources' index is fetched into a folder of its own: the system's lists may have none, and stay as they are.
fetch() {
    mkdir -p lists/partial parts
    : > parts/src.sources
    local file
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] && grep -qi 'debian.org\|URIs:.*debian' "$file" || continue
        sed 's/^Types:.*/Types: deb deb-src/' "$file" > parts/src.sources
        break
    done
    if [ ! -s parts/src.sources ] && [ -e /etc/apt/sources.list ]; then
        sed -n 's/^deb \(.*debian.*\)/deb \1\ndeb-src \1/p' /etc/apt/sources.list > parts/src.list
    fi
    local apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$dir/parts" -o "Dir::State::lists=$dir/lists"
        -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=0)
    say "fetching Debian's source package of dpdk, and libdpdk-dev"
    "${apt[@]}" update >fetch.log 2>&1 || { tail -n 3 fetch.log >&2; fail "apt has no lists"; }
    "${apt[@]}" source --download-only dpdk >>fetch.log 2>&1 || { tail -n 3 fetch.log >&2; fail "apt has no source package of dpdk"; }
    "${apt[@]}" download libdpdk-dev >>fetch.log 2>&1 || { tail -n 3 fetch.log >&2; fail "apt has no libdpdk-dev"; }
    rm -rf src dev
    mkdir src dev
    tar -xf dpdk_*.orig.tar.* -C src --strip-components=1
    dpkg-deb -x libdpdk-dev_*.deb dev
    # What says that fetching is done comes last.
    touch fetched
}
[ -e fetched ] || fetch

triplet=$(gcc -dumpmachine)
lib=dev/usr/lib/$triplet
[ -e "$lib/librte_eal.a" ] || lib=$(dirname "$(find dev -name librte_eal.a | head -n 1)")
config=$(dirname "$(find dev -name rte_build_config.h | head -n 1)")
net=src/drivers/net/ixgbe
# The packaged headers expect libbsd's.
echo '#undef RTE_USE_LIBBSD' > plain.h
flags=(-O3 -march=native -ffunction-sections -fdata-sections -w -DALLOW_EXPERIMENTAL_API -DALLOW_INTERNAL_API
    -include "$config/rte_config.h" -include plain.h
    -I"$config" -Idev/usr/include/dpdk -I$net -I$net/base -Isrc/lib/ethdev -Isrc/lib/security -Isrc/drivers/bus/pci -Isrc/lib/pci
    -Isrc/lib/eal/include)
for file in ixgbe_rxtx ixgbe_rxtx_vec_sse; do
    gcc "${flags[@]}" -c $net/$file.c -o $file.o
done
gcc "${flags[@]}" -c "$shim" -o shim.o
gcc -Wl,--gc-sections -o dpdk-ixgbe.new shim.o ixgbe_rxtx.o ixgbe_rxtx_vec_sse.o \
    -Wl,--whole-archive "$lib/librte_mempool_ring.a" -Wl,--no-whole-archive \
    -Wl,--start-group "$lib"/librte_{mbuf,mempool,ring,eal,kvargs,telemetry}.a -Wl,--end-group -lpthread -ldl -lm
mv dpdk-ixgbe.new dpdk-ixgbe
say "$dir/dpdk-ixgbe is built, of $(basename dpdk_*.dsc .dsc)"
