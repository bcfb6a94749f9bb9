/* Steering programs in sections whose names say nothing. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("mystery")
int by_hash(struct __sk_buff *skb)
{
	return skb->hash & 1;
}

SEC("mystery/2")
int scribbles(struct __sk_buff *skb)
{
	unsigned char *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + 1 > end)
		return -1;
	data[0] = 0;
	return 0;
}

char _license[] SEC("license") = "MIT";
