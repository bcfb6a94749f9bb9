// SPDX-License-Identifier: MIT
// For the guest's own driver: UDP over IPv4 to port 7001 is dropped, to 7002 goes back where it came from, all else passes.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))

SEC("xdp")
int by_port(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    struct udphdr *udp = (void *)(ip + 1);

    if ((void *)(udp + 1) > end || eth->h_proto != __builtin_bswap16(ETH_P_IP) || ip->protocol != IPPROTO_UDP || ip->ihl != 5)
        return XDP_PASS;
    if (udp->dest == __builtin_bswap16(7001))
        return XDP_DROP;
    if (udp->dest == __builtin_bswap16(7002)) {
        unsigned char mac[ETH_ALEN];

        __builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
        __builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
        __builtin_memcpy(eth->h_source, mac, ETH_ALEN);
        return XDP_TX;
    }
    return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
