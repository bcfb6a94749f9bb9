// Redirects of every kind.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} devs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 8);
} devs_by_key SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} socks SEC(".maps");

SEC("xdp")
int redirects(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;

	if (data + 3 > end)
		return XDP_DROP;
	switch (data[0]) {
	case 0:
		return bpf_redirect(data[1], data[2]);
	case 1:
		return bpf_redirect_map(&devs, data[1], data[2]);
	case 2:
		return bpf_redirect_map(&devs_by_key, data[1], data[2]);
	case 3:
		return bpf_redirect_map(&cpus, data[1], data[2]);
	case 4:
		return bpf_redirect_map(&socks, data[1], data[2]);
	case 5:
		return bpf_redirect_map(&socks, ctx->rx_queue_index, XDP_PASS);
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "MIT";
