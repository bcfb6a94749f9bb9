/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What a lookup in a map of redirect targets gives: the frame's first byte is the key, the second chooses the map. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} hashed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("xdp") int targets(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	struct bpf_devmap_val *device;
	struct bpf_xdp_sock *socket;
	__u32 key;

	if (data + 16 > (__u8 *)(long)ctx->data_end)
		return XDP_DROP;
	key = data[0];
	if (data[1] == 2) {
		socket = bpf_map_lookup_elem(&sockets, &key);
		if (!socket)
			return XDP_PASS;
		key = socket->queue_id;
		/* The kernel wants a load of its own for this pointer, not one shared with the other maps. */
		asm volatile("" : "+r"(key));
		*(__u32 *)(data + 4) = key;
		return XDP_TX;
	}
	if (data[1] == 1)
		device = bpf_map_lookup_elem(&hashed, &key);
	else
		device = bpf_map_lookup_elem(&devices, &key);
	if (!device)
		return XDP_PASS;
	*(__u32 *)(data + 4) = device->ifindex;
	*(__u32 *)(data + 8) = device->bpf_prog.id;
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
