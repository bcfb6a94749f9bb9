// Moves the edges of a frame and copies parts of it; what it does is chosen by the first byte.
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __s64);
} results SEC(".maps");

static __always_inline void note(__u32 index, __s64 value)
{
	bpf_map_update_elem(&results, &index, &value, BPF_ANY);
}

SEC("xdp")
int edges(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u8 copy[16] = {};
	__u32 words[4];

	if (data + 2 > end)
		return XDP_DROP;
	__s32 by = (__s8)data[1];

	switch (data[0]) {
	case 0:
		note(0, bpf_xdp_adjust_head(ctx, by));
		break;
	case 1:
		note(1, bpf_xdp_adjust_tail(ctx, by));
		break;
	case 2:
		note(2, bpf_xdp_adjust_meta(ctx, by));
		__u32 *meta = (void *)(long)ctx->data_meta;
		if ((void *)(meta + 1) <= (void *)(long)ctx->data)
			*meta = 0x11223344;
		bpf_xdp_adjust_head(ctx, -4);
		meta = (void *)(long)ctx->data_meta;
		if ((void *)(meta + 1) <= (void *)(long)ctx->data)
			note(3, *meta);
		break;
	case 3:
		note(0, bpf_xdp_load_bytes(ctx, by & 127, copy, sizeof(copy)));
		note(1, bpf_xdp_store_bytes(ctx, 2, copy, sizeof(copy)));
		break;
	case 4:
		if (bpf_xdp_load_bytes(ctx, 2, words, sizeof(words)))
			return XDP_ABORTED;
		note(0, bpf_csum_diff(0, 0, words, 16, by));
		note(1, bpf_csum_diff(words, 16, 0, 0, 0));
		note(2, bpf_csum_diff(words, 8, words + 2, 8, 7));
		break;
	case 5:
		note(0, bpf_xdp_get_buff_len(ctx));
		return by;
	default:
		return XDP_PASS;
	}
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
