/* Does to frames of several buffers what the UDP source port says, and sends them back. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("xdp.frags")
int frags(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u64 len = bpf_xdp_get_buff_len(ctx);
	char mark[200], back[200] = {};
	long error = 0;

	if ((void *)(udp + 1) > end)
		return XDP_DROP;
	switch (bpf_ntohs(udp->source)) {
	case 1:
		/* Across the border of the first and the second buffer, wherever that lies between 1000 and 3000. */
		__builtin_memset(mark, 'M', sizeof(mark));
		for (int at = 1000; at < 3000; at += 200) {
			error |= bpf_xdp_store_bytes(ctx, at, mark, 200);
			error |= bpf_xdp_load_bytes(ctx, at, back, 200);
			error |= back[0] != 'M' || back[199] != 'M';
		}
		break;
	case 2:
		error = bpf_xdp_adjust_tail(ctx, -1000);
		error |= bpf_xdp_get_buff_len(ctx) != len - 1000;
		break;
	case 3:
		error = bpf_xdp_adjust_tail(ctx, 16);
		break;
	case 4:
		error = bpf_xdp_adjust_tail(ctx, 100 - (int)len);
		break;
	case 5:
		/* Beyond the end, and more than there is. */
		error = bpf_xdp_load_bytes(ctx, len - 3, back, 4) != -22;
		error |= bpf_xdp_adjust_tail(ctx, -(int)len) != -22;
		error |= bpf_xdp_adjust_tail(ctx, 30000) != -22;
		break;
	}
	return error ? XDP_DROP : XDP_TX;
}

char _license[] SEC("license") = "MIT";
