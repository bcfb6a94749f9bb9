/* Takes only frames with a tag that the NIC stripped; where queues tell no tag, all. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <millrace_meta.h>

SEC("xdp")
int tag(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);

	if (m && millrace_has(m, vlan_tci) && !(m->valid & MILLRACE_VALID_VLAN_TCI))
		return XDP_DROP;
	return XDP_PASS;
}

char _license[] SEC("license") = "MIT";
