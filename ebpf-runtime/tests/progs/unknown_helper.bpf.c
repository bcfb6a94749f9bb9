// One program that asks for what this runtime does not have, and one that does not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int passes(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int wants_routes(struct xdp_md *ctx)
{
	struct bpf_fib_lookup params = { .family = 2 };

	return bpf_fib_lookup(ctx, &params, sizeof(params), 0) ? XDP_PASS : XDP_TX;
}

char _license[] SEC("license") = "GPL";
