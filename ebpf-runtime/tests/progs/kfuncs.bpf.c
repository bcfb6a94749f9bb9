// Asks for further metadata and for hashes; writes what it gets over the frame's first words.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int bpf_xdp_metadata_rx_ptype(const struct xdp_md *ctx, __u32 *ptype) __ksym;
extern int bpf_xdp_metadata_rx_mark(const struct xdp_md *ctx, __u32 *mark) __ksym;
extern int bpf_xdp_metadata_rx_csum(const struct xdp_md *ctx, __u32 *status) __ksym;
extern int bpf_xdp_metadata_rx_header_len(const struct xdp_md *ctx, __u32 *len) __ksym;
extern int bpf_xdp_metadata_rx_extracted(const struct xdp_md *ctx, __u32 *word) __ksym;
extern __u32 bpf_rss_hash_toeplitz(const void *data, __u32 data__sz, const void *key, __u32 key__sz) __ksym;
extern __u32 bpf_rss_hash_crc(const void *data, __u32 data__sz, __u32 seed) __ksym;
extern __u32 bpf_rss_hash_xor(const void *data, __u32 data__sz) __ksym;

static const __u8 key[40] = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
	0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
	0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};

SEC("xdp")
int kfuncs(struct xdp_md *ctx)
{
	__u32 *out = (void *)(long)ctx->data;
	__u32 word = 0;

	if ((void *)(out + 11) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	// Into the frame itself, as programs do with metadata.
	out[0] = bpf_rss_hash_toeplitz(out + 8, 12, key, sizeof(key));
	out[1] = bpf_rss_hash_crc(out + 8, 12, 7);
	out[2] = bpf_rss_hash_xor(out + 8, 12);
	if (bpf_xdp_metadata_rx_ptype(ctx, out + 3))
		out[3] = -1;
	if (bpf_xdp_metadata_rx_mark(ctx, out + 4))
		out[4] = -1;
	out[5] = bpf_xdp_metadata_rx_csum(ctx, &word) ? -1 : word;
	out[6] = bpf_xdp_metadata_rx_header_len(ctx, &word) ? -1 : word;
	out[7] = bpf_xdp_metadata_rx_extracted(ctx, &word) ? -1 : word;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
