/* Reads the frame without asking how long it is. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int careless(struct xdp_md *ctx)
{
	unsigned char *data = (unsigned char *)(long)ctx->data;

	return data[14] == 0x45 ? XDP_PASS : XDP_DROP;
}

SEC("xdp/good")
int careful(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "MIT";
