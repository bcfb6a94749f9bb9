// Targets of tail calls, good ones and those that a program array does not take.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int good(struct xdp_md *ctx);
int wild(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, int(void *));
} jumps SEC(".maps") = {
	.values = {
		[0] = (void *)&good,
		[1] = (void *)&wild,
	},
};

/* The frame's queue says where to. */
SEC("xdp")
int root(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &jumps, ctx->rx_queue_index);
	return XDP_PASS;
}

SEC("xdp")
int good(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* Reads the frame without asking how long it is. */
SEC("xdp")
int wild(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data;
}

SEC("xdp.frags")
int several(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("socket")
int steers(struct __sk_buff *skb)
{
	return 1;
}

/* Jumps through the array as well, but is of another kind than `root`. */
SEC("xdp.frags")
int several_root(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &jumps, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
