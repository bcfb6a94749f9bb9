// Longest-prefix match, maps of maps, ring buffers, perf events, prints.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct prefix {
	__u32 len;
	__u8 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} routes SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { [0] = &first, [2] = &second },
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} perf SEC(".maps");

SEC("xdp")
int events(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;

	if (data + 8 > end)
		return XDP_DROP;
	if (data[0] == 0) {
		struct prefix key = { .len = 32 };
		__builtin_memcpy(key.addr, data + 1, 4);
		__u32 *hop = bpf_map_lookup_elem(&routes, &key);
		return hop ? *hop : 100;
	}
	if (data[0] == 1) {
		__u32 which = data[1];
		void *map = bpf_map_lookup_elem(&outer, &which);
		if (!map)
			return 100;
		__u64 *value = bpf_map_lookup_elem(map, &zero);
		if (!value)
			return 101;
		*value += data[2];
		return XDP_TX;
	}
	if (data[0] == 2) {
		__u64 *record = bpf_ringbuf_reserve(&ring, 24, 0);
		if (!record)
			return 100;
		record[0] = data[1];
		record[1] = data[2];
		record[2] = bpf_ringbuf_query(&ring, BPF_RB_PROD_POS);
		if (data[3])
			bpf_ringbuf_discard(record, 0);
		else
			bpf_ringbuf_submit(record, 0);
		__u8 tail[3] = { data[1], data[2], data[3] };
		return bpf_ringbuf_output(&ring, tail, 3, 0) ? 101 : XDP_TX;
	}
	if (data[0] == 3) {
		__u64 flags = BPF_F_CURRENT_CPU | ((__u64)data[1] << 32);
		return -bpf_perf_event_output(ctx, &perf, flags, &zero, sizeof(zero));
	}
	if (data[0] == 4) {
		bpf_printk("frame of %d bytes, byte %x", (int)(end - data), data[1]);
		char word[4];
		__builtin_memcpy(word, data + 1, 4);
		return bpf_strncmp(word, 4, "abcd") == 0 ? XDP_TX : XDP_PASS;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
