/* Sends every packet out of another port. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 to = 2;

SEC("xdp")
int away(struct xdp_md *ctx)
{
	(void)ctx;
	return bpf_redirect(to, 0);
}

char _license[] SEC("license") = "MIT";
