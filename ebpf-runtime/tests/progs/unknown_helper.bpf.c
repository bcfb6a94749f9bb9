// One program that asks for what this runtime does not have, and one that does not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int passes(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int wants_node(struct xdp_md *ctx)
{
	return bpf_get_numa_node_id() ? XDP_PASS : XDP_TX;
}

char _license[] SEC("license") = "GPL";
