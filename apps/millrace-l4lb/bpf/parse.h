/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* From bytes to a flow key. Nothing here decides where a packet goes. */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define PARSE_OK 0
#define PARSE_SHORT (-1)	/* the frame ends inside a header, or lengths contradict each other */

#define IPV6_EXTENSIONS 6	/* as many extension headers are followed */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct flow_key key;	/* ports are zero for a fragment and for ICMP */
	__u32 l3_len;		/* total length that the IP header claims */
	__u32 l4_off;		/* from the start of what was parsed */
	__u8 fragment;
	__u8 traffic_class;	/* TOS or traffic class */
	__u8 tcp_flags;
};

/* Extension headers of which the first two bytes are (next header, length in 8 octets beyond the first): RFC 8200, 4. */
static __always_inline int is_plain_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_DSTOPTS || proto == IPPROTO_ROUTING;
}

static __always_inline int parse_v4(struct packet *p, void *l3, void *end)
{
	struct iphdr *ip = l3;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return PARSE_SHORT;
	p->l4_off = ip->ihl * 4;
	p->l3_len = bpf_ntohs(ip->tot_len);
	if (p->l3_len < p->l4_off)
		return PARSE_SHORT;
	/* More Fragments or an offset: RFC 791, 3.1 */
	p->fragment = (ip->frag_off & bpf_htons(0x3fff)) != 0;
	p->traffic_class = ip->tos;
	p->key.family = FAMILY_V4;
	p->key.proto = ip->protocol;
	__builtin_memcpy(p->key.src, &ip->saddr, 4);
	__builtin_memcpy(p->key.dst, &ip->daddr, 4);
	return PARSE_OK;
}

static __always_inline int parse_v6(struct packet *p, void *l3, void *end)
{
	struct ipv6hdr *ip = l3;
	__u32 off = sizeof(*ip);
	__u8 proto;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return PARSE_SHORT;
	p->l3_len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	p->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	p->key.family = FAMILY_V6;
	__builtin_memcpy(p->key.src, &ip->saddr, 16);
	__builtin_memcpy(p->key.dst, &ip->daddr, 16);

	proto = ip->nexthdr;
#pragma unroll
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		__u8 *ext = l3 + off;

		if (proto == IPPROTO_FRAGMENT) {
			if ((void *)(ext + 8) > end)
				return PARSE_SHORT;
			/* Offset 0 and no more to come is a whole packet: RFC 6946. */
			off += 8;
			if (ext[2] || (ext[3] & 0xf9)) {
				/* What follows a later fragment's header is payload, so look no further in any of them. */
				p->fragment = 1;
				proto = ext[0];
				break;
			}
		} else if (is_plain_extension(proto)) {
			if ((void *)(ext + 8) > end)
				return PARSE_SHORT;
			off += 8 + ext[1] * 8;
		} else {
			break;
		}
		proto = ext[0];
	}
	p->key.proto = proto;
	p->l4_off = off;
	return PARSE_OK;
}

/* Ports, and TCP flags when `flags` (an ICMP error quotes only eight bytes of them). */
static __always_inline int parse_ports(struct packet *p, void *l3, void *end, int flags)
{
	__u8 *l4 = l3 + p->l4_off;

	if (p->fragment)
		return PARSE_OK;
	if ((void *)(l4 + 8) > end)
		return PARSE_SHORT;
	__builtin_memcpy(&p->key.sport, l4, 2);
	__builtin_memcpy(&p->key.dport, l4 + 2, 2);
	if (flags && p->key.proto == IPPROTO_TCP) {
		if ((void *)(l4 + 20) > end)
			return PARSE_SHORT;
		p->tcp_flags = l4[13];
	}
	return PARSE_OK;
}

/* splitmix64's finisher over the five words of the key: no bit of a tuple is without influence on the slot. */
static __always_inline __u64 mix(__u64 x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static __always_inline __u64 flow_hash(const struct flow_key *key, __u64 seed)
{
	const __u64 *word = (const void *)key;
	__u64 h = seed;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(*key) / 8); i++) {
		h = (h ^ word[i]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 32;
	}
	return mix(h);
}
