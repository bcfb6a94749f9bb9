// Uses the struct of the queue's metadata without asking.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <millrace_meta.h>

/* Does not ask whether the field is there. */
SEC("xdp")
int careless(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);

	return m && m->mark == 7 ? XDP_DROP : XDP_PASS;
}

/* Nor whether there is a struct. */
SEC("xdp")
int headlong(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = (void *)(long)ctx->data_meta;

	return (void *)(m + 1) <= (void *)(long)ctx->data && m->rx_hash == 7 ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
