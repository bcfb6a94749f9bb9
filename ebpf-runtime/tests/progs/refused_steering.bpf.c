/* Steering programs that touch their context where they may not. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc/bad1")
int beyond_a_field(struct __sk_buff *skb)
{
	return *(volatile __u64 *)&skb->len;
}

SEC("tc/bad2")
int between_fields(struct __sk_buff *skb)
{
	return *(volatile __u16 *)((char *)skb + 77);
}

SEC("tc/bad3")
int leaks_a_pointer(struct __sk_buff *skb)
{
	*(volatile __u64 *)&skb->cb[0] = (unsigned long)skb;
	return 0;
}

SEC("tc/bad4")
int writes_what_is_not_its_own(struct __sk_buff *skb)
{
	*(volatile __u32 *)&skb->ifindex = 3;
	return 0;
}

char _license[] SEC("license") = "MIT";
