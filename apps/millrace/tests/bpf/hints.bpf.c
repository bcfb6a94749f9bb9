/* Notes what the NIC told of each frame, by the last byte of its source address. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum xdp_rss_hash_type { XDP_RSS_TYPE_NONE };

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash, enum xdp_rss_hash_type *type) __ksym;
extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym;
extern int bpf_xdp_metadata_rx_csum(const struct xdp_md *ctx, __u32 *status) __ksym;

struct told {
	__s32 hash_err;
	__u32 hash;
	__u32 type;
	__s32 vlan_err;
	__u32 vlan; /* ethertype << 16 | TCI */
	__u32 ethertype;
	__u32 frames;
	__s32 csum_err;
	__u32 csum;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct told);
	__uint(max_entries, 256);
} notes SEC(".maps");

SEC("xdp")
int hints(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	enum xdp_rss_hash_type type = XDP_RSS_TYPE_NONE;
	struct told *told;
	__be16 proto = 0;
	__u32 hash = 0, csum = 0;
	__u16 tci = 0;
	__u32 key;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	key = eth->h_source[5];
	told = bpf_map_lookup_elem(&notes, &key);
	if (!told)
		return XDP_ABORTED;
	told->hash_err = bpf_xdp_metadata_rx_hash(ctx, &hash, &type);
	told->hash = hash;
	told->type = type;
	told->vlan_err = bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci);
	told->vlan = (__u32)bpf_ntohs(proto) << 16 | tci;
	told->csum_err = bpf_xdp_metadata_rx_csum(ctx, &csum);
	told->csum = csum;
	told->ethertype = bpf_ntohs(eth->h_proto);
	__sync_fetch_and_add(&told->frames, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
