/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Values guarded by a spin lock, which a program holds while it changes two numbers that belong together. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct guarded {
	__u32 before;
	struct bpf_spin_lock lock;
	__u64 first;
	__u64 second;
	__u32 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct guarded);
} by_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct guarded);
} by_key SEC(".maps");

static __always_inline int raise(struct guarded *it)
{
	if (!it)
		return XDP_DROP;
	bpf_spin_lock(&it->lock);
	it->first++;
	it->second++;
	bpf_spin_unlock(&it->lock);
	return XDP_PASS;
}

SEC("xdp") int locked(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u32 key = 1;

	if (data + 16 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	return data[0] ? raise(bpf_map_lookup_elem(&by_key, &key)) : raise(bpf_map_lookup_elem(&by_index, &key));
}

char _license[] SEC("license") = "GPL";
