/* Counts frames by flow and by packet type out of what the NIC said about them, without parsing any, and drops them.
 *
 *     clang -O2 -g -target bpf -I ebpf-runtime/include -c apps/millrace/examples/meta.bpf.c -o meta.bpf.o
 *     millrace prog verify meta.bpf.o --hints ixgbe
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <millrace_meta.h>

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u32); /* RSS hash; 0: not hashed */
	__type(value, __u64);
	__uint(max_entries, 65536);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* as the family numbers packet types */
	__type(value, __u64);
	__uint(max_entries, 8192);
} types SEC(".maps");

static __always_inline void count(void *map, __u32 key)
{
	__u64 one = 1, *frames = bpf_map_lookup_elem(map, &key);

	if (frames)
		__sync_fetch_and_add(frames, 1);
	else
		bpf_map_update_elem(map, &key, &one, BPF_ANY);
}

SEC("xdp")
int meta(struct xdp_md *ctx)
{
	struct millrace_rx_meta *m = millrace_meta_of(ctx);

	if (!m)
		return XDP_PASS;
	if (millrace_has(m, rx_hash))
		count(&flows, m->rx_hash);
	if (millrace_has(m, packet_type))
		count(&types, m->packet_type);
	return XDP_DROP;
}

char _license[] SEC("license") = "MIT";
