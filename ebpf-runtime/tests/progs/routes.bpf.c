// Asks bpf_fib_lookup and bpf_check_mtu what the map says, and puts the answers there.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct question {
	struct bpf_fib_lookup params;
	__u32 flags;
	__s32 answer;
	__u32 ifindex;
	__u32 mtu_len;
	__s32 len_diff;
	__s32 mtu_answer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct question);
} questions SEC(".maps");

SEC("xdp")
int ask(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct question *q = bpf_map_lookup_elem(&questions, &zero);

	if (!q)
		return XDP_ABORTED;
	struct bpf_fib_lookup params = q->params;
	__u32 mtu_len = q->mtu_len;

	q->answer = bpf_fib_lookup(ctx, &params, sizeof(params), q->flags);
	q->params = params;
	q->mtu_answer = bpf_check_mtu(ctx, q->ifindex, &mtu_len, q->len_diff, 0);
	q->mtu_len = mtu_len;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
