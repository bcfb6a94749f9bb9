// SPDX-License-Identifier: MIT
/* What a backend behind IPIP or IP6IP6 does: takes the outer header off. Attached to the backend's interface in generic
 * mode by `ip link set dev IF xdpgeneric obj FILE sec xdp`, because the kernels we test on have no tunnel modules. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int decap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data, mac;
	int outer;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	mac = *eth;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_IPIP || ip->ihl != 5)
			return XDP_PASS;
		outer = sizeof(*ip);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_IPV6)
			return XDP_PASS;
		outer = sizeof(*ip);
	} else {
		return XDP_PASS;
	}
	if (bpf_xdp_adjust_head(ctx, outer))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	*eth = mac;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
