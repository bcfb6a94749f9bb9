// Reads the struct of the queue's metadata, and asks the kernel functions for the same.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <millrace_meta.h>

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash, __u32 *type) __ksym;
extern int bpf_xdp_metadata_rx_timestamp(const struct xdp_md *ctx, __u64 *timestamp) __ksym;
extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym;
extern int bpf_xdp_metadata_rx_ptype(const struct xdp_md *ctx, __u32 *ptype) __ksym;
extern int bpf_xdp_metadata_rx_mark(const struct xdp_md *ctx, __u32 *mark) __ksym;
extern int bpf_xdp_metadata_rx_csum(const struct xdp_md *ctx, __u32 *status) __ksym;
extern int bpf_xdp_metadata_rx_header_len(const struct xdp_md *ctx, __u32 *len) __ksym;
extern int bpf_xdp_metadata_rx_extracted(const struct xdp_md *ctx, __u32 *word) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, int(void *));
} leaves SEC(".maps");

#define NONE (~0ull)
#define FROM_STRUCT(n, field) out[n] = millrace_has(m, field) ? m->field : NONE

/* Slots 0 to 10 of the frame: the struct's fields; 16 to 24: what the kernel functions say of the same. */
SEC("xdp")
int both(struct xdp_md *ctx)
{
	__u64 *out = (void *)(long)ctx->data;
	struct millrace_rx_meta *m = millrace_meta_of(ctx);
	__u32 a = 0, b = 0;
	__u64 stamp = 0;
	__u16 tci = 0;
	__be16 proto = 0;

	if ((void *)(out + 27) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (!m)
		return XDP_TX;
	FROM_STRUCT(0, rx_hash);
	FROM_STRUCT(1, rx_hash_type);
	FROM_STRUCT(2, rx_timestamp);
	FROM_STRUCT(3, vlan_tci);
	FROM_STRUCT(4, vlan_proto);
	FROM_STRUCT(5, packet_type);
	FROM_STRUCT(6, mark);
	FROM_STRUCT(7, csum_status);
	FROM_STRUCT(8, header_len);
	FROM_STRUCT(9, extracted);
	FROM_STRUCT(10, valid);
	out[16] = bpf_xdp_metadata_rx_hash(ctx, &a, &b) ? NONE : a;
	out[17] = b;
	out[18] = bpf_xdp_metadata_rx_timestamp(ctx, &stamp) ? NONE : stamp;
	out[19] = bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci) ? NONE : tci;
	out[20] = proto;
	out[21] = bpf_xdp_metadata_rx_ptype(ctx, &a) ? NONE : a;
	out[22] = bpf_xdp_metadata_rx_mark(ctx, &a) ? NONE : a;
	out[23] = bpf_xdp_metadata_rx_csum(ctx, &a) ? NONE : a;
	out[24] = bpf_xdp_metadata_rx_header_len(ctx, &a) ? NONE : a;
	out[25] = bpf_xdp_metadata_rx_extracted(ctx, &a) ? NONE : a;
	return XDP_PASS;
}

/* The struct moves along with the head, and stays where it is when the program puts something before it. */
SEC("xdp")
int moves(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);
	__u32 *mine, *out;
	__u32 hash;

	if (!m || !millrace_has(m, rx_hash))
		return XDP_TX;
	hash = m->rx_hash;
	if (bpf_xdp_adjust_head(ctx, -8))
		return XDP_ABORTED;
	m = millrace_meta_of(ctx);
	if (!m || m->rx_hash != hash)
		return XDP_DROP;
	if (bpf_xdp_adjust_meta(ctx, -4))
		return XDP_ABORTED;
	mine = (void *)(long)ctx->data_meta;
	m = (void *)(mine + 1);
	out = (void *)(long)ctx->data;
	if ((void *)m + bpf_core_type_size(struct millrace_rx_meta) > (void *)out || m->rx_hash != hash)
		return XDP_DROP;
	*mine = 0x11223344;
	return XDP_PASS;
}

/* Only what it calls as its tail reads the struct. */
SEC("xdp")
int root(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &leaves, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int leaf(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);
	__u32 *out = (void *)(long)ctx->data;

	if ((void *)(out + 1) > (void *)(long)ctx->data_end || !m || !millrace_has(m, rx_hash))
		return XDP_DROP;
	*out = m->rx_hash;
	return XDP_PASS;
}

/* A declaration of its own: another order, another size, a comparison field by field. */
struct millrace_rx_meta___mine {
	__u64 rx_hash;
	struct {
		__u16 vlan_tci;
	};
} __attribute__((preserve_access_index));

SEC("xdp")
int flavour(struct xdp_md *ctx)
{
	struct millrace_rx_meta___mine *m = (void *)(long)ctx->data_meta;
	void *data = (void *)(long)ctx->data;
	__u64 *out = data;

	if ((void *)(out + 4) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (!bpf_core_type_exists(struct millrace_rx_meta___mine) || (void *)(&m->rx_hash + 1) > data)
		return XDP_TX;
	out[0] = m->rx_hash;
	out[1] = bpf_core_field_size(m->rx_hash);
	out[2] = BPF_CORE_READ_BITFIELD(m, rx_hash);
	out[3] = bpf_core_field_offset(m->rx_hash);
	return XDP_PASS;
}

/* Reads nothing of it. */
SEC("xdp")
int plain(struct xdp_md *ctx)
{
	void *meta = (void *)(long)ctx->data_meta, *data = (void *)(long)ctx->data;

	return meta == data ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
