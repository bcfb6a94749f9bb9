/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Direct server return: the frame goes to the backend by MAC rewrite, or inside an outer IP header (RFC 2003, RFC 2473).
 * The client's datagram is not touched in either mode; its TTL is not decremented. */
#pragma once

#define OUTER_TTL 64

static __always_inline void write_mac(struct ethhdr *eth, const __u8 *ours, const struct target *t)
{
	__u64 link = t->link;

	__builtin_memcpy(eth->h_source, ours, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, &link, ETH_ALEN);
}

static __always_inline __u8 target_mode(const struct target *t)
{
	return t->link >> 48;
}

static __always_inline __u8 target_family(const struct target *t)
{
	return t->link >> 56;
}

static __always_inline __u32 overhead(const struct target *t)
{
	if (target_mode(t) != MODE_TUNNEL)
		return 0;
	return target_family(t) == FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u16 ipv4_checksum(const struct iphdr *ip)
{
	const __u16 *half = (const void *)ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	return fold(sum);
}

static __always_inline void outer_v4(struct iphdr *ip, const struct packet *p, const struct target *t,
				     const struct settings *set, __u64 hash)
{
	__u32 source, hashed;

	__builtin_memcpy(&source, set->source4, 4);
	__builtin_memcpy(&hashed, set->source4_hash, 4);
	*(__u16 *)ip = bpf_htons(0x4500 | p->traffic_class);
	ip->tot_len = bpf_htons(p->l3_len + sizeof(*ip));
	ip->id = 0;			/* never fragmented: RFC 6864, 4 */
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = OUTER_TTL;
	ip->protocol = p->key.family == FAMILY_V4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	ip->check = 0;
	ip->saddr = (source & ~hashed) | ((__u32)(hash >> 32) & hashed);
	__builtin_memcpy(&ip->daddr, t->addr, 4);
	ip->check = ipv4_checksum(ip);
}

static __always_inline void outer_v6(struct ipv6hdr *ip, const struct packet *p, const struct target *t,
				     const struct settings *set, __u64 hash)
{
	__u64 source[2], hashed[2];

	__builtin_memcpy(source, set->source6, 16);
	__builtin_memcpy(hashed, set->source6_hash, 16);
	/* The flow label spreads tunnels over equal paths: RFC 6438. */
	*(__be32 *)ip = bpf_htonl(0x60000000 | p->traffic_class << 20 | ((__u32)(hash >> 32) & 0xfffff));
	ip->payload_len = bpf_htons(p->l3_len);
	ip->nexthdr = p->key.family == FAMILY_V4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	ip->hop_limit = OUTER_TTL;
	source[0] = (source[0] & ~hashed[0]) | (hash & hashed[0]);
	source[1] = (source[1] & ~hashed[1]) | (mix(hash) & hashed[1]);
	__builtin_memcpy(&ip->saddr, source, 16);
	__builtin_memcpy(&ip->daddr, t->addr, 16);
}

static __always_inline int encapsulate(struct xdp_md *ctx, const struct packet *p, const struct target *t,
				       const struct settings *set, __u64 hash, const __u8 *ours)
{
	int v4 = target_family(t) == FAMILY_V4;
	int grow = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	struct ethhdr *eth;
	void *end;

	if (bpf_xdp_adjust_head(ctx, -grow))
		return count(REASON_ENCAP_FAILED, XDP_DROP);
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (v4) {
		if ((void *)(eth + 1) + sizeof(struct iphdr) > end)
			return count(REASON_ENCAP_FAILED, XDP_DROP);
		eth->h_proto = bpf_htons(ETH_P_IP);
		outer_v4((void *)(eth + 1), p, t, set, hash);
	} else {
		if ((void *)(eth + 1) + sizeof(struct ipv6hdr) > end)
			return count(REASON_ENCAP_FAILED, XDP_DROP);
		eth->h_proto = bpf_htons(ETH_P_IPV6);
		outer_v6((void *)(eth + 1), p, t, set, hash);
	}
	write_mac(eth, ours, t);
	return XDP_TX;
}

static __always_inline int rewrite_mac(struct xdp_md *ctx, const struct target *t, const __u8 *ours)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return count(REASON_MALFORMED, XDP_DROP);
	write_mac(eth, ours, t);
	return XDP_TX;
}
