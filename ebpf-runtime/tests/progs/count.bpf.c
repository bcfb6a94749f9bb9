// Counts frames by IP protocol in an array and by destination port in hash maps.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} protocols SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

struct port {
	__u16 port;
	__u16 pad;
};

struct counter {
	__u64 frames;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, struct port);
	__type(value, struct counter);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4);
	__type(key, struct port);
	__type(value, struct counter);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 8);
	__type(key, struct port);
	__type(value, struct counter);
} percpu SEC(".maps");

const volatile __u32 dropped_port = 9;
__u64 seen;
__u64 start = 100;

static __always_inline long count(void *map, struct port *key, __u64 bytes)
{
	struct counter *value = bpf_map_lookup_elem(map, key);
	if (value) {
		__sync_fetch_and_add(&value->frames, 1);
		__sync_fetch_and_add(&value->bytes, bytes);
		return 0;
	}
	struct counter fresh = { .frames = 1, .bytes = bytes };
	return bpf_map_update_elem(map, key, &fresh, BPF_NOEXIST);
}

SEC("xdp")
int count_frames(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 zero = 0;
	__u64 *total;

	__sync_fetch_and_add(&seen, 1);
	start++;
	total = bpf_map_lookup_elem(&totals, &zero);
	if (total)
		*total += 1;
	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	__u32 proto = ip->protocol;
	__u64 *n = bpf_map_lookup_elem(&protocols, &proto);
	if (n)
		__sync_fetch_and_add(n, 1);
	struct udphdr *udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	struct port key = { .port = bpf_ntohs(udp->dest) };
	if (count(&ports, &key, end - data))
		return XDP_ABORTED;
	count(&recent, &key, end - data);
	count(&percpu, &key, end - data);
	if (key.port == dropped_port)
		return XDP_DROP;
	return XDP_TX;
}

char _license[] SEC("license") = "MIT";
