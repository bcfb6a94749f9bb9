/* Reads a time stamp without asking whether queues give one. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <millrace_meta.h>

SEC("xdp")
int stamp(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);

	return m && m->rx_hash && m->rx_timestamp > 1000 ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "MIT";
