#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc/egress")
int whole_and_parts(struct __sk_buff *skb)
{
	volatile struct __sk_buff *s = skb;
	unsigned char *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	unsigned char copied[4] = {};

	if (s->cb[0] || s->cb[4])
		return -1;
	s->cb[0] = 11;
	*(volatile __u64 *)&s->cb[2] = 0x2200000021;
	*(volatile __u8 *)&s->cb[4] = 44;
	if (s->len != 1000 || s->mark != 0xaabbccdd || s->queue_mapping != 3)
		return -2;
	if (*(volatile __u8 *)&s->mark != 0xdd || *((volatile __u16 *)&s->mark + 1) != 0xaabb)
		return -3;
	if (s->ingress_ifindex != 2 || s->ifindex != 4 || s->hash != 0x12345678 || bpf_get_hash_recalc(skb) != s->hash)
		return -4;
	if (s->cb[0] != 11 || s->cb[2] != 0x21 || s->cb[3] != 0x22 || s->cb[4] != 44 || s->tstamp)
		return -5;
	if (data + 64 != end || data + 2 > end || data[1] != 9)
		return -6;
	if (bpf_skb_load_bytes(skb, 60, copied, 4) || copied[3] != 9)
		return -8;
	if (bpf_skb_load_bytes(skb, 61, copied, 4) != -14)
		return -9;
	s->mark = 1;
	return -7;
}

SEC("xdp")
int xdp_program(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "MIT";
