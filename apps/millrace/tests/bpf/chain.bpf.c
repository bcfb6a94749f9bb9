/* Programs for chains, each with libxdp's metadata or none, that count and say what they are told to. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define XDP_RUN_CONFIG(f) _CONCAT(_, f) SEC(".xdp_run_config")
#define _CONCAT(a, b) a##b

const volatile __u32 says_first = XDP_PASS, says_second = XDP_PASS, says_plain = XDP_DROP;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 4);
} order SEC(".maps");

/* Slot n counts runs of program n; slot 3 notes runs in the wrong order. */
static __always_inline void ran(__u32 n, __u32 before)
{
	__u64 *mine = bpf_map_lookup_elem(&order, &n), *other = bpf_map_lookup_elem(&order, &before);
	__u32 wrong = 3;

	if (!mine)
		return;
	*mine += 1;
	if (before != n && other && *other < *mine) {
		__u64 *count = bpf_map_lookup_elem(&order, &wrong);

		if (count)
			*count += 1;
	}
}

struct {
	__uint(priority, 20);
	__uint(XDP_PASS, 1);
	__uint(XDP_DROP, 1);
} XDP_RUN_CONFIG(second);

struct {
	__uint(priority, 10);
	__uint(XDP_PASS, 0);
	__uint(XDP_TX, 1);
} XDP_RUN_CONFIG(first);

SEC("xdp")
int second(struct xdp_md *ctx)
{
	(void)ctx;
	ran(1, 0);
	return says_second;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	(void)ctx;
	ran(0, 0);
	return says_first;
}

SEC("xdp")
int plain(struct xdp_md *ctx)
{
	(void)ctx;
	ran(2, 1);
	return says_plain;
}

char _license[] SEC("license") = "MIT";
