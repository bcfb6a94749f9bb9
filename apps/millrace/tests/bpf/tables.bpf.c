/* Counts in the map that an outer map names, in one that is pinned by name, and tells of some packets. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, 2);
	__array(values, struct inner);
} outer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 4096);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} perf SEC(".maps");

SEC("xdp")
int tables(struct xdp_md *ctx)
{
	__u32 key = 0;
	void *inner = bpf_map_lookup_elem(&outer, &key);
	__u64 one = 1, *count = bpf_map_lookup_elem(&shared, &key);

	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&shared, &key, &one, BPF_ANY);
	if (inner) {
		__u64 *n = bpf_map_lookup_elem(inner, &key);

		if (n)
			*n += 1;
	}
	one = 0x1122334455667788;
	bpf_ringbuf_output(&events, &one, sizeof(one), 0);
	bpf_perf_event_output(ctx, &perf, BPF_F_CURRENT_CPU, &one, sizeof(one));
	bpf_printk("tables: queue %d of %d", ctx->rx_queue_index, ctx->ingress_ifindex);
	return XDP_DROP;
}

char _license[] SEC("license") = "MIT";
