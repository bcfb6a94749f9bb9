/* Chooses a TX queue by the UDP destination port: 7000 + n asks for queue n, 7900 has no opinion. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct seen {
	__u32 len, queue_mapping, protocol, ingress_ifindex, ifindex, hash, copied, cb;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct seen);
	__uint(max_entries, 1);
} seen SEC(".maps");

SEC("xps")
int choose(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u32 key = 0;
	__u16 copied = 0;
	struct seen *s = bpf_map_lookup_elem(&seen, &key);

	if ((void *)(udp + 1) > end)
		return -1;
	skb->cb[2] = 77;
	bpf_skb_load_bytes(skb, sizeof(struct ethhdr) + sizeof(struct iphdr) + 2, &copied, 2);
	if (s) {
		s->len = skb->len;
		s->queue_mapping = skb->queue_mapping;
		s->protocol = skb->protocol;
		s->ingress_ifindex = skb->ingress_ifindex;
		s->ifindex = skb->ifindex;
		s->hash = skb->hash == bpf_get_hash_recalc(skb);
		s->copied = bpf_ntohs(copied);
		s->cb = skb->cb[2];
	}
	if (udp->dest == bpf_htons(7900))
		return -1;
	return bpf_ntohs(udp->dest) - 7000;
}

char _license[] SEC("license") = "MIT";
