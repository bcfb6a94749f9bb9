// Functions, callbacks and tail calls.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_map;
int tail_target(struct xdp_md *ctx);
int tail_again(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__array(values, int(void *));
} jumps SEC(".maps") = {
	.values = {
		[1] = (void *)&tail_target,
		[2] = (void *)&tail_again,
	},
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

static void note(__u32 index, __u64 value)
{
	bpf_map_update_elem(&results, &index, &value, BPF_ANY);
}

// The stack of a caller must survive its callee.
static __attribute__((noinline)) __u64 sum(__u32 depth, __u64 seed)
{
	volatile __u64 pad[8];

	for (int i = 0; i < 8; i++)
		pad[i] = seed * (i + depth);
	__u64 total = 0;
	for (int i = 0; i < 8; i++)
		total += pad[i];
	return total;
}

__attribute__((noinline)) int twice(__u32 a, __u32 b)
{
	volatile __u64 keep = a;
	__u64 one = sum(1, a);
	__u64 two = sum(2, b);

	return one * 3 + two + keep;
}

#ifndef WITHOUT_CALLBACKS
static int each_turn(__u32 index, void *ctx)
{
	__u64 *total = ctx;

	*total += index * index;
	return index == 40;
}

static long each_entry(struct bpf_map *map, __u32 *key, __u64 *value, void *ctx)
{
	__u64 *total = ctx;

	*total += *key * 1000 + *value;
	*value += 1;
	return 0;
}
#endif

SEC("xdp")
int calls(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;
	__u64 total = 0;

	(void)total;
	if (data + 4 > end)
		return XDP_DROP;
	switch (data[0]) {
	case 0:
		note(0, twice(data[1], data[2]));
		break;
#ifndef WITHOUT_CALLBACKS
	case 1:
		note(1, bpf_loop(data[1], each_turn, &total, 0));
		note(2, total);
		break;
	case 2:
		for (__u32 i = 0; i < 5; i++) {
			__u64 value = i * data[1];
			bpf_map_update_elem(&table, &i, &value, BPF_ANY);
		}
		note(3, bpf_for_each_map_elem(&table, each_entry, &total, 0));
		note(4, total);
		total = 0;
		note(5, bpf_for_each_map_elem(&results, each_entry, &total, 0));
		note(6, total);
		break;
#endif
	case 3:
		bpf_tail_call(ctx, &jumps, data[1]);
		return XDP_PASS;
	}
	return XDP_TX;
}

SEC("xdp")
int tail_target(struct xdp_md *ctx)
{
	note(7, ctx->data_end - ctx->data);
	return XDP_DROP;
}

SEC("xdp")
int tail_again(struct xdp_md *ctx)
{
	__u32 seven = 7;
	__u64 *n = bpf_map_lookup_elem(&results, &seven);

	if (n)
		*n += 1;
	bpf_tail_call(ctx, &jumps, 2);
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
