// Arithmetic of every kind on the words of a frame.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32);
	__type(key, __u32);
	__type(value, __u64);
} results SEC(".maps");

static __always_inline void note(__u32 index, __u64 value)
{
	bpf_map_update_elem(&results, &index, &value, BPF_ANY);
}

SEC("xdp")
int arith(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u64 *w = data;

	if (data + 32 > end)
		return XDP_DROP;
	__u64 a = w[0], b = w[1];
	__u32 c = w[2], d = w[3];

	note(0, a + b);
	note(1, a - b);
	note(2, a * b);
	note(3, b ? a / b : 0);
	note(4, b ? a % b : a);
	note(5, c + d);
	note(6, d ? c / d : 0);
	note(7, d ? c % d : c);
	note(8, a << (b & 63));
	note(9, a >> (b & 63));
	note(10, (__s64)a >> (b & 63));
	note(11, c << (d & 31));
	note(12, (__s32)c >> (d & 31));
	note(13, __builtin_bswap64(a));
	note(14, __builtin_bswap32(c));
	note(15, __builtin_bswap16(c));
	note(16, (__s64)(__s8)a);
	note(17, (__s64)(__s16)a);
	note(18, (__s64)(__s32)a);
	note(19, (__s32)(__s8)c);
#if __BPF_CPU_VERSION__ >= 4
	if (b)
		note(20, (__s64)a / (__s64)b);
	if (b)
		note(21, (__s64)a % (__s64)b);
	if (d)
		note(22, (__s32)c / (__s32)d);
	if (d)
		note(23, (__s32)c % (__s32)d);
	note(24, *(__s8 *)(data + 3));
	note(25, *(__s16 *)(data + 6));
	note(26, *(__s32 *)(data + 4));
#endif
	note(27, ((__s64)a > (__s64)b) | (a > b) << 1 | ((__s32)c > (__s32)d) << 2 | (c > d) << 3 |
			 ((__s64)a <= (__s64)b) << 4 | (c <= d) << 5 | ((a & b) != 0) << 6);
	note(28, -a);
	note(29, -c);
	__u32 slot = 30;
	__u64 *shared = bpf_map_lookup_elem(&results, &slot);
	if (shared) {
		__sync_fetch_and_add(shared, a);
#if __BPF_CPU_VERSION__ >= 3
		note(31, __sync_fetch_and_or(shared, b) ^ __sync_fetch_and_and(shared, c) ^
				 __sync_fetch_and_xor(shared, d) ^ __sync_lock_test_and_set(shared, b) ^
				 __sync_val_compare_and_swap(shared, b, a) ^
				 __sync_fetch_and_add((__u32 *)shared, c));
#endif
	}
	return XDP_TX;
}

char _license[] SEC("license") = "MIT";
