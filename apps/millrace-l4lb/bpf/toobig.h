/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* "Does not fit": ICMP frag-needed (RFC 1191) and ICMPv6 packet-too-big (RFC 4443, 3.2), sent back by the program.
 * The source is the VIP, so that the answer takes the way that the client's flow takes. */
#pragma once

#define ICMP_DEST_UNREACH 3
#define ICMP_FRAG_NEEDED 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PACKET_TOO_BIG 2
#define ICMPV6_PARAMETER_PROBLEM 4

/* ICMP and ICMPv6 start alike; the second word of both answers holds the MTU, in ICMP in its low half. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 mtu;
};

#define QUOTE4 128	/* bytes of the packet that frag-needed carries; the longest header and eight bytes are 68 */
#define QUOTE6 1232	/* fills the minimum IPv6 MTU of 1280 */
#define ICMP_HEADER ((int)sizeof(struct icmp_header))
#define SECOND_NS 1000000000ULL
#define CSUM_CHUNK 512	/* bpf_csum_diff takes no more at once in older kernels */

static __always_inline int may_answer(const struct settings *set)
{
	__u64 second = bpf_ktime_get_ns() / SECOND_NS;
	__u32 zero = 0;
	struct budget *b = bpf_map_lookup_elem(&budgets, &zero);

	if (!b)
		return 0;
	if (b->second != second) {
		b->second = second;
		b->used = 0;
	}
	return b->used++ < set->icmp_per_second;
}

static __always_inline void swap_mac(struct ethhdr *eth, const struct ethhdr *old)
{
	__builtin_memcpy(eth->h_dest, old->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, old->h_dest, ETH_ALEN);
	eth->h_proto = old->h_proto;
}

static __always_inline int answer_v4(struct xdp_md *ctx, const struct packet *p, __u32 mtu)
{
	int frame = ctx->data_end - ctx->data;
	int want = ETH_HLEN + sizeof(struct iphdr) + ICMP_HEADER + QUOTE4;
	int grow = sizeof(struct iphdr) + ICMP_HEADER;
	struct ethhdr old, *eth;
	struct icmp_header *icmp;
	struct iphdr *ip;
	void *end;

	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	old = *eth;
	if (bpf_xdp_adjust_head(ctx, -grow))
		return -1;
	if (bpf_xdp_adjust_tail(ctx, want - (frame + grow)))
		return -1;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)icmp + ICMP_HEADER + QUOTE4 > end)
		return -1;
	swap_mac(eth, &old);
	*(__u16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(sizeof(*ip) + ICMP_HEADER + QUOTE4);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	__builtin_memcpy(&ip->saddr, p->key.dst, 4);
	__builtin_memcpy(&ip->daddr, p->key.src, 4);
	ip->check = ipv4_checksum(ip);
	icmp->type = ICMP_DEST_UNREACH;
	icmp->code = ICMP_FRAG_NEEDED;
	icmp->checksum = 0;
	icmp->mtu = bpf_htonl(mtu);
	icmp->checksum = fold(bpf_csum_diff(0, 0, (void *)icmp, ICMP_HEADER + QUOTE4, 0));
	return 0;
}

static __always_inline int answer_v6(struct xdp_md *ctx, const struct packet *p, __u32 mtu)
{
	int frame = ctx->data_end - ctx->data;
	int want = ETH_HLEN + sizeof(struct ipv6hdr) + ICMP_HEADER + QUOTE6;
	int grow = sizeof(struct ipv6hdr) + ICMP_HEADER;
	struct {
		__u8 src[16], dst[16];
		__be32 len, next;
	} pseudo = {};
	struct ethhdr old, *eth;
	struct icmp_header *icmp;
	struct ipv6hdr *ip;
	void *end, *at;
	__s64 sum;

	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	old = *eth;
	if (bpf_xdp_adjust_head(ctx, -grow))
		return -1;
	if (bpf_xdp_adjust_tail(ctx, want - (frame + grow)))
		return -1;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = (void *)(eth + 1);
	icmp = (void *)(ip + 1);
	if ((void *)icmp + ICMP_HEADER + QUOTE6 > end)
		return -1;
	swap_mac(eth, &old);
	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(ICMP_HEADER + QUOTE6);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, p->key.dst, 16);
	__builtin_memcpy(&ip->daddr, p->key.src, 16);
	icmp->type = ICMPV6_PACKET_TOO_BIG;
	icmp->code = 0;
	icmp->checksum = 0;
	icmp->mtu = bpf_htonl(mtu);

	__builtin_memcpy(pseudo.src, p->key.dst, 16);
	__builtin_memcpy(pseudo.dst, p->key.src, 16);
	pseudo.len = bpf_htonl(ICMP_HEADER + QUOTE6);
	pseudo.next = bpf_htonl(IPPROTO_ICMPV6);
	at = icmp;
	sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
	sum = bpf_csum_diff(0, 0, at, CSUM_CHUNK, sum);
	sum = bpf_csum_diff(0, 0, at + CSUM_CHUNK, CSUM_CHUNK, sum);
	sum = bpf_csum_diff(0, 0, at + 2 * CSUM_CHUNK, ICMP_HEADER + QUOTE6 - 2 * CSUM_CHUNK, sum);
	icmp->checksum = fold(sum);
	return 0;
}

/* Nobody is told about a packet whose source is not one host: RFC 1122, 3.2.2; RFC 4443, 2.4 (e). */
static __always_inline int source_is_a_host(const struct packet *p)
{
	if (p->key.family == FAMILY_V4)
		return p->key.src[0] != 0 && p->key.src[0] < 224;
	return p->key.src[0] != 0xff && *(__u64 *)p->key.src + *(__u64 *)(p->key.src + 8) != 0;
}

static __always_inline int too_big(struct xdp_md *ctx, const struct packet *p, const struct settings *set, __u32 mtu)
{
	int err;

	if (p->key.proto == IPPROTO_ICMP || p->key.proto == IPPROTO_ICMPV6 || !source_is_a_host(p) || !may_answer(set))
		return count(REASON_TOO_BIG_DROPPED, XDP_DROP);
	err = p->key.family == FAMILY_V4 ? answer_v4(ctx, p, mtu) : answer_v6(ctx, p, mtu);
	if (err)
		return count(REASON_TOO_BIG_DROPPED, XDP_DROP);
	return count(REASON_TOO_BIG_ANSWERED, XDP_TX);
}
