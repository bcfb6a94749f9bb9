// Asks for the metadata of its frame and writes what it gets over the frame's first words.
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum xdp_rss_hash_type { HASH_NONE };

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash,
				    enum xdp_rss_hash_type *type) __ksym __weak;
extern int bpf_xdp_metadata_rx_timestamp(const struct xdp_md *ctx, __u64 *timestamp) __ksym;
extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym;
extern int bpf_no_such_function(const struct xdp_md *ctx) __ksym __weak;

SEC("xdp")
int hints(struct xdp_md *ctx)
{
	__u64 *out = (void *)(long)ctx->data;
	enum xdp_rss_hash_type type;
	__u64 stamp = 0;
	__u32 hash = 0;
	__u16 tci = 0;
	__be16 proto = 0;
	long err;

	if ((void *)(out + 4) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (!bpf_xdp_metadata_rx_hash || bpf_no_such_function)
		return XDP_ABORTED;
	err = bpf_xdp_metadata_rx_hash(ctx, &hash, &type);
	out[0] = err ? err : hash;
	err = bpf_xdp_metadata_rx_timestamp(ctx, &stamp);
	out[1] = err ? err : stamp;
	err = bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci);
	out[2] = err ? err : tci;
	out[3] = bpf_ntohs(proto);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
